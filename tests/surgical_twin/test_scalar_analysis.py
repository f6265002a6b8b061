"""One observation's analysis against the Kalman filter's own equations."""

import numpy as np

from surgical_twin.assimilation.scalar_analysis import scalar_analysis
from surgical_twin.assimilation.transform import transform_analysis


def test_it_is_the_kalman_analysis_of_the_ensembles_own_moments():
    generator = np.random.default_rng(0)
    ensemble = generator.normal(size=(30, 5)) @ generator.normal(size=(5, 5)) + 3.0
    row = generator.normal(size=5)
    predicted = ensemble @ row
    observed, variance = 7.0, 0.6
    covariance = np.cov(ensemble.T)
    gain = covariance @ row / (row @ covariance @ row + variance)
    analysis = scalar_analysis(ensemble, predicted, observed, variance)
    np.testing.assert_allclose(analysis.mean(axis=0), ensemble.mean(axis=0) + gain * (observed - predicted.mean()))
    np.testing.assert_allclose(np.cov(analysis.T), covariance - np.outer(gain, row) @ covariance, atol=1e-12)


def test_it_is_the_transform_of_many_observations_for_one():
    generator = np.random.default_rng(1)
    ensemble = generator.normal(size=(20, 4))
    predicted = ensemble[:, 0] ** 2 + ensemble[:, 1]
    other = transform_analysis(ensemble, predicted[:, None], np.array([2.0]), np.array([0.3]))
    np.testing.assert_allclose(scalar_analysis(ensemble, predicted, 2.0, 0.3), other, atol=1e-12)


def test_an_observation_that_no_member_doubts_changes_nothing():
    ensemble = np.random.default_rng(2).normal(size=(10, 3))
    np.testing.assert_array_equal(scalar_analysis(ensemble, np.full(10, 4.0), 9.0, 1.0), ensemble)
