"""Tables of numbers as people and devices write them: commas, semicolons, tabs or blanks between, a heading or none."""

from __future__ import annotations

import csv
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from registration.errors import InputError
from registration.rigid import Array


def number_of(text: str) -> float | None:
    """The number that a field holds; None if it is none."""
    try:
        return float(text)
    except ValueError:
        return None


def split_row(line: str) -> list[str]:
    """The fields of one line: commas between, or semicolons (numbers may then have decimal commas), tabs or blanks."""
    if ";" in line:
        return [re.sub(r"^([-+]?\d+),(\d+)", r"\1.\2", part.strip()) for part in line.split(";")]
    if "," in line:
        return [part.strip() for part in next(csv.reader([line], skipinitialspace=True))]
    return line.split()


def read_rows(path: Path, widths: Sequence[int], meaning: str) -> Array:
    """Numbers (n, width) from a table whose lines all have one of some widths; lines of words before them are skipped.

    Args:
        path: the file.
        widths: how many numbers a line may have.
        meaning: what they are, for a person.

    Raises:
        InputError: the file cannot be read, holds no such line, or one that is none; the line is named.
    """
    rows: list[list[float]] = []
    try:
        lines = Path(path).read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read ({error}); give lines of {meaning}.") from error
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        parts = [part for part in split_row(line) if part]
        values = [number_of(part) for part in parts]
        if any(value is None for value in values):
            if not rows and all(value is None for value in values):
                continue
            raise InputError(f"{path}, line {number} is not {meaning}: {line.strip()!r}.")
        if len(values) not in widths or (rows and len(values) != len(rows[0])):
            raise InputError(f"{path}, line {number} has {len(values)} numbers; give {meaning}.")
        rows.append([value for value in values if value is not None])
    if not rows:
        raise InputError(f"{path} holds no lines of {meaning}.")
    return np.array(rows)
