"""What a graph's plans read of the model's numbers, in the order of the kernels: made once, and for all image sizes.

A constant is named by a key: which of the graph's arguments it follows from, by which operators, and how it is packed.
Plans for other sizes ask for the same keys and get the same memory, which stays where it is when it is packed again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

from striate.acceleration.plans.capture import Value


class Owned:
    """Values that follow from what the model owns, computed when first asked for."""

    def __init__(self, arguments: Sequence[Any]) -> None:
        self._arguments, self._found = arguments, dict[Value, Tensor]()

    def __call__(self, value: Value) -> Tensor:
        if value.argument is not None:
            tensor: Tensor = self._arguments[value.argument].detach()
            return tensor
        if value.tensor is not None:
            return value.tensor.detach()
        if value not in self._found:
            node = value.maker
            assert node is not None
            args, kwargs = tree_map_only(Value, self, (node.args, node.kwargs))
            made = node.function(*args, **kwargs)
            made = made if isinstance(made, (tuple, list)) else [made]
            self._found.update(zip(node.results, (each for each in made if each is not None), strict=True))
        return self._found[value]


#: Makes a constant, into the memory that it had before if there is some.
Make = Callable[[Owned, Tensor | None], Tensor]


class Constants:
    """Those of one graph. ``arguments`` are the graph's, of which the model's own tensors are read."""

    def __init__(self, arguments: Sequence[Any]) -> None:
        self.owned = Owned(arguments)
        self._made: dict[Any, tuple[Tensor, Make]] = {}

    def __call__(self, key: Any, make: Make) -> Tensor:
        """The constant of a key, made by ``make`` when it is asked for first."""
        found = self._made.get(key)
        if found is None:
            with torch.inference_mode(False), torch.no_grad():
                found = self._made[key] = make(self.owned, None), make
        return found[0]

    def again(self, arguments: Sequence[Any]) -> None:
        """Makes all of them anew, in place, from other numbers."""
        self.owned = Owned(arguments)
        with torch.inference_mode(False), torch.no_grad():
            for kept, make in self._made.values():
                make(self.owned, kept)
        self.settle(arguments)

    def settle(self, arguments: Sequence[Any]) -> None:
        """Lets go of what was computed on the way."""
        self.owned = Owned(arguments)
