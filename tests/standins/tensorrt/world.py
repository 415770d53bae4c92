"""What stands around the stand-in TensorRT: the GPU that it finds, and the failures that a test asks for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass
class World:
    """Settings that a test may change at any time, and what it may look at.

    Attributes:
        sm: compute capability of the GPU; None: ask the stand-in driver where it is loaded, else 87.
        no_gpu: there is none: nothing can be made but TensorRT-RTX's builder.
        dla_cores: how many DLA cores the GPU has.
        memory_bytes: workspace that the GPU can give to a build.
        no_int8: ONNX node names for which no INT8 kernel exists: the build fails in TensorRT's words.
        no_half: the same for FP16.
        no_kernel: ONNX node names for which no kernel exists in any precision.
        build_error: the next builds fail with this text.
        fail_enqueues: the next so many enqueues are refused.
        refuse_capture: enqueues on a capturing stream break the capture, as a synchronising layer does.
        on_step: called with phase and step at each step of a build; a place to wait, raise or kill the process.
        builds: names of the phases' roots, one entry per build that was started.
        errors: breaches that happened where nothing can be raised (in work on a stream); a test expects none.
    """

    sm: int | None = None
    no_gpu: bool = False
    dla_cores: int = 2
    memory_bytes: int = 8 << 30
    no_int8: set[str] = field(default_factory=set)
    no_half: set[str] = field(default_factory=set)
    no_kernel: set[str] = field(default_factory=set)
    build_error: str | None = None
    fail_enqueues: int = 0
    refuse_capture: bool = False
    on_step: Callable[[str, int], None] | None = None
    builds: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
