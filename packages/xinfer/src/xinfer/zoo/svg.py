"""Small line charts as SVG text, without a plotting library."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from html import escape

import numpy as np

_LEFT, _RIGHT, _TOP, _BOTTOM = 56, 12, 28, 32
_FONT = 'font-family="system-ui, sans-serif" font-size="12" fill="#444"'


@dataclass
class Chart:
    """A chart that is drawn in the order of calls; x and y are in the data's own units.

    Args:
        title: Above the chart.
        x_range, y_range: What the axes span.
        x_label: Below the chart.
        width, height: In pixels.
    """

    title: str
    x_range: tuple[float, float]
    y_range: tuple[float, float]
    x_label: str = ""
    width: int = 800
    height: int = 300
    _parts: list[str] = field(default_factory=list)

    def line(self, x: np.ndarray, y: np.ndarray, colour: str, *, dash: str = "") -> None:
        """A line through points; interrupted where y is not finite."""
        dashes = f' stroke-dasharray="{dash}"' if dash else ""
        for run in _finite_runs(y):
            points = self._points(x[run], y[run])
            self._parts.append(
                f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="1.5"{dashes}/>'
            )

    def band(self, x: np.ndarray, low: np.ndarray, high: np.ndarray, colour: str) -> None:
        """The area between two lines."""
        points = self._points(np.concatenate([x, x[::-1]]), np.concatenate([high, low[::-1]]))
        self._parts.append(f'<polygon points="{points}" fill="{colour}" fill-opacity="0.2" stroke="none"/>')

    def span(self, start: float, end: float, colour: str) -> None:
        """Everything between two places of the x axis."""
        left, right = self._x(np.array([start, end]))
        self._parts.append(
            f'<rect x="{left:.1f}" y="{_TOP}" width="{max(right - left, 1):.1f}" '
            f'height="{self.height - _TOP - _BOTTOM}" fill="{colour}" fill-opacity="0.25"/>'
        )

    def render(self) -> str:
        """The whole chart as an SVG document."""
        grid = []
        for value in ticks(*self.y_range):
            y = self._y(np.array([value]))[0]
            grid.append(f'<path d="M{_LEFT} {y:.1f}H{self.width - _RIGHT}" stroke="#ddd"/>')
            grid.append(f'<text x="{_LEFT - 6}" y="{y + 4:.1f}" text-anchor="end" {_FONT}>{value:g}</text>')
        for value in ticks(*self.x_range):
            x = self._x(np.array([value]))[0]
            place = f'x="{x:.1f}" y="{self.height - _BOTTOM + 16}"'
            grid.append(f'<text {place} text-anchor="middle" {_FONT}>{value:g}</text>')
        titles = (
            f'<text x="{_LEFT}" y="18" {_FONT} font-weight="600">{escape(self.title)}</text>'
            f'<text x="{self.width - _RIGHT}" y="{self.height - 4}" text-anchor="end" {_FONT}>'
            f"{escape(self.x_label)}</text>"
        )
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {self.width} {self.height}" '
            f'width="{self.width}" height="{self.height}" role="img" aria-label="{escape(self.title)}">'
            f'<rect width="100%" height="100%" fill="#fff"/>{"".join([*grid, *self._parts])}{titles}</svg>'
        )

    def _points(self, x: np.ndarray, y: np.ndarray) -> str:
        return " ".join(f"{a:.1f},{b:.1f}" for a, b in zip(self._x(x), self._y(y), strict=True))

    def _x(self, values: np.ndarray) -> np.ndarray:
        low, high = self.x_range
        return _LEFT + (values - low) / ((high - low) or 1) * (self.width - _LEFT - _RIGHT)

    def _y(self, values: np.ndarray) -> np.ndarray:
        low, high = self.y_range
        return self.height - _BOTTOM - (values - low) / ((high - low) or 1) * (self.height - _TOP - _BOTTOM)


def ticks(low: float, high: float, *, at_most: int = 6) -> list[float]:
    """Round numbers within a range: 1, 2 or 5 times a power of ten apart.

    Source: P. Heckbert, "Nice Numbers for Graph Labels", Graphics Gems (1990).
    """
    span = high - low
    if not span > 0:
        return [low]
    power = 10.0 ** math.floor(math.log10(span / at_most))
    step = next(power * factor for factor in (1, 2, 5, 10) if span / (power * factor) <= at_most)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [float(f"{number * step:.12g}") for number in range(first, last + 1)]


def _finite_runs(y: np.ndarray) -> list[slice]:
    finite = np.concatenate([[False], np.isfinite(y), [False]])
    edges = np.flatnonzero(finite[1:] != finite[:-1])
    return [slice(start, end) for start, end in zip(edges[::2], edges[1::2], strict=True)]
