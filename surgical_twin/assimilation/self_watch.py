r"""Whether the filter and its pressure sensors agree, beat by beat, and what is wrong where they do not.

Of each sensor the observations m of one beat are held against what the ensemble's mean p expected of them: their mean
difference (offset), the slope of m over p (1 where the pulse has its size), how much the offset grew from the beat's
first to its second half, and what is left over by offset and slope (the rest). Each is judged by the standard deviation
that the filter itself expects of it, so that a filter that is unsure raises no alarm. What is beyond doubt is named:

* ``damped``: the pulse is too small, the mean is not far off: a clot, a kink, a bubble in the line;
* ``distorted``: the rest is too large: whip, resonance;
* ``moved``: all of the beat is off by the same: the transducer's height or zero has changed;
* ``sensors_swapped``: the difference of two sensors' waves has turned into its opposite from one beat to the next,
  while their sum stayed what was expected. Two sensors that read alike on average still differ in how they beat, if by
  less: a small difference has to be found so in two beats;
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
from itertools import combinations, islice

from surgical_twin.assimilation.beat_verdict import BeatVerdict, Tally, judge_beat

MOVED, DAMPED, DISTORTED = "moved", "damped", "distorted"
SWAPPED, CHANGED, DIVERGED = "sensors_swapped", "circulation_changed", "filter_diverged"

STEADY = 0.2
"""An offset that grew from one half of the beat to the other by less than this share is steady."""

SWAPPED_WITHIN = 3
"""Beats before, with one of which two swapped sensors are compared: the one in which they were swapped is neither."""

CLEAR_DIFFERENCE_MMHG = 3.0
"""Root mean square of two sensors' difference over a beat beyond which one beat tells that they were swapped."""

LEAST_DIFFERENCE_MMHG = 1.5
"""Sensors that differ by less cannot be told apart, and do little harm; between this and the clear difference two beats
have to say the same, and two before have to have said the opposite."""

SUM_SHARE = 0.5
"""Two swapped sensors' sum stays what is expected, to this share of their difference; where one of them moved it does
not."""

UNEXPECTED_SHARE = 0.7
"""So far from what the filter expects it is at least, as a share of what it was: a swap makes it twice that, and a
filter that follows takes some of it for the sensors' biases."""

SWAPPED_SHARE = 0.45
"""The difference of two swapped sensors is the opposite of what it was, to this share of it."""

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
    right: int = 0
    """beats in a row in which sensors that were swapped are where they belong"""

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
        tally = tally.adding(measured, expected, lasting=lasting, passing=passing, model=model, phase=phase % 1.0)
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
        if fresh and all(fresh[name].off and closed[name].condition in (DAMPED, DISTORTED) for name in fresh):
            # No sensor is left, and none is where it is expected: it is the patient who has changed.
            closed |= {name: replace(closed[name], condition="") for name in fresh}
            return SelfWatch(closed, CHANGED, time_ns), Finding(CHANGED, tuple(fresh))
        watch = replace(self, sensors=closed)
        if watch.condition == SWAPPED and len(fresh) >= 2:
            right = watch.right + 1 if _in_place(fresh) else 0
            watch = replace(watch, right=right, condition=SWAPPED if right < CLEARED_AFTER else "")
            return watch, None
        settled = CHANGE_CLEARED_AFTER if watch.condition == CHANGED else CLEARED_AFTER
        if watch.condition and fresh and all(closed[name].good >= settled for name in fresh):
            watch = replace(watch, condition="")
        finding = _finding(watch, fresh)
        if finding is None:
            return watch, None
        if finding.condition in (SWAPPED, CHANGED, DIVERGED):
            return replace(watch, condition=finding.condition, since_ns=time_ns, right=0), finding
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
    if watch.condition == SWAPPED:
        return None
    if min((watch.sensors[name].seen for name in fresh), default=0) > WARMING_UP:
        pair = _swapped(watch, fresh)
        if pair:
            return Finding(SWAPPED, pair)
    unexplained = {
        name: one
        for name, one in fresh.items()
        if not one.good and not watch.sensors[name].condition and watch.sensors[name].seen > WARMING_UP
    }
    if not unexplained:
        return None
    if watch.condition == CHANGED:
        # The patient is not yet where the filter looks for him.
        lost = tuple(name for name, one in unexplained.items() if one.off)
        return Finding(CHANGED, lost) if lost else None
    off = {name: one for name, one in unexplained.items() if one.off}
    # Two lines do not fail in the same beat.
    alike = len({one.offset > 0 for one in unexplained.values()}) == 1
    if len(unexplained) == len(fresh) >= 2 and alike:
        return Finding(CHANGED, tuple(unexplained))
    for name, one in unexplained.items():
        # A step in the midst of a beat makes its slope small and its rest large.
        sure = watch.sensors[name].beats[-2].small or (not one.rough and len(fresh) > 1)
        if one.small and not one.off and sure:
            return Finding(DAMPED, (name,))
    if len(fresh) == 1:
        for name, one in off.items():
            # A step in the midst of a beat grows within it as well, but not within the next one.
            before = watch.sensors[name].beats[-2]
            growing = one.growth * one.offset > 0 and abs(one.growth) >= STEADY * abs(one.offset)
            if before.off and before.offset * one.offset > 0 and growing:
                return Finding(CHANGED, (name,))
    for name, one in off.items():
        others = [beat for other, beat in fresh.items() if other != name]
        alone = all(not beat.off for beat in others)
        if alone and abs(one.growth) < STEADY * abs(one.offset):
            return Finding(MOVED, (name,))
    for name, one in unexplained.items():
        # A beat in whose midst something else began has a rest of its own.
        if one.rough and not one.off and watch.sensors[name].beats[-2].rough:
            return Finding(DISTORTED, (name,))
    for name in fresh:
        recent = watch.sensors[name].beats[-DIVERGED_AFTER:]
        if len(recent) == DIVERGED_AFTER and min(beat.nis for beat in recent) > DIVERGED_NIS and not watch.condition:
            return Finding(DIVERGED, (name,))
    return None


