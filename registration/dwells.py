"""Landmarks from a recorded stylus: the places in which its tip stood still while the hand turned it.

After the idea of PLUS's landmark detection (Lasso et al. 2014): a dwell begins where the tip, averaged over a short
window, stays within a small box for a second, and counts as a touched landmark where the stylus was turned in it, as it
is in a divot and not on a tray.

A landmark is the mean of the dwell's first second, without its first window, in which the tip arrives, and without what
follows: while a stylus is turned, its tip wanders by what its calibration and its marker lack. On PLUS's own recording
of a phantom of known geometry the landmarks so found leave 0.17 mm on average, those of the whole dwells 0.25 mm, those
that PLUS found 0.20 mm.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import ArrayLike, NDArray

from registration.errors import InputError
from registration.pose_files import PoseStream
from registration.rigid import Array, check_points

WINDOW_S = 0.2
"""The tip is averaged over windows of this length before it is compared; so long it takes to arrive."""

STILL_MM = 1.5
"""A tip whose bounding box has a diagonal up to this is in one place."""

LEFT_MM = 5.0
"""A tip so far from a dwell's place has left it; one that comes as near again touches the same landmark."""

GAP_S = 0.5
"""A tool that was not seen for so long may have been anywhere: no dwell goes on behind it."""


@dataclass(frozen=True)
class Dwells:
    """Places in which a stylus' tip stood still, in order of time.

    Attributes:
        places: (n, 3) mean tip of each dwell's first second without its first window, mm.
        first: (n,) index of the dwell's first pose in the recording's usable poses.
        last: (n,) index of its last.
        begin_s: (n,) time of the first pose since the recording's first, s.
        scatter_mm: (n,) RMS distance of the averaged tips from their mean, mm.
        turned_deg: (n,) largest turn of the stylus since the dwell's first pose, degrees.
        left_out: what looked like a dwell and is none, for a person.
    """

    places: Array
    first: NDArray[np.intp]
    last: NDArray[np.intp]
    begin_s: Array
    scatter_mm: Array
    turned_deg: Array
    left_out: tuple[str, ...]


def find_dwells(stream: PoseStream, tip: ArrayLike, *, least_s: float = 1.0, least_turn_deg: float = 5.0) -> Dwells:
    """The places that a stylus' tip touched.

    Args:
        stream: poses of the stylus; those that are not valid are not used.
        tip: (3,) the tip in the stylus' frame, mm.
        least_s: how long the tip stands still at the least, and how much of a dwell is averaged, s.
        least_turn_deg: how far the stylus is turned in a dwell at the least, degrees; 0 takes every place, also that
            where the stylus lay aside.

    Raises:
        InputError: no pose can be used, numbers that are none, too few poses in a dwell's time, or no dwell.
    """
    if not (math.isfinite(least_s) and least_s > 0.0 and math.isfinite(least_turn_deg) and least_turn_deg >= 0.0):
        raise InputError(
            f"a dwell of {least_s:g} s with a turn of {least_turn_deg:g} degrees is none; give a positive time, and an "
            "angle of 0 or more."
        )
    offset = check_points([np.asarray(tip, dtype=np.float64)], "the tip")[0]
    used = stream.used()
    time_s, poses = used.time_s, used.poses
    tips = poses[:, :3, :3] @ offset + poses[:, :3, 3]
    step = float(np.median(np.diff(time_s))) if len(time_s) > 1 else math.inf
    if len(time_s) < max(3, round(least_s / step)) or least_s < 2.0 * step:
        raise InputError(
            f"{stream.name} has {len(time_s)} usable poses, {step:.3g} s apart; a dwell of {least_s:g} s needs three."
        )
    window = max(1, round(WINDOW_S / step))
    count = max(3, round(least_s / step))
    found: list[tuple[Array, int, int, float, float, float]] = []
    left_out = []
    for begin, end in _still(time_s, tips, count, min(window, count - 2), max(GAP_S, 3.0 * step)):
        averaged = tips[begin + min(window, count - 2) : begin + count]
        place = averaged.mean(axis=0)
        cosine = (np.einsum("ij,nij->n", poses[begin, :3, :3], poses[begin : end + 1, :3, :3]) - 1.0) / 2.0
        turned = float(np.degrees(np.arccos(np.clip(cosine.min(), -1.0, 1.0))))
        at = f"{time_s[begin] - time_s[0]:.1f} s"
        again = [k for k, other in enumerate(found) if np.linalg.norm(other[0] - place) < LEFT_MM]
        if turned < least_turn_deg:
            left_out.append(f"at {at} the tip stood still, but the stylus was not turned ({turned:.1f} degrees)")
        elif again:
            left_out.append(f"at {at} landmark {again[0] + 1} was touched again")
        else:
            scatter = float(np.sqrt(np.mean(np.sum((averaged - place) ** 2, axis=1))))
            found.append((place, begin, end, float(time_s[begin] - time_s[0]), scatter, turned))
    if not found:
        why = "; ".join(left_out) or f"its tip is nowhere within {STILL_MM:g} mm for {least_s:g} s"
        raise InputError(f"{stream.name} shows no landmark being touched: {why}. Is the tip the right one?")
    places, first, last, begun, scatters, turns = (np.array(column) for column in zip(*found, strict=True))
    return Dwells(places, first, last, begun, scatters, turns, tuple(left_out))


def _still(time_s: Array, tips: Array, count: int, window: int, gap_s: float) -> list[tuple[int, int]]:
    """First and last index of each spell whose first `count` tips, averaged over windows, are in one place."""
    smooth = sliding_window_view(tips, window, axis=0).mean(axis=-1)
    boxes = sliding_window_view(smooth, count - window + 1, axis=0)
    still = np.linalg.norm(np.ptp(boxes, axis=-1), axis=1) <= STILL_MM
    gaps = np.flatnonzero(np.diff(time_s) > gap_s) + 1
    for gap in gaps:
        still[max(gap - count + 1, 0) : gap] = False
    found = []
    k = 0
    while k < len(still):
        if not still[k]:
            k += 1
            continue
        place = tips[k : k + count].mean(axis=0)
        away = np.flatnonzero(np.linalg.norm(tips[k + count :] - place, axis=1) > LEFT_MM)
        ends = [len(tips), *(k + count + away[:1]), *gaps[gaps >= k + count][:1]]
        found.append((k, int(min(ends)) - 1))
        k = int(min(ends))
    return found
