"""Curves that are redrawn while the procedure runs: tip pressure in time, pull-back along the vessel with Pd/Pa.

Drawn with OpenCV and Pillow in a few milliseconds; `viewer.waveforms` draws the same for reports, in more time.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image, ImageDraw

from viewer import colors
from viewer.lettering import font
from viewer.waveforms import MEASURED, PREDICTED

Array = NDArray[np.float64]
Pixels = NDArray[np.uint8]

ISCHEMIC_FFR = 0.80
"""Pd/Pa at or below which a stenosis is held to cause ischemia (Pijls et al., N. Engl. J. Med. 334 (1996) 1703)."""


class Chart:
    """One small chart with its scales; coordinates of its curves are in the data's units.

    Args:
        size: width and height in pixels.
        scale: of type and lines; 1 for a window of 720 pixels.
        title: heading, with its unit.
        x: ends of the horizontal scale.
        y: ends of the vertical scale.
        right_margin: room at the right in design pixels, for a second scale.
    """

    def __init__(
        self,
        size: tuple[int, int],
        scale: float,
        title: str,
        x: tuple[float, float],
        y: tuple[float, float],
        *,
        right_margin: float = 14.0,
    ) -> None:
        self.size, self.scale, self.x, self.y = size, scale, x, y
        self.canvas = np.empty((size[1], size[0], 3), dtype=np.uint8)
        self.canvas[:] = colors.rgb(colors.PANEL)
        self.left, self.right = round(50 * scale), size[0] - round(right_margin * scale)
        self.top, self.bottom = round(38 * scale), size[1] - round(26 * scale)
        cv2.rectangle(self.canvas, (0, 0), (size[0] - 1, size[1] - 1), colors.rgb(colors.RULE), 1)
        self._title = title
        self._texts: list[tuple[float, float, str, str, str, int, bool]] = []
        self._text(12 * scale, 23 * scale, title, colors.TEXT, "ls", 14, bold=True)

    def _text(self, x: float, y: float, words: str, color: str, anchor: str, size: int, *, bold: bool = False) -> None:
        self._texts.append((x, y, words, color, anchor, size, bold))

    def pixels(self, x: ArrayLike, y: ArrayLike) -> Array:
        """(n, 2) columns and rows of data points."""
        across = (np.asarray(x, dtype=float) - self.x[0]) / (self.x[1] - self.x[0])
        up = (np.asarray(y, dtype=float) - self.y[0]) / (self.y[1] - self.y[0])
        return np.stack(
            [self.left + across * (self.right - self.left), self.bottom - up * (self.bottom - self.top)], -1
        )

    def scales(self, x_unit: str, *, x_every: float, y_every: float) -> None:
        """Grid lines and their numbers."""
        rule = colors.rgb(colors.RULE)
        for value in _ticks(self.y, y_every):
            row = round(self.pixels(self.x[0], value)[1])
            cv2.line(self.canvas, (self.left, row), (self.right, row), rule, 1)
            self._text(self.left - 7 * self.scale, row, f"{value:g}".replace("-", "−"), colors.MUTED, "rm", 13)
        for value in _ticks(self.x, x_every):
            column = float(self.pixels(value, self.y[0])[0])
            anchor = "ra" if column > self.right - 20 * self.scale else "ma"
            words = f"{value:g}".replace("-", "−")
            self._text(
                column,
                self.bottom + 6 * self.scale,
                f"{words} {x_unit}" if anchor == "ra" else words,
                colors.MUTED,
                anchor,
                13,
            )

    def band(self, x: ArrayLike, low: ArrayLike, high: ArrayLike, color: str, strength: float = 0.3) -> None:
        """A filled band, with gaps where its ends are NaN."""
        for part in _runs(x, low, high):
            outline = np.concatenate([self.pixels(part[0], part[1]), self.pixels(part[0], part[2])[::-1]])
            layer = self.canvas.copy()
            cv2.fillPoly(layer, [self._clip(outline)], colors.rgb(color), cv2.LINE_AA, shift=4)
            cv2.addWeighted(layer, strength, self.canvas, 1.0 - strength, 0.0, dst=self.canvas)

    def line(self, x: ArrayLike, y: ArrayLike, color: str, width: float = 2.0, *, dashed: bool = False) -> None:
        """A curve, with gaps where it is NaN."""
        for part in _runs(x, y):
            points = self._clip(self.pixels(part[0], part[1]))
            thick = max(round(width * self.scale), 1)
            pieces = [points[i : i + 4] for i in range(0, len(points), 7)] if dashed else [points]
            cv2.polylines(self.canvas, pieces, False, colors.rgb(color), thick, cv2.LINE_AA, shift=4)

    def upright(self, x: float, color: str, words: str = "", *, half: float = 0.0) -> None:
        """A vertical line at x, with a band of half a width around it."""
        low, high = self.pixels([x - half, x + half], [self.y[0]] * 2)[:, 0]
        low, high = np.clip([low, high], self.left, self.right)
        if half > 0.0 and high > low:
            patch = self.canvas[self.top : self.bottom, int(low) : int(high) + 1]
            patch[:] = (0.7 * patch + 0.3 * np.array(colors.rgb(color))).astype(np.uint8)
        column = int(np.clip(round(float(self.pixels(x, self.y[0])[0])), self.left, self.right))
        cv2.line(
            self.canvas, (column, self.top), (column, self.bottom), colors.rgb(color), max(round(1.5 * self.scale), 1)
        )
        if words:
            anchor = "la" if column < 0.7 * self.size[0] else "ra"
            shift = 5 * self.scale if anchor == "la" else -5 * self.scale
            self._text(column + shift, self.top + 2 * self.scale, words, color, anchor, 13, bold=True)

    def key(self, entries: Sequence[tuple[str, str]]) -> None:
        """Names of the curves in their colors, flush right in the heading."""
        face = font(round(13 * self.scale), bold=True)
        at = float(self.size[0] - 12 * self.scale)
        first = 12 * self.scale + font(round(14 * self.scale), bold=True).getlength(self._title) + 16 * self.scale
        for words, color in reversed(entries):
            at -= face.getlength(words)
            if at < first:
                return
            self._text(at, 23 * self.scale, words, color, "ls", 13, bold=True)
            at -= 14 * self.scale

    def say(self, words: str, color: str = colors.MUTED) -> None:
        """Words in the middle, where there is nothing to draw or it is not to be trusted."""
        self._text(0.5 * (self.left + self.right), 0.5 * (self.top + self.bottom), words, color, "mm", 16, bold=True)

    def right_scale(self, values: Sequence[tuple[float, str]], color: str) -> None:
        """Numbers at the right: (value on the vertical scale, words)."""
        for value, words in values:
            row = float(self.pixels(self.x[0], value)[1])
            if self.top - 1 <= row <= self.bottom + 1:
                self._text(self.right + 6 * self.scale, row, words, color, "lm", 13, bold=True)

    def image(self) -> Pixels:
        """(height, width, 3)."""
        picture = Image.fromarray(self.canvas)
        draw = ImageDraw.Draw(picture)
        for x, y, words, color, anchor, size, bold in self._texts:
            draw.text((x, y), words, font=font(round(size * self.scale), bold=bold), fill=color, anchor=anchor)
        return np.asarray(picture, dtype=np.uint8)

    def _clip(self, points: Array) -> NDArray[np.int32]:
        low, high = (self.left, self.top), (self.right, self.bottom)
        return np.round(16.0 * np.clip(points, low, high)).astype(np.int32)


def draw_waves(
    waves: Array,
    size: tuple[int, int],
    *,
    scale: float = 1.0,
    seconds: float = 6.0,
    warning: str | None = None,
) -> Pixels:
    """Tip pressure of the last seconds: measured against predicted with its 95 % band.

    Args:
        waves: (n, 5) as `viewer.history.History.waves` gives it.
        size: width and height in pixels.
        scale: of type and lines.
        seconds: how much of the past is shown.
        warning: why the newest part is not to be trusted.
    """
    now = float(waves[-1, 0]) if len(waves) else 0.0
    recent = waves[waves[:, 0] >= now - seconds] if len(waves) else waves
    y = _range([recent[:, 1:]], least=40.0, default=(60.0, 140.0))
    chart = Chart(size, scale, "TIP mmHg", (-seconds, 0.02 * seconds), y)
    chart.scales("s", x_every=1.0 if seconds <= 8 else 2.0, y_every=_step(y))
    if len(recent):
        t = recent[:, 0] - now
        chart.band(t, recent[:, 2], recent[:, 3], PREDICTED)
        chart.line(t, recent[:, 1], PREDICTED, 2.2)
        chart.line(t, recent[:, 4], MEASURED, 1.4)
    chart.key([("predicted 95 %", PREDICTED), ("measured", MEASURED)])
    if warning is not None:
        chart.say(warning, "#ff8a8f")
    elif not np.isfinite(recent[:, 1:]).any():
        chart.say("no pressure yet")
    return chart.image()


def draw_pullback(
    distance: ArrayLike | None,
    pressure: Array | None,
    inlet_mmhg: float | None,
    size: tuple[int, int],
    *,
    scale: float = 1.0,
    tip_mm: tuple[float, float] | None = None,
    whole_beat: bool = True,
    warning: str | None = None,
) -> Pixels:
    """Mean pressure of a beat along the vessel with its 95 % band, Pd/Pa at the right, and the tip's place.

    Args:
        distance: (n,) mm from the inlet; None where the case has no stations.
        pressure: (n, 3) value, lower, upper, mmHg; None before a beat is over.
        inlet_mmhg: mean inlet pressure Pa.
        size: width and height in pixels.
        scale: of type and lines.
        tip_mm: distance of the tip and half of its 95 % interval.
        whole_beat: False where the means are of a fixed time.
        warning: why the curve is not to be trusted.
    """
    title = "PULL-BACK mmHg"
    if distance is None or pressure is None or inlet_mmhg is None or len(pressure) != len(np.asarray(distance)):
        chart = Chart(size, scale, title, (0.0, 1.0), (60.0, 140.0))
        chart.say(warning or "no whole beat yet", "#ff8a8f" if warning else colors.MUTED)
        return chart.image()
    s = np.asarray(distance, dtype=float)
    threshold = ISCHEMIC_FFR * inlet_mmhg
    y = _range([pressure], least=20.0, default=(60.0, 140.0))
    chart = Chart(size, scale, title, (float(s[0]), float(s[-1])), y, right_margin=52.0)
    chart.scales("mm", x_every=_step((s[0], s[-1])), y_every=_step(y))
    color = PREDICTED if warning is None else colors.UNTRUSTED
    chart.band(s, pressure[:, 1], pressure[:, 2], color)
    chart.line(s, pressure[:, 0], color, 2.4, dashed=warning is not None)
    if y[0] < threshold < y[1]:
        chart.line([s[0], s[-1]], [threshold, threshold], MEASURED, 1.2)
    ratios = [(share * inlet_mmhg, f"{share:.2f}") for share in (1.0, 0.9, 0.8, 0.7, 0.6, 0.5)]
    chart.right_scale(ratios, colors.MUTED)
    lowest = int(np.argmin(pressure[:, 0]))
    words = f"min Pd/Pa {pressure[lowest, 0] / inlet_mmhg:.2f}"
    chart.key([(words if whole_beat else f"{words} (3 s mean)", colors.TEXT)])
    if tip_mm is not None and warning is None:
        chart.upright(tip_mm[0], colors.TIP, "tip", half=tip_mm[1])
    if warning is not None:
        chart.say(warning, "#ff8a8f")
    return chart.image()


def _range(curves: Sequence[Array], *, least: float, default: tuple[float, float]) -> tuple[float, float]:
    """Ends of a vertical scale in steps of 10, so that it does not jump with every sample."""
    values = np.concatenate([np.ravel(curve) for curve in curves]) if curves else np.zeros(0)
    values = values[np.isfinite(values)]
    if not len(values):
        return default
    low, high = float(np.floor((values.min() - 2.0) / 10.0) * 10.0), float(np.ceil((values.max() + 2.0) / 10.0) * 10.0)
    if high - low < least:
        low, high = low - 10.0 * np.floor((least - high + low) / 20.0), low + least
    return low, max(high, low + least)


def _step(ends: tuple[float, float]) -> float:
    """A round distance of ticks that gives three to six of them."""
    rough = (ends[1] - ends[0]) / 4.0
    power = 10.0 ** np.floor(np.log10(max(rough, 1e-9)))
    return float(power * min((1.0, 2.0, 5.0, 10.0), key=lambda m: abs(m * power - rough)))


def _ticks(ends: tuple[float, float], every: float) -> Array:
    first, last = np.ceil(ends[0] / every - 1e-9), np.floor(ends[1] / every + 1e-9)
    return np.arange(first, last + 1) * every + 0.0  # no negative zero


def _runs(*curves: ArrayLike) -> list[Array]:
    """Pieces (curves, n >= 2) in which all curves are finite."""
    data = np.array([np.asarray(curve, dtype=float) for curve in curves])
    good = np.isfinite(data).all(axis=0)
    edges = np.flatnonzero(np.diff(np.concatenate([[0], good.astype(np.int8), [0]])))
    return [data[:, a:b] for a, b in zip(edges[::2], edges[1::2], strict=True) if b - a > 1]
