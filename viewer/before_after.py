"""A what-if answer as a picture: each quantity before and after, one beside the other, with its 95 % interval.

The answer of a running twin holds numbers at the ports and at stenoses, and no field over the wall; so these are drawn,
and no color is invented between them. `viewer.side_by_side` draws the two fields where they are at hand.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from streams.messages import Estimate
from viewer import colors
from viewer.lettering import font
from viewer.side_by_side import AFTER, BEFORE

Pixels = NDArray[np.uint8]

_NAME = re.compile(r"^(?P<what>.*?)\s*\[(?P<unit>[^]]*)\]$")
_LEFT_OUT = ("systolic", "diastolic")
"""Quantities that the table has and the picture not: it is to be read at a glance."""

_PITCH, _HEAD, _GROUP = 38, 44, 40
"""Height in pixels of a quantity, of the heading, and of a group's heading with its scale."""


class _Row(msgspec.Struct):
    """One quantity's two estimates, and their difference, which is known better than either."""

    what: str
    before: Estimate
    after: Estimate
    change: Estimate


def groups(quantities: Mapping[str, Any]) -> dict[str, list[_Row]]:
    """Rows by unit, in the answer's order; what is not made of finite estimates is left to the table."""
    found: dict[str, list[_Row]] = {}
    for name, values in quantities.items():
        match = _NAME.match(str(name))
        if match is None or match["what"].startswith(_LEFT_OUT):
            continue
        try:
            three = [msgspec.convert(values.get(part), Estimate) for part in ("before", "after", "change")]
        except (msgspec.ValidationError, AttributeError):
            continue
        if all(np.isfinite([one.value, one.lower, one.upper]).all() for one in three):
            found.setdefault(match["unit"], []).append(_Row(match["what"].replace("_", " "), *three))
    return found


def draw_before_after(quantities: Mapping[str, Any], *, width: int = 760) -> Pixels | None:
    """The picture (h, width, 3), as tall as it needs to be; None where there is nothing to draw.

    Quantities of one unit share a scale, so that their bars may be compared.

    Args:
        quantities: of an answer, by name and unit: ``before``, ``after`` and ``change`` as value, lower and upper.
        width: in pixels, 640 at least.
    """
    by_unit = groups(quantities)
    if not by_unit:
        return None
    height = _HEAD + sum(_GROUP + _PITCH * len(rows) for rows in by_unit.values()) + 8
    image = Image.new("RGB", (width, height), colors.PANEL)
    draw = ImageDraw.Draw(image)
    x = 20.0
    for words, color in (("before", BEFORE), ("after", AFTER)):
        draw.rectangle([x, 20, x + 18, 30], fill=color)
        draw.text((x + 26, 25), words, font=font(17, bold=True), fill=color, anchor="lm")
        x += 130
    draw.text((width - 20, 25), "change, 95 %", font=font(15), fill=colors.MUTED, anchor="rm")
    left, right, top = 230, width - 290, _HEAD
    for unit, rows in by_unit.items():
        ends = [value for row in rows for one in (row.before, row.after) for value in (one.lower, one.upper)]
        low, high = min(ends), max(ends)
        margin = 0.05 * (high - low) or 0.5
        _group(draw, unit, rows, (low - margin, high + margin), (left, right, top, width))
        top += _GROUP + _PITCH * len(rows)
    return np.asarray(image, dtype=np.uint8)


def _group(
    draw: ImageDraw.ImageDraw,
    unit: str,
    rows: list[_Row],
    limits: tuple[float, float],
    place: tuple[int, int, int, int],
) -> None:
    """All quantities of a unit below their scale."""
    left, right, top, width = place
    low, high = limits

    def across(value: float) -> float:
        return left + (value - low) / (high - low) * (right - left)

    draw.line([(20, top), (width - 20, top)], fill=colors.RULE, width=1)
    draw.text((20, top + 24), unit, font=font(15, bold=True), fill=colors.MUTED, anchor="lm")
    step = 10.0 ** np.floor(np.log10((high - low) / 2.0))
    step *= next(m for m in (5.0, 2.0, 1.0) if m * step <= (high - low) / 2.0)
    for tick in np.arange(np.ceil(low / step), np.floor(high / step) + 1) * step:
        words = f"{tick + 0.0:.6g}".replace("-", "−")
        draw.text((across(tick), top + 24), words, font=font(14), fill=colors.MUTED, anchor="mm")
        bottom = top + _GROUP + _PITCH * len(rows) - 4
        draw.line([(across(tick), top + 34), (across(tick), bottom)], fill=colors.RULE, width=1)
    for number, row in enumerate(rows):
        middle = top + _GROUP + _PITCH * number + _PITCH // 2 - 4
        words, face = row.what, font(14)
        while len(words) > 1 and draw.textlength(words, font=face) > left - 28:
            words = words[:-2].rstrip() + "…"
        draw.text((20, middle), words, font=face, fill=colors.TEXT, anchor="lm")
        for one, color, y in ((row.before, BEFORE, middle - 8), (row.after, AFTER, middle + 8)):
            draw.line([(across(one.lower), y), (across(one.upper), y)], fill=color, width=5)
            at = across(one.value)
            draw.rectangle([at - 2, y - 7, at + 2, y + 7], fill=color)
            draw.text((width - 150, y), _words(one, unit), font=font(14), fill=color, anchor="rm")
        changed = _words(row.change, unit, signed=True)
        draw.text((width - 20, middle), changed, font=font(14, bold=True), fill=colors.TEXT, anchor="rm")


def _words(one: Estimate, unit: str, *, signed: bool = False) -> str:
    """Value and half of its interval; a ratio with three decimals."""
    half = 0.5 * (one.upper - one.lower)
    decimals = 3 if unit == "ratio" else 0 if half >= 20.0 else 1
    value = round(one.value, decimals) + 0.0  # no negative zero
    sign = "+" if signed and value > 0.0 else ""
    return f"{sign}{value:.{decimals}f} ± {half:.{decimals}f}".replace("-", "−")
