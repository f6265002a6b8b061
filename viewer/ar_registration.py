"""Laying the vessel over the patient in a headset: the case's fiducials against the same in the headset's space.

A person touches each fiducial with a controller or a fingertip, or points at it by a ray from two sides or more. With
the rays' origins o_i and unit directions d_i a fiducial is where the sum of squared distances from them is least::

    sum_i (I - d_i d_i^T) (p - o_i) = 0

The rigid registration, its errors and its warnings are those of `registration.landmarks`, as for a tracker.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
from numpy.typing import ArrayLike, NDArray

from registration.errors import InputError as RegistrationInputError
from registration.landmarks import register_landmarks
from registration.verdict import Limits, judge
from viewer.actors import ellipsoid_axes
from viewer.errors import InputError

Array = NDArray[np.float64]

LIMITS = Limits(check=3.0, fail=10.0)
"""Largest half-axis [mm] of the overlay's 95 % ellipsoid at the vessel's middle: above the first a person decides,
above the second nothing is laid over the patient. Published overlays of headsets are off by 2 to 5 mm."""

LEAST_ANGLE_DEG = 10.0
"""Rays that are more alike than this meet nowhere in particular."""

MOST_MISS_MM = 15.0
"""Rays that pass each other by more than this were not meant for one fiducial."""

MOST_FIDUCIALS, MOST_RAYS = 50, 12
FARTHEST_M = 1e3


class Observation(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A fiducial in the headset's space, metres: touched at a point (3,), or pointed at by rays (n, 6) of origin and
    direction."""

    name: str
    point: tuple[float, float, float] | None = None
    rays: tuple[tuple[float, float, float, float, float, float], ...] = ()


@dataclass(frozen=True)
class Overlay:
    """Where the model is laid.

    Attributes:
        headset_from_model: (4, 4) rigid, metres.
        fre_mm: RMS distance of the fiducials from their places.
        error_mm: largest half-axis of the 95 % ellipsoid of the overlay at the vessel's middle.
        level: pass, check or fail.
        words: for the person in the headset.
    """

    headset_from_model: Array
    fre_mm: float
    error_mm: float
    level: str
    words: str

    def as_plain(self) -> dict[str, Any]:
        """For a page: the matrix by columns, as WebGL has it."""
        return {
            "ok": self.level != "fail",
            "matrix": self.headset_from_model.T.ravel().tolist(),
            "fre": self.fre_mm,
            "error": self.error_mm,
            "level": self.level,
            "words": self.words,
        }


def read_observations(given: Any) -> list[Observation]:
    """What a page sent.

    Raises:
        InputError: it is something else.
    """
    try:
        found = msgspec.convert(given, list[Observation])
    except msgspec.ValidationError as error:
        raise InputError(f"the touched fiducials cannot be read ({error}).") from None
    if len(found) > MOST_FIDUCIALS or any(len(one.rays) > MOST_RAYS for one in found):
        raise InputError(f"more than {MOST_FIDUCIALS} fiducials or {MOST_RAYS} rays each are too many.")
    return found


def lay_over(anchors_m: Mapping[str, ArrayLike], observations: Sequence[Observation]) -> Overlay:
    """Register a model to what was touched and pointed at.

    Args:
        anchors_m: fiducials by name in the model's space (3,), metres; its origin is the vessel's middle.
        observations: of these, in the headset's space.

    Raises:
        InputError: too few, unknown or repeated fiducials, rays that do not meet, or points that cannot be registered.
    """
    names = [one.name for one in observations]
    unknown = [name for name in names if name not in anchors_m]
    if unknown:
        raise InputError(f"the case has no fiducial {', '.join(unknown)}; it has {', '.join(anchors_m)}.")
    if len(set(names)) != len(names):
        raise InputError("a fiducial is given twice; touch each once.")
    touched = np.array([_place_mm(one) for one in observations]).reshape(-1, 3)
    planned = 1e3 * np.array([np.asarray(anchors_m[name], dtype=float) for name in names]).reshape(-1, 3)
    try:
        fit = register_landmarks(planned, touched, names=names)
    except RegistrationInputError as error:
        raise InputError(str(error)) from None
    matrix = fit.target_from_source.copy()
    error_mm = float(np.linalg.norm(ellipsoid_axes(fit.point_covariance(matrix[:3, 3])), axis=0).max())
    matrix[:3, 3] *= 1e-3
    verdict = judge("overlay ±", error_mm, LIMITS, "mm (95 %)", fit.warnings)
    worst = int(np.argmax(fit.residuals))
    words = f"{verdict}; FRE {fit.fre:.1f} mm, farthest off {names[worst]} by {fit.residuals[worst]:.1f} mm"
    return Overlay(matrix, fit.fre, error_mm, verdict.level, words)


def _place_mm(one: Observation) -> Array:
    numbers = np.array([*(one.point or ()), *(x for ray in one.rays for x in ray)], dtype=float)
    if not np.isfinite(numbers).all() or np.abs(numbers).max(initial=0.0) > FARTHEST_M:
        raise InputError(f"{one.name} is at no finite place.")
    if one.point is not None:
        return 1e3 * np.array(one.point)
    return 1e3 * meeting_point(np.array(one.rays, dtype=float).reshape(-1, 6), one.name)


def meeting_point(rays: Array, name: str = "the fiducial") -> Array:
    """(3,) where rays (n, 6) of origin and direction meet as nearly as can be, in the unit of the origins (m).

    Raises:
        InputError: fewer than two, rays that are nearly parallel, or that pass each other far off or behind.
    """
    if len(rays) < 2:
        raise InputError(f"{name}: point at it from two sides, or touch it.")
    origins = rays[:, :3]
    lengths = np.linalg.norm(rays[:, 3:], axis=1)
    if lengths.min() < 1e-9:
        raise InputError(f"{name}: a ray has no direction.")
    directions = rays[:, 3:] / lengths[:, None]
    cosines = np.abs(directions @ directions.T)
    if np.degrees(np.arccos(np.clip(cosines.min(), -1.0, 1.0))) < LEAST_ANGLE_DEG:
        raise InputError(
            f"{name}: the rays come from nearly the same side; point from places at least {LEAST_ANGLE_DEG:g}° apart."
        )
    across = np.eye(3) - directions[:, :, None] * directions[:, None, :]
    place = np.linalg.solve(across.sum(axis=0), np.einsum("nij,nj->i", across, origins))
    off = place - origins
    miss = np.linalg.norm(np.einsum("nij,nj->ni", across, off), axis=1)
    if 1e3 * miss.max() > MOST_MISS_MM:
        raise InputError(f"{name}: the rays pass each other by {1e3 * miss.max():.0f} mm; point at it again.")
    if (np.einsum("ni,ni->n", directions, off) <= 0.0).any():
        raise InputError(f"{name}: the rays meet behind the hand; point at it again.")
    return np.asarray(place)
