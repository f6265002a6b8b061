"""Simulated devices with the errors of real ones: each against what theory or counting says."""

import math
from itertools import pairwise

import msgspec
import numpy as np
import pytest

from streams.devices import PressureDevice, TrackerDevice, merge
from streams.intake import Intake
from streams.links import Dropouts, Link, LinkErrors
from streams.messages import Note
from streams.sockets import Frame
from streams.tracker_errors import Distortion, TrackerErrors, with_errors
from streams.transducer import Line, Transducer
from streams.wire import pack
from surgical_twin.errors import InputError
from surgical_twin.procedure import Intervention, PressureSettings, TrackerSettings, plan_motion, read_procedure
from surgical_twin.simulated_errors import Notes, is_synchronized, line_of, link_errors, tracker_errors

EPOCH = 1_700_000_000_000_000_000


def tracker(seconds=60.0, rate=100.0, seed=0):
    pose = np.eye(4)
    pose[:3, 3] = (100.0, 50.0, -900.0)
    return TrackerDevice("c", lambda t: pose, rate, seconds, 0.1, 0.001, np.random.default_rng(seed))


def through(errors, device=None, seed=1):
    link = Link(device or tracker(), errors, np.random.default_rng(seed))
    return list(link.messages(EPOCH)), link


# Links -------------------------------------------------------------------------------------------------------------


def test_a_perfect_link_changes_nothing():
    passed, _ = through(LinkErrors(), tracker(seconds=10.0))
    assert passed == list(tracker(seconds=10.0).messages(EPOCH))


def test_losses_repetitions_and_delays_are_as_asked_for_and_all_is_accounted_for():
    errors = LinkErrors(latency_s=0.02, jitter_s=0.015, loss=0.3, duplication=0.1)
    passed, link = through(errors)
    assert [due.time_s for due in passed] == sorted(due.time_s for due in passed)
    sent = [due for due in passed if not due.withheld]
    numbers = [due.message.sequence for due in sent]
    assert {due.message.sequence for due in passed} == set(range(6000))
    assert len({*numbers}) == 6000 - link.counts["lost"]
    assert len(numbers) - len({*numbers}) == link.counts["repeated"]
    assert link.counts["lost"] / 6000 == pytest.approx(0.3, abs=0.02)
    assert link.counts["repeated"] / (6000 - link.counts["lost"]) == pytest.approx(0.1, abs=0.015)
    first = {}
    for due in sent:
        first.setdefault(due.message.sequence, due.time_s - due.message.sequence / 100.0)
    delays = np.array(list(first.values()))
    assert delays.min() >= 0.02
    assert delays.mean() == pytest.approx(0.035, abs=0.002)
    assert any(later < earlier for earlier, later in pairwise(numbers))


def test_one_setting_does_not_change_what_another_draws():
    lost = lambda passed: {due.message.sequence for due in passed if due.withheld}  # noqa: E731
    still, moved = LinkErrors(loss=0.2), LinkErrors(loss=0.2, jitter_s=0.01)
    assert lost(through(still, tracker(seconds=10.0))[0]) == lost(through(moved, tracker(seconds=10.0))[0])


def test_a_clock_that_is_off_and_drifts_is_found_by_the_intake():
    errors = LinkErrors(clock_offset_s=3.0, clock_drift_ppm=100.0, jitter_s=0.002)
    passed, _ = through(errors)
    assert passed[0].message.source_time_ns == EPOCH + 3 * 10**9
    last = max((due.message for due in passed), key=lambda message: message.sequence)
    assert last.source_time_ns - EPOCH - 59.99e9 == pytest.approx(3e9 + 59.99e5, abs=10)
    intake, events = Intake(), []
    for due in passed:
        now = EPOCH + round(due.time_s * 1e9)
        intake.take(Frame(now, pack(due.message), None))
        events += intake.release(now)
    late = [e for e in events if e.message.sequence > 2000]
    errors_s = [(e.message.source_time_ns - EPOCH) * 1e-9 - e.message.sequence / 100.0 for e in late]
    assert np.abs(errors_s).max() < 0.003
    assert intake.clocks["tracker/c"].drift_ppm == pytest.approx(-100.0, abs=15.0)


def test_dropouts_at_random_come_and_last_as_asked_for():
    errors = LinkErrors(dropouts=Dropouts(every_s=4.0, last_s=0.5))
    passed, link = through(errors, tracker(seconds=400.0, rate=10.0))
    gone = np.array([due.withheld for due in sorted(passed, key=lambda due: due.message.sequence)])
    assert gone.mean() == pytest.approx(0.5 / 4.5, abs=0.04)
    starts = np.flatnonzero(np.diff(gone.astype(int)) == 1)
    assert len(starts) == pytest.approx(400 / 4.5, rel=0.25)
    assert link.counts["dropped"] == gone.sum()


