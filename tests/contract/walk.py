"""Follows TensorRT's objects through the source of one file and records what is used of them.

Values are followed from annotations and from where the module is imported, through assignments, loops, calls and
attributes; the API facts tell what each call gives. What is known of the version is followed as well: behind
`hasattr(value, "name")` it has `name`, in the other branch and after an early return it lacks it.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable

from tests.contract.expressions import Expressions
from tests.contract.kinds import NOTHING, Kind, Kinds, annotated, elements, instance, known, overloads_of, part_of
from tests.contract.source import Facts, key


class Walk(Expressions):
    """Walks statements."""

    def block(self, body: Iterable[ast.stmt]) -> None:
        """Walk statements in order; what an early end of one branch tells holds for the rest."""
        before = self.facts
        for statement in body:
            self.statement(statement)
        self.facts = before

    def statement(self, node: ast.stmt) -> None:
        if isinstance(node, ast.FunctionDef):
            self.define(node, None)
        elif isinstance(node, ast.ClassDef):
            self.define_class(node)
        elif isinstance(node, ast.If):
            self.branch(node)
        elif isinstance(node, (ast.For, ast.AsyncFor)):
            self.assign(node.target, elements(self.value(node.iter)))
            self.block(node.body)
            self.block(node.orelse)
        elif isinstance(node, ast.While):
            when_true, _ = self.truth(node.test)
            self.value(node.test)
            self.under(when_true, node.body)
        elif isinstance(node, ast.With):
            for item in node.items:
                kinds = self.value(item.context_expr)
                if item.optional_vars is not None:
                    self.assign(item.optional_vars, kinds)
            self.block(node.body)
        elif isinstance(node, ast.Try):
            self.block(node.body)
            for handler in node.handlers:
                self.block(handler.body)
            self.block(node.orelse)
            self.block(node.finalbody)
        elif isinstance(node, ast.Assign):
            kinds = self.value(node.value)
            for target in node.targets:
                self.assign(target, kinds, node.value)
        elif isinstance(node, ast.AnnAssign):
            kinds = self.value(node.value) if node.value is not None else NOTHING
            stated = annotated(node.annotation, self.source.names[self.path])
            self.assign(node.target, stated or kinds, node.value)
        elif isinstance(node, ast.AugAssign):
            self.value(node.value)
            self.assign(node.target, NOTHING)
        else:
            for child in ast.iter_child_nodes(node):
                if isinstance(child, ast.expr):
                    self.value(child)

    def branch(self, node: ast.If) -> None:
        when_true, when_false = self.truth(node.test)
        self.value(node.test)
        before = dict(self.names)
        self.under(when_true, node.body)
        after, self.names = self.names, before
        self.under(when_false, node.orelse)
        for name, kinds in after.items():
            self.names[name] = self.names.get(name, NOTHING) | kinds
        if _ends(node.body):
            self.facts |= when_false
        elif node.orelse and _ends(node.orelse):
            self.facts |= when_true

    def under(self, facts: Facts, body: Iterable[ast.stmt]) -> None:
        before = self.facts
        self.facts |= facts
        self.block(body)
        self.facts = before

    def define(self, node: ast.FunctionDef, owner: str | None, base: str | None = None) -> None:
        """Walk a function; `owner` is our class that it belongs to, `base` TensorRT's class that it overrides."""
        name = self.function or (f"{owner}.{node.name}" if owner else key(self.path, node.name))
        inner = self.inner(name)
        parameters = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
        given = _override_kinds(base, node.name) if base else {}
        for index, parameter in enumerate(parameters):
            stated = annotated(parameter.annotation, self.source.names[self.path])
            if index == 0 and (owner or base):
                stated = frozenset({Kind("product", owner)} if owner else {Kind("object", base or "")})
            elif not stated and _is_any(parameter.annotation) and not given.get(index - 1):
                stated = frozenset({Kind("any", parameter.arg)})
            inner.names[parameter.arg] = stated or given.get(index - 1, NOTHING)
        inner.block(node.body)
        if not owner and not base:
            self.names.setdefault(node.name, frozenset({Kind("local", node.name)}))
            stated = annotated(node.returns, self.source.names[self.path])
            if self.function:
                self.names[node.name] = frozenset({Kind("local", node.name, inner=stated)})

    def define_class(self, node: ast.ClassDef) -> None:
        bases = [kind for base in node.bases for kind in self.value(base) if kind.what == "class"]
        if not bases:
            for entry in node.body:
                if isinstance(entry, ast.FunctionDef):
                    self.define(entry, key(self.path, node.name))
            return
        base = bases[0].name
        self.names[node.name] = frozenset({Kind("class", base, member="ours")})
        extra = self.source.extra.setdefault(base, set())
        for entry in node.body:
            if not isinstance(entry, ast.FunctionDef):
                continue
            if overloads_of(base, entry.name) and entry.name != "__init__":
                parameters = tuple(NOTHING for _ in entry.args.args[1:])
                self.use(base, entry.name, "override", entry, arguments=parameters)
            else:
                extra.add(entry.name)
            for inside in ast.walk(entry):
                own = isinstance(inside, ast.Attribute) and ast.unparse(inside.value) == "self"
                if own and isinstance(inside.ctx, ast.Store):
                    extra.add(inside.attr)
            self.define(entry, None, base)

    def assign(self, target: ast.expr, kinds: Kinds, value: ast.expr | None = None) -> None:
        if isinstance(target, ast.Name):
            self.names[target.id] = kinds
            self.truths.pop(target.id, None)
            if value is not None:
                self.truths[target.id] = self.truth(value)
        elif isinstance(target, (ast.Tuple, ast.List)):
            values = value.elts if isinstance(value, ast.Tuple) and len(value.elts) == len(target.elts) else None
            for index, part in enumerate(target.elts):
                if values:
                    self.assign(part, self.value(values[index]), values[index])
                else:
                    self.assign(part, part_of(kinds, index))
        elif isinstance(target, ast.Attribute):
            for kind in self.value(target.value):
                if kind.what == "product" and kind.name in self.source.classes:
                    fields = self.source.classes[kind.name].fields
                    fields[target.attr] = fields.get(target.attr, NOTHING) | kinds
                elif kind.what in ("object", "member") and target.attr not in self.source.extra.get(kind.name, ()):
                    self.use(kind.name, target.attr, "write", target, arguments=(kinds,))
        elif isinstance(target, ast.Subscript):
            self.value(target.value)
            if isinstance(target.value, ast.Name) and kinds:
                self.names[target.value.id] = self.names.get(target.value.id, NOTHING) | {Kind("dict", inner=kinds)}


def _override_kinds(base: str, name: str) -> dict[int, Kinds]:
    """The kinds of the parameters of TensorRT's method that one of ours takes the place of."""
    found: dict[int, Kinds] = {}
    for api in known():
        for facts in api.lineage(base):
            for signature in facts.methods.get(name, ())[:1]:
                for index, parameter in enumerate(signature.parameters):
                    kind = instance(parameter.type)
                    found[index] = frozenset({kind}) if kind else frozenset({Kind("plain")})
    return found


def _is_any(annotation: ast.expr | None) -> bool:
    return isinstance(annotation, ast.Name) and annotation.id == "Any"


def _ends(body: list[ast.stmt]) -> bool:
    return bool(body) and isinstance(body[-1], (ast.Return, ast.Raise, ast.Continue, ast.Break))
