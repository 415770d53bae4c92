"""Serialised engines: a header that says for whom, then the network as ONNX and what is known of it."""

from __future__ import annotations

import json
import struct
import zlib
from dataclasses import asdict, dataclass, field
from typing import Any

_HEAD = struct.Struct("<4s12sHIIQ")  # magic, version, SM, flags, checksum, length
_COMPATIBLE, _AMPERE = 1, 2


@dataclass
class Tensor:
    """An input or output: TensorRT's type by name, sides with -1 where open, and min/opt/max sides per profile."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    is_input: bool
    ranges: list[list[tuple[int, ...]]] = field(default_factory=list)


@dataclass
class Plan:
    """An engine.

    Attributes:
        model: the network as serialised ONNX.
        tensors: inputs, then outputs.
        layers: per layer name, type, precision, tensors and metadata, as the inspector shows them.
        profiles: how many optimization profiles.
        memory_bytes: device memory of one context.
        verbosity: a name of ProfilingVerbosity.
    """

    model: bytes
    tensors: list[Tensor]
    layers: list[dict[str, Any]]
    profiles: int
    memory_bytes: int
    verbosity: str
    version: str
    sm: int
    version_compatible: bool = False
    ampere_plus: bool = False

    def serialise(self, *, rtx: bool) -> bytes:
        """The bytes of a plan."""
        facts = asdict(self)
        del facts["model"]
        text = json.dumps(facts).encode()
        body = struct.pack("<Q", len(text)) + text + self.model
        flags = _COMPATIBLE * self.version_compatible | _AMPERE * self.ampere_plus
        magic = b"vtrt" if rtx else b"ptrt"
        version = self.version.encode().ljust(12)[:12]
        return _HEAD.pack(magic, version, self.sm, flags, zlib.crc32(body), len(body)) + body


def read(data: bytes, *, version: str, sm: int, rtx: bool, host_code_allowed: bool) -> Plan | str:
    """The plan in `data`, or what TensorRT logs of one that does not fit."""
    magic = b"vtrt" if rtx else b"ptrt"
    if len(data) < _HEAD.size or data[:4] != magic:
        return (
            "IRuntime::deserializeCudaEngine: Error Code 1: Serialization (Serialization assertion "
            "plan->header.magicTag == rt::kPLAN_MAGIC_TAG failed.)"
        )
    _, made_by, made_for, flags, checksum, length = _HEAD.unpack_from(data)
    maker, body = made_by.decode(errors="replace").strip(), data[_HEAD.size :]
    if maker != version[:12] and not (flags & _COMPATIBLE and _newer(version, maker)):
        return (
            "IRuntime::deserializeCudaEngine: Error Code 6: API Usage Error (The engine plan file is not compatible "
            f"with this version of TensorRT, expecting library version {version} got {maker}, please rebuild.)"
        )
    if flags & _COMPATIBLE and not host_code_allowed:
        return (
            "IRuntime::deserializeCudaEngine: Error Code 6: API Usage Error (The engine contains host code; "
            "set engine_host_code_allowed to load it.)"
        )
    if made_for not in (0, sm) and not (flags & _AMPERE and sm >= 80):
        return (
            "IRuntime::deserializeCudaEngine: Error Code 6: API Usage Error (The engine plan file is generated on "
            f"an incompatible device, expecting compute {sm // 10}.{sm % 10} "
            f"got compute {made_for // 10}.{made_for % 10}, please rebuild.)"
        )
    if len(body) != length or zlib.crc32(body) != checksum:
        return (
            "IRuntime::deserializeCudaEngine: Error Code 1: Serialization (Serialization assertion "
            "sizeRead == static_cast<uint64_t>(mEnd - mCurrent) failed. "
            "Size specified in header does not match archive size)"
        )
    (size,) = struct.unpack_from("<Q", body)
    facts = json.loads(body[8 : 8 + size])
    tensors = [
        Tensor(t["name"], t["dtype"], tuple(t["shape"]), t["is_input"], [[tuple(s) for s in r] for r in t["ranges"]])
        for t in facts.pop("tensors")
    ]
    return Plan(model=body[8 + size :], tensors=tensors, **facts)


def _newer(version: str, maker: str) -> bool:
    numbers = [tuple(int(part) for part in text.split(".")[:2]) for text in (version, maker)]
    return numbers[0] >= numbers[1]
