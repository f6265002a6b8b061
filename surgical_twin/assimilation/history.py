"""A recorded history - pressure and flow of the patient before the procedure - as one average beat with its scatter.

Read from a recording of this software (MCAP) or a table (CSV). Heart beats begin at R-waves where the history has
them, else at the upstrokes of its first signal. Each beat is brought to equal phases and beats unlike the others are
left out: an extrasystole, a flush, a lost signal. The mean beat's error has the scatter between beats: of their
level, with its correlation from beat to beat (breathing), and of their shape.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from streams.errors import InputError as StreamsInputError
from streams.messages import FlowSample, PressureSamples, Trigger, WaveformSamples
from streams.recording import read_recording
from surgical_twin.errors import InputError

Array = NDArray[np.float64]
Times = NDArray[np.int64]
"""ns"""

SHORTEST_PERIOD_S, LONGEST_PERIOD_S = 0.25, 2.5
FEWEST_BEATS = 3
FEWEST_PER_BEAT = 8
"""Samples."""
ODD = 4.0
"""A beat that is off the median beat by this many times the median of what beats are off is left out."""

_PRESSURE = {"mmhg": 1.0, "kpa": 7.50061683, "pa": 0.00750061683}
_FLOW = {"ml_s": 1.0, "l_min": 1000.0 / 60.0, "ml_min": 1.0 / 60.0}
_COLUMN = re.compile(r"^(pressure|flow)(?:@(?P<place>[^\[\]]+?))?_(?P<unit>[a-z_]+)$", re.IGNORECASE)


@dataclass(frozen=True)
class Signal:
    """One quantity over time."""

    quantity: str
    """``pressure`` [mmHg] or ``flow`` [mL/s]"""
    place: str
    time_s: Array
    values: Array
    deviation: float = 0.0
    """of a sample's error as the sensor states it; 0 where it does not"""


@dataclass(frozen=True)
class History:
    """What was read."""

    signals: tuple[Signal, ...]
    r_waves_s: Array | None
    """None where it has none"""


@dataclass(frozen=True)
class MeanBeat:
    """A signal's average beat."""

    signal: Signal
    values: Array
    """(phases,) at phases k / phases, k = 1..phases, since the beat's begin"""
    level_variance: Array | float
    """of the mean level over a beat, of the average of all"""
    shape_variance: float
    """of each phase's value without its level, of the average of all"""
    beats: int
    left_out: int


def read_history(path: Path, places: Mapping[str, str]) -> History:
    """Read a history.

    Args:
        path: MCAP recording, or CSV table with a column ``time_s`` and columns ``pressure_mmhg``, ``flow_ml_s``,
            ``flow@outlet_1_l_min`` ...; ``r_wave`` is 1 in the first row of a beat.
        places: of sensors by name (recording) or of columns (table), where not the inlet.

    Raises:
        InputError: it cannot be read, or holds neither pressure nor flow.
    """
    if not path.is_file():
        raise InputError(f"{path} is no file; name a recording (.mcap) or a table (.csv).")
    if path.suffix.lower() in (".csv", ".txt", ".tsv"):
        return _read_table(path, places)
    try:
        recording = read_recording(path)
    except StreamsInputError as error:
        raise InputError(f"{path} is neither a recording nor a .csv table: {error}") from error
    pieces: dict[tuple[str, str], list[tuple[Times, Array]]] = {}
    deviations: dict[tuple[str, str], list[float]] = {}
    r_waves = []
    for event in recording.events:
        message = event.message
        if isinstance(message, Trigger) and message.kind == "r_wave":
            r_waves.append(message.source_time_ns)
        elif isinstance(message, PressureSamples) and message.tool is None:
            key = ("pressure", places.get(message.sensor, "inlet"))
            pieces.setdefault(key, []).append(_samples(message, message.values_mmhg))
        elif isinstance(message, WaveformSamples) and message.unit.lower() == "mmhg" and _arterial(message.quantity):
            key = ("pressure", places.get(message.sensor, "inlet"))
            pieces.setdefault(key, []).append(_samples(message, message.values))
        elif isinstance(message, FlowSample):
            key = ("flow", places.get(message.sensor, message.port))
            pieces.setdefault(key, []).append(
                (np.array([message.source_time_ns]), np.array([float(message.flow_ml_s)]))
            )
            deviations.setdefault(key, []).append(message.deviation_ml_s)
    if not pieces:
        raise InputError(
            f"{path} holds no arterial line (pressure samples of no tool) and no flow; a catheter's pressure cannot be "
            "used before the tip's place is known."
        )
    # Nanoseconds since 1970 lose their last digits as floating point: count from the first.
    begin = min(int(times[0]) for parts in pieces.values() for times, _ in parts)
    signals = []
    for (quantity, place), parts in sorted(pieces.items(), key=lambda item: (item[0][0] != "pressure", item[0][1])):
        times = np.concatenate([np.asarray((one - begin) * 1e-9, dtype=float) for one, _ in parts])
        values = np.concatenate([one for _, one in parts])
        order = np.argsort(times, kind="stable")
        stated = deviations.get((quantity, place))
        signals.append(
            Signal(quantity, place, times[order], values[order], float(np.median(stated)) if stated else 0.0)
        )
    waves = np.sort((np.array(r_waves, dtype=np.int64) - begin) * 1e-9) if len(r_waves) > FEWEST_BEATS else None
    return History(tuple(signals), waves)


