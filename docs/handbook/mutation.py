"""Plants small errors in the functions of formulas and asks whether the formulas' own tests notice.

    python docs/handbook/mutation.py F36 F37        a few formulas
    python docs/handbook/mutation.py                all formulas and worked examples (an hour)

An error is one change of one syntax node: a factor (a result doubled), a sign (+ for -, * for /, a dropped minus), an
index (a whole number one larger), an order (max for min, < for >=), or a step (a mean for a sum, a flip or an inner
call left out). The changed function replaces the code of the one that is imported, so every caller meets it. Each
error is planted in a forked process, which then runs the tests that carry the formula's number, without the slow ones.
A test that fails has noticed. Only lines that these tests run are changed, since one function may hold several
formulas; and checks of arguments aren't changed, since they hold none.
"""

from __future__ import annotations

import ast
import copy
import importlib
import inspect
import json
import os
import sys
import tempfile
import time
import types
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

import traceability

_SIGNS = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Add, ast.Div: ast.Mult, ast.FloorDiv: ast.Mult,
    ast.MatMult: ast.Sub, ast.Pow: ast.Mult, ast.Mod: ast.Add,
}  # fmt: skip
_ORDERS = {ast.Lt: ast.GtE, ast.GtE: ast.Lt, ast.Gt: ast.LtE, ast.LtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq}
_NAMES = {"max": "min", "min": "max", "amax": "amin", "ceil": "floor", "floor": "ceil"}
#: Calls that may change nothing.
_CASTS = ("bool", "int", "float", "str", "tuple", "list", "len")
#: Fields of syntax nodes that compute nothing.
_SKIPPED = ("annotation", "returns", "args", "decorator_list", "type_params")
#: Kinds of errors, in the order in which they are planted.
_KINDS = ("factor", "sign", "index", "step", "order")
#: Seconds after which a test has noticed that nothing comes to an end.
_PATIENCE = 900


@dataclass(frozen=True)
class Error:
    """One planted error.

    Args:
        function: where, by its dotted name.
        kind: ``"factor"``, ``"sign"``, ``"step"``, ``"order"`` or ``"index"``.
        line: of the file.
        change: what was, and what is.
        code: of the changed function.
    """

    function: str
    kind: str
    line: int
    change: str
    code: types.CodeType


def _resolve(mark: traceability.Mark) -> Any:
    """The function or class that carries a mark."""
    found: Any = importlib.import_module(mark.dotted.removesuffix(f".{mark.name}"))
    for part in mark.name.split("."):
        found = inspect.getattr_static(found, part)
    return found


def _plain(found: Any) -> types.FunctionType:
    """The function whose code is run, within decorators and properties."""
    if isinstance(found, property):
        found = found.fget
    if isinstance(found, staticmethod | classmethod):
        found = found.__func__
    found = inspect.unwrap(found)
    assert isinstance(found, types.FunctionType), found
    return found


def targets(mark: traceability.Mark) -> list[types.FunctionType]:
    """The functions to change: the marked one, or of a class its own methods that compute (not its constructor)."""
    found = _resolve(mark)
    if not isinstance(found, type):
        return [_plain(found)]
    methods = [value for name, value in vars(found).items() if name in ("forward", "_conv_forward", "__call__")]
    if not methods:
        methods = [vars(found)["__init__"]]
    return [_plain(method) for method in methods]


