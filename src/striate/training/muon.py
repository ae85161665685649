"""Muon: momentum whose steps are orthogonal matrices, and AdamW for parameters that aren't matrices.

Sources: Jordan et al., "Muon: an optimizer for hidden layers in neural networks" (2024): the update of a layer's
weights, read as a matrix of outputs by inputs, is replaced by the nearest orthogonal matrix. Liu et al., "Muon is
scalable for LLM training" (2025), section 2.2: multiplied by 0.2 sqrt(max(outputs, inputs)) the update has the root
mean square of AdamW's, so both take the same learning rate and weight decay.

PyTorch's own ``torch.optim.Muon`` takes matrices alone, not the filters of a convolution.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Final

import torch
from torch import Tensor

#: Coefficients of the odd polynomial that is applied to all singular values at once and makes small ones grow fast
#: (Jordan et al.). After five iterations, values between 0.001 and 1 lie between 0.7 and 1.2.
_POLYNOMIAL: Final = (3.4445, -4.7750, 2.0315)
_ROUNDS: Final = 5
_SCALE: Final = 0.2  # the root mean square of AdamW's updates (Liu et al.)


class Muon(torch.optim.AdamW):
    """One optimizer for a whole network.

    Args:
        groups: parameter groups as any optimizer takes them; those with ``"matrices": True`` hold weights (O, ...) of
            layers and learn by Muon, the others by AdamW.
        lr: learning rate.
        momentum: of matrices.
        betas: of AdamW's averages.
        weight_decay: as AdamW's: a share of the weights, times the learning rate.

    Shape: a weight (O, I, h, w) counts as a matrix of O by I h w.

    >>> layer = torch.nn.Conv2d(2, 4, 3)
    >>> optimizer = Muon([{"params": [layer.weight], "matrices": True}, {"params": [layer.bias]}], lr=0.01)
    >>> layer(torch.ones(1, 2, 8, 8)).sum().backward()
    >>> optimizer.step()
    """

    def __init__(
        self,
        groups: Iterable[dict[str, Any]],
        lr: float = 1e-3,
        momentum: float = 0.95,
        betas: tuple[float, float] = (0.9, 0.999),
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(
            [{"matrices": False, **group} for group in groups], lr=lr, betas=betas, weight_decay=weight_decay
        )
        for group in self.param_groups:
            group["momentum"] = momentum

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One step by the gradients that the parameters have; ``closure`` computes them anew and gives the loss."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        everything = self.param_groups
        for group in everything:
            if group["matrices"]:
                self._turn(group)
        self.param_groups = [group for group in everything if not group["matrices"]]
        try:
            super().step()
        finally:
            self.param_groups = everything
        return loss

    def _turn(self, group: dict[str, Any]) -> None:
        for weight in group["params"]:
            if weight.grad is None:
                continue
            state = self.state[weight]
            if not state:
                state["step"] = torch.tensor(0.0)  # AdamW's reader of kept states looks for it everywhere
                state["momentum_buffer"] = torch.zeros_like(weight)
            average = state["momentum_buffer"]
            state["step"] += 1
            average.lerp_(weight.grad, 1 - group["momentum"])
            # Nesterov's momentum: the average after one more gradient of this kind.
            ahead = weight.grad.lerp(average, group["momentum"]).flatten(1)
            step = orthogonal(ahead) * (_SCALE * max(ahead.shape) ** 0.5)
            weight.mul_(1 - group["lr"] * group["weight_decay"])
            weight.add_(step.view(weight.shape), alpha=-group["lr"])


def orthogonal(matrix: Tensor) -> Tensor:
    """Approximately the orthogonal matrix nearest to ``matrix`` (M, N): its singular vectors, singular values near 1.

    Directions that are less than a thousandth of the matrix stay smaller. A matrix of zeros stays zero.

    Source: Jordan et al., the Newton-Schulz iteration of fifth degree. Each iterate is a polynomial in the Gram matrix
    times ``matrix``, so the polynomial is computed and multiplied once: with 2.5 times fewer multiplications for a
    matrix of 256 by 2,304.
    """
    wide = matrix.T if matrix.shape[0] > matrix.shape[1] else matrix
    wide = wide / (wide.norm() + 1e-7)
    a, b, c = _POLYNOMIAL
    one = torch.eye(len(wide), dtype=wide.dtype, device=wide.device)
    gram, factor = wide @ wide.T, one
    for number in range(_ROUNDS):
        step = a * one + b * gram + c * gram @ gram
        factor = step if number == 0 else step @ factor
        if number < _ROUNDS - 1:
            gram = step @ gram @ step
    found: Tensor = factor @ wide
    return found.T if matrix.shape[0] > matrix.shape[1] else found
