"""The table of backends: who can compute a problem, who does, and why the others don't.

A convolution is one trilinear form T(x, w, g) of input, weight and output gradient (see
:class:`striate.geometry.ConvShape`). A backend implements *the contraction with one operand left open*: leave the
output open and it is the forward pass, the input and it is the input gradient (and transposed convolution), the weight
and it is the weight gradient. Pooling walks the same windows; output and input gradient are its two contractions.

Choosing is a documented list of decisions: of the table below the first backend that doesn't refuse. ``use`` fixes the
choice, ``explain`` shows it.
"""

from __future__ import annotations

import enum
from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import lru_cache
from types import TracebackType

import torch
from torch import Tensor

from striate.errors import BackendError
from striate.geometry import ConvShape, PoolShape, Problem, parse


class Pass(enum.IntEnum):
    """Which operand of a problem is open. The order is that of the operands in the trilinear form."""

    INPUT_GRAD = 0
    WEIGHT_GRAD = 1
    OUTPUT = 2


class Backend(ABC):
    """A way of computing problems.

    Laws, which the tests hold every backend to:

    - what it accepts it computes as :mod:`striate.engine.reference` does, up to the rounding of the operands' dtype;
    - the passes of one problem are adjoint to each other: ``<contract(OUTPUT, x, w), g>``, ``<x, contract(INPUT_GRAD,
      w, g)>`` and ``<w, contract(WEIGHT_GRAD, x, g)>`` are one number, T(x, w, g);
    - operands are never written to, and results share no memory with them.
    """

    name: str

    @abstractmethod
    def refusal(self, problem: Problem, open_: Pass, dtype: torch.dtype, device: str) -> str | None:
        """Why this backend doesn't compute the problem, or None if it does."""

    @abstractmethod
    def contract(self, shape: ConvShape, open_: Pass, first: Tensor, second: Tensor, bias: Tensor | None) -> Tensor:
        """The convolution's form with one operand open, from the other two in the order input, weight, output.

        A bias, one number for each channel of the result, is added for the passes OUTPUT and INPUT_GRAD.
        """

    @abstractmethod
    def average(self, shape: PoolShape, open_: Pass, operand: Tensor) -> Tensor:
        """Average pooling of the input (OUTPUT), or the gradient it sends back (INPUT_GRAD)."""

    @abstractmethod
    def maximum(self, shape: PoolShape, input: Tensor) -> tuple[Tensor, Tensor]:
        """Max pooling: values, and each one's flat position within its channel, in any integer dtype."""

    @abstractmethod
    def maximum_grad(self, shape: PoolShape, indices: Tensor, grad_output: Tensor) -> Tensor:
        """The gradient that max pooling sends back: every output's to the position in ``indices``."""


#: In the order in which they are asked.
_TABLE: dict[str, Backend] = {}
_forced: str | None = None


def register(backend: Backend) -> None:
    """Puts a backend at the end of the table; a name that stands there already is an error."""
    if backend.name in _TABLE:
        raise BackendError("engine", f"a backend named {backend.name!r} exists", "needed a new name")
    _TABLE[backend.name] = backend
    _first_willing.cache_clear()


def backends() -> tuple[str, ...]:
    """Names of the backends, in the order in which ``"auto"`` asks them."""
    return tuple(_TABLE)


class use:  # noqa: N801 - a statement, like torch.no_grad
    """Fixes the backend for the whole process: ``use("reference")``, or for a block: ``with use("reference"): ...``.

    Args:
        name: a name from :func:`backends`, or ``"auto"`` for the first one that accepts.

    With a fixed backend a problem that it refuses is a BackendError rather than somebody else's work.

    >>> import striate
    >>> with striate.engine.use("reference"):
    ...     striate.ops.max_pool1d(torch.tensor([[[1.0, 3.0, 2.0, 4.0]]]), 2)
    tensor([[[3., 4.]]])
    """

    def __init__(self, name: str) -> None:
        global _forced
        if name != "auto" and name not in _TABLE:
            raise BackendError("engine.use", f"got {name!r}", "needed auto or one of " + ", ".join(_TABLE))
        self._before = _forced
        _forced = None if name == "auto" else name

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        global _forced
        _forced = self._before


@lru_cache(maxsize=16384)
def _first_willing(problem: Problem, open_: Pass, dtype: torch.dtype, device: str) -> Backend:
    refusals = []
    for backend in _TABLE.values():
        refusal = backend.refusal(problem, open_, dtype, device)
        if refusal is None:
            return backend
        refusals.append(f"{backend.name}: {refusal}")
    raise BackendError(str(problem), "every backend refuses (" + "; ".join(refusals) + ")")


def choose(problem: Problem, open_: Pass, operand: Tensor) -> Backend:
    """The backend that computes ``problem`` on a tensor like ``operand``."""
    if _forced is None:
        return _first_willing(problem, open_, operand.dtype, operand.device.type)
    backend = _TABLE[_forced]
    refusal = backend.refusal(problem, open_, operand.dtype, operand.device.type)
    if refusal is not None:
        raise BackendError(
            str(problem), f"backend {_forced} refuses: {refusal}", remedy='let another do it: use("auto")'
        )
    return backend


@dataclass(frozen=True)
class Explanation:
    """Who computes a problem: for each pass and backend None (accepts) or the reason for refusing."""

    problem: Problem
    dtype: torch.dtype
    device: str
    chosen: dict[Pass, str]
    refusals: dict[Pass, dict[str, str | None]]

    def __str__(self) -> str:
        kind = f"{str(self.dtype).removeprefix('torch.')} on {self.device}"
        if isinstance(self.problem, ConvShape):
            kind += f", {self.problem.macs:,} MACs a pass ({self.problem.in_bounds_macs:,} in bounds)"
        lines = [str(self.problem), f"  {kind}"]
        for open_, asked in self.refusals.items():
            lines.append(f"  {open_.name.lower().replace('_', ' ')}: {self.chosen[open_]}")
            lines += [f"    {name}: {refusal or 'accepts'}" for name, refusal in asked.items()]
        return "\n".join(lines)


def explain(problem: Problem | str, dtype: torch.dtype = torch.float32, device: str = "cpu") -> Explanation:
    """Who computes ``problem`` (or the line that one prints as) and why the others don't.

    >>> print(explain("conv2d 8x3x32x32 16x3x3x3 padding=1"))
    conv2d 8x3x32x32 16x3x3x3 padding=1
      float32 on cpu, 3,538,944 MACs a pass (3,393,024 in bounds)
      output: aten
        aten: accepts
        reference: accepts
      input grad: aten
        aten: accepts
        reference: accepts
      weight grad: aten
        aten: accepts
        reference: accepts
    """
    known = parse(problem) if isinstance(problem, str) else problem
    passes = (Pass.OUTPUT, Pass.INPUT_GRAD, Pass.WEIGHT_GRAD)
    like = torch.empty(0, dtype=dtype, device=device)
    asked = passes if isinstance(known, ConvShape) else passes[:2]
    return Explanation(
        known,
        dtype,
        device,
        {open_: choose(known, open_, like).name for open_ in asked},
        {
            open_: {name: backend.refusal(known, open_, dtype, device) for name, backend in _TABLE.items()}
            for open_ in asked
        },
    )
