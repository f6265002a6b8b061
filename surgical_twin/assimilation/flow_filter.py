"""The ensemble that carries the patient's flow state, parameters and sensors' errors through the procedure.

Each member holds

* the reduced model's state: flow through each outlet, pressure on each Windkessel's capacitor;
* the logarithms of the factors by which its outlet resistances, its compliances, its inflow and the pressure drop of
  its vessel tree differ from the plan (logarithms keep factors positive and make the prior's spread a relative one);
* how the shape of its inflow differs from the planned one: a few Fourier coefficients, as shares of the mean flow;
* the registration's error, a small turn and displacement, in standard deviations of what fiducials leave open;
* of every pressure sensor a bias and its drift and, of a fluid-filled line, frequency, damping and the line's state.

Between observations the members follow the reduced model; at an observation all of it is conditioned together
(``transform``). The draws of the prior are centered, and uncorrelated with all that was drawn before: the
ensemble starts with the prior's mean and covariance exactly, and the transform, which for a linear model is exact, does
not have to fight correlations that are only chance.

Parameters are constants of the patient, yet a filter that grows certain of them can no longer follow a change, so what
was learned is slowly forgotten: the spread grows with a time constant up to that of the prior. This draws no random
numbers: the only ones are those of the prior, whose seeds are in the events.
"""

from dataclasses import dataclass, replace
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from surgical_twin.assimilation.beat import Beat
from surgical_twin.assimilation.line_dynamics import (
    MEASURED_DEVIATION,
    UNKNOWN_DEVIATION,
    USUAL_DAMPING,
    USUAL_FREQUENCY_HZ,
    LineStep,
)
from surgical_twin.assimilation.missing import Missingness, missing_analysis
from surgical_twin.assimilation.transform import transform_analysis
from surgical_twin.flow.inflow_kernel import PlannedInflow, inflow_of_members
from surgical_twin.flow.port_model import PortModel, PortParameters, PortState
from surgical_twin.flow.waveform import PeriodicWaveform
from surgical_twin.units import PASCAL_PER_MMHG

Array = NDArray[np.float64]

LARGEST_LOG_FACTOR = np.log(8.0)
"""Factors stay within 1/8 and 8: beyond lies no living patient, and the model would only overflow."""

LARGEST_SHAPE = 0.5
"""A Fourier coefficient of the inflow stays below this share of the mean flow."""

FORGETTING_STEPS = 20
"""Forgetting is slow, and need not be done with every observation."""

LONGEST_FORGETTING_STEPS = 1000
"""A session that begins does not make up for the time before it."""

BIAS, DRIFT, FREQUENCY, DAMPING, READING, SLOPE = range(6)
"""A sensor's columns: mmHg, mmHg/h, logarithms, and the line's reading [mmHg] with its slope [mmHg/s]."""

SENSOR_COLUMNS = 6
REGISTRATION_COLUMNS = 6


@dataclass(frozen=True)
class FilterSettings:
    """How the filter is set; deviations are of the natural logarithm, hence relative, where nothing else is said."""

    members: int = 256
    """Of the same data, other draws of 64 members gave flows of outlets that differed by 7 %, of 256 by 1.5 %."""
    time_step: float = 0.005
    """s"""
    resistance_deviation: float = 0.25
    compliance_deviation: float = 0.30
    inflow_deviation: float = 0.15
    drop_deviation: float = 0.14
    """Of the pressure drop inside the lumen: a wall known to 3 % of the radius changes a drop that goes with r^-4 by
    12 %, and blood's viscosity is known to some 10 %. What a coarse mesh adds is `mesh_losses`'."""
    harmonics: int = 5
    """Of the heart's frequency, in which the inflow's shape may differ from the planned one: between the shapes of two
    arteries they leave 2 % of the mean flow open."""
    shape_deviation: float = 0.06
    """Of each of their coefficients, as a share of the mean flow: what those of two arteries differ by."""
    bias_deviation: float = 3.0
    """mmHg"""
    drift_deviation: float = 2.0
    """mmHg/h"""
    forgetting_time: float = 300.0
    """s"""
    error_forgetting_time: float = 900.0
    """s; of sensors' biases and of the registration, which nothing changes in the course of a beat"""
    spin_up_beats: int = 8
    """Beats that every member runs before the first event, so that it starts on its own periodic state."""