def test_dropouts_by_what_is_seen_and_by_the_value_itself():
    hidden = LinkErrors(dropouts=Dropouts(unseen=lambda t: 10 <= t < 12))
    unseen = through(hidden, tracker(seconds=15.0))[0]
    assert {due.message.sequence for due in unseen if due.withheld} == set(range(1000, 1200))
    pressure = PressureDevice("p", None, lambda t: 100 + 60 * math.sin(t), 250.0, 60.0, 0.0, np.random.default_rng(0))
    settings = PressureSettings(loss=0.0, dropout={"above": "20 kPa", "share": 1.0})
    by_value = link_errors(msgspec_convert(settings), lambda t: False)
    passed, _ = through(by_value, pressure)
    limit = 20 / 0.133322387415
    for due in passed:
        assert due.withheld == (np.mean(due.message.values_mmhg) > limit)
    # What remains is biased: that is the point of this kind.
    seen = np.mean([np.mean(due.message.values_mmhg) for due in passed if not due.withheld])
    assert seen < 90


def msgspec_convert(settings):
    return msgspec.convert(msgspec.to_builtins(settings), type(settings))


# The transducer ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("frequency", [1.0, 5.0, 12.0, 20.0])
@pytest.mark.parametrize(("natural", "damping"), [(25.0, 0.2), (12.0, 0.5), (20.0, 2.0)])
def test_a_line_answers_a_sine_as_a_second_order_system(frequency, natural, damping):
    times = np.arange(0, 4.0, 0.002)
    line = Transducer(lines=(Line(0.0, natural, damping),))
    read = line.measure(lambda t: 80 + 20 * math.sin(2 * math.pi * frequency * t), times)
    settled = times > 2.0
    basis = np.column_stack([np.sin(2 * math.pi * frequency * times), np.cos(2 * math.pi * frequency * times),
                             np.ones_like(times)])[settled]  # fmt: skip
    a, b, mean = np.linalg.lstsq(basis, read[settled], rcond=None)[0]
    ratio = frequency / natural
    response = 1 / complex(1 - ratio**2, 2 * damping * ratio)
    assert math.hypot(a, b) / 20 == pytest.approx(abs(response), rel=0.01)
    assert math.atan2(b, a) == pytest.approx(np.angle(response), abs=0.02)
    assert mean == pytest.approx(80, abs=0.02)


def test_a_flush_rings_with_the_lines_own_frequency_and_damping():
    """The fast-flush test: after the flush the line swings with f sqrt(1 - zeta^2), each swing smaller by the same."""
    natural, damping = 15.0, 0.15
    line = Transducer(lines=(Line(0.0, natural, damping),), flushes=((1.0, 2.0),))
    times = np.arange(0, 4.0, 0.0005)
    read = line.measure(lambda t: 80.0, times)
    assert read[(times > 1.8) & (times < 2.0)].mean() == pytest.approx(300, abs=0.5)
    after = times > 2.0005
    t, swing = times[after], read[after] - 80.0
    peaks = [i for i in range(1, len(swing) - 1) if swing[i - 1] < swing[i] >= swing[i + 1] and swing[i] > 0.5]
    period = np.diff(t[peaks][:4]).mean()
    assert 1 / period == pytest.approx(natural * math.sqrt(1 - damping**2), rel=0.02)
    decrement = math.log(swing[peaks[0]] / swing[peaks[1]])
    assert decrement == pytest.approx(2 * math.pi * damping / math.sqrt(1 - damping**2), rel=0.03)


def test_a_bubble_makes_it_ring_and_a_clot_makes_it_flat():
    beat = lambda t: 80 + 40 * max(0.0, math.sin(2 * math.pi * t / 0.8)) ** 3  # noqa: E731
    times = np.arange(0, 12.0, 0.004)
    spread = lambda read, a, b: np.ptp(read[(times > a) & (times < b)])  # noqa: E731
    interventions = (Intervention(at="4 s", kind="bubble"), Intervention(at="8 s", kind="damp"))
    line = line_of(PressureSettings(natural_frequency="25 Hz", damping=0.2), interventions, 0.8, 12.0)
    read = line.measure(beat, times)
    assert spread(read, 1, 4) == pytest.approx(40, rel=0.08)
    assert spread(read, 5, 8) > 1.05 * spread(read, 1, 4)
    damped = line_of(PressureSettings(natural_frequency="4 Hz"), (Intervention(at="0 s", kind="damp"),), 0.8, 12.0)
    assert spread(damped.measure(beat, times), 5, 12) < 25


