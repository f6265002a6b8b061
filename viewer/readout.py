"""The numbers beside the picture: tip pressure, flows, forecast, registration error, filter and sensors, age of the
data, each with its interval.

Drawn with Pillow into an image, so that the desktop window, the web page and a PNG show the same pixels and
every text is measured before it is placed.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from viewer import colors
from viewer.alerts import REPLAY, doubts, stream_name
from viewer.lettering import NOTHING, Column, font, format_age, format_estimate
from viewer.quantities import PRESSURE, Quantity

if TYPE_CHECKING:
    from streams.messages import Consistency, Estimate, SensorState, TwinState, UncertaintyParts, VesselPlace
    from viewer.guidance import Guidance

Pixels = NDArray[np.uint8]

_CAUTION = "#f5c542"

_ROW, _ROWS_END = 21.0, 11.0
"""Pitch of the rows, and what the last one gives back, in design pixels."""

_SENSORS = 2
"""So many pressure sensors have room."""

_FOOT = 112.0
"""Room for the color scale, in design pixels."""

_IRREGULAR = re.compile(r"^heartbeat/|/heartbeat$|^touch/|^note/")


def tip_halfwidth(state: TwinState) -> float | None:
    """Longest half-axis in mm of the tip's 95 % ellipsoid, or None without a tracked tip."""
    if state.tip is None or state.tip_covariance is None or not state.tip_valid:
        return None
    largest = float(np.linalg.eigvalsh(np.array(state.tip_covariance, dtype=np.float64).reshape(3, 3))[-1])
    return math.sqrt(CHI2_3_95 * max(largest, 0.0))


CHI2_3_95 = 7.814727903251179
"""95 % quantile of chi-square with three degrees of freedom: squared radius of a 95 % ellipsoid."""


def vessel_place_words(place: VesselPlace) -> tuple[str, str]:
    """The branch a tip is in, and how sure that is and how far along it, or how far outside the lumen."""
    if place.outside_mm > 0.0:
        return place.branch, f"{place.outside_mm:.1f} mm outside the lumen"
    return place.branch, f"{100.0 * place.probability:.0f} %, {place.along_mm.value:.0f} mm along"


def halfwidth(estimate: Estimate) -> float:
    """Half of the 95 % interval."""
    return 0.5 * (estimate.upper - estimate.lower)


def plus_minus(estimate: Estimate) -> str:
    """Value and half of its 95 % interval, such as "97.9 ± 5.7"."""
    half = halfwidth(estimate)
    if not (math.isfinite(estimate.value) and math.isfinite(half)):
        return NOTHING
    decimals = 0 if half >= 20.0 else 1
    return f"{estimate.value:.{decimals}f} ± {half:.{decimals}f}".replace("-", "−")


def parts_words(parts: UncertaintyParts) -> str:
    """What an estimate's 95 % interval is made of; the squares of the three add up to its own."""
    shares = (("patient", parts.parameter), ("measuring", parts.measurement), ("model", parts.model))
    return " · ".join(f"{name} ± {1.96 * deviation:.1f}" for name, deviation in shares)


def consistency_words(consistency: Consistency) -> tuple[str, bool]:
    """Whether innovations are as large as the filter expects, and whether that is a caution.

    Smaller ones than expected mean intervals that are wider than need be, larger ones that they are too narrow.
    """
    if consistency.nis > consistency.upper:
        return f"TOO SURE, beyond {consistency.upper:.1f}", True
    if consistency.nis < consistency.lower:
        return f"cautious, below {consistency.lower:.1f}", False
    return f"{consistency.lower:.1f} to {consistency.upper:.1f} expected", False


def condition_words(sensor: SensorState) -> str:
    """What a pressure sensor suffers from, in a word; empty where nothing."""
    return sensor.condition.removeprefix("transducer_").removeprefix("line_").replace("_", " ")


def short_names(streams: Sequence[str]) -> dict[str, str]:
    """A stream by its kind (KIND/NAME) where it is the only one of it, else by its own name; a trigger by its name."""
    kinds = Counter(stream.partition("/")[0] for stream in streams)
    return {
        stream: kind.replace("_", " ") if name and kinds[kind] == 1 and kind != "trigger" else stream_name(stream)
        for stream in streams
        for kind, _, name in [stream.partition("/")]
    }


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
    column = Column(size)
    trusted = state is not None and not doubts(state.flags) and silent_s is None
    color = colors.TEXT if trusted else colors.MUTED
    column.skip(34)
    _tip_pressure(column, state, color, trusted)
    column.rule()
    _flows(column, state, color)
    column.rule()
    _forecast(column, state, color)
    column.rule()
    _navigation(column, state, guidance, color)
    column.rule()
    _filter(column, state, color)
    column.rule()
    _ages(column, state, color, silent_s)
    _scale(column, state, PRESSURE.within(limits) if quantity is None else quantity, trusted)
    if pace:
        column.y = column.height - column.px(8)
        column.text(pace, 13, color=colors.MUTED)
    return np.asarray(column.image, dtype=np.uint8)


