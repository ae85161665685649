"""Receptive fields along one axis as a rule for every position, including positions beyond the map's ends.

Through windows alone the field of position ``o`` is ``start + o * stride`` to ``start + o * stride + size - 1``
(Araujo, Norris & Sim, "Computing receptive fields of convolutional neural networks", Distill 2019). Transposed windows
and enlargements bring in phases: the rule repeats every ``period`` positions, ``step`` input positions further on.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import TypeAlias

from striate.geometry import Window

#: First and last input position that one position sees, or None if it sees nothing.
Span: TypeAlias = tuple[int, int] | None


@dataclass(frozen=True)
class Line:
    """Position ``o`` sees ``spans[o % period]``, shifted by ``o // period * step``; period is ``len(spans)``.

    >>> Line.identity().through(Window(7, 2, 3)).through(Window(3, 2, 1))
    Line(spans=((-5, 5),), step=4)
    """

    spans: tuple[Span, ...]
    step: int

    @classmethod
    def identity(cls) -> Line:
        """The input's own: every position sees itself."""
        return cls(((0, 0),), 1)

    def span(self, position: int) -> Span:
        """First and last input position that ``position`` sees, which may lie outside the map and the input."""
        turn, phase = divmod(position, len(self.spans))
        span = self.spans[phase]
        return None if span is None else (span[0] + turn * self.step, span[1] + turn * self.step)

    def through(self, window: Window) -> Line:
        """The rule of a window's outputs."""
        period = len(self.spans)
        # After this many outputs the window stands on the same phase again.
        turns = period // math.gcd(period, window.stride)
        return self._from(
            turns,
            turns * window.stride,
            lambda output: [window.position(output, tap) for tap in range(window.kernel)],
        )

    def through_transposed(self, window: Window) -> Line:
        """The rule of a transposed window's outputs."""
        return self._from(len(self.spans) * window.stride, len(self.spans), lambda output: sources(window, output))

    def repeated(self, taps: tuple[tuple[int, ...], ...]) -> Line:
        """The rule of an enlargement with ``len(taps)`` output positions for each input position."""
        factor = len(taps)
        return self._from(
            len(self.spans) * factor,
            len(self.spans),
            lambda output: [output // factor + tap for tap in taps[output % factor]],
        )

    def shifted(self, by: int) -> Line:
        """The rule after ``by`` positions are cut from the start, or ``-by`` positions are padded before it."""
        return replace(self, spans=tuple(self.span(phase + by) for phase in range(len(self.spans))))._reduced()

    def union(self, other: Line) -> Line | None:
        """The union of two rules, or None if their strides differ, so that no rule holds for all positions."""
        if self.stride != other.stride:
            return None
        period = math.lcm(len(self.spans), len(other.spans))
        spans = tuple(hull([self.span(phase), other.span(phase)]) for phase in range(period))
        return Line(spans, period // len(self.spans) * self.step)._reduced()

    def _from(self, period: int, inputs: int, taps: Callable[[int], Iterable[int]]) -> Line:
        spans = tuple(hull([self.span(tap) for tap in taps(output)]) for output in range(period))
        return Line(spans, inputs // len(self.spans) * self.step)._reduced()

    def _reduced(self) -> Line:
        """The same with the shortest period."""
        period = len(self.spans)
        for shorter in range(1, period):
            if period % shorter or self.step % (period // shorter):
                continue
            short = Line(self.spans[:shorter], self.step // (period // shorter))
            if all(short.span(phase) == self.spans[phase] for phase in range(period)):
                return short
        return self

    @property
    def size(self) -> int:
        """Input positions from the first to the last seen, in the phase that sees most; 0 if none sees anything."""
        return max((span[1] - span[0] + 1 for span in self.spans if span is not None), default=0)

    @property
    def stride(self) -> Fraction:
        """Input positions from one position's field to the next one's."""
        return Fraction(self.step, len(self.spans))

    @property
    def start(self) -> int | None:
        """First input position that position 0 sees (of the first that sees any)."""
        return next((span[0] for span in self.spans if span is not None), None)

    @property
    def centre(self) -> Fraction | None:
        """Middle of the field of position 0, over the phases where they differ."""
        middles = [
            Fraction(span[0] + span[1], 2) - self.stride * phase
            for phase, span in enumerate(self.spans)
            if span is not None
        ]
        return sum(middles, Fraction()) / len(middles) if middles else None


def hull(spans: Iterable[Span]) -> Span:
    """From the first to the last position of several spans."""
    known = [span for span in spans if span is not None]
    return (min(first for first, _ in known), max(last for _, last in known)) if known else None


def sources(window: Window, position: int) -> list[int]:
    """The positions on a window's output side that reach ``position`` on its input side."""
    outputs = []
    for tap in range(window.kernel):
        output, rest = divmod(position - window.position(0, tap), window.stride)
        if rest == 0:
            outputs.append(output)
    return outputs
