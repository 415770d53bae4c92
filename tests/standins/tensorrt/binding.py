"""Python classes with exactly the names and signatures of a TensorRT version, as pybind11 would make them.

A class here is a shell: it checks arguments against the version's overloads, refuses what pybind refuses in pybind's
words, and hands the rest to a behaviour class, where `_name` does what method `name` is for and `_get_name` /
`_set_name` serve property `name`. A property without them is a plain value of the state `_s`.
"""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np

from tests.standins.tensorrt.facts import Api, ClassFacts, Signature

if TYPE_CHECKING:
    from tests.standins.tensorrt.module import Standin

# Properties that take None: pybind passes a null pointer.
_NULLABLE = {
    "progress_monitor",
    "error_recorder",
    "int8_calibrator",
    "profiler",
    "gpu_allocator",
    "temporary_allocator",
    "execution_context",
    "output_allocator",
    "namespace",
    "path",
    "runtime_config",
}


class BoundMeta(type):
    """Checks that a subclass's constructor called the base's, as pybind does."""

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        made = super().__call__(*args, **kwargs)
        if not hasattr(made, "_s"):
            base = next(c for c in cls.__mro__ if "_facts" in c.__dict__)
            raise TypeError(f"{base._qualified}.__init__() must be called when overriding __init__")  # type: ignore[attr-defined]
        return made


class Bound(metaclass=BoundMeta):
    """What all shells share. State lives in `_s`, so that no unknown attribute can be set."""

    __slots__ = ("__weakref__", "_s")
    _trt: Standin
    _s: SimpleNamespace
    _qualified = ""

    def _construct(self, *arguments: Any) -> None:
        self._s = SimpleNamespace()


class BoundEnum:
    """A pybind enum: not an int, but convertible to one."""

    __slots__ = ("_name", "_value")
    __members__: dict[str, BoundEnum]

    def __init__(self, value: int) -> None:
        fits, number = _int(value)
        if not fits:
            raise TypeError(_refusal("__init__", [f"(self: {type(self).__name__}, value: int)"], (value,), {}))
        self._value = number
        self._name = next((n for n, m in type(self).__members__.items() if m._value == self._value), "???")

    @property
    def name(self) -> str:
        return self._name

    @property
    def value(self) -> int:
        return self._value

    def __int__(self) -> int:
        return self._value

    __index__ = __int__

    def __hash__(self) -> int:
        return hash(self._value)

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and other._value == self._value  # type: ignore[attr-defined]

    def __str__(self) -> str:
        return f"{type(self).__name__}.{self._name}"

    def __repr__(self) -> str:
        return f"<{type(self).__name__}.{self._name}: {self._value}>"


def _compare(name: str) -> Callable[[BoundEnum, object], bool]:
    compare = getattr(operator, name)

    def method(self: BoundEnum, other: object) -> bool:
        if type(other) is not type(self):
            raise TypeError("Expected an enumeration of matching type!")
        return bool(compare(self._value, other._value))  # type: ignore[attr-defined]

    return method


def make_enum(name: str, members: dict[str, int], *, arithmetic: bool) -> type[BoundEnum]:
    """An enum class; the arithmetic ones also compare by value."""
    extra: dict[str, Any] = {"__slots__": (), "__members__": {}}
    if arithmetic:
        extra |= {f"__{op}__": _compare(op) for op in ("lt", "le", "gt", "ge")}
    made = type(name, (BoundEnum,), extra)
    for member, value in members.items():
        entry = made.__new__(made)
        entry._name, entry._value = member, value
        made.__members__[member] = entry
        setattr(made, member, entry)
    return made


