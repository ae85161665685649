"""Python code that prints a number, by a call of PyTorch's or striate's public functions on the recorded operands."""

from __future__ import annotations

import math
from typing import Any

import torch

from striate.analysis.operators import Operation, Value
from striate.studio.derivation.table import Question, plain_name

#: The first lines of the code; the user defines ``model`` and ``inputs``.
PREAMBLE = "from striate.studio.recording import record\n\nrecording = record(model, inputs{training})\n"


def preamble(training: bool) -> str:
    return PREAMBLE.format(training=", training=True" if training else "")


def looked_up(number: int, place: tuple[int, ...]) -> str:
    """Code that prints the recorded number."""
    return f"print(recording.numbers[{number}]{_index(place)}.item())"


def _index(place: tuple[int, ...]) -> str:
    return f"[{', '.join(map(str, place))}]" if place else ""


def call(question: Question) -> str:
    """Code that computes the operator again and prints the number."""
    operation, name = question.operation, question.name
    if question.operation.written and question.value not in operation.outputs:
        return looked_up(question.number(question.value), question.place)
    if not operation.inputs or torch.Tag.nondeterministic_seeded in operation.target.tags:
        return looked_up(question.number(question.value), question.place)
    written = _nice(question, name) or _plain(question)
    several = len(operation.target._schema.returns) > 1 or "List" in str(operation.target._schema.returns[0].type)
    picked = f"[{question.rank}]" if several else ""
    shown = f"print(result{picked}{_index(question.place)}.item())"
    return f"import torch\n\nresult = {written}\n{shown}"


def _nice(question: Question, name: str) -> str | None:
    """A call of the well-known public function, if there is one with the same meaning."""
    operation = question.operation
    if name == "convolution":
        x, w, b = (_shown(question, operation.argument(each)) for each in ("input", "weight", "bias"))
        dims = len(operation.args[1].shape) - 2
        how = f"stride={_list(operation, 'stride')}, padding={_list(operation, 'padding')}"
        rest = f"groups={operation.argument('groups')}, dilation={_list(operation, 'dilation')}"
        if operation.argument("transposed"):
            extra = f"output_padding={_list(operation, 'output_padding')}"
            return f"torch.nn.functional.conv_transpose{dims}d({x}, {w}, {b}, {how}, {extra}, {rest})"
        return f"torch.nn.functional.conv{dims}d({x}, {w}, {b}, {how}, {rest})"
    if name in ("max_pool2d_with_indices", "max_pool3d_with_indices"):
        axes = name[8]
        stride = operation.argument("stride") or operation.argument("kernel_size")
        return (
            f"torch.nn.functional.max_pool{axes}d({_shown(question, operation.args[0])}, "
            f"{_shown(question, operation.argument('kernel_size'))}, stride={_shown(question, stride)}, "
            f"padding={_shown(question, operation.argument('padding'))}, "
            f"dilation={_shown(question, operation.argument('dilation'))}, "
            f"ceil_mode={operation.argument('ceil_mode')}, return_indices=True)"
        )
    if name in ("relu", "sigmoid", "tanh", "mm", "bmm", "cat", "permute", "transpose") and not operation.kwargs:
        return f"torch.{name}({', '.join(_shown(question, each) for each in operation.args)})"
    if name == "_softmax":
        return f"torch.softmax({_shown(question, operation.args[0])}, dim={operation.argument('dim')})"
    if name == "addmm" and not operation.kwargs:
        return f"torch.addmm({', '.join(_shown(question, each) for each in operation.args)})"
    return None


def _list(operation: Operation, name: str) -> str:
    return str([int(each) for each in operation.argument(name)])


def _plain(question: Question) -> str:
    """A call of the operator by its name in PyTorch's library; an in-place operator gets a copy."""
    operation = question.operation
    packet, _, overload = str(operation.target).partition(".")[2].partition(".")
    namespace = operation.target.namespace
    written = {
        argument.name
        for argument in operation.target._schema.arguments
        if argument.alias_info is not None and argument.alias_info.is_write
    }
    names = [argument.name for argument in operation.target._schema.arguments]
    arguments = [
        _shown(question, each) + (".clone()" if name in written and isinstance(each, Value) else "")
        for name, each in zip(names, operation.args, strict=False)
    ]
    arguments += [
        f"{name}={_shown(question, each)}" + (".clone()" if name in written and isinstance(each, Value) else "")
        for name, each in operation.kwargs.items()
    ]
    return f"torch.ops.{namespace}.{packet}.{overload}({', '.join(arguments)})"


def _shown(question: Question, argument: Any) -> str:
    """An argument as Python code."""
    if isinstance(argument, Value):
        return f"recording.numbers[{question.number(argument)}]"
    if isinstance(argument, list | tuple):
        inner = ", ".join(_shown(question, each) for each in argument)
        return f"[{inner}]" if isinstance(argument, list) else f"({inner}{',' * (len(argument) == 1)})"
    if isinstance(argument, float) and not math.isfinite(argument):
        return f"float('{argument}')"
    if isinstance(argument, torch.device):
        return f"torch.device({str(argument)!r})"
    return repr(argument)


__all__ = ["call", "looked_up", "plain_name", "preamble"]