@dataclass(frozen=True)
class SensorSlot:
    """Where a sensor's errors are in the ensemble."""

    name: str
    begin: int
    """its first column among the errors"""
    port: int | None
    """of a fluid-filled line: the port at which it measures, 0 for the inlet; None for one at a tool's tip"""


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
    shape: Array
    """(members, 2 harmonics): cosine and sine of each harmonic of the inflow, as shares of its mean"""
    errors: Array
    """(members, 6 + 6 sensors): the registration's error in its standard deviations, then six columns per sensor"""
    error_prior: Array
    """(6 + 6 sensors,) the prior's standard deviation of each of these; 0 for what is no parameter"""
    sensors: tuple[SensorSlot, ...] = ()
    seed: int = 0
    beds: PortParameters | None = None
    """the Windkessels of ``log_factors``, where they are known already"""
    remembered: int = 0
    """the step up to which what was learned has been forgotten a little"""

    def slot(self, name: str) -> SensorSlot | None:
        """The columns of a sensor, None where it is not known yet."""
        return next((slot for slot in self.sensors if slot.name == name), None)

    def of_sensor(self, name: str, column: int) -> Array:
        """(members,) one column of a sensor that is known."""
        slot = self.slot(name)
        if slot is None:
            raise KeyError(name)
        values: Array = self.errors[:, slot.begin + column]
        return values


