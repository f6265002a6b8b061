"""Reads WFDB records (PhysioNet): a header, and signals in formats 8, 16, 24, 32, 61, 80, 160, 212, 508, 516, 524.

The last three are FLAC files and need the package ``soundfile``. Multi-segment records are read segment by segment.
Each signal's sum over its samples is compared with the one in the header.

Format: G. Moody, "WFDB Applications Guide", header(5) and signal(5).
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from streams.errors import InputError
from streams.importing import BATCH, EPOCH_NS, Arrival, Findings
from streams.translating import samples_message, slug

DEFAULT_GAIN = 200.0
DEFAULT_RATE = 250.0
FLAC = {508: 8, 516: 16, 524: 24}
MISSING = {80: -128, 508: -128, 8: None, 212: -2048, 24: -(1 << 23), 524: -(1 << 23), 32: -(1 << 31)}
"""The sample that stands for none; -32768 in formats of 16 bits."""

_RECORD = re.compile(r"^(\S+?)(?:/(\d+))?\s+(\d+)(?:\s+([\d.eE+-]+)(?:/[\d.eE+-]+(?:\([\d.eE+-]+\))?)?)?(?:\s+(\d+))?"
                     r"(?:\s+(\d{1,2}(?::\d{1,2}){0,2}(?:\.\d+)?))?(?:\s+(\d{1,2}/\d{1,2}/\d{4}))?\s*$")  # fmt: skip
_FORMAT = re.compile(r"^(\d+)(?:x(\d+))?(?::(\d+))?(?:\+(\d+))?$")
_GAIN = re.compile(r"^([\d.eE+-]+)(?:\((-?\d+)\))?(?:/(\S+))?$")


@dataclass(frozen=True)
class Signal:
    """One signal's line of a header."""

    file: str
    format: int
    samples_per_frame: int
    skew: int
    offset: int
    gain: float
    baseline: float
    unit: str
    initial: int
    checksum: int | None
    name: str


@dataclass(frozen=True)
class Record:
    """A header."""

    path: Path
    signals: tuple[Signal, ...]
    segments: tuple[tuple[str, int], ...]
    frame_rate_hz: float
    frames: int | None
    begin_ns: int


def read_header(path: Path) -> Record:
    """Read a record's header.

    Raises:
        InputError: it cannot be read, or a line is none of a header's.
    """
    path = path if path.suffix == ".hea" else path.with_name(path.name + ".hea")
    try:
        lines = path.read_text(encoding="latin-1").splitlines()
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}); give the .hea file of a WFDB record.") from error
    lines = [line for line in lines if line.strip() and not line.lstrip().startswith("#")]
    match = _RECORD.match(lines[0].strip()) if lines else None
    if match is None:
        raise InputError(f"{path} does not begin with a record's line; it is no WFDB header.")
    _, segments, count, rate, frames, time_of_day, date = match.groups()
    try:
        frame_rate = float(rate or DEFAULT_RATE)
        if not frame_rate > 0:
            raise ValueError("the rate is not positive")
        wanted = int(segments) if segments else int(count)
        if len(lines) - 1 < wanted:
            raise ValueError(f"{len(lines) - 1} lines where {wanted} belong")
        body = lines[1 : 1 + wanted]
        listed = tuple((line.split()[0], int(line.split()[1])) for line in body) if segments else ()
        signals = () if segments else tuple(_signal(line) for line in body)
        begin = _begin(time_of_day, date)
    except (ValueError, IndexError) as error:
        raise InputError(f"{path} has a line that cannot be read ({error}); it is damaged.") from error
    return Record(path, signals, listed, frame_rate, int(frames) if frames else None, begin)


def _begin(time_of_day: str | None, date: str | None) -> int:
    seconds = 0.0
    for part in (time_of_day or "0").split(":"):
        seconds = seconds * 60 + float(part)
    if date is None:
        return EPOCH_NS + round(seconds * 1e9)
    day, month, year = (int(part) for part in date.split("/"))
    midnight = int(datetime(year, month, day, tzinfo=UTC).timestamp())
    if midnight < 0:
        return EPOCH_NS + round(seconds * 1e9)  # before 1970, as shifted dates are
    return midnight * 1_000_000_000 + round(seconds * 1e9)


