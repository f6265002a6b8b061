"""The numbers beside the picture: tip pressure, flows, registration error, age of the data, each with its
interval.

Drawn with Pillow into an image, so that the desktop window, the web page and a PNG show the same pixels and
every text is measured before it is placed.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import matplotlib
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from viewer import colors
from viewer.alerts import stream_name
from viewer.quantities import PRESSURE, Quantity

if TYPE_CHECKING:
    from streams.messages import Estimate, TwinState, VesselPlace
    from viewer.alerts import Alert
    from viewer.guidance import Guidance

Pixels = NDArray[np.uint8]

DESIGN_HEIGHT = 720
"""Height in pixels for which the sizes below are written; other heights scale them."""

_NOTHING = "–"

_IRREGULAR = re.compile(r"^heartbeat/|/heartbeat$|^touch/|^note/")


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
        return _NOTHING, "not known"
    decimals = 0 if half >= 20.0 else 1 if half >= 0.2 else 2
    value, lower, upper = (f"{x:.{decimals}f}" for x in (estimate.value, estimate.lower, estimate.upper))
    return value.replace("-", "−"), f"{lower} to {upper}".replace("-", "−")


def format_age(age_ns: int) -> str:
    """An age in the unit a person would use."""
    milliseconds = age_ns / 1e6
    if abs(milliseconds) < 1000.0:
        return f"{milliseconds:.0f} ms".replace("-", "−")
    return f"{milliseconds / 1000.0:.1f} s".replace("-", "−")


def tip_halfwidth(state: TwinState) -> float | None:
    """Longest half-axis in mm of the tip's 95 % ellipsoid, or None without a tracked tip."""
    if state.tip is None or state.tip_covariance is None or not state.tip_valid:
        return None
    largest = float(np.linalg.eigvalsh(np.array(state.tip_covariance, dtype=np.float64).reshape(3, 3))[-1])
    return math.sqrt(CHI2_3_95 * max(largest, 0.0))


CHI2_3_95 = 7.814727903251179
"""95 % quantile of chi-square with three degrees of freedom: squared radius of a 95 % ellipsoid."""


def reasons(state: TwinState) -> tuple[str, ...]:
    """Why a state is not to be trusted, in words; empty if it is."""
    return tuple(flag.replace("_", " ") for flag in state.flags)


def vessel_place_words(place: VesselPlace) -> tuple[str, str]:
    """The branch a tip is in, and how sure that is and how far along it, or how far outside the lumen."""
    if place.outside_mm > 0.0:
        return place.branch, f"{place.outside_mm:.1f} mm outside the lumen"
    return place.branch, f"{100.0 * place.probability:.0f} %, {place.along_mm.value:.0f} mm along"


class _Column:
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
        return round(length * self.scale)

    def skip(self, length: float) -> None:
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

    def caption(self, words: str, note: str = "") -> None:
        """A section's heading with its unit."""
        width = self.text(words, 14, color=colors.MUTED, bold=True)
        if note:
            self.text(note, 14, color=colors.MUTED, x=self.margin + width + self.px(8))

    def rule(self) -> None:
        self.skip(10)
        self.draw.line(
            [(self.margin, self.y), (self.width - self.margin, self.y)],
            fill=colors.RULE,
            width=max(self.px(1), 1),
        )
        self.skip(21)

    def row(self, name: str, value: str, interval: str, *, color: str) -> None:
        """A name, a value flush right at 52 % of the width, and its interval after it."""
        middle = self.margin + 0.42 * (self.width - 2 * self.margin)
        wide = self.draw.textlength(value, font=font(self.px(18), bold=True))
        self.text(name, 16, color=colors.MUTED, room=middle - wide - self.px(6) - self.margin)
        self.text(value, 18, color=color, bold=True, x=middle, anchor="rs", room=0.3 * self.width)
        left = middle + self.px(12)
        self.text(interval, 16, color=color, x=left, room=self.width - self.margin / 2 - left)
        self.skip(23)


