"""Type, the words for numbers, and a column of text that measures each line before it places it."""

from __future__ import annotations

import math
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import matplotlib
from PIL import Image, ImageDraw, ImageFont

from viewer import colors

if TYPE_CHECKING:
    from streams.messages import Estimate

DESIGN_HEIGHT = 720
"""Height in pixels for which the sizes below are written; other heights scale them."""

NOTHING = "–"
"""Where a number is not known."""


@lru_cache(maxsize=64)
def font(size: int, *, bold: bool = False) -> ImageFont.FreeTypeFont:
    """DejaVu Sans (shipped with matplotlib) at a pixel size."""
    return ImageFont.truetype(font_file(bold=bold), max(size, 6))


def font_file(*, bold: bool = False) -> str:
    """Path of the typeface, for VTK's text too."""
    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / name)


def format_estimate(estimate: Estimate) -> tuple[str, str]:
    """Value and 95 % interval as text, to as many decimals as the interval's width deserves."""
    half = 0.5 * (estimate.upper - estimate.lower)
    if not all(math.isfinite(x) for x in (estimate.value, estimate.lower, estimate.upper)):
        return NOTHING, "not known"
    decimals = 0 if half >= 20.0 else 1 if half >= 0.2 else 2
    value, lower, upper = (f"{x:.{decimals}f}" for x in (estimate.value, estimate.lower, estimate.upper))
    return value.replace("-", "−"), f"{lower} to {upper}".replace("-", "−")


def format_age(age_ns: int) -> str:
    """An age in the unit a person would use."""
    milliseconds = age_ns / 1e6
    if abs(milliseconds) < 1000.0:
        return f"{milliseconds:.0f} ms".replace("-", "−")
    return f"{milliseconds / 1000.0:.1f} s".replace("-", "−")


def wrap(words: str, face: ImageFont.FreeTypeFont, width: float, draw: ImageDraw.ImageDraw) -> list[str]:
    """Lines of at most `width` pixels, broken at spaces; a word longer than a line is broken where it
    must."""
    lines = [""]
    for word in words.split():
        joined = f"{lines[-1]} {word}".strip()
        if draw.textlength(joined, font=face) <= width:
            lines[-1] = joined
            continue
        if lines[-1]:
            lines.append("")
        for letter in word:
            if draw.textlength(lines[-1] + letter, font=face) > width and lines[-1]:
                lines.append("")
            lines[-1] += letter
    return lines


class Column:
    """A cursor going down the panel that measures text before drawing it."""

    def __init__(self, size: tuple[int, int]) -> None:
        self.width, self.height = size
        self.scale = self.height / DESIGN_HEIGHT
        # A narrow panel shrinks its type, so that nothing is cut off at the right edge.
        self.scale = min(self.scale, self.width / 384.0)
        self.image = Image.new("RGB", size, colors.PANEL)
        self.draw = ImageDraw.Draw(self.image)
        self.margin = round(24 * self.scale)
        self.y = 0.0

    def px(self, length: float) -> int:
        """A length in design pixels, in actual ones."""
        return round(length * self.scale)

    def skip(self, length: float) -> None:
        """Go down by a length in design pixels."""
        self.y += length * self.scale

    def room(self) -> float:
        """What is left to the bottom, in design pixels."""
        return (self.height - self.y) / self.scale

    def text(
        self,
        words: str,
        size: float,
        *,
        color: str = colors.TEXT,
        bold: bool = False,
        x: float | None = None,
        anchor: str = "ls",
        room: float | None = None,
    ) -> float:
        """Draw at baseline y; `x` and `room` in actual pixels. Returns the width drawn."""
        left = self.margin if x is None else x
        face = font(self.px(size), bold=bold)
        limit = self.width - left if room is None else room
        while len(words) > 1 and self.draw.textlength(words, font=face) > limit:
            words = words[:-2].rstrip() + "…"
        self.draw.text((left, self.y), words, font=face, fill=color, anchor=anchor)
        return float(self.draw.textlength(words, font=face))

    def caption(self, words: str, note: str = "", *, color: str = colors.MUTED) -> None:
        """A section's heading with its unit or a note in a color of its own."""
        width = self.text(words, 14, color=colors.MUTED, bold=True)
        if note:
            self.text(note, 14, color=color, x=self.margin + width + self.px(8))

    def rule(self) -> None:
        """A line between two sections."""
        self.skip(9)
        self.draw.line(
            [(self.margin, self.y), (self.width - self.margin, self.y)],
            fill=colors.RULE,
            width=max(self.px(1), 1),
        )
        self.skip(19)

    def row(self, name: str, value: str, interval: str, *, color: str) -> None:
        """A name, a value flush right at 52 % of the width, and its interval after it."""
        middle = self.margin + 0.42 * (self.width - 2 * self.margin)
        wide = self.draw.textlength(value, font=font(self.px(18), bold=True))
        self.text(name, 16, color=colors.MUTED, room=middle - wide - self.px(6) - self.margin)
        self.text(value, 18, color=color, bold=True, x=middle, anchor="rs", room=0.3 * self.width)
        left = middle + self.px(12)
        self.text(interval, 16, color=color, x=left, room=self.width - self.margin / 2 - left)
        self.skip(21)
