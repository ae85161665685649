"""Whether a plan is walked by all threads or by one.

Several threads wait for each other at every step, which takes long when the machine has other work. Only times tell,
and not once for all: so it is looked at again in use, by walks that are due anyway, after 64 of them, 256, 1024 and so
on. And where calls come now and then, threads that have gone to sleep may take ten milliseconds to wake: after a few
walks in a row that one thread would have done in half the time it is one thread's turn.
"""

from __future__ import annotations

import math
import statistics
from typing import Final

#: How many times as fast several threads have to be as one.
_WORTH: Final = 1.1
#: Walks after which both are timed again for the first time, each later time after so many times as many.
_FIRST, _RARER = 64, 4
#: Walks of each kind that are timed then.
_TRIALS: Final = 8
#: Walks in a row that were so many times as long as one thread's, and are too many.
_LATE, _TOO_LONG = 3, 2.0


class ThreadChoice:
    """The choice, for a plan that may be walked either way; walks are told of one after the other."""

    def __init__(self) -> None:
        self.alone = False
        self._walks, self._next, self._left = 0, _FIRST, 0
        self._taken: tuple[list[float], list[float]] = ([], [])
        self._one, self._late = math.inf, 0

    def settle(self, together: float, alone: float) -> None:
        """Chooses by the seconds that a walk takes all threads and one."""
        self.alone = alone <= _WORTH * together
        self._one, self._late = alone, 0

    def turn(self) -> bool:
        """Whether the walk that comes now is one thread's."""
        self._walks += 1
        if self._walks == self._next:
            self._next, self._left, self._taken = _RARER * self._next, 2 * _TRIALS, ([], [])
        return self._left % 2 == 1 if self._left else self.alone

    def took(self, alone: bool, seconds: float) -> None:
        """What that walk took."""
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
