r"""How much later one stream stamps the same motion than another.

Both streams are reduced to one signal of time: the position of a line in an ultrasound image and the position of
the probe along its main direction of motion; or, for two pose streams of one rigid body, the angular speed,
which no mounting changes. The lag tau is where

    a_i = g b(t_i + tau) + h + noise,

with b the second signal interpolated between its own samples, explains the first best. For each tau gain g
and offset h follow in closed form, so the search is over tau alone: first everywhere within the reach, on a
grid, by the correlation coefficient; then by golden section. The uncertainty is the Cramer-Rao bound of the
residual noise, sigma / sqrt(g^2 sum b'^2), enlarged where the residuals are correlated in time.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy import optimize

from registration.errors import InputError
from registration.rigid import Array
from registration.verdict import Verdict

LEAST_CORRELATION = 0.9
"""Below this correlation at the best lag the two signals are not trusted to show one motion."""

MOST_LAGS = 1_000_000
"""So many lags are tried at most."""

LEAST_OVERLAP = 0.5
"""Part of the shorter recording that must overlap at every lag tried."""


@dataclass(frozen=True)
class TimeOffset:
    """Result of `find_time_offset`, in seconds.

    Attributes:
        lag_s: b shows at ``t + lag_s`` what a shows at ``t``: add it to a's stamps to reach b's clock.
        std_s: standard deviation of `lag_s`.
        correlation: correlation coefficient of the two signals at that lag.
        rms: RMS of a minus the fitted b, in a's unit.
        gain: of b to a.
        samples: samples of a that had a partner.
        lags_s: the grid searched, for a picture.
        correlations: the coefficient on that grid.
        verdict: whether to use it.
    """

    lag_s: float
    std_s: float
    correlation: float
    rms: float
    gain: float
    samples: int
    lags_s: Array
    correlations: Array
    verdict: Verdict


def find_time_offset(
    time_a_s: ArrayLike,
    signal_a: ArrayLike,
    time_b_s: ArrayLike,
    signal_b: ArrayLike,
    *,
    reach_s: float = 1.0,
    signed: bool = True,
) -> TimeOffset:
    """Lag of stream b behind stream a.

    Args:
        time_a_s: (n,) increasing stamps.
        signal_a: (n,) what a shows; NaN where it shows nothing.
        time_b_s: (m,) increasing stamps.
        signal_b: (m,) the same motion seen by b, in any unit.
        reach_s: largest lag looked for, either way.
        signed: whether b may move against a (two axes of unknown direction); speeds may not.

    Raises:
        InputError: stamps that do not increase, a signal that does not move, streams that do not overlap, a reach that
            is none.
    """
    if not (math.isfinite(reach_s) and reach_s > 0.0):
        raise InputError(f"a reach of {reach_s:g} s is not a positive time.")
    ta, a = _check_signal(time_a_s, signal_a, "first")
    tb, b = _check_signal(time_b_s, signal_b, "second")
    overlap = min(ta[-1], tb[-1] + reach_s) - max(ta[0], tb[0] - reach_s)
    shorter = min(ta[-1] - ta[0], tb[-1] - tb[0])
    if overlap < LEAST_OVERLAP * shorter:
        raise InputError(
            f"the streams do not overlap: the first runs from {ta[0]:.3f} to {ta[-1]:.3f} s, the second from "
            f"{tb[0]:.3f} to {tb[-1]:.3f} s; record both together, or bring their clocks together first."
        )
    step = 0.25 * min(float(np.median(np.diff(ta))), float(np.median(np.diff(tb))))
    if not step <= reach_s <= 0.5 * MOST_LAGS * step:
        raise InputError(
            f"lags up to {reach_s:g} s cannot be looked for in steps of {step:.3g} s, a quarter of the samples' "
            f"distance; give a reach between {step:.2g} and {0.5 * MOST_LAGS * step:.2g} s."
        )
    lags = np.arange(-reach_s, reach_s + 0.5 * step, step)
    least = max(10, int(LEAST_OVERLAP * np.sum((ta >= tb[0] - reach_s) & (ta <= tb[-1] + reach_s))))
    values = np.array([_correlation(ta, a, tb, b, lag, least) for lag in lags])
    score = np.abs(values) if signed else values
    if np.isnan(score).all():
        raise InputError("the streams have too few samples in common at every lag; record them for longer.")
    best = int(np.nanargmax(score))
    sign = float(np.sign(values[best])) or 1.0

    def loss(lag: float) -> float:
        value = _correlation(ta, a, tb, b, lag, least)
        return 2.0 if math.isnan(value) else 1.0 - sign * value

    found = optimize.minimize_scalar(
        loss, bounds=(lags[best] - 2 * step, lags[best] + 2 * step), method="bounded", options={"xatol": 1e-7}
    )
    lag = float(found.x)
    used, partner = _partner(ta, a, tb, b, lag)
    gain, offset = np.polyfit(partner, used, 1)
    residuals = used - gain * partner - offset
    rms = float(np.sqrt(np.mean(residuals**2)))
    slope = gain * np.gradient(partner, ta[(ta + lag >= tb[0]) & (ta + lag <= tb[-1])])
    # Residuals of one cause hang together: an AR(1) correlation r leaves n (1 - r) / (1 + r) independent ones.
    serial = float(np.clip(np.corrcoef(residuals[:-1], residuals[1:])[0, 1], 0.0, 0.99)) if rms > 0.0 else 0.0
    std = rms / math.sqrt(float(np.sum(slope**2))) * math.sqrt((1.0 + serial) / (1.0 - serial))
    correlation = sign * (1.0 - loss(lag))
    return TimeOffset(
        lag_s=lag,
        std_s=std,
        correlation=correlation,
        rms=rms,
        gain=float(gain),
        samples=len(used),
        lags_s=lags,
        correlations=values,
        verdict=_verdict(lag, std, correlation, reach_s, lags, score, best),
    )


def _verdict(lag: float, std: float, correlation: float, reach: float, lags: Array, score: Array, best: int) -> Verdict:
    shown = f"lag {1e3 * lag:.1f} ms, one standard deviation {1e3 * std:.1f} ms, correlation {abs(correlation):.3f}"
    if abs(lag) > reach - 2.0 * (lags[1] - lags[0]):
        return Verdict("fail", f"{shown}: the best lag lies at the end of the {reach:g} s searched; search further")
    if abs(correlation) < LEAST_CORRELATION:
        return Verdict("fail", f"{shown}: below {LEAST_CORRELATION}, the two signals do not show one motion")
    # A second peak nearly as high, apart from the first: periodic motion.
    peaks = (score[1:-1] > score[:-2]) & (score[1:-1] >= score[2:])
    others = np.flatnonzero(peaks) + 1
    others = others[others != best]
    rival = others[np.argmax(score[others])] if len(others) else None
    if rival is not None and (1.0 - score[rival]) < 3.0 * (1.0 - score[best]) and score[rival] > LEAST_CORRELATION:
        return Verdict(
            "check", f"{shown}: a lag of {1e3 * lags[rival]:.0f} ms fits nearly as well; move less regularly"
        )
    return Verdict("pass", shown)


def _partner(ta: Array, a: Array, tb: Array, b: Array, lag: float) -> tuple[Array, Array]:
    inside = (ta + lag >= tb[0]) & (ta + lag <= tb[-1])
    return a[inside], np.interp(ta[inside] + lag, tb, b)


def _correlation(ta: Array, a: Array, tb: Array, b: Array, lag: float, least: int) -> float:
    used, partner = _partner(ta, a, tb, b, lag)
    if len(used) < least:
        return math.nan
    x, y = used - used.mean(), partner - partner.mean()
    power = float(x @ x) * float(y @ y)
    return float(x @ y) / math.sqrt(power) if power > 0.0 else math.nan


def _check_signal(time_s: ArrayLike, signal: ArrayLike, which: str) -> tuple[Array, Array]:
    """Stamps and values without the gaps, or InputError."""
    t, s = np.asarray(time_s, dtype=np.float64).ravel(), np.asarray(signal, dtype=np.float64).ravel()
    if len(t) != len(s):
        raise InputError(f"the {which} stream has {len(t)} stamps for {len(s)} values; give one stamp per value.")
    good = np.isfinite(t) & np.isfinite(s)
    t, s = t[good], s[good]
    if len(t) < 20:
        raise InputError(f"the {which} stream has {len(t)} usable samples; at least 20 are needed.")
    if (np.diff(t) <= 0.0).any():
        where = int(np.flatnonzero(np.diff(t) <= 0.0)[0]) + 1
        raise InputError(f"the {which} stream's stamps do not increase at sample {where}; drop repeated samples.")
    if np.ptp(s) <= 1e-12 * max(1.0, float(np.abs(s).max())):
        raise InputError(f"the {which} stream's signal does not move; move the tool during the recording.")
    return t, s


def motion_along_main_direction(positions: ArrayLike) -> Array:
    """Positions (n, 3) in mm projected on the direction in which they vary most, (n,) about their mean."""
    points = np.asarray(positions, dtype=np.float64)
    centered = points - points.mean(axis=0)
    return centered @ np.linalg.svd(centered, full_matrices=False)[2][0]


def line_position(image: ArrayLike, *, threshold: float = 0.3, column: float | None = None) -> float:
    """Row, in pixels, at which the brightest straight line of an image crosses a column; NaN if there is none.

    Each column's echo is placed at the intensity-weighted middle of its pixels above `threshold` times its
    brightest one; a line is fitted through these places, the outlying ones left out by iteratively reweighted
    least squares (Tukey's biweight), so that tilt, speckle and reverberation do not move it.

    Args:
        image: (rows, columns) of intensities.
        threshold: part of a column's maximum above which its pixels count.
        column: where to read the line's row; the middle of the image if not given.
    """
    pixels = np.asarray(image, dtype=np.float64)
    peaks = pixels.max(axis=0)
    lit = peaks > max(0.25 * float(np.quantile(peaks, 0.98)), 1e-9)
    if lit.sum() < 0.05 * pixels.shape[1]:
        return math.nan
    columns = np.flatnonzero(lit)
    part = np.where(pixels[:, lit] >= threshold * peaks[lit], pixels[:, lit], 0.0)
    # Only what hangs together with the brightest pixel: a reverberation further down is another echo.
    rows = np.arange(pixels.shape[0])[:, None]
    near = np.abs(rows - np.argmax(pixels[:, lit], axis=0)) <= 0.03 * pixels.shape[0]
    part = part * near
    places = np.sum(rows * part, axis=0) / part.sum(axis=0)
    x = columns - (0.5 * (pixels.shape[1] - 1) if column is None else column)
    # Theil-Sen start on a thinned set, then biweight.
    thin = slice(None, None, max(1, len(x) // 60))
    xi, yi = x[thin], places[thin]
    i, j = np.triu_indices(len(xi), 1)
    slope = float(np.median((yi[j] - yi[i]) / (xi[j] - xi[i])))
    level = float(np.median(yi - slope * xi))
    for _ in range(20):
        residuals = places - slope * x - level
        scale = max(1.4826 * float(np.median(np.abs(residuals))), 0.1)
        weights = np.clip(1.0 - (residuals / (4.685 * scale)) ** 2, 0.0, None) ** 2 * peaks[lit]
        slope, level = np.polyfit(x, places, 1, w=np.sqrt(weights))
    return float(level)
