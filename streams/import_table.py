"""Reads tables, CSV files or NumPy's .npz with one array per column, by a column map (`streams.column_map`).

A cell that is empty or no number, and a value listed under `missing`, is left out and counted; a pose of zeros, or
whose quaternion is none, is sent as not valid.
"""

import csv
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streams.column_map import ColumnMap, FlowMap, NoteMap, PoseMap, SamplesMap, TableMap, TimeMap, TriggerMap, VitalMap
from streams.errors import InputError
from streams.importing import EPOCH_NS, Arrival, Batcher, Findings
from streams.messages import MAX_TEXT, QUATERNION_TOLERANCE, FlowSample, Note, ToolPose, Trigger, VitalSign
from streams.rotations import NOT_A_ROTATION
from streams.translating import samples_message, slug

Array = NDArray[np.float64]

SECONDS = {"s": 1.0, "ms": 1e-3, "us": 1e-6, "ns": 1e-9, "min": 60.0, "h": 3600.0}
_CLOCK = re.compile(r"^\s*(\d{1,3}):(\d{1,2}):(\d{1,2}(?:\.\d+)?)\s*$")


@dataclass(frozen=True)
class Columns:
    """A table's columns by name: text from CSV, arrays from .npz."""

    path: Path
    values: Mapping[str, Any]

    def __getitem__(self, name: str) -> Any:
        if name not in self.values:
            known = ", ".join(list(self.values)[:20])
            raise InputError(f'{self.path} has no column "{name}"; it has {known}.')
        return self.values[name]


def read_columns(path: Path, layout: TableMap, findings: Findings) -> Columns:
    """Read a table.

    Raises:
        InputError: it cannot be read, or has no columns.
    """
    if path.suffix == ".npz":
        try:
            with np.load(path, allow_pickle=False) as arrays:
                return Columns(path, {name: arrays[name] for name in arrays.files})
        except (OSError, ValueError) as error:
            raise InputError(f"{path} cannot be read as .npz ({error}); check the file.") from error
    try:
        with path.open(newline="", encoding="utf-8", errors="replace") as stream:
            for _ in range(layout.skip_lines):
                next(stream, None)
            rows = list(csv.reader(stream, delimiter=layout.delimiter))
    except (OSError, csv.Error) as error:
        raise InputError(f"{path} cannot be read as CSV ({error}); check the file.") from error
    rows = [row for row in rows if row]
    names = list(layout.columns) or ([name.strip() for name in rows.pop(0)] if rows else [])
    if not rows:
        raise InputError(f"{path} has no rows after its first {layout.skip_lines} lines; check skip_lines.")
    short = sum(len(row) < len(names) for row in rows)
    if short:
        findings.counts["rows of the table are shorter than its first line"] += short
    return Columns(
        path, {name: [row[place] if place < len(row) else "" for row in rows] for place, name in enumerate(names)}
    )


def _numbers(column: Any) -> Array:
    """A column as numbers, NaN where a cell is none."""
    if isinstance(column, np.ndarray):
        return np.asarray(column, dtype=float)

    def number(cell: str) -> float:
        try:
            return float(cell)
        except ValueError:
            return math.nan

    return np.array([number(cell) for cell in column])


def _seconds(table: Columns, times: TimeMap) -> Array:
    names = times.columns or ((times.column,) if times.column else ())
    units = (times.unit,) * len(names) if isinstance(times.unit, str) else times.unit
    if not names or len(units) != len(names):
        raise InputError("a time needs a column, or columns and as many units; mend the column map.")
    total: Any = 0.0
    for name, unit in zip(names, units, strict=True):
        column = table[name]
        if unit == "clock":
            matches = [_CLOCK.match(str(cell)) for cell in column]
            total = total + np.array(
                [math.nan if m is None else int(m[1]) * 3600 + int(m[2]) * 60 + float(m[3]) for m in matches]
            )
        elif unit in SECONDS:
            total = total + _numbers(column) * SECONDS[unit]
        else:
            raise InputError(f'the time\'s unit "{unit}" is none of {", ".join(SECONDS)}, clock; mend the column map.')
    return np.asarray(total, dtype=float)


def _factor(unit: str, wanted: str, where: str) -> float:
    if not unit or unit == wanted:
        return 1.0
    import pint

    try:
        return float(pint.UnitRegistry()(unit).to(wanted).magnitude)
    except Exception as error:  # pint raises many kinds
        raise InputError(f'{where} has the unit "{unit}", which is no {wanted}; mend the column map.') from error


