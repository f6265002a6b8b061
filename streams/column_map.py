"""The column map: a TOML file that says which column of a table is what.

[table]
skip_lines = 0                # lines before the one with the columns' names
# columns = ["t", "p"]        # their names, where the file has no such line
# begin = "2021-02-02"        # the day that times of day belong to

[time]                        # of all series that have no time of their own
column = "timestamp"          # or columns = ["Hour", "Minutes", "Seconds", "ms"], added up
unit = "s"                    # s, ms, us, ns, h, min; one for each column; or clock for 12:12:15.591

[[pressure]]                  # also [[waveform]]
column = "p"
unit = "mmHg"
# stream, sensor, tool, rate = "200 Hz", missing = [0], time = { column = ..., unit = ... }

[[pose]]
tool = "a"
position = ["x", "y", "z"]
quaternion = ["qw", "qx", "qy", "qz"]
unit = "mm"

[[flow]]                      # port, column, unit, deviation
[[vital]]                     # column, quantity, unit, device
[[note]]                      # column: text
[[trigger]]                   # column: the times themselves; kind
"""

import tomllib
from pathlib import Path

import msgspec

from streams.errors import InputError


class _Strict(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Base of the map's parts: a name that is not known is an error."""


class TimeMap(_Strict, frozen=True, kw_only=True):
    """Where the time is."""

    column: str | None = None
    columns: tuple[str, ...] = ()
    unit: str | tuple[str, ...] = "s"


class TableMap(_Strict, frozen=True, kw_only=True):
    """How the file is laid out."""

    skip_lines: int = 0
    columns: tuple[str, ...] = ()
    delimiter: str = ","
    begin: str | None = None


class SamplesMap(_Strict, frozen=True, kw_only=True):
    """A pressure or another waveform."""

    column: str
    unit: str = ""
    stream: str | None = None
    sensor: str | None = None
    quantity: str | None = None
    tool: str | None = None
    rate: str | None = None
    missing: tuple[float, ...] = ()
    time: TimeMap | None = None


class PoseMap(_Strict, frozen=True, kw_only=True):
    """A tool's pose."""

    tool: str
    position: tuple[str, str, str]
    quaternion: tuple[str, str, str, str]
    unit: str = "mm"
    stream: str | None = None
    time: TimeMap | None = None


class FlowMap(_Strict, frozen=True, kw_only=True):
    """A flow through a port."""

    column: str
    port: str
    unit: str = "mL/s"
    deviation: float = 0.0
    stream: str | None = None
    sensor: str | None = None
    missing: tuple[float, ...] = ()
    time: TimeMap | None = None


class VitalMap(_Strict, frozen=True, kw_only=True):
    """A number from a monitor."""

    column: str
    quantity: str | None = None
    unit: str = ""
    device: str = "monitor"
    stream: str | None = None
    missing: tuple[float, ...] = ()
    time: TimeMap | None = None


class NoteMap(_Strict, frozen=True, kw_only=True):
    """Text."""

    column: str
    stream: str | None = None
    time: TimeMap | None = None


class TriggerMap(_Strict, frozen=True, kw_only=True):
    """Instants: a row with a time is one."""

    kind: str = "r_wave"
    stream: str | None = None
    time: TimeMap | None = None


class ColumnMap(_Strict, frozen=True, kw_only=True):
    """The whole map."""

    table: TableMap = TableMap()
    time: TimeMap | None = None
    pressure: tuple[SamplesMap, ...] = ()
    waveform: tuple[SamplesMap, ...] = ()
    pose: tuple[PoseMap, ...] = ()
    flow: tuple[FlowMap, ...] = ()
    vital: tuple[VitalMap, ...] = ()
    note: tuple[NoteMap, ...] = ()
    trigger: tuple[TriggerMap, ...] = ()


def read_map(path: Path) -> ColumnMap:
    """Read a column map.

    Raises:
        InputError: it cannot be read, or names something that is not known.
    """
    try:
        return msgspec.convert(tomllib.loads(path.read_text(encoding="utf-8")), ColumnMap)
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}); check the path.") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is no valid TOML: {error}; mend that line.") from error
    except msgspec.ValidationError as error:
        raise InputError(f"{path} has a setting that cannot be used: {error}.") from error
