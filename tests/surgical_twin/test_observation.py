"""Observation errors: what averages out and what does not."""

import numpy as np
import pytest

from surgical_twin.assimilation.observation import ObservationError, place_variance


def test_place_variance_is_the_variance_of_the_field_over_the_places():
    generator = np.random.default_rng(0)
    gradient = np.array([0.4, -1.2, 0.3])
    factor = generator.normal(size=(3, 3))
    places = generator.normal(size=(200_000, 3)) @ factor.T
    assert place_variance(gradient, factor @ factor.T) == pytest.approx(np.var(places @ gradient), rel=0.02)


def test_a_shared_error_is_not_averaged_away():
    """Second implementation: the variance of a mean of n samples that share an error, by simulation."""
    generator = np.random.default_rng(1)
    samples, sensor, shared = 50, 2.0, 0.7
    means = shared * generator.normal(size=20_000) + (sensor * generator.normal(size=(20_000, samples))).mean(axis=1)
    error = ObservationError(sensor=sensor**2, place=0.0, model=shared**2)
    evidence = error.as_evidence(interval_s=0.02, place_correlation_s=0.0, model_correlation_s=0.02 * samples)
    assert evidence / samples == pytest.approx(np.var(means), rel=0.03)


def test_independent_samples_keep_their_variance():
    error = ObservationError(sensor=4.0, place=1.0, model=1.0)
    assert error.as_evidence(interval_s=10.0, place_correlation_s=1.0, model_correlation_s=1.0) == error.single
