"""The learning rate as a pure function of the step, so that a resumed run needs no scheduler state.

Every schedule rises linearly from 1/25 of the peak over the first ``warmup`` share of the steps. From there on, with
p = 0 ... 1 the share of the remaining steps that is done, it is the peak times

- one-cycle: 1 - p. Smith & Topin, "Super-convergence: very fast training of neural networks using large learning
  rates" (2018), section 3: one triangle, with the descent taken on to zero as their last phase does.
- cosine: (1 + cos(pi p)) / 2. Loshchilov & Hutter, "SGDR: stochastic gradient descent with warm restarts" (2017),
  equation 5, with one period and a smallest rate of zero.
- constant: 1.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final

START: Final = 1 / 25

_DESCENTS: Final[dict[str, Callable[[float], float]]] = {
    "one-cycle": lambda p: 1 - p,
    "cosine": lambda p: (1 + math.cos(math.pi * p)) / 2,
    "constant": lambda p: 1.0,
}


def learning_rate(step: int, steps: int, *, peak: float, schedule: str, warmup: float) -> float:
    """The learning rate of step ``step`` = 0 ... ``steps`` - 1.

    Args:
        step: number of the next step.
        steps: steps of the whole run.
        peak: the highest rate, which is reached after the warm-up.
        schedule: ``"one-cycle"``, ``"cosine"`` or ``"constant"``.
        warmup: share of the steps in which the rate rises, from 0 to below 1.

    >>> [round(learning_rate(t, 10, peak=1.0, schedule="one-cycle", warmup=0.2), 3) for t in (0, 1, 2, 6, 9)]
    [0.04, 0.52, 1.0, 0.5, 0.125]
    """
    assert 0 <= step < steps
    rise = warmup * steps
    if step < rise:
        return peak * (START + (1 - START) * step / rise)
    return peak * _DESCENTS[schedule]((step - rise) / (steps - rise))
