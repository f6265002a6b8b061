"""The catheter followed through a forked vessel by the session, while the patient is not where the fiducials were."""

from types import SimpleNamespace

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from registration.lumen.branch_tree import BranchTree
from registration.lumen.tracking import LumenTracker
from registration.rigid import apply_to_points
from streams.events import event_from_frame
from streams.messages import FiducialTouch, PressureSamples, Tick, ToolPose
from streams.wire import pack
from surgical_twin.case import Case
from surgical_twin.errors import InputError
from surgical_twin.session import Session
from surgical_twin.session_model import SessionSettings
from surgical_twin.session_state import SessionState
from surgical_twin.status_line import status_line

EPOCH = 1_700_000_000_000_000_000
FIDUCIALS = {
    "a": np.array([-60.0, -60, 0]),
    "b": np.array([60.0, -50, 10]),
    "c": np.array([-50.0, 60, 40]),
    "d": np.array([50.0, 60, 90]),
    "e": np.array([0.0, -70, 150]),
}
S = np.linspace(0, 1, 60)[:, None]
PARENT = np.array([0, 0, 90.0]) * S + 12 * np.sin(np.pi * S) * (1, 0.3, 0)
LEFT = PARENT[-1] + 70 * S * (0.56, 0.1, 0.83) + 6 * np.sin(np.pi * S / 1.3) * (0.2, 1, 0.3)
RIGHT = PARENT[-1] + 70 * S * (-0.56, 0.1, 0.83)
RADII = [np.full(60, 4.0), np.linspace(3.2, 2.4, 60), np.linspace(3.2, 2.4, 60)]


def model(*, correct):
    tree = BranchTree.from_branches([PARENT, LEFT, RIGHT], RADII, names=["0", "1", "2"])
    return SimpleNamespace(
        fiducials=FIDUCIALS,
        lumen=LumenTracker(tree),
        settings=SessionSettings(follow_lumen=correct),
        reduced=SimpleNamespace(estimated=False),
    )


def pull_back(count=400):
    """(n, 3) from the left branch into the parent, off the middle by half a radius; and way past the fork (n,)."""
    path = np.concatenate([PARENT, LEFT[1:]])
    arc = np.concatenate([[0], np.cumsum(np.linalg.norm(np.diff(path, axis=0), axis=1))])
    at = np.linspace(arc[-1] - 5, 10, count)
    middle = np.column_stack([np.interp(at, arc, path[:, k]) for k in range(3)])
    aside = np.column_stack([np.cos(at / 15), np.sin(at / 15), np.zeros(count)])
    return middle + 1.4 * aside, at - arc[59]


def drift(length=4.0, degrees=3.0):
    """image_now from image as registered, about the vessel's middle."""
    middle = np.array([5.0, 3.0, 80.0])
    matrix = np.eye(4)
    matrix[:3, :3] = Rotation.from_rotvec(np.radians(degrees) * np.array([0.6, 0.0, 0.8])).as_matrix()
    matrix[:3, 3] = middle + length * np.array([0.6, -0.8, 0.0]) - matrix[:3, :3] @ middle
    return matrix


def procedure(moved):
    """Fiducials touched, then a pull-back seen by a tracker that knows nothing of the patient's move."""
    rng = np.random.default_rng(0)
    messages = []
    for number, (name, point) in enumerate(FIDUCIALS.items()):
        x, y, z = (float(v) for v in point + rng.normal(0, 0.2, 3))
        messages.append(
            FiducialTouch(
                stream="touch",
                sequence=number,
                source_time_ns=EPOCH + number * 10_000_000,
                fiducial=name,
                tool="p",
                position=(x, y, z),
            )
        )
    true, _ = pull_back()
    for number, tip in enumerate(apply_to_points(moved, true) + rng.normal(0, 0.3, true.shape)):
        time_ns = EPOCH + 1_000_000_000 + number * 25_000_000
        x, y, z = (float(v) for v in tip)
        messages.append(
            PressureSamples(
                stream="pressure",
                sequence=number,
                source_time_ns=time_ns,
                sensor="s",
                tool="cath",
                sample_period_ns=4_000_000,
                values_mmhg=(90.0,),
            )
        )
        messages.append(
            ToolPose(
                stream="pose",
                sequence=number,
                source_time_ns=time_ns,
                tool="cath",
                position=(x, y, z),
                quaternion=(1.0, 0.0, 0.0, 0.0),
                valid=True,
            )
        )
        messages.append(Tick(stream="session/clock", sequence=number, source_time_ns=time_ns + 1_000_000))
    return [event_from_frame(k, message.source_time_ns + 500_000, pack(message)) for k, message in enumerate(messages)]


