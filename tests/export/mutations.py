"""The ways in which model files get bent; test_mutated_graphs says what must come of it."""

from __future__ import annotations

import random
from typing import NamedTuple

import onnx
from onnx import TensorProto, helper

SIZES_HW = ((96, 64), (65, 97), (48, 128), (128, 128))


class Mutant(NamedTuple):
    """A bent file.

    Attributes:
        data: the file.
        harmless: it says the same as the straight one, in all that anyone may read from it.
        hw: the picture size that it states now; None: the straight one's.
    """

    data: bytes
    harmless: bool = False
    hw: tuple[int, int] | None = None


def renamed(model: onnx.ModelProto, chance: random.Random) -> Mutant:
    """Every tensor has another name, but for the outputs and the input; or these as well, and the nodes; or two outputs
    of different shapes swap theirs."""
    what = chance.choice(["inside", "all", "swapped"])
    ends = [entry.name for entry in (*model.graph.output, *model.graph.input)]
    names: dict[str, str] = {"": "", **({} if what == "all" else {name: name for name in ends})}
    pairs = [
        (one.name, other.name)
        for one in model.graph.output
        for other in model.graph.output
        if one.type.tensor_type.shape != other.type.tensor_type.shape
    ]
    if what == "swapped" and pairs:
        one, other = chance.choice(pairs)
        names[one], names[other] = other, one

    def new(name: str) -> str:
        if name not in names:
            names[name] = f"{chance.choice(['', 'x/', '0', 'é '])}{chance.getrandbits(48):x}"
        return names[name]

    for node in model.graph.node:
        if what == "all":
            node.name = f"{chance.getrandbits(48):x}" if chance.random() < 0.7 else ""
        node.input[:] = [new(name) for name in node.input]
        node.output[:] = [new(name) for name in node.output]
    for branch in (attribute.g for node in model.graph.node for attribute in node.attribute):
        for node in branch.node:
            node.input[:] = [names.get(name, name) for name in node.input]
    for entry in (*model.graph.initializer, *model.graph.input, *model.graph.output, *model.graph.value_info):
        entry.name = new(entry.name)
    return Mutant(model.SerializeToString(), harmless=what == "inside" or (what == "swapped" and not pairs))


def reordered(model: onnx.ModelProto, chance: random.Random) -> Mutant:
    """Outputs, initialisers and shape notes come in another order."""
    for entries in (model.graph.output, model.graph.initializer, model.graph.value_info):
        shuffled = chance.sample([type(entry).FromString(entry.SerializeToString()) for entry in entries], len(entries))
        del entries[:]
        entries.extend(shuffled)
    return Mutant(model.SerializeToString(), harmless=True)


def transposed(model: onnx.ModelProto, chance: random.Random) -> Mutant:
    """The axes of an output come in another order, or its numbers in another type."""
    entry = chance.choice(list(model.graph.output))
    kind = entry.type.tensor_type.elem_type
    dims = [dim.dim_value for dim in entry.type.tensor_type.shape.dim]
    maker = next(node for node in model.graph.node if entry.name in node.output)
    inner = f"{entry.name}/straight"
    maker.output[list(maker.output).index(entry.name)] = inner
    for node in model.graph.node:
        node.input[:] = [inner if name == entry.name else name for name in node.input]
    if len(dims) > 2 and chance.random() < 0.6:
        order = [*range(2, len(dims)), 1]  # channels last; rows and columns of a square map look alike
        model.graph.node.append(helper.make_node("Transpose", [inner], [entry.name], perm=[0, *order]))
        new = helper.make_tensor_value_info(entry.name, kind, [dims[0], *(dims[axis] for axis in order)])
    else:
        kind = chance.choice([TensorProto.FLOAT16, TensorProto.DOUBLE, TensorProto.INT32, TensorProto.INT64])
        model.graph.node.append(helper.make_node("Cast", [inner], [entry.name], to=kind))
        new = helper.make_tensor_value_info(entry.name, kind, dims)
    entry.CopyFrom(new)
    return Mutant(model.SerializeToString())


def resized(model: onnx.ModelProto, chance: random.Random) -> Mutant:
    """The input states another size, and nothing says what follows from it."""
    graph, hw = model.graph, chance.choice(SIZES_HW)
    dims = graph.input[0].type.tensor_type.shape.dim
    dims[-2].dim_value, dims[-1].dim_value = hw
    del graph.value_info[:]
    for entry in graph.output:
        for dim in entry.type.tensor_type.shape.dim:
            dim.Clear()
    return Mutant(model.SerializeToString(), hw=hw)