def test_height_drift_zeroing_range_and_whip():
    times = np.arange(0, 10.0, 0.01)
    flat = lambda t: 100.0  # noqa: E731
    # 10 cm of blood: 1060 kg/m^3 x 9.81 m/s^2 x 0.1 m = 1040 Pa = 7.80 mmHg.
    assert Transducer(height_cm=10.0).measure(flat, times) == pytest.approx(100 - 7.797, abs=0.01)
    assert Transducer(zero_drift_mmhg_per_h=360.0).measure(flat, times)[-1] == pytest.approx(100.999, abs=0.01)
    zeroed = Transducer(zeroings=((2.0, 3.0),)).measure(flat, times)
    assert np.all(zeroed[200:300] == 0.0)
    assert np.all(zeroed[:200] == 100.0)
    assert Transducer(highest_mmhg=90.0).measure(flat, times).max() == 90.0
    whip = Transducer(whip_mmhg=8.0, beats=(1.0, 5.0)).measure(flat, times)
    assert np.all(whip[times < 1.0] == pytest.approx(100.0))
    assert 3 < np.abs(whip - 100).max() < 8
    assert np.abs(whip[(times > 2) & (times < 5)] - 100).max() < 0.1


# The tracker -------------------------------------------------------------------------------------------------------


def test_a_distortion_has_its_size_is_smooth_and_stays_where_it_is():
    generator = np.random.default_rng(0)
    squares, steps = [], []
    for _ in range(150):
        field = Distortion(2.0, 100.0, generator)
        place = generator.uniform(-300, 300, 3)
        squares.append(field.at(place) @ field.at(place))
        nearby = place + 5.0 * np.array([1.0, 0, 0])
        steps.append(np.linalg.norm(field.at(nearby) - field.at(place)))
        assert np.array_equal(field.at(place), field.at(place))
    assert math.sqrt(np.mean(squares)) == pytest.approx(2.0, rel=0.15)
    assert max(steps) < 0.6


def test_what_stands_before_the_tool_or_turns_it_away_hides_it():
    def pose(t):
        turned = np.eye(4)
        angle = math.radians(20 * t)
        # The y axis begins towards the tracker, which is at the origin, and turns away with 20 degrees a second.
        turned[:3, :3] = [[1, 0, 0], [0, math.cos(angle), -math.sin(angle)], [0, math.sin(angle), math.cos(angle)]]
        turned[:3, 3] = (0.0, -500.0, 0.0)
        return turned

    seen = with_errors(pose, TrackerErrors(occlusions=((1.0, 1.5),), most_tilt_deg=60.0), np.random.default_rng(0))
    assert seen(0.9) is not None
    assert seen(1.2) is None
    assert seen(1.6) is not None
    assert seen(2.9) is not None
    assert seen(3.1) is None
    assert seen(0.5) == pytest.approx(pose(0.5))


def test_a_sensor_drifts_and_a_bent_pose_is_still_a_pose():
    pose = np.eye(4)
    pose[:3, 3] = (10.0, 20.0, -400.0)
    errors = TrackerErrors(drift_mm_per_min=3.0, distortion_mm=1.0, distortion_deg=2.0)
    bent = with_errors(lambda t: pose, errors, np.random.default_rng(3))
    moved = bent(120.0)[:3, 3] - bent(0.0)[:3, 3]
    assert np.linalg.norm(moved) == pytest.approx(6.0)
    rotation = bent(0.0)[:3, :3]
    np.testing.assert_allclose(rotation @ rotation.T, np.eye(3), atol=1e-12)
    assert 0 < math.degrees(math.acos(np.clip((np.trace(rotation) - 1) / 2, -1, 1))) < 10


# The procedure file ------------------------------------------------------------------------------------------------

EVERYTHING = """
[tracker]
rate = "120 Hz"
latency = "12 ms"
jitter = "3 ms"
loss = 0.01
duplication = 0.005
clock_offset = "-250 ms"
clock_drift_ppm = 80.0
occlusions = [["10 s", "12 s"]]
most_tilt = "70 deg"
distortion = "1.5 mm"
distortion_rotation = "1 deg"
drift = "0.2 mm/min"
dropout = { every = "20 s", lasts = "0.4 s" }
[pressure]
rate = "1 kHz"
height = "8 cm"
natural_frequency = "18 Hz"
damping = 0.25
whip = "5 mmHg"
zero_drift = "2 mmHg/hour"
highest = "300 mmHg"
dropout = { above = "250 mmHg", share = 0.5 }
[flow]
dropout = { hidden = true }
[catheter]
path = [["5 s", 0.0], ["15 s", 1.0], ["20 s", 0.2]]
[[intervention]]
at = "3 s"
kind = "flush"
lasts = "0.5 s"
[[intervention]]
at = "9 s"
kind = "note"
text = "contrast injected"
"""


