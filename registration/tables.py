"""Tables of numbers as people and devices write them: commas, semicolons, tabs or blanks between, headings or none.

Text may be UTF-8 or UTF-16 with its mark, as spreadsheets save it, or the Western code page of older ones. Headings
decide: columns that they name in another order are put in order, lengths and times in other units are converted, and
positions along patient directions (r, a, s) are turned to LPS.
"""

from __future__ import annotations

import codecs
import csv
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from registration.errors import InputError
from registration.rigid import Array

_DECIMAL_COMMA = re.compile(r"^([-+]?\d*),(\d+(?:[eE][-+]?\d+)?)$")

_HEADING = re.compile(r"^(.*?)[ _]*[\[(]?\b(mm|cm|m|s|ms|us|ns|sec|seconds|rad|deg|px|pixels?)?[\])]?$")

LENGTHS = {"": 1.0, "mm": 1.0, "cm": 10.0, "m": 1000.0}
"""Units of length in mm."""

TIMES = {"": 1.0, "s": 1.0, "sec": 1.0, "seconds": 1.0, "ms": 1e-3, "us": 1e-6, "ns": 1e-9}
"""Units of time in s."""

AXES = {
    "x": (0, 1.0),
    "y": (1, 1.0),
    "z": (2, 1.0),
    "l": (0, 1.0),
    "p": (1, 1.0),
    "s": (2, 1.0),
    "r": (0, -1.0),
    "a": (1, -1.0),
    "i": (2, -1.0),
}
"""Axis in LPS and its sign, by what a heading calls it: x, y, z as they are, or a patient's directions."""

_SAME = {"time": "t", "timestamp": "t", "stamp": "t"} | {
    form.format(axis): name.format(axis)
    for axis in "wxyz"
    for name, forms in (("q{}", ("q_{}", "quat_{}")), ("{}", ("t{}", "p{}", "pos_{}", "position_{}")))
    for form in forms
}


def read_text(path: Path, wanted: str) -> str:
    """The text of a file: UTF-8, UTF-16 with its mark, or the Western code page.

    Args:
        path: the file.
        wanted: what to give instead, for a person.

    Raises:
        InputError: the file cannot be read, or is no text.
    """
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}); give {wanted}.") from error
    wide = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    for encoding in ("utf-16",) if wide else ("utf-8-sig", "cp1252"):
        try:
            text = data.decode(encoding)
        except UnicodeDecodeError:
            continue
        if not re.search(r"[\x00-\x08\x0e-\x1f]", text):
            return text
    raise InputError(f"{path} is no text in UTF-8 or UTF-16; give {wanted}.")


def number_of(text: str) -> float | None:
    """The number that a field holds; None if it is none."""
    try:
        return None if "_" in text else float(text)
    except ValueError:
        return None


def split_row(line: str, *, separator: str | None = None) -> list[str]:
    """The fields of one line: semicolons, tabs (numbers may then have decimal commas), commas or blanks between.

    Decimal commas are also read between quotes. With a `separator` only that one is looked for.
    """
    found = separator or next((mark for mark in ";\t," if mark in line), None)
    if found == "\t" and separator is None and all(part.rstrip().endswith(",") for part in line.split("\t")[:-1]):
        found = ","  # "1,<tab>2,<tab>3"
    if found is None:
        return line.split()
    try:
        parts = next(csv.reader([line], delimiter=found, skipinitialspace=True))
    except csv.Error:
        parts = line.split(found)
    return [_DECIMAL_COMMA.sub(r"\1.\2", part.strip()) for part in parts]


def heading_of(text: str) -> tuple[str, str]:
    """What a column's heading names, in lower case, and its unit ("" if it says none): "X [mm]" is ("x", "mm")."""
    plain = text.strip().lower().lstrip("#").strip()
    match = _HEADING.match(plain.replace("_", " "))
    name, unit = (match[1].strip(), match[2] or "") if match else (plain, "")
    if not name:  # "s" is a direction, not seconds of nothing
        name, unit = unit, ""
    name = name.replace(" ", "_")
    return _SAME.get(name, name), unit


