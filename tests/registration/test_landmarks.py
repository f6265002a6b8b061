import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation
from scipy.stats import chi2

from registration import rigid
from registration.absolute_orientation import fit_points
from registration.errors import InputError
from registration.landmarks import register_landmarks

few = settings(max_examples=25, deadline=None)
seeds = st.integers(0, 2**32 - 1)

SPATIAL = np.array([[0, 0, 0], [90, 5, 10], [20, 70, -15], [60, 40, 55], [10, -30, 40], [-25, 30, 35.0]])
PLANAR = np.array([[0, 0, 0], [80, 0, 0], [80, 120, 0], [0, 120, 0], [30, 50, 0.0]])
TRIANGLE = np.array([[0, 0, 0], [100, 0, 0], [30, 60, 0.0]])


def random_transform(seed):
    rng = np.random.default_rng(seed)
    matrix = np.eye(4)
    matrix[:3, :3] = Rotation.random(rng=rng).as_matrix()
    matrix[:3, 3] = rng.uniform(-800, 800, 3)
    return matrix


def monte_carlo(points, target_point, fle, trials, *, seed):
    """Actual errors at a target over `trials` noisy registrations, with what each predicted from its residuals."""
    rng = np.random.default_rng(seed)
    truth = random_transform(seed + 1)
    target = rigid.apply_to_points(truth, points)
    goal = rigid.apply_to_points(truth, target_point)
    errors, predicted, distances = [], [], []
    for _ in range(trials):
        noisy = points + rng.normal(scale=fle / np.sqrt(3), size=points.shape)
        result = register_landmarks(noisy, target)
        error = rigid.apply_to_points(result.target_from_source, target_point) - goal
        errors.append(error)
        predicted.append(result.tre(goal))
        distances.append(error @ np.linalg.solve(result.point_covariance(goal), error))
    return np.array(errors), np.array(predicted), np.array(distances)


@pytest.mark.parametrize(
    ("points", "point"),
    [(SPATIAL, (40.0, 150.0, -60.0)), (PLANAR, (40.0, 60.0, -150.0)), (TRIANGLE, (200.0, 10.0, 80.0))],
    ids=["spatial", "planar", "three"],
)
@pytest.mark.parametrize("rotation_seed", [3, 4])
def test_predicted_tre_is_what_happens_for_rotated_fiducials(points, point, rotation_seed):
    # With the FLE known the prediction is the same for every draw: the draws can be fitted all at once.
    rng, turned, truth = np.random.default_rng(rotation_seed), random_transform(rotation_seed), random_transform(5)
    source, place = rigid.apply_to_points(turned, points), rigid.apply_to_points(turned, np.array(point))
    target, goal = rigid.apply_to_points(truth, source), rigid.apply_to_points(truth, place)
    noisy = source + rng.normal(scale=0.6 / np.sqrt(3), size=(20_000, *source.shape))
    fits = fit_points(noisy, np.broadcast_to(target, noisy.shape))
    errors = fits[:, :3, :3] @ place + fits[:, :3, 3] - goal
    result = register_landmarks(source, target, fle=0.6)
    one = register_landmarks(noisy[0], target, fle=0.6)
    np.testing.assert_allclose(one.target_from_source, fits[0], atol=1e-9)
    assert result.tre(goal) == pytest.approx(np.sqrt(np.mean(np.sum(errors**2, axis=1))), rel=0.02)
    distances = np.einsum("ni,ij,nj->n", errors, np.linalg.inv(result.point_covariance(goal)), errors)
    assert 0.94 < np.mean(distances < chi2.ppf(0.95, 3)) < 0.96


@pytest.mark.parametrize("points", [SPATIAL, PLANAR, TRIANGLE], ids=["spatial", "planar", "three"])
def test_ellipsoids_stay_honest_when_fle_is_estimated(points):
    errors, predicted, distances = monte_carlo(points, np.array([40.0, 120.0, -60.0]), 0.6, 1200, seed=11)
    inside = np.mean(distances < chi2.ppf(0.95, 3))
    assert 0.93 < inside < 0.97
    actual = np.sqrt(np.mean(np.sum(errors**2, axis=1)))
    assert np.sqrt(np.mean(predicted**2)) == pytest.approx(actual, rel=0.05)