def _changes(node: ast.AST) -> Iterator[tuple[str, str, ast.AST]]:
    """Ways to get a node wrong, as kind, description, and the wrong node."""
    if isinstance(node, ast.BinOp | ast.AugAssign) and type(node.op) in _SIGNS:
        wrong = copy.deepcopy(node)
        wrong.op = _SIGNS[type(node.op)]()
        yield "sign", f"{ast.unparse(node)} -> {ast.unparse(wrong)}", wrong
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub) and not isinstance(node.operand, ast.Constant):
        yield "sign", f"{ast.unparse(node)} -> {ast.unparse(node.operand)}", node.operand
    elif isinstance(node, ast.Compare) and type(node.ops[0]) in _ORDERS:
        wrong = copy.deepcopy(node)
        wrong.ops[0] = _ORDERS[type(node.ops[0])]()
        yield "order", f"{ast.unparse(node)} -> {ast.unparse(wrong)}", wrong
    elif isinstance(node, ast.Constant) and type(node.value) is int:
        yield "index", f"{node.value} -> {node.value + 1}", ast.Constant(node.value + 1)
    elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name | ast.Attribute):
        name = node.func.id if isinstance(node.func, ast.Name) else node.func.attr
        if name in _NAMES:
            wrong = copy.deepcopy(node)
            if isinstance(wrong.func, ast.Name):
                wrong.func.id = _NAMES[name]
            else:
                assert isinstance(wrong.func, ast.Attribute)
                wrong.func.attr = _NAMES[name]
            yield "order", f"{ast.unparse(node)} -> {ast.unparse(wrong)}", wrong
        elif name == "sum" and isinstance(node.func, ast.Attribute):
            wrong = copy.deepcopy(node)
            assert isinstance(wrong.func, ast.Attribute)
            wrong.func.attr = "mean"
            yield "step", f"{ast.unparse(node)} -> {ast.unparse(wrong)}", wrong
        elif name == "flip" and isinstance(node.func, ast.Attribute):
            yield "step", f"{ast.unparse(node)} -> {ast.unparse(node.func.value)}", node.func.value
        elif name not in _CASTS and len(node.args) == 1 and not node.keywords and isinstance(node.args[0], ast.Call):
            yield "step", f"{ast.unparse(node)} -> {ast.unparse(node.args[0])}", node.args[0]
    elif isinstance(node, ast.Return) and node.value is not None:
        wrong = ast.Return(ast.BinOp(ast.Constant(2), ast.Mult(), node.value))
        yield "factor", f"{ast.unparse(node)} -> {ast.unparse(wrong)}", wrong


def _computing(node: ast.AST) -> Iterator[tuple[ast.AST, str, int | None]]:
    """Every node that computes, as its parent, field and place in it; checks of arguments and annotations left out."""
    for field, value in ast.iter_fields(node):
        if field in ("annotation", "returns", "args", "decorator_list", "type_params") and not isinstance(
            node, ast.Call
        ):
            continue
        for place, child in enumerate(value) if isinstance(value, list) else [(None, value)]:
            if not isinstance(child, ast.AST) or isinstance(child, ast.Raise | ast.Assert):
                continue
            # What follows "and" or "or", and the branches of a conditional expression, may never be evaluated.
            if (isinstance(node, ast.BoolOp) and place) or (isinstance(node, ast.IfExp) and field != "test"):
                continue
            if isinstance(child, ast.If) and any(isinstance(each, ast.Raise) for each in ast.walk(child)):
                continue
            yield node, field, place
            yield from _computing(child)


def errors_in(function: types.FunctionType) -> Iterator[Error]:
    """All small errors that one can make in a function."""
    file = inspect.getsourcefile(function)
    assert file
    tree = ast.parse(Path(file).read_text("utf-8"))
    first = function.__code__.co_firstlineno
    for node in ast.walk(tree):
        starts = getattr(node, "lineno", None), *(each.lineno for each in getattr(node, "decorator_list", ()))
        if isinstance(node, ast.FunctionDef) and node.name == function.__name__ and first in starts:
            break
    else:
        return
    for parent, field, place in list(_computing(node)):
        held = getattr(parent, field)
        right = held if place is None else held[place]
        for kind, change, wrong in _changes(right):
            ast.copy_location(wrong, right)
            _put(parent, field, place, wrong)
            compiled = compile(ast.fix_missing_locations(tree), file, "exec")
            _put(parent, field, place, right)
            code = _find(compiled, function.__code__)
            if code is not None:
                yield Error(f"{function.__module__}.{function.__qualname__}", kind, right.lineno, change, code)


def _put(parent: ast.AST, field: str, place: int | None, node: ast.AST) -> None:
    if place is None:
        setattr(parent, field, node)
    else:
        getattr(parent, field)[place] = node


def _find(code: types.CodeType, like: types.CodeType) -> types.CodeType | None:
    for each in code.co_consts:
        if isinstance(each, types.CodeType):
            if each.co_qualname == like.co_qualname and each.co_firstlineno == like.co_firstlineno:
                return each
            found = _find(each, like)
            if found is not None:
                return found
    return None


