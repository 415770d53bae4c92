"""What a build gives: the plan, and what is known about it."""

from __future__ import annotations

from dataclasses import dataclass

from edgevision.backends.engine_layers import EngineLayer

RUNGS = ("int8", "int8-partial", "fp16", "fp32")
"""The fallback ladder from the top: INT8, INT8 with the failing nodes in FP16, FP16, FP32."""


@dataclass(frozen=True)
class BuiltPlan:
    """A finished build.

    Attributes:
        plan: the serialised engine.
        graph: the bundle's graph that it was built from.
        rung: one of RUNGS: the precision reached.
        seconds: all attempts together.
        reasons: why each rung above was left, one sentence each.
        notes: what else the user should know: known troubles of this version, layers that left the accelerator, a
            timing cache that did not fit.
        layers: the engine's layers; empty where this version does not tell.
        quantised: ONNX names of the convolutions and matrix products whose inputs the built network quantises.
        int8: those of them that the engine computes in INT8; all of them where this version does not tell.
    """

    plan: bytes
    graph: str
    rung: str
    seconds: float
    reasons: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    layers: tuple[EngineLayer, ...] = ()
    quantised: tuple[str, ...] = ()
    int8: tuple[str, ...] = ()
