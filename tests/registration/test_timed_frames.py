import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from registration.errors import InputError
from registration.rigid import interpolate
from registration.timed_frames import TimedFrameGraph, loop_closure, reference_moved

MS = 1_000_000


def random_transform(rng, reach=200.0):
    matrix = np.eye(4)
    matrix[:3, :3], matrix[:3, 3] = Rotation.random(rng=rng).as_matrix(), rng.uniform(-reach, reach, 3)
    return matrix


def room(rng):
    """image <- reference (registered); tracker <- reference and tracker <- tool, tracked at different times."""
    graph = TimedFrameGraph()
    registered = random_transform(rng)
    graph.set("image", "reference", registered, np.eye(6) * 1e-6)
    references, tools = [random_transform(rng) for _ in range(2)], [random_transform(rng) for _ in range(2)]
    for k in range(2):
        graph.add("tracker", "reference", 40 * k * MS, references[k], np.eye(6) * 1e-6)
        graph.add("tracker", "tool", (10 + 40 * k) * MS, tools[k], np.eye(6) * 1e-6)
    return graph, registered, references, tools


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(10, 40))
def test_all_moving_edges_are_taken_at_one_time(seed, at):
    graph, registered, references, tools = room(np.random.default_rng(seed))
    answer = graph.get("image", "tool", at * MS)
    reference = interpolate(*references, at / 40)
    tool = interpolate(*tools, (at - 10) / 40)
    np.testing.assert_allclose(answer.pose.matrix, registered @ np.linalg.inv(reference) @ tool, atol=1e-8)
    assert answer.held == ()


def test_a_pose_is_carried_on_with_growing_doubt_and_then_refused():
    graph, *_ = room(np.random.default_rng(0))
    fresh = graph.get("tracker", "tool", 50 * MS)
    held = graph.get("tracker", "tool", 150 * MS)
    assert held.held == ("tracker_from_tool",)
    assert held.age_ns == 100 * MS
    place = fresh.pose.matrix[:3, 3]
    _, before = fresh.pose.transform_point((0.0, 0, 0))
    moved, after = held.pose.transform_point((0.0, 0, 0))
    np.testing.assert_allclose(moved, place)
    # 50 mm/s for 0.1 s.
    assert np.sqrt(np.trace(after - before) / 3) == pytest.approx(5.0, rel=0.01)
    with pytest.raises(InputError, match=r"tracker_from_tool is stale: its last valid pose is 0\.30 s old"):
        graph.get("tracker", "tool", 350 * MS)
    graph.lose("tracker", "tool", 60 * MS)
    with pytest.raises(InputError, match="is lost"):
        graph.get("tracker", "tool", 350 * MS)


def test_nothing_is_guessed_before_the_first_pose_or_across_a_gap():
    graph, *_ = room(np.random.default_rng(1))
    with pytest.raises(InputError, match=r"first measured 0\.005 s after"):
        graph.get("image", "tool", 5 * MS)
    graph.add("tracker", "tool", 2000 * MS, np.eye(4))
    with pytest.raises(InputError, match=r"not measured for 1\.95 s"):
        graph.get("tracker", "tool", 1000 * MS)
    assert not graph.add("tracker", "tool", 1500 * MS, np.eye(4))  # late


def test_poses_that_are_none_are_refused_and_change_nothing():
    graph, *_, tools = room(np.random.default_rng(2))
    for bad in (np.full((4, 4), np.nan), np.zeros((4, 4)), np.diag([1.0, 1, -1, 1])):
        with pytest.raises(InputError, match="tracker_from_tool"):
            graph.add("tracker", "tool", 100 * MS, bad)
    np.testing.assert_allclose(graph.get("tracker", "tool", 50 * MS).pose.matrix, tools[1])
    with pytest.raises(InputError, match="close a loop"):
        graph.add("image", "tool", 60 * MS, np.eye(4))
    with pytest.raises(InputError, match="not known"):
        graph.get("image", "probe", 50 * MS)


def test_a_loop_is_judged_by_its_errors():
    rng = np.random.default_rng(3)
    a, b = random_transform(rng), random_transform(rng)
    exact = [a, b, np.linalg.inv(a @ b)]
    assert loop_closure(exact)[2].level == "pass"
    shifted = [a, b, np.linalg.inv(a @ b) @ np.block([[np.eye(3), np.array([[3.0], [0], [0]])], [0, 0, 0, 1.0]])]
    errors = [np.diag([1e-8] * 3 + [0.01] * 3)] * 3
    miss, angle, verdict = loop_closure(shifted, errors)
    assert miss == pytest.approx(3.0)
    assert angle == pytest.approx(0.0, abs=1e-5)
    assert verdict.level == "fail"
    assert loop_closure(shifted, [np.diag([1e-6] * 3 + [2.0] * 3)] * 3)[2].level == "pass"


def test_a_bumped_reference_is_told():
    before = random_transform(np.random.default_rng(4))
    now = before.copy()
    now[:3, 3] += (1.5, 0, 0)
    assert reference_moved(before, before).level == "pass"
    assert "register again" in reference_moved(before, now).reason
