"""Weights stored beside the model file: read only from the model's own folder, and only what is declared.

ONNX lets a tensor name a file, an offset and a length. A file from elsewhere could name `/etc/passwd` or a file
behind a symbolic link, or claim terabytes; all of that is refused here, before a byte is read.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx

from edgevision.errors import ModelError


def tensors(model: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    """Every tensor of the model: initialisers and attributes, in subgraphs and functions too."""
    graphs = [model.graph]
    nodes = [node for function in model.functions for node in function.node]
    while graphs or nodes:
        if graphs:
            graph = graphs.pop()
            yield from graph.initializer
            for sparse in graph.sparse_initializer:
                yield from (sparse.values, sparse.indices)
            nodes.extend(graph.node)
        else:
            for attribute in nodes.pop().attribute:
                yield from (attribute.t, *attribute.tensors)
                for sparse in (attribute.sparse_tensor, *attribute.sparse_tensors):
                    yield from (sparse.values, sparse.indices)
                graphs.extend((attribute.g, *attribute.graphs))


def load_external_data(model: onnx.ModelProto, folder: Path | None, limit_bytes: int) -> int:
    """Bring external tensors into the model and return how many bytes they were.

    Args:
        folder: the model file's folder; None for a model that came as bytes.
        limit_bytes: largest total.

    Raises:
        ModelError: a reference leaves the folder, is missing, too short, or the total is too large.
    """
    total = 0
    for tensor in tensors(model):
        if tensor.data_location != onnx.TensorProto.EXTERNAL:
            continue
        data = _read(tensor, folder, limit_bytes - total)
        total += len(data)
        tensor.raw_data = data
        del tensor.external_data[:]
        tensor.data_location = onnx.TensorProto.DEFAULT
    return total


def _read(tensor: onnx.TensorProto, folder: Path | None, limit_bytes: int) -> bytes:
    facts = {entry.key: entry.value for entry in tensor.external_data}
    location = facts.get("location", "")
    what = f"tensor {tensor.name!r} keeps its data in {location!r}"
    if folder is None:
        raise ModelError(f"{what}, but the model came as bytes; give the path of the .onnx file")
    path = _inside(folder, location, what)
    size = path.stat().st_size
    try:
        offset = int(facts.get("offset", 0))
        length = int(facts.get("length", size - offset))
        expected = _byte_length(tensor)
    except (ValueError, KeyError, OverflowError) as error:
        raise ModelError(f"{what} with unreadable offset, length or type ({facts}); export the model again") from error
    if length != expected:
        raise ModelError(f"{what}: its shape needs {expected} bytes, the file declares {length}")
    if offset < 0 or offset + length > size:
        raise ModelError(f"{what} at bytes {offset}..{offset + length}, but that file has {size}; copy it again")
    if length > limit_bytes:
        raise ModelError(f"{what}: the model's weights exceed the limit; this one alone has {length} bytes")
    with path.open("rb") as handle:
        handle.seek(offset)
        return handle.read(length)


def _inside(folder: Path, location: str, what: str) -> Path:
    if not location or "\0" in location or Path(location).is_absolute() or ".." in Path(location).parts:
        raise ModelError(f"{what}, which leaves the model's folder: refused")
    path = (folder / location).resolve()
    if not path.is_relative_to(folder.resolve()):
        raise ModelError(f"{what}, which leads out of the model's folder by a link: refused")
    if not path.is_file():
        raise ModelError(f"{what}, which is not a file in {folder}; copy it next to the model")
    return path


def _byte_length(tensor: onnx.TensorProto) -> int:
    if any(dim < 0 for dim in tensor.dims):
        raise ValueError("negative dimension")
    count = 1
    for dim in tensor.dims:
        count *= dim
    return int(count * np.dtype(onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)).itemsize)
