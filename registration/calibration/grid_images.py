"""Views of a calibration grid: found in pictures (checkerboard or dots), or read from a table of points and pixels."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, get_args

import cv2
import numpy as np

from registration.errors import InputError
from registration.rigid import Array
from registration.tables import read_rows

Pattern = Literal["checkerboard", "dots", "staggered-dots"]


def grid_points(columns: int, rows: int, spacing_mm: float, pattern: Pattern = "checkerboard") -> Array:
    """(rows * columns, 3) points of a grid at z = 0, mm, row by row.

    Of a checkerboard they are the inner corners. Staggered dots are OpenCV's asymmetric grid: every second row is moved
    by half a step, rows half a step apart, `spacing_mm` being the step.

    Raises:
        InputError: a grid too small, a spacing that is no length.
    """
    if columns < 3 or rows < 3 or not spacing_mm > 0.0:
        raise InputError(
            f"a grid of {columns} x {rows} points, {spacing_mm:g} mm apart, cannot be; 3 x 3 is the least."
        )
    j, i = np.meshgrid(np.arange(columns), np.arange(rows))
    x, y = j * spacing_mm, i * spacing_mm
    if pattern == "staggered-dots":
        x, y = (j + 0.5 * (i % 2)) * spacing_mm, 0.5 * i * spacing_mm
    return np.column_stack([x.ravel(), y.ravel(), np.zeros(x.size)])


def find_grids(
    paths: Sequence[Path], columns: int, rows: int, spacing_mm: float, pattern: Pattern = "checkerboard"
) -> tuple[list[Array], list[Array], tuple[int, int], list[int]]:
    """Grid points (m, 3) and pixels (m, 2) of every picture in which the whole grid is seen.

    Returns the grids, the pixels, the pictures' width and height, and the indices of the pictures used.

    Raises:
        InputError: a picture that cannot be read, pictures of different sizes, or a pattern that is not known.
    """
    if pattern not in get_args(Pattern):
        raise InputError(f'pattern "{pattern}" is not known; use {", ".join(get_args(Pattern))}.')
    model = grid_points(columns, rows, spacing_mm, pattern)
    grids, pixels, used = [], [], []
    size: tuple[int, int] | None = None
    for k, path in enumerate(paths):
        picture = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE) if path.is_file() else None
        if picture is None:
            raise InputError(f"{path} cannot be read as a picture; give PNG, JPEG or TIFF.")
        if size is not None and size != picture.shape[::-1]:
            raise InputError(
                f"{path} has {picture.shape[1]} x {picture.shape[0]} pixels, the first one {size}; use one camera."
            )
        size = (picture.shape[1], picture.shape[0])
        found, places = _find(picture, (columns, rows), pattern)
        if found:
            grids.append(model)
            pixels.append(np.asarray(places, dtype=np.float64).reshape(-1, 2))
            used.append(k)
    if size is None or not used:
        raise InputError(
            f"none of {len(paths)} pictures shows the whole grid of {columns} x {rows}; check the numbers."
        )
    return grids, pixels, size, used


def _find(picture: np.ndarray, shape: tuple[int, int], pattern: Pattern) -> tuple[bool, np.ndarray]:
    if pattern == "checkerboard":
        found, places = cv2.findChessboardCornersSB(
            picture, shape, flags=cv2.CALIB_CB_NORMALIZE_IMAGE | cv2.CALIB_CB_ACCURACY
        )
        return bool(found), places
    kind = cv2.CALIB_CB_ASYMMETRIC_GRID if pattern == "staggered-dots" else cv2.CALIB_CB_SYMMETRIC_GRID
    found, places = cv2.findCirclesGrid(picture, shape, flags=kind | cv2.CALIB_CB_CLUSTERING)
    return bool(found), places


def read_views(path: Path) -> tuple[list[Array], list[Array], list[int]]:
    """Grid points (m, 3) and pixels (m, 2) of each view from a table of view,x,y,z,u,v, and the views' numbers.

    Raises:
        InputError: the table cannot be read.
    """
    table = read_rows(path, (6,), "view, x, y, z in mm and the pixel u, v, six numbers", ("view", *"xyzuv"))
    views = np.unique(table[:, 0])
    parts = [table[table[:, 0] == view] for view in views]
    return [part[:, 1:4] for part in parts], [part[:, 4:] for part in parts], [int(view) for view in views]
