"""Parses arguments: Python's and NumPy's numbers, tensors of one number. Anything else is a one-line error."""

from __future__ import annotations

import contextlib
import functools
import inspect
import math
import numbers
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, ParamSpec, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from striate.errors import ExplainError

P = ParamSpec("P")
R = TypeVar("R")


def kind_of(value: Any) -> str:
    """A value in few words, for messages.

    >>> kind_of(torch.zeros(2, 3)), kind_of(True), kind_of(nn.ReLU())
    ('float32 of 2x3', 'True', 'a ReLU')
    """
    if isinstance(value, Tensor | np.ndarray):
        shape = "x".join(map(str, value.shape)) or "no axes"
        return f"{str(value.dtype).removeprefix('torch.')} of {shape}"
    if value is None or isinstance(value, bool | numbers.Number | str | bytes):
        return repr(value) if len(repr(value)) <= 40 else f"{repr(value)[:38]}…"
    name = type(value).__name__
    return f"{'an' if name[0].lower() in 'aeiou' else 'a'} {name}"


def single(value: Any) -> Any:
    """A tensor or array of one number as that number of Python's; anything else as it is."""
    if isinstance(value, Tensor | np.ndarray | np.generic) and math.prod(value.shape) == 1 and len(value.shape) == 0:
        return value.item()
    return value


def whole(name: str, value: Any) -> int:
    """A whole number of any kind as Python's.

    Raises:
        ExplainError: anything else; True and False are no numbers.
    """
    number = single(value)
    if isinstance(number, int | np.integer) and not isinstance(number, bool):
        if abs(int(number)) >= 1 << 63:
            raise ExplainError(name, f"got {kind_of(number)}", "needed a number of 64 bits")
        return int(number)
    raise ExplainError(name, f"got {kind_of(number)}", "needed a whole number")


def real(name: str, value: Any) -> float:
    """A finite number of any kind as Python's.

    Raises:
        ExplainError: anything else; True and False are no numbers.
    """
    number = single(value)
    if isinstance(number, int | float | np.number) and not isinstance(number, bool | np.complexfloating):
        with contextlib.suppress(OverflowError):
            if math.isfinite(float(number)):
                return float(number)
    raise ExplainError(name, f"got {kind_of(number)}", "needed a finite number")


def seed(name: str, value: Any) -> int:
    number = whole(name, value)
    if number < 0:
        raise ExplainError(name, f"got {number}", "needed 0 or more")
    return number


def truth(name: str, value: Any) -> bool:
    number = single(value)
    if isinstance(number, bool):
        return number
    raise ExplainError(name, f"got {kind_of(value)}", "needed True or False")


def text(name: str, value: Any) -> str:
    if isinstance(value, str):
        return str(value)
    raise ExplainError(name, f"got {kind_of(value)}", "needed a name")


def pair(name: str, value: Any) -> tuple[int, int]:
    """Whole numbers for rows and for columns; one stands for both."""
    number = single(value)
    if isinstance(number, numbers.Number):
        return (whole(name, number),) * 2
    if isinstance(number, Tensor | np.ndarray) and len(number.shape) == 1:
        number = number.tolist()
    if not isinstance(number, list | tuple) or len(number) != 2:
        got = kind_of(value) if not isinstance(number, list | tuple) else str(tuple(number))
        raise ExplainError(name, f"got {got}", "needed a number, or one for rows and one for columns")
    return whole(name, number[0]), whole(name, number[1])


def network(name: str, value: Any) -> nn.Module:
    if isinstance(value, nn.Module):
        return value
    got = f"the class {value.__name__}" if isinstance(value, type) else kind_of(value)
    raise ExplainError(name, f"got {got}", "needed a torch.nn.Module", "a function goes into one's forward")


def function(name: str, value: Any) -> Callable[..., Any]:
    if callable(value) and not isinstance(value, type):
        return value  # type: ignore[no-any-return]
    got = f"the class {value.__name__}" if isinstance(value, type) else kind_of(value)
    raise ExplainError(name, f"got {got}", "needed a function")


def method(name: str, value: Any) -> Callable[..., Any]:
    if isinstance(value, nn.Module | str):
        raise ExplainError(name, f"got {kind_of(value)}", "needed a function, as explain.grad_cam")
    return function(name, value)


def texts(name: str, value: Any) -> tuple[str, ...]:
    """Names, in order; none for None."""
    if value is None:
        return ()
    if isinstance(value, str | Mapping | Tensor) or not isinstance(value, Iterable):
        raise ExplainError(name, f"got {kind_of(value)}", "needed a list of names")
    return tuple(text(name, each) for each in value)


def array(name: str, value: Any) -> Tensor:
    """A tensor, or a NumPy array of numbers as one.

    Raises:
        ExplainError: anything else.
    """
    if isinstance(value, Tensor):
        return value
    if isinstance(value, np.ndarray) and value.dtype.kind in "fiub" and value.dtype.itemsize <= 8:
        # In this machine's order of bytes, writable, and without strides that go backwards: PyTorch takes no other.
        return torch.from_numpy(np.array(value, dtype=value.dtype.newbyteorder("="), order="C"))
    remedy = ""
    if isinstance(value, list):
        remedy = "torch.stack makes one of several images"
    elif type(value).__module__.startswith("PIL."):
        remedy = "striate.data.load_image reads pictures; divide by 255 and normalise as the network wants"
    raise ExplainError(name, f"got {kind_of(value)}", "needed a tensor or a NumPy array of numbers", remedy)


def layer(name: str, value: Any) -> str:
    if isinstance(value, nn.Module):
        needed = "needed the path of a layer, as 'layer4.1.conv2'"
        raise ExplainError(name, f"got {kind_of(value)}", needed, "named_modules() tells the paths")
    return text(name, value)


#: The conversion of an argument, by its annotation. None is kept where it is allowed.
_KINDS: Final[Mapping[str, Callable[[str, Any], Any]]] = {
    "torch.nn.Module": network,
    "nn.Module": network,
    "int": whole,
    "float": real,
    "bool": truth,
    "str": text,
    "Tensor": array,
    "Prepare": function,
    "Method": method,
}
#: The conversion by name, where the name is more specific than the annotation.
_NAMED: Final[Mapping[str, Callable[[str, Any], Any]]] = {"seed": seed, "layer": layer, "train": method}


def checked(function_: Callable[P, R]) -> Callable[P, R]:
    """A function whose arguments are first converted to Python's and PyTorch's types.

    The conversions follow from the annotations; the function itself checks ranges.

    Raises:
        ExplainError: by the function, for an argument of another kind.

    >>> @checked
    ... def twice(number: int) -> int:
    ...     return 2 * number
    >>> twice(np.int64(4))
    8
    """
    signature = inspect.signature(function_)
    known: dict[str, tuple[Callable[[str, Any], Any], bool]] = {}
    for name, parameter in signature.parameters.items():
        annotation = str(parameter.annotation).removesuffix(" | None")
        kind = function if annotation.startswith("Callable[") else _KINDS.get(annotation)
        kind = None if kind is None else _NAMED.get(name, kind)
        if kind is not None:
            known[name] = kind, annotation != str(parameter.annotation)

    @functools.wraps(function_)
    def called(*args: P.args, **kwargs: P.kwargs) -> R:
        bound = signature.bind(*args, **kwargs)
        for name, value in bound.arguments.items():
            if name in known and not (value is None and known[name][1]):
                bound.arguments[name] = known[name][0](name.rstrip("_"), value)
        return function_(*bound.args, **bound.kwargs)

    return called