def _signal(line: str) -> Signal:
    parts = line.split(maxsplit=8)
    form = _FORMAT.match(parts[1])
    if form is None:
        raise ValueError(f"{parts[1]} is no format")
    gain, baseline, unit = DEFAULT_GAIN, None, "mV"
    if len(parts) > 2:
        found = _GAIN.match(parts[2])
        if found is None:
            raise ValueError(f"{parts[2]} is no gain")
        gain = float(found[1]) or DEFAULT_GAIN
        baseline = None if found[2] is None else float(found[2])
        unit = found[3] or "mV"
    zero = int(parts[4]) if len(parts) > 4 else 0
    return Signal(
        file=parts[0],
        format=int(form[1]),
        samples_per_frame=int(form[2] or 1),
        skew=int(form[3] or 0),
        offset=int(form[4] or 0),
        gain=gain,
        baseline=float(zero) if baseline is None else baseline,
        unit=unit,
        initial=int(parts[5]) if len(parts) > 5 else zero,
        checksum=int(parts[6]) if len(parts) > 6 else None,
        name=parts[8].strip() if len(parts) > 8 else "signal",
    )


def _decode(path: Path, form: int, initial: list[int], offset: int) -> NDArray[np.int64]:
    """All samples of a file, of all its signals one after another."""
    if form in FLAC:
        return _decode_flac(path, FLAC[form])
    try:
        raw = np.frombuffer(path.read_bytes()[offset:], dtype=np.uint8)
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}); it belongs beside the record's header.") from error
    if form == 16:
        return raw[: len(raw) // 2 * 2].view("<i2").astype(np.int64)
    if form == 61:
        return raw[: len(raw) // 2 * 2].view(">i2").astype(np.int64)
    if form == 160:
        return raw[: len(raw) // 2 * 2].view("<u2").astype(np.int64) - 32768
    if form == 80:
        return raw.astype(np.int64) - 128
    if form == 32:
        return raw[: len(raw) // 4 * 4].view("<i4").astype(np.int64)
    if form == 24:
        triples = raw[: len(raw) // 3 * 3].reshape(-1, 3).astype(np.int64)
        value = triples[:, 0] | triples[:, 1] << 8 | triples[:, 2] << 16
        return np.where(value >= 1 << 23, value - (1 << 24), value)
    if form == 8:
        count = len(initial)
        steps = raw[: len(raw) // count * count].view(np.int8).astype(np.int64).reshape(-1, count)
        summed: NDArray[np.int64] = (np.array(initial) + np.cumsum(steps, axis=0)).ravel()
        return summed
    if form == 212:
        padded = np.concatenate([raw, np.zeros(-len(raw) % 3, np.uint8)]).reshape(-1, 3).astype(np.int64)
        value = np.empty((len(padded), 2), dtype=np.int64)
        value[:, 0] = padded[:, 0] | (padded[:, 1] & 0x0F) << 8
        value[:, 1] = padded[:, 2] | (padded[:, 1] & 0xF0) << 4
        value = np.where(value >= 2048, value - 4096, value).ravel()
        return value[: (len(raw) * 2) // 3]
    raise InputError(f"{path} has format {form}, which is not read; convert the record with xform to format 16.")


def _decode_flac(path: Path, bits: int) -> NDArray[np.int64]:
    try:
        import soundfile
    except (ImportError, OSError) as error:
        raise InputError(
            f"{path} is compressed as FLAC, which needs the package soundfile (pip install soundfile), or convert the "
            f"record with xform to format 16."
        ) from error
    try:
        data, _ = soundfile.read(str(path), dtype="int32", always_2d=True)
    except RuntimeError as error:
        raise InputError(f"{path} cannot be read as FLAC ({error}); it is damaged.") from error
    samples: NDArray[np.int64] = (data.astype(np.int64) >> (32 - bits)).ravel()
    return samples


def read_signals(record: Record, findings: Findings) -> dict[str, tuple[Signal, float, NDArray[np.float64]]]:
    """The signals of a record of one segment: per name its line, its rate [Hz] and its values, NaN where none.

    Raises:
        InputError: a file is missing, of a format that is not read, or not as long as the header says.
    """
    found: dict[str, tuple[Signal, float, NDArray[np.float64]]] = {}
    files: dict[str, list[Signal]] = {}
    for signal in record.signals:
        files.setdefault(signal.file, []).append(signal)
    for name, group in files.items():
        if name == "~":
            continue
        form = group[0].format
        if any(signal.format != form for signal in group):
            raise InputError(f"{record.path} gives {name} two formats; the header is damaged.")
        samples = _decode(record.path.with_name(Path(name).name), form, [s.initial for s in group], group[0].offset)
        width = sum(signal.samples_per_frame for signal in group)
        if form in FLAC:
            # A FLAC file has a channel per signal; several samples of a frame follow one another in it.
            frames = len(samples) // len(group) // group[0].samples_per_frame
            table = samples[: frames * width].reshape(-1, len(group))
            columns = [table[:, place] for place in range(len(group))]
        else:
            frames = len(samples) // width
            table = samples[: frames * width].reshape(frames, width)
            begins = np.cumsum([0, *(signal.samples_per_frame for signal in group)])
            columns = [table[:, a:b].ravel() for a, b in pairwise(begins)]
        if record.frames is not None and frames < record.frames:
            findings.notes.append(f"{name} holds {frames} of the {record.frames} frames that its header tells of.")
        for signal, column in zip(group, columns, strict=True):
            if record.frames is not None:
                column = column[: record.frames * signal.samples_per_frame]
            if signal.checksum is not None and (int(column.sum()) - signal.checksum) % 65536 != 0:
                findings.notes.append(f"the samples of {signal.name} do not sum up to what the header says.")
            none = MISSING.get(signal.format, -32768)
            values: NDArray[np.float64] = (column - signal.baseline).astype(float) / signal.gain
            if none is not None:
                values = np.where(column == none, np.nan, values)
            values = values[signal.skew * signal.samples_per_frame :]
            unique = signal.name
            while unique in found:
                unique += "'"
            rate = record.frame_rate_hz * signal.samples_per_frame
            found[unique] = (replace(signal, name=unique), rate, values)
    return found


def wfdb_arrivals(path: Path, findings: Findings) -> list[Iterator[Arrival]]:
    """The messages of a record, one iterator for each signal: pressures by their unit, all others as waveforms.

    Raises:
        InputError: the header or a signal's file cannot be used.
    """
    record = read_header(path)
    segments: list[tuple[Record, int]] = []
    if record.segments:
        frame = 0
        for name, frames in record.segments:
            if name != "~" and frames:
                segments.append((read_header(record.path.with_name(Path(name).name + ".hea")), frame))
            elif frames:
                findings.notes.append(f"{frames} frames are missing from the record (a segment without signals).")
            frame += frames
    else:
        segments = [(record, 0)]
    pieces: dict[str, list[tuple[int, float, Signal, NDArray[np.float64]]]] = {}
    for segment, frame in segments:
        if segment.segments:
            raise InputError(f"{segment.path} is a record of segments within one; that is not read.")
        begin = record.begin_ns + round(frame / record.frame_rate_hz * 1e9)
        for name, (signal, rate, values) in read_signals(segment, findings).items():
            pieces.setdefault(name, []).append((begin, rate, signal, values))
    for name, parts in pieces.items():
        missing = sum(int(np.isnan(values).sum()) for *_, values in parts)
        if missing:
            findings.counts[f"samples of {name} are missing, and were left out"] += missing
    return [_signal_arrivals(name, parts) for name, parts in pieces.items()]


def _signal_arrivals(name: str, parts: list[tuple[int, float, Signal, NDArray[np.float64]]]) -> Iterator[Arrival]:
    number = 0
    for begin_ns, rate, signal, values in parts:
        period_ns = 1e9 / rate
        there = np.flatnonzero(np.isfinite(values))
        # Runs without a missing sample, each in batches.
        for run in np.split(there, np.flatnonzero(np.diff(there) > 1) + 1):
            for first in range(0, len(run), BATCH):
                batch = run[first : first + BATCH]
                time_ns = begin_ns + round(batch[0] * period_ns)
                pressure = signal.unit.lower() == "mmhg"
                message = samples_message(
                    stream=f"{'pressure' if pressure else 'waveform'}/{slug(name).lower()}",
                    sequence=number,
                    source_time_ns=time_ns,
                    sensor=name,
                    period_ns=round(period_ns),
                    values=tuple(values[batch].tolist()),
                    pressure=pressure,
                    unit=signal.unit,
                )
                yield Arrival(time_ns + round(period_ns * (len(batch) - 1)), message)
                number += 1
