"""The vessel's wall as it moves with the heart, where a case has it: a time series of surfaces over one beat.

It lies in the case as ``motion.pvd``, the collection of ParaView, which names a surface (VTP) for each of some times in
seconds after the R-wave. All have the triangles of the case's own surface, so that a point of the wall keeps its
number. Between two times points go straight; after the last comes the first again. A beat that is longer or shorter
than the series' is taken to move alike, stretched to its length.
"""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import pyvista as pv
from numpy.typing import NDArray

from viewer.errors import InputError

MOTION = "motion.pvd"
MOST_TIMES = 200
FARTHEST_MM = 60.0
"""No wall moves so far in a beat: a series beyond it is of another frame or unit."""


class Motion:
    """Places of a surface's points over one beat.

    Args:
        times_s: (t,) rising, of the beat's length at most.
        points: (t, n, 3) mm LPS.
        period_s: of the beat that the series shows; the times go on evenly where it is not given.
    """

    def __init__(
        self, times_s: NDArray[np.float64], points: NDArray[np.float32], period_s: float | None = None
    ) -> None:
        times = np.asarray(times_s, dtype=float)
        if len(times) < 2 or len(times) != len(points) or not (np.diff(times) > 0.0).all():
            raise InputError("a moving wall needs two or more surfaces at times that rise.")
        if not np.isfinite(points).all():
            raise InputError("a surface of the moving wall holds points that are not finite.")
        self.period_s = float(times[-1] - times[0] + np.diff(times).mean()) if period_s is None else period_s
        if times[-1] - times[0] >= self.period_s:
            raise InputError(f"the moving wall's times go over more than its beat of {self.period_s:g} s.")
        self._times = times - times[0]
        self._points = np.asarray(points, dtype=np.float32)

    @property
    def reach_mm(self) -> float:
        """How far a point moves at most from where it is at the first time."""
        return float(np.linalg.norm(self._points - self._points[:1], axis=2).max())

    def at(self, share: float) -> NDArray[np.float32]:
        """(n, 3) mm LPS at a share of the beat, 0 to 1 and periodic."""
        now = (share % 1.0) * self.period_s
        after = int(np.searchsorted(self._times, now, side="right"))
        before = after - 1
        end = self._times[after] if after < len(self._times) else self.period_s
        part = np.float32((now - self._times[before]) / (end - self._times[before]))
        first, second = self._points[before], self._points[after % len(self._times)]
        return np.asarray(first + part * (second - first))


def read_motion(path: Path, surface: pv.PolyData) -> Motion:
    """The series of a ``motion.pvd`` for a case's surface.

    Raises:
        InputError: it cannot be read, a surface is missing or has other triangles, or it cannot be of this vessel.
    """
    try:
        sets = [(float(one.get("timestep", "")), str(one.get("file", ""))) for one in _data_sets(path)]
    except (OSError, ElementTree.ParseError, ValueError) as error:
        raise InputError(f"{path} is no collection of surfaces with times ({error}); save it as .pvd.") from None
    if not 2 <= len(sets) <= MOST_TIMES:
        raise InputError(f"{path} names {len(sets)} surfaces; a beat has 2 to {MOST_TIMES}.")
    triangles = np.asarray(surface.regular_faces)
    places = []
    for _, name in sets:
        file = (path.parent / name).resolve()
        if path.parent.resolve() not in file.parents or not file.is_file():
            raise InputError(f"{path} names {name}, which is not in the case; put the surfaces beside it.")
        moved = pv.read(file)
        if not isinstance(moved, pv.PolyData) or moved.n_points != surface.n_points:
            raise InputError(f"{file} does not have the {surface.n_points} points of the case's surface.vtp.")
        if not np.array_equal(np.asarray(moved.regular_faces), triangles):
            raise InputError(f"{file} has other triangles than the case's surface.vtp; move that surface's points.")
        places.append(np.asarray(moved.points, dtype=np.float32))
    motion = Motion(np.array([time for time, _ in sets]), np.array(places))
    away = np.linalg.norm(motion.at(0.0) - np.asarray(surface.points, dtype=np.float32), axis=1).max()
    if max(float(away), motion.reach_mm) > FARTHEST_MM:
        raise InputError(f"{path} moves the wall by more than {FARTHEST_MM:g} mm; give its surfaces in mm, LPS.")
    return motion


def write_motion(folder: Path, surface: pv.PolyData, motion: Motion, count: int = 20) -> Path:
    """Write a series into a case: so many surfaces over the beat, and ``motion.pvd``, which appears last."""
    target = folder / "motion"
    target.mkdir(exist_ok=True)
    lines = []
    for number in range(count):
        share = number / count
        moved = pv.PolyData(motion.at(share), surface.faces)
        moved.save(target / f"surface_{number:03d}.vtp")
        lines.append(f'    <DataSet timestep="{share * motion.period_s:.6f}" file="motion/surface_{number:03d}.vtp"/>')
    text = "\n".join(
        ['<?xml version="1.0"?>', '<VTKFile type="Collection" version="0.1">', "  <Collection>", *lines]
        + ["  </Collection>", "</VTKFile>", ""]
    )
    temporary = folder / f".{MOTION}.part"
    temporary.write_text(text, encoding="utf-8")
    return temporary.replace(folder / MOTION)


def _data_sets(path: Path) -> list[ElementTree.Element]:
    text = path.read_text(encoding="utf-8")
    if "<!DOCTYPE" in text or "<!ENTITY" in text:
        raise ValueError("it declares entities")
    return ElementTree.fromstring(text).findall(".//DataSet")
