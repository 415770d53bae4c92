"""What a condition tells of the version: behind `hasattr(value, "name")` it has `name`, otherwise it lacks it."""

from __future__ import annotations

import ast

from tests.contract.kinds import NOTHING, Kind
from tests.contract.scope import NOT_KNOWN, Scope, owner_of
from tests.contract.source import Facts


class Conditions(Scope):
    """Reads conditions."""

    def truth(self, node: ast.expr) -> tuple[Facts, Facts]:
        """What holds where an expression is true, and where it is false."""
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
            when_true, when_false = self.truth(node.operand)
            return when_false, when_true
        if isinstance(node, ast.BoolOp):
            pairs = [self.truth(value) for value in node.values]
            index = 0 if isinstance(node.op, ast.And) else 1
            joined = frozenset(fact for pair in pairs for fact in pair[index])
            return (joined, NOT_KNOWN) if index == 0 else (NOT_KNOWN, joined)
        if isinstance(node, ast.Compare) and len(node.ops) == 1 and isinstance(node.ops[0], (ast.Is, ast.IsNot)):
            when_true, _ = self.truth(node.left)
            return (when_true, NOT_KNOWN) if isinstance(node.ops[0], ast.IsNot) else (NOT_KNOWN, when_true)
        if isinstance(node, ast.Name):
            return self.truths.get(node.id, (NOT_KNOWN, NOT_KNOWN))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("hasattr", "getattr"):
            owners, members = self.value(node.args[0]), self.texts(node.args[1])
            pairs = [(owner_of(kind), member) for kind in owners for member in members if owner_of(kind)]
            if len(pairs) == 1 and (node.func.id == "hasattr" or len(node.args) == 3):
                owner, member = pairs[0]
                absent = frozenset({(owner, member, False)}) if node.func.id == "hasattr" else NOT_KNOWN
                return frozenset({(owner, member, True)}), absent
        if isinstance(node, (ast.Attribute, ast.Call)):
            return self.through(node)
        return NOT_KNOWN, NOT_KNOWN

    def through(self, node: ast.Attribute | ast.Call) -> tuple[Facts, Facts]:
        """The truth of a property or method of ours that returns one expression."""
        attribute = node.func if isinstance(node, ast.Call) else node
        if not isinstance(attribute, ast.Attribute) or self.inline > 3:
            return NOT_KNOWN, NOT_KNOWN
        for kind in self.value(attribute.value):
            method = self._method(kind, attribute.attr)
            if method is None:
                continue
            body = [entry for entry in method.body if not isinstance(entry, ast.Expr)]
            if len(body) == 1 and isinstance(body[0], ast.Return) and body[0].value is not None:
                inner = type(self)(self.source, self.path, None, self.function)
                inner.inline = self.inline + 1
                inner.names["self"] = frozenset({kind})
                arguments = node.args if isinstance(node, ast.Call) else []
                for parameter, argument in zip(method.args.args[1:], arguments, strict=False):
                    inner.names[parameter.arg] = frozenset(Kind("text", text) for text in self.texts(argument))
                return inner.truth(body[0].value)
        return NOT_KNOWN, NOT_KNOWN

    def _method(self, kind: Kind, name: str) -> ast.FunctionDef | None:
        if kind.what != "product" or kind.name not in self.source.classes:
            return None
        return self.source.classes[kind.name].methods.get(name)

    def texts(self, node: ast.expr) -> set[str]:
        """The literals that an expression can be."""
        if isinstance(node, ast.Name):
            return {kind.name for kind in self.names.get(node.id, NOTHING) if kind.what == "text"}
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            return {node.value}
        if isinstance(node, ast.IfExp):
            return self.texts(node.body) | self.texts(node.orelse)
        return set()