class FlowFilter:
    """Advances and conditions the ensemble; holds only what does not change during a procedure."""

    def __init__(
        self,
        model: PortModel,
        waveform: PeriodicWaveform,
        planned: PortParameters,
        settings: FilterSettings | None = None,
        prior: tuple[Array, Array] | None = None,
    ) -> None:
        """Set up the filter.

        Args:
            model: the reduced model of the patient's vessel tree.
            waveform: the planned inflow over one beat; its phase 0 is the R-wave.
            planned: (1, N) the planned Windkessels.
            settings: defaults where None.
            prior: mean (k,) and root (k, k) of the k = 2 N + 2 + 2 harmonics columns, logarithms of factors and shape
                coefficients (`flow_prior.FlowPrior`); the plan's where None.
        """
        self.prior = prior
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
        self.shape_deviation = np.full(2 * self.settings.harmonics, self.settings.shape_deviation)
        pieces = np.ascontiguousarray(waveform.spline.c)
        self._planned_inflow = PlannedInflow(waveform.spline.x, pieces, waveform.mean)

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
        if self.prior is None:
            log_factors = self._draw([seed], self.prior_deviation, np.empty((self.settings.members, 0)))
            shape = self._draw([seed, 1], self.shape_deviation, log_factors)
        else:
            mean, root = self.prior
            drawn = self._draw([seed], np.ones(len(mean)), np.empty((self.settings.members, 0)))
            columns = mean + drawn @ root.T
            factors = len(self.prior_deviation)
            log_factors, shape = columns[:, :factors], columns[:, factors:]
        parameters = self.parameters(log_factors)
        scale = self.inflow_factor(log_factors)
        ports = self.model.steady_state(parameters, scale * self.waveform.mean)
        steps_per_beat = max(1, round(period_s / self.settings.time_step))
        stepper = self.model.stepper(parameters, period_s / steps_per_beat)
        numbers = np.arange(1, self.settings.spin_up_beats * steps_per_beat + 1)
        value, rate = self._inflow(numbers / steps_per_beat, period_s, scale, shape)
        ports = stepper.advance(ports, value, rate)
        return FilterState(
            step=0,
            ports=ports,
            log_factors=log_factors,
            shape=shape,
            errors=self._draw([seed, 2], np.ones(REGISTRATION_COLUMNS), np.hstack([log_factors, shape])),
            error_prior=np.ones(REGISTRATION_COLUMNS),
            seed=seed,
        )

    def _draw(self, seed: list[int], deviation: Array, known: Array) -> Array:
        """(members, n) draws with mean 0 and these deviations, uncorrelated with each other and with what is known.

        Args:
            seed: of the draws.
            deviation: (n,).
            known: (members, k) what was drawn before.
        """
        members, wanted = self.settings.members, len(deviation)
        draws = np.random.default_rng(seed).normal(size=(members, wanted))
        draws -= draws.mean(axis=0)
        anomalies = known - known.mean(axis=0) if known.shape[1] else known
        spread = anomalies.std(axis=0)
        anomalies = anomalies[:, spread > 1e-9] / spread[spread > 1e-9]
        # With fewer members than columns chance correlations remain, as in any small ensemble.
        if members > wanted + anomalies.shape[1] + 1 and wanted:
            if anomalies.shape[1]:
                basis = np.linalg.qr(anomalies)[0]
                draws = draws - basis @ (basis.T @ draws)
            factor = np.linalg.cholesky(np.cov(draws.T).reshape(wanted, -1))
            draws = np.linalg.solve(factor, draws.T).T
        drawn: Array = draws * deviation
        return drawn

    def _known(self, state: FilterState) -> Array:
        """(members, k) all that was drawn so far."""
        return np.hstack([state.log_factors, state.shape, state.errors])

    def with_registration(self, state: FilterState, number: int) -> FilterState:
        """The ensemble after the ``number``-th registration of the session, of whose error nothing is known yet."""
        errors = state.errors.copy()
        errors[:, :REGISTRATION_COLUMNS] = 0.0
        known = self._known(replace(state, errors=errors))
        errors[:, :REGISTRATION_COLUMNS] = self._draw([state.seed, 2, number], np.ones(REGISTRATION_COLUMNS), known)
        return replace(state, errors=errors)

    def with_sensor(
        self,
        state: FilterState,
        name: str,
        *,
        port: int | None = None,
        frequency_hz: float | None = None,
        damping: float | None = None,
        zero_deviation_mmhg: float | None = None,
    ) -> FilterState:
        """The ensemble with one more pressure sensor, whose errors are the prior's.

        Args:
            state: the ensemble.
            name: of the sensor; its draws come from the session's seed and this name.
            port: of a fluid-filled line: 0 for the inlet, i for the i-th outlet; None for a sensor at a tool's tip.
            frequency_hz: of the line, where it was measured.
            damping: the same.
            zero_deviation_mmhg: of its bias, where it was zeroed.
        """
        settings = self.settings
        prior = np.zeros(SENSOR_COLUMNS)
        zero = settings.bias_deviation if zero_deviation_mmhg is None else max(zero_deviation_mmhg, LEAST_BIAS_MMHG)
        prior[BIAS], prior[DRIFT] = zero, settings.drift_deviation
        if port is not None:
            prior[FREQUENCY] = UNKNOWN_DEVIATION if frequency_hz is None else MEASURED_DEVIATION
            prior[DAMPING] = UNKNOWN_DEVIATION if damping is None else MEASURED_DEVIATION
        drawn = np.flatnonzero(prior)
        columns = np.zeros((settings.members, SENSOR_COLUMNS))
        columns[:, drawn] = self._draw([state.seed, 3, crc32(name.encode())], prior[drawn], self._known(state))
        if port is not None:
            columns[:, FREQUENCY] += np.log(frequency_hz or USUAL_FREQUENCY_HZ)
            columns[:, DAMPING] += np.log(damping or USUAL_DAMPING)
            columns[:, READING] = self.port_pressure(state.ports, port)
        slot = SensorSlot(name, state.errors.shape[1], port)
        return replace(
            state,
            errors=np.hstack([state.errors, columns]),
            error_prior=np.concatenate([state.error_prior, prior]),
            sensors=(*state.sensors, slot),
        )

    @staticmethod
    def port_pressure(ports: PortState, port: int) -> Array:
        """(members,) mmHg at a port, 0 for the inlet."""
        pressure = ports.inlet_pressure if port == 0 else ports.outlet_pressure[:, port - 1]
        in_mmhg: Array = pressure / PASCAL_PER_MMHG
        return in_mmhg

    def _inflow(self, phase: Array, period_s: float, scale: Array, shape: Array) -> tuple[Array, Array]:
        """(n, members) each member's inflow [m^3/s] and its time derivative at phases (n,) [beats] of a beat."""
        return inflow_of_members(self._planned_inflow, phase, period_s, scale, shape)

    def advance(self, state: FilterState, step: int, beat: Beat, *, stride: int = 1) -> FilterState:
        """Integrate every member to a later time step, the heart beating as ``beat`` says.

        With a ``stride`` several steps are taken as one where that many are left: less exact, and as much cheaper.
        """
        if step <= state.step:
            return state
        parameters = state.beds or self.parameters(state.log_factors)
        scale = self.inflow_factor(state.log_factors)
        ports, number, errors = state.ports, state.step, state.errors
        lines = [slot for slot in state.sensors if slot.port is not None]
        for length in sorted({stride, 1}, reverse=True):
            if number + length > step:
                continue
            numbers = range(number + length, step + 1, length)
            phase = np.array([beat.phase(one * self.step_ns) for one in numbers])
            value, rate = self._inflow(phase, beat.period_ns * 1e-9, scale, state.shape)
            seconds = length * self.settings.time_step
            stepper = self.model.stepper(parameters, seconds)
            if lines:
                passed = [ports, *stepper.states(ports, value, rate)]
                ports = passed[-1]
                errors = self._through_lines(errors, lines, passed, seconds)
            else:
                ports = stepper.advance(ports, value, rate)
            number = numbers[-1]
        state = replace(state, step=step, ports=ports, errors=errors, beds=parameters)
        if step - state.remembered < FORGETTING_STEPS:
            return state
        elapsed = min(step - state.remembered, LONGEST_FORGETTING_STEPS) * self.settings.time_step
        return self._forget(replace(state, remembered=step), elapsed)

    def _through_lines(self, errors: Array, lines: list[SensorSlot], passed: list[PortState], step_s: float) -> Array:
        """The errors with the fluid-filled lines' states brought to the last of some states, a step apart."""
        errors = errors.copy()
        for slot in lines:
            columns = errors[:, slot.begin : slot.begin + SENSOR_COLUMNS]
            step = LineStep.of(
                np.exp(np.clip(columns[:, FREQUENCY], *_FREQUENCY_LIMITS)),
                np.exp(np.clip(columns[:, DAMPING], *_DAMPING_LIMITS)),
                step_s,
            )
            pressure = np.array([self.port_pressure(ports, slot.port or 0) for ports in passed])
            columns[:, READING : SLOPE + 1] = step.through(columns[:, READING : SLOPE + 1], pressure, step_s)
        return errors

    def _forget(self, state: FilterState, elapsed_s: float) -> FilterState:
        """Let the parameters' spread grow towards the prior's; correlations are kept. Sensors drift on."""
        slow = elapsed_s / self.settings.error_forgetting_time
        errors = _grown(state.errors, state.error_prior, slow)
        for slot in state.sensors:
            errors[:, slot.begin + BIAS] += errors[:, slot.begin + DRIFT] * (elapsed_s / 3600.0)
        fast = elapsed_s / self.settings.forgetting_time
        return replace(
            state,
            log_factors=_grown(state.log_factors, self.prior_deviation, fast),
            shape=_grown(state.shape, self.shape_deviation, fast),
            errors=errors,
            beds=None,
        )

    def displaced(self, state: FilterState) -> FilterState:
        """The ensemble after the patient may have moved: the registration's error is some times what it was."""
        errors = state.errors.copy()
        wide = np.full(REGISTRATION_COLUMNS, DISPLACED)
        errors[:, :REGISTRATION_COLUMNS] = _grown(errors[:, :REGISTRATION_COLUMNS], wide, np.inf)
        return replace(state, errors=errors)

    def with_errors_of(self, state: FilterState, before: FilterState) -> FilterState:
        """The ensemble with what an earlier one knew of the sensors' and the registration's errors.

        What a line's fluid does at present stays. Where a sensor or a registration came in between, nothing is changed.
        """
        if before.sensors != state.sensors or before.errors.shape != state.errors.shape:
            return state
        kept = np.ones(state.errors.shape[1], dtype=bool)
        for slot in state.sensors:
            kept[slot.begin + READING : slot.begin + SENSOR_COLUMNS] = False
        return replace(state, errors=np.where(kept, before.errors, state.errors))

    def reopened(
        self,
        state: FilterState,
        *,
        parameters: float = 1.0,
        resistances: float | None = None,
        sensor: str | None = None,
    ) -> FilterState:
        """The ensemble less certain of itself: what recovers it after a fault.

        Args:
            state: the ensemble.
            parameters: the parameters' spread becomes at least this many times the prior's, unless a sensor is named.
            resistances: the same for the outlets' resistances, where another.
            sensor: whose bias becomes `REOPENED_BIAS_MMHG` uncertain.
        """
        if sensor is not None:
            slot = state.slot(sensor)
            if slot is None:
                return state
            errors = state.errors.copy()
            bias = errors[:, slot.begin + BIAS]
            errors[:, slot.begin + BIAS] = bias.mean()
            known = self._known(replace(state, errors=errors))
            generation = [state.seed, 4, crc32(sensor.encode()), state.step % 2**31]
            fresh = self._draw(generation, np.array([REOPENED_BIAS_MMHG]), known)[:, 0]
            errors[:, slot.begin + BIAS] = bias.mean() + fresh
            return replace(state, errors=errors)
        # Beds and heart change; the vessel's geometry, which the last factor stands for, does not.
        wide = parameters * self.prior_deviation
        wide[: self.outlet_count] *= 1.0 if resistances is None else resistances / parameters
        wide[-1] = 0.0
        return replace(state, log_factors=_grown(state.log_factors, wide, np.inf), beds=None)

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
        joint = transform_analysis(_joined(state), predicted[:, None], np.array([observed]), np.array([variance]))
        return self._parted(state, joint, beat)

    def assimilate_missing(
        self, state: FilterState, predicted: Array, variance: float, missingness: Missingness, beat: Beat
    ) -> FilterState:
        """Condition the ensemble on an observation that did not come, where that depends on what it would have been.

        Args:
            state: the ensemble at the observation's time.
            predicted: (members,) each member's prediction.
            variance: error variance as evidence of the value that it would have had.
            missingness: what its sensor loses.
            beat: the present beat.
        """
        return self._parted(state, missing_analysis(_joined(state), predicted, variance, missingness), beat)

    def _parted(self, state: FilterState, joint: Array, beat: Beat) -> FilterState:
        """The ensemble that consists of conditioned columns, with flows that add up to the inflow."""
        ends = np.cumsum([part.shape[1] for part in _parts(state)])
        flow, capacitor_pressure, log_factors, shape, errors = np.split(joint, ends[:-1], axis=1)
        log_factors = np.clip(log_factors, -LARGEST_LOG_FACTOR, LARGEST_LOG_FACTOR)
        shape = np.clip(shape, -LARGEST_SHAPE, LARGEST_SHAPE)
        phase = np.array([beat.phase(state.step * self.step_ns)])
        value, rate = self._inflow(phase, beat.period_ns * 1e-9, self.inflow_factor(log_factors), shape)
        # The analysis is linear and the inflow factor is not: hand the difference to the outlets in equal parts of
        # their inertial share, so that each member's flows add up to its inflow again.
        missing = value[0] - flow.sum(axis=1)
        flow = flow + missing[:, None] * self.model.inertial_share
        parameters = self.parameters(log_factors)
        # What the fluid remembers moves with the flow: an analysis corrects the past as well.
        lagged = state.ports.lagged_flow + (flow - state.ports.flow)[:, None]
        ports = self.model.complete(flow, capacitor_pressure, rate[0], parameters, lagged)
        return replace(state, ports=ports, log_factors=log_factors, shape=shape, errors=errors, beds=parameters)


