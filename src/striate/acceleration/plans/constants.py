"""The constants of a graph's plans, such as packed weights: computed once, and shared by plans of all image sizes.

A constant has a key: the graph's arguments on which it depends, the operators that compute it, and its packing. Plans
for other sizes use the same keys and get the same memory. Its address doesn't change when it is packed again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

from striate.acceleration.plans.capture import Value


class Owned:
    """Values that depend only on the model's own tensors, computed at first use."""

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


#: Computes a constant, into its previous memory if there is some.
Make = Callable[[Owned, Tensor | None], Tensor]


class Constants:
    """The constants of one graph; ``arguments`` are the graph's arguments, of which only the model's own are read."""

    def __init__(self, arguments: Sequence[Any]) -> None:
        self.owned = Owned(arguments)
        self._made: dict[Any, tuple[Tensor, Make]] = {}

    def __call__(self, key: Any, make: Make) -> Tensor:
        """The constant of a key, computed by ``make`` at first use."""
        found = self._made.get(key)
        if found is None:
            with torch.inference_mode(False), torch.no_grad():
                found = self._made[key] = make(self.owned, None), make
        return found[0]

    def again(self, arguments: Sequence[Any]) -> None:
        """Computes all constants again, in place, from new numbers."""
        self.owned = Owned(arguments)
        with torch.inference_mode(False), torch.no_grad():
            for kept, make in self._made.values():
                make(self.owned, kept)
        self.settle(arguments)

    def settle(self, arguments: Sequence[Any]) -> None:
        """Frees intermediate values."""
        self.owned = Owned(arguments)
