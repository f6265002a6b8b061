"""What can be wrong with paired fiducials, and how a person is told: arrangement, labels, handedness, units, one bad
point."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import combinations

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from registration.absolute_orientation import fit_points, fre_of
from registration.errors import InputError
from registration.label_search import search_labels
from registration.rigid import Array

COLLINEAR_RATIO = 0.02
"""Fiducials whose RMS distance from their best line is below this part of their RMS spread are refused."""

WEAK_RATIO = 0.10
"""Below this part the registration is made, and a warning says that rotation about the line is poorly
held."""

FALSE_ALARM = 0.01
"""Probability that fiducials without a blunder raise the outlier warning (shared among all fiducials)."""

SWAP_FACTOR = 3.0
"""A swap of two labels is suspected when it divides the FRE by at least this."""

MIRROR_OF_FOUR = 5.0
"""A mirror image of four pairs whose error is not known divides the FRE by at least this: of random fours with one
fiducial 3 to 60 mm off 0.05 % seem so, of mirrored ones of 0.4 mm noise 92 %."""

MIRROR_LIKE = 1.5
"""A reflection and an exchange of labels whose FREs differ by at most this factor may each be what happened."""


def check_configuration(points: Array, labels: Sequence[str], which: str) -> None:
    """Refuse two fiducials in one place and fiducials on a line."""
    distances = np.linalg.norm(points[:, None] - points[None], axis=2)
    largest = distances.max()
    distances[np.diag_indices(len(points))] = np.inf
    i, j = divmod(int(np.argmin(distances)), len(points))
    if distances[i, j] <= 1e-3 * largest:
        raise InputError(
            f"{which} fiducials {labels[i]} and {labels[j]} are in the same place "
            f"({distances[i, j]:.3g} mm apart); measure one of them again or leave it out."
        )
    spread, from_line = spread_of(points)
    if from_line < COLLINEAR_RATIO * spread:
        raise InputError(
            f"{which} fiducials lie on a line (RMS distance from it {from_line:.3g} mm, "
            f"{100.0 * from_line / spread:.2g} % of their spread of {spread:.3g} mm; at least "
            f"{100.0 * COLLINEAR_RATIO:.0f} % is needed); add a fiducial off that line."
        )


def spread_of(points: Array) -> tuple[float, float]:
    """RMS distance of points from their centroid, and from their best line."""
    singular = np.linalg.svd(points - points.mean(axis=0), compute_uv=False)
    squares = singular**2 / len(points)
    return math.sqrt(squares.sum()), math.sqrt(squares[1:].sum())


def blunder_warnings(
    source: Array,
    target: Array,
    labels: tuple[str, ...],
    fre: float,
    known_fle: float | None,
    chi_squared: float | None = None,
) -> tuple[str, ...]:
    """Sentences on what looks like a blunder, most likely cause first.

    Args:
        source: (n, 3) fiducials in the source frame, mm.
        target: (n, 3) the same in the target frame, mm.
        labels: their n names.
        fre: RMS residual of the rigid fit, mm.
        known_fle: RMS localization error of a pair where it is known, mm.
        chi_squared: sum of squared residuals over their variances per axis, where weights or covariances say
            more than `known_fle` alone.
    """
    found: list[str] = []
    count = len(source)
    spread, from_line = spread_of(source)
    if from_line < WEAK_RATIO * spread:
        found.append(
            f"The fiducials are nearly on a line ({100.0 * from_line / spread:.0f} % of their spread): "
            "rotation about that line is poorly determined; add a fiducial off the line."
        )
    # Rounding alone must raise nothing: exact pairs have residuals near 1e-13 of the spread.
    if fre > 1e-6 * spread:
        swap, mirror = _suspected_swap(source, target, labels, fre), _suspected_mirror(source, target, fre, known_fle)
        if swap is not None and mirror is not None and count == 4 and swap[0] < MIRROR_LIKE * mirror[0]:
            mirror = None  # both fit alike, and the swap's sentence names both
        suspects = [swap, mirror, _suspected_scale(source, target, fre)]
        explained = [suspect for suspect in suspects if suspect is not None]
        if not explained:
            mixed = _suspected_order(source, target, labels, fre)
            explained = [] if mixed is None else [mixed]
        blunder = min(explained)[1] if explained else _suspected_outlier(source, target, labels, fre)
        if blunder:
            found.append(blunder)
    if known_fle is not None:
        if chi_squared is None:
            chi_squared = 3.0 * count * fre**2 / known_fle**2
        if chi_squared > stats.chi2.ppf(1.0 - FALSE_ALARM / 10.0, 3 * count - 6):
            found.append(
                f"FRE of {fre:.2f} mm is more than a localization error of {known_fle:.2f} mm explains: "
                "check for moved fiducials, a wrong tool calibration or wrong labels."
            )
        ambiguous = _look_alike(source, labels, known_fle)
        if ambiguous:
            found.append(ambiguous)
    return tuple(found)


def _swapped(points: Array, pairs: Sequence[tuple[int, int]]) -> NDArray[np.float64]:
    """Copies (m, n, 3) of `points`, each with one pair of rows exchanged."""
    result = np.repeat(points[None], len(pairs), axis=0)
    for k, (i, j) in enumerate(pairs):
        result[k, [i, j]] = points[[j, i]]
    return result


def _suspected_swap(source: Array, target: Array, labels: tuple[str, ...], fre: float) -> tuple[float, str] | None:
    """The FRE left after the best exchange of two labels, and the sentence, if that exchange explains
    much."""
    pairs = list(combinations(range(len(source)), 2))
    swapped = _swapped(source, pairs)
    fres = fre_of(swapped, np.broadcast_to(target, swapped.shape))
    best = int(np.argmin(fres))
    if fres[best] * SWAP_FACTOR > fre:
        return None
    first, second = (labels[i] for i in pairs[best])
    said = (
        f"Fiducials {first} and {second} look swapped: exchanging them lowers FRE from {fre:.2f} mm "
        f"to {fres[best]:.2f} mm; check their labels."
    )
    # Of four that lie alike on both sides (ears, nose and crown) a mirror image and an exchange are the same.
    mirrored = float(fre_of(source[None], target[None], mirrored=True)[0])
    if len(source) == 4 and mirrored < max(MIRROR_LIKE * float(fres[best]), 1e-6 * fre):
        said += (
            f" A mirror image fits as well (FRE {mirrored:.2f} mm): if the labels are right, check that both frames "
            "are right-handed and their axes named alike."
        )
    return float(fres[best]), said


def _suspected_order(source: Array, target: Array, labels: tuple[str, ...], fre: float) -> tuple[float, str] | None:
    """The FRE left after the best new order of more than two labels, and the sentence, if that explains
    much."""
    count = len(source)
    distances = np.linalg.norm(source[:, None] - source[None], axis=2)
    # Exchanged labels move points by the distances between fiducials: a small FRE has another cause.
    if count < 4 or fre < 0.05 * distances[~np.eye(count, dtype=bool)].min():
        return None
    for labeling in search_labels(source, target, fre):
        order = labeling.target[np.argsort(labeling.source)]
        if len(order) < count or np.array_equal(order, np.arange(count)) or labeling.rms * SWAP_FACTOR > fre:
            continue
        moved = np.flatnonzero(order != np.arange(count))
        wanted = ", ".join(f"{labels[i]} is {labels[order[i]]}" for i in moved)
        return labeling.rms, (
            f"Fiducials {', '.join(labels[i] for i in moved)} look swapped among each other (in the target set "
            f"{wanted}): in that order FRE falls from {fre:.2f} mm to {labeling.rms:.2f} mm; check their labels."
        )
    return None


def _suspected_mirror(source: Array, target: Array, fre: float, known_fle: float | None) -> tuple[float, str] | None:
    """The FRE of the best fit with a reflection, and the sentence, if a reflection explains much."""
    count = len(source)
    mirrored = float(fre_of(source[None], target[None], mirrored=True)[0])
    if count < 4:
        return None
    known = known_fle is not None and fre > 4.0 * known_fle and mirrored < 2.0 * known_fle
    if mirrored * (SWAP_FACTOR if count >= 5 or known else MIRROR_OF_FOUR) > fre:
        return None
    return mirrored, (
        f"The fiducials fit a mirror image (FRE {mirrored:.2f} mm instead of {fre:.2f} mm): "
        "check that both frames are right-handed and their axes named alike."
    )


def _suspected_scale(source: Array, target: Array, fre: float) -> tuple[float, str] | None:
    """The FRE of the best fit with a scale factor, and the sentence, if a scale that is not near 1 explains
    much."""
    if len(source) < 4:
        return None
    fit = fit_points(source[None], target[None], scaled=True)
    scale = float(np.cbrt(np.linalg.det(fit[0, :3, :3])))
    if 0.9 < scale < 1.1:
        return None
    scaled = float(fre_of(source[None], target[None], scaled=True)[0])
    if scaled * SWAP_FACTOR > fre:
        return None
    shown = f"{float(f'{scale:.3g}'):g}"  # 1000, not 1e+03
    return scaled, (
        f"The target fiducials are {shown} times as far apart as the source fiducials (with that scale FRE "
        f"falls from {fre:.2f} mm to {scaled:.2f} mm): check the units of both; a rigid registration has no scale."
    )


def _suspected_outlier(source: Array, target: Array, labels: tuple[str, ...], fre: float) -> str | None:
    """Leave each fiducial out in turn; an F test of the drop in squared residuals at the level FALSE_ALARM /
    n."""
    count = len(source)
    if count < 4:
        return None
    kept = np.array([[j for j in range(count) if j != i] for i in range(count)])
    fres = fre_of(source[kept], target[kept])
    best = int(np.argmin(fres))
    left = (count - 1) * float(fres[best]) ** 2
    drop = count * fre**2 - left
    freedom = 3 * (count - 1) - 6
    if drop / 3.0 <= left / freedom * stats.f.ppf(1.0 - FALSE_ALARM / count, 3, freedom):
        return None
    return (
        f"Fiducial {labels[best]} looks displaced: without it FRE falls from {fre:.2f} mm to "
        f"{fres[best]:.2f} mm; measure it again or leave it out."
    )


def _look_alike(source: Array, labels: tuple[str, ...], fle: float) -> str | None:
    """Whether a swap of two labels would go unnoticed because the arrangement is too symmetric."""
    pairs = list(combinations(range(len(source)), 2))
    swapped = _swapped(source, pairs)
    fres = fre_of(swapped, np.broadcast_to(source, swapped.shape))
    worst = int(np.argmin(fres))
    if fres[worst] > 2.0 * fle:
        return None
    first, second = (labels[i] for i in pairs[worst])
    return (
        f"The arrangement is too symmetric to tell fiducial {first} from {second} (swapped, FRE would only "
        f"be about {fres[worst]:.2f} mm): make sure of their labels."
    )