def draw_panel(
    state: TwinState | None,
    size: tuple[int, int],
    limits: tuple[float, float],
    *,
    silent_s: float | None = None,
    guidance: Guidance | None = None,
    quantity: Quantity | None = None,
    pace: str = "",
) -> Pixels:
    """The panel as an image (height, width, 3).

    Args:
        state: what to show; None before the first state came.
        size: width and height in pixels.
        limits: the pressure map's fixed range in mmHg.
        silent_s: seconds since the twin was last heard, if it has fallen silent.
        guidance: distances from the tip; None where they are not known.
        quantity: what the lumen is colored by; the wall pressure where None.
        pace: words at the foot, such as where a replay is.
    """
    column = _Column(size)
    trusted = state is not None and not state.flags and silent_s is None
    color = colors.TEXT if trusted else colors.MUTED
    column.skip(34)
    _tip_pressure(column, state, color, trusted)
    column.rule()
    _flows(column, state, color)
    column.rule()
    _navigation(column, state, guidance, color)
    column.rule()
    _model(column, state, color)
    column.rule()
    _ages(column, state, color, silent_s)
    _scale(column, state, PRESSURE.within(limits) if quantity is None else quantity, trusted)
    if pace:
        column.y = column.height - column.px(8)
        column.text(pace, 13, color=colors.MUTED)
    return np.asarray(column.image, dtype=np.uint8)


def _tip_pressure(column: _Column, state: TwinState | None, color: str, trusted: bool) -> None:
    column.caption("TIP PRESSURE")
    word, fill = ("TRUSTED", colors.TRUSTED) if trusted else ("NOT TRUSTED", colors.ALARM)
    face = font(column.px(13), bold=True)
    wide = column.draw.textlength(word, font=face) + column.px(16)
    right = column.width - column.margin
    column.draw.rounded_rectangle(
        [right - wide, column.y - column.px(18), right, column.y + column.px(6)], column.px(5), fill=fill
    )
    column.draw.text((right - wide / 2, column.y - column.px(6)), word, font=face, fill="#ffffff", anchor="mm")
    column.skip(52)
    estimate = None if state is None else state.tip_pressure_mmhg
    if estimate is None:
        column.text(_NOTHING, 46, color=colors.MUTED, bold=True)
        column.skip(26)
        tip_lost = state is not None and (state.tip is None or not state.tip_valid)
        column.text("tip not tracked" if tip_lost else "no estimate", 18, color=colors.MUTED)
        return
    value, interval = format_estimate(estimate)
    width = column.text(value, 46, color=color, bold=True)
    end = column.margin + width + column.px(10)
    column.text("mmHg", 20, color=colors.MUTED, x=end)
    if not trusted:
        # A number that is not to be relied on is struck through: its size alone would be believed.
        middle = column.y - column.px(17)
        column.draw.line([(column.margin, middle), (end, middle)], fill=colors.ALARM, width=max(column.px(4), 1))
    column.skip(26)
    column.text(f"{interval} mmHg  (95 %)", 18, color=color)


def _flows(column: _Column, state: TwinState | None, color: str) -> None:
    column.caption("FLOW", "mL/s, 95 %")
    column.skip(24)
    flows = {} if state is None else state.port_flow_ml_s
    if not flows:
        column.text("no estimate", 17, color=colors.MUTED)
        column.skip(23)
    for port, estimate in _first(flows, 3, column):
        value, interval = format_estimate(estimate)
        column.row(port.replace("_", " "), value, interval, color=color)
    column.skip(-13)


def _navigation(column: _Column, state: TwinState | None, guidance: Guidance | None, color: str) -> None:
    column.caption("NAVIGATION", "mm")
    column.skip(24)
    if state is None or not state.registered:
        column.text("not registered", 17, color=colors.MUTED)
        column.skip(10)
        return
    tre = _NOTHING if state.tre is None else f"{state.tre:.2f}"
    fre = _NOTHING if state.fre is None else f"{state.fre:.2f}"
    half = tip_halfwidth(state)
    column.row("Tip error", _NOTHING if half is None else f"± {half:.1f}", f"TRE {tre}, FRE {fre}", color=color)
    if guidance is not None:
        inside = guidance.wall_mm >= 0.0
        words = f"± {1.96 * guidance.wall_std_mm:.1f}" if inside else f"OUTSIDE, ± {1.96 * guidance.wall_std_mm:.1f}"
        near = color if guidance.wall_mm >= 1.0 else "#f5c542"
        column.row("Wall", f"{abs(guidance.wall_mm):.1f}", words, color=near)
        if guidance.target_mm is not None:
            along = "" if guidance.along_mm is None else f"{guidance.along_mm:.0f} along the vessel".replace("-", "−")
            column.row("Target", f"{guidance.target_mm:.1f}", along, color=color)
        if guidance.narrowest_mm is not None:
            radius, ahead = guidance.narrowest_mm
            column.row("Ahead", f"Ø {2.0 * radius:.1f}", f"narrowest, in {ahead:.0f} mm", color=color)
    if state.vessel_place is not None:
        column.row("Branch", *vessel_place_words(state.vessel_place), color=color)
    column.skip(-13)