def _samples(message: PressureSamples | WaveformSamples, values: Sequence[float]) -> tuple[Times, Array]:
    times = message.source_time_ns + message.sample_period_ns * np.arange(len(values), dtype=np.int64)
    return times, np.asarray(values, dtype=float)


def _arterial(quantity: str) -> bool:
    words = quantity.lower()
    return any(word in words for word in ("abp", "art", "aop", "aortic", "ibp"))


def _read_table(path: Path, places: Mapping[str, str]) -> History:
    try:
        with path.open(newline="", encoding="utf-8-sig") as stream:
            lines = [line for line in stream if line.strip() and not line.startswith("#")]
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read ({error}); give a CSV table.") from error
    delimiter = "\t" if lines and "\t" in lines[0] else ";" if lines and ";" in lines[0] else ","
    rows = list(csv.reader(lines, delimiter=delimiter))
    names = [name.strip() for name in rows[0]] if rows else []
    wanted = 'a column "time_s" and columns such as pressure_mmhg, flow_ml_s, flow@outlet_1_l_min'
    if "time_s" not in names or len(rows) < 2:
        raise InputError(f"{path} is no history: it needs {wanted}; it has {', '.join(names) or 'no columns'}.")
    columns: dict[str, Array] = {}
    for number, name in enumerate(names):
        try:
            columns[name] = np.array(
                [float(row[number]) if len(row) > number and row[number].strip() else np.nan for row in rows[1:]]
            )
        except ValueError as error:
            if name == "time_s" or _COLUMN.match(name) or name == "r_wave":
                raise InputError(f"{path}: the column {name} holds what is no number ({error}).") from error
    times = columns["time_s"]
    signals = []
    for name, values in columns.items():
        match = _COLUMN.match(name)
        if match is None:
            continue
        quantity, unit = match[1].lower(), match["unit"].lower()
        factors = _PRESSURE if quantity == "pressure" else _FLOW
        if unit not in factors:
            raise InputError(f'{path}: "{name}" has the unit {unit}; take {", ".join(factors)}.')
        kept = np.isfinite(times) & np.isfinite(values)
        order = np.argsort(times[kept], kind="stable")
        place = match["place"] or places.get(name, "inlet")
        signals.append(Signal(quantity, place, times[kept][order], values[kept][order] * factors[unit]))
    if not signals:
        raise InputError(f"{path} is no history: it needs {wanted}; it has {', '.join(names)}.")
    waves = times[columns["r_wave"] > 0.5] if "r_wave" in columns else None
    signals.sort(key=lambda one: (one.quantity != "pressure", one.place))
    return History(tuple(signals), np.sort(waves) if waves is not None and len(waves) > FEWEST_BEATS else None)


def beat_starts(history: History) -> Array:
    """(n + 1,) s: begins of n beats and the end of the last: R-waves, else upstrokes.

    Raises:
        InputError: no heart beat is to be seen.
    """
    if history.r_waves_s is not None:
        return history.r_waves_s
    signal = history.signals[0]
    return upstrokes(signal.time_s, signal.values)


