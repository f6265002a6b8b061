"""The self-watch on made beats: what it names, when, and that a filter that is right is left in peace."""

import numpy as np
import pytest

from surgical_twin.assimilation.self_watch import SelfWatch, nis_bounds

PHASES = np.arange(40) / 40


def expected(phase):
    return 95.0 + 18.0 * np.sin(2 * np.pi * phase) + 6.0 * np.sin(4 * np.pi * phase)


def play(beats, generator, *, sensors=("a",)):
    """(findings, watch) over beats, each a function from sensor, phase and what is expected to the measurement."""
    watch, findings = SelfWatch(), []
    for number, beat in enumerate(beats):
        for phase in PHASES:
            for sensor in sensors:
                level = expected(phase) + (12.0 if sensor == "b" else 0.0)
                watch = watch.see(
                    sensor,
                    round((number + phase) * 8e8),
                    float(beat(sensor, phase, level) + generator.normal(0.0, 0.9)),
                    float(level),
                    lasting=0.8,
                    passing=0.8,
                    model=0.4,
                    phase=float(phase),
                )
        watch, finding = watch.beat(round((number + 1) * 8e8))
        findings.append(None if finding is None else finding.condition)
    return findings, watch


def right(sensor, phase, level):
    return level


def test_beats_that_are_as_expected_raise_no_alarm():
    generator = np.random.default_rng(0)
    offsets = iter(generator.normal(0.0, np.sqrt(0.8), 10_000))
    beats = []
    for _ in range(400):
        off = {"a": next(offsets), "b": next(offsets)}
        beats.append(lambda sensor, phase, level, off=off: level + off[sensor])
    findings, _ = play(beats, generator, sensors=("a", "b"))
    assert not any(findings)


def stepping(size, at_phase):
    return lambda sensor, phase, level: level + (size if sensor == "a" and phase >= at_phase else 0.0)


@pytest.mark.parametrize("at_phase", [0.0, 0.3, 0.7, 0.95])
@pytest.mark.parametrize("sensors", [("a",), ("a", "b")])
def test_a_step_is_the_transducers_whenever_in_the_beat_it_comes(at_phase, sensors):
    beats = [right] * 6 + [stepping(15.6, at_phase)] + [stepping(15.6, 0.0)] * 3
    findings, watch = play(beats, np.random.default_rng(1), sensors=sensors)
    first = next(number for number, one in enumerate(findings) if one)
    assert findings[first] == "moved"
    assert first <= 8
    assert watch.flags() == ["moved:a"]


def test_what_goes_on_growing_is_the_patients():
    beats = [right] * 6
    for number in range(4):
        beats.append(lambda sensor, phase, level, number=number: level + 12.0 * (number + phase))
    findings, _ = play(beats, np.random.default_rng(2))
    assert "circulation_changed" in findings[6:9]
    assert "moved" not in findings


def test_both_off_alike_is_the_patient_and_both_exchanged_are_the_plugs():
    findings, _ = play([right] * 6 + [lambda s, p, level: level - 14.0] * 2, np.random.default_rng(3), sensors="ab")
    assert findings[6] == "circulation_changed"
    exchanged = [lambda s, p, level: level + (12.0 if s == "a" else -12.0)] * 3
    findings, watch = play([right] * 6 + exchanged, np.random.default_rng(4), sensors="ab")
    assert findings[6] == "sensors_swapped"
    assert watch.excluded("a")
    assert watch.excluded("b")


@pytest.mark.parametrize("seed", range(4))
def test_sensors_that_read_alike_on_average_are_told_by_how_they_beat(seed):
    def behind_a_stenosis(phase):
        return 2.8 * np.sin(2 * np.pi * phase + 1.0)

    def usual(sensor, phase, level):
        return expected(phase) + (behind_a_stenosis(phase) if sensor == "b" else 0.0)

    def swapped(sensor, phase, level):
        return usual("ab".replace(sensor, ""), phase, level)

    def play_beats(beats):
        generator, watch, findings = np.random.default_rng(seed), SelfWatch(), []
        for number, beat in enumerate(beats):
            for phase in PHASES:
                for sensor in "ab":
                    if generator.random() < 0.05:
                        continue
                    watch = watch.see(
                        sensor,
                        round((number + phase) * 8e8),
                        beat(sensor, phase, 0.0) + float(generator.normal(0.0, 0.9)),
                        usual(sensor, phase, 0.0),
                        lasting=0.3,
                        passing=0.8,
                        model=0.15,
                        phase=float(phase),
                    )
            watch, finding = watch.beat(round((number + 1) * 8e8))
            findings.append(None if finding is None else finding.condition)
        return findings

    def midway(sensor, phase, level):
        return (swapped if phase > 0.4 else usual)(sensor, phase, level)

    findings = play_beats([usual] * 30 + [midway] + [swapped] * 2)
    assert findings[-2:] != [None, None]
    assert set(findings) == {None, "sensors_swapped"}
    # One of two that read almost alike has moved by twice their difference: no swap.
    apart = [lambda s, p, level: usual(s, p, level) + (3.6 if s == "b" else 0.0)] * 6
    assert not any(play_beats([usual] * 6 + apart))


def test_a_small_pulse_is_a_damped_line_and_trust_comes_back_with_good_beats():
    damped = [lambda s, p, level: 95.0 + 0.3 * (level - 95.0)] * 3
    findings, watch = play([right] * 6 + damped, np.random.default_rng(5))
    assert "damped" in findings[6:8]
    assert watch.excluded("a")
    _, watch = play([right] * 6 + damped + [right] * 2, np.random.default_rng(5))
    assert not watch.flags()


def test_whip_is_a_distorted_line():
    whip = [lambda s, p, level: level + 12.0 * np.sin(2 * np.pi * 9 * p)] * 3
    findings, _ = play([right] * 6 + whip, np.random.default_rng(6))
    assert "distorted" in findings[6:8]


def test_bounds_are_those_of_chi_squared():
    generator = np.random.default_rng(0)
    for beats in (3, 10, 50):
        means = generator.chisquare(beats, 200_000) / beats
        low, high = nis_bounds(beats)
        assert np.mean((means > low) & (means < high)) == pytest.approx(0.95, abs=0.01)
