"""The ensemble that carries the patient's flow state and parameters through the procedure.

Each member holds the reduced model's state (flow through each outlet, pressure on each Windkessel's capacitor) and the
logarithms of the factors by which its outlet resistances, its compliances, its inflow and the pressure drop of its
vessel tree differ from the plan. Logarithms keep the factors positive and make the prior's spread a relative one.

Between observations the members follow the reduced model; at an observation all of it is conditioned
together (``transform``). Parameters are constants of the patient, yet a filter that grows certain of them can no
longer follow a change, so what was learned is slowly forgotten: the parameters' spread grows with the time
constant ``forgetting_time`` up to that of the prior. This draws no random numbers: the only ones are those of the
initial ensemble.
"""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from surgical_twin.assimilation.beat import Beat
from surgical_twin.assimilation.transform import Innovation, innovation, transform_analysis
from surgical_twin.flow.port_model import PortModel, PortParameters, PortState
from surgical_twin.flow.waveform import PeriodicWaveform

Array = NDArray[np.float64]

LARGEST_LOG_FACTOR = np.log(8.0)
"""Factors stay within 1/8 and 8: beyond lies no living patient, and the model would only overflow."""


@dataclass(frozen=True)
class FilterSettings:
    """How the filter is set; deviations are of the natural logarithm, hence relative."""

    members: int = 48
    time_step: float = 0.005
    """s"""
    resistance_deviation: float = 0.25
    compliance_deviation: float = 0.30
    inflow_deviation: float = 0.15
    drop_deviation: float = 0.14
    """Of the pressure drop inside the lumen: a wall known to 3 % of the radius changes a drop that goes with r^-4 by
    12 %, and blood's viscosity is known to some 10 %."""
    forgetting_time: float = 60.0
    """s"""
    spin_up_beats: int = 8
    """Beats that every member runs before the first event, so that it starts on its own periodic state."""


@dataclass(frozen=True)
class FilterState:
    """The ensemble at one time."""

    step: int
    """Time in units of the time step since the epoch of the source clock."""
    ports: PortState
    """members x outlets, SI"""
    log_factors: Array
    """(members, 2 N + 2): resistance factor of each outlet, compliance factor of each, inflow factor, factor on
    the tree's pressure drop; as logarithms"""


