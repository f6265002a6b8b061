"""Points from files: tables with or without names, what 3D Slicer writes (``.fcsv``, ``.mrk.json``), PLUS's landmarks.

Positions are mm in the DICOM patient frame (LPS). Slicer's files say which frame they are in; where one is in RAS, its
first two axes are turned. So are columns of a table that are headed r, a, s; under x, y, z its numbers are taken as
they are.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np

from registration.errors import InputError
from registration.rigid import Array
from registration.tables import LENGTHS, factors_of, heading_of, number_of, position_columns, read_text, split_row

FARTHEST_MM = 1e5
"""Nothing of a patient, and no tracker, is as far from an origin as a hundred meters."""

LPS_FROM_RAS = np.array([-1.0, -1.0, 1.0])

_NAMES = ("name", "label", "id")
_FCSV_COLUMNS = ("id", "x", "y", "z", "ow", "ox", "oy", "oz", "vis", "sel", "lock", "label", "desc")
"""Of Slicer 4; files of Slicer 3 and PLUS say their own."""
_FCSV_MARKS = ("# Markups fiducial file", "# Fiducial List file")


@dataclass(frozen=True)
class PointSet:
    """Points (n, 3) in mm with their n names, as a file holds them.

    `named` says whether the names are the file's own; otherwise they count from "1".
    """

    path: Path
    points: Array
    names: tuple[str, ...]
    named: bool

    def by_name(self) -> dict[str, Array]:
        """Each point (3,) by its name.

        Raises:
            InputError: the file gives no names, or one twice.
        """
        if not self.named:
            raise InputError(f"{self.path} gives no names to its points; give lines of name,x,y,z in mm.")
        for k, name in enumerate(self.names):
            if name in self.names[:k]:
                raise InputError(f"{self.path} has two points of the name {name!r}; give each its own.")
        return dict(zip(self.names, self.points, strict=True))

    def paired(self, target: PointSet) -> tuple[Array, Array, tuple[str, ...]]:
        """These points, their partners in a target set, and their names: by name where both files name them.

        A target without a partner is left out: not every planned fiducial can be touched. Where a file has no names,
        points are paired in their order, and have to be as many.

        Raises:
            InputError: a name that the target does not know, or sets that differ in number.
        """
        if not (self.named and target.named):
            if len(self.points) != len(target.points):
                raise InputError(
                    f"{self.path} has {len(self.points)} points and {target.path} {len(target.points)}, and they can "
                    "only be paired in order; give both names, or as many of each."
                )
            return self.points, target.points, self.names if self.named else target.names
        known = target.by_name()
        self.by_name()
        strange = [name for name in self.names if name not in known]
        if strange:
            raise InputError(
                f"{self.path} names {', '.join(map(repr, strange))}, which {target.path} does not; "
                f"it has {', '.join(map(repr, target.names))}."
            )
        return self.points, np.array([known[name] for name in self.names]), self.names


def read_point_file(path: Path) -> PointSet:
    """Read points from a table (CSV, blanks or tabs between), a Slicer ``.fcsv`` or ``.mrk.json``, or the phantom's
    landmarks, as they are, from a PLUS configuration (``.xml``).

    A table has the columns x, y, z or name, x, y, z; with a line of headings they may stand in any order beside others.

    Raises:
        InputError: the file cannot be read, holds no point, or a line that is none; the line is named.
    """
    text = read_text(Path(path), "points: name,x,y,z in mm, or a Slicer .fcsv or .mrk.json")
    suffix = Path(path).suffix.lower()
    read = {".json": _markups, ".fcsv": _fcsv, ".xml": _plus_landmarks}.get(suffix, _table)
    if text.startswith(_FCSV_MARKS):  # under whatever name
        read = _fcsv
    rows, named = read(Path(path), text)
    if not rows:
        raise InputError(f"{path} holds no points; give lines of name,x,y,z in mm.")
    names = tuple(name if named else str(k) for k, (name, _) in enumerate(rows, 1))
    return PointSet(Path(path), np.array([point for _, point in rows]), names, named)


def _table(path: Path, text: str) -> tuple[list[tuple[str, Array]], bool]:
    """Rows of (name, point), and whether the table has names; rows that Slicer marks as not defined are not there."""
    rows: list[tuple[str, Array]] = []
    columns: list[str] = []
    axes = {name: (k, 1.0) for k, name in enumerate("xyz")}
    factors: dict[str, float] = {}
    seen = False
    lines = text.splitlines()
    elastix = re.match(r"point\s+\d+\s*$", "\n".join(lines[:2]))  # its heading, and how many follow
    for number, line in enumerate(lines, 1):
        if elastix and number <= 2:
            continue
        if line.lstrip().startswith("#"):
            _refuse_other_frame(path, line)
            continue
        parts = split_row(line)
        if not any(parts):
            continue
        if not columns and all(number_of(part) is None for part in parts[1:]):
            headings = [heading_of(part) for part in parts]
            columns = [name for name, _ in headings]
            axes = position_columns(path, columns)
            factors = factors_of(path, headings, dict.fromkeys(axes, LENGTHS))
            continue
        if not columns:
            if len(parts) not in (3, 4):
                raise InputError(f"{path}, line {number} has {len(parts)} values; give x, y, z or name, x, y, z in mm.")
            columns = ["x", "y", "z"] if len(parts) == 3 else ["name", "x", "y", "z"]
        seen = True
        if "defined" in columns and dict(zip(columns, parts, strict=False)).get("defined") == "0":
            continue
        name, point = _row(path, number, parts, columns, axes, factors)
        rows.append((name, point))
    if seen and not rows:
        raise InputError(f"{path} has no point that is defined; place them.")
    return rows, any(name in columns for name in _NAMES)


def _refuse_other_frame(path: Path, line: str) -> None:
    """A comment that says a frame other than LPS is not passed over."""
    said = re.match(r"#\s*(?:coordinate ?system|space)\s*[=:]\s*(\w+)", line.strip(), re.IGNORECASE)
    if said and said[1].upper() not in ("LPS", "1"):
        raise InputError(
            f"{path} says {line.strip()!r}, and a table is taken as LPS; head its columns r, a, s, or save it as .fcsv."
        )


def _fcsv(path: Path, text: str) -> tuple[list[tuple[str, Array]], bool]:
    columns = list(_FCSV_COLUMNS)
    to_lps = LPS_FROM_RAS  # of files that do not say
    rows = []
    for number, line in enumerate(text.splitlines(), 1):
        if line.startswith("#"):
            key, _, value = (part.strip(" ,;\t") for part in line[1:].partition("="))  # spreadsheets fill lines up
            if key == "columns":
                columns = [part.strip().lower() for part in value.split(",")]
            elif key == "CoordinateSystem":
                to_lps = _to_lps(path, {"0": "RAS", "1": "LPS", "2": "IJK"}.get(value, value))
        elif line.strip(" ,;\t"):
            separator = "," if line.count(",") >= line.count(";") else None
            name, point = _row(path, number, split_row(line, separator=separator), columns)
            rows.append((name, to_lps * point))
    return rows, "label" in columns or "id" in columns


def _markups(path: Path, text: str) -> tuple[list[tuple[str, Array]], bool]:
    """Control points of the one list in a Slicer markups file; points that were never placed are not there."""
    try:
        markups = json.loads(text)["markups"]
        if not markups:
            raise InputError(f"{path} holds no markups; save a list of points from Slicer.")
        filled = [one for one in markups if one["controlPoints"]]
        if len(filled) > 1:
            raise InputError(f"{path} holds {len(filled)} lists of points; save the one to use by itself.")
        markup: dict[str, Any] = filled[0] if filled else markups[0]
        controls = markup["controlPoints"]
        to_lps = _to_lps(path, str(markup.get("coordinateSystem", "LPS")))
        unit = markup.get("coordinateUnits", "mm")
        unit = str(unit[0]) if isinstance(unit, list) and unit else str(unit)  # a code with its scheme and meaning
        rows = [
            (str(point.get("label") or point.get("id") or ""), to_lps * np.array(point["position"], dtype=np.float64))
            for point in controls
            if point.get("positionStatus", "defined") == "defined"
        ]
    except InputError:
        raise
    except (ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
        raise InputError(f"{path} is no markups file of 3D Slicer ({error!r}); save the points from Slicer.") from error
    if unit != "mm":
        raise InputError(f"{path} has its points in {unit}; save them in mm.")
    for name, point in rows:
        if point.shape != (3,) or not (np.abs(point) <= FARTHEST_MM).all():
            raise InputError(f"{path}: point {name!r} has no position of three numbers in mm; place it again.")
    return rows, all(name for name, _ in rows)


def _plus_landmarks(path: Path, text: str) -> tuple[list[tuple[str, Array]], bool]:
    try:
        found = list(ElementTree.fromstring(text).iter("Landmark"))
        rows = [
            (element.get("Name", ""), np.array(element.get("Position", "").split(), dtype=np.float64))
            for element in found
        ]
    except (ElementTree.ParseError, ValueError) as error:
        raise InputError(f"{path} is no PLUS configuration with landmarks ({error}); give name,x,y,z in mm.") from error
    if not rows or any(point.shape != (3,) or not (np.abs(point) <= FARTHEST_MM).all() for _, point in rows):
        raise InputError(f"{path} defines no phantom's landmarks, each with a Position of three numbers.")
    return rows, all(name for name, _ in rows)


def _to_lps(path: Path, system: str) -> Array:
    if system.upper() not in ("RAS", "LPS"):
        raise InputError(f"{path} has its points in the frame {system!r}; save them in LPS or RAS.")
    return LPS_FROM_RAS if system.upper() == "RAS" else np.ones(3)


def _row(
    path: Path,
    number: int,
    parts: Sequence[str],
    columns: Sequence[str],
    axes: Mapping[str, tuple[int, float]] | None = None,
    factors: Mapping[str, float] | None = None,
) -> tuple[str, Array]:
    """Name and point of one line; `axes` and `factors` say where in LPS its columns belong, and their unit in mm."""
    if any(parts[len(columns) :]):
        raise InputError(
            f"{path}, line {number} has {len(parts)} values under {len(columns)} columns ({', '.join(parts)!r}); "
            "give one per column, and numbers with a decimal point."
        )
    by_column = dict(zip(columns, parts, strict=False))
    point = np.full(3, np.nan)
    for column, (axis, sign) in (axes or {name: (k, 1.0) for k, name in enumerate("xyz")}).items():
        value = number_of(by_column.get(column, ""))
        if value is not None:
            point[axis] = value * sign * (factors or {}).get(column, 1.0)
    heads = [head for head in ("label", "name", "id") if head in columns]
    name = next((by_column[head] for head in heads if by_column.get(head)), "")
    if not np.isfinite(point).all() or (heads and not name):
        wanted = "name, x, y, z with numbers in mm" if heads else "x, y, z in mm"
        raise InputError(f"{path}, line {number} is not {wanted}: mend it ({', '.join(parts)!r}).")
    if np.abs(point).max() > FARTHEST_MM:
        raise InputError(f"{path}, line {number} lies {np.abs(point).max():.3g} mm away: mend it, or give mm.")
    return name, point
