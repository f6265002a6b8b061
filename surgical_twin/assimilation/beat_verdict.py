"""One beat of a pressure sensor, held against what the filter expected of it: the sums, and what they say."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

DOUBT = 3.5
"""Standard deviations beyond which a beat is off."""

LEAST_OFFSET_MMHG = 5.0
"""Less than this is never called a fault: the bias takes it up."""

SMALL_PULSE = 0.7
"""Below this share of the expected pulse a line is damped."""

LEAST_REST_MMHG = 3.0
REST_RATIO = 2.5
"""A rest is too large where it is beyond so many times what is expected, and beyond `LEAST_REST_MMHG`."""

WAVE_HARMONICS = 2
WAVE_FEWEST, WAVE_GAP = 20, 0.2
"""A beat's wave is told by its mean and so many harmonics, from so many observations, without gaps of such a share of
the beat; of others only the mean is compared."""

FEWEST = 12
"""Observations that make a beat; fewer say nothing."""


@dataclass(frozen=True)
class Tally:
    """Sums over the observations of one beat."""

    begin_ns: int
    count: int = 0
    early: int = 0
    measured: float = 0.0
    expected: float = 0.0
    measured_expected: float = 0.0
    expected_square: float = 0.0
    measured_square: float = 0.0
    early_offset: float = 0.0
    lasting: float = 0.0
    """sum of the variances that a beat's observations share"""
    passing: float = 0.0
    """of those that each has of its own"""
    model: float = 0.0
    nis: float = 0.0
    samples: tuple[tuple[float, float, float], ...] = ()
    """phase, measured and expected of each"""

    def adding(
        self, measured: float, expected: float, *, lasting: float, passing: float, model: float, phase: float
    ) -> Tally:
        """With one more observation."""
        early = phase < 0.5
        offset = measured - expected
        return Tally(
            self.begin_ns,
            self.count + 1,
            self.early + early,
            self.measured + measured,
            self.expected + expected,
            self.measured_expected + measured * expected,
            self.expected_square + expected * expected,
            self.measured_square + measured * measured,
            self.early_offset + (offset if early else 0.0),
            self.lasting + lasting,
            self.passing + passing,
            self.model + model,
            self.nis + offset * offset / (lasting + passing),
            (*self.samples, (phase, measured, expected)),
        )


@dataclass(frozen=True)
class BeatVerdict:
    """One beat of one sensor."""

    mean: float
    """of what was measured, mmHg"""
    expected: float
    """of what was expected, mmHg"""
    offset: float
    doubt: float
    """standard deviation expected of the offset"""
    slope: float
    slope_doubt: float
    growth: float
    """of the offset from the beat's first half to its second, mmHg"""
    rest: float
    """root mean square, mmHg"""
    rest_expected: float
    nis: float
    wave: tuple[float, ...]
    """mean and harmonics of what was measured, mmHg, so that the sum of their squares is a beat's mean square"""
    wave_expected: tuple[float, ...]

    @property
    def off(self) -> bool:
        """Whether the offset is beyond doubt."""
        return abs(self.offset) > max(DOUBT * self.doubt, LEAST_OFFSET_MMHG)

    @property
    def small(self) -> bool:
        """Whether the pulse is too small beyond doubt."""
        return self.slope < SMALL_PULSE and 1.0 - self.slope > DOUBT * self.slope_doubt

    @property
    def rough(self) -> bool:
        """Whether the rest is too large beyond doubt."""
        return self.rest > max(LEAST_REST_MMHG, REST_RATIO * self.rest_expected)

    @property
    def good(self) -> bool:
        """Whether nothing is beyond doubt."""
        return not (self.off or self.small or self.rough)


def judge_beat(tally: Tally) -> BeatVerdict | None:
    """What a beat's sums say; None where there were too few."""
    n = tally.count
    late = n - tally.early
    if n < FEWEST or min(tally.early, late) < FEWEST // 4:
        return None
    mean, expected = tally.measured / n, tally.expected / n
    variance = max(tally.expected_square / n - expected**2, 1e-9)
    covariance = tally.measured_expected / n - mean * expected
    total = max(tally.measured_square / n - mean**2, 0.0)
    passing, model = tally.passing / n, tally.model / n
    slope = covariance / variance
    offset = mean - expected
    rest = math.sqrt(max(total - covariance**2 / variance, 0.0))
    late_offset = (n * offset - tally.early_offset) / late
    wave, wave_expected = _waves(tally.samples) or ((mean,), (expected,))
    return BeatVerdict(
        mean=mean,
        expected=expected,
        offset=offset,
        doubt=math.sqrt(tally.lasting / n + passing / n),
        slope=slope,
        # A pulse is known to some tenth, and to what the model's error is of it.
        slope_doubt=math.sqrt(0.08**2 + passing / n / variance + model / variance),
        growth=late_offset - tally.early_offset / max(tally.early, 1),
        rest=rest,
        rest_expected=math.sqrt(passing + tally.lasting / n),
        nis=tally.nis / n,
        wave=wave,
        wave_expected=wave_expected,
    )


def _waves(samples: tuple[tuple[float, float, float], ...]) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
    """A beat's `BeatVerdict.wave` and `wave_expected` by least squares, which lost samples do not bend; None where
    they leave too large gaps."""
    phase, measured, expected = np.array(samples).T
    ordered = np.sort(phase)
    gaps = np.diff(np.append(ordered, ordered[0] + 1.0))
    if len(samples) < WAVE_FEWEST or gaps.max() > WAVE_GAP:
        return None
    angle = 2.0 * np.pi * np.outer(phase, np.arange(1, WAVE_HARMONICS + 1))
    basis = np.hstack([np.ones((len(phase), 1)), math.sqrt(2.0) * np.cos(angle), math.sqrt(2.0) * np.sin(angle)])
    found = np.linalg.lstsq(basis, np.column_stack([measured, expected]), rcond=None)[0]
    return tuple(found[:, 0].tolist()), tuple(found[:, 1].tolist())