def test_estimated_fle_interval_holds_95_percent():
    rng = np.random.default_rng(5)
    held, squares = 0, []
    for _ in range(800):
        result = register_landmarks(SPATIAL + rng.normal(scale=0.5 / np.sqrt(3), size=SPATIAL.shape), SPATIAL)
        held += result.fle_interval[0] <= 0.5 <= result.fle_interval[1]
        squares.append(result.fle**2)
    assert 0.93 < held / 800 < 0.97
    assert np.sqrt(np.mean(squares)) == pytest.approx(0.5, rel=0.03)


@few
@given(seeds)
def test_tre_is_the_trace_of_the_covariance(seed):
    rng = np.random.default_rng(seed)
    source = rng.normal(size=(rng.integers(3, 9), 3)) * (60, 40, 20)
    target = rigid.apply_to_points(random_transform(seed), source) + rng.normal(size=source.shape) * 0.3
    result = register_landmarks(source, target)
    points = rng.normal(size=(4, 3)) * 300
    traces = np.trace(result.point_covariance(points, widened=False), axis1=1, axis2=2)
    np.testing.assert_allclose([result.tre(point) for point in points], np.sqrt(traces), rtol=1e-9)
    assert result.widening > 1.0
    np.testing.assert_allclose(
        result.point_covariance(points[0]),
        result.widening * result.point_covariance(points[0], widened=False),
    )


@few
@given(seeds)
def test_rotating_and_moving_either_frame_changes_no_error(seed):
    rng = np.random.default_rng(seed)
    target = SPATIAL + rng.normal(size=SPATIAL.shape) * 0.4
    point = np.array([30.0, -80.0, 60.0])
    before = register_landmarks(SPATIAL, target)
    a, b = random_transform(seed), random_transform(seed + 1)
    after = register_landmarks(rigid.apply_to_points(a, SPATIAL), rigid.apply_to_points(b, target))
    moved = rigid.apply_to_points(b, point)
    assert after.fre == pytest.approx(before.fre, rel=1e-9)
    assert after.tre(moved) == pytest.approx(before.tre(point), rel=1e-9)
    np.testing.assert_allclose(after.residuals, before.residuals, rtol=1e-8)
    expected = b[:3, :3] @ before.point_covariance(point) @ b[:3, :3].T
    np.testing.assert_allclose(after.point_covariance(moved), expected, rtol=1e-7, atol=1e-10)
    chain = b @ before.target_from_source @ np.linalg.inv(a)
    np.testing.assert_allclose(after.target_from_source, chain, atol=1e-8)


@few
@given(seeds)
def test_order_of_the_fiducials_does_not_matter(seed):
    rng = np.random.default_rng(seed)
    target, order = SPATIAL + rng.normal(size=SPATIAL.shape), rng.permutation(len(SPATIAL))
    a, b = register_landmarks(SPATIAL, target), register_landmarks(SPATIAL[order], target[order])
    np.testing.assert_allclose(a.target_from_source, b.target_from_source, atol=1e-9)
    np.testing.assert_allclose(a.covariance, b.covariance, atol=1e-12)


@pytest.mark.parametrize("points", [SPATIAL, PLANAR, TRIANGLE], ids=["spatial", "planar", "three"])
def test_exact_pairs_are_recovered_without_a_warning(points):
    truth = random_transform(8)
    result = register_landmarks(points, rigid.apply_to_points(truth, points))
    np.testing.assert_allclose(result.target_from_source, truth, atol=1e-9)
    assert result.fre < 1e-9
    assert result.warnings == ()


def test_pose_covariance_is_the_same_error_written_about_the_origin():
    target = rigid.apply_to_points(random_transform(2), SPATIAL)
    result = register_landmarks(SPATIAL, target, fle=0.7)
    point = np.array([300.0, -200.0, 100.0])
    jacobian = np.hstack([-rigid.skew(point), np.eye(3)])
    np.testing.assert_allclose(
        jacobian @ result.pose_covariance @ jacobian.T, result.point_covariance(point), rtol=1e-8
    )


def test_a_reflection_is_never_returned_and_a_mirrored_frame_is_named():
    mirrored = SPATIAL * (1, 1, -1)
    result = register_landmarks(SPATIAL, mirrored)
    assert np.linalg.det(result.target_from_source[:3, :3]) == pytest.approx(1.0)
    assert "mirror" in " ".join(result.warnings)


