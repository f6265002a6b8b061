import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize
from scipy.spatial.transform import Rotation
from scipy.stats import chi2

from registration import rigid
from registration.absolute_orientation import fit_points
from registration.anisotropic import propagate_localization_error, register_anisotropic
from registration.errors import InputError
from registration.landmarks import register_landmarks

few = settings(max_examples=20, deadline=None)
seeds = st.integers(0, 2**32 - 1)

SPATIAL = np.array([[0, 0, 0], [90, 5, 10], [20, 70, -15], [60, 40, 55], [10, -30, 40], [-25, 30, 35.0]])
CAMERA = np.diag([0.15, 0.15, 0.6]) ** 2  # a stereo tracker's depth error is several times the others


def random_transform(rng):
    matrix = np.eye(4)
    matrix[:3, :3], matrix[:3, 3] = Rotation.random(rng=rng).as_matrix(), rng.uniform(-500, 500, 3)
    return matrix


def random_covariances(rng, count):
    roots = rng.normal(size=(count, 3, 3)) * rng.uniform(0.1, 0.6, (count, 1, 3))
    return roots @ np.swapaxes(roots, 1, 2) + 0.01 * np.eye(3)


def draws(rng, covariances, trials):
    return np.einsum("nij,tnj->tni", np.linalg.cholesky(covariances), rng.normal(size=(trials, len(covariances), 3)))


def test_predicted_error_is_what_happens():
    rng = np.random.default_rng(1)
    truth = random_transform(rng)
    target = rigid.apply_to_points(truth, SPATIAL)
    deep = np.array([40.0, 120.0, -60.0])
    goal = rigid.apply_to_points(truth, deep)
    covariances = np.broadcast_to(CAMERA, (6, 3, 3))
    errors, distances, chi = [], [], []
    for noise in draws(rng, covariances, 1200):
        result = register_anisotropic(SPATIAL + noise, target, source_covariance=CAMERA)
        error = rigid.apply_to_points(result.target_from_source, deep) - goal
        errors.append(error)
        distances.append(error @ np.linalg.solve(result.point_covariance(goal), error))
        chi.append(result.chi_squared)
    assert result.tre(goal) == pytest.approx(np.sqrt(np.mean(np.sum(np.square(errors), axis=1))), rel=0.05)
    assert 0.93 < np.mean(np.array(distances) < chi2.ppf(0.95, 3)) < 0.97
    assert np.mean(chi) == pytest.approx(12.0, rel=0.05)  # 3 N - 6


def test_prediction_for_the_closed_form_is_what_happens_and_larger_than_the_likeliest_fit():
    rng = np.random.default_rng(2)
    covariances = random_covariances(rng, 6)
    weights = rng.uniform(0.5, 2.0, 6)
    trials = 8000
    noisy = SPATIAL + draws(rng, covariances, trials)
    fits = fit_points(noisy, np.broadcast_to(SPATIAL, noisy.shape), weights=weights)
    point = np.array([40.0, 120.0, -60.0])
    errors = fits[:, :3, :3] @ point + fits[:, :3, 3] - point
    predicted = propagate_localization_error(np.eye(4), SPATIAL, source_covariance=covariances, weights=weights)
    np.testing.assert_allclose(
        predicted.point_covariance(point), np.cov(errors.T), atol=0.05 * np.trace(np.cov(errors.T))
    )
    assert predicted.tre(point) == pytest.approx(np.sqrt(np.mean(np.sum(errors**2, axis=1))), rel=0.03)
    best = register_anisotropic(SPATIAL, SPATIAL, source_covariance=covariances)
    assert best.tre(point) < predicted.tre(point)


@settings(max_examples=6, deadline=None)
@given(seeds)
def test_the_fit_is_the_minimum_that_a_general_optimizer_finds(seed):
    rng = np.random.default_rng(seed)
    covariances = random_covariances(rng, 6)
    target = rigid.apply_to_points(random_transform(rng), SPATIAL) + draws(rng, covariances, 1)[0]
    result = register_anisotropic(SPATIAL, target, target_covariance=covariances)

    def cost(xi):
        residuals = target - rigid.apply_to_points(rigid.exponential(xi) @ start, SPATIAL)
        return float(np.einsum("ni,nij,nj->", residuals, np.linalg.inv(covariances), residuals))

    # Written about the fiducials, so that the optimizer's six numbers are of one scale.
    start = result.target_from_source
    middle = rigid.apply_to_points(start, SPATIAL).mean(axis=0)
    target, start = target - middle, np.block([[start[:3, :3], (start[:3, 3] - middle)[:, None]], [0, 0, 0, 1.0]])
    scale = np.repeat([0.01, 1.0], 3)
    found = minimize(lambda x: cost(x * scale), np.zeros(6), method="BFGS", options={"gtol": 1e-9})
    assert cost(np.zeros(6)) == pytest.approx(result.chi_squared, rel=1e-9)
    assert found.fun > result.chi_squared - 1e-6
    assert np.abs(found.x).max() < 1e-3


