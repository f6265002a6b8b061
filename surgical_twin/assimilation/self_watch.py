r"""Whether the filter and its pressure sensors agree, beat by beat, and what is wrong where they do not.

Of each sensor the observations m of one beat are held against what the ensemble's mean p expected of them: their mean
difference (offset), the slope of m over p (1 where the pulse has its size), how much the offset grew from the beat's
first to its second half, and what is left over by offset and slope (the rest). Each is judged by the standard deviation
that the filter itself expects of it, so that a filter that is unsure raises no alarm. What is beyond doubt is named:

* ``damped``: the pulse is too small, the mean is not far off: a clot, a kink, a bubble in the line;
* ``distorted``: the rest is too large: whip, resonance;
* ``moved``: all of the beat is off by the same: the transducer's height or zero has changed;
* ``sensors_swapped``: two sensors, each off, and each where the other one is expected;
* ``circulation_changed``: all sensors are off alike, or one is off by more and more: not the sensors, the patient;
* ``filter_diverged``: innovations have been too large for several beats, and nothing of this explains them.

The normalized innovation squared (NIS) is 1 on average in a filter that is right (Bar-Shalom, Li & Kirubarajan,
Estimation with Applications to Tracking and Navigation, 2001, section 5.4). Innovations of one beat share their model
error, so that a beat counts as one degree of freedom; their bounds are those of chi-squared (Wilson & Hilferty 1931).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

MOVED, DAMPED, DISTORTED = "moved", "damped", "distorted"
SWAPPED, CHANGED, DIVERGED = "sensors_swapped", "circulation_changed", "filter_diverged"

DOUBT = 3.5
"""Standard deviations beyond which a beat is off."""

LEAST_OFFSET_MMHG = 5.0
"""Less than this is never called a fault: the bias takes it up."""

SMALL_PULSE = 0.7
"""Below this share of the expected pulse a line is damped."""

LEAST_REST_MMHG = 3.0
REST_RATIO = 2.5
"""A rest is too large where it is beyond so many times what is expected, and beyond `LEAST_REST_MMHG`."""

STEADY = 0.4
"""An offset that grew from one half of the beat to the other by less than this share is steady."""

FEWEST = 12
"""Observations that make a beat; fewer say nothing."""

KEPT = 12
"""Beats that are remembered."""

WARMING_UP = 3
"""Beats of a new sensor in which the filter still learns what is usual, and names nothing."""

CLEARED_AFTER = 2
"""Good beats in a row after which a sensor is trusted again."""

CHANGE_CLEARED_AFTER = 4
"""A circulation that has changed takes some beats to come to rest."""

DIVERGED_AFTER = 4
"""Bad beats in a row."""

DIVERGED_NIS = 6.0


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

    def adding(
        self, measured: float, expected: float, *, lasting: float, passing: float, model: float, early: bool
    ) -> Tally:
        """With one more observation."""
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
    )


@dataclass(frozen=True)
class SensorWatch:
    """What is known of one sensor."""

    tally: Tally | None = None
    beats: tuple[BeatVerdict, ...] = ()
    """the newest last"""
    condition: str = ""
    since_ns: int = 0
    good: int = 0
    """good beats in a row"""
    seen: int = 0
    """beats"""

    @property
    def nis(self) -> float | None:
        """Mean over the last beats."""
        recent = self.beats[-5:]
        return math.fsum(beat.nis for beat in recent) / len(recent) if recent else None


@dataclass(frozen=True)
class Finding:
    """What a beat's end brought to light."""

    condition: str
    sensors: tuple[str, ...]