def chosen(one: str) -> list[tuple[types.FunctionType, Error]]:
    """The errors that are planted for a formula: in each of its functions one of every kind that is possible there.

    Formulas stand at the end of functions, after what prepares operands, so the last of a kind is taken.
    """
    marks = traceability.of(one, traceability.functions())
    functions = [function for mark in marks for function in targets(mark)]
    run = _lines_run(functions, _fast_tests(one))
    found: list[dict[str, tuple[types.FunctionType, Error]]] = []
    for function, lines in zip(functions, run, strict=True):
        found.append({error.kind: (function, error) for error in errors_in(function) if error.line in lines})
    return [each[kind] for kind in _KINDS for each in found if kind in each]


def _fast_tests(one: str) -> list[str]:
    return [mark.node_id for mark in traceability.of(one, traceability.tests()) if not mark.slow]


def _run(node_ids: list[str]) -> int:
    import pytest

    options = ["-x", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", "-p", "no:logging", "-m", "not slow"]
    return int(pytest.main([*options, f"--rootdir={traceability.ROOT}", *node_ids]))


def _silent() -> None:
    sink = os.open(os.devnull, os.O_WRONLY)
    os.dup2(sink, 1)
    os.dup2(sink, 2)


def _lines_run(functions: list[types.FunctionType], node_ids: list[str]) -> list[set[int]]:
    """For each function the lines that the tests run, found out in a process of its own.

    Raises:
        RuntimeError: the tests fail without an error planted.
    """
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        _silent()
        status = 99
        try:
            lines: dict[types.CodeType, set[int]] = {function.__code__: set() for function in functions}

            def trace(frame: types.FrameType, event: str, _: object) -> Any:
                seen = lines.get(frame.f_code)
                if seen is None:
                    return None
                seen.add(frame.f_lineno)
                return trace

            sys.settrace(trace)
            status = _run(node_ids)
            os.write(writer, json.dumps([sorted(lines[function.__code__]) for function in functions]).encode())
        finally:
            os._exit(status)
    os.close(writer)
    with os.fdopen(reader) as pipe:
        answer = pipe.read()
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if status:
        raise RuntimeError(f"pytest ended with {status}; needed tests that pass before an error is planted: {node_ids}")
    return [set(each) for each in json.loads(answer)]


def noticed(function: types.FunctionType, error: Error, node_ids: list[str]) -> bool:
    """Whether one of the tests fails with the error planted, in a process of its own.

    Raises:
        RuntimeError: pytest could not run the tests.
    """
    child = os.fork()
    if not child:
        _silent()
        status = 99
        try:
            function.__code__ = error.code
            status = _run(node_ids)
        finally:
            os._exit(status)
    end = time.monotonic() + _PATIENCE
    while time.monotonic() < end:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            code = os.waitstatus_to_exitcode(status)
            if code not in (0, 1, 2, 99) and code >= 0:
                raise RuntimeError(f"{error.function}: pytest ended with {code}; needed tests that run: {node_ids}")
            return code != 0
        time.sleep(0.05)
    os.kill(child, 9)
    os.waitpid(child, 0)
    return True


def survivors(one: str) -> tuple[int, list[Error]]:
    """How many errors were planted for a formula, and those that its tests didn't notice."""
    planted = chosen(one)
    return len(planted), [error for function, error in planted if not noticed(function, error, _fast_tests(one))]


def numbers() -> list[str]:
    """All formulas. Worked examples are numbers of theirs, and their tests hold a part of each function only."""
    return [each.id for each in traceability.entries().values() if each.kind == "formula"]


def main() -> int:
    os.chdir(traceability.ROOT)
    # What every test needs is imported once, before processes are forked.
    for name in ("hypothesis", "scipy.signal", "striate.analysis", "striate.explain", "striate.models", "striate.ops"):
        importlib.import_module(name)
    # The forked processes share compiled kernels; tests/conftest.py makes a folder for each run otherwise.
    with tempfile.TemporaryDirectory(prefix="striate-mutation-") as cache:
        os.environ |= {"PYTEST_XDIST_WORKER": "mutation", "STRIATE_TEST_CACHE": cache, "STRIATE_TUNE": "0"}
        asked = sys.argv[1:] or [
            each.id for each in traceability.entries().values() if each.kind in ("formula", "worked")
        ]
        failed = False
        for one in asked:
            count, left = survivors(one)
            failed |= bool(left)
            print(f"{one}: {count - len(left)} of {count} noticed", flush=True)
            for error in left:
                print(f"    {error.function}, line {error.line}: {error.change}", flush=True)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
