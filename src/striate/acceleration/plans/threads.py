"""Chooses whether all threads or one thread run a plan.

Several threads wait for each other at every step, which takes long if the machine has other work. This has to be
measured, and can change: so both are timed again in use, on calls that happen anyway, after 64 runs, 256, 1024 and so
on. If calls are rare, threads that have gone to sleep may take ten milliseconds to wake up. So after a few consecutive
runs that one thread would have done in half the time, the plan switches to one thread.
"""

from __future__ import annotations

import math
import statistics
from typing import Final

#: The factor by which several threads have to be faster than one.
_WORTH: Final = 1.1
#: The number of runs before both are timed again, and the factor by which it grows each time.
_FIRST, _RARER = 64, 4
#: The number of runs of each kind that are timed then.
_TRIALS: Final = 8
#: After this many consecutive runs, each this factor slower than one thread, switch to one thread.
_LATE, _TOO_LONG = 3, 2.0


class ThreadChoice:
    """The choice for one plan; :meth:`took` records its runs one after the other."""

    def __init__(self) -> None:
        self.alone = False
        self._walks, self._next, self._left = 0, _FIRST, 0
        self._taken: tuple[list[float], list[float]] = ([], [])
        self._one, self._late = math.inf, 0

    def settle(self, together: float, alone: float) -> None:
        """Chooses from the seconds of a run on all threads and on one."""
        self.alone = alone <= _WORTH * together
        self._one, self._late = alone, 0

    def turn(self) -> bool:
        """Whether one thread computes the next run."""
        self._walks += 1
        if self._walks == self._next:
            self._next, self._left, self._taken = _RARER * self._next, 2 * _TRIALS, ([], [])
        return self._left % 2 == 1 if self._left else self.alone

    def took(self, alone: bool, seconds: float) -> None:
        """Records the seconds of that run."""
        if self._left:
            self._taken[alone].append(seconds)
            self._left -= 1
            if not self._left:
                self.settle(*map(statistics.median, self._taken))
        elif not alone:
            self._late = self._late + 1 if seconds > _TOO_LONG * self._one else 0
            if self._late == _LATE:
                self.alone, self._late = True, 0
                self._next = min(self._next, self._walks + _FIRST)
