"""A small line chart with whiskers, as plain geometry that a template draws (`chart` in parts.html.j2)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from inference.judges.intervals import Interval

WIDTH, HEIGHT = 520, 240
_LEFT, _RIGHT, _TOP, _BOTTOM = 44, 12, 10, 28
_NUM_LINES = 5


@dataclass(frozen=True)
class Curve:
    """kind: strong or pale. values: one for each place of the chart, in order."""

    kind: str
    values: Sequence[Interval]


@dataclass(frozen=True)
class Dot:
    """One value in the picture's coordinates. whisker: its interval's ends, None where it has none."""

    x: float
    y: float
    whisker: tuple[float, float] | None


@dataclass(frozen=True)
class Chart:
    """places: what stands below, evenly spaced. said: what it shows. span: of the vertical axis; of the values without
    one."""

    curves: Sequence[Curve]
    places: Sequence[str]
    said: str
    span: tuple[float, float] | None = None

    def x(self, index: int) -> float:
        """Of a place."""
        return _LEFT + index * (WIDTH - _LEFT - _RIGHT) / max(1, len(self.places) - 1)

    def y(self, value: float) -> float:
        """Of a value."""
        low, high = self._span()
        return _TOP + (high - value) / (high - low) * (HEIGHT - _BOTTOM - _TOP)

    def lines(self) -> list[tuple[float, str]]:
        """Horizontal lines: where, and the value beside each."""
        low, high = self._span()
        values = [low + i * (high - low) / (_NUM_LINES - 1) for i in range(_NUM_LINES)]
        return [(self.y(value), f"{value:.2f}") for value in values]

    def dots(self, curve: Curve) -> list[Dot]:
        """Of a curve; values that are NaN are left out."""
        return [
            Dot(self.x(i), self.y(v.value), None if math.isnan(v.low) else (self.y(v.low), self.y(v.high)))
            for i, v in enumerate(curve.values)
            if not math.isnan(v.value)
        ]

    def _span(self) -> tuple[float, float]:
        if self.span is not None:
            return self.span
        ends = [end for curve in self.curves for v in curve.values for end in (v.value, v.low, v.high)]
        ends = [end for end in ends if math.isfinite(end)] or [0.0]
        return min(ends), max(max(ends), min(ends) + 1e-6)