class _Reader:
    """Makes arrivals of a table's columns."""

    def __init__(self, table: Columns, mapping: ColumnMap, findings: Findings) -> None:
        self.table, self.map, self.findings = table, mapping, findings
        self._times: dict[TimeMap, tuple[NDArray[np.int64], NDArray[np.bool_]]] = {}
        self.epoch_ns = EPOCH_NS
        if mapping.table.begin is not None:
            try:
                day = datetime.fromisoformat(mapping.table.begin)
            except ValueError as error:
                raise InputError(f'table.begin = "{mapping.table.begin}" is no date; write 2021-02-02.') from error
            self.epoch_ns = int((day if day.tzinfo else day.replace(tzinfo=UTC)).timestamp()) * 1_000_000_000

    def times(self, own: TimeMap | None) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """Time of each row [ns], and whether it has one."""
        times = own or self.map.time
        if times is None:
            raise InputError("the column map has no [time], and a series has none of its own.")
        if times not in self._times:
            seconds = _seconds(self.table, times)
            usable = np.isfinite(seconds) & (seconds >= 0)
            if not usable.all():
                self.findings.counts["rows of the table have no time, and were left out"] += int((~usable).sum())
            back = np.diff(seconds[usable]) < 0
            if back.any():
                worst = float(np.diff(seconds[usable]).min())
                name = times.column or "+".join(times.columns)
                self.findings.notes.append(
                    f"the time {name} goes back {int(back.sum())} times, by {-worst:.3f} s at most."
                )
            nanoseconds = np.round(np.where(usable, seconds, 0.0) * 1e9).astype(np.int64) + self.epoch_ns
            self._times[times] = (nanoseconds, usable)
        return self._times[times]

    def values(
        self, column: str, factor: float, missing: tuple[float, ...], own: TimeMap | None
    ) -> Iterator[tuple[int, float]]:
        """Time and value of each row that has both."""
        nanoseconds, usable = self.times(own)
        raw = _numbers(self.table[column])
        if len(raw) != len(nanoseconds):
            raise InputError(
                f'the column "{column}" has {len(raw)} values and its time {len(nanoseconds)}; mend the map.'
            )
        absent = np.isin(raw, missing) if missing else np.zeros(len(raw), dtype=bool)
        if absent.any():
            self.findings.counts[f"values of {column} stand for none, and were left out"] += int(absent.sum())
        broken = ~np.isfinite(raw)
        if broken.any():
            self.findings.counts[f"values of {column} are no numbers, and were left out"] += int(broken.sum())
        good = usable & ~absent & ~broken
        finite = raw[good]
        if len(finite) > 10 and not absent.any() and (finite == 0.0).all():
            self.findings.notes.append(
                f"{column} is 0 throughout: is 0 its way to say that there is none (missing = [0])?"
            )
        for index in np.flatnonzero(good):
            yield int(nanoseconds[index]), float(raw[index]) * factor

    def samples(self, entry: SamplesMap, *, pressure: bool) -> Iterator[Arrival]:
        """A pressure or a waveform, in batches."""
        factor = _factor(entry.unit, "mmHg", entry.column) if pressure else 1.0
        rows = list(self.values(entry.column, factor, entry.missing, entry.time))
        if not rows:
            return
        if entry.rate is not None:
            period_ns = 1e9 / _factor(entry.rate, "1/s", f"the rate of {entry.column}")
        else:
            steps = np.diff(np.array([time for time, _ in rows]))
            forward = steps[steps > 0]
            period_ns = float(np.median(forward)) if len(forward) else 1e9
        period_ns = min(max(period_ns, 1.0), 1e10)
        name = entry.sensor or entry.column
        batcher, number, received = Batcher(period_ns), 0, 0
        for time_ns, value in [*rows, (None, 0.0)]:
            done = batcher.finish() if time_ns is None else batcher.add(time_ns, value)
            if done is None:
                continue
            begin, values = done
            received = max(received, begin + round(period_ns * (len(values) - 1)))
            stream = entry.stream or f"{'pressure' if pressure else 'waveform'}/{slug(name).lower()}"
            message = samples_message(
                stream=stream,
                sequence=number,
                source_time_ns=begin,
                sensor=name,
                period_ns=round(period_ns),
                values=values,
                pressure=pressure,
                tool=entry.tool,
                quantity=entry.quantity or entry.column,
                unit=entry.unit,
            )
            yield Arrival(received, message)
            number += 1

    def poses(self, entry: PoseMap) -> Iterator[Arrival]:
        """A tool's poses."""
        nanoseconds, usable = self.times(entry.time)
        factor = _factor(entry.unit, "mm", f"the position of {entry.tool}")
        place = np.column_stack([_numbers(self.table[name]) for name in entry.position]) * factor
        turn = np.column_stack([_numbers(self.table[name]) for name in entry.quaternion])
        norm = np.linalg.norm(turn, axis=1)
        zero = (np.abs(place).max(axis=1) == 0) & (norm == 0)
        broken = ~(np.isfinite(place).all(axis=1) & np.isfinite(turn).all(axis=1))
        wrong = ~zero & ~broken & (np.abs(norm - 1) > NOT_A_ROTATION)
        for count, what in ((zero, "all zeros"), (broken, "no numbers"), (wrong, "without a quaternion of norm 1")):
            if count[usable].any():
                self.findings.counts[f"poses of {entry.tool} are {what}, and sent as not valid"] += int(
                    count[usable].sum()
                )
        stream = entry.stream or f"tracker/{slug(entry.tool).lower()}"
        received = 0
        for number, index in enumerate(np.flatnonzero(usable)):
            valid = not (zero[index] or broken[index] or wrong[index])
            rounded = valid and abs(norm[index] - 1) > QUATERNION_TOLERANCE / 2
            quaternion = turn[index] / norm[index] if rounded else turn[index]
            x, y, z = (float(value) for value in place[index]) if valid else (0.0, 0.0, 0.0)
            qw, qx, qy, qz = (float(value) for value in quaternion) if valid else (1.0, 0.0, 0.0, 0.0)
            time_ns = int(nanoseconds[index])
            received = max(received, time_ns)
            yield Arrival(
                received,
                ToolPose(
                    stream=stream,
                    sequence=number,
                    source_time_ns=time_ns,
                    tool=entry.tool,
                    position=(x, y, z),
                    quaternion=(qw, qx, qy, qz),
                    valid=bool(valid),
                ),
            )

    def flows(self, entry: FlowMap) -> Iterator[Arrival]:
        """A flow."""
        factor, received = _factor(entry.unit, "mL/s", entry.column), 0
        stream, sensor = entry.stream or f"flow/{slug(entry.column).lower()}", entry.sensor or entry.column
        for number, (time_ns, value) in enumerate(self.values(entry.column, factor, entry.missing, entry.time)):
            received = max(received, time_ns)
            yield Arrival(
                received,
                FlowSample(
                    stream=stream,
                    sequence=number,
                    source_time_ns=time_ns,
                    sensor=sensor,
                    port=entry.port,
                    flow_ml_s=value,
                    deviation_ml_s=entry.deviation,
                ),
            )

    def vitals(self, entry: VitalMap) -> Iterator[Arrival]:
        """Numbers from a monitor."""
        stream, received = entry.stream or f"vital/{slug(entry.column).lower()}", 0
        for number, (time_ns, value) in enumerate(self.values(entry.column, 1.0, entry.missing, entry.time)):
            received = max(received, time_ns)
            yield Arrival(
                received,
                VitalSign(
                    stream=stream,
                    sequence=number,
                    source_time_ns=time_ns,
                    device=entry.device,
                    quantity=entry.quantity or entry.column,
                    value=value,
                    unit=entry.unit,
                ),
            )

    def notes(self, entry: NoteMap) -> Iterator[Arrival]:
        """Texts."""
        nanoseconds, usable = self.times(entry.time)
        stream, received = entry.stream or f"note/{slug(entry.column).lower()}", 0
        texts = self.table[entry.column]
        for number, index in enumerate(np.flatnonzero(usable)):
            received = max(received, int(nanoseconds[index]))
            yield Arrival(
                received,
                Note(
                    stream=stream,
                    sequence=number,
                    source_time_ns=int(nanoseconds[index]),
                    source=self.table.path.name,
                    text=str(texts[index])[:MAX_TEXT],
                ),
            )

    def triggers(self, entry: TriggerMap) -> Iterator[Arrival]:
        """Instants."""
        nanoseconds, usable = self.times(entry.time)
        received = 0
        for number, time_ns in enumerate(nanoseconds[usable]):
            received = max(received, int(time_ns))
            yield Arrival(
                received,
                Trigger(
                    stream=entry.stream or f"trigger/{slug(entry.kind).lower()}",
                    sequence=number,
                    source_time_ns=int(time_ns),
                    kind=entry.kind,
                ),
            )


def table_arrivals(path: Path, mapping: ColumnMap, findings: Findings) -> list[Iterator[Arrival]]:
    """The messages of a table, one iterator for each series of the map.

    Raises:
        InputError: the table cannot be read, or the map asks for what it has not.
    """
    reader = _Reader(read_columns(path, mapping.table, findings), mapping, findings)
    series = [
        *(reader.samples(entry, pressure=True) for entry in mapping.pressure),
        *(reader.samples(entry, pressure=False) for entry in mapping.waveform),
        *(reader.poses(entry) for entry in mapping.pose),
        *(reader.flows(entry) for entry in mapping.flow),
        *(reader.vitals(entry) for entry in mapping.vital),
        *(reader.notes(entry) for entry in mapping.note),
        *(reader.triggers(entry) for entry in mapping.trigger),
    ]
    if not series:
        raise InputError(
            "the column map names no series: add [[pressure]], [[pose]], [[flow]], [[waveform]] or others."
        )
    return series
