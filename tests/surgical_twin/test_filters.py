"""The filters against closed forms, against each other, and on Lorenz-96 against published figures."""

import numpy as np
import pytest

from surgical_twin.assimilation.ensemble_filter import Ensemble, EnsembleFilter, with_noise
from surgical_twin.assimilation.filters import Observation, follow, still
from surgical_twin.assimilation.inflation import AdaptiveInflation, FiniteSizeInflation, FixedInflation, Inflation
from surgical_twin.assimilation.localization import LocalTransform, SerialTaper, gaspari_cohn, tree_taper
from surgical_twin.assimilation.smoother import (
    FixedLagSmoother,
    Window,
    iterative_smoother,
    multiple_data_assimilation,
)
from surgical_twin.assimilation.transform import Transform, rotation, transform_analysis
from surgical_twin.assimilation.unscented import Gaussian, UnscentedFilter
from surgical_twin.errors import InputError

RATES = np.array([[-0.3, 2.0], [-2.0, -0.1]])
DRIVE = np.array([0.4, 0.9])


def turn(seconds):
    """exp(RATES t), by its series: scipy's is not asked here."""
    total, term = np.eye(2), np.eye(2)
    for power in range(1, 40):
        term = term @ RATES * (seconds / power)
        total = total + term
    return total


def oscillator(states, start, end):
    return states @ turn(end - start).T


def gathered(start, end):
    return DRIVE * (end - start)


def textbook(mean, covariance, times, values, variance):
    """The Kalman filter with full matrices, written out."""
    now, seen = 0.0, np.array([[1.0, 0.5]])
    for time, value in zip(times, values, strict=True):
        step = turn(time - now)
        mean, covariance = step @ mean, step @ covariance @ step.T + np.diag(DRIVE * (time - now))
        total = seen @ covariance @ seen.T + variance
        gain = covariance @ seen.T / total
        mean = mean + gain @ (value - seen @ mean)
        covariance = covariance - gain @ seen @ covariance
        now = time
    return mean, covariance


def irregular(seed, count=25):
    generator = np.random.default_rng(seed)
    times = np.cumsum(generator.exponential(0.15, count))
    return times, generator.normal(0.0, 2.0, count)


def look(states):
    return states @ np.array([[1.0], [0.5]])


def seen(times, values, variance=0.3):
    return [
        Observation(time, np.array([value]), np.array([variance]), look)
        for time, value in zip(times, values, strict=True)
    ]


@pytest.mark.parametrize("kind", ["ensemble", "unscented"])
def test_filters_are_the_kalman_filter_on_a_linear_model_at_irregular_times(kind):
    times, values = irregular(1)
    mean, covariance = np.array([1.0, -1.0]), np.array([[2.0, 0.4], [0.4, 1.0]])
    expected = textbook(mean, covariance, times, values, 0.3)
    if kind == "ensemble":
        start = Ensemble.drawn(0.0, mean, covariance, 12, seed=3)
        made = EnsembleFilter(oscillator, gathered)
    else:
        start, made = Gaussian(0.0, mean, covariance), UnscentedFilter(oscillator, gathered)
    last = list(follow(made, start, seen(times, values)))[-1].belief
    np.testing.assert_allclose(last.mean, expected[0], rtol=1e-8, atol=1e-8)
    np.testing.assert_allclose(last.covariance, expected[1], rtol=1e-8, atol=1e-8)


def test_normalized_innovation_is_that_of_the_full_covariance_with_few_and_many_observations():
    generator = np.random.default_rng(0)
    for count in (1, 3, 30):
        ensemble = generator.normal(size=(10, 6))
        predicted = ensemble @ generator.normal(size=(6, count))
        root = generator.normal(size=(count, count))
        error, observed = root @ root.T + np.eye(count), generator.normal(size=count) * 4
        d = observed - predicted.mean(axis=0)
        total = np.atleast_2d(np.cov(predicted.T)) + error
        found = Transform.of(predicted, observed, error)
        assert found.normalized_square == pytest.approx(d @ np.linalg.solve(total, d), rel=1e-9)
        gain = np.cov(ensemble.T, predicted.T)[:6, 6:] @ np.linalg.inv(total)
        np.testing.assert_allclose(found.apply(ensemble).mean(axis=0), ensemble.mean(axis=0) + gain @ d, atol=1e-9)
        np.testing.assert_allclose(
            np.cov(found.apply(ensemble).T), np.cov(ensemble.T) - gain @ total @ gain.T, atol=1e-9
        )


