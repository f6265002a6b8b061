import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from registration import rigid
from registration.errors import InputError
from registration.lumen.branch_tree import BranchTree
from registration.lumen.tracking import LumenTracker
from registration.pose_error import PoseError


def vessel(rng, radius=4.0):
    """A parent of 90 mm that bends and forks into two branches of 70 mm."""
    s = np.linspace(0, 1, 60)[:, None]
    parent = np.array([0, 0, 90.0]) * s + rng.normal(size=3) * 12 * np.sin(np.pi * s) * (1, 1, 0)
    lines, radii = [parent], [np.full(60, radius)]
    for side in (1, -1):
        angle, turn = np.radians(rng.uniform(25, 45)), rng.uniform(-0.3, 0.3)
        along = (side * np.sin(angle) * np.cos(turn), np.sin(angle) * np.sin(turn), np.cos(angle))
        bend = rng.normal(size=3) * 8 * np.sin(np.pi * s / 1.3) * (1, 1, 0.3)
        lines.append(parent[-1] + 70 * s * along + bend)
        radii.append(np.linspace(0.8 * radius, 0.6 * radius, 60))
    return lines, radii


def pull_back(rng, lines, radii, count=500):
    """A catheter pulled from the left branch into the parent, its place in the lumen wandering up to 0.7 radii."""
    path, width = np.concatenate([lines[0], lines[1][1:]]), np.concatenate([radii[0], radii[1][1:]])
    arc = np.concatenate([[0], np.cumsum(np.linalg.norm(np.diff(path, axis=0), axis=1))])
    at = np.linspace(arc[-1] - 5, 10, count)
    middle = np.column_stack([np.interp(at, arc, path[:, k]) for k in range(3)])
    knots = np.arange(-30, arc[-1] + 30, 15.0)
    offset = np.column_stack([np.interp(at, knots, rng.uniform(-1, 1, len(knots))) for _ in range(3)])
    along = np.gradient(middle, axis=0)
    along /= np.linalg.norm(along, axis=1)[:, None]
    offset -= np.sum(offset * along, axis=1)[:, None] * along
    offset *= (0.7 / np.maximum(1, np.linalg.norm(offset, axis=1)))[:, None]
    return middle + offset * np.interp(at, arc, width)[:, None], at - arc[59]


def drift(rng, center, length=4.0, degrees=3.0):
    turn, shift = rng.normal(size=3), rng.normal(size=3)
    matrix = np.eye(4)
    matrix[:3, :3] = Rotation.from_rotvec(turn / np.linalg.norm(turn) * np.radians(degrees)).as_matrix()
    matrix[:3, 3] = center + shift * length / np.linalg.norm(shift) - matrix[:3, :3] @ center
    return matrix


def follow(tree, fixes, **settings):
    """The state after all fixes, and that after each."""
    tracker = LumenTracker(tree, **settings)
    track, states = tracker.begin(), []
    for i, fix in enumerate(fixes):
        track = tracker.follow(track, 0.025 * i, fix)
        states.append(tracker.state(track))
    return states[-1], states


def rms(vectors):
    return float(np.sqrt(np.mean(np.sum(np.square(vectors), axis=1))))


def test_a_drift_is_mostly_removed_in_one_pull_back_through_a_bifurcation():
    removed, right = [], []
    for seed in range(6):
        rng = np.random.default_rng(seed)
        lines, radii = vessel(rng)
        tree = BranchTree.from_branches(lines, radii, names=["parent", "left", "right"])
        true, beyond = pull_back(rng, lines, radii)
        moved = drift(rng, true.mean(axis=0))
        fixes = rigid.apply_to_points(moved, true) + rng.normal(size=true.shape) * 0.5
        last, states = follow(tree, fixes)
        before = rms(fixes - true)
        after = rms(rigid.apply_to_points(last.correction @ moved, true) - true)
        removed.append(1 - after / before)
        away = np.abs(beyond) > 8.0
        named = np.array([state.branch for state in states])
        right.append(np.mean(named[away] == np.where(beyond[away] > 0, "left", "parent")))
        # The correction knows about how good it is.
        predicted = np.sqrt(np.trace(last.error.point_covariance(true), axis1=1, axis2=2).mean())
        assert after < 4.0 * predicted
    assert np.mean(right) >= 0.99
    assert np.median(removed) > 0.6


def test_without_drift_nothing_much_is_corrected():
    rng = np.random.default_rng(10)
    lines, radii = vessel(rng)
    tree = BranchTree.from_branches(lines, radii)
    true, _ = pull_back(rng, lines, radii)
    last, _ = follow(tree, true + rng.normal(size=true.shape) * 0.5)
    assert rms(rigid.apply_to_points(last.correction, true) - true) < 2.0


def test_in_a_straight_vessel_the_axial_drift_stays_unknown():
    rng = np.random.default_rng(11)
    line = np.outer(np.linspace(0, 120, 80), (0, 0, 1.0))
    tree = BranchTree.from_branches([line], [np.full(80, 4.0)])
    fixes = line + (3.0, 0, 2.0) + rng.normal(size=line.shape) * 0.3
    last, states = follow(tree, fixes, drift_mm=4.0)
    covariance = last.error.point_covariance(line[40])
    assert covariance[2, 2] > 0.8 * 4.0**2 / 3  # as unknown as before
    assert covariance[0, 0] < 0.3 * covariance[2, 2]
    assert abs(last.correction[0, 3] + 3.0) < 1.0
    assert states[-1].branch == "1"