REOPENED_BIAS_MMHG = 15.0
"""Spread of a sensor's bias after it was seen to have moved: 20 cm of blood."""

DISPLACED = 4.0
"""Standard deviations of the registration's error after a push, in those of a sound one."""

LEAST_BIAS_MMHG = 0.05
"""No transducer is zeroed better."""

_FREQUENCY_LIMITS = (np.log(2.0), np.log(80.0))
_DAMPING_LIMITS = (np.log(0.05), np.log(5.0))


def _parts(state: FilterState) -> tuple[Array, ...]:
    """All columns that an observation conditions."""
    return state.ports.flow, state.ports.capacitor_pressure, state.log_factors, state.shape, state.errors


def _joined(state: FilterState) -> Array:
    return np.hstack(_parts(state))


def _grown(members: Array, prior: Array, times: float) -> Array:
    """Members (m, n) whose spread has grown by e^``times``, up to the prior's (n,) deviations; never smaller."""
    mean = members.mean(axis=0)
    anomalies = members - mean
    spread = np.sqrt((anomalies**2).sum(axis=0) / (len(members) - 1))
    room = prior / np.maximum(spread, 1e-12)
    growth = np.clip(room, 1.0, np.exp(min(times, 50.0)))
    grown: Array = mean + anomalies * growth
    return grown
