"""What a TensorRT plan was built from and for: the key of the plan cache, and the facts kept beside each plan.

A plan itself says nothing without the TensorRT that wrote it, and stays a plain file that `trtexec` loads. So what is
known about it lies beside it, in a JSON file of the same name.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgevision.backends.build_options import BuildOptions
from edgevision.backends.built_plan import BuiltPlan
from edgevision.backends.engine_layers import EngineLayer
from edgevision.files import atomic_path, sha256

FORMAT_VERSION = 1
_LIMIT_BYTES = 64 << 20


@dataclass(frozen=True)
class PlanKey:
    """Everything that decides whether a plan fits.

    Attributes:
        graphs: names and SHA-256 of the bundle's graphs that a build may fall back to.
        runtime: `tensorrt` or `tensorrt-rtx`.
        version: the runtime's, in full.
        gpu: the GPU's name.
        sm: its compute capability, like 87.
        board: the Jetson Linux release; empty elsewhere.
        options: how it is built.
    """

    graphs: Mapping[str, str]
    runtime: str
    version: str
    gpu: str
    sm: int | None
    board: str
    options: BuildOptions

    def words(self) -> dict[str, Any]:
        """The key as plain JSON data."""
        plain: dict[str, Any] = json.loads(
            json.dumps({**vars(self), "graphs": dict(self.graphs), "options": self.options.to_json()})
        )
        return plain

    @property
    def file_stem(self) -> str:
        """File name without suffix: readable, and different for different keys."""
        digest = sha256(json.dumps(self.words(), sort_keys=True).encode())
        words = f"{self.runtime}-{self.version}-sm{self.sm}-{self.options.precision}"
        return f"{re.sub(r'[^A-Za-z0-9.-]', '_', words)[:60]}-{digest[:24]}"


@dataclass(frozen=True)
class PlanFacts:
    """What lies beside a plan.

    Attributes:
        key: `PlanKey.words()` of what it was built from and for.
        plan_sha256, plan_bytes: of the plan file.
        graph: file name of the graph within its bundle.
        rung: the precision reached: `int8`, `int8-partial`, `fp16` or `fp32`.
        reasons: why each higher rung failed.
        notes: what else is to know about the build.
        seconds: that the build took.
        layers: what was built; empty where that TensorRT does not tell.
        quantised, int8: see BuiltPlan.
    """

    key: dict[str, Any]
    plan_sha256: str
    plan_bytes: int
    graph: str
    rung: str
    reasons: tuple[str, ...]
    notes: tuple[str, ...]
    seconds: float
    layers: tuple[EngineLayer, ...]
    quantised: tuple[str, ...]
    int8: tuple[str, ...]

    @classmethod
    def of(cls, key: PlanKey, built: BuiltPlan) -> PlanFacts:
        """The facts of a plan just built."""
        return cls(
            key.words(),
            sha256(built.plan),
            len(built.plan),
            built.graph,
            built.rung,
            built.reasons,
            built.notes,
            round(built.seconds, 3),
            built.layers,
            built.quantised,
            built.int8,
        )

    @classmethod
    def from_json(cls, data: Any) -> PlanFacts:
        """Raises ValueError: `data` is not what `to_json` gives."""
        try:
            if data["format_version"] != FORMAT_VERSION:
                raise ValueError(f"format version {data['format_version']!r}, expected {FORMAT_VERSION}")
            layers = tuple(
                EngineLayer(str(e["name"]), str(e["kind"]), str(e["precision"]), tuple(map(str, e["onnx_nodes"])))
                for e in data["layers"]
            )
            if not isinstance(data["key"], dict):
                raise ValueError(f"key is {data['key']!r}, expected an object")
            return cls(
                data["key"],
                str(data["plan_sha256"]),
                int(data["plan_bytes"]),
                str(data["graph"]),
                str(data["rung"]),
                tuple(map(str, data["reasons"])),
                tuple(map(str, data["notes"])),
                float(data["seconds"]),
                layers,
                tuple(map(str, data["quantised"])),
                tuple(map(str, data["int8"])),
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{type(error).__name__}: {error}") from error

    def to_json(self) -> dict[str, Any]:
        """Plain data for json.dump."""
        return {"format_version": FORMAT_VERSION, **dataclasses.asdict(self)}

    def misfits(self, key: PlanKey) -> list[str]:
        """Why the plan does not fit where `key` is wanted; empty where it does."""
        return differences(self.key, key.words())


def differences(held: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    """What of a plan's key is not as wanted, in words."""
    mine, theirs = _flat(held), _flat(wanted)
    return [
        f"built for {name} {mine.get(name)}, wanted is {theirs.get(name)}"
        for name in dict.fromkeys([*theirs, *mine])
        if name not in theirs or name not in mine or mine[name] != theirs[name]
    ]


def _flat(words: Mapping[str, Any]) -> dict[str, Any]:
    """The words on one level: `options.batch`, `graphs.tensorrt.onnx`."""
    flat: dict[str, Any] = {}
    for name, value in words.items():
        inner = value if isinstance(value, dict) else None
        flat.update({name: value} if inner is None else {f"{name}.{key}": item for key, item in inner.items()})
    return flat


def facts_path(plan: Path) -> Path:
    """Where the facts of a plan lie."""
    return plan.with_name(f"{plan.name}.json")


def write_plan(path: Path, plan: bytes, facts: PlanFacts) -> None:
    """Write a plan and then its facts, each at once. A reader that comes between finds facts that do not fit the plan.

    Raises:
        OSError: the folder does not exist or cannot be written, or the disk is full.
    """
    for target, data in ((path, plan), (facts_path(path), json.dumps(facts.to_json(), indent=1).encode())):
        with atomic_path(target) as temporary:
            temporary.write_bytes(data)


def read_facts(plan: Path) -> PlanFacts:
    """The facts beside a plan; the plan itself is not looked at.

    Raises:
        OSError: there are none, or they cannot be read.
        ValueError: they are not what `write_plan` wrote.
    """
    with facts_path(plan).open("rb") as handle:
        text = handle.read(_LIMIT_BYTES + 1)
    if len(text) > _LIMIT_BYTES:
        raise ValueError(f"more than {_LIMIT_BYTES} bytes")
    try:
        return PlanFacts.from_json(json.loads(text))
    except RecursionError as error:
        raise ValueError("nested too deep") from error
