"""The branches of a vessel tree in figures: how long, how wide, and at which angle they leave."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from meshes.centerline import Centerline
from meshes.grid import Array
from meshes.sections import Sections

ANGLE_RADII = 2.0
"""A branch's direction at a junction is that from the junction to the place this many of its radii beyond the wall of
the vessel that it leaves."""


@dataclass(frozen=True)
class BranchFigures:
    """One branch; lengths mm, angles degrees.

    Attributes:
        branch: its index.
        parent: the branch that it leaves; None for the first.
        end: the port it ends in; None where it divides.
        length: along its centerline.
        radius: median over its single sections, of the circle of equal area.
        tortuosity: length over the distance of its ends, less one.
        angle: between its direction and the one its parent had; None for the first.
    """

    branch: int
    parent: int | None
    end: str | None
    length: float
    radius: float
    tortuosity: float
    angle: float | None


def branch_figures(centerline: Centerline, sections: Sections) -> tuple[BranchFigures, ...]:
    """Figures of every branch."""
    found = []
    for branch in centerline.branches:
        ids = branch.point_ids
        single = ids[sections.single[ids]]
        radius = float(np.median(sections.radius[single])) if len(single) else float(np.median(centerline.radius[ids]))
        length = float(centerline.arc_length[ids[-1]])
        chord = float(np.linalg.norm(centerline.points[ids[-1]] - centerline.points[ids[0]]))
        angle = None
        if branch.parent is not None:
            before = centerline.branches[branch.parent].point_ids
            incoming = -_direction(centerline, before[::-1])
            outgoing = _direction(centerline, ids)
            angle = float(np.degrees(np.arccos(np.clip(incoming @ outgoing, -1.0, 1.0))))
        found.append(
            BranchFigures(
                branch.index, branch.parent, branch.end, length, radius, length / max(chord, 1e-9) - 1.0, angle
            )
        )
    return tuple(found)


def _direction(centerline: Centerline, ids: np.typing.NDArray[np.int64]) -> Array:
    """Unit vector of a branch away from its first point, a junction."""
    away = np.linalg.norm(centerline.points[ids] - centerline.points[ids[0]], axis=1)
    reach = centerline.radius[ids[0]] + ANGLE_RADII * float(np.median(centerline.radius[ids]))
    far = np.flatnonzero(away >= reach)
    end = int(far[0]) if len(far) else len(ids) - 1
    direction = centerline.points[ids[end]] - centerline.points[ids[0]]
    return np.asarray(direction / max(float(np.linalg.norm(direction)), 1e-12))