@few
@given(seeds)
def test_rotating_and_moving_either_frame_changes_no_error(seed):
    rng = np.random.default_rng(seed)
    of_source, of_target = random_covariances(rng, 6), random_covariances(rng, 6)
    target = SPATIAL + rng.normal(size=SPATIAL.shape) * 0.4
    before = register_anisotropic(SPATIAL, target, source_covariance=of_source, target_covariance=of_target)
    a, b = random_transform(rng), random_transform(rng)
    after = register_anisotropic(
        rigid.apply_to_points(a, SPATIAL),
        rigid.apply_to_points(b, target),
        source_covariance=a[:3, :3] @ of_source @ a[:3, :3].T,
        target_covariance=b[:3, :3] @ of_target @ b[:3, :3].T,
    )
    point = np.array([30.0, -80.0, 60.0])
    assert after.chi_squared == pytest.approx(before.chi_squared, rel=1e-6)
    expected = b[:3, :3] @ before.point_covariance(point) @ b[:3, :3].T
    np.testing.assert_allclose(after.point_covariance(rigid.apply_to_points(b, point)), expected, rtol=1e-5, atol=1e-8)
    np.testing.assert_allclose(after.target_from_source, b @ before.target_from_source @ np.linalg.inv(a), atol=1e-6)


@few
@given(seeds)
def test_isotropic_errors_give_the_closed_form(seed):
    rng = np.random.default_rng(seed)
    target = SPATIAL + rng.normal(size=SPATIAL.shape) * 0.4
    weights = rng.uniform(0.5, 2.0, 6)
    closed = register_landmarks(SPATIAL, target, fle=0.6, weights=weights)
    general = register_anisotropic(SPATIAL, target, target_covariance=np.eye(3) * (0.12 / weights)[:, None, None])
    np.testing.assert_allclose(general.target_from_source, closed.target_from_source, atol=1e-8)
    np.testing.assert_allclose(general.error.pose_covariance, closed.pose_covariance, rtol=1e-6, atol=1e-12)
    point = rng.normal(size=3) * 100
    assert general.tre(point) == pytest.approx(closed.tre(point), rel=1e-8)


def test_weighted_prediction_is_what_happens():
    rng = np.random.default_rng(4)
    weights = np.array([4.0, 1.0, 1.0, 0.25, 1.0, 2.0])
    noise = rng.normal(size=(8000, 6, 3)) * (0.6 / np.sqrt(3 * weights))[:, None]
    fits = fit_points(SPATIAL + noise, np.broadcast_to(SPATIAL, noise.shape), weights=weights)
    point = np.array([40.0, 120.0, -60.0])
    errors = fits[:, :3, :3] @ point + fits[:, :3, 3] - point
    result = register_landmarks(SPATIAL, SPATIAL, fle=0.6, weights=weights)
    assert result.tre(point) == pytest.approx(np.sqrt(np.mean(np.sum(errors**2, axis=1))), rel=0.03)
    estimates = [register_landmarks(SPATIAL + n, SPATIAL, weights=weights).fle ** 2 for n in noise[:300]]
    assert np.sqrt(np.mean(estimates)) == pytest.approx(0.6, rel=0.05)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, "no localization covariance"),
        ({"source_covariance": np.eye(2)}, "shape"),
        ({"source_covariance": -np.eye(3)}, "non-negative"),
        ({"target_covariance": np.triu(np.ones((3, 3)))}, "symmetric"),
        ({"target_covariance": np.diag([1.0, 1.0, 0.0])}, "no localization error in one direction"),
        ({"target_covariance": np.full((3, 3), np.nan)}, "finite"),
    ],
)
def test_covariances_that_cannot_be_are_refused(changes, words):
    with pytest.raises(InputError, match=words):
        register_anisotropic(SPATIAL, SPATIAL, **changes)


def test_weights_that_cannot_be_are_refused():
    for weights in ([1, 1], [1, 1, 1, 1, 1, 0], [1, 1, 1, 1, 1, np.nan]):
        with pytest.raises(InputError, match="weight"):
            register_landmarks(SPATIAL, SPATIAL, weights=weights)


def test_an_fre_beyond_the_covariances_is_told():
    rng = np.random.default_rng(3)
    target = SPATIAL + rng.normal(size=SPATIAL.shape) * 3.0
    result = register_anisotropic(SPATIAL, target, target_covariance=CAMERA)
    assert result.p_value < 1e-6
    assert any("more than a localization error" in w for w in result.warnings)