def _swapped(watch: SelfWatch, fresh: Mapping[str, BeatVerdict]) -> tuple[str, ...]:
    """The two sensors whose difference has turned into its opposite within the last beats; empty where none has."""
    for one, two in combinations(sorted(fresh), 2):
        pairs = zip(reversed(watch.sensors[one].beats), reversed(watch.sensors[two].beats), strict=False)
        newest, *before = islice(pairs, 2 + SWAPPED_WITHIN)
        for number, usual in enumerate(before[:SWAPPED_WITHIN]):
            size = math.hypot(*_difference(usual))
            if size >= CLEAR_DIFFERENCE_MMHG:
                found = _opposite(newest, usual)
            elif size >= LEAST_DIFFERENCE_MMHG and number > 0 and number + 1 < len(before):
                apart = _apart(_difference(usual), _difference(before[number + 1]))
                # The filter has followed by the second beat: what was unexpected is so in the first.
                twice = _opposite(before[0], usual) and _opposite(newest, usual, unexpected=False)
                found = twice and apart < SWAPPED_SHARE * size
            else:
                continue
            if found:
                return one, two
    return ()


Pair = tuple[BeatVerdict, BeatVerdict]
"""One beat of two sensors."""


def _opposite(now: Pair, usual: Pair, *, unexpected: bool = True) -> bool:
    """Whether two sensors' difference is the opposite of what it usually is, and not as the filter expects it."""
    difference, before = _difference(now), _difference(usual)
    size = math.hypot(*before)
    # A catheter on its way through a stenosis changes the difference as well, and as the filter expects it.
    if unexpected and _apart(difference, _expected_difference(now)) < UNEXPECTED_SHARE * size:
        return False
    # A transducer that moved changes the sum.
    if abs(now[0].offset + now[1].offset) > SUM_SHARE * size:
        return False
    return _apart(difference, tuple(-part for part in before)) < SWAPPED_SHARE * size


def _difference(pair: Pair) -> tuple[float, ...]:
    """Of the waves that were measured."""
    return tuple(one - two for one, two in zip(pair[0].wave, pair[1].wave, strict=False))


def _expected_difference(pair: Pair) -> tuple[float, ...]:
    """Of those that were expected."""
    return tuple(one - two for one, two in zip(pair[0].wave_expected, pair[1].wave_expected, strict=False))


def _apart(one: tuple[float, ...], two: tuple[float, ...]) -> float:
    """Root mean square over a beat of what two waves differ by, as far as both are told."""
    return math.hypot(*(a - b for a, b in zip(one, two, strict=False)))


def _in_place(fresh: Mapping[str, BeatVerdict]) -> bool:
    """Whether each two sensors' difference is nearer to what is expected of it than to its opposite."""
    for one, two in combinations(sorted(fresh), 2):
        pair = fresh[one], fresh[two]
        measured, expected = _difference(pair), _expected_difference(pair)
        if _apart(measured, expected) > _apart(measured, tuple(-part for part in expected)):
            return False
    return True


def nis_bounds(beats: int) -> tuple[float, float]:
    """95 % range of the mean NIS of a filter that is right, over so many beats."""
    if beats < 1:
        return 0.0, math.inf
    spread = 2.0 / (9.0 * beats)
    low, high = (max(0.0, 1.0 - spread + side * 1.96 * math.sqrt(spread)) ** 3 for side in (-1, 1))
    return low, high