@settings(max_examples=5, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_turning_the_patient_turns_everything(seed):
    rng = np.random.default_rng(seed)
    lines, radii = vessel(rng)
    true, _ = pull_back(rng, lines, radii, count=150)
    world = drift(rng, np.zeros(3), 100.0, 130.0)
    fixes = true + (2.0, 1.0, -1.0)
    _, a = follow(BranchTree.from_branches(lines, radii), fixes)
    turned = [rigid.apply_to_points(world, line) for line in lines]
    _, b = follow(BranchTree.from_branches(turned, radii), rigid.apply_to_points(world, fixes))
    assert [s.branch for s in a] == [s.branch for s in b]
    np.testing.assert_allclose([s.probability for s in a], [s.probability for s in b], atol=1e-5)
    np.testing.assert_allclose(rigid.apply_to_points(world, a[-1].tip), b[-1].tip, atol=1e-4)


def test_at_a_fork_both_branches_are_possible_until_the_catheter_is_in_one():
    lines, radii = vessel(np.random.default_rng(12))
    tree = BranchTree.from_branches(lines, radii, names=["parent", "left", "right"])
    way = np.concatenate([lines[0][40:], lines[2][1:40]])
    _, states = follow(tree, way, drift_mm=1.0, drift_deg=0.5)
    near = states[21]
    assert near.probability < 0.9
    assert set(near.branches) == {"parent", "left", "right"}
    assert sum(near.branches.values()) == pytest.approx(1.0, abs=1e-3)
    assert states[-1].branch == "right"
    assert states[-1].probability > 0.99
    assert states[-1].along_mm == pytest.approx(70 * 39 / 59, abs=6.0)


def test_bad_fixes_are_counted_and_a_tip_far_outside_fails():
    lines, radii = vessel(np.random.default_rng(13))
    tracker = LumenTracker(BranchTree.from_branches(lines, radii))
    track = tracker.follow(tracker.begin(), 0.0, (np.nan, 0, 0))
    assert tracker.state(track) is None
    track = tracker.follow(track, 0.1, lines[0][5])
    assert tracker.state(track).verdict.level == "pass"
    assert tracker.state(track).outside_mm == 0.0
    for time_s, tip in ((0.1, lines[0][5]), (np.nan, lines[0][5]), (0.2, (1.0, 2.0))):  # time stands still, is none
        known = track
        track = tracker.follow(track, time_s, tip)
        assert track.tip is known.tip
    assert track.skipped == 4
    far = tracker.state(tracker.follow(track, 0.3, lines[0][5] + (60.0, 0, 0)))
    assert far.verdict.level == "fail"
    assert far.outside_mm > 40.0


def test_following_changes_nothing_that_was_known():
    """The same track, followed twice, gives the same twice; so does following it again later."""
    rng = np.random.default_rng(14)
    lines, radii = vessel(rng)
    true, _ = pull_back(rng, lines, radii, count=120)
    tracker = LumenTracker(BranchTree.from_branches(lines, radii))
    tracks = [tracker.begin()]
    for k, fix in enumerate(true):
        tracks.append(tracker.follow(tracks[-1], 0.025 * k, fix))
    again = tracks[60]
    for k in range(60, 120):
        again = tracker.follow(again, 0.025 * k, true[k])
    np.testing.assert_array_equal(again.drift.correction, tracks[-1].drift.correction)
    np.testing.assert_array_equal(again.belief.weight, tracks[-1].belief.weight)


def test_what_is_not_known_of_the_registration_is_in_the_error_of_the_correction():
    rng = np.random.default_rng(15)
    lines, radii = vessel(rng)
    tracker = LumenTracker(BranchTree.from_branches(lines, radii), drift_mm=0.1, drift_deg=0.1)
    place = lines[0][30]
    registered = PoseError(np.diag([1e-4, 2e-4, 1e-4, 1.0, 4.0, 9.0]), np.array([100.0, -40.0, 20.0]))
    wide = tracker.begin(registered).drift.error.point_covariance(place)
    narrow = tracker.begin().drift.error.point_covariance(place)
    np.testing.assert_allclose(wide, registered.point_covariance(place) + narrow, rtol=1e-9)


@pytest.mark.parametrize(
    ("lines", "radii", "words"),
    [
        ([], [], "0 centerlines"),
        ([np.zeros((1, 3))], [[1.0]], "two or more"),
        ([np.eye(3)], [[1.0, -1.0, 1.0]], "not positive"),
        ([np.eye(3), np.eye(3) + 500.0], [np.ones(3), np.ones(3)], "join no other"),
        ([np.full((3, 3), np.nan)], [np.ones(3)], "finite"),
    ],
)
def test_vessels_that_cannot_be_are_refused(lines, radii, words):
    with pytest.raises(InputError, match=words):
        BranchTree.from_branches(lines, radii)
