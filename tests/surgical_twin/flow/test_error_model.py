"""Bias and covariance recovered from errors that were drawn from known ones."""

import numpy as np
import pytest

from surgical_twin.flow.error_model import ErrorModel

MEAN, PERIOD = 6e-6, 0.8
COVARIANCE = np.array([[400.0, 150.0, 0.0], [150.0, 225.0, 0.0], [0.0, 0.0, 1e-16]])


def drawn(runs, bias=0.0, seed=0, count=2000):
    rng = np.random.default_rng(seed)
    inflows, rates, errors = [], [], []
    for _ in range(runs):
        t = np.linspace(0.0, 2 * np.pi, count, endpoint=False)
        q = MEAN * (1.0 + 0.9 * np.sin(t))
        r = MEAN / PERIOD * 2.0 * np.cos(t)
        deviation = np.sqrt(0.2 + 0.6 * (q / MEAN) ** 2)
        noise = rng.multivariate_normal(np.zeros(3), COVARIANCE, size=count, method="cholesky")
        lean = bias * np.outer((q / MEAN) ** 2, [30.0, -20.0, 0.0])
        inflows.append(q)
        rates.append(r)
        errors.append(lean + deviation[:, None] * noise)
    return inflows, rates, errors


def test_covariance_grows_with_the_flow_as_the_errors_do():
    model = ErrorModel.fit(*drawn(5), PERIOD)
    q = MEAN * np.array([0.1, 1.0, 1.9])
    found = model.covariance_at(q, np.zeros(3), np.zeros(3))
    for one, relative in zip(found, (0.1, 1.0, 1.9), strict=True):
        expected = (0.2 + 0.6 * relative**2) * COVARIANCE
        np.testing.assert_allclose(np.sqrt(np.diag(one)), np.sqrt(np.diag(expected)), rtol=0.2)
        assert one[0, 1] / np.sqrt(one[0, 0] * one[1, 1]) == pytest.approx(0.5, abs=0.05)
    assert (np.linalg.eigvalsh(found) >= 0.0).all()


def test_bias_is_found_where_runs_agree_on_it_and_not_from_two():
    q = MEAN * np.array([0.5, 1.0, 1.8])
    model = ErrorModel.fit(*drawn(5, bias=1.0), PERIOD)
    np.testing.assert_allclose(model.bias(q, np.zeros(3))[:, 0], 30.0 * (q / MEAN) ** 2, rtol=0.15, atol=2.0)
    assert np.abs(ErrorModel.fit(*drawn(2, bias=1.0), PERIOD).bias(q, np.zeros(3))).max() == 0.0


def test_errors_of_new_runs_lie_in_the_stated_ellipsoid():
    model = ErrorModel.fit(*drawn(5, bias=1.0), PERIOD)
    (q,), (r,), (errors,) = drawn(1, bias=1.0, seed=9)
    off = errors - model.bias(q, r)
    distance = np.einsum("mi,mij,mj->m", off, np.linalg.inv(model.covariance_at(q, r, np.zeros(len(q)))), off)
    assert distance.mean() == pytest.approx(3.0, rel=0.2)  # of a chi-square of three degrees of freedom


def test_outside_of_the_range_the_error_grows_with_the_distance():
    model = ErrorModel.fit(*drawn(3), PERIOD)
    q, r = np.full(2, MEAN), np.zeros(2)
    inside, outside = model.scale(q, r, np.array([0.0, 0.5]))
    assert outside == pytest.approx(1.5 * inside)


def test_no_error_at_all_gives_no_covariance():
    inflows, rates, errors = drawn(3)
    model = ErrorModel.fit(inflows, rates, [np.zeros_like(one) for one in errors], PERIOD)
    assert np.isfinite(model.covariance).all()
    assert np.abs(model.covariance).max() == 0.0
