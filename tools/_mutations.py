"""Mutants of a Python source: one operator, constant, call, argument order or branch changed at a time.

Annotations and decorators are declarations and stay as they are. ``tools/mutate.py`` runs the tests on each mutant.
"""

from __future__ import annotations

import ast
import copy
from collections.abc import Iterator
from dataclasses import dataclass

OPERATORS: dict[type[ast.AST], tuple[type[ast.AST], ...]] = {
    ast.Gt: (ast.GtE, ast.Lt), ast.GtE: (ast.Gt, ast.Lt), ast.Lt: (ast.LtE, ast.Gt), ast.LtE: (ast.Lt, ast.Gt),
    ast.Eq: (ast.NotEq,), ast.NotEq: (ast.Eq,), ast.In: (ast.NotIn,), ast.NotIn: (ast.In,),
    ast.Is: (ast.IsNot,), ast.IsNot: (ast.Is,), ast.And: (ast.Or,), ast.Or: (ast.And,),
    ast.Add: (ast.Sub,), ast.Sub: (ast.Add,), ast.Mult: (ast.Div,), ast.Div: (ast.Mult,), ast.FloorDiv: (ast.Mult,),
    ast.Mod: (ast.Mult,), ast.Pow: (ast.Mult,), ast.BitAnd: (ast.BitOr,), ast.BitOr: (ast.BitAnd,),
}  # fmt: skip
RENAMED = {
    "any": "all", "all": "any", "sum": "mean", "mean": "sum", "median": "mean", "min": "max", "max": "min",
    "minimum": "maximum", "maximum": "minimum", "sign": "abs", "abs": "sign", "relu": "abs", "logsigmoid": "sigmoid",
    "floor": "ceil", "ceil": "floor", "zeros": "ones", "ones": "zeros",
}  # fmt: skip
SYMMETRIC = {"max", "maximum", "min", "minimum"}
DROPPED = {"abs", "clamp", "detach", "double", "float", "relu", "round", "sign", "sorted", "sqrt", "square", "to"}


@dataclass(frozen=True)
class Mutant:
    """A changed source: its line in the original, and the first statement that differs, before and after."""

    line: int
    before: str
    after: str
    source: str


def variants(node: ast.AST) -> Iterator[ast.AST]:
    """Yield what may stand in place of ``node``; the node itself is left as it is."""

    def changed(**fields: object) -> ast.AST:
        twin = copy.copy(node)
        vars(twin).update(fields)
        return twin

    match node:
        case ast.Compare(ops=ops):
            for place, op in enumerate(ops):
                for other in OPERATORS[type(op)]:
                    yield changed(ops=[*ops[:place], other(), *ops[place + 1 :]])
        case ast.BinOp(op=op) | ast.BoolOp(op=op) | ast.AugAssign(op=op):
            for other in OPERATORS.get(type(op), ()):
                yield changed(op=other())
        case ast.UnaryOp(operand=operand):
            yield operand
        case ast.Constant(value=bool(value)):
            yield ast.Constant(not value)
        case ast.Constant(value=int(value)):
            yield from (ast.Constant(value + 1), ast.Constant(value - 1))
        case ast.Constant(value=float(value)):
            yield from (ast.Constant(value + 1), ast.Constant(1 - value))
        case ast.Call(func=function, args=args):
            name = getattr(function, "attr", getattr(function, "id", ""))
            if name in RENAMED:
                field = "attr" if isinstance(function, ast.Attribute) else "id"
                renamed = copy.copy(function)
                setattr(renamed, field, RENAMED[name])
                yield changed(func=renamed)
            if name in DROPPED and isinstance(function, ast.Attribute):
                yield function.value
            elif name in DROPPED:
                yield args[0]
            for place in range(len(args) - 1 if name not in SYMMETRIC else 0):
                yield changed(args=[*args[:place], args[place + 1], args[place], *args[place + 2 :]])
            if name == "where":
                yield from args[1:]
        case ast.Slice(lower=lower, upper=upper):
            for field, bound in (("lower", lower), ("upper", upper)):
                if bound is not None and not isinstance(bound, ast.Constant):
                    yield changed(**{field: ast.BinOp(bound, ast.Add(), ast.Constant(1))})
        case ast.Subscript(slice=ast.Name() | ast.Call() as index, ctx=ast.Load()):
            yield changed(slice=ast.BinOp(index, ast.Add(), ast.Constant(1)))
        case ast.Return(value=ast.expr()):
            yield changed(value=ast.Constant(None))
        case ast.If(test=test) | ast.IfExp(test=test) | ast.While(test=test):
            if not has_opposite(test):
                yield changed(test=ast.UnaryOp(ast.Not(), test))
        case ast.comprehension(ifs=[test, *others]) if not has_opposite(test):
            yield changed(ifs=[ast.UnaryOp(ast.Not(), test), *others])
        case ast.Raise() | ast.Expr(value=ast.Call()):
            yield ast.Pass()
        case ast.Break():
            yield ast.Continue()
        case ast.Continue():
            yield ast.Break()


def has_opposite(test: ast.expr) -> bool:
    """Return whether ``test`` is a comparison whose operator is negated already, such as == or in."""
    return isinstance(test, ast.Compare) and len(OPERATORS[type(test.ops[0])]) == 1


def mutants(source: str) -> list[Mutant]:
    """Return every distinct mutant of ``source``."""
    tree = ast.parse(source)
    original = ast.unparse(tree)
    found: dict[str, Mutant] = {}

    def descend(node: ast.AST, line: int) -> None:
        for field, value in ast.iter_fields(node):
            if field in {"annotation", "returns", "decorator_list"}:
                continue
            several = isinstance(value, list)
            for place, child in enumerate(value if several else [value]):
                if not isinstance(child, ast.AST):
                    continue
                where = getattr(child, "lineno", line)
                for variant in variants(child):
                    setattr(node, field, [*value[:place], variant, *value[place + 1 :]] if several else variant)
                    text = ast.unparse(tree)
                    setattr(node, field, value)
                    if text not in found and text != original:
                        before, after = first_difference(original, text)
                        found[text] = Mutant(where, before, after, text)
                descend(child, where)

    descend(tree, 1)
    return list(found.values())


def first_difference(old: str, new: str) -> tuple[str, str]:
    """Return the first line that differs, in both texts."""
    pairs = zip(old.splitlines(), new.splitlines(), strict=False)
    return next((a.strip(), b.strip()) for a, b in pairs if a != b)
