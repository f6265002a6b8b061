"""Waiting times against queueing theory, and against a queue worked through by hand."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams.queueing import Traffic, largest_load, mean_waits, waits


def at_random(rates, services, seconds, seed):
    """Classes of messages that come at random, with service times drawn by functions."""
    rng = np.random.default_rng(seed)
    arrival, service, rank = [], [], []
    for number, (rate, draw) in enumerate(zip(rates, services, strict=True)):
        count = rng.poisson(rate * seconds)
        arrival.append(rng.uniform(0, seconds, count))
        service.append(draw(rng, count))
        rank.append(np.full(count, number))
    order = np.argsort(np.concatenate(arrival))
    return Traffic(*(np.concatenate(part)[order] for part in (arrival, service, rank)))


def test_a_queue_worked_through_by_hand():
    # 0 is served from 0 to 4; 1 and 2 come meanwhile, and 2 goes first.
    traffic = Traffic(np.array([0.0, 1.0, 2.0, 9.0]), np.array([4.0, 1.0, 2.0, 1.0]), np.array([1, 1, 0, 1]))
    assert waits(traffic).tolist() == [0.0, 5.0, 2.0, 0.0]
    assert traffic.utilization == pytest.approx(8 / 9)


@pytest.mark.parametrize("load", [0.3, 0.7])
def test_one_class_waits_as_pollaczek_and_khinchine_say(load):
    """M/M/1: W = rho / (mu - lambda); M/D/1 half of it."""
    for draw, factor in ((lambda rng, n: rng.exponential(1.0, n), 1.0), (lambda rng, n: np.ones(n), 0.5)):
        found = waits(at_random([load], [draw], 200_000, 1)).mean()
        expected = factor * load / (1.0 - load)
        assert found == pytest.approx(expected, rel=0.04)
        assert mean_waits([load], [1.0], [2.0 * factor]) == pytest.approx([expected])


def test_two_classes_wait_as_cobham_says():
    rates, means = [0.2, 0.4], [0.5, 1.2]
    draws = [lambda rng, n: rng.exponential(0.5, n), lambda rng, n: rng.exponential(1.2, n)]
    traffic = at_random(rates, draws, 400_000, 2)
    found = waits(traffic)
    expected = mean_waits(rates, means, [2 * mean**2 for mean in means])
    for rank in (0, 1):
        assert found[traffic.of_rank(rank)].mean() == pytest.approx(expected[rank], rel=0.04)


@given(
    gaps=st.lists(st.floats(0, 5), min_size=1, max_size=60),
    data=st.data(),
)
def test_one_class_follows_lindleys_recursion(gaps, data):
    arrival = np.cumsum(gaps)
    service = np.array(data.draw(st.lists(st.floats(0, 5), min_size=len(gaps), max_size=len(gaps))))
    found = waits(Traffic(arrival, service, np.zeros(len(gaps), dtype=int)))
    wait = 0.0
    for number in range(len(gaps)):
        assert found[number] == pytest.approx(wait, abs=1e-9)
        if number + 1 < len(gaps):
            wait = max(0.0, wait + service[number] - (arrival[number + 1] - arrival[number]))


def test_the_largest_load_is_where_the_theory_puts_it():
    """M/D/1: the time from arrival to the end of service has the mean 1 + rho / (2 (1 - rho))."""
    traffic = at_random([0.2], [lambda rng, n: np.ones(n)], 100_000, 3)

    def nine_tenths_within(limit):
        return lambda traffic, waited: np.quantile(waited + traffic.service, 0.9) <= limit

    factor = largest_load(traffic, nine_tenths_within(4.0))
    took = waits(traffic.scaled(factor)) + 1.0
    assert np.quantile(took, 0.9) <= 4.0
    assert np.quantile(waits(traffic.scaled(1.05 * factor)) + 1.0, 0.9) > 4.0
    assert 0.2 * factor < 1.0
    assert largest_load(traffic, nine_tenths_within(0.9)) < 0.1  # less than a service takes: no load is small enough
