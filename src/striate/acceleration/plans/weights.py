"""Whether the tensors that a model owns still hold the numbers that plans were packed from.

Assignments and writes through autograd move a tensor's version or its address. Writes through ``.data``, NumPy or
kernels of others move neither; for those, numbers themselves are compared (engine/llvm/memory/fingerprints.py), all of
a small tensor's and samples of a larger one's, other samples at every look. So an update of whole tensors, such as a
moving average, is seen at the next call. A few numbers of a large tensor, written past its version, are seen some calls
later; :func:`look_again` has them seen at once.
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
#: All that there are, to be told to look again.
_living: Final[weakref.WeakSet[Weights]] = weakref.WeakSet()


class Weights:
    """Tensors as they were at :meth:`take`."""

    def __init__(self, isa: Isa) -> None:
        self._isa = isa
        self._taken: Fingerprints | None = None
        self._versions: list[int] = []
        self._places: list[int] = []
        self._aliases: list[Tensor] = []
        _living.add(self)

    def take(self, tensors: Sequence[Tensor]) -> None:
        """Remembers what they hold now."""
        self._versions, self._places = list(map(_version, tensors)), list(map(Tensor.data_ptr, tensors))
        # Aliases keep the memory, so that no other tensor gets its address.
        self._aliases = [tensor.detach() for tensor in tensors]
        self._taken = Fingerprints(self._aliases, self._isa)

    def same(self, tensors: Sequence[Tensor]) -> bool | None:
        """Whether they hold what they did, as far as one look tells; None where they count no versions."""
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
    """Has accelerated models read their weights anew at the next call.

    Needed after writes of single numbers into large tensors that PyTorch isn't told of, as by NumPy, a kernel of one's
    own or ``.data``; all other changes are seen by themselves.

    >>> import striate, torch
    >>> model = striate.accelerate(torch.nn.Linear(512, 512), quiet=True)
    >>> model.weight.detach().numpy()[3, 7] = 1.0
    >>> striate.acceleration.look_again()
    """
    for each in list(_living):
        each.forget()