def factors_of(
    path: Path, headings: Sequence[tuple[str, str]], units: Mapping[str, Mapping[str, float]]
) -> dict[str, float]:
    """What each column's numbers are multiplied by, to be in mm and s, from its heading's unit.

    Args:
        path: the file, for messages.
        headings: names and units of the columns, as `heading_of` tells them.
        units: by a column's name the units it may be in, each with its factor.

    Raises:
        InputError: a unit that the column cannot be in.
    """
    result = {}
    for name, unit in headings:
        known = units.get(name, {unit: 1.0})
        if unit not in known:
            raise InputError(f"{path} heads {name} in {unit}; give it in {' or '.join(filter(None, known))}.")
        result[name] = known[unit]
    return result


def position_columns(path: Path, names: Sequence[str]) -> dict[str, tuple[int, float]]:
    """Axis in LPS and sign of the three columns that hold positions, by their names.

    Raises:
        InputError: headings that name no three axes, or more than one triple.
    """
    along = [name for name in names if name in AXES]
    plain, patient = [n for n in along if n in "xyz"], [n for n in along if n not in "xyz"]
    triples = [part for part in (plain, patient) if sorted(AXES[name][0] for name in part) == [0, 1, 2]]
    if len(triples) != 1:
        what = "two sets of columns for positions" if triples else "no columns x, y and z (or r, a and s)"
        raise InputError(f"{path} heads {what}: {', '.join(names)!r}; give one column per axis.")
    return {name: AXES[name] for name in triples[0]}


def read_rows(
    path: Path, widths: Sequence[int], meaning: str, columns: Sequence[str] = (), *, unit_mm: float = 1.0
) -> Array:
    """Numbers (n, width) from a table whose lines all have one of some widths.

    Lines of words before them are skipped; where the last of these heads as many columns by known names, the numbers
    are put in order by it, in mm and s, and positions in LPS.

    Args:
        path: the file.
        widths: how many numbers a line may have.
        meaning: what they are, for a person.
        columns: their names in order, as `heading_of` tells them; t, x, y, z and the like.
        unit_mm: length of the positions' unit in mm, where no heading says it.

    Raises:
        InputError: the file cannot be read, holds no such line, or one that is none; the line is named.
    """
    rows: list[list[float]] = []
    head: list[str] = []
    for number, line in enumerate(read_text(path, f"lines of {meaning}").splitlines(), 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        parts = split_row(line)
        while parts and not parts[-1]:  # spreadsheets fill lines up
            parts.pop()
        values = [number_of(part) for part in parts]
        if any(value is None for value in values):
            if not rows and all(value is None for value in values):
                head = parts
                continue
            raise InputError(f"{path}, line {number} is not {meaning}: {line.strip()!r}.")
        if len(values) not in widths or (rows and len(values) != len(rows[0])):
            raise InputError(f"{path}, line {number} has {len(values)} numbers; give {meaning}.")
        rows.append([value for value in values if value is not None])
    if not rows:
        raise InputError(f"{path} holds no lines of {meaning}.")
    return _in_order(path, np.array(rows), head, columns, meaning, unit_mm)


def _in_order(
    path: Path, rows: Array, head: Sequence[str], columns: Sequence[str], meaning: str, unit_mm: float
) -> Array:
    """Rows with their columns as wanted, in mm and s: put in order where a heading names them all."""
    columns = columns[: rows.shape[1]]
    headings = [heading_of(text) for text in head] if len(head) == rows.shape[1] else []
    names = [name for name, _ in headings]
    signs = dict.fromkeys(columns, 1.0)
    if {*"xyz"} <= set(columns) and {*"rlapi"} & set(names):
        if "qx" in columns:
            raise InputError(f"{path} heads poses along patient directions; give x, y, z with the quaternion in LPS.")
        axes = position_columns(path, names)
        signs |= {"xyz"[axis]: sign for axis, sign in axes.values()}
        headings = [("xyz"[axes[name][0]] if name in axes else name, unit) for name, unit in headings]
        names = [name for name, _ in headings]
    order = list(range(len(columns)))
    if sorted(names) == sorted(columns):
        order = [names.index(name) for name in columns]
    elif any(name in columns and columns.index(name) != k for k, name in enumerate(names)):
        raise InputError(f"{path} heads its columns {', '.join(head)!r}; give {meaning}, headed {','.join(columns)}.")
    units = {"t": TIMES} | dict.fromkeys("xyz", LENGTHS | {"": unit_mm})
    factors = {name: unit_mm for name in columns if name in "xyz"} | factors_of(path, headings, units)
    return np.asarray(rows[:, order] * [signs[name] * factors.get(name, 1.0) for name in columns]) if columns else rows