def upstrokes(time_s: Array, values: Array) -> Array:
    """(n,) s: where a pulsatile signal rises fastest in each beat.

    The beat's length is where the signal is most like itself; each rise is then sought within a beat of the last.

    Raises:
        InputError: no heart beat is to be seen.
    """
    failure = "the history shows no regular heart beat; give R-waves (a column r_wave, or triggers)."
    span = float(time_s[-1] - time_s[0]) if len(time_s) else 0.0
    if span < FEWEST_BEATS * SHORTEST_PERIOD_S:
        raise InputError(f"A history of {span:.1f} s holds fewer than {FEWEST_BEATS} beats.")
    step = max(float(np.median(np.diff(time_s))), 1e-3)
    grid = np.arange(time_s[0], time_s[-1], step)
    even = np.interp(grid, time_s, values)
    even -= even.mean()
    lags = np.arange(int(SHORTEST_PERIOD_S / step), min(int(LONGEST_PERIOD_S / step), len(even) * 2 // 3))
    if len(lags) < 3 or not even.std() > 0.0:
        raise InputError(failure[0].upper() + failure[1:])
    like = np.array([np.corrcoef(even[:-lag], even[lag:])[0, 1] for lag in lags])
    peaks = np.flatnonzero((like[1:-1] >= like[:-2]) & (like[1:-1] >= like[2:])) + 1
    if not len(peaks) or like[peaks].max() < 0.3:
        raise InputError(failure[0].upper() + failure[1:])
    # The shortest lag that is nearly as good as the best: a double beat is as much like itself.
    period = lags[peaks[np.flatnonzero(like[peaks] > like[peaks].max() - 0.1)[0]]] * step
    width = max(1, round(0.03 * period / step))
    slope = np.convolve(np.gradient(even, step), np.ones(2 * width + 1) / (2 * width + 1), mode="same")
    first = int(np.argmax(slope[: max(2, int(1.2 * period / step))]))
    found = [first]
    while found[-1] + 1.3 * period / step < len(slope):
        low, high = (found[-1] + round(part * period / step) for part in (0.7, 1.3))
        found.append(low + int(np.argmax(slope[low:high])))
    return np.asarray(grid[found])


def mean_beat(signal: Signal, starts: Array, phases: int) -> MeanBeat:
    """The average beat of a signal.

    Raises:
        InputError: fewer than three beats can be used.
    """
    beats, seen = [], 0
    for begin, end in pairwise(starts):
        length = end - begin
        if not SHORTEST_PERIOD_S <= length <= LONGEST_PERIOD_S:
            continue
        gap = length / FEWEST_PER_BEAT
        if begin < signal.time_s[0] - gap or end > signal.time_s[-1] + gap:
            continue  # the recording begins or ends within it
        seen += 1
        inside = (signal.time_s >= begin - gap) & (signal.time_s <= end + gap)
        times = signal.time_s[inside]
        if len(times) < FEWEST_PER_BEAT or np.diff(times).max(initial=0.0) > 2.0 * gap:
            continue
        if times[0] > begin + gap or times[-1] < end - gap:
            continue
        beats.append(_phases(times, signal.values[inside], begin, length, phases))
    if len(beats) < FEWEST_BEATS:
        raise InputError(
            f"The {signal.quantity} at {signal.place} has only {len(beats)} whole beats; at least {FEWEST_BEATS} are "
            "needed."
        )
    table = np.array(beats)
    off = np.sqrt(((table - np.median(table, axis=0)) ** 2).mean(axis=1))
    kept = off <= ODD * max(float(np.median(off)), 1e-9)
    table = table[kept]
    level = table.mean(axis=1)
    shape = table - level[:, None] - (table.mean(axis=0) - level.mean())
    count = len(table)
    again = float(np.corrcoef(level[:-1], level[1:])[0, 1]) if count > 4 and level.std() > 0 else 0.0
    again = float(np.clip(again, 0.0, 0.95))
    effective = max(1.5, count * (1.0 - again) / (1.0 + again))
    return MeanBeat(
        signal=signal,
        values=table.mean(axis=0),
        level_variance=float(level.var(ddof=1)) / effective,
        shape_variance=float((shape**2).sum() / ((count - 1) * table.shape[1])) / count,
        beats=count,
        left_out=seen - count,
    )


def _phases(times: Array, values: Array, begin: float, length: float, phases: int) -> Array:
    """(phases,) averages around the phases k / phases of one beat where samples are dense, else between samples."""
    wanted = np.arange(1, phases + 1) / phases
    if len(times) < 3 * phases:
        return np.asarray(np.interp(begin + wanted * length, times, values))
    # The mean of the piecewise linear signal over each phase's cell: averages noise without a bias of its own.
    area = np.concatenate([[0.0], np.cumsum(0.5 * (values[1:] + values[:-1]) * np.diff(times))])
    edges = begin + (np.concatenate([wanted - 0.5 / phases, [1.0 + 0.5 / phases]])) * length
    edges = np.clip(edges, times[0], times[-1])
    integral = np.interp(edges, times, area)
    return np.asarray(np.diff(integral) / np.maximum(np.diff(edges), 1e-12))
