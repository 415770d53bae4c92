"""Ultralytics as a tool: python ultralytics_reference.py FOLDER SEED CASE..., run in its own environment.

For each case, a network with random weights: its graph (CASE.onnx, as `yolo export` writes it) and what
`yolo predict` finds in the pictures of FOLDER/pictures.npy (CASE.npz). Ultralytics is under the AGPL: this script
shares no process with edgevision and its tests, which read the files that it leaves.

A case is MODEL[@OPTION], where the options are those of the export: `yolov8n@nms`, `yolo26n@end2end=False`.
"""

from __future__ import annotations

import sys
import traceback
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from cuda_stubs import load_operators
from ultralytics import RTDETR, YOLO

CONFIDENCE, IOU = 0.25, 0.7


def enliven(network: Any, x: torch.Tensor) -> None:
    """Let random weights answer in the range of trained ones."""
    norms = [m for m in network.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    network.eval()
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None
        norm.train()
    with torch.no_grad():
        network(x)
        network.eval()
        seen: dict[Any, list[torch.Tensor]] = {layer: [] for layer in last_layers(network.model[-1])}
        spread = last_layers(network.model[-1])
        hooks = [layer.register_forward_hook(lambda at, _, out: seen[at].append(out.flatten())) for layer in seen]
        network(x)
        for hook in hooks:
            hook.remove()
        for layer, (mean, std) in spread.items():
            if seen[layer]:
                now = torch.cat(seen[layer])
                layer.weight *= std / now.std()
                layer.bias *= std / now.std()
                layer.bias += mean - now.mean() * std / now.std()


def last_layers(head: Any) -> dict[Any, tuple[float, float]]:
    """The head's last layers, with the mean and the standard deviation that they shall give."""
    distances = (2.0, 0.7) if getattr(head, "reg_max", 16) == 1 else (0.0, 2.0)
    wanted = {
        "cv2": distances,
        "cv3": (-2.5 if getattr(head, "nc", 2) > 1 else -0.5, 1.5),
        "cv4": (0.0, 1.0),
        "cv5": (0.0, 1.0),
    }
    wanted |= {f"one2one_{name}": value for name, value in wanted.items()}
    wanted |= {"dec_score_head": (-1.0, 2.0), "enc_score_head": (-1.0, 2.0), "linear": (0.0, 2.0)}
    found = {}
    for name, value in wanted.items():
        part = getattr(head, name, None)
        for branch in part if isinstance(part, torch.nn.ModuleList) else [part] if part is not None else []:
            layers = [m for m in branch.modules() if isinstance(m, (torch.nn.Conv2d, torch.nn.Linear))]
            if layers[-1].bias is not None:
                found[layers[-1]] = value
    return found


def reference(folder: Path, seed: int, case: str, pictures: np.ndarray) -> None:
    name, _, given = case.partition("@")
    options = {key: value != "False" for key, _, value in (entry.partition("=") for entry in given.split("+") if entry)}
    torch.manual_seed(seed)
    model = (RTDETR if name.startswith("rtdetr") else YOLO)(f"{name}.yaml")
    size = pictures.shape[1:3]
    x = torch.from_numpy(np.ascontiguousarray(pictures[..., ::-1].transpose(0, 3, 1, 2))).float() / 255
    enliven(model.model, x)
    weights = folder / f"{case}.pt"
    model.save(weights)
    settings = {"imgsz": list(size), "conf": CONFIDENCE, "iou": IOU}
    written = type(model)(weights).export(format="onnx", simplify=False, opset=17, **settings, **options)
    Path(written).rename(folder / f"{case}.onnx")
    tool = type(model)(weights)
    chosen = {key: value for key, value in options.items() if key == "end2end"}
    limit = 300 if chosen.get("end2end") else 3000  # the graph itself gives no more
    arrays = {}
    for number, picture in enumerate(pictures):
        found = tool.predict(
            picture, rect=False, verbose=False, retina_masks=True, max_det=limit, **settings, **chosen
        )[0]
        parts = {"boxes": found.boxes, "probabilities": found.probs, "masks": found.masks, "keypoints": found.keypoints}
        arrays.update({f"{part}{number}": value.data.numpy() for part, value in parts.items() if value is not None})
    weights.unlink()
    np.savez(folder / f"{case}.npz", **arrays)


if __name__ == "__main__":
    place, shown = Path(sys.argv[1]), np.load(Path(sys.argv[1]) / "pictures.npy")
    with TemporaryDirectory() as stubs:
        load_operators(Path(stubs))
    for wanted in sys.argv[3:]:
        try:
            reference(place, int(sys.argv[2]), wanted, shown)
        except Exception:  # noqa: BLE001 the others go on; the test of this one shows it
            (place / f"{wanted}.txt").write_text(traceback.format_exc())
