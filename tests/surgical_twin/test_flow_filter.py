"""The filter's integration, on a made tree."""

import numpy as np

from surgical_twin.assimilation.beat import Beat
from surgical_twin.assimilation.flow_filter import FlowFilter
from surgical_twin.flow.port_model import PortModel
from surgical_twin.flow.port_state import PortParameters
from surgical_twin.flow.waveform import PeriodicWaveform


def a_filter():
    model = PortModel(
        outlets=("a", "b"),
        resistance=np.array([[2e7, 5e6], [5e6, 3e7]]),
        inertance=np.array([[4e5, 1e5], [1e5, 6e5]]),
        segments=np.eye(2),
        loss=np.array([1e12, 0.0]),
        junction_loss=np.zeros(2),
        recovery=np.zeros(2),
        memory=np.zeros((0, 2, 2)),
        time_constants=np.zeros(0),
    )
    beds = PortParameters(
        np.array([[2e8, 3e8]]), np.array([[1.8e9, 3e9]]), np.array([[2e-10, 1.2e-10]]), np.zeros((1, 2))
    )
    return FlowFilter(model, PeriodicWaveform.named("peripheral", mean=9e-6, period=0.8), beds)


def test_longer_steps_come_near_the_short_ones_and_reach_the_same_time():
    made, beat = a_filter(), Beat(0, 800_000_000)
    start = made.initial(0, 0.8)
    for steps in (3, 4, 50, 321):
        fine, coarse = made.advance(start, steps, beat), made.advance(start, steps, beat, stride=4)
        assert coarse.step == fine.step == steps
        swing = np.ptp(made.initial(0, 0.8).ports.inlet_pressure)
        assert np.abs(coarse.ports.inlet_pressure - fine.ports.inlet_pressure).max() < 0.02 * swing
        np.testing.assert_allclose(coarse.ports.inflow, fine.ports.inflow, rtol=1e-9)


def test_the_prior_has_the_spread_that_is_asked_for():
    made = a_filter()
    prior = made.initial(3, 0.8).log_factors
    np.testing.assert_allclose(prior.mean(axis=0), 0.0, atol=1e-12)
    np.testing.assert_allclose(prior.std(axis=0, ddof=1), made.prior_deviation, rtol=1e-9)
    assert made.parameters(prior).drop.min() > 0.5
    np.testing.assert_allclose(np.log(made.inflow_factor(prior)), prior[:, 4])
