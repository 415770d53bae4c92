"""What the networks are trained to minimise, and which priors answer for which object."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from detector import decode

CANDIDATES = 12  # priors looked at for each object
LEAST_IOU = 0.2  # a prior further off than this never answers for an object, unless it is the nearest one


def box_iou(a: Tensor, b: Tensor) -> Tensor:
    """IoU of xyxy boxes, element by element with broadcasting: (…, 4) x (…, 4) -> (…)."""
    overlap = (torch.minimum(a[..., 2:], b[..., 2:]) - torch.maximum(a[..., :2], b[..., :2])).clamp(min=0).prod(-1)
    areas = (a[..., 2:] - a[..., :2]).prod(-1) + (b[..., 2:] - b[..., :2]).prod(-1)
    return overlap / (areas - overlap).clamp(min=1e-9)


def assign(boxes: Tensor, priors: Tensor) -> tuple[Tensor, Tensor]:
    """The priors that answer for `boxes` (k, 4 xyxy): their indices (m,) and the box each answers for (m,).

    Each object takes as many of its best priors as the sum of their IoUs says (the static form of SimOTA's
    dynamic k, arXiv 2107.08430): small objects, which no prior fits well, still get one or two.
    """
    corners = torch.cat([priors[:, :2] - priors[:, 2:] / 2, priors[:, :2] + priors[:, 2:] / 2], dim=1)
    iou = box_iou(boxes[:, None], corners[None])  # (k, n)
    best, index = iou.topk(CANDIDATES, dim=1)
    wanted = best.sum(dim=1, keepdim=True).round().clamp(min=1)
    rank = torch.arange(CANDIDATES)[None]
    taken = (rank == 0) | ((rank < wanted) & (best >= LEAST_IOU))
    matched = torch.zeros_like(iou).scatter_(1, index, (best + 1e-6) * taken)
    owner_iou, owner = matched.max(dim=0)
    chosen = owner_iou.nonzero()[:, 0]
    return chosen, owner[chosen]


def detection_loss(
    scores: Tensor, offsets: Tensor, priors: Tensor, boxes: list[Tensor], class_ids: list[Tensor]
) -> tuple[Tensor, Tensor]:
    """Quality focal loss on the class logits and GIoU loss on the boxes (arXiv 2006.04388, 1902.09630).

    scores (b, n, c), offsets (b, n, 4), priors (n, 4); boxes and class_ids hold one (k, 4) and (k,) per image.
    The wanted score of a prior is the IoU that its own box reaches, so scores rank boxes by how good they are.
    """
    images, rows, owners_xyxy, owners_class = [], [], [], []
    for index, (xyxy, ids) in enumerate(zip(boxes, class_ids, strict=True)):
        if len(xyxy) == 0:
            continue
        chosen, owner = assign(xyxy, priors)
        images.append(torch.full_like(chosen, index))
        rows.append(chosen)
        owners_xyxy.append(xyxy[owner])
        owners_class.append(ids[owner])
    target = torch.zeros_like(scores)
    if not images:
        return _quality_focal(scores, target).sum(), offsets.sum() * 0
    image, row = torch.cat(images), torch.cat(rows)
    wanted, class_id = torch.cat(owners_xyxy), torch.cat(owners_class)
    predicted = decode(offsets[image, row], priors[row])
    quality = box_iou(predicted, wanted).detach()
    target[image, row, class_id] = quality
    count = max(len(row), 1)
    # Better boxes weigh more; the floor keeps priors in play whose box is still poor.
    weight = quality.clamp(min=0.3)
    return (
        _quality_focal(scores, target).sum() / count,
        ((1 - _giou(predicted, wanted)) * weight).sum() / weight.sum(),
    )


def _quality_focal(scores: Tensor, target: Tensor) -> Tensor:
    cross_entropy = F.binary_cross_entropy_with_logits(scores, target, reduction="none")
    return cross_entropy * (scores.sigmoid() - target).square()


def _giou(a: Tensor, b: Tensor) -> Tensor:
    iou = box_iou(a, b)
    hull = (torch.maximum(a[..., 2:], b[..., 2:]) - torch.minimum(a[..., :2], b[..., :2])).clamp(min=0).prod(-1)
    areas = (a[..., 2:] - a[..., :2]).prod(-1) + (b[..., 2:] - b[..., :2]).prod(-1)
    union = areas / (1 + iou)  # areas = union + overlap, overlap = iou * union
    return iou - (hull - union) / hull.clamp(min=1e-9)


def segmentation_loss(logits: Tensor, class_maps: Tensor, class_weights: Tensor) -> Tensor:
    """Weighted cross entropy plus soft Dice (arXiv 1606.04797) over the whole batch.

    logits (b, c, h, w), class_maps (b, h, w) int64, class_weights (c,). Cross entropy alone gives up the
    smallest classes; Dice counts each class alike, as mIoU does.
    """
    cross_entropy = F.cross_entropy(logits, class_maps, weight=class_weights)
    probabilities = logits.softmax(dim=1)
    wanted = F.one_hot(class_maps, logits.shape[1]).permute(0, 3, 1, 2).to(probabilities.dtype)
    overlap = (probabilities * wanted).sum(dim=(0, 2, 3))
    total = probabilities.sum(dim=(0, 2, 3)) + wanted.sum(dim=(0, 2, 3))
    return cross_entropy + (1 - (2 * overlap + 1) / (total + 1)).mean()