def restated(model: onnx.ModelProto, chance: random.Random) -> Mutant:
    """What the file says about shapes is left out, left open, or wrong."""
    graph = model.graph
    what = chance.choice(["none", "open batch", "open size", "wrong notes", "wrong outputs", "batch 2", "odd size"])
    dims = graph.input[0].type.tensor_type.shape.dim
    if what == "none":
        del graph.value_info[:]
    elif what == "open batch":
        dims[0].dim_param = "N"
    elif what == "open size":
        dims[-2].dim_param, dims[-1].dim_param = "h", "w"
    elif what == "wrong notes":
        for entry in chance.sample(list(graph.value_info), min(5, len(graph.value_info))):
            entry.type.tensor_type.shape.dim.add().dim_value = chance.randrange(-2, 5)
    elif what == "wrong outputs":
        entry = chance.choice(list(graph.output))
        entry.type.tensor_type.shape.dim.add().dim_value = chance.randrange(7)
    elif what == "batch 2":
        dims[0].dim_value = 2
    else:
        dims[chance.choice([-2, -1])].dim_value = chance.choice([0, -1, 1, 33, 63, 65, 97, 1 << 20])
    hw = (dims[-2].dim_value, dims[-1].dim_value) if what == "odd size" else None
    return Mutant(model.SerializeToString(), harmless=what == "none", hw=hw)


def forgotten(model: onnx.ModelProto, chance: random.Random) -> Mutant:
    """Metadata is missing, cut short, or of another kind."""
    entries = model.metadata_props
    what = chance.choice(["none", "fewer", "cut", "nonsense"])
    if what == "none" or not entries:
        del entries[:]
        model.producer_name = model.doc_string = ""
    elif what == "fewer":
        del entries[chance.randrange(len(entries))]
    elif what == "cut":
        entry = chance.choice(list(entries))
        entry.value = entry.value[: chance.randrange(len(entry.value))]
    if what == "nonsense":
        key = chance.choice(["edgevision", "names", "stride", "task", "imgsz", "kpt_shape"])
        value = chance.choice(["{}", "[]", "3", '{"family": 3, "labels": {}}', "[[[", "{0: 1}", "None", "x" * 99])
        del entries[:]
        entries.add(key=key, value=value)
    return Mutant(model.SerializeToString())


def retyped(model: onnx.ModelProto, chance: random.Random) -> Mutant:
    """A tensor claims to be of another type."""
    kinds = [TensorProto.FLOAT16, TensorProto.DOUBLE, TensorProto.INT64, TensorProto.UINT8, TensorProto.STRING, 0, 99]
    graph, kind = model.graph, chance.choice(kinds)
    place = chance.choice(["input", "output", "note", "constant"])
    if place == "constant":
        chance.choice(list(graph.initializer)).data_type = kind
    elif place == "note" and graph.value_info:
        chance.choice(list(graph.value_info)).type.tensor_type.elem_type = kind
    else:
        chance.choice(list(graph.output if place == "output" else graph.input)).type.tensor_type.elem_type = kind
    return Mutant(model.SerializeToString())


def beheaded(model: onnx.ModelProto, chance: random.Random) -> Mutant:
    """Nodes, outputs or constants are missing; an output may now be what its last node read."""
    graph = model.graph
    what = chance.choice(["last node", "node", "output", "constant"])
    if what == "last node":
        entry = chance.choice(list(graph.output))
        maker = next(node for node in graph.node if entry.name in node.output)
        entry.CopyFrom(onnx.ValueInfoProto(name=maker.input[0]))
        entry.type.tensor_type.elem_type = TensorProto.FLOAT
    else:
        entries = {"node": graph.node, "output": graph.output, "constant": graph.initializer}[what]
        del entries[chance.randrange(len(entries))]
    return Mutant(model.SerializeToString())


def cut(model: onnx.ModelProto, chance: random.Random) -> Mutant:
    """The file ends early, or some bytes of it are others."""
    data = bytearray(model.SerializeToString())
    if chance.random() < 0.5:
        return Mutant(bytes(data[: chance.randrange(len(data))]))
    # The structure is at the front and at the end of such a file; weights in the middle may hold any number.
    start = len(model.graph.SerializePartialToString()) * chance.choice([0, 0, 0, 1])
    for _ in range(3):
        data[(start + chance.randrange(2000)) % len(data)] = chance.randrange(256)
    return Mutant(bytes(data))


KINDS = (renamed, reordered, transposed, resized, restated, forgotten, retyped, beheaded, cut)