def test_a_procedure_file_says_all_of_it(tmp_path):
    (tmp_path / "p.toml").write_text(EVERYTHING)
    settings = read_procedure(tmp_path / "p.toml")
    link = link_errors(settings.tracker, lambda t: False)
    assert (link.latency_s, link.clock_offset_s, link.clock_drift_ppm) == (pytest.approx(0.012), -0.25, 80.0)
    assert link.dropouts.every_s == 20.0
    assert not is_synchronized(settings.tracker)
    assert is_synchronized(settings.pressure)
    errors = tracker_errors(settings.tracker)
    assert errors.occlusions == ((10.0, 12.0),)
    assert errors.drift_mm_per_min == pytest.approx(0.2)
    line = line_of(settings.pressure, settings.intervention, 0.8, 20.0)
    assert line.lines[0].frequency_hz == pytest.approx(18.0)
    assert line.flushes == ((3.0, 3.5),)
    assert line.height_cm == 8.0
    motion = plan_motion(60.0, 5, settings.catheter)
    assert [motion.distance(t) for t in (0.0, 5.0, 10.0, 15.0, 20.0)] == pytest.approx([0, 0, 30, 60, 12])
    notes = [due.message for due in Notes(settings.intervention, 20.0).messages(EPOCH)]
    assert [note.text for note in notes] == ["flush", "contrast injected"]
    assert all(isinstance(note, Note) for note in notes)


def test_without_a_file_a_manometer_at_the_tip_is_as_it_was():
    assert line_of(PressureSettings(), (), 0.8, 20.0) is None
    assert tracker_errors(TrackerSettings()) == TrackerErrors()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[tracker]\nloss = 1.5\n", "tracker.loss"),
        ("[tracker]\nlatency = '-1 s'\n", "tracker.latency"),
        ("[pressure]\nclock_drift_ppm = 1e6\n", "clock_drift_ppm"),
        ("[pressure]\ndamping = 0.0\n", "damping"),
        ("[[intervention]]\nat = '1 s'\nkind = 'dance'\n", "dance"),
        ("[[intervention]]\nat = '-1 s'\nkind = 'zero'\n", "negative"),
        ("[tracker]\ndropout = { every = 'often' }\n", "tracker.dropout.every"),
        ("[tracker]\ncolour = 'red'\n", "colour"),
    ],
)
def test_a_bad_procedure_file_is_refused_with_what_is_wrong(tmp_path, text, said):
    (tmp_path / "p.toml").write_text(text)
    with pytest.raises(InputError, match=said):
        read_procedure(tmp_path / "p.toml")


@pytest.mark.parametrize("path", [[["5 s", 0.0]], [["5 s", 0.0], ["4 s", 1.0]], [["0 s", 0.0], ["4 s", 1.5]]])
def test_a_way_of_the_catheter_that_cannot_be_is_refused(tmp_path, path):
    (tmp_path / "p.toml").write_text(f"[catheter]\npath = {path}\n".replace("'", '"'))
    with pytest.raises(InputError, match=r"catheter\.path"):
        plan_motion(60.0, 5, read_procedure(tmp_path / "p.toml").catheter)


def test_linked_devices_merge_in_the_order_in_which_they_arrive():
    linked = [Link(tracker(10.0, seed=n), LinkErrors(jitter_s=0.02), np.random.default_rng(n)) for n in range(3)]
    times = [due.time_s for due in merge(linked, epoch_ns=EPOCH)]
    assert times == sorted(times)
    assert len(times) == 3000


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[pressure]\nsamples_per_message = 0\n", "samples_per_message = 0 cannot be sent"),
        ("[pressure]\nsamples_per_message = 5000\n", "1 to 4096"),
        ("[pressure]\nnatural_frequency = '0 Hz'\n", "natural_frequency .* is not positive"),
        ("[pressure]\ndamping = nan\n", "pressure.damping"),
        ("[arterial_line]\ndamping = 0.0\n", "arterial_line.damping"),
        ("[arterial_line]\nrate = '0 Hz'\n", "arterial_line.rate"),
        ("[tracker]\nocclusions = [['14 s', '12 s']]\n", "does not end after it begins"),
        ("[tracker]\ndropout = { every = '0 s' }\n", "dropout.every"),
        ("[flow]\nloss = 1.5\n", "no share"),
    ],
)
def test_settings_that_cannot_be_played_are_refused_before_anything_is_computed(tmp_path, text, said):
    (tmp_path / "p.toml").write_text(text)
    with pytest.raises(InputError, match=said):
        read_procedure(tmp_path / "p.toml")