class FlowFilter:
    """Advances and conditions the ensemble; holds only what does not change during a procedure."""

    def __init__(
        self,
        model: PortModel,
        waveform: PeriodicWaveform,
        planned: PortParameters,
        settings: FilterSettings | None = None,
    ) -> None:
        """Set up the filter.

        Args:
            model: the reduced model of the patient's vessel tree.
            waveform: the planned inflow over one beat; its phase 0 is the R-wave.
            planned: (1, N) the planned Windkessels.
            settings: defaults where None.
        """
        self.model = model
        self.waveform = waveform
        self.planned = planned
        self.settings = settings or FilterSettings()
        self.outlet_count = len(model.outlets)
        self.prior_deviation = np.concatenate(
            [
                np.full(self.outlet_count, self.settings.resistance_deviation),
                np.full(self.outlet_count, self.settings.compliance_deviation),
                [self.settings.inflow_deviation, self.settings.drop_deviation],
            ]
        )

    @property
    def step_ns(self) -> int:
        """The time step in nanoseconds."""
        return round(self.settings.time_step * 1e9)

    def parameters(self, log_factors: Array) -> PortParameters:
        """Each member's Windkessels, and by how much its tree's losses differ from the model's."""
        count = self.outlet_count
        resistance = np.exp(log_factors[:, :count])
        return PortParameters(
            proximal_resistance=self.planned.proximal_resistance * resistance,
            distal_resistance=self.planned.distal_resistance * resistance,
            compliance=self.planned.compliance * np.exp(log_factors[:, count : 2 * count]),
            distal_pressure=np.repeat(self.planned.distal_pressure, len(log_factors), axis=0),
            drop_factor=np.exp(log_factors[:, 2 * count + 1]),
        )

    def inflow_factor(self, log_factors: Array) -> Array:
        """(members,) each member's factor on the planned inflow."""
        factor: Array = np.exp(log_factors[:, 2 * self.outlet_count])
        return factor

    def initial(self, seed: int, period_s: float) -> FilterState:
        """The prior: factors drawn around 1, each member on its own periodic state, at phase 0 and step 0.

        The draws are centered and decorrelated, so that the ensemble's mean and covariance are the prior's
        exactly and not only on average over seeds.
        """
        members = self.settings.members
        draws = np.random.default_rng(seed).normal(size=(members, len(self.prior_deviation)))
        draws -= draws.mean(axis=0)
        if members > len(self.prior_deviation):
            factor = np.linalg.cholesky(np.cov(draws.T).reshape(len(self.prior_deviation), -1))
            draws = np.linalg.solve(factor, draws.T).T
        log_factors = draws * self.prior_deviation
        parameters = self.parameters(log_factors)
        scale = self.inflow_factor(log_factors)
        ports = self.model.steady_state(parameters, scale * self.waveform.mean)
        steps_per_beat = max(1, round(period_s / self.settings.time_step))
        stepper = self.model.stepper(parameters, period_s / steps_per_beat)
        numbers = np.arange(1, self.settings.spin_up_beats * steps_per_beat + 1)
        value, rate = self._inflow(numbers / steps_per_beat, period_s)
        ports = stepper.advance(ports, np.outer(value, scale), np.outer(rate, scale))
        return FilterState(step=0, ports=ports, log_factors=log_factors)

    def _inflow(self, phase: Array, period_s: float) -> tuple[Array, Array]:
        """Planned inflow [m^3/s] and its time derivative at phases (n,) [beats] of a beat of another length."""
        own = self.waveform.period
        time = (phase % 1.0) * own
        return self.waveform.spline(time), self.waveform.spline(time, 1) * (own / period_s)

    def advance(self, state: FilterState, step: int, beat: Beat, *, stride: int = 1) -> FilterState:
        """Integrate every member to a later time step, the heart beating as ``beat`` says.

        With a ``stride`` several steps are taken as one where that many are left: less exact, and as much cheaper.
        """
        if step <= state.step:
            return state
        parameters = self.parameters(state.log_factors)
        scale = self.inflow_factor(state.log_factors)
        ports, number = state.ports, state.step
        for length in sorted({stride, 1}, reverse=True):
            if number + length > step:
                continue
            numbers = range(number + length, step + 1, length)
            phase = np.array([beat.phase(one * self.step_ns) for one in numbers])
            value, rate = self._inflow(phase, beat.period_ns * 1e-9)
            stepper = self.model.stepper(parameters, length * self.settings.time_step)
            ports = stepper.advance(ports, np.outer(value, scale), np.outer(rate, scale))
            number = numbers[-1]
        elapsed = (step - state.step) * self.settings.time_step
        return FilterState(step=step, ports=ports, log_factors=self._forget(state.log_factors, elapsed))

    def _forget(self, log_factors: Array, elapsed_s: float) -> Array:
        """Let the parameters' spread grow towards the prior's; correlations are kept."""
        mean = log_factors.mean(axis=0)
        spread = log_factors.std(axis=0, ddof=1)
        room = self.prior_deviation / np.maximum(spread, 1e-12)
        growth = np.clip(room, 1.0, np.exp(elapsed_s / self.settings.forgetting_time))
        forgotten: Array = mean + (log_factors - mean) * growth
        return forgotten

    def assimilate(
        self, state: FilterState, predicted: Array, observed: float, variance: float, beat: Beat
    ) -> FilterState:
        """Condition the ensemble on one observation.

        Args:
            state: the ensemble at the observation's time.
            predicted: (members,) each member's prediction.
            observed: the measured value, in the same unit.
            variance: its error variance as evidence, with the model's error.
            beat: the present beat, for the inflow that the conditioned flows must add up to.
        """
        joint = np.hstack([state.ports.flow, state.ports.capacitor_pressure, state.log_factors])
        joint = transform_analysis(joint, predicted[:, None], np.array([observed]), np.array([variance]))
        count = self.outlet_count
        log_factors = np.clip(joint[:, 2 * count :], -LARGEST_LOG_FACTOR, LARGEST_LOG_FACTOR)
        values, rates = self._inflow(np.array([beat.phase(state.step * self.step_ns)]), beat.period_ns * 1e-9)
        value, rate = values[0], rates[0]
        scale = self.inflow_factor(log_factors)
        # The analysis is linear and the inflow factor is not: hand the difference to the outlets in equal parts of
        # their inertial share, so that each member's flows add up to its inflow again.
        missing = scale * value - joint[:, :count].sum(axis=1)
        flow = joint[:, :count] + missing[:, None] * self.model.inertial_share
        parameters = self.parameters(log_factors)
        # What the fluid remembers moves with the flow: an analysis corrects the past as well.
        lagged = state.ports.lagged_flow + (flow - state.ports.flow)[:, None]
        ports = self.model.complete(flow, joint[:, count : 2 * count], scale * rate, parameters, lagged)
        return replace(state, ports=ports, log_factors=log_factors)

    def judge(self, predicted: Array, observed: float, variance: float) -> Innovation:
        """How far an observation is from what was expected, without using it."""
        return innovation(predicted[:, None], np.array([observed]), np.array([variance]))
