"""The strip above the picture: what is to be known now, and why the picture is not to be trusted."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from viewer import colors
from viewer.alerts import words_of
from viewer.lettering import font, wrap

if TYPE_CHECKING:
    from streams.messages import TwinState
    from viewer.alerts import Alert

Pixels = NDArray[np.uint8]


def reasons(state: TwinState) -> tuple[str, ...]:
    """Why a state is not to be trusted, in words; empty if it is."""
    return tuple(words_of(flag) for flag in state.flags)


SHRINKS = (1.0, 0.86, 0.74)
"""Sizes of type that are tried, the largest first, where the strip has to leave the picture in sight."""


@dataclass(frozen=True)
class _Chip:
    """One alert's place in the strip, in pixels and lines."""

    x: int
    line: int
    wide: float
    rows: list[str]
    alert: Alert


def draw_alerts(
    alerts: Sequence[Alert],
    width: int,
    scale: float,
    now_s: float,
    *,
    trusted: bool,
    said: Sequence[str] = (),
    most_height: float = math.inf,
) -> Pixels:
    """A strip (h, width, 3) of what is to be known now, the most urgent first; as tall as its words need.

    Red with NOT TRUSTED above where the picture is not to be trusted. Every alert is shown in full: a long list is
    wrapped to more lines, and set in smaller type where it would be taller than `most_height`, never cut. The number of
    exclamation marks says the priority without color. `said` are words of the viewer itself, beside the heading.
    """
    for shrink in SHRINKS:
        small = scale * shrink
        margin, pitch, top = round(14 * small), round(34 * small), round(9 * small)
        face, head = font(round(17 * small), bold=True), font(round(24 * scale), bold=True)
        ruler = ImageDraw.Draw(Image.new("RGB", (8, 8)))
        # The heading keeps its size, and its row is never lower than it.
        first = margin if trusted else round(margin + ruler.textlength("NOT TRUSTED", font=head) + 14 * scale)
        rows_said = [] if trusted or not said else wrap(" · ".join(said), face, width - first - margin, ruler)
        chips = _place(alerts, width, small, first=first, taken=len(rows_said))
        lines = max((chip.line + len(chip.rows) for chip in chips), default=0)
        lines = max(lines, len(rows_said), 0 if trusted else 1)
        height = top + pitch * lines + round(3 * small)
        if height <= most_height:
            break
    image = Image.new("RGB", (width, max(height, 1)), colors.BACKGROUND if trusted else colors.ALARM)
    draw = ImageDraw.Draw(image)
    middle = round(14 * small)
    if not trusted:
        draw.text((margin, top + middle), "NOT TRUSTED", font=head, fill="#ffffff", anchor="lm")
        for number, words in enumerate(rows_said):
            draw.text((first, top + pitch * number + middle), words, font=face, fill="#ffffff", anchor="lm")
    for chip in chips:
        y = top + pitch * chip.line
        alert = chip.alert
        lit = alert.lit(now_s) and not alert.acknowledged
        fill, ink = (alert.priority.color, "#000000") if lit else (colors.BACKGROUND, alert.priority.color)
        if alert.acknowledged:
            ink = colors.MUTED
        box = [chip.x, y, chip.x + chip.wide, y + pitch * len(chip.rows) - round(6 * small)]
        draw.rounded_rectangle(box, round(5 * small), fill=fill, outline=ink, width=max(round(1.5 * small), 1))
        for number, row in enumerate(chip.rows):
            place = (chip.x + 10 * small, y + pitch * number + middle)
            draw.text(place, row, font=face, fill=ink, anchor="lm")
    return np.asarray(image, dtype=np.uint8)


def _place(alerts: Sequence[Alert], width: int, scale: float, *, first: int, taken: int) -> list[_Chip]:
    """Each alert in the first line that has room for it; the heading and words of the viewer's own come before."""
    margin, gap = round(14 * scale), round(8 * scale)
    face = font(round(17 * scale), bold=True)
    ruler = ImageDraw.Draw(Image.new("RGB", (8, 8)))
    # Where the next chip of each line begins; beside words of the viewer's own there is none.
    ends = [width] * taken if taken else [first]
    chips: list[_Chip] = []
    for alert in alerts:
        mark = "✓" if alert.acknowledged else alert.priority.marks
        rows = wrap(f"{mark} {alert.words}", face, width - 2 * margin - 20 * scale, ruler)
        wide = max(ruler.textlength(row, font=face) for row in rows) + 20 * scale
        fits = (number for number, end in enumerate(ends) if end + wide <= width - margin)
        line = len(ends) if len(rows) > 1 else next(fits, len(ends))
        if line == len(ends):
            # What follows is no more urgent, and must not come to stand above.
            if not chips:
                ends = [width] * len(ends)
            ends += [width] * len(rows) if len(rows) > 1 else [margin]
        x = margin if len(rows) > 1 else ends[line]
        chips.append(_Chip(x, line, wide, rows, alert))
        ends[line] = max(ends[line], round(x + wide + gap))
    return chips


def draw_banner(words: tuple[str, ...], width: int, scale: float) -> Pixels:
    """A red strip (h, width, 3) saying why the picture is not to be trusted; as tall as its words need.

    Every reason is shown in full: long lists are wrapped to more lines, never cut.
    """
    image = Image.new("RGB", (width, 10), colors.ALARM)
    draw = ImageDraw.Draw(image)
    head, face = font(round(24 * scale), bold=True), font(round(18 * scale))
    margin = round(24 * scale)
    lines = wrap(" · ".join(words), face, width - 2 * margin, draw)
    pitch, top = round(25 * scale), round(42 * scale)
    image = Image.new("RGB", (width, top + pitch * len(lines) + round(8 * scale)), colors.ALARM)
    draw = ImageDraw.Draw(image)
    draw.text((margin, round(34 * scale)), "NOT TRUSTED", font=head, fill="#ffffff", anchor="ls")
    for i, line in enumerate(lines):
        draw.text((margin, top + pitch * i + round(18 * scale)), line, font=face, fill="#ffffff", anchor="ls")
    return np.asarray(image, dtype=np.uint8)
