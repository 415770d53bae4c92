"""Train the aerial detector or segmenter on the synthetic drone camera, export it to ONNX and score it.

    python examples/training/train.py detector --output trained/ &
    python examples/training/train.py segmenter --output trained/

Reproducible: seeds, frame order and views follow from --seed, torch runs its deterministic algorithms, and the same
number of threads gives the same sums. The file is exported anew after every fifth of the training, so a run that is
stopped early leaves a usable model.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from data import HELD_OUT_SEEDS, TRAINING_SEEDS, FrameSet
from detector import Detector
from evaluate import score
from export_onnx import export_onnx
from metadata import FILE_NAMES
from segmenter import Segmenter
from tasks import DetectionTask, SegmentationTask

EMA_DECAY = 0.998
WARM_UP = 0.03  # part of the steps
WEIGHT_DECAY = 0.02


Network = Detector | Segmenter


class Task(Protocol):
    """What differs between the two trainings: the network, its batches and its loss."""

    learning_rate: float
    epochs: int

    @property
    def network(self) -> Network: ...

    def batches(self, count: int, size: int, seed: int) -> Iterator[tuple[Tensor, list[Any]]]: ...

    def loss(self, images: Tensor, targets: list[Any]) -> Tensor: ...


class MovingAverage:
    """An exponential moving average of a network's weights and statistics: what is exported."""

    def __init__(self, network: Network) -> None:
        self.network = copy.deepcopy(network).eval()
        self._updates = 0

    @torch.no_grad()
    def update(self, network: Network) -> None:
        self._updates += 1
        decay = min(EMA_DECAY, (1 + self._updates) / (10 + self._updates))
        for mean, value in zip(self.network.state_dict().values(), network.state_dict().values(), strict=True):
            if mean.dtype.is_floating_point:
                mean.lerp_(value, 1 - decay)
            else:
                mean.copy_(value)


def learning_rate_factor(step: int, steps: int) -> float:
    """Linear warm-up, then a cosine down to zero."""
    warm_up = max(1, round(WARM_UP * steps))
    if step < warm_up:
        return (step + 1) / warm_up
    return 0.5 * (1 + math.cos(math.pi * (step - warm_up) / max(1, steps - warm_up)))


def fit(task: Task, path: Path, *, steps: int, batch: int, seed: int) -> tuple[Network, list[float]]:
    """Train `task.network`, exporting to `path`: its moving average, and the mean loss of each fifth."""
    network = task.network.to(memory_format=torch.channels_last).train()  # type: ignore[call-overload]
    average = MovingAverage(network)
    optimizer = torch.optim.AdamW(_parameter_groups(network), lr=task.learning_rate)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: learning_rate_factor(step, steps))
    losses: list[float] = []
    history: list[float] = []
    start = time.monotonic()
    for step, (images, targets) in enumerate(task.batches(steps, batch, seed), start=1):
        loss = task.loss(images.contiguous(memory_format=torch.channels_last), targets)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(network.parameters(), 10.0)
        optimizer.step()
        schedule.step()
        average.update(network)
        losses.append(loss.item())
        left_s = (time.monotonic() - start) / step * (steps - step)
        print(f"\rstep {step}/{steps}, loss {losses[-1]:.3f}, {left_s / 60:.1f} min left ", end="", flush=True)
        if step % max(1, steps // 5) == 0 or step == steps:
            history.append(sum(losses) / len(losses))
            losses.clear()
            export_onnx(average.network, path, {"trained_on": f"synthetic aerial camera, {step}/{steps} steps"})
            print(f"mean loss {history[-1]:.4f}, exported {path}")
    return average.network, history


def _parameter_groups(network: nn.Module) -> list[dict[str, object]]:
    """Weight decay for convolution weights only: biases and batch norm are one-dimensional."""
    decayed = [p for p in network.parameters() if p.ndim > 1]
    free = [p for p in network.parameters() if p.ndim <= 1]
    return [{"params": decayed, "weight_decay": WEIGHT_DECAY}, {"params": free, "weight_decay": 0.0}]


def main() -> None:
    parser = argparse.ArgumentParser(description="Train, export and score the aerial detector or segmenter.")
    parser.add_argument("model", choices=list(FILE_NAMES))
    parser.add_argument("--output", type=Path, required=True, help="folder for the ONNX file and its report")
    parser.add_argument("--cache", type=Path, help="folder for rendered frames (default: frames/ in the output folder)")
    parser.add_argument("--scenes", type=int, default=len(TRAINING_SEEDS))
    parser.add_argument("--frames-per-scene", type=int, default=12)
    parser.add_argument("--epochs", type=int, help="default: 8 for the detector, 5 for the segmenter")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--held-out-scenes", type=int, default=len(HELD_OUT_SEEDS))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()

    torch.manual_seed(arguments.seed)
    torch.set_num_threads(arguments.threads)
    torch.use_deterministic_algorithms(True)
    # Nothing here reads memory before writing it, so clearing it first would only cost time (a third of it).
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    start = time.monotonic()
    frame_set = FrameSet(TRAINING_SEEDS[: arguments.scenes], arguments.frames_per_scene)
    make = DetectionTask if arguments.model == "detector" else SegmentationTask
    task: Task = make(arguments.cache or arguments.output / "frames", frame_set, arguments.threads)
    parameters = sum(p.numel() for p in task.network.parameters())
    print(f"{arguments.model}: {parameters / 1e6:.2f} M parameters, {len(frame_set)} frames")

    arguments.output.mkdir(parents=True, exist_ok=True)
    path = arguments.output / FILE_NAMES[arguments.model]
    steps = max(1, (arguments.epochs or task.epochs) * len(frame_set) // arguments.batch)
    network, history = fit(task, path, steps=steps, batch=arguments.batch, seed=arguments.seed)
    held_out = FrameSet(HELD_OUT_SEEDS[: arguments.held_out_scenes], 5)
    result = score(path, held_out, arguments.threads)
    minutes = (time.monotonic() - start) / 60
    export_score = {key: round(value, 4) for key, value in result.items() if isinstance(value, float)}
    facts = {"trained_on": f"synthetic aerial camera, {len(frame_set)} frames", "score": export_score}
    export_onnx(network, path, facts)
    report = {"parameters": parameters, "loss": history, "score": result, "minutes": minutes}
    path.with_suffix(".json").write_text(json.dumps(report, indent=2) + "\n")
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