def _tip_pressure(column: Column, state: TwinState | None, color: str, trusted: bool) -> None:
    column.caption("TIP PRESSURE")
    word, fill = ("TRUSTED", colors.TRUSTED) if trusted else ("NOT TRUSTED", colors.ALARM)
    if trusted and state is not None and REPLAY in state.flags:
        word, fill = "REPLAY", colors.REPLAY
    face = font(column.px(13), bold=True)
    wide = column.draw.textlength(word, font=face) + column.px(16)
    right = column.width - column.margin
    column.draw.rounded_rectangle(
        [right - wide, column.y - column.px(18), right, column.y + column.px(6)], column.px(5), fill=fill
    )
    column.draw.text((right - wide / 2, column.y - column.px(6)), word, font=face, fill="#ffffff", anchor="mm")
    column.skip(50)
    estimate = None if state is None else state.tip_pressure_mmhg
    if estimate is None:
        column.text(NOTHING, 46, color=colors.MUTED, bold=True)
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
    column.skip(24)
    column.text(f"{interval} mmHg  (95 %)", 18, color=color)
    if state is not None and state.tip_pressure_parts is not None:
        column.skip(18)
        column.text(parts_words(state.tip_pressure_parts), 13, color=colors.MUTED)


def _flows(column: Column, state: TwinState | None, color: str) -> None:
    column.caption("FLOW", "mL/s, 95 %")
    column.skip(22)
    flows = {} if state is None else state.port_flow_ml_s
    if not flows:
        column.text("no estimate", 16, color=colors.MUTED)
        column.skip(_ROW)
    for port, estimate in _first(flows, 3, column):
        value, interval = format_estimate(estimate)
        column.row(port.replace("_", " "), value, interval, color=color)
    column.skip(-_ROWS_END)


def _forecast(column: Column, state: TwinState | None, color: str) -> None:
    """Mean pressure of the inlet in the beats to come, if nothing is done."""
    forecasts = () if state is None else state.forecasts
    known = [(one.beats, next(iter(one.port_pressure_mmhg.values()))) for one in forecasts if one.port_pressure_mmhg]
    horizons = " · ".join(str(beats) for beats, _ in known)
    port = next(iter(forecasts[0].port_pressure_mmhg)).replace("_", " ") if known else ""
    column.caption("FORECAST", f"{port} mean mmHg, {horizons} beats" if known else "")
    column.skip(22)
    if not known:
        column.text("none before the first beats", 16, color=colors.MUTED)
    wide = (column.width - 2 * column.margin) / max(len(known), 1)
    for number, (_, estimate) in enumerate(known):
        column.text(
            plus_minus(estimate), 16, color=color, bold=True, x=round(column.margin + number * wide), room=wide - 4
        )
    column.skip(_ROW - _ROWS_END)


def _navigation(column: Column, state: TwinState | None, guidance: Guidance | None, color: str) -> None:
    column.caption("NAVIGATION", "mm")
    column.skip(22)
    if state is None or not state.registered:
        column.text("not registered", 16, color=colors.MUTED)
        column.skip(10)
        return
    tre = NOTHING if state.tre is None else f"{state.tre:.2f}"
    fre = NOTHING if state.fre is None else f"{state.fre:.2f}"
    half = tip_halfwidth(state)
    column.row("Tip error", NOTHING if half is None else f"± {half:.1f}", f"TRE {tre}, FRE {fre}", color=color)
    if guidance is not None:
        inside = guidance.wall_mm >= 0.0
        words = f"± {1.96 * guidance.wall_std_mm:.1f}" if inside else f"OUTSIDE, ± {1.96 * guidance.wall_std_mm:.1f}"
        near = color if guidance.wall_mm >= 1.0 else _CAUTION
        column.row("Wall", f"{abs(guidance.wall_mm):.1f}", words, color=near)
        if guidance.target_mm is not None:
            along = "" if guidance.along_mm is None else f"{guidance.along_mm:.0f} along the vessel".replace("-", "−")
            column.row("Target", f"{guidance.target_mm:.1f}", along, color=color)
        if guidance.narrowest_mm is not None:
            radius, ahead = guidance.narrowest_mm
            column.row("Ahead", f"Ø {2.0 * radius:.1f}", f"narrowest, in {ahead:.0f} mm", color=color)
    if state.vessel_place is not None:
        column.row("Branch", *vessel_place_words(state.vessel_place), color=color)
    column.skip(-_ROWS_END)


