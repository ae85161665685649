"""Detects whether a model's tensors have changed since plans packed them.

Assignments and in-place operations change a tensor's version or address. Writes through ``.data``, NumPy or foreign
kernels change neither, so digests of the numbers are compared (engine/llvm/memory/fingerprints.py): of all numbers of a
small tensor, and of samples of a large one, different ones at every check. So an update of whole tensors, such as a
moving average, is noticed at the next call. Changes of a few numbers of a large tensor that don't change its version
are noticed some calls later, or at once after :func:`look_again`.
"""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from operator import attrgetter
from typing import Final

from torch import Tensor

from striate.engine.llvm.codegen.isa import Isa
from striate.engine.llvm.memory.fingerprints import Fingerprints

_version: Final = attrgetter("_version")
#: All living instances, for :func:`look_again`.
_living: Final[weakref.WeakSet[WeightSnapshot]] = weakref.WeakSet()


class WeightSnapshot:
    """A snapshot of tensors, taken by :meth:`take`."""

    def __init__(self, isa: Isa) -> None:
        self._isa = isa
        self._taken: Fingerprints | None = None
        self._versions: list[int] = []
        self._places: list[int] = []
        self._aliases: list[Tensor] = []
        _living.add(self)

    def take(self, tensors: Sequence[Tensor]) -> None:
        """Takes a snapshot of the tensors."""
        self._versions, self._places = list(map(_version, tensors)), list(map(Tensor.data_ptr, tensors))
        # Aliases keep the memory alive, so that no other tensor gets its address.
        self._aliases = [tensor.detach() for tensor in tensors]
        self._taken = Fingerprints(self._aliases, self._isa)

    def same(self, tensors: Sequence[Tensor]) -> bool | None:
        """Whether the tensors are unchanged, as far as one check can tell; None if they have no versions."""
        try:
            versions = list(map(_version, tensors))
        except RuntimeError:
            return None  # made in inference mode
        return (
            self._taken is not None
            and versions == self._versions
            and list(map(Tensor.data_ptr, tensors)) == self._places
            and self._taken.same()
        )

    def forget(self) -> None:
        self._taken = None


def look_again() -> None:
    """Makes accelerated models read their weights again at the next call.

    This is needed after writes of single numbers into large tensors that bypass PyTorch's versions, such as those by
    NumPy, by a custom kernel or through ``.data``. All other changes are noticed automatically.

    >>> import striate, torch
    >>> model = striate.accelerate(torch.nn.Linear(512, 512), quiet=True)
    >>> model.weight.detach().numpy()[3, 7] = 1.0
    >>> striate.acceleration.look_again()
    """
    for each in list(_living):
        each.forget()
