"""A plan as a build would give it, and the key it is found by. Light to import: worker processes do."""

from __future__ import annotations

from edgevision.backends.build_options import BuildOptions
from edgevision.backends.built_plan import BuiltPlan
from edgevision.backends.engine_layers import EngineLayer
from edgevision.plan_facts import PlanKey

GRAPHS = {"tensorrt.onnx": "ab" * 32, "tensorrt_fp16.onnx": "cd" * 32}
KEY = PlanKey(GRAPHS, "tensorrt", "10.3.0", "Orin (nvgpu)", 87, "R36, REVISION: 4.0", BuildOptions("int8"))


def built(plan: bytes = b"a plan", rung: str = "int8") -> BuiltPlan:
    return BuiltPlan(
        plan=plan,
        seconds=1.5,
        layers=(EngineLayer("conv", "correlation", "int8", ("/conv",)),),
        quantised=("/conv",),
        int8=("/conv",),
        rung=rung,
        reasons=("int8: no kernel",),
        notes=("slow",),
        graph="tensorrt.onnx",
    )