def test_noisy_planar_fiducials_do_not_flip():
    rng = np.random.default_rng(0)
    for _ in range(50):
        result = register_landmarks(PLANAR + rng.normal(size=PLANAR.shape) * 0.5, PLANAR)
        assert rigid.rotation_angle(result.target_from_source) < 0.05


def test_swapped_labels_are_named():
    rng = np.random.default_rng(1)
    target = SPATIAL + rng.normal(size=SPATIAL.shape) * 0.3
    target[[1, 4]] = target[[4, 1]]
    (warning,) = register_landmarks(SPATIAL, target, names=list("ABCDEF")).warnings
    assert "B and E look swapped" in warning


@pytest.mark.parametrize("which", range(6))
def test_a_displaced_fiducial_is_named(which):
    rng = np.random.default_rng(which)
    target = SPATIAL + rng.normal(size=SPATIAL.shape) * 0.3
    target[which] += (6, -8, 5)
    (warning,) = register_landmarks(SPATIAL, target, names=list("ABCDEF")).warnings
    assert f"Fiducial {'ABCDEF'[which]} looks displaced" in warning


def test_clean_fiducials_seldom_raise_a_warning():
    rng = np.random.default_rng(2)
    raised = sum(
        bool(register_landmarks(SPATIAL, SPATIAL + rng.normal(size=SPATIAL.shape) * 0.3).warnings) for _ in range(500)
    )
    assert raised <= 15  # 1 % expected, 3 % is far out in the binomial tail


def test_an_fre_beyond_the_known_fle_is_told():
    rng = np.random.default_rng(3)
    target = SPATIAL + rng.normal(size=SPATIAL.shape) * 2.0
    assert any("more than a localization error" in w for w in register_landmarks(SPATIAL, target, fle=0.3).warnings)
    assert register_landmarks(SPATIAL, target, fle=3.5).warnings == ()


def test_a_symmetric_arrangement_is_told_when_labels_cannot_be_checked():
    isosceles = np.array([[0, 0, 0], [100, 0, 0], [50, 80, 0.0]])
    warnings = register_landmarks(isosceles, isosceles, fle=0.5, names=["A", "B", "C"]).warnings
    assert any("too symmetric to tell fiducial A from B" in w for w in warnings)
    assert register_landmarks(TRIANGLE, TRIANGLE, fle=0.5).warnings == ()


def test_a_nearly_collinear_arrangement_is_told():
    points = np.array([[0, 0, 0], [50, 6, 0], [100, 0, 0], [150, 3, 4.0]])
    assert any("nearly on a line" in w for w in register_landmarks(points, points + 1.0).warnings)


@pytest.mark.parametrize(
    ("source", "target", "words"),
    [
        (SPATIAL[:2], SPATIAL[:2], "only 2"),
        (SPATIAL, SPATIAL[:4], "6 source but 4 target"),
        (np.full((4, 3), np.nan), SPATIAL[:4], "finite"),
        (SPATIAL[:, :2], SPATIAL, "shape"),
        (np.outer(range(4), (1.0, 2, 3)), SPATIAL[:4], "source fiducials lie on a line .RMS distance"),
        (SPATIAL[:4], np.outer(range(4), (1.0, 2, 3)), "target fiducials lie on a line"),
        (SPATIAL[[0, 1, 2, 0]], SPATIAL[:4], "source fiducials 1 and 4 are in the same place"),
        (SPATIAL[:4], SPATIAL[[0, 1, 2, 1]], "target fiducials 2 and 4 are in the same place"),
        (np.ones((3, 3)), SPATIAL[:3], "same place"),
    ],
)
def test_input_that_cannot_be_registered_is_refused(source, target, words):
    with pytest.raises(InputError, match=words):
        register_landmarks(source, target)


def test_a_line_is_refused_however_it_is_turned():
    line = np.outer(np.linspace(0, 100, 5), (1.0, 0, 0)) + np.random.default_rng(0).normal(size=(5, 3)) * 0.2
    for seed in range(5):
        with pytest.raises(InputError, match="line"):
            register_landmarks(rigid.apply_to_points(random_transform(seed), line), line)


def test_an_impossible_fle_or_names_are_refused():
    for fle in (0.0, -1.0, np.nan):
        with pytest.raises(InputError, match="localization error"):
            register_landmarks(SPATIAL, SPATIAL, fle=fle)
    with pytest.raises(InputError, match="2 names"):
        register_landmarks(SPATIAL, SPATIAL, names=["A", "B"])
