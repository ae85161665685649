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
from torch.jit import is_tracing  # type: ignore[attr-defined]

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
    def contract(
        self,
        shape: ConvShape,
        open_: Pass,
        first: Tensor,
        second: Tensor,
        bias: Tensor | None,
        channels_last: bool = False,
    ) -> Tensor:
        """The convolution's form with one operand open, from the other two in the order input, weight, output.

        A bias, one number for each channel of the result, is added for the passes OUTPUT and INPUT_GRAD.
        ``channels_last`` is the layout that images have in this network, for whoever makes one.
        """

    @abstractmethod
    def average(self, shape: PoolShape, open_: Pass, operand: Tensor, channels_last: bool = False) -> Tensor:
        """Average pooling of the input (OUTPUT), or the gradient it sends back (INPUT_GRAD)."""

    @abstractmethod
    def maximum(self, shape: PoolShape, input: Tensor) -> tuple[Tensor, Tensor]:
        """Max pooling: values, and each one's flat position within its channel, in any integer dtype."""

    @abstractmethod
    def maximum_grad(
        self, shape: PoolShape, indices: Tensor, grad_output: Tensor, channels_last: bool = False
    ) -> Tensor:
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
    """Fixes the backend: ``use("reference")`` from now on, or ``with use("reference"): ...`` for a block.

    The choice is the process's, since gradients may be computed in other threads than the one that asked for them.
    Code that a compiler or an exporter traces isn't touched: it is made of PyTorch's own operators.

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
    return _choose(problem, open_, operand.dtype, operand.device.type)


def _choose(problem: Problem, open_: Pass, dtype: torch.dtype, device: str) -> Backend:
    if _forced is None:
        return _first_willing(problem, open_, dtype, device)
    backend = _TABLE[_forced]
    refusal = backend.refusal(problem, open_, dtype, device)
    if refusal is not None:
        raise BackendError(
            str(problem), f"backend {_forced} refuses: {refusal}", remedy='let another do it: use("auto")'
        )
    return backend


def traced(tensor: Tensor) -> bool:
    """Whether a compiler, exporter or tracer is looking on.

    It knows PyTorch's own operators, with their gradients, and fuses across them; so that is what it gets to see.
    """
    return torch.compiler.is_compiling() or is_tracing() or tensor._has_symbolic_sizes_strides


@dataclass(frozen=True)
class Explanation:
    """Who computes a problem: for each pass and backend None (accepts) or the reason for refusing.

    ``chosen`` has None where nobody would: all refuse, or the one does that :class:`use` has fixed.
    """

    problem: Problem
    dtype: torch.dtype
    device: str
    chosen: dict[Pass, str | None]
    refusals: dict[Pass, dict[str, str | None]]

    def __str__(self) -> str:
        kind = f"{str(self.dtype).removeprefix('torch.')} on {self.device}"
        if isinstance(self.problem, ConvShape):
            kind += f", {self.problem.macs:,} MACs a pass ({self.problem.in_bounds_macs:,} in bounds)"
            kind += ", as four real problems" * self.dtype.is_complex
        lines = [str(self.problem), f"  {kind}"]
        for open_, asked in self.refusals.items():
            lines.append(f"  {open_.name.lower().replace('_', ' ')}: {self.chosen[open_] or 'nobody'}")
            lines += [f"    {name}: {refusal or 'accepts'}" for name, refusal in asked.items()]
        return "\n".join(lines)


def explain(problem: Problem | str, dtype: torch.dtype = torch.float32, device: str = "cpu") -> Explanation:
    """Who computes ``problem`` (or the line that one prints as) and why the others don't.

    Eagerly, that is: what a compiler or an exporter traces is made of PyTorch's own operators.

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
    conv = isinstance(known, ConvShape)
    # Complex convolutions are computed as real ones.
    asked_dtype = dtype.to_real() if conv and dtype.is_complex else dtype
    kind = torch.device(device).type
    chosen: dict[Pass, str | None] = {}
    refusals: dict[Pass, dict[str, str | None]] = {}
    for open_ in (Pass.OUTPUT, Pass.INPUT_GRAD, Pass.WEIGHT_GRAD)[: 3 if conv else 2]:
        refusals[open_] = {name: backend.refusal(known, open_, asked_dtype, kind) for name, backend in _TABLE.items()}
        willing = (name for name, refusal in refusals[open_].items() if refusal is None and _forced in (None, name))
        chosen[open_] = next(willing, None)
    return Explanation(known, dtype, device, chosen, refusals)