def fold(made, events, state=None):
    session, state, published = Session(made), state or SessionState(), []
    for item in events:
        state, outputs = session.step(state, item)
        published += outputs
    return state, published


def miss(states):
    true, _ = pull_back()
    return np.array([np.subtract(state.tip, place) for state, place in zip(states, true, strict=True)])


@pytest.mark.parametrize("correct", [False, True])
def test_the_state_says_branch_and_way_whether_or_not_the_drift_is_taken_out(correct):
    _, states = fold(model(correct=correct), procedure(drift()))
    _, beyond = pull_back()
    away = np.abs(beyond) > 8.0
    named = np.array([state.vessel_place.branch for state in states])
    right = named[away] == np.where(beyond[away] > 0, "1", "0")
    assert right[10:].mean() >= 0.99
    late = states[-1].vessel_place
    assert late.probability > 0.95
    assert late.along_mm.lower < 10.0 < late.along_mm.upper + 2.0
    assert f"branch {late.branch}" in status_line(states[-1])


def test_a_drift_beyond_doubt_is_flagged_and_the_tip_left_where_the_fiducials_put_it():
    _, states = fold(model(correct=False), procedure(drift()))
    moved = np.linalg.norm(apply_to_points(drift(), pull_back()[0]) - pull_back()[0], axis=1)
    np.testing.assert_allclose(np.linalg.norm(miss(states), axis=1), moved, atol=1.5)
    assert any("registration_drifted" in state.flags for state in states)
    place = states[-1].vessel_place
    assert abs(place.drift_mm - moved[-1]) < 2.5 * place.drift_deviation_mm
    assert max(state.vessel_place.outside_mm for state in states) > 1.0


def test_no_drift_raises_no_flag():
    _, states = fold(model(correct=False), procedure(np.eye(4)))
    assert not any("registration_drifted" in state.flags for state in states)
    assert max(state.vessel_place.outside_mm for state in states[:-1]) < 1.0


def test_the_drift_is_taken_out_where_the_case_wants_it_with_an_error_that_holds():
    _, states = fold(model(correct=True), procedure(drift()))
    _, plain = fold(model(correct=False), procedure(drift()))
    half = len(states) // 2
    after, before = (np.linalg.norm(miss(some), axis=1)[half:].mean() for some in (states, plain))
    assert after < 0.5 * before
    assert not any("registration_drifted" in state.flags for state in states)
    # Chi-squared of three directions: 99.9 %.
    for state, away in list(zip(states, miss(states), strict=True))[::20]:
        assert away @ np.linalg.solve(np.reshape(state.tip_covariance, (3, 3)), away) < 16.3
    assert states[-1].tre == pytest.approx(np.sqrt(np.trace(np.reshape(states[-1].tip_covariance, (3, 3)))), rel=0.2)


def test_following_replays_to_the_byte_and_changes_no_earlier_state():
    made, events = model(correct=True), procedure(drift())
    middle, _ = fold(made, events[:600])
    first = fold(made, events[600:], middle)[1]
    second = fold(made, events[600:], middle)[1]
    assert [pack(state) for state in first] == [pack(state) for state in second]


def test_a_new_registration_begins_the_way_anew():
    made, events = model(correct=True), procedure(drift())
    state, _ = fold(made, events)
    assert state.following.drift is not None
    touch = FiducialTouch(
        stream="touch",
        sequence=9,
        source_time_ns=EPOCH + 20_000_000_000,
        fiducial="a",
        tool="p",
        position=tuple(FIDUCIALS["a"].tolist()),
    )
    state, _ = fold(made, [event_from_frame(9999, touch.source_time_ns, pack(touch))], state)
    assert state.following is None


def test_the_case_says_whether_to_correct_and_its_hash_knows(tmp_path):
    case = Case.create(tmp_path / "case")
    assert not case.follow_lumen
    case.manifest["registration"] = {"follow_lumen": True}
    assert case.follow_lumen
    case.manifest["registration"] = {"follow_lumen": "yes"}
    with pytest.raises(InputError, match="give true or false"):
        _ = case.follow_lumen
