"""What an expression is, and what it uses of TensorRT."""

from __future__ import annotations

import ast
from collections.abc import Callable

from tests.contract.kinds import (
    MODULE,
    NOTHING,
    Kind,
    Kinds,
    annotated,
    elements,
    is_class,
    is_enum,
    known,
    of_type,
    overloads_of,
    part_of,
    results,
)
from tests.contract.python_calls import PythonCalls

_PACKAGES = ("tensorrt", "tensorrt_rtx_bindings")
_LEVELS = ("ERROR", "INTERNAL_ERROR", "WARNING", "INFO", "VERBOSE")
_EVERYWHERE = ("__version__", "__class__", "__init__", "__name__")


class Expressions(PythonCalls):
    """Evaluates expressions as far as TensorRT's objects are in them."""

    def value(self, node: ast.expr) -> Kinds:
        """The kinds of an expression; records the uses in it."""
        work: Callable[..., Kinds] | None = getattr(self, f"_{type(node).__name__.lower()}", None)
        if work is not None:
            return work(node)
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.expr):
                self.value(child)
        return NOTHING

    def _name(self, node: ast.Name) -> Kinds:
        return self.names.get(node.id, NOTHING)

    def _constant(self, node: ast.Constant) -> Kinds:
        return frozenset({Kind("text", node.value)}) if isinstance(node.value, str) else NOTHING

    def _namedexpr(self, node: ast.NamedExpr) -> Kinds:
        kinds = self.value(node.value)
        self.assign(node.target, kinds, node.value)
        return kinds

    def _starred(self, node: ast.Starred) -> Kinds:
        return elements(self.value(node.value))

    def _tuple(self, node: ast.Tuple) -> Kinds:
        parts = tuple(self.value(entry) for entry in node.elts)
        return frozenset({Kind("tuple", parts=parts)}) if any(parts) else NOTHING

    def _list(self, node: ast.List) -> Kinds:
        inner = frozenset(kind for entry in node.elts for kind in self.value(entry))
        return frozenset({Kind("list", inner=inner)}) if inner else NOTHING

    _set = _list

    def _dict(self, node: ast.Dict) -> Kinds:
        for key in node.keys:
            if key is not None:
                self.value(key)
        inner = frozenset(kind for entry in node.values for kind in self.value(entry))
        return frozenset({Kind("dict", inner=inner)}) if inner else NOTHING

    def _ifexp(self, node: ast.IfExp) -> Kinds:
        when_true, when_false = self.truth(node.test)
        self.value(node.test)
        before = self.facts
        self.facts = before | when_true
        found = self.value(node.body)
        self.facts = before | when_false
        found |= self.value(node.orelse)
        self.facts = before
        return found

    def _boolop(self, node: ast.BoolOp) -> Kinds:
        before, found = self.facts, NOTHING
        for part in node.values:
            found |= self.value(part)
            self.facts |= self.truth(part)[0 if isinstance(node.op, ast.And) else 1]
        self.facts = before
        return found

    def _comprehension(self, node: ast.ListComp | ast.SetComp | ast.GeneratorExp | ast.DictComp) -> Kinds:
        inner = self.inner()
        for generator in node.generators:
            inner.assign(generator.target, elements(inner.value(generator.iter)))
            for condition in generator.ifs:
                inner.value(condition)
                inner.facts |= inner.truth(condition)[0]
        if isinstance(node, ast.DictComp):
            inner.value(node.key)
            kinds = inner.value(node.value)
            return frozenset({Kind("dict", inner=kinds)}) if kinds else NOTHING
        kinds = inner.value(node.elt)
        return frozenset({Kind("list", inner=kinds)}) if kinds else NOTHING

    _listcomp = _setcomp = _generatorexp = _dictcomp = _comprehension

    def _subscript(self, node: ast.Subscript) -> Kinds:
        kinds = self.value(node.value)
        self.value(node.slice)
        if isinstance(node.slice, ast.Slice):
            return kinds
        if isinstance(node.slice, ast.Constant) and isinstance(node.slice.value, int):
            return part_of(kinds, node.slice.value)
        return elements(kinds)

    def _attribute(self, node: ast.Attribute) -> Kinds:
        found: set[Kind] = set()
        for kind in self.value(node.value):
            found |= self.attribute(kind, node)
        return frozenset(found)

    def attribute(self, kind: Kind, node: ast.Attribute) -> set[Kind] | Kinds:
        name = node.attr
        if kind.what in ("lost", "any"):
            self.problem(node, f"cannot tell what `{ast.unparse(node.value)}` is: annotate it with TensorRT's class")
        elif kind.what == "module":
            return self.of_module(name, node)
        elif kind.what == "product":
            return self.of_ours(kind, name)
        elif kind.what in ("class", "object"):
            if name in self.source.extra.get(kind.name, ()):
                return NOTHING
            if name in _EVERYWHERE or (name == "Severity" and kind.what == "class"):
                return {Kind("enum", "Severity")} if name == "Severity" else {Kind("method", kind.name, name)}
            if kind.what == "class" and name in _LEVELS:
                self.use("Severity", name, "read", node)
                return {Kind("member", "Severity")}
            self.use(kind.name, name, "read", node)
            if overloads_of(kind.name, name):
                return {Kind("method", kind.name, name)}
            return results(kind.name, name)
        elif kind.what == "enum":
            if name != "__members__":
                self.use(kind.name, name, "read", node)
            return {Kind("member", kind.name)}
        elif kind.what in ("list", "dict") and name in (
            "get",
            "pop",
            "values",
            "items",
            "append",
            "copy",
            "setdefault",
        ):
            return {Kind("container", name, inner=frozenset({kind}))}
        return NOTHING

    def of_module(self, name: str, node: ast.AST) -> set[Kind] | Kinds:
        if name in _EVERYWHERE:
            return NOTHING
        self.use("module", name, "read", node)
        if is_class(name):
            return {Kind("class", name)}
        if is_enum(name):
            return {Kind("enum", name)}
        return {Kind("function", "module", name)}

    def of_ours(self, kind: Kind, name: str) -> Kinds:
        found = self.source.classes.get(kind.name)
        if found is None:
            return NOTHING
        if name in found.methods:
            if name in found.properties:
                self.called(f"{kind.name}.{name}")
                return self.returned(found.methods[name])
            return frozenset({Kind("bound", kind.name, name)})
        return found.fields.get(name, NOTHING)

    def returned(self, function: ast.FunctionDef) -> Kinds:
        for names in self.source.names.values():
            kinds = annotated(function.returns, names)
            if kinds:
                return kinds
        return NOTHING

    def _call(self, node: ast.Call) -> Kinds:
        if isinstance(node.func, ast.Name) and node.func.id not in self.names:
            special = self.builtin(node.func.id, node)
            if special is not None:
                return special
        kinds = self.value(node.func)
        arguments = tuple(self.value(argument) for argument in node.args)
        keywords = tuple(keyword.arg or "" for keyword in node.keywords)
        for keyword in node.keywords:
            self.value(keyword.value)
        if self.imports(node):
            return frozenset({MODULE})
        found: set[Kind] = set()
        for kind in kinds:
            found |= self.call(kind, node, arguments, keywords)
        return frozenset(found)

    def call(
        self, kind: Kind, node: ast.Call, arguments: tuple[Kinds, ...], keywords: tuple[str, ...]
    ) -> set[Kind] | Kinds:
        spread = any(isinstance(a, ast.Starred) for a in node.args) or "" in keywords
        if kind.what == "class":
            if kind.member != "ours":
                self.use(kind.name, "__init__", "call", node, arguments, keywords, spread)
            return {Kind("object", kind.name)}
        if kind.what == "enum":
            return {Kind("member", kind.name)}
        if kind.what in ("method", "function"):
            if kind.member == "__init__" or (kind.what == "method" and _unbound(node, kind)):
                arguments = arguments[1:]
            self.use(kind.name, kind.member, "call", node, arguments, keywords, spread)
            if kind.what == "method":
                return results(kind.name, kind.member)
            types = {s.result for api in known() for s in api.functions.get(kind.member, ()) if not s.variadic}
            return {found for text in types for found in of_type(text)}
        if kind.what == "bound":
            self.called(f"{kind.name}.{kind.member}")
            return self.returned(self.source.classes[kind.name].methods[kind.member])
        if kind.what == "call" and kind.name in self.source.functions:
            self.called(kind.name)
            function, path = self.source.functions[kind.name]
            return annotated(function.returns, self.source.names[path])
        if kind.what == "local":
            return kind.inner
        if kind.what == "ours":
            self.called(f"{kind.name}.__init__")
            return {Kind("product", kind.name)}
        if kind.what == "container":
            return _of_container(kind, arguments)
        return NOTHING

    def imports(self, node: ast.Call) -> bool:
        """Whether a call imports TensorRT: its package is named in it."""
        named = any(isinstance(a, ast.Constant) and a.value in _PACKAGES for a in node.args)
        return named and ast.unparse(node.func).rpartition(".")[2] in ("require", "import_module")


def _unbound(node: ast.Call, kind: Kind) -> bool:
    """Whether a method is called on its class, with the object as its first argument."""
    return isinstance(node.func, ast.Attribute) and ast.unparse(node.func.value).endswith(f".{kind.name}")


def _of_container(kind: Kind, arguments: tuple[Kinds, ...]) -> Kinds:
    inner = elements(kind.inner)
    if kind.name in ("get", "pop", "setdefault"):
        return inner
    if kind.name == "values":
        return frozenset({Kind("list", inner=inner)})
    if kind.name == "items":
        return frozenset({Kind("list", inner=frozenset({Kind("tuple", parts=(NOTHING, inner))}))})
    return kind.inner if kind.name == "copy" else NOTHING
