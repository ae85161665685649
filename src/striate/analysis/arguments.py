"""Parses arguments: numbers and arrays of Python, NumPy or PyTorch. An invalid argument is a one-line error."""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable, Sequence
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from striate.errors import AnalysisError, did_you_mean

#: A tensor, or an array that becomes one.
Array: TypeAlias = Tensor | np.ndarray[Any, Any]


def whole(name: str, value: object, least: int | None = None, most: int | None = None) -> int:
    """A whole number from ``least`` to ``most``.

    Raises:
        AnalysisError: no whole number, or one out of range.

    >>> whole("steps", np.int64(3), 1)
    3
    """
    found = _index(value)
    if found is None or (least is not None and found < least) or (most is not None and found > most):
        kind = "a whole number" if found is None else ""
        raise AnalysisError(name, f"got {_shown(value)}", _range(kind, least, most))
    return found


def number(
    name: str, value: object, least: float = -math.inf, most: float = math.inf, *, above: float = -math.inf
) -> float:
    """A finite number from ``least`` to ``most``, greater than ``above``.

    Raises:
        AnalysisError: no number, or one out of range.

    >>> number("epsilon", torch.tensor(0.5), 0, 1)
    0.5
    """
    found = _float(value)
    if found is None or not math.isfinite(found) or not least <= found <= most or found <= above:
        kind = "a number" if found is None or not math.isfinite(found) else ""
        if above > -math.inf:
            raise AnalysisError(name, f"got {_shown(value)}", f"needed {kind or 'one'} above {above:g}")
        bounds = (bound if math.isfinite(bound) else None for bound in (least, most))
        raise AnalysisError(name, f"got {_shown(value)}", _range(kind, *bounds))
    return found


def word(name: str, value: object, known: Iterable[str]) -> str:
    """One of the known words.

    Raises:
        AnalysisError: anything else.
    """
    known = list(known)
    if not isinstance(value, str) or value not in known:
        needed = "needed one of " + ", ".join(known) if len(known) > 3 else "needed " + " or ".join(known)
        raise AnalysisError(name, f"got {_shown(value)}", needed, did_you_mean(str(value), known))
    return value


def wholes(name: str, value: object, needed: str, least: int | None = None) -> tuple[int, ...]:
    """A sequence of whole numbers: list, tuple, ``torch.Size``, array.

    Raises:
        AnalysisError: anything else; it says ``needed``.

    >>> wholes("position", np.array([1, 2]), "(y, x)")
    (1, 2)
    """
    listed = items(value)
    found = [] if listed is None else [_index(each) for each in listed]
    if listed is None or any(each is None or (least is not None and each < least) for each in found):
        shown = tuple(listed) if listed is not None else value
        raise AnalysisError(name, f"got {_shown(shown)}", needed)
    return tuple(each for each in found if each is not None)


def items(value: object) -> list[Any] | None:
    """The items of a sequence or of a one-dimensional array; None for anything without items."""
    if isinstance(value, (Tensor, np.ndarray)):
        return value.tolist() if value.ndim == 1 else None
    if isinstance(value, (Sequence, range)) and not isinstance(value, (str, bytes)):
        return list(value)
    return None


def several(name: str, value: object, needed: str = "needed one or more, in a list") -> list[Any]:
    """The items of a list, one or more.

    Raises:
        AnalysisError: none, or no list.
    """
    found = items(value)
    if not found:
        raise AnalysisError(name, f"got {'none' if found == [] else _shown(value)}", needed)
    return found


def tensor(name: str, value: object, needed: str) -> Tensor:
    """A tensor as it is; an array, or nested lists of numbers, as a tensor of the same dtype.

    Raises:
        AnalysisError: anything else; it says ``needed``.
    """
    if isinstance(value, Tensor):
        return value
    if isinstance(value, (np.ndarray, np.generic, list, tuple)):
        try:
            array = np.asarray(value)
            if array.dtype != object:
                # A copy: an array may be read-only, run backwards, or change later.
                return torch.from_numpy(array.astype(array.dtype.newbyteorder("="), order="C", copy=True))
        except (TypeError, ValueError):
            pass
    raise AnalysisError(name, f"got {_shown(value)}", needed, "give a tensor or an array of numbers")


def array(name: str, value: object, needed: str) -> np.ndarray[Any, Any]:
    """An array from anything that NumPy converts; tensors may have gradients and lie on any device.

    Raises:
        AnalysisError: anything else; it says ``needed``.
    """
    if isinstance(value, Tensor):
        plain = value.detach().cpu()
        return (plain.float() if plain.dtype == torch.bfloat16 else plain).numpy()
    try:
        found = np.asarray(value)
    except (TypeError, ValueError, RuntimeError):
        found = np.empty(0, object)
    if found.dtype == object:
        raise AnalysisError(name, f"got {_shown(value)}", needed)
    return found


def layer(value: object, paths: Sequence[str], model: str) -> str:
    """The path of a layer.

    Raises:
        AnalysisError: no layer of the network.
    """
    if not isinstance(value, str) or value not in paths:
        remedy = did_you_mean(str(value), paths, "named_modules() lists them")
        raise AnalysisError("layer", f"got {_shown(value)}", f"needed a layer of {model}", remedy)
    return value


def position(where: str, value: object, lengths: Sequence[int]) -> tuple[int, ...]:
    """A place in a map.

    Raises:
        AnalysisError: a place outside of it, or of another number of axes.
    """
    needed = f"needed one in {'x'.join(map(str, lengths))}, counted from 0"
    found = wholes(where, value, needed)
    if len(found) != len(lengths) or any(not 0 <= place < n for place, n in zip(found, lengths, strict=True)):
        raise AnalysisError(where, f"got position {found}", needed)
    return found


def _index(value: object) -> int | None:
    if isinstance(value, (bool, np.bool_)) or (isinstance(value, Tensor) and value.dtype == torch.bool):
        return None
    try:
        return operator.index(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, RuntimeError):
        return None


def _float(value: object) -> float | None:
    if isinstance(value, (bool, np.bool_, str, bytes)) or value is None:
        return None
    try:
        return float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, RuntimeError, OverflowError):
        return None


def _range(kind: str, least: float | None, most: float | None) -> str:
    if least is None and most is None:
        return f"needed {kind}"
    bounds = (
        f"{least:g} or more" if most is None else f"{most:g} at most" if least is None else f"{least:g} to {most:g}"
    )
    return f"needed {kind}, {bounds}" if kind else f"needed {bounds}"


def _shown(value: object) -> str:
    """A value in an error: itself where it is short, its kind and shape otherwise."""
    if isinstance(value, (Tensor, np.ndarray)) and value.ndim:
        return f"{type(value).__name__} of {'x'.join(map(str, value.shape))}"
    text = " ".join(repr(value).split())
    return text if len(text) <= 60 else f"{type(value).__name__} {text[:50]}..."
