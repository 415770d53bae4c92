"""Python's own functions that hand TensorRT's objects on or ask them for names."""

from __future__ import annotations

import ast

from tests.contract.conditions import Conditions
from tests.contract.kinds import NOTHING, Kind, Kinds, elements, is_class, known, overloads_of, results
from tests.contract.scope import owner_of

_KEEPING = ("list", "tuple", "sorted", "reversed", "iter", "set", "frozenset")


class PythonCalls(Conditions):
    """Calls of hasattr, getattr, list, zip and the like."""

    def builtin(self, name: str, node: ast.Call) -> Kinds | None:
        if name in ("hasattr", "getattr") and len(node.args) > 1:
            return self.ask(node, optional=name == "hasattr" or len(node.args) > 2)
        if name in _KEEPING and len(node.args) == 1:
            inner = elements(self.value(node.args[0]))
            return frozenset({Kind("list", inner=inner)}) if inner else NOTHING
        if name == "next" and node.args:
            return elements(self.value(node.args[0])) | (self.value(node.args[1]) if len(node.args) > 1 else NOTHING)
        if name in ("enumerate", "zip") and node.args:
            parts = [elements(self.value(argument)) for argument in node.args]
            parts = [NOTHING, parts[0]] if name == "enumerate" else parts
            pair = frozenset({Kind("tuple", parts=tuple(parts))})
            return frozenset({Kind("list", inner=pair)}) if any(parts) else NOTHING
        return None

    def ask(self, node: ast.Call, *, optional: bool) -> Kinds:
        """hasattr and getattr: by a literal name, or by one of the literals that a computed name can be."""
        owners, members = self.value(node.args[0]), self.texts(node.args[1])
        for extra in node.args[2:]:
            self.value(extra)
        found: set[Kind] = set()
        for kind in owners:
            owner = owner_of(kind)
            if owner and not members and not isinstance(node.args[1], ast.JoinedStr):
                self.guarded_by_itself(node, optional=optional)
            for member in members if owner else ():
                literal = isinstance(node.args[1], ast.Constant) and not optional
                if member not in self.source.extra.get(owner, ()):
                    self.use(owner, member, "read" if literal else "probe", node)
                if kind.what == "enum":
                    found.add(Kind("member", kind.name))
                elif kind.what == "module":
                    found |= {Kind("class", member)} if is_class(member) else {Kind("enum", member)}
                elif overloads_of(kind.name, member):
                    found.add(Kind("method", kind.name, member))
                else:
                    found |= results(kind.name, member)
            if owner and not members and kind.what == "enum":
                found.add(Kind("member", kind.name))
                if isinstance(node.args[1], ast.JoinedStr):
                    self.by_prefix(kind, node)
        return frozenset(found)

    def guarded_by_itself(self, node: ast.Call, *, optional: bool) -> None:
        """A name that is not a literal must have been asked for with hasattr, or have a default."""
        name = ast.unparse(node.args[1])
        if optional:
            self.names[f"asked {name}"] = frozenset({Kind("text", name)})
        elif f"asked {name}" not in self.names:
            self.problem(node, f"cannot tell which names `{name}` can be: use literals, or ask with hasattr before")

    def by_prefix(self, kind: Kind, node: ast.Call) -> None:
        prefix = node.args[1].values[0]  # type: ignore[attr-defined]
        text = prefix.value if isinstance(prefix, ast.Constant) else ""
        members = {m for api in known() for m in api.enums.get(kind.name, ()) if m.startswith(text) and text}
        if not members:
            self.problem(node, f"no member of {kind.name} begins with {text!r}")
        for member in members:
            self.use(kind.name, member, "probe", node)