def make_class(trt: Standin, facts: ClassFacts, base: type[Bound], behaviour: type) -> type[Bound]:
    """The shell of one class over its behaviour."""
    qualified = f"{trt.qualifier}.{facts.name}"
    bases = (behaviour, base) if behaviour is not Bound and not issubclass(base, behaviour) else (base,)
    members: dict[str, Any] = {
        "__slots__": (),
        "__module__": trt.qualifier,
        "_trt": trt,
        "_facts": facts,
        "_qualified": qualified,
        "__init__": _constructor(trt, facts, qualified),
    }
    for name, overloads in facts.methods.items():
        if name == "__enter__":
            members[name] = lambda self: self
        elif name == "__exit__":
            members[name] = lambda self, kind, value, trace: None
        elif name != "__init__":
            members[name] = _method(trt, name, overloads, qualified)
    for name, (kind, writable) in facts.properties.items():
        members[name] = _property(trt, name, kind, writable, qualified)
    return BoundMeta(facts.name, bases, members)


def _constructor(trt: Standin, facts: ClassFacts, qualified: str) -> Callable[..., None]:
    overloads = facts.methods.get("__init__", [Signature("__init__", (), "None")])

    def __init__(self: Bound, *args: Any, **kwargs: Any) -> None:  # noqa: N807
        if not facts.constructible:
            raise TypeError(f"{qualified}: No constructor defined!")
        self._construct(*bind(trt, "__init__", overloads, self, qualified, args, kwargs))

    return __init__


def _method(trt: Standin, name: str, overloads: list[Signature], qualified: str) -> Callable[..., Any]:
    owner = qualified.rpartition(".")[2]

    def method(self: Bound, *args: Any, **kwargs: Any) -> Any:
        if not isinstance(self, Bound) or trt.classes[owner] not in type(self).__mro__:
            raise TypeError(_refusal(name, [o.text(qualified) for o in overloads], (self, *args), kwargs))
        values = bind(trt, name, overloads, self, qualified, args, kwargs)
        work = getattr(self, f"_{name.strip('_')}", None)
        if work is None:
            raise NotImplementedError(f"the stand-in for TensorRT does not imitate {qualified}.{name}")
        return work(*values)

    method.__name__ = name
    method.__doc__ = "\n".join(f"{name}{o.text(qualified)}" for o in overloads)
    return method


def _property(trt: Standin, name: str, kind: str, writable: bool, qualified: str) -> property:
    def get(self: Bound) -> Any:
        getter = getattr(self, f"_get_{name}", None)
        if getter is not None:
            return getter()
        if not hasattr(self._s, name):
            raise NotImplementedError(f"the stand-in for TensorRT does not imitate {qualified}.{name}")
        return getattr(self._s, name)

    def put(self: Bound, value: Any) -> None:
        fits, converted = convert(trt, kind, value)
        if value is None and name in _NULLABLE:
            fits, converted = True, None
        if not fits:
            signature = Signature("", (), "None").text(qualified).replace(")", f", arg0: {kind})")
            raise TypeError(_refusal("", [signature], (self, value), {}))
        setter = getattr(self, f"_set_{name}", None)
        if setter is not None:
            setter(converted)
        elif hasattr(self._s, name):
            setattr(self._s, name, converted)
        else:
            raise NotImplementedError(f"the stand-in for TensorRT does not imitate setting {qualified}.{name}")

    return property(get, put if writable else None)


