"""A recording as tables: one CSV file for each kind of message, for a spreadsheet or a script."""

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from streams.errors import InputError
from streams.events import Event, Malformed
from streams.messages import (
    FiducialTouch,
    FlowSample,
    ImageFrame,
    Message,
    Note,
    PatientRegistration,
    PressureSamples,
    ToolPose,
    Trigger,
    TwinState,
    VitalSign,
    WaveformSamples,
    decode,
)
from streams.recording import RecordingScan, StateFrame

HEAD = ("time_s", "source_time_ns", "receive_time_ns", "stream", "sequence", "late")

COLUMNS: dict[str, tuple[str, ...]] = {
    "poses": ("tool", "valid", "x_mm", "y_mm", "z_mm", "qw", "qx", "qy", "qz", "error_mm"),
    "touches": ("tool", "fiducial", "x_mm", "y_mm", "z_mm"),
    "registrations": ("method", "x_mm", "y_mm", "z_mm", "qw", "qx", "qy", "qz"),
    "pressures": ("sensor", "tool", "pressure_mmhg"),
    "flows": ("sensor", "port", "flow_ml_s", "deviation_ml_s"),
    "waveforms": ("sensor", "quantity", "value", "unit"),
    "vital_signs": ("device", "quantity", "value", "unit"),
    "triggers": ("kind",),
    "notes": ("source", "text"),
    "images": ("device", "width", "height", "pixel_format"),
}
STATE_COLUMNS = (
    "time_s",
    "source_time_ns",
    "sequence",
    "tip_valid",
    "tip_x_mm",
    "tip_y_mm",
    "tip_z_mm",
    "tip_pressure_mmhg",
    "tip_pressure_lower",
    "tip_pressure_upper",
    "measured_pressure_mmhg",
    "fre_mm",
    "tre_mm",
    "innovation",
    "flags",
)


def _rows(message: Message) -> Iterator[tuple[str, int, tuple[Any, ...]]]:
    """Table, time [ns] and cells of each row that a message gives: a row for each sample."""
    time_ns = message.source_time_ns
    match message:
        case ToolPose():
            yield "poses", time_ns, (message.tool, message.valid, *message.position, *message.quaternion, message.error)
        case FiducialTouch():
            yield "touches", time_ns, (message.tool, message.fiducial, *message.position)
        case PatientRegistration():
            yield "registrations", time_ns, (message.method, *message.position, *message.quaternion)
        case PressureSamples():
            for number, value in enumerate(message.values_mmhg):
                yield "pressures", time_ns + number * message.sample_period_ns, (message.sensor, message.tool, value)
        case WaveformSamples():
            for number, value in enumerate(message.values):
                cells = (message.sensor, message.quantity, value, message.unit)
                yield "waveforms", time_ns + number * message.sample_period_ns, cells
        case FlowSample():
            yield "flows", time_ns, (message.sensor, message.port, message.flow_ml_s, message.deviation_ml_s)
        case VitalSign():
            yield "vital_signs", time_ns, (message.device, message.quantity, message.value, message.unit)
        case Trigger():
            yield "triggers", time_ns, (message.kind,)
        case Note():
            yield "notes", time_ns, (message.source, message.text)
        case ImageFrame():
            yield "images", time_ns, (message.device, message.width, message.height, message.pixel_format)


def _state_row(state: TwinState, start_ns: int) -> tuple[Any, ...]:
    tip, pressure = state.tip or (None, None, None), state.tip_pressure_mmhg
    interval = (None, None, None) if pressure is None else (pressure.value, pressure.lower, pressure.upper)
    return (
        f"{(state.source_time_ns - start_ns) * 1e-9:.9f}",
        state.source_time_ns,
        state.sequence,
        state.tip_valid,
        *tip,
        *interval,
        state.measured_pressure_mmhg,
        state.fre,
        state.tre,
        state.innovation,
        " ".join(state.flags),
    )


class _Tables:
    """CSV files under temporary names, opened when their first row comes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.rows: dict[str, int] = {}
        self._files: dict[str, IO[str]] = {}
        self._writers: dict[str, Any] = {}

    def add(self, table: str, header: tuple[str, ...], row: tuple[Any, ...]) -> None:
        """Write a row."""
        writer = self._writers.get(table)
        if writer is None:
            self.folder.mkdir(parents=True, exist_ok=True)
            stream = (self.folder / f".{table}.csv.part").open("w", newline="", encoding="utf-8")
            self._files[table], writer = stream, csv.writer(stream)
            self._writers[table] = writer
            writer.writerow(header)
            self.rows[table] = 0
        writer.writerow(["" if cell is None else cell for cell in row])
        self.rows[table] += 1

    def finish(self, *, keep: bool) -> None:
        """Give the files their names, or take them away."""
        for table, stream in self._files.items():
            stream.close()
            part = self.folder / f".{table}.csv.part"
            if keep:
                part.replace(self.folder / f"{table}.csv")
            else:
                part.unlink(missing_ok=True)


def write_tables(recording: Path, folder: Path) -> dict[str, int]:
    """Write a recording's messages and states as CSV files; returns the rows of each table.

    ``time_s`` is the source's time, by the session's clock, since the first event arrived.

    Raises:
        InputError: the recording cannot be read, or the folder cannot be written to.
    """
    try:
        there = folder.exists()
        tables = _Tables(folder)
        keep = False
        try:
            start_ns: int | None = None
            for item in RecordingScan(recording).entries():
                if isinstance(item, StateFrame):
                    state = decode(item.frame.partition(b"\0")[2])
                    if isinstance(state, TwinState):
                        tables.add("states", STATE_COLUMNS, _state_row(state, start_ns or state.source_time_ns))
                    continue
                start_ns = item.receive_time_ns if start_ns is None else start_ns
                _add_event(tables, item, start_ns)
            keep = True
        finally:
            tables.finish(keep=keep)
            if not keep and not there and folder.exists():
                folder.rmdir()
    except OSError as error:
        raise InputError(f"{folder} cannot be written to ({error.strerror}); name another folder.") from error
    return tables.rows


def _add_event(tables: _Tables, event: Event, start_ns: int) -> None:
    message = event.message
    if isinstance(message, Malformed):
        return
    for table, time_ns, cells in _rows(message):
        since = f"{(time_ns - start_ns) * 1e-9:.9f}"
        head = (since, time_ns, event.receive_time_ns, message.stream, message.sequence, event.late)
        tables.add(table, HEAD + COLUMNS[table], head + cells)
