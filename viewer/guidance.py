"""Where the tip is in relation to what matters: the wall, the target, and the vessel before it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyvista as pv
import vtk
from numpy.typing import ArrayLike, NDArray
from scipy.spatial import cKDTree

from viewer.alerts import BREACH, NEAR_WALL

if TYPE_CHECKING:
    from streams.messages import TwinState

Array = NDArray[np.float64]

NEAR_WALL_MM = 1.0
"""A tip that may be closer to the wall than this, within its 95 % ellipsoid, is told of where the vessel is wide."""

SURE_OUTSIDE = 1.96
"""A tip is through the wall where it is outside by this many standard deviations of its place across the wall."""


@dataclass(frozen=True)
class Guidance:
    """Distances at one moment, mm.

    Attributes:
        wall_mm: from the tip to the wall; negative outside of the lumen.
        wall_std_mm: standard deviation of that, from the tip's covariance across the wall.
        wall_point: (3,) the nearest point of the wall.
        target_mm: from the tip to the target in a straight line; None without one.
        along_mm: the same along the vessel; None where the tip or target is in none.
        narrowest_mm: radius of the narrowest place ahead, and how far ahead it is.
        way: (n, 3) the vessel's middle from the tip to the target or on to the next places; empty where unknown.
        ahead: (n, 3) the vessel's middle for 60 mm from the tip away from the inlet; empty where unknown.
    """

    wall_mm: float
    wall_std_mm: float
    wall_point: Array
    target_mm: float | None
    along_mm: float | None
    narrowest_mm: tuple[float, float] | None
    way: Array
    ahead: Array

    @property
    def conditions(self) -> tuple[str, ...]:
        """Alert conditions that follow."""
        if self.wall_mm < -SURE_OUTSIDE * max(self.wall_std_mm, 1e-9):
            return (BREACH,)
        if self.wall_mm < NEAR_WALL_MM:
            return (NEAR_WALL,)
        return ()


class Guide:
    """Distances within one case.

    Args:
        lumen: closed surface, mm LPS.
        way: (n, 3) mm LPS points along the vessel that the procedure follows, from the inlet.
        radius: (n,) mm of the vessel there.
        target: (3,) mm LPS; the way's narrowest place where None.
        ends: (m, 3) port centers: there the lumen ends but no wall is.
    """

    def __init__(
        self,
        lumen: pv.PolyData,
        *,
        way: ArrayLike | None = None,
        radius: ArrayLike | None = None,
        target: ArrayLike | None = None,
        ends: ArrayLike | None = None,
    ) -> None:
        self._distance = vtk.vtkImplicitPolyDataDistance()
        plain = pv.PolyData(np.asarray(lumen.points), lumen.faces).triangulate()
        self._distance.SetInput(plain)
        # Normals of the surface decide on which side is inside; which way they point is found out at a far point.
        far = np.array(plain.bounds)[1::2] + 10.0 * plain.length
        self._sign = -1.0 if self._distance.EvaluateFunction(*far) > 0.0 else 1.0
        self._way = np.zeros((0, 3)) if way is None else np.asarray(way, dtype=float).reshape(-1, 3)
        self._radius = None if radius is None else np.asarray(radius, dtype=float)
        steps = np.linalg.norm(np.diff(self._way, axis=0), axis=1)
        self._along = np.concatenate([[0.0], np.cumsum(steps)]) if len(self._way) else np.zeros(0)
        self._tree = cKDTree(self._way) if len(self._way) > 1 else None
        self.target = None if target is None else np.asarray(target, dtype=float)
        if self.target is None and self._radius is not None and len(self._way) > 4:
            inner = slice(len(self._way) // 10, -max(len(self._way) // 10, 1))
            self.target = self._way[inner][int(np.argmin(self._radius[inner]))]
        self._ends = None if ends is None else np.asarray(ends, dtype=float).reshape(-1, 3)

    @property
    def length_mm(self) -> float:
        """Of the way; 0 where there is none."""
        return float(self._along[-1]) if len(self._along) else 0.0

    def along(self, point: ArrayLike) -> float | None:
        """Distance along the way of the place nearest to a point, mm; None where it is far from the way."""
        if self._tree is None:
            return None
        away, nearest = self._tree.query(np.asarray(point, dtype=float))
        radius = 5.0 if self._radius is None else float(self._radius[nearest])
        return float(self._along[nearest]) if away < 2.0 * radius + 2.0 else None

    def look(self, state: TwinState) -> Guidance | None:
        """Guidance for a state; None where its tip is not known."""
        if state.tip is None or not state.tip_valid or state.tip_covariance is None:
            return None
        tip = np.array(state.tip, dtype=float)
        wall_point = np.zeros(3)
        inside = self._sign * self._distance.EvaluateFunctionAndGetClosestPoint(tip, wall_point)
        across = tip - wall_point
        length = float(np.linalg.norm(across))
        covariance = np.array(state.tip_covariance, dtype=float).reshape(3, 3)
        if length > 1e-6:
            across /= length
            deviation = float(np.sqrt(max(across @ covariance @ across, 0.0)))
        else:
            deviation = float(np.sqrt(np.trace(covariance) / 3.0))
        if inside < NEAR_WALL_MM and self._at_an_end(tip, length):
            inside = max(inside, NEAR_WALL_MM)
        place = self.along(tip)
        target_mm = None if self.target is None else float(np.linalg.norm(self.target - tip))
        goal = None if self.target is None else self.along(self.target)
        along = None if place is None or goal is None else goal - place
        return Guidance(
            inside,
            deviation,
            wall_point,
            target_mm,
            along,
            self._ahead(place),
            self._course(place, goal),
            self._beyond(place),
        )

    def _at_an_end(self, tip: Array, wall_mm: float) -> bool:
        """Whether the tip passes a port, where the model's lumen ends and the vessel goes on."""
        if self._ends is None or not len(self._ends):
            return False
        return float(np.linalg.norm(self._ends - tip, axis=1).min()) < max(3.0 * wall_mm, 6.0)

    def _ahead(self, place: float | None) -> tuple[float, float] | None:
        if place is None or self._radius is None:
            return None
        ahead = (self._along >= place) & (self._along <= place + 80.0)
        if not ahead.any():
            return None
        index = np.flatnonzero(ahead)[int(np.argmin(self._radius[ahead]))]
        return float(self._radius[index]), float(self._along[index] - place)

    def _beyond(self, place: float | None) -> Array:
        if place is None:
            return np.zeros((0, 3))
        return self._way[(self._along >= place) & (self._along <= place + 60.0)]

    def _course(self, place: float | None, goal: float | None) -> Array:
        """From the tip to the target; beyond it, 40 mm on."""
        if place is None:
            return np.zeros((0, 3))
        end = goal if goal is not None and abs(goal - place) > 1.0 else place + 40.0
        low, high = sorted((place, end))
        return self._way[(self._along >= low) & (self._along <= high)]
