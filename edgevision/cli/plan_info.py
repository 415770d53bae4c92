"""What `edgevision info` says of a plan: what it was built for, layer by layer, and whether it fits this machine."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgevision.backends.engine_layers import EngineLayer
from edgevision.backends.tensorrt_api import load_api, open_logger
from edgevision.errors import DependencyError, DeviceError
from edgevision.plan_cache import PlanCache
from edgevision.plan_facts import PlanFacts, differences, read_facts


def describe_plan(path: Path, runtime: str, wrapper: dict[str, Any]) -> tuple[dict[str, Any], str]:
    """
    Args:
        path: a plan.
        runtime: what its first bytes say it is for.
        wrapper: what a wrapper before the plan says; empty without.

    Returns:
        The description as data and as text.
    """
    digest = hashlib.sha256()
    with path.open("rb") as handle:
        while block := handle.read(1 << 20):
            digest.update(block)
    sha256, size = digest.hexdigest(), path.stat().st_size
    data: dict[str, Any] = {"kind": "plan", "runtime": runtime, "bytes": size, "sha256": sha256, "wrapper": wrapper}
    lines = [f"{path}: a {runtime} plan, {size} bytes, sha256 {sha256[:16]}"]
    built_here = PlanCache().find(sha256)
    facts = built_here or _beside(path, sha256)
    if facts is None:
        lines.append(
            "A plan runs on the GPU model and the exact TensorRT version it was built with; it does not say more "
            "without that version. Build it anew from its bundle with: edgevision build BUNDLE"
        )
    else:
        lines += _describe(path, facts, data, trusted=built_here is not None)
    if wrapper:
        length = 4 + len(json.dumps(wrapper))
        pairs = ", ".join(f"{name} {value}" for name, value in wrapper.items())
        lines.append(f"wrapped by Ultralytics ({length} bytes or so before the plan): {pairs}")
    return data, "\n".join(lines)


def _beside(path: Path, sha256: str) -> PlanFacts | None:
    try:
        facts = read_facts(path)
    except (OSError, ValueError):
        return None
    return facts if facts.plan_sha256 == sha256 else None


def _describe(path: Path, facts: PlanFacts, data: dict[str, Any], *, trusted: bool) -> list[str]:
    key = facts.key
    layers, misfits = facts.layers, list[str]()
    try:
        layers, misfits = _on_this_machine(path, facts, trusted=trusted)
    except (DependencyError, DeviceError) as error:
        misfits = [str(error)]
    data |= {
        "built_for": key,
        "graph": facts.graph,
        "rung": facts.rung,
        "reasons": list(facts.reasons),
        "notes": list(facts.notes),
        "seconds": facts.seconds,
        "layers": [vars(layer) for layer in layers],
        "misfits": misfits,
    }
    board = f", {key['board']}" if key.get("board") else ""
    options = {name: value for name, value in _options(key).items() if value not in (None, "", False, "none")}
    lines = [
        f"built for   {key.get('gpu')} (SM {key.get('sm')}), {key.get('runtime')} {key.get('version')}{board}",
        f"built from  {facts.graph} in {facts.seconds:.1f} s, with "
        + ", ".join(f"{name} {value}" for name, value in options.items()),
        f"precision   {facts.rung}",
        *(f"  not higher: {reason}" for reason in facts.reasons),
        *(f"note: {note}" for note in facts.notes),
        *_layers(layers, facts.int8),
    ]
    return [*lines, *(f"does not fit here: {reason}" for reason in misfits)] if misfits else [*lines, "it fits here"]


def _options(key: Mapping[str, Any]) -> dict[str, Any]:
    options = key.get("options")
    return options if isinstance(options, dict) else {}


def _on_this_machine(path: Path, facts: PlanFacts, *, trusted: bool) -> tuple[tuple[EngineLayer, ...], list[str]]:
    """The layers, and why the plan does not fit here.

    A plan is code: TensorRT is given only one that was built here.

    Raises:
        DependencyError, DeviceError: there is no such TensorRT or no GPU.
    """
    api = load_api("tensorrt-rtx" if facts.key.get("runtime") == "tensorrt-rtx" else "tensorrt")
    from edgevision.backends.engine_inspection import layers_of_plan
    from edgevision.device_model import here, open_target

    target = open_target(api, 0)
    machine = here(target)
    misfits = differences({name: facts.key.get(name) for name in machine}, machine)
    layers = facts.layers
    if trusted and not misfits and not layers:
        with target.device.current():
            layers = layers_of_plan(api, open_logger(api), path.read_bytes())
    return layers, misfits


def _layers(layers: tuple[EngineLayer, ...], int8: tuple[str, ...]) -> list[str]:
    if not layers:
        return [f"layers      not told by this TensorRT; {len(int8)} convolutions and products were built as INT8"]
    counts = Counter(layer.precision for layer in layers)
    lines = [f"layers      {len(layers)}: {', '.join(f'{count} {name}' for name, count in counts.most_common())}"]
    return lines + [f"  {layer.precision:5} {layer.kind:14} {layer.name}" for layer in layers]
