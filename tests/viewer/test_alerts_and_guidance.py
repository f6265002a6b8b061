import re
from pathlib import Path

import numpy as np
import pytest
import pyvista as pv

from streams.messages import Estimate
from surgical_twin.assimilation import self_watch
from surgical_twin.twin_state import SIGNAL_FLAG, WATCH_FLAGS
from viewer.alerts import (
    BREACH,
    NEAR_WALL,
    OWN_CONDITIONS,
    AlertBoard,
    Priority,
    known_conditions,
    priority_of,
    words_of,
)
from viewer.errors import InputError
from viewer.guidance import Guide
from viewer.history import History
from viewer.layout import LAYOUTS, panes


def test_flashing_is_within_the_standards_limits():
    """IEC 60601-1-8, table 2: high 1.4 to 2.8 Hz, medium 0.4 to 0.8 Hz, both lit 20 to 60 % of the time."""
    board = AlertBoard()
    board.take(["registration_drifted", "pressure_stale", "no_heart_beat"], 5.0)
    times = np.arange(5.0, 25.0, 0.001)
    for alert, least, most in zip(board.alerts, (1.4, 0.4, 0.0), (2.8, 0.8, 0.0), strict=True):
        lit = np.array([alert.lit(t) for t in times])
        rate = (np.diff(lit.astype(int)) == 1).sum() / 20.0
        assert least <= rate <= most + 0.05
        assert lit.all() if most == 0.0 else 0.2 <= lit.mean() <= 0.6001


def test_alerts_are_ordered_acknowledged_and_raised_again():
    board = AlertBoard()
    board.take(["pressure_stale", "registration_drifted"], 1.0)
    board.take(["pressure_stale", "registration_drifted", "tip_unknown"], 2.0)
    assert [a.condition for a in board.alerts] == ["registration_drifted", "tip_unknown", "pressure_stale"]
    assert board.highest == Priority.HIGH
    assert board.acknowledge("registration_drifted") == 1
    assert board.highest == Priority.MEDIUM
    assert board.acknowledge() == 2
    assert board.acknowledge() == 0
    assert board.highest is None
    assert len(board.alerts) == 3  # what was acknowledged still holds
    board.take(["pressure_stale"], 3.0)
    board.take(["pressure_stale", "tip_unknown"], 4.0)
    assert {a.condition: a.acknowledged for a in board.alerts} == {"pressure_stale": True, "tip_unknown": False}


def test_conditions_that_are_not_known_here_are_medium_and_told_in_words():
    assert priority_of("something_new") == Priority.MEDIUM
    assert words_of("something_new") == "something new"
    assert words_of("silent:tracker/the_catheter") == "the catheter: silent"
    assert words_of("line_damped:pressure/radial_line") == "radial line: damped (clot, kink or bubble?)"
    assert priority_of(BREACH) == Priority.HIGH


DOCUMENTED = [
    flag
    for line in (Path(__file__).parents[2] / "docs" / "live.md").read_text().splitlines()
    if line.startswith("| `")
    for flag in re.findall(r"`([a-z_:A-Z]+)`", line.split("|")[1])
]


def test_every_documented_flag_has_words_and_no_words_are_without_a_flag():
    assert len(DOCUMENTED) > 30
    kinds = {flag.partition(":")[0] for flag in DOCUMENTED}
    # Before its first event a session says so; the guide's table begins with the first event.
    assert set(known_conditions()) - set(OWN_CONDITIONS) == kinds
    for flag in DOCUMENTED:
        kind, _, wildcard = flag.partition(":")
        said = words_of(f"{kind}:pressure/left_radial" if wildcard else kind)
        assert "_" not in said
        assert ("left radial" in said) == bool(wildcard), flag


def test_flags_that_the_session_makes_up_of_a_condition_are_known():
    """The names come from the code that emits them, not from the guide."""
    flags = {
        SIGNAL_FLAG.format(condition) for condition in ("stuck", "flushing", "zeroing", "disconnected", "unzeroed")
    }
    flags |= {*WATCH_FLAGS.values(), self_watch.SWAPPED, self_watch.CHANGED, self_watch.DIVERGED}
    assert flags <= set(known_conditions())


def test_what_may_mislead_a_hand_is_high_and_what_was_done_on_purpose_is_low():
    high = {flag for flag in DOCUMENTED if priority_of(flag) == Priority.HIGH}
    assert high == {"registration_drifted", "registration_doubtful", "tip_outside_lumen"}
    for flag in ("transducer_flushing:a", "transducer_zeroing:a", "insecure_plain_text", "recording_failed"):
        assert priority_of(flag) == Priority.LOW
    for flag in ("sensors_swapped", "filter_diverged", "circulation_changed", "line_damped:a", "transducer_stuck:a"):
        assert priority_of(flag) == Priority.MEDIUM


@pytest.fixture(scope="module")
def guide():
    ball = pv.Sphere(radius=10.0, center=(5.0, 0.0, 0.0), theta_resolution=100, phi_resolution=100)
    way = np.column_stack([np.linspace(-5.0, 15.0, 41), np.zeros(41), np.zeros(41)])
    radius = 10.0 - 8.0 * np.exp(-(((way[:, 0] - 9.0) / 2.0) ** 2))
    return Guide(ball, way=way, radius=radius)


