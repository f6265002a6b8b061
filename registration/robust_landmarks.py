"""Landmarks that cannot all be trusted: the error without each in turn, outliers left out, labels unknown.

Nothing is left out silently: what was excluded is named with its distance from where the others put it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from registration.absolute_orientation import fit_points, fre_of, residuals_of
from registration.errors import InputError
from registration.label_search import search_labels
from registration.landmark_checks import FALSE_ALARM, SWAP_FACTOR
from registration.landmarks import LandmarkRegistration, check_pairs, register_landmarks
from registration.rigid import Array, apply_to_points, check_points

MOST_SUBSETS = 4000
"""Triples tried in the search for trustworthy fiducials; all of them up to 29 fiducials."""


@dataclass(frozen=True)
class LeftOut:
    """One fiducial judged by the others: how far they put it from its target, and how far that should be."""

    name: str
    distance: float
    expected: float


def leave_one_out(
    source: ArrayLike, target: ArrayLike, *, fle: float | None = None, names: Sequence[str] | None = None
) -> list[LeftOut]:
    """Register without each fiducial in turn and see where that puts it: an honest error, unlike FRE.

    `distance` holds the error of the registration *and* the fiducial's own localization error; `expected` is
    the RMS value of that sum, sqrt(TRE^2 + FLE^2), with FLE estimated from the other fiducials where it is
    not given.

    Args:
        source: (n, 3) fiducials in the source frame, mm, n >= 4.
        target: (n, 3) the same fiducials in the target frame, mm.
        fle: RMS length of the combined localization error of one pair, if known.
        names: the fiducials' names.

    Raises:
        InputError: as `register_landmarks`, also where the fiducials left behind cannot be registered.
    """
    source, target, labels = check_pairs(source, target, names)
    if len(source) < 4:
        raise InputError("leaving one fiducial out needs at least 4; touch more fiducials.")
    found = []
    for i, name in enumerate(labels):
        others = np.arange(len(source)) != i
        rest = register_landmarks(
            source[others], target[others], fle=fle, names=[label for label in labels if label != name]
        )
        miss = float(np.linalg.norm(apply_to_points(rest.target_from_source, source[i]) - target[i]))
        found.append(LeftOut(name, miss, math.hypot(rest.tre(target[i]), rest.fle)))
    return found


@dataclass(frozen=True)
class RobustRegistration:
    """A registration on the fiducials that agree, and those it left out, with their distances in mm."""

    registration: LandmarkRegistration
    kept: NDArray[np.bool_]
    excluded: tuple[LeftOut, ...]


def register_without_outliers(
    source: ArrayLike, target: ArrayLike, *, fle: float | None = None, names: Sequence[str] | None = None
) -> RobustRegistration:
    """Register on the largest set of fiducials that agree with each other, and name the rest.

    The triple whose fit brings the nearest half of all fiducials closest starts the set (least median of
    squares, Rousseeuw 1984); a fiducial joins while its distance passes an F test (chi^2 test where `fle` is
    known) at the level `FALSE_ALARM` / n. Distances are judged against what fit and fiducial should err
    there, so far-off fiducials get the room they need.

    Args:
        source: (n, 3) fiducials in the source frame, mm; n >= 4 with `fle`, n >= 5 without.
        target: (n, 3) the same fiducials in the target frame, mm.
        fle: RMS length of the combined localization error of one pair, if known.
        names: the fiducials' names.

    Raises:
        InputError: as `register_landmarks`; too few fiducials to outvote one; no majority that agrees.
    """
    source, target, labels = check_pairs(source, target, names)
    count = len(source)
    fewest = 4 if fle is not None else 5
    if count < fewest:
        raise InputError(
            f"{count} fiducials cannot outvote a bad one; at least {fewest} are needed"
            + ("." if fle is not None else " (4 where the localization error is given).")
        )
    half = max(fewest - 1, (count + 3) // 2)
    order = _best_half(source, target, half)
    kept = np.zeros(count, dtype=bool)
    kept[order[:half]] = True
    if fle is not None and not _acceptable(source[kept], target[kept], fle):
        raise InputError(
            f"no {half} of {count} fiducials agree within a localization error of {fle:g} mm; "
            "check the labels, the tool's calibration and whether the reference moved."
        )
    for _ in range(2 * count):
        distances, expected, freedom = _distances(source, target, kept, fle)
        ratio = distances**2 / expected**2
        level = 1.0 - FALSE_ALARM / count
        bound = stats.chi2.ppf(level, 3) / 3.0 if fle is not None else stats.f.ppf(level, 3, freedom)
        joining = np.flatnonzero(~kept & (ratio <= bound))
        if len(joining):
            kept[joining[np.argmin(ratio[joining])]] = True
            continue
        break
    registration = register_landmarks(
        source[kept], target[kept], fle=fle, names=[n for n, k in zip(labels, kept, strict=True) if k]
    )
    distances, expected, _ = _distances(source, target, kept, fle)
    excluded = tuple(LeftOut(labels[i], float(distances[i]), float(expected[i])) for i in np.flatnonzero(~kept))
    return RobustRegistration(registration, kept, excluded)


def _best_half(source: Array, target: Array, half: int) -> NDArray[np.intp]:
    """Fiducials sorted by their distance under the triple that suits the nearest `half` best."""
    triples = np.array(list(combinations(range(len(source)), 3)))
    if len(triples) > MOST_SUBSETS:
        triples = triples[np.random.default_rng(0).choice(len(triples), MOST_SUBSETS, replace=False)]
    fits = fit_points(source[triples], target[triples])
    distances = residuals_of(fits, source, target)
    sets = np.argsort(distances, axis=1, kind="stable")[:, :half]
    # A second fit on each half: three noisy points alone rank the others poorly.
    scores = fre_of(source[sets], target[sets])
    best = sets[int(np.argmin(scores))]
    fit = fit_points(source[None, best], target[None, best])
    rest = np.setdiff1d(np.arange(len(source)), best)
    return np.concatenate([best, rest[np.argsort(residuals_of(fit, source, target)[0][rest], kind="stable")]])


def _acceptable(source: Array, target: Array, fle: float) -> bool:
    count = len(source)
    squares = 3.0 * count * float(fre_of(source[None], target[None])[0]) ** 2 / fle**2
    return bool(squares <= stats.chi2.ppf(1.0 - FALSE_ALARM / 10.0, 3 * count - 6))


def _distances(source: Array, target: Array, kept: NDArray[np.bool_], fle: float | None) -> tuple[Array, Array, int]:
    """Distances (n,) under the fit of the kept, their expected RMS (n,), and the degrees of freedom."""
    rest = register_landmarks(source[kept], target[kept], fle=fle)
    mapped = apply_to_points(rest.target_from_source, source)
    spread = np.trace(rest.point_covariance(mapped, widened=False), axis1=1, axis2=2)
    return np.linalg.norm(mapped - target, axis=1), np.sqrt(spread + rest.fle**2), 3 * int(kept.sum()) - 6


@dataclass(frozen=True)
class MatchedLandmarks:
    """Result of `match_landmarks`.

    Attributes:
        source: (k,) indices of matched source points.
        target: (k,) indices of their partners.
        registration: the registration on these pairs; its names are the source points'.
        unmatched_source: names of source points without a partner.
        unmatched_target: indices of target points without a partner.
        warnings: ambiguity, and what the registration warns of.
    """

    source: NDArray[np.intp]
    target: NDArray[np.intp]
    registration: LandmarkRegistration
    unmatched_source: tuple[str, ...]
    unmatched_target: tuple[int, ...]
    warnings: tuple[str, ...]


def match_landmarks(
    source: ArrayLike,
    target: ArrayLike,
    *,
    tolerance: float,
    fle: float | None = None,
    names: Sequence[str] | None = None,
) -> MatchedLandmarks:
    """Register points whose order is unknown, some of which may have no partner.

    Args:
        source: (n, 3) points in the source frame, mm.
        target: (m, 3) points in the target frame, mm, in any order.
        tolerance: largest residual of a pair, mm; about three localization errors.
        fle: RMS length of the combined localization error of one pair, if known.
        names: the source points' names.

    Raises:
        InputError: fewer than three points, no three that agree, or an arrangement that fits in two ways
            equally well, which no software can tell apart.
    """
    source, target = check_points(source, "source points"), check_points(target, "target points")
    if min(len(source), len(target)) < 3:
        raise InputError(
            f"{len(source)} source and {len(target)} target points; at least 3 of each that are not on one line "
            "are needed."
        )
    labels = tuple(names) if names is not None else tuple(str(i + 1) for i in range(len(source)))
    if len(labels) != len(source):
        raise InputError(f"{len(labels)} names for {len(source)} points; give one name per point.")
    if not (math.isfinite(tolerance) and tolerance > 0.0):
        raise InputError(f"tolerance {tolerance:g} mm is not a positive length.")
    found = search_labels(source, target, tolerance)
    if not found:
        raise InputError(
            f"no three points of both sets agree within {tolerance:g} mm; check the units, the points, or allow more."
        )
    best = found[0]
    count = len(best.source)
    if count < len(source) and count < len(target):
        mirrored = search_labels(source * (1.0, 1.0, -1.0), target, tolerance, keep=1)
        if mirrored and len(mirrored[0].source) > max(count, 4):
            raise InputError(
                f"the points fit a mirror image ({len(mirrored[0].source)} pairs instead of {count}): "
                "check that both frames are right-handed and their axes named alike."
            )
    floor = fle if fle is not None else 0.0
    rivals = [
        other
        for other in found[1:]
        if len(other.source) == count and other.rms < SWAP_FACTOR * max(best.rms, floor, 1e-3 * tolerance)
    ]
    if rivals:
        differing = [labels[i] for i, _ in sorted(set(best.key) - set(rivals[0].key))]
        raise InputError(
            f"the arrangement fits in two ways almost equally well (RMS {best.rms:.2f} and {rivals[0].rms:.2f} mm; "
            f"points {', '.join(differing)} differ): name the points, or make the arrangement less symmetric."
        )
    registration = register_landmarks(
        source[best.source], target[best.target], fle=fle, names=[labels[i] for i in best.source]
    )
    warnings = list(registration.warnings)
    if count == 3:
        warnings.insert(0, "Only three points matched: chance agreement cannot be excluded; use at least four.")
    return MatchedLandmarks(
        best.source,
        best.target,
        registration,
        tuple(labels[i] for i in range(len(source)) if i not in best.source),
        tuple(j for j in range(len(target)) if j not in best.target),
        tuple(warnings),
    )


@dataclass(frozen=True)
class SimilarityFit:
    """A fit with one scale factor, on request: `matrix` (4, 4) scales, rotates, translates.

    `scale_std` is the standard deviation of `scale` (first order); `fre` the RMS residual in mm.
    """

    matrix: Array
    scale: float
    scale_std: float
    fre: float


def fit_similarity(source: ArrayLike, target: ArrayLike) -> SimilarityFit:
    """Best transform with a scale (Umeyama 1991): for data of unknown units, never for a tracked patient.

    Raises:
        InputError: as `register_landmarks`.
    """
    source, target, _ = check_pairs(source, target, None)
    matrix = fit_points(source[None], target[None], scaled=True)[0]
    squares = residuals_of(matrix[None], source, target)[0] ** 2
    freedom = 3 * len(source) - 7
    scale = float(np.cbrt(np.linalg.det(matrix[:3, :3])))
    spread = float(np.sum((source - source.mean(axis=0)) ** 2))
    return SimilarityFit(matrix, scale, math.sqrt(squares.sum() / freedom / spread), float(np.sqrt(np.mean(squares))))