@dataclass(frozen=True)
class SelfWatch:
    """What is known of all sensors and the filter. A value: methods return new ones."""

    sensors: Mapping[str, SensorWatch] = field(default_factory=dict)
    condition: str = ""
    """of the patient or the filter"""
    since_ns: int = 0

    def see(
        self,
        sensor: str,
        time_ns: int,
        measured: float,
        expected: float,
        *,
        lasting: float,
        passing: float,
        model: float,
        phase: float,
    ) -> SelfWatch:
        """Take one observation with what was expected of it and the variances expected of the difference.

        Args:
            sensor: its name.
            time_ns: of the observation.
            measured: mmHg.
            expected: mmHg, the ensemble's mean.
            lasting: mmHg^2 that the beat's observations share: the ensemble's spread, the place, the model.
            passing: mmHg^2 that each has of its own: the sensor's noise.
            model: mmHg^2, the model's part of ``lasting``.
            phase: of the beat, from 0 to 1.
        """
        known = self.sensors.get(sensor, SensorWatch())
        tally = known.tally or Tally(time_ns)
        tally = tally.adding(measured, expected, lasting=lasting, passing=passing, model=model, early=phase % 1.0 < 0.5)
        return replace(self, sensors={**self.sensors, sensor: replace(known, tally=tally)})

    def beat(self, time_ns: int) -> tuple[SelfWatch, Finding | None]:
        """Close the beat, and say what it brought to light, if anything is new."""
        closed: dict[str, SensorWatch] = {}
        fresh: dict[str, BeatVerdict] = {}
        for name, known in self.sensors.items():
            verdict = None if known.tally is None else judge_beat(known.tally)
            if verdict is None:
                closed[name] = replace(known, tally=None)
                continue
            fresh[name] = verdict
            good = known.good + 1 if verdict.good else 0
            condition = "" if good >= CLEARED_AFTER else known.condition
            beats = (*known.beats, verdict)[-KEPT:]
            closed[name] = SensorWatch(None, beats, condition, known.since_ns, good, known.seen + 1)
        watch = replace(self, sensors=closed)
        settled = CHANGE_CLEARED_AFTER if watch.condition == CHANGED else CLEARED_AFTER
        if watch.condition and fresh and all(closed[name].good >= settled for name in fresh):
            watch = replace(watch, condition="")
        finding = _finding(watch, fresh)
        if finding is None:
            return watch, None
        if finding.condition in (SWAPPED, CHANGED, DIVERGED):
            return replace(watch, condition=finding.condition, since_ns=time_ns), finding
        (sensor,) = finding.sensors
        told = replace(closed[sensor], condition=finding.condition, since_ns=time_ns, good=0)
        return replace(watch, sensors={**closed, sensor: told}), finding

    def excluded(self, sensor: str) -> bool:
        """Whether a sensor's observations are not to be used for now."""
        if self.condition == SWAPPED:
            return True
        known = self.sensors.get(sensor)
        return known is not None and known.condition in (DAMPED, DISTORTED)

    def forgotten(self) -> SelfWatch:
        """Without the beat that is being summed: the filter was changed in its midst."""
        return replace(self, sensors={name: replace(one, tally=None) for name, one in self.sensors.items()})

    def flags(self) -> list[str]:
        """Conditions, those of a sensor with its name."""
        found = [self.condition] if self.condition else []
        return found + [f"{one.condition}:{name}" for name, one in sorted(self.sensors.items()) if one.condition]


def _finding(watch: SelfWatch, fresh: Mapping[str, BeatVerdict]) -> Finding | None:
    """What the beats that just ended say that is not known yet."""
    unexplained = {
        name: one
        for name, one in fresh.items()
        if not one.good and not watch.sensors[name].condition and watch.sensors[name].seen > WARMING_UP
    }
    if not unexplained or watch.condition == SWAPPED:
        return None
    if watch.condition == CHANGED:
        # The patient is not yet where the filter looks for him.
        lost = tuple(name for name, one in unexplained.items() if one.off)
        return Finding(CHANGED, lost) if lost else None
    off = {name: one for name, one in unexplained.items() if one.off}
    if len(off) == 2 and (pair := _swapped(off)):
        return Finding(SWAPPED, pair)
    for name, one in unexplained.items():
        if one.small and abs(one.offset) < 0.5 * (1.0 - one.slope) * max(abs(one.expected), 1.0):
            return Finding(DAMPED, (name,))
    if len(off) >= 2 and len(off) == len(fresh) and len({one.offset > 0 for one in off.values()}) == 1:
        return Finding(CHANGED, tuple(off))
    if len(fresh) == 1:
        for name, one in off.items():
            if abs(one.growth) >= STEADY * abs(one.offset) and one.growth * one.offset > 0:
                return Finding(CHANGED, (name,))
    for name, one in off.items():
        others = [beat for other, beat in fresh.items() if other != name]
        alone = all(not beat.off for beat in others)
        if alone and abs(one.growth) < STEADY * abs(one.offset):
            return Finding(MOVED, (name,))
    for name, one in unexplained.items():
        if one.rough and not one.off:
            return Finding(DISTORTED, (name,))
    for name in fresh:
        recent = watch.sensors[name].beats[-DIVERGED_AFTER:]
        if len(recent) == DIVERGED_AFTER and min(beat.nis for beat in recent) > DIVERGED_NIS and not watch.condition:
            return Finding(DIVERGED, (name,))
    return None


def _swapped(off: Mapping[str, BeatVerdict]) -> tuple[str, ...]:
    """The two sensors, where each is where the other one is expected."""
    (one, first), (two, second) = off.items()
    crossed = abs(first.mean - second.expected) + abs(second.mean - first.expected)
    straight = abs(first.offset) + abs(second.offset)
    return (one, two) if crossed < 0.4 * straight and first.offset * second.offset < 0 else ()


def nis_bounds(beats: int) -> tuple[float, float]:
    """95 % range of the mean NIS of a filter that is right, over so many beats."""
    if beats < 1:
        return 0.0, math.inf
    spread = 2.0 / (9.0 * beats)
    low, high = (max(0.0, 1.0 - spread + side * 1.96 * math.sqrt(spread)) ** 3 for side in (-1, 1))
    return low, high
