"""The process that gives modes' amplitudes, against functions written by hand and against leaving runs out by hand."""

from dataclasses import dataclass

import numpy as np

from surgical_twin.flow.amplitude_fit import fit_amplitudes, history


@dataclass
class State:
    flow: np.ndarray
    flow_derivative: np.ndarray
    lagged_flow: np.ndarray


def pulses(seed, count=60):
    """Two outlets over one beat, each run with another mean, swing and phase."""
    rng = np.random.default_rng(seed)
    t = np.linspace(0.0, 2 * np.pi, count, endpoint=False)
    mean, swing, phase = rng.uniform(4, 8, 2), rng.uniform(2, 4, 2), rng.uniform(0, 0.6, 2)
    flow = 1e-6 * (mean + swing * np.sin(t[:, None] + phase))
    rate = 1e-6 * swing * np.cos(t[:, None] + phase) * 7.8
    lagged = 1e-6 * (mean + 0.8 * swing * np.sin(t[:, None] + phase - 0.6))
    return State(flow, rate, lagged[:, None])


def features_of(state):
    recalled = (state.flow[:, None] - state.lagged_flow).reshape(len(state.flow), -1)
    return np.concatenate([state.flow, state.flow_derivative, recalled], axis=1)


def amplitudes_of(state):
    """One amplitude that is linear, one that saturates, as a jet does that fills its vessel, and one of noise."""
    q = state.flow * 1e6
    noise = np.random.default_rng(len(q) + int(1e3 * q[0, 0])).normal(size=len(q))
    return np.column_stack([2.0 * q[:, 0] - q[:, 1], 5.0 * np.tanh(0.7 * (q[:, 0] - 6.0)), noise])


def a_fit(kernel=True, runs=8):
    states = [pulses(seed) for seed in range(runs)]
    folds = np.repeat(np.arange(runs), 60)
    return fit_amplitudes(
        np.concatenate([features_of(one) for one in states]),
        np.concatenate([history(one) for one in states]),
        2,
        np.concatenate([amplitudes_of(one) for one in states]),
        folds,
        kernel=kernel,
    )


def predicted(fit, state):
    linear = features_of(state) @ fit.map
    return linear if fit.kernel is None else linear + fit.kernel.amplitudes(state)


def relative(fit, state):
    true = amplitudes_of(state)
    return np.linalg.norm(predicted(fit, state) - true, axis=0) / np.linalg.norm(true, axis=0)


def test_what_is_not_linear_is_predicted_for_a_run_never_seen():
    unseen = pulses(77)
    with_kernel, without = relative(a_fit(), unseen), relative(a_fit(kernel=False), unseen)
    assert with_kernel[0] < 0.01
    assert with_kernel[1] < 0.2
    assert without[1] > 1.4 * with_kernel[1]


def test_the_skill_tells_what_can_be_predicted_from_what_cannot():
    skill = a_fit().skill
    assert skill[0] > 0.999
    assert skill[1] > 0.9
    assert skill[2] < 0.2


def test_far_from_the_training_only_the_linear_part_is_left():
    fit = a_fit()
    far = pulses(77)
    far = State(far.flow * 50.0, far.flow_derivative * 50.0, far.lagged_flow * 50.0)
    np.testing.assert_allclose(predicted(fit, far), features_of(far) @ fit.map, atol=1e-9)


def test_a_field_that_is_linear_gets_no_kernel():
    states = [pulses(seed) for seed in range(4)]
    linear = np.concatenate([one.flow for one in states]) * 1e6
    fit = fit_amplitudes(
        np.concatenate([features_of(one) for one in states]),
        np.concatenate([history(one) for one in states]),
        2,
        linear,
        np.repeat(np.arange(4), 60),
    )
    assert fit.kernel is None
    np.testing.assert_allclose(features_of(pulses(9)) @ fit.map, pulses(9).flow * 1e6, rtol=1e-4)
