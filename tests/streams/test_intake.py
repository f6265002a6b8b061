"""From frames to ordered events: clocks, order, silence, bounded waiting, and what the session is told of it."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streams.clocks import TOLERANCE_NS, StreamClock
from streams.events import Malformed
from streams.inbox import Inbox
from streams.intake import Intake
from streams.latency import LatencyHistogram
from streams.liveness import Liveness
from streams.messages import Heartbeat, ImageFrame, PressureSamples, ToolPose, Trigger
from streams.ordering import Orderer
from streams.sockets import Frame
from streams.wire import pack

EPOCH = 1_700_000_000_000_000_000
MS = 1_000_000


def pose(sequence, time_ns, stream="tracker/c"):
    return ToolPose(stream=stream, sequence=sequence, source_time_ns=time_ns, tool=stream, position=(1.0, 2.0, 3.0),
                    quaternion=(1.0, 0.0, 0.0, 0.0), valid=True)  # fmt: skip


def pressure(sequence, time_ns, count=5):
    return PressureSamples(stream="pressure/p", sequence=sequence, source_time_ns=time_ns, sensor="p", tool=None,
                           sample_period_ns=4 * MS, values_mmhg=(80.0,) * count)  # fmt: skip


# Clocks ------------------------------------------------------------------------------------------------------------


def jitter(rng):
    return rng.exponential(0.003)


def run_clock(clock, seconds, *, offset_s=0.0, drift_ppm=0.0, rate=100, delay=jitter, seed=0, begin=0.0):
    """Send stamps of a clock with an offset and a drift; the errors [s] of what the session makes of them."""
    rng = np.random.default_rng(seed)
    errors = []
    for number in range(int(seconds * rate)):
        true = begin + number / rate
        # The session's time of the measurement is `true`; the source's clock shows another.
        source = true * (1 - drift_ppm * 1e-6) - offset_s
        received = true + 0.0005 + delay(rng)
        corrected = clock.see(EPOCH + round(source * 1e9), EPOCH + round(received * 1e9))
        errors.append((corrected - EPOCH) * 1e-9 - true)
    return np.array(errors)


@pytest.mark.parametrize("offset_s", [-30.0, -0.2, 0.05, 5.0, 86400.0])
@pytest.mark.parametrize("drift_ppm", [-100.0, 0.0, 100.0])
def test_offset_and_drift_are_found_through_jitter(offset_s, drift_ppm):
    clock = StreamClock()
    errors = run_clock(clock, 60.0, offset_s=offset_s, drift_ppm=drift_ppm)
    assert np.abs(errors[2000:]).max() < 0.003
    assert clock.drift_ppm == pytest.approx(drift_ppm, abs=25.0)
    assert clock.steps == 0


def test_a_clock_that_is_right_is_left_alone():
    clock = StreamClock()
    errors = run_clock(clock, 20.0, delay=lambda rng: rng.exponential(0.001))
    assert np.all(np.abs(errors[20:]) < 1e-6)


def test_a_synchronized_source_is_taken_at_its_word_though_its_data_take_long():
    clock = StreamClock(trusted=True)
    errors = run_clock(clock, 20.0, delay=lambda rng: 0.030 + rng.exponential(0.003))
    assert np.all(errors == pytest.approx(0.0, abs=1e-6))
    assert clock.raw_offset_ns == pytest.approx(30 * MS, abs=3 * MS)


def test_one_lying_time_moves_nothing():
    clock = StreamClock()
    run_clock(clock, 10.0)
    before = clock.offset_ns
    for lie in (EPOCH + 10**15, EPOCH - 10**12, 0):
        clock.see(lie, EPOCH + 10_010 * MS)
    errors = run_clock(clock, 5.0, begin=10.02)
    assert abs(clock.offset_ns - before) <= TOLERANCE_NS
    assert np.abs(errors).max() < 0.003
    assert clock.steps == 0


@pytest.mark.parametrize("step_s", [-650.0, -2.0, 3.0, 650.0])
def test_a_clock_that_is_set_is_noticed(step_s):
    clock = StreamClock()
    run_clock(clock, 10.0)
    errors = run_clock(clock, 10.0, offset_s=step_s, begin=10.0)
    assert clock.steps == 1
    # A clock set forward at once, one set back within two seconds: that could be a sender that is held up.
    assert np.abs(errors[100 if step_s < 0 else 250 :]).max() < 0.01


def test_a_sender_that_is_held_up_for_a_second_is_no_step_and_nothing_is_measured_after_it_came():
    clock = StreamClock()
    run_clock(clock, 10.0)
    run_clock(clock, 1.2, begin=10.0, delay=lambda rng: 1.7 + rng.exponential(0.003))
    errors = run_clock(clock, 5.0, begin=11.2)
    assert clock.steps == 0
    assert np.abs(errors).max() < 0.003
    fresh = StreamClock()
    run_clock(fresh, 10.0, offset_s=-3.0)
    early = run_clock(fresh, 0.1, offset_s=-5.0, begin=10.0)
    assert early.max() < 0.02


def test_a_burst_after_the_network_was_away_is_no_step():
    clock = StreamClock()
    run_clock(clock, 10.0)
    for number in range(1000):
        clock.see(EPOCH + (10_000 + 10 * number) * MS, EPOCH + 20_000 * MS + number * 200_000)
    assert clock.steps == 0
    assert abs(clock.offset_ns) <= TOLERANCE_NS


# Order -------------------------------------------------------------------------------------------------------------


def play(orderer, arrivals, tick=MS):
    """Hand over arrivals (receive, time, name) as time goes on, releasing at each and each ms; what came out, when."""
    out = []
    now = arrivals[0][0]
    for receive, time_ns, name in arrivals:
        while now + tick < receive:
            now += tick
            out += [(now, item) for item in orderer.release(now)]
        now = receive
        orderer.add(name, time_ns=time_ns, receive_ns=receive)
        out += [(now, item) for item in orderer.release(now)]
    while len(orderer):
        now += tick
        out += [(now, item) for item in orderer.release(now)]
    return out


@settings(max_examples=60, deadline=None)
@given(
    delays=st.lists(st.integers(0, 60 * MS), min_size=5, max_size=80),
    wait=st.integers(0, 30 * MS),
)
def test_nothing_is_lost_all_but_the_late_are_in_order_and_nobody_waits_beyond_the_bound(delays, wait):
    times = {number: EPOCH + number * 5 * MS for number in range(len(delays))}
    arrivals = sorted((times[number] + delay, times[number], number) for number, delay in enumerate(delays))
    orderer = Orderer(most_wait_ns=wait)
    out = play(orderer, arrivals)
    assert sorted(item.item for _, item in out) == sorted(times)
    in_time = [times[item.item] for _, item in out if not item.late]
    assert in_time == sorted(in_time)
    newest = -1
    for _, item in out:
        assert item.late == (times[item.item] < newest)
        newest = max(newest, times[item.item])
    received = {number: receive for receive, _, number in arrivals}
    assert all(now - received[item.item] <= wait + 2 * MS for now, item in out)
    assert orderer.late == sum(item.late for _, item in out)


def test_streams_in_order_wait_for_nothing_and_disorder_is_learned():
    orderer = Orderer()
    straight = [(EPOCH + n * MS + 300_000, EPOCH + n * MS, n) for n in range(1000)]
    assert all(now - (EPOCH + item.item * MS + 300_000) == 0 for now, item in play(orderer, straight))
    # Every second one takes 8 ms longer than its neighbours.
    mixed = sorted((EPOCH + n * MS + (8 * MS if n % 2 else 300_000), EPOCH + n * MS, n) for n in range(2000, 8000))
    out = play(orderer, mixed)
    assert 7 * MS < orderer.hold_ns <= 12 * MS
    assert sum(item.late for _, item in out[2000:]) == 0
    received = {number: receive for receive, _, number in mixed}
    assert max(now - received[item.item] for now, item in out) <= 21 * MS


def test_a_stream_that_is_always_later_than_the_bound_does_not_hold_up_the_others():
    orderer = Orderer()
    slow = [(EPOCH + n * 60 * MS + 200 * MS, EPOCH + n * 60 * MS, ("slow", n)) for n in range(100)]
    fast = [(EPOCH + n * 5 * MS + MS, EPOCH + n * 5 * MS, ("fast", n)) for n in range(1200)]
    out = play(orderer, sorted(slow + fast))
    assert orderer.hold_ns == 0
    assert all(item.late == (item.item[0] == "slow") for _, item in out[100:1200])


# Silence -----------------------------------------------------------------------------------------------------------


def test_a_silent_stream_is_missed_within_a_fifth_of_a_second_and_found_again_at_once():
    liveness = Liveness()
    for number in range(60):
        liveness.see("pose", EPOCH + number * 16 * MS)
        liveness.see("flow", EPOCH + number * 50 * MS)
        liveness.see("slow", EPOCH + number * 5000 * MS)
    end = EPOCH + 59 * 16 * MS
    assert "pose" not in liveness.silent(end + 90 * MS)
    assert "pose" in liveness.silent(end + 110 * MS)
    assert "flow" not in liveness.silent(EPOCH + 59 * 50 * MS + 150 * MS)
    assert "flow" in liveness.silent(EPOCH + 59 * 50 * MS + 190 * MS)
    assert "slow" not in liveness.silent(EPOCH + 10**12)
    liveness.see("pose", end + 500 * MS)
    assert "pose" not in liveness.silent(end + 510 * MS)


# The inbox ---------------------------------------------------------------------------------------------------------


def frames(stream, count, size=1):
    return [Frame(EPOCH + number, stream.encode() + b"\0" + b"x" * size, None) for number in range(count)]


def test_the_inbox_gives_all_that_came_in_the_order_in_which_it_came():
    inbox = Inbox()
    inbox.put(frames("a", 100) + [Frame(EPOCH + 100, b"b", "somebody")])
    inbox.put(frames("c", 1))
    assert [frame.data[:1] for frame in inbox.take()] == [b"a"] * 100 + [b"b", b"c"]


def test_the_inbox_has_a_bound_and_counts_what_does_not_fit():
    inbox = Inbox(most_bytes=10_000, most_frames=100)
    inbox.put(frames("a", 60, size=100))
    inbox.put(frames("b", 200, size=1))
    assert len(inbox.take()) == 100
    assert inbox.counts["overflow"] == 160
    inbox.put(frames("c", 3, size=6000))
    assert len(inbox.take()) == 1
    assert inbox.take() == []


# The intake --------------------------------------------------------------------------------------------------------


def feed(intake, message, receive_ns, **more):
    return intake.take(Frame(receive_ns, pack(message), None), **more)


def test_a_drifting_clock_is_corrected_in_the_event_and_its_frame_stays_as_it_came():
    intake = Intake()
    events = []
    for number in range(3000):
        true = EPOCH + number * 10 * MS
        feed(intake, pose(number, true - 5_000 * MS), true + MS)
        events += intake.release(true + MS)
    assert len(events) == 3000
    last = events[-1]
    assert abs(last.message.source_time_ns - (EPOCH + 2999 * 10 * MS)) < 3 * MS
    assert last.frame == pack(pose(2999, EPOCH + 2999 * 10 * MS - 5_000 * MS))
    report = intake.report(EPOCH + 30_000 * MS)
    assert report.clocks["tracker/c"].offset_ns == pytest.approx(5_001 * MS, abs=MS)


def test_a_heartbeat_vouches_for_its_devices_clock():
    intake = Intake()
    for number in range(50):
        at = EPOCH + number * 10 * MS
        if number % 10 == 0:
            feed(intake, Heartbeat(stream="hb", sequence=number, source_time_ns=at, device="t", status="",
                                   synchronized=True, streams=("tracker/c",)), at + 40 * MS)  # fmt: skip
        feed(intake, pose(number, at), at + 40 * MS)
    (*_, last) = intake.flush()
    assert last.message.source_time_ns == EPOCH + 490 * MS


def test_samples_take_their_turn_when_the_last_of_them_was_taken():
    intake = Intake()
    feed(intake, pose(0, EPOCH + 10 * MS), EPOCH + 11 * MS)
    feed(intake, pressure(0, EPOCH), EPOCH + 17 * MS)
    feed(intake, pose(1, EPOCH + 20 * MS), EPOCH + 21 * MS)
    events = intake.release(EPOCH + 21 * MS)
    assert [event.message.stream for event in events] == ["tracker/c", "pressure/p", "tracker/c"]
    assert not any(event.late for event in events)


def test_what_came_too_late_is_marked_and_counted():
    intake = Intake()
    for number in (0, 1, 2, 4, 5, 6, 3):
        receive = EPOCH + (number * 20 if number != 3 else 400) * MS
        feed(intake, pose(number, EPOCH + number * 20 * MS), receive)
        intake.release(receive)
    feed(intake, pose(7, EPOCH + 420 * MS), EPOCH + 420 * MS)
    report = intake.report(EPOCH + 421 * MS)
    assert report.counters["late_events"] == 1


def test_silence_is_reported_at_once_and_the_report_repeats_each_second():
    intake = Intake()
    for number in range(20):
        at = EPOCH + number * 16 * MS
        feed(intake, pose(number, at), at + MS)
    end = EPOCH + 19 * 16 * MS
    assert intake.report(end + 10 * MS).flags == ()
    assert intake.report(end + 50 * MS) is None
    assert intake.report(end + 120 * MS).flags == ("silent:tracker/c",)
    assert intake.report(end + 500 * MS) is None
    assert intake.report(end + 1130 * MS).flags == ("silent:tracker/c",)
    feed(intake, pose(20, end + 1140 * MS), end + 1140 * MS)
    assert intake.report(end + 1141 * MS).flags == ()


def image(sequence, time_ns):
    return ImageFrame(stream="image", sequence=sequence, source_time_ns=time_ns, device="d", width=2, height=1,
                      pixel_format="mono8", data=b"ab")  # fmt: skip


@pytest.mark.parametrize("known", [False, True])
def test_of_poses_and_images_the_newest_and_of_pressure_everything_goes_to_the_session(known):
    intake = Intake()
    if known:
        for number in range(40):
            for message in (pose(number, EPOCH), image(number, EPOCH), pressure(number, EPOCH)):
                feed(intake, message, EPOCH + number)
        intake.flush()
    waited = []
    for number in range(40, 140):
        at = EPOCH + number * MS
        waited += [pose(number, at), pressure(number, at - 16 * MS), *([image(number, at)] if number % 20 == 0 else [])]
    at_once = intake.take_all([Frame(EPOCH + 150 * MS, pack(message), None) for message in waited])
    assert all(event.superseded for event in at_once)  # these are there to be recorded
    names = [(event.message.stream, event.message.sequence) for event in at_once]
    assert [number for name, number in names if name == "tracker/c"] == list(range(40, 76))
    assert [number for name, number in names if name == "image"] == [40, 60, 80]
    kept = [event.message.stream for event in intake.flush()]
    assert (kept.count("tracker/c"), kept.count("image"), kept.count("pressure/p")) == (64, 2, 100)
    # One by one nothing is superseded.
    assert all(feed(intake, pose(200 + n, EPOCH), EPOCH + 200 * MS + n) is None for n in range(100))


def test_streams_without_end_are_refused_beyond_a_number():
    intake = Intake()
    kinds = []
    for number in range(400):
        event = feed(intake, Trigger(stream=f"s{number}", sequence=0, source_time_ns=EPOCH, kind="k"), EPOCH)
        kinds.append(None if event is None else event.message.kind)
    assert kinds.count(None) == 256
    assert kinds.count("forbidden") == 144
    assert len(intake.clocks) == 256


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_damaged_and_lying_frames_never_raise_and_all_come_out(data):
    intake = Intake()
    out = 0
    count = data.draw(st.integers(1, 30))
    for number in range(count):
        receive = EPOCH + number * MS
        kind = data.draw(st.sampled_from(["bytes", "lie", "flip"]))
        if kind == "bytes":
            frame = data.draw(st.binary(max_size=60))
        else:
            time_ns = data.draw(st.integers(0, 2**63 - 1)) if kind == "lie" else receive
            frame = bytearray(pack(pressure(data.draw(st.integers(0, 2**63)), min(time_ns, 2**63 - 10**8))))
            if kind == "flip":
                frame[data.draw(st.integers(0, len(frame) - 1))] = data.draw(st.integers(0, 255))
        event = intake.take(Frame(receive, bytes(frame), None))
        out += event is not None
        assert event is None or isinstance(event.message, Malformed)
        out += len(intake.release(receive))
        intake.report(receive)
    assert out + len(intake.flush()) == count


def test_percentiles_of_a_histogram_are_those_of_the_numbers():
    rng = np.random.default_rng(1)
    durations = (rng.lognormal(13.0, 1.0, 20_000)).astype(int)
    histogram = LatencyHistogram()
    for duration in durations:
        histogram.add(int(duration))
    for percentile in (1, 50, 99, 99.9):
        assert histogram.percentile_ms(percentile) == pytest.approx(
            np.percentile(durations, percentile) / 1e6, rel=0.02
        )
    assert histogram.percentile_ms(100) == pytest.approx(durations.max() / 1e6, rel=0.01)