@pytest.mark.parametrize("count", [1, 2, 4, 9])
def test_the_compiled_analysis_is_the_plain_one(count):
    generator = np.random.default_rng(count)
    ensemble = generator.normal(size=(30, 7)) * 10.0 ** generator.integers(-4, 9, 7)
    predicted = np.column_stack([ensemble[:, k % 7] / ensemble[:, k % 7].std() + 0.1 * generator.normal(size=30)
                                 for k in range(count)])  # fmt: skip
    predicted[:, count // 2] = predicted[:, 0]  # two sensors at one place
    observed, variance = generator.normal(size=count), generator.uniform(1e-3, 3.0, count)
    plain = Transform.of(predicted, observed, variance).apply(ensemble)
    scale = ensemble.std(axis=0)
    np.testing.assert_allclose(transform_analysis(ensemble, predicted, observed, variance) / scale, plain / scale,
                               atol=1e-9)  # fmt: skip


def test_unscented_moments_of_a_square_are_exact():
    """E[x^2] = mu^2 + P for any Gaussian; the points have it exactly, a linearization does not."""
    points, weights, _ = UnscentedFilter(still).points(np.array([1.5, 0.0]), np.array([[0.7, 0.2], [0.2, 0.5]]))
    assert weights @ points[:, 0] ** 2 == pytest.approx(1.5**2 + 0.7)
    assert weights @ (points[:, 0] * points[:, 1]) == pytest.approx(0.2)
    with pytest.raises(InputError, match="diverged"):
        UnscentedFilter(still).points(np.zeros(2), np.diag([1.0, -1.0]))


def test_noise_is_added_exactly_and_the_same_each_time():
    members = np.random.default_rng(1).normal(size=(20, 3)) @ np.diag([1.0, 0.0, 2.0])  # one variable has no spread
    added = with_noise(members, np.array([0.5, 2.0, 0.0]), np.random.default_rng(5))
    np.testing.assert_allclose(np.cov(added.T), np.cov(members.T) + np.diag([0.5, 2.0, 0.0]), atol=1e-9)
    np.testing.assert_array_equal(added, with_noise(members, np.array([0.5, 2.0, 0.0]), np.random.default_rng(5)))
    few = np.random.default_rng(1).normal(size=(6, 3))  # too few to draw noise that is uncorrelated with them
    noise = np.array([[1.0, 0.3, 0.0], [0.3, 0.5, 0.0], [0.0, 0.0, 0.2]])
    stretched = with_noise(few, noise, np.random.default_rng(5))
    np.testing.assert_allclose(np.cov(stretched.T), np.cov(few.T) + noise, atol=1e-9)
    np.testing.assert_allclose(stretched.mean(axis=0), few.mean(axis=0), atol=1e-12)


def test_a_rotation_keeps_mean_and_covariance():
    turned = rotation(9, np.random.default_rng(2))
    np.testing.assert_allclose(turned @ turned.T, np.eye(9), atol=1e-12)
    np.testing.assert_allclose(turned @ np.ones(9), np.ones(9), atol=1e-12)


def test_gaspari_cohn_is_the_fifth_order_convolution_of_a_triangle_in_space():
    """Its definition: the self-convolution over R^3 of the linear hat, here integrated numerically."""
    grid = np.linspace(-1.0, 1.0, 81)
    x, y, z = np.meshgrid(grid, grid, grid, indexing="ij")

    def hat(shift):
        return np.maximum(1.0 - 2.0 * np.sqrt((x - shift) ** 2 + y**2 + z**2), 0.0)

    own = (hat(0.0) ** 2).sum()
    length = 0.5 / np.sqrt(10.0 / 3.0)  # the hat ends at 0.5, the convolution at 1
    for distance in (0.1, 0.3, 0.5, 0.75):
        expected = (hat(0.0) * hat(distance)).sum() / own
        assert gaspari_cohn(distance, length) == pytest.approx(expected, abs=2e-3)
    assert gaspari_cohn(1.001, length) == 0.0
    with pytest.raises(InputError, match="positive"):
        gaspari_cohn(1.0, 0.0)


def test_localization_without_distance_is_the_plain_analysis():
    generator = np.random.default_rng(4)
    members = generator.normal(size=(8, 5))
    for count in (2, 11):
        operator = generator.normal(size=(5, count))
        observation = Observation(0.0, generator.normal(size=count), generator.uniform(0.5, 2, count),
                                  lambda states, operator=operator: states @ operator)  # fmt: skip
        predicted = members @ operator
        plain = Transform.of(predicted, observation.values, observation.variance).apply(members)
        local = LocalTransform(np.ones((5, count)))(members, predicted, observation, 1.0)
        np.testing.assert_allclose(local, plain, atol=1e-10)
        serial = SerialTaper(np.ones((5, count)), np.ones((count, count)))(members, predicted, observation, 1.0)
        np.testing.assert_allclose(serial.mean(axis=0), plain.mean(axis=0), atol=1e-10)
        np.testing.assert_allclose(np.cov(serial.T), np.cov(plain.T), atol=1e-10)


def test_a_local_analysis_is_that_of_its_own_observations_with_their_errors_divided():
    generator = np.random.default_rng(5)
    members = generator.normal(size=(7, 3))
    taper = np.array([[1.0, 0.4, 0.0], [0.0, 0.0, 0.0], [0.2, 0.0, 0.9]])
    observation = Observation(0.0, generator.normal(size=3), np.array([0.5, 1.0, 2.0]), lambda states: states)
    local = LocalTransform(taper)(members, members, observation, 1.0)
    np.testing.assert_allclose(local[:, 1], members[:, 1], atol=1e-14)
    for variable in (0, 2):
        near = taper[variable] > 0
        alone = Transform.of(
            members[:, near], observation.values[near], observation.variance[near] / taper[variable, near]
        )
        np.testing.assert_allclose(local[:, variable], alone.apply(members)[:, variable], atol=1e-10)


def test_taper_along_a_tree_leaves_parameters_of_no_place():
    distances = np.array([[0.0, 10.0], [10.0, 0.0]])
    taper = tree_taper(distances, {0: 0, 1: 1, 2: None}, [0], 10.0)
    np.testing.assert_allclose(taper[:, 0], [1.0, gaspari_cohn(10.0, 10.0), 1.0])
    assert gaspari_cohn(10.0, 10.0) == pytest.approx(np.exp(-0.5), abs=0.04)


def test_observations_that_cannot_be_used_are_refused():
    with pytest.raises(InputError, match="leave out"):
        Observation(0.0, np.array([np.nan]), np.ones(1), look)
    with pytest.raises(InputError, match="leave out"):
        Observation(0.0, np.zeros(1), np.zeros(1), look)
    late = [*seen([1.0], [0.0]), *seen([0.5], [0.0])]
    with pytest.raises(InputError, match="fixed-lag"):
        list(follow(EnsembleFilter(still), Ensemble(0.0, np.eye(3)[:, :2]), late))


def test_a_late_observation_within_the_lag_counts_as_if_it_had_come_in_time():
    times, values = np.array([0.2, 0.5, 0.9, 1.3]), np.array([1.0, -0.5, 2.0, 0.3])
    mean, covariance = np.array([1.0, -1.0]), np.array([[2.0, 0.4], [0.4, 1.0]])
    plain = EnsembleFilter(oscillator)
    start = Ensemble.drawn(0.0, mean, covariance, 10, seed=0)
    in_time = list(follow(plain, start, seen(times, values)))[-1].belief
    smoother, window = FixedLagSmoother(plain, 2.0), Window(start)
    for number in (0, 2, 3, 1):  # the second comes last
        observation = seen(times[number : number + 1], values[number : number + 1])[0]
        window = smoother.assimilate(smoother.advance(window, observation.time), observation).belief
    np.testing.assert_allclose(window.present.mean, in_time.mean, atol=1e-9)
    np.testing.assert_allclose(window.covariance, in_time.covariance, atol=1e-9)
    # What is believed of the past is conditioned on all of it: the closed form for the start.
    operator = np.vstack([np.array([1.0, 0.5]) @ turn(time) for time in times])
    gain = covariance @ operator.T @ np.linalg.inv(operator @ covariance @ operator.T + 0.3 * np.eye(4))
    np.testing.assert_allclose(window.past[0].mean, mean + gain @ (values - operator @ mean), atol=1e-9)
    with pytest.raises(InputError, match="window"):
        smoother.assimilate(smoother.advance(window, 9.0), seen([1.0], [0.0])[0])


def test_a_history_conditions_a_nonlinear_model_as_the_grid_posterior_says():
    """y = exp(a) + b: posterior by brute force on a grid."""
    times, generator = np.linspace(0, 3, 30), np.random.default_rng(6)

    def predict(members):
        return np.exp(-np.outer(np.exp(members[:, 0]), times)) * members[:, 1:2] * 10.0

    observed = predict(np.array([[0.5, 1.3]]))[0] + generator.normal(0, 0.3, 30)
    grid = np.stack(np.meshgrid(np.linspace(-2.5, 2.5, 401), np.linspace(0.0, 2.5, 401), indexing="ij"), -1).reshape(
        -1, 2
    )
    spread = np.array([0.8, 0.4])
    logs = -0.5 * ((predict(grid) - observed) ** 2).sum(axis=1) / 0.09 - 0.5 * (((grid - [0, 1]) / spread) ** 2).sum(1)
    weights = np.exp(logs - logs.max())
    weights /= weights.sum()
    mean = weights @ grid
    deviation = np.sqrt(weights @ (grid - mean) ** 2)
    prior = Ensemble.drawn(0.0, np.array([0.0, 1.0]), spread**2, 40, seed=1).members
    found = iterative_smoother(prior, predict, observed, np.full(30, 0.09))
    assert found.converged
    assert (np.abs(found.members.mean(axis=0) - mean) < 0.15 * deviation).all()
    np.testing.assert_allclose(found.members.std(axis=0, ddof=1), deviation, rtol=0.15)
    gentle = multiple_data_assimilation(prior, predict, observed, np.full(30, 0.09), steps=8)
    assert (np.abs(gentle.members.mean(axis=0) - mean) < 0.6 * deviation).all()


def lorenz96(states, force):
    def slope(x):
        return (np.roll(x, -1, axis=-1) - np.roll(x, 2, axis=-1)) * np.roll(x, 1, axis=-1) - x + force

    a = slope(states)
    b = slope(states + 0.025 * a)
    c = slope(states + 0.025 * b)
    return states + 0.05 / 6.0 * (a + 2 * b + 2 * c + slope(states + 0.05 * c))


def chaotic(made, members, cycles, *, truth_force=8.0, seed=0):
    """(cycles,) RMSE and normalized innovation squared of a filter whose model has the force 8."""
    generator = np.random.default_rng(seed)
    truth = np.zeros(40)
    truth[0] = 1.0
    for _ in range(200):
        truth = lorenz96(truth, truth_force)
    belief = Ensemble(0.0, truth + generator.normal(size=(members, 40)))
    errors, nis = [], []
    for cycle in range(1, cycles + 1):
        truth = lorenz96(truth, truth_force)
        observation = Observation(0.05 * cycle, truth + generator.normal(size=40), np.ones(40), lambda states: states)
        analysis = made.assimilate(made.advance(belief, 0.05 * cycle), observation)
        belief = analysis.belief
        errors.append(np.sqrt(((belief.mean - truth) ** 2).mean()))
        nis.append(analysis.normalized_square / 40)
    return np.array(errors), np.array(nis)


def step8(states, start, end):
    return lorenz96(states, 8.0)


RING = np.abs((np.arange(40)[:, None] - np.arange(40) + 20) % 40 - 20).astype(float)


@pytest.mark.parametrize(
    ("made", "members", "published"),
    [
        # Sakov & Oke (2008) table 1, and Bocquet (2011) figure 6.
        (EnsembleFilter(step8, inflation=FixedInflation(1.013), rotate=True), 24, 0.18),
        (EnsembleFilter(step8, inflation=FiniteSizeInflation(), rotate=True), 24, 0.20),
        (EnsembleFilter(step8, inflation=FixedInflation(1.04), rotate=True,
                        localization=LocalTransform(gaspari_cohn(RING, 4.0))), 7, 0.22),
    ],
)  # fmt: skip
def test_lorenz96_is_followed_as_published(made, members, published):
    errors, _ = chaotic(made, members, 700)
    assert errors[200:].mean() == pytest.approx(published, abs=0.04)


def test_adaptive_inflation_makes_a_wrong_model_consistent():
    """The truth is driven by 7 where the model has 8; without widening the filter no longer sees observations."""
    blind, _ = chaotic(EnsembleFilter(step8, rotate=True), 24, 400, truth_force=7.0)
    plain = EnsembleFilter(step8, inflation=FixedInflation(1.013), rotate=True)
    adaptive = EnsembleFilter(step8, inflation=AdaptiveInflation(), rotate=True)
    _, nis = chaotic(plain, 24, 400, truth_force=7.0)
    errors, kept = chaotic(adaptive, 24, 400, truth_force=7.0)
    assert nis[200:].mean() > 1.3
    assert kept[200:].mean() == pytest.approx(1.0, abs=0.1)
    assert errors[200:].mean() < 0.5 * blind[200:].mean()


def test_adaptive_inflation_finds_a_known_factor():
    generator, state = np.random.default_rng(0), Inflation()
    rule = AdaptiveInflation()
    for _ in range(1500):
        ensemble = generator.normal(size=(40, 10))  # of half the true deviation
        observed = generator.normal(0.0, 2.0, 10) + generator.normal(0.0, 1.0, 10)
        state = rule(Transform.of(ensemble, observed, np.ones(10)), state)
    assert state.before == pytest.approx(2.0, rel=0.08)
