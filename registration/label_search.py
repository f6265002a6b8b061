"""Which point is which: correspondences of two sets of points found from their distances alone.

Every triangle of source points is compared with all triangles of target points whose three sides agree; each
agreement proposes a rigid transform, and the transform that brings most points onto a partner wins. A
triangle has no handedness in space but a rigid transform has, so that mirrored arrangements of four or more
points do not match.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from registration.absolute_orientation import fit_points, residuals_of
from registration.rigid import Array, apply_to_points

MOST_TRIANGLES = 400
"""Source triangles tried, largest first; all of them up to 14 points."""

MOST_HYPOTHESES = 20_000
"""Transforms scored at once per search, so that a grid of equal distances ends in finite time."""


@dataclass(frozen=True)
class Labeling:
    """Point `source[k]` of the source set is point `target[k]` of the target set; `rms` of the fit in mm."""

    source: NDArray[np.intp]
    target: NDArray[np.intp]
    rms: float

    @property
    def key(self) -> tuple[tuple[int, int], ...]:
        """The pairs, sorted: two labelings are the same if these are."""
        return tuple(sorted(zip(self.source.tolist(), self.target.tolist(), strict=True)))


def search_labels(source: Array, target: Array, tolerance: float, *, keep: int = 12) -> list[Labeling]:
    """Labelings of source (n, 3) and target (m, 3) points, most pairs first, then smallest RMS.

    Args:
        source: points in the source frame, mm.
        target: points in the target frame, mm, in any order, with points more or fewer.
        tolerance: largest distance of a pair after the fit, mm.
        keep: how many different proposals are refined.
    """
    between_sources = np.linalg.norm(source[:, None] - source[None], axis=2)
    between_targets = np.linalg.norm(target[:, None] - target[None], axis=2)
    triangles = np.array(list(combinations(range(len(source)), 3)))
    first, second = source[triangles[:, 1]] - source[triangles[:, 0]], source[triangles[:, 2]] - source[triangles[:, 0]]
    areas = np.linalg.norm(np.cross(first, second), axis=1)
    triangles = triangles[np.argsort(-areas, kind="stable")[:MOST_TRIANGLES]]

    distinct = ~np.eye(len(target), dtype=bool)
    proposals: list[tuple[NDArray[np.intp], NDArray[np.intp]]] = []
    total = 0
    for triangle in triangles:
        a, b, c = triangle
        ab, ac, bc = (
            (np.abs(between_targets - between_sources[i, j]) < 2.0 * tolerance) & distinct
            for i, j in ((a, b), (a, c), (b, c))
        )
        found = np.argwhere(ab[:, :, None] & ac[:, None, :] & bc[None])
        if len(found):
            proposals.append((np.repeat(triangle[None], len(found), axis=0), found))
            total += len(found)
        if total > MOST_HYPOTHESES:
            break
    if not proposals:
        return []
    of_source, of_target = (np.concatenate(part)[:MOST_HYPOTHESES] for part in zip(*proposals, strict=True))
    fits = fit_points(source[of_source], target[of_target])
    reach = np.concatenate(
        [
            np.linalg.norm(
                (source @ np.swapaxes(part[:, :3, :3], 1, 2) + part[:, None, :3, 3])[:, :, None] - target, axis=3
            ).min(axis=2)
            for part in np.array_split(fits, max(1, len(fits) * len(source) * len(target) // 2_000_000))
        ]
    )
    close = np.minimum(reach, 2.0 * tolerance)
    order = np.lexsort((np.sum(close**2, axis=1), -np.sum(reach < tolerance, axis=1)))

    best: dict[tuple[tuple[int, int], ...], Labeling] = {}
    seen: set[tuple[tuple[int, int], ...]] = set()
    for index in order[: 50 * keep]:
        labeling = _refine(source, target, fits[index], tolerance, seen)
        if labeling is not None:
            best.setdefault(labeling.key, labeling)
        if len(best) >= keep:
            break
    return sorted(best.values(), key=lambda labeling: (-len(labeling.source), labeling.rms))


def _refine(
    source: Array, target: Array, fit: Array, tolerance: float, seen: set[tuple[tuple[int, int], ...]]
) -> Labeling | None:
    """Assign one to one, fit again, until the pairs stay the same; None for fewer than three pairs or pairs
    seen before."""
    pairs: tuple[NDArray[np.intp], NDArray[np.intp]] | None = None
    for _ in range(10):
        distances = np.linalg.norm(apply_to_points(fit, source)[:, None] - target[None], axis=2)
        rows, columns = linear_sum_assignment(np.minimum(distances, 2.0 * tolerance) ** 2)
        near = distances[rows, columns] < tolerance
        rows, columns = rows[near], columns[near]
        if len(rows) < 3:
            return None
        if pairs is not None and np.array_equal(rows, pairs[0]) and np.array_equal(columns, pairs[1]):
            break
        if pairs is None:
            key = tuple(sorted(zip(rows.tolist(), columns.tolist(), strict=True)))
            if key in seen:
                return None
            seen.add(key)
        pairs = rows, columns
        fit = fit_points(source[None, rows], target[None, columns])[0]
    rms = float(np.sqrt(np.mean(residuals_of(fit[None], source[rows], target[columns]) ** 2)))
    return Labeling(rows, columns, rms)
