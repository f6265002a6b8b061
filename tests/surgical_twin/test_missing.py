"""Measurements that are missing because of their value, against sampling of the same question."""

import numpy as np
import pytest

from surgical_twin.assimilation.missing import Missingness, missing_analysis, missing_moments
from surgical_twin.assimilation.transform import transform_analysis


@pytest.mark.parametrize(
    "missingness",
    [
        Missingness(highest=110.0, beyond=0.9, usual=0.05),
        Missingness(lowest=80.0, highest=120.0, beyond=1.0, usual=0.2),
        Missingness(lowest=95.0, beyond=0.0, usual=0.6),
    ],
)
@pytest.mark.parametrize("mean", [90.0, 105.0, 125.0])
def test_the_moments_are_those_of_samples_that_went_missing(missingness, mean):
    generator = np.random.default_rng(0)
    truth = generator.normal(mean, 8.0, 2_000_000)
    measured = truth + generator.normal(0.0, 3.0, len(truth))
    beyond = (measured < missingness.lowest) | (measured > missingness.highest)
    gone = generator.random(len(truth)) < np.where(beyond, missingness.beyond, missingness.usual)
    value, variance, probability = missing_moments(mean, 64.0, 9.0, missingness)
    assert probability == pytest.approx(gone.mean(), abs=2e-3)
    assert value == pytest.approx(truth[gone].mean(), abs=0.05)
    assert np.sqrt(variance) == pytest.approx(truth[gone].std(), rel=0.01)


def estimated(*, modelled, generator):
    """A constant pressure of 112 mmHg, seen by a transducer that loses most of what is above 110."""
    missingness = Missingness(highest=110.0, beyond=0.9, usual=0.05)
    ensemble = generator.normal(size=(64, 1))
    ensemble = 100.0 + 15.0 * (ensemble - ensemble.mean()) / ensemble.std(ddof=1)
    for measured in 112.0 + generator.normal(0.0, 4.0, 300):
        if generator.random() < (0.9 if measured > 110.0 else 0.05):
            if modelled:
                ensemble = missing_analysis(ensemble, ensemble[:, 0], 16.0, missingness)
        else:  # how likely it was to be there depends on its value alone: what is there is a measurement like any other
            ensemble = transform_analysis(ensemble, ensemble, np.array([measured]), np.array([16.0]))
    return float(ensemble.mean()), float(ensemble.std(ddof=1))


def test_ignoring_why_they_are_missing_biases_and_modelling_it_does_not():
    ignored, modelled = (
        np.array([estimated(modelled=one, generator=np.random.default_rng(seed)) for seed in range(20)])
        for one in (False, True)
    )
    assert ignored[:, 0].mean() < 112.0 - 2.0
    assert np.abs(ignored[:, 0] - 112.0).mean() > 4.0 * ignored[:, 1].mean()
    assert abs(modelled[:, 0].mean() - 112.0) < 0.3
    assert np.mean(np.abs(modelled[:, 0] - 112.0) < 1.96 * modelled[:, 1]) >= 0.85


def test_what_is_missing_at_random_says_nothing():
    ensemble = np.random.default_rng(0).normal(size=(20, 3))
    same = missing_analysis(ensemble, ensemble[:, 0], 1.0, Missingness(beyond=0.3, usual=0.3, highest=0.0))
    np.testing.assert_array_equal(same, ensemble)
