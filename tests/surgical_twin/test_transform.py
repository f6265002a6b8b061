"""The analysis step against the Kalman filter's closed form and against a long reference run."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from surgical_twin.assimilation.transform import transform_analysis


def kalman(mean, covariance, operator, observed, variance):
    """Second implementation: the textbook update with full matrices."""
    gain = covariance @ operator.T @ np.linalg.inv(operator @ covariance @ operator.T + np.diag(variance))
    return mean + gain @ (observed - operator @ mean), covariance - gain @ operator @ covariance


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1), members=st.integers(3, 40), variables=st.integers(1, 6), observed=st.integers(1, 4)
)
def test_analysis_is_the_kalman_update_of_the_ensembles_own_moments(seed, members, variables, observed):
    generator = np.random.default_rng(seed)
    ensemble = generator.normal(size=(members, variables)) * generator.uniform(0.1, 10, variables)
    operator = generator.normal(size=(observed, variables))
    variance = generator.uniform(0.1, 5, observed)
    values = generator.normal(size=observed) * 3
    mean, covariance = kalman(ensemble.mean(0), np.atleast_2d(np.cov(ensemble.T)), operator, values, variance)
    analysis = transform_analysis(ensemble, ensemble @ operator.T, values, variance)
    np.testing.assert_allclose(analysis.mean(0), mean, rtol=1e-8, atol=1e-8)
    np.testing.assert_allclose(np.atleast_2d(np.cov(analysis.T)), covariance, rtol=1e-7, atol=1e-7)


def test_order_of_observations_does_not_matter_for_the_moments():
    generator = np.random.default_rng(0)
    ensemble = generator.normal(size=(20, 3))
    together = transform_analysis(ensemble, ensemble[:, :2], np.array([1.0, -1.0]), np.array([0.5, 2.0]))
    one = transform_analysis(ensemble, ensemble[:, :1], np.array([1.0]), np.array([0.5]))
    other = transform_analysis(one, one[:, 1:2], np.array([-1.0]), np.array([2.0]))
    np.testing.assert_allclose(together.mean(0), other.mean(0), atol=1e-12)
    np.testing.assert_allclose(np.cov(together.T), np.cov(other.T), atol=1e-12)


def test_an_observation_on_which_all_members_agree_changes_nothing():
    ensemble = np.random.default_rng(2).normal(size=(10, 3))
    same = transform_analysis(ensemble, np.full((10, 1), 4.0), np.array([9.0]), np.array([1.0]))
    np.testing.assert_array_equal(same, ensemble)