@pytest.mark.parametrize("tip", [(5.0, 3.0, 0.0), (5.0, 9.5, 0.0), (5.0, -8.0, 9.0), (-3.0, 0.0, 0.0)])
def test_distance_to_the_wall_of_a_ball(guide, state, tip):
    found = guide.look(state(tip=tip, tip_covariance=(0.25, 0, 0, 0, 0.25, 0, 0, 0, 0.25)))
    distance = np.linalg.norm(np.array(tip) - (5.0, 0.0, 0.0))
    assert found.wall_mm == pytest.approx(10.0 - distance, abs=0.03)
    assert found.wall_std_mm == pytest.approx(0.5)
    outward = (np.array(tip) - (5.0, 0.0, 0.0)) / distance
    np.testing.assert_allclose(found.wall_point, 10.0 * outward + (5.0, 0.0, 0.0), atol=0.5)


def test_breach_is_told_only_where_it_is_sure(guide, state):
    def conditions(y, deviation):
        variance = deviation**2
        return guide.look(state(tip=(5.0, y, 0.0), tip_covariance=(9, 0, 0, 0, variance, 0, 0, 0, 9))).conditions

    assert conditions(5.0, 0.5) == ()
    assert conditions(9.4, 0.5) == (NEAR_WALL,)
    assert conditions(10.5, 0.5) == (NEAR_WALL,)  # one standard deviation outside is no proof
    assert conditions(11.2, 0.5) == (BREACH,)
    # The covariance counts across the wall, not along it.
    assert conditions(11.2, 2.0) == (NEAR_WALL,)


def test_target_and_what_lies_ahead(guide, state):
    found = guide.look(state(tip=(0.0, 1.0, 0.0)))
    np.testing.assert_allclose(guide.target, (9.0, 0.0, 0.0))  # the narrowest place
    assert found.target_mm == pytest.approx(np.hypot(9.0, 1.0))
    assert found.along_mm == pytest.approx(9.0, abs=0.3)
    assert found.narrowest_mm == (pytest.approx(2.0), pytest.approx(9.0, abs=0.3))
    assert guide.look(state(tip_valid=False)) is None
    np.testing.assert_allclose(found.way[:, 1:], 0.0)
    assert found.way[0, 0] == pytest.approx(0.0, abs=0.3)
    assert found.way[-1, 0] == pytest.approx(9.0, abs=0.3)


def test_a_ports_end_is_no_wall(state):
    tube = pv.Cylinder(center=(0, 0, 0), direction=(0, 0, 1), radius=5.0, height=40.0, resolution=60).triangulate()
    at_end = state(tip=(0.0, 0.0, 19.8), tip_covariance=(0.01, 0, 0, 0, 0.01, 0, 0, 0, 0.01))
    assert Guide(tube).look(at_end).conditions == (NEAR_WALL,)
    assert Guide(tube, ends=[(0, 0, 20.0), (0, 0, -20.0)]).look(at_end).conditions == ()


def waves_of(state, seconds, *, beat=0.8, rate=100, flags=()):
    """States of a pressure 90 + 20 sin and an inlet of 100, with an R-wave a beat."""
    for number in range(int(seconds * rate)):
        t = number / rate
        phase = 20.0 * np.sin(2 * np.pi * t / beat)
        yield state(
            sequence=number,
            source_time_ns=round(t * 1e9),
            age_ns={"trigger/r_wave": round((t % beat) * 1e9)},
            port_pressure_mmhg={"inlet": Estimate(100.0 + phase, 90.0, 110.0)},
            axis_pressure_mmhg=(Estimate(90.0 + phase, 80.0, 100.0),),
            field_coefficients=(90.0 + phase, 0.0, 0.0),
            flags=flags,
        )


def test_means_are_of_whole_beats(state):
    history = History()
    for one in waves_of(state, 3.0):
        history.add(one)
    assert history.beat.whole_beat
    assert history.beat.inlet_mmhg == pytest.approx(100.0, abs=0.3)
    assert history.beat.coefficients[0] == pytest.approx(90.0, abs=0.3)
    assert history.beat.axis_mmhg[0, 0] == pytest.approx(90.0, abs=0.3)


def test_what_is_not_trusted_leaves_a_gap_and_no_mean(state):
    history = History()
    for one in waves_of(state, 2.0, flags=("pressure_stale",)):
        history.add(one)
    assert history.beat is None
    assert np.isnan(history.waves()[:, 1:4]).all()


def test_the_past_does_not_grow_and_begins_anew_when_time_goes_back(state):
    history = History(kept_s=2.0)
    for one in waves_of(state, 8.0):
        history.add(one)
    waves = history.waves()
    assert len(waves) <= 122
    assert waves[-1, 0] - waves[0, 0] == pytest.approx(2.0, abs=0.5)
    assert len(history.trail(1.0)) == pytest.approx(50, abs=12)
    history.add(state(source_time_ns=0))
    assert len(history.waves()) == 1


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("size", [(1280, 720), (1920, 1080), (811, 601)])
def test_panes_fill_the_window_without_overlap(layout, size):
    covered = np.zeros(size[::-1], dtype=int)
    for pane in panes(layout, *size).values():
        covered[pane.y : pane.y + pane.height, pane.x : pane.x + pane.width] += 1
    assert (covered == 1).all()
    with pytest.raises(InputError, match="no layout"):
        panes("five_up", *size)
