"""Observation errors: what averages out and what does not."""

import numpy as np
import pytest

from surgical_twin.assimilation.observation import ObservationError, place_variance
from surgical_twin.session_model import SessionSettings


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


def test_an_error_that_repeats_with_every_beat_is_not_averaged_away_by_beats():
    settings, period = SessionSettings(), 0.8
    samples, variance = 40, 0.25
    information = []
    for beats in (1, 10, 100):
        told = 0.0
        for beat in range(beats):
            error = ObservationError(sensor=0.0, place=0.0, model=variance)
            correlation = settings.model_correlation(beat, period)
            evidence = error.as_evidence(
                interval_s=period / samples, place_correlation_s=0.0, model_correlation_s=correlation
            )
            told += samples / evidence
        information.append(told)
    # One beat shows period / correlation independent errors; however often it comes again, they are the same ones.
    most = period / settings.model_correlation_s / variance
    assert information[0] < 0.2 * most
    assert information[1] < most
    # The first beats' weights were not made smaller afterwards: the sum grows, but with the logarithm only.
    assert information[2] < most * np.log(1 + 100 / settings.model_beats) * 1.05