def _filter(column: Column, state: TwinState | None, color: str) -> None:
    """Whether filter and measurements agree, whether the model is asked within its range, and each pressure sensor."""
    known = state is not None and bool(state.field_coefficients)
    outside = state is not None and "out_of_trained_range" in state.flags
    note = "no flow state" if not known else "OUTSIDE the trained range" if outside else "within the trained range"
    column.caption("FILTER", note, color=_CAUTION if outside else colors.MUTED)
    sensors = {} if state is None else state.sensors
    if len(sensors) > _SENSORS:
        right = column.width - column.margin
        column.text(f"{_SENSORS} of {len(sensors)}", 14, color=colors.MUTED, x=right, anchor="rs", room=right)
    column.skip(22)
    consistency = None if state is None else state.consistency
    innovation = None if state is None else state.innovation
    if consistency is not None:
        verdict, caution = consistency_words(consistency)
        column.row("NIS", f"{consistency.nis:.2f}", verdict, color=_CAUTION if caution else color)
    elif innovation is None:
        column.row("Off by", NOTHING, "nothing assimilated", color=colors.MUTED)
    else:
        # Before whole beats are over one observation has to do.
        verdict = "consistent" if abs(innovation) <= 2.0 else "unlikely" if abs(innovation) <= 3.0 else "INCONSISTENT"
        ink = color if abs(innovation) <= 2.0 else _CAUTION
        column.row("Off by", f"{innovation:+.1f} σ".replace("-", "−"), verdict, color=ink)
    # Sensors that suffer from something first: they are never those left out.
    for name, sensor in sorted(sensors.items(), key=lambda item: not item[1].condition)[:_SENSORS]:
        _sensor(column, name, sensor, color)
    column.skip(-_ROWS_END)


def _sensor(column: Column, name: str, sensor: SensorState, color: str) -> None:
    """Name at the left; condition and bias flush right."""
    condition = condition_words(sensor).upper()
    ink = _CAUTION if condition else color
    bias = sensor.bias_mmhg
    sign = "+" if bias.value >= 0.05 else ""
    words = f"{sign}{plus_minus(bias)}" if condition else f"bias {sign}{plus_minus(bias)}"
    right = column.width - column.margin
    wide = column.text(words, 15, color=ink, x=right, anchor="rs", room=right)
    if condition:
        end = right - wide - column.px(10)
        wide += column.px(10) + column.text(condition, 14, color=ink, bold=True, x=end, anchor="rs", room=end)
    room = right - wide - column.px(10) - column.margin
    column.text(stream_name(name), 16, color=colors.MUTED, room=room)
    column.skip(_ROW)


def _ages(column: Column, state: TwinState | None, color: str, silent_s: float | None) -> None:
    column.caption("AGE OF DATA")
    column.skip(22)
    if silent_s is not None:
        column.text(f"twin silent for {silent_s:.1f} s", 16, color=colors.TEXT, bold=True)
        column.skip(_ROW)
    # Touches and heartbeats of devices come when they come: their age says nothing.
    ages = {} if state is None else state.age_ns
    ages = {name: age for name, age in ages.items() if not _IRREGULAR.search(name)}
    if not ages:
        column.text("nothing received", 16, color=colors.MUTED)
        return
    # What was fresh in the last state has aged since.
    silent_ns = 0 if silent_s is None else round(silent_s * 1e9)
    lines = max(1, min(3, 1 + int((column.room() - _FOOT) // _ROW)))
    shown = list(ages.items())[: 2 * lines]
    if len(ages) > len(shown):
        column.draw.text(
            (column.width - column.margin, column.y - 22 * column.scale),
            f"{len(shown)} of {len(ages)}",
            font=font(column.px(14)),
            fill=colors.MUTED,
            anchor="rs",
        )
    half = (column.width - 2 * column.margin - column.px(20)) / 2
    names = short_names(list(ages))
    for number, (stream, age) in enumerate(shown):
        left = column.margin + (number % 2) * (half + column.px(20))
        stale = age + silent_ns > 1_500_000_000
        words = format_age(age + silent_ns)
        wide = column.draw.textlength(words, font=font(column.px(16), bold=True))
        column.text(names[stream], 16, color=colors.MUTED, x=left, room=half - wide - column.px(8))
        column.text(
            words, 16, color=_CAUTION if stale else color, bold=True, x=left + half, anchor="rs", room=column.width
        )
        if number % 2:
            column.skip(_ROW)


def _first[T](items: dict[str, T], most: int, column: Column) -> list[tuple[str, T]]:
    """As many entries as there is room for above the color scale; what is left out is said, not hidden."""
    fitting = max(1, min(most, int((column.room() - 140) // _ROW)))
    shown = list(items.items())[:fitting]
    if len(items) > fitting:
        column.draw.text(
            (column.width - column.margin, column.y - 22 * column.scale),
            f"{fitting} of {len(items)}",
            font=font(column.px(14)),
            fill=colors.MUTED,
            anchor="rs",
        )
    return shown


def _scale(column: Column, state: TwinState | None, quantity: Quantity, trusted: bool) -> None:
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