def bind(
    trt: Standin,
    name: str,
    overloads: Sequence[Signature],
    self: Any,
    qualified: str,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> list[Any]:
    """The converted arguments by the first overload that takes them.

    Raises:
        TypeError: none does.
    """
    for signature in overloads:
        values = _fit(trt, signature, args, kwargs)
        if values is not None:
            return values
    shown = args if self is None or name == "__init__" else (self, *args)
    raise TypeError(_refusal(name, [o.text(qualified) for o in overloads], shown, kwargs))


def _fit(trt: Standin, signature: Signature, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Any] | None:
    if signature.variadic:
        return list(args)
    if len(args) > len(signature.parameters):
        return None
    left = dict(kwargs)
    values = []
    for index, parameter in enumerate(signature.parameters):
        if index < len(args):
            value = args[index]
        elif not parameter.positional_only and parameter.name in left:
            value = left.pop(parameter.name)
        elif parameter.default is not None:
            values.append(_default(trt, parameter.default))
            continue
        else:
            return None
        fits, converted = convert(trt, parameter.type, value)
        if not fits and not (value is None and (parameter.default == "None" or parameter.name in _NULLABLE)):
            return None
        values.append(converted if fits else None)
    return None if left else values


def _default(trt: Standin, text: str) -> Any:
    owner, _, member = text.partition(".")
    if owner in trt.enums:
        return getattr(trt.enums[owner], member)
    return ast.literal_eval(text)


def _refusal(name: str, signatures: list[str], args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
    what = "constructor" if name == "__init__" else "function"
    lines = [f"{name}(): incompatible {what} arguments. The following argument types are supported:"]
    lines += [f"    {index}. {text}" for index, text in enumerate(signatures, 1)]
    invoked = ", ".join(repr(a) for a in args)
    if kwargs:
        invoked += ("; " if args else "") + "kwargs: " + ", ".join(f"{k}={v!r}" for k, v in kwargs.items())
    return "\n".join([*lines, "", f"Invoked with: {invoked}"])


def convert(trt: Standin, kind: str, value: Any) -> tuple[bool, Any]:
    """Convert an argument as pybind would: whether it fits, and the value."""
    if kind in trt.enums:
        return isinstance(value, trt.enums[kind]), value
    if kind == "Dims" and not isinstance(value, trt.classes["Dims"]):
        fits, sides = convert(trt, "List[int]", value)
        return fits, trt.make_dims(sides) if fits else None
    if kind in trt.classes:
        return isinstance(value, trt.classes[kind]), value
    if kind.startswith("List["):
        if isinstance(value, (str, bytes)) or not isinstance(value, (Sequence, np.ndarray, trt.classes["Dims"])):
            return False, None
        pairs = [convert(trt, kind[5:-1], entry) for entry in value]
        return all(fits for fits, _ in pairs), [entry for _, entry in pairs]
    return _PLAIN[kind](value) if kind in _PLAIN else (True, value)


def _int(value: Any) -> tuple[bool, Any]:
    if isinstance(value, (float, np.floating)) or not hasattr(type(value), "__index__"):
        return False, None
    return True, operator.index(value)


def _float(value: Any) -> tuple[bool, Any]:
    number = hasattr(type(value), "__float__") or hasattr(type(value), "__index__")
    return number, float(value) if number else None


def _bool(value: Any) -> tuple[bool, Any]:
    number = value is None or isinstance(value, (bool, int, float, np.bool_, np.number))
    return number, bool(value) if number else None


def _text(value: Any) -> tuple[bool, Any]:
    return isinstance(value, (str, bytes)), value.decode() if isinstance(value, bytes) else value


def _buffer(value: Any) -> tuple[bool, Any]:
    try:
        return True, memoryview(value)
    except TypeError:
        return False, None


_PLAIN: dict[str, Callable[[Any], tuple[bool, Any]]] = {
    "int": _int,
    "float": _float,
    "bool": _bool,
    "str": _text,
    "buffer": _buffer,
    "list": lambda value: (isinstance(value, list), value),
    "tuple": lambda value: (isinstance(value, tuple), value),
    "slice": lambda value: (isinstance(value, slice), value),
    "numpy.ndarray": lambda value: (isinstance(value, np.ndarray), value),
    "None": lambda value: (value is None, value),
}


def make_functions(trt: Standin, api: Api, work: dict[str, Callable[..., Any]]) -> dict[str, Callable[..., Any]]:
    """The module's functions."""

    def make(name: str, overloads: list[Signature]) -> Callable[..., Any]:
        def function(*args: Any, **kwargs: Any) -> Any:
            values = bind(trt, name, overloads, None, "", args, kwargs)
            if name not in work:
                raise NotImplementedError(f"the stand-in for TensorRT does not imitate {name}()")
            return work[name](*values)

        function.__name__ = name
        return function

    return {name: make(name, overloads) for name, overloads in api.functions.items()}
