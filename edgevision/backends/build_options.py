"""What may be asked of a build. Every field changes the plan, so every field is part of the plan cache's key."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from edgevision.errors import UsageError
from edgevision.manifest import PRECISIONS

HARDWARE = ("none", "ampere-plus", "same-compute-capability")
CALIBRATORS = ("entropy", "minmax")
_BATCH_LIMIT = 1024
_LEVELS = range(6)


@dataclass(frozen=True)
class BuildOptions:
    """Options of one build.

    Attributes:
        precision: one of manifest.PRECISIONS: where the ladder starts.
        batch: smallest, preferred and largest number of pictures at once.
        workspace_bytes: memory that a layer may use while it runs; None: all that the GPU has.
        dla_core: Jetson's deep-learning accelerator to run on; None: the GPU.
        gpu_fallback: layers that the accelerator cannot run go to the GPU instead of failing the build.
        version_compatible: the plan also runs on later TensorRT versions, a little slower.
        hardware_compatible: one of HARDWARE: other GPUs that the plan also runs on.
        optimization_level: 0 (quick build) to 5 (longest search); None: TensorRT's own default.
        target: compute capability to build for, like 89 (TensorRT-RTX only); None: this GPU, or all for RTX.
        calibrator: one of CALIBRATORS: TensorRT's own implicit quantisation (8.6 to 10.x) instead of the ranges in
            the bundle's graph; None: the graph decides.
        calibration: hash of what that calibrator reads; empty without one.
    """

    precision: str
    batch: tuple[int, int, int] = (1, 1, 1)
    workspace_bytes: int | None = None
    dla_core: int | None = None
    gpu_fallback: bool = True
    version_compatible: bool = False
    hardware_compatible: str = "none"
    optimization_level: int | None = None
    target: int | None = None
    calibrator: str | None = None
    calibration: str = ""

    def __post_init__(self) -> None:
        for name, allowed in (
            ("precision", PRECISIONS),
            ("hardware_compatible", HARDWARE),
            ("calibrator", (None, *CALIBRATORS)),
            ("optimization_level", (None, *_LEVELS)),
        ):
            if getattr(self, name) not in allowed:
                choices = ", ".join(str(choice) for choice in allowed if choice is not None)
                raise UsageError(f"{name} is one of {choices}; got {getattr(self, name)!r}")
        low, best, high = self.batch
        if not 1 <= low <= best <= high <= _BATCH_LIMIT:
            raise UsageError(f"batch is MIN:OPT:MAX with 1 <= MIN <= OPT <= MAX <= {_BATCH_LIMIT}, got {self.batch}")
        for name, least in (("workspace_bytes", 1), ("dla_core", 0)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise UsageError(f"{name} is at least {least}, got {value}")
        if self.dla_core is not None and self.precision == "fp32":
            raise UsageError("the deep-learning accelerator computes in INT8 and FP16 only; choose --precision fp16")
        if self.calibrator is not None and self.precision != "int8":
            raise UsageError(f"a calibrator serves INT8 only; got precision {self.precision}")

    def to_json(self) -> dict[str, Any]:
        """Plain data for json.dump."""
        return dataclasses.asdict(self)