def _model(column: _Column, state: TwinState | None, color: str) -> None:
    """Whether filter and measurement agree, and whether the model is asked within its range."""
    column.caption("FILTER")
    column.skip(24)
    innovation = None if state is None else state.innovation
    if innovation is None:
        column.row("Residual", _NOTHING, "nothing assimilated", color=colors.MUTED)
    else:
        verdict = "consistent" if abs(innovation) <= 2.0 else "unlikely" if abs(innovation) <= 3.0 else "INCONSISTENT"
        ink = color if abs(innovation) <= 2.0 else "#f5c542"
        column.row("Residual", f"{innovation:+.1f} σ".replace("-", "−"), verdict, color=ink)
    outside = state is not None and "out_of_trained_range" in state.flags
    known = state is not None and bool(state.field_coefficients)
    column.row(
        "Range",
        _NOTHING if not known else "outside" if outside else "within",
        "what 3D runs trained" if known else "no flow state",
        color="#f5c542" if outside else color,
    )
    column.skip(-13)


def _ages(column: _Column, state: TwinState | None, color: str, silent_s: float | None) -> None:
    column.caption("AGE OF DATA")
    column.skip(24)
    if silent_s is not None:
        column.text(f"twin silent for {silent_s:.1f} s", 17, color=colors.TEXT, bold=True)
        column.skip(23)
    # Touches and heartbeats of devices come when they come: their age says nothing.
    ages = {} if state is None else state.age_ns
    ages = {name: age for name, age in ages.items() if not _IRREGULAR.search(name)}
    if not ages:
        column.text("nothing received", 17, color=colors.MUTED)
        return
    # What was fresh in the last state has aged since.
    silent_ns = 0 if silent_s is None else round(silent_s * 1e9)
    lines = max(1, min(3, int((column.room() - 118) // 23)))
    shown = list(ages.items())[: 2 * lines]
    if len(ages) > len(shown):
        column.draw.text(
            (column.width - column.margin, column.y - 24 * column.scale),
            f"{len(shown)} of {len(ages)}",
            font=font(column.px(14)),
            fill=colors.MUTED,
            anchor="rs",
        )
    half = (column.width - 2 * column.margin - column.px(20)) / 2
    for number, (stream, age) in enumerate(shown):
        left = column.margin + (number % 2) * (half + column.px(20))
        stale = age + silent_ns > 1_500_000_000
        words = format_age(age + silent_ns)
        wide = column.draw.textlength(words, font=font(column.px(16), bold=True))
        column.text(stream_name(stream), 16, color=colors.MUTED, x=left, room=half - wide - column.px(8))
        column.text(
            words, 16, color="#f5c542" if stale else color, bold=True, x=left + half, anchor="rs", room=column.width
        )
        if number % 2:
            column.skip(23)


def _first[T](items: dict[str, T], most: int, column: _Column) -> list[tuple[str, T]]:
    """As many entries as there is room for above the color scale; what is left out is said, not hidden."""
    fitting = max(1, min(most, int((column.room() - 140) // 23)))
    shown = list(items.items())[:fitting]
    if len(items) > fitting:
        column.draw.text(
            (column.width - column.margin, column.y - 24 * column.scale),
            f"{fitting} of {len(items)}",
            font=font(column.px(14)),
            fill=colors.MUTED,
            anchor="rs",
        )
    return shown


def _scale(column: _Column, state: TwinState | None, quantity: Quantity, trusted: bool) -> None:
    """The color scale at the foot of the panel, with what is known of its certainty."""
    low, high = quantity.limits
    left, right = column.margin, column.width - column.margin
    top, thick = column.height - column.px(62), column.px(18)
    column.y = top - column.px(10)
    column.caption(quantity.title, quantity.unit)
    if state is not None and trusted:
        note = quantity.note
        if quantity.key == PRESSURE.key:
            note = f"± {1.96 * state.field_deviation_mmhg:.1f} (95 %)"
        column.text(note, 14, color=colors.TEXT, x=right, anchor="rs", room=right)
    table = quantity.table(256)[:, :3]
    if not trusted:
        table = np.repeat(np.array([colors.rgb(colors.UNTRUSTED)], dtype=np.uint8), 256, axis=0)
    bar = Image.fromarray(np.ascontiguousarray(np.broadcast_to(table, (thick, 256, 3))))
    column.image.paste(bar.resize((right - left, thick)), (left, top))
    column.y = top + thick + column.px(19)
    ticks = [(low, "ls"), (0.5 * (low + high), "ms"), (high, "rs")]
    if quantity.mark is not None:
        at = left + (quantity.mark - low) / (high - low) * (right - left)
        column.draw.line(
            [(at, top - column.px(4)), (at, top + thick + column.px(4))], fill="#ffffff", width=column.px(3)
        )
        ticks[1] = (quantity.mark, "ms")
    for value, anchor in ticks:
        column.text(
            f"{value:g}",
            15,
            x=left + (value - low) / (high - low) * (right - left),
            anchor=anchor,
            room=column.width,
            color=colors.TEXT if trusted else colors.MUTED,
        )


def draw_alerts(
    alerts: Sequence[Alert],
    width: int,
    scale: float,
    now_s: float,
    *,
    trusted: bool,
    doubts: Sequence[str] = (),
) -> Pixels:
    """A strip (h, width, 3) of what is to be known now, the most urgent first; as tall as its words need.

    Red with NOT TRUSTED above where the picture is not to be trusted. Every alert is shown in full: a long list is
    wrapped to more lines, never cut. The number of exclamation marks says the priority without color. `doubts` are
    words of the viewer itself, beside the heading.
    """
    margin, pitch = round(14 * scale), round(34 * scale)
    face, head = font(round(17 * scale), bold=True), font(round(24 * scale), bold=True)
    ruler = ImageDraw.Draw(Image.new("RGB", (8, 8)))
    top = round(9 * scale)
    chips: list[tuple[int, int, float, list[str], Alert]] = []
    first = margin if trusted else round(margin + ruler.textlength("NOT TRUSTED", font=head) + 14 * scale)
    said = [] if trusted else wrap(" · ".join(doubts), face, width - first - margin, ruler)
    x, line = first, 0
    if said and said != [""]:
        x, line = margin, len(said)  # words of the viewer's own take the heading's row
    else:
        said = []
    for alert in alerts:
        mark = "✓" if alert.acknowledged else alert.priority.marks
        rows = wrap(f"{mark} {alert.words}", face, width - 2 * margin - 20 * scale, ruler)
        wide = max(ruler.textlength(row, font=face) for row in rows) + 20 * scale
        start = first if line == 0 else margin
        if x > start and (x + wide > width - margin or len(rows) > 1):
            x, line = margin, line + 1
        elif line == 0 and x + wide > width - margin:
            x, line = margin, 1
        chips.append((x, line, wide, rows, alert))
        x += round(wide + 8 * scale)
        if len(rows) > 1:
            x, line = margin, line + len(rows)
    lines = max((line + len(rows) for _, line, _, rows, _ in chips), default=0)
    lines = max(lines, len(said), 0 if trusted else 1)
    height = top + pitch * lines + round(3 * scale)
    image = Image.new("RGB", (width, max(height, 1)), colors.BACKGROUND if trusted else colors.ALARM)
    draw = ImageDraw.Draw(image)
    if not trusted:
        draw.text((margin, top + 14 * scale), "NOT TRUSTED", font=head, fill="#ffffff", anchor="lm")
        for number, words in enumerate(said):
            draw.text((first, top + pitch * number + 14 * scale), words, font=face, fill="#ffffff", anchor="lm")
    for x, line, wide, rows, alert in chips:
        y = top + pitch * line
        lit = alert.lit(now_s) and not alert.acknowledged
        fill, ink = (alert.priority.color, "#000000") if lit else (colors.BACKGROUND, alert.priority.color)
        if alert.acknowledged:
            ink = colors.MUTED
        box = [x, y, x + wide, y + pitch * len(rows) - round(6 * scale)]
        draw.rounded_rectangle(box, round(5 * scale), fill=fill, outline=ink, width=max(round(1.5 * scale), 1))
        for number, row in enumerate(rows):
            draw.text((x + 10 * scale, y + pitch * number + 14 * scale), row, font=face, fill=ink, anchor="lm")
    return np.asarray(image, dtype=np.uint8)


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
