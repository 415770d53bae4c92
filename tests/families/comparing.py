"""A network with random weights that answers like a trained one, and two sets of results side by side."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

import edgevision
from edgevision.bundle import write_bundle
from edgevision.export import ExportConfig, prepare
from edgevision.manifest import GraphInfo, Manifest
from edgevision.results import Detections
from edgevision.synthetic.aerial import AerialScene

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""What nearly every package trained with torch subtracts and divides by."""


class Boxes(NamedTuple):
    """What a package reports for one picture: corners in its pixels, confidence, class from 0."""

    xyxy: NDArray[np.float32]
    confidence: NDArray[np.float32]
    class_id: NDArray[np.int64]


def pictures(seed: int, wh: tuple[int, int]) -> list[NDArray[np.uint8]]:
    """BGR pictures: one of the synthetic camera, one of noise."""
    noise = np.random.default_rng(seed).integers(0, 256, (wh[1], wh[0], 3)).astype(np.uint8)
    return [AerialScene(seed, wh).render(90).image, noise]


def tensor(picture: NDArray[np.uint8], mean: Sequence[float] = (0, 0, 0), std: Sequence[float] = (1, 1, 1)) -> Any:
    """A picture as torch's packages take it: RGB in 0..1, then mean and standard deviation; [1, 3, h, w]."""
    import torch

    rgb = np.ascontiguousarray(picture[..., ::-1].transpose(2, 0, 1))
    values = torch.from_numpy(rgb).float() / 255
    return ((values - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1))[None]


def enliven(network: Any, feed: Any, spread: Mapping[Any, tuple[float, float]] | None = None) -> None:
    """Make a network with random weights answer in the range of a trained one.

    Args:
        network: torch module; left in evaluation mode.
        feed: a function that runs it on pictures.
        spread: last layers (convolution or linear) -> mean and standard deviation that their outputs shall have.
    """
    import torch

    network.eval()
    for norm in (m for m in network.modules() if isinstance(m, torch.nn.modules.batchnorm._BatchNorm)):
        norm.reset_running_stats()
        norm.momentum = None
        norm.train()
    with torch.no_grad():
        feed()
        network.eval()
        for layer in spread or {}:
            if not layer.weight.any():
                torch.nn.init.xavier_normal_(layer.weight)
        seen: dict[Any, list[Any]] = {layer: [] for layer in spread or {}}
        hooks = [layer.register_forward_hook(lambda at, _, out: seen[at].append(out.flatten())) for layer in seen]
        feed()
        for hook in hooks:
            hook.remove()
        for layer, (mean, std) in (spread or {}).items():
            if not seen[layer]:
                continue  # only trained with
            now = torch.cat(seen[layer])
            layer.weight *= std / now.std()
            layer.bias *= std / now.std()
            layer.bias += mean - now.mean() * std / now.std()


def to_onnx(network: Any, arguments: Any, path: Path, names: Sequence[str] = ("image",), **options: Any) -> Path:
    """Write the graph as torch.onnx does: the tracing exporter unless `dynamo` is among the options."""
    import torch

    settings = {"dynamo": False, "opset_version": 18, "input_names": list(names), **options}
    with torch.no_grad():
        torch.onnx.export(network, arguments, str(path), **settings)
    return path


def bundle(path: Path, *, multi_label: bool | None = None, **flags: Any) -> Path:
    """The float graph alone as `edgevision export` writes it, with nothing but `flags`; not verified, for speed.

    Args:
        path: of the graph.
        multi_label: whether a box is reported under each class, where the package does not do as the family does here.
        flags: of ExportConfig.
    """
    prepared = prepare(path, ExportConfig(precision="fp32", quiet=True, **flags))
    nms = prepared.nms
    if nms is not None and multi_label is not None:
        nms = dataclasses.replace(nms, multi_label=multi_label)
    manifest = Manifest(
        name=prepared.name,
        task=prepared.task,
        family=prepared.family,
        precision="fp32",
        labels=prepared.labels or tuple(map(str, range(prepared.classes))),
        preprocess=prepared.preprocess,
        graphs={"model.onnx": GraphInfo("fp32")},
        nms=nms,
        source_sha256=prepared.source_sha256,
        producer="tests",
    )
    output = path.with_suffix(".edge")
    write_bundle(output, manifest, {"model.onnx": prepared.graph.serialize()})
    return output


def load(path: Path, **settings: Any) -> edgevision.Model:
    return edgevision.load(path, backend="cpu", threads=1, **settings)


def assert_same_boxes(
    ours: Detections,
    theirs: Boxes,
    *,
    threshold: float,
    pixels: float = 0.1,
    score: float = 1e-3,
    least: int = 5,
    flips: int = 0,
) -> None:
    """Every box of one is a box of the other: same class, corners and score; those at the threshold may differ.

    Args:
        ours, theirs: results for the same picture.
        threshold: least score that both report.
        pixels, score: how far corners and scores may lie apart.
        least: boxes that there must be, or nothing is shown.
        flips: boxes that may be on one side only, where a suppression's overlap is rounded.
    """
    assert len(theirs.xyxy) >= least, f"only {len(theirs.xyxy)} boxes to compare"
    free = np.ones(len(ours), bool)
    lost = []
    for box, confidence, class_id in zip(*theirs, strict=True):
        fits = free & (ours.class_id == class_id) & (np.abs(ours.confidence - confidence) <= score)
        fits &= np.abs(ours.xyxy - box).max(axis=1) <= pixels
        if fits.any():
            free[np.flatnonzero(fits)[0]] = False
        elif confidence > threshold + score:
            lost.append((class_id, confidence, box))
    extra = np.flatnonzero(free & (ours.confidence > threshold + score))
    invented = [(ours.class_id[i], ours.confidence[i], ours.xyxy[i]) for i in extra]
    counts = f"{len(theirs.xyxy)} boxes of theirs, {len(ours)} of ours"
    assert len(lost) <= flips, (
        f"{counts}; {len(lost)} of theirs are not ours, such as {lost[:3]}; ours alone: {invented[:3]}"
    )
    assert len(invented) <= flips, f"{counts}; {len(invented)} of ours are not theirs, such as {invented[:3]}"
