"""What a sensor plan can tell of the patient: Fisher information, what cannot be told apart, and what would tell it.

With J the sensitivities of the sensors' mean beat to the parameters' coordinates (`flow_prior`) and Sigma the
covariance of everything else (noise, bias, gain, the model's own error: `calibration.error_covariance`), the
information of the plan is

    I = J' Sigma^(-1) J,

the inverse of the Cramér-Rao bound; with the plan's prior P it is I + P^(-1). Each parameter's expected deviation
after the measurement is compared with that before. The combinations that stay unknown are the eigenvectors of
P^(1/2)' I P^(1/2): what the sensors say of a direction, over what was known of it. An eigenvalue below one means that
the data tell less than the plan did.

What would help best is found by trying: each further place for the catheter and each manoeuvre (an outlet clamped for
some beats, a faster or slower heart) adds its own information, and is ranked by how much it narrows the parameters
asked for or, where none is, all of them together (the drop in the posterior's log-determinant, D-optimality).

The profile likelihood of a parameter (Raue et al., Bioinformatics 25 (2009) 1923-1929) is found on the nonlinear model:
the data are what the plan predicts, the parameter is held at each of a row of values, and all others are fitted anew.
Where the curve stays flat, no number of beats will find the parameter.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from surgical_twin.assimilation.beat_model import BeatModel, Manoeuvre, Sensor
from surgical_twin.assimilation.calibration import (
    LEAST_DISCREPANCY_MMHG,
    LEAST_DISCREPANCY_SHARE,
    SensorErrors,
    error_covariance,
)
from surgical_twin.assimilation.flow_prior import FlowPrior
from surgical_twin.assimilation.history import MeanBeat, Signal
from surgical_twin.errors import InputError
from surgical_twin.flow.port_state import PortState
from surgical_twin.units import PASCAL_PER_MMHG

Array = NDArray[np.float64]

STEP = 0.02
"""Of each coordinate, for its central difference; shapes take a tenth."""

UNSEEN = 0.85
"""A combination whose deviation the plan leaves above this share of what it was is called unseen."""

CLEAR = 0.45
"""A parameter is named in a combination if its weight is above this share of the largest."""

HIDING = 0.15
"""Smaller weights play no part."""

CHI_SQUARE_95 = 3.841


@dataclass(frozen=True)
class SensorNoise:
    """What a sample is off by, and how many beats are averaged."""

    pressure_mmhg: float = 2.0
    flow_share: float = 0.05
    """of a flow's root mean square"""
    samples_per_beat: float = 200.0
    beats: int = 20


@dataclass(frozen=True)
class Information:
    """What a plan tells."""

    names: tuple[str, ...]
    fisher: Array
    """(k, k) of the data alone, in the parameters' coordinates"""
    prior: FlowPrior

    @property
    def posterior_covariance(self) -> Array:
        """(k, k)"""
        root = self.prior.root
        inner = np.eye(len(root)) + root.T @ self.fisher @ root
        return np.asarray(root @ np.linalg.solve(inner, root.T))

    @property
    def deviation(self) -> Array:
        """(k,) of each parameter after the measurement."""
        return np.asarray(np.sqrt(np.diag(self.posterior_covariance)))

    @property
    def gain(self) -> float:
        """Nats that the data tell of all parameters: half the drop in the log-determinant."""
        root = self.prior.root
        return 0.5 * float(np.linalg.slogdet(np.eye(len(root)) + root.T @ self.fisher @ root)[1])

    def alone(self, number: int) -> float:
        """Cramér-Rao bound of one parameter's deviation were all others known; infinite where it is not seen."""
        own = float(self.fisher[number, number])
        return float(1.0 / np.sqrt(own)) if own > 0.0 else float("inf")

    @cached_property
    def _seen(self) -> Array:
        """(k, k) the data's information in units of the prior's, in the directions of its root."""
        root = self.prior.root
        return np.asarray(root.T @ self.fisher @ root)

    def left(self, vector: Array) -> float:
        """Deviation of a combination after the measurement over that before.

        Args:
            vector: (k,) of length one, in the directions of the prior's root.
        """
        return float(np.sqrt(vector @ np.linalg.solve(np.eye(len(vector)) + self._seen, vector)))

    def directions(self) -> list[Direction]:
        """Combinations of parameters from the least to the best seen.

        Among those that are unseen any mixture is as unseen: they are turned to the simplest ones (varimax).
        """
        values, vectors = np.linalg.eigh(self._seen)
        unseen = 1.0 / np.sqrt(1.0 + np.maximum(values, 0.0)) > UNSEEN
        basis = vectors.copy()
        if unseen.sum() > 1:
            weights = self.prior.root @ vectors[:, unseen] / self.prior.deviation[:, None]
            basis[:, unseen] = vectors[:, unseen] @ varimax(weights)
        found = []
        for vector in basis.T:
            weights = self.prior.root @ vector / self.prior.deviation  # in prior deviations: comparable
            found.append(Direction(self.left(vector), weights / np.linalg.norm(weights), vector, self.names))
        return sorted(found, key=lambda one: -one.kept)


@dataclass(frozen=True)
class Direction:
    """One combination of parameters."""

    kept: float
    """its deviation after the measurement over that before: 1 where the sensors say nothing of it"""
    weights: Array
    """(k,) in prior deviations, of length one"""
    vector: Array
    """(k,) the same in the directions of the prior's root"""
    names: tuple[str, ...]

    @property
    def words(self) -> str:
        """The parameters that make it, the largest first: those with a plus rise while those with a minus fall."""
        order = np.argsort(-np.abs(self.weights))
        size = np.abs(self.weights[order])
        chosen = order[(size > CLEAR * size[0]) & (np.arange(len(order)) < 4)]
        sign = np.sign(self.weights[chosen[0]])
        parts = [("+" if sign * self.weights[k] > 0 else "-") + self.names[k] for k in chosen]
        return ", ".join(parts)

    def _short(self, number: int) -> str:
        name = self.names[number]
        return "the inflow's shape" if name.startswith("inflow shape") else name

    @property
    def sentence(self) -> str:
        """What it means."""
        order = np.argsort(-np.abs(self.weights))
        size = np.abs(self.weights[order])
        chosen = order[(size > CLEAR * size[0]) & (np.arange(len(order)) < 4)]
        if len(chosen) == 1:
            behind = list(dict.fromkeys(self._short(k) for k in order[1:4][size[1:4] > HIDING]))
            behind = [one for one in behind if one != self._short(chosen[0])]
            if not behind:
                return f"{self.names[chosen[0]]} is not seen by these sensors."
            return f"{self.names[chosen[0]]} hides behind small changes of {_listed(behind)}."
        sign = np.sign(self.weights[chosen[0]])
        same = [self._short(k) for k in chosen if sign * self.weights[k] > 0]
        # The shape's coefficients have no up and down of their own.
        same = list(dict.fromkeys(same))
        other = [self._short(k) for k in chosen if sign * self.weights[k] < 0]
        other = [one for one in dict.fromkeys(other) if one not in same]
        if not other:
            together = " rising together" if len(same) > 1 else ""
            return f"{_listed(same)}{together} is not seen by these sensors."
        return f"{_listed(same)} up with {_listed(other)} down looks the same to these sensors."


def varimax(loadings: Array) -> Array:
    """(r, r) the rotation that makes columns of loadings (k, r) as simple as can be (Kaiser 1958)."""
    columns = loadings.shape[1]
    turned = np.eye(columns)
    last = 0.0
    for _ in range(200):
        now = loadings @ turned
        left, size, right = np.linalg.svd(loadings.T @ (now**3 - now * (now**2).mean(axis=0)))
        turned = left @ right
        if size.sum() < last * (1.0 + 1e-9):
            break
        last = float(size.sum())
    return np.asarray(turned)


def best_for(direction: Direction, advice: Sequence[Advice]) -> tuple[Advice, float] | None:
    """What would tell a combination best, and the share of its deviation that is then left."""
    lefts = [(one.told.left(direction.vector), number) for number, one in enumerate(advice)]
    if not lefts:
        return None
    share, number = min(lefts)
    return advice[number], share


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else ", ".join(names[:-1]) + " and " + names[-1]


@dataclass(frozen=True)
class Advice:
    """One thing that could be done besides, and what it would tell."""

    what: str
    kind: str
    """``position`` or ``manoeuvre``"""
    gain: float
    """nats more than the plan"""
    told: Information
    """with it"""

    @property
    def deviation(self) -> Array:
        """(k,) of each parameter with it."""
        return self.told.deviation


@dataclass(frozen=True)
class Profile:
    """Profile likelihood of one parameter."""

    name: str
    values: Array
    """(n,) factors on the plan (or shares of the mean flow)"""
    rise: Array
    """(n,) of -2 log likelihood over its least, all other parameters fitted anew; sensors only, no prior of this one"""
    interval: tuple[float, float]
    """where the rise is below 3.84; infinite where it stays below to the row's end"""


@dataclass(frozen=True)
class Study:
    """Asks a case's reduced model; one per case and heart period."""

    model: BeatModel
    prior: FlowPrior
    noise: SensorNoise = SensorNoise()
    errors: SensorErrors = SensorErrors()
    _beats: dict[Manoeuvre, list[PortState]] = field(default_factory=dict, repr=False, compare=False)

    def sensitivities(self, sensors: Sequence[Sensor], manoeuvre: Manoeuvre | None = None) -> tuple[Array, Array]:
        """(sensors, phases) what is expected, and (sensors, phases, k) its derivatives by the coordinates."""
        states, steps = self._states(manoeuvre)
        seen = self.model.seen(states, sensors)
        k = len(steps)
        slopes = (seen[1 : k + 1] - seen[k + 1 :]) / (2.0 * steps[:, None, None])
        return seen[0], np.moveaxis(slopes, 0, -1)

    def _states(self, manoeuvre: Manoeuvre | None) -> tuple[list[PortState], Array]:
        done = manoeuvre or Manoeuvre()
        k = len(self.prior.mean)
        steps = np.where(np.arange(k) < self.prior.factors, STEP, 0.1 * STEP)
        if done not in self._beats:  # the beats are the same for all sensors
            columns = np.vstack([self.prior.mean, self.prior.mean + np.diag(steps), self.prior.mean - np.diag(steps)])
            self._beats[done] = self.model.states(columns, done)
        return self._beats[done], steps

    def covariance(self, sensors: Sequence[Sensor], expected: Array) -> Array:
        """(p, p) of the mean beats of sensors that are expected to see (sensors, phases)."""
        beats, sizes = [], []
        per_phase = self.noise.samples_per_beat * self.noise.beats / expected.shape[1]
        for sensor, values in zip(sensors, expected, strict=True):
            size = float(np.sqrt((values**2).mean()))
            single = self.noise.pressure_mmhg if sensor.quantity == "pressure" else self.noise.flow_share * size
            signal = Signal(sensor.quantity, sensor.where, np.zeros(0), np.zeros(0))
            beats.append(MeanBeat(signal, values, 0.0, single**2 / max(per_phase, 1.0), self.noise.beats, 0))
            sizes.append(self._model_error(sensor, values, size))
        return error_covariance(sensors, beats, sizes, self.errors, expected)

    def _model_error(self, sensor: Sensor, values: Array, size: float) -> float:
        reduced = self.model.model.reduced
        if sensor.quantity == "flow":
            own = float(reduced.port_flow_error[sensor.port - 1]) * 1e6 if sensor.port else 0.0
            return float(np.hypot(own, LEAST_DISCREPANCY_SHARE * size))
        if sensor.place is not None:
            own = float(sensor.place.error_mmhg[0])
        else:
            own = float(reduced.port_pressure_error[sensor.port or 0]) / PASCAL_PER_MMHG
        inlet, _ = self.sensitivities([Sensor("pressure", "inlet", port=0)])
        drop = self.model.model.settings.drop_uncertainty * float(np.abs(values - inlet[0]).max())
        return float(np.sqrt(own**2 + drop**2 + LEAST_DISCREPANCY_MMHG**2))

    def information(self, sensors: Sequence[Sensor], manoeuvres: Sequence[Manoeuvre] = ()) -> Information:
        """Of sensors at rest and through manoeuvres.

        A sensor's bias and gain stay the same through a manoeuvre, so that the difference between two states is free of
        them; the model's error is made in each state anew.
        """
        states = [Manoeuvre(), *manoeuvres]
        expected, slopes = zip(*(self.sensitivities(sensors, one) for one in states), strict=True)
        blocks = [self.covariance(sensors, one) for one in expected]
        p = len(blocks[0])
        total = np.zeros((p * len(states), p * len(states)))
        for a, first in enumerate(expected):
            for b, second in enumerate(expected):
                part = blocks[a] if a == b else self._common(sensors, first, second)
                total[a * p : (a + 1) * p, b * p : (b + 1) * p] = part
        jacobian = np.concatenate([one.reshape(p, -1) for one in slopes])
        whitened = np.linalg.solve(np.linalg.cholesky(total), jacobian)
        return Information(self.prior.names, whitened.T @ whitened, self.prior)

    def _common(self, sensors: Sequence[Sensor], first: Array, second: Array) -> Array:
        """(p, p) of the errors that two states share: bias and gain."""
        phases = first.shape[1]
        total = np.zeros((len(sensors) * phases,) * 2)
        for number, sensor in enumerate(sensors):
            part = slice(number * phases, (number + 1) * phases)
            if sensor.quantity == "pressure":
                total[part, part] = self.errors.pressure_bias_mmhg**2
            else:
                total[part, part] = self.errors.flow_gain**2 * np.outer(first[number], second[number])
        return total

    def advise(
        self,
        sensors: Sequence[Sensor],
        positions: Sequence[Sensor],
        manoeuvres: Sequence[Manoeuvre],
        watch: Callable[[float], None] | None = None,
    ) -> list[Advice]:
        """What each further position and each manoeuvre would tell, best first."""
        base = self.information(sensors)
        found = []
        count = len(positions) + len(manoeuvres)
        for number, sensor in enumerate(positions):
            told = self.information([*sensors, sensor])
            found.append(Advice(sensor.label, "position", told.gain - base.gain, told))
            if watch is not None:
                watch((number + 1) / count)
        for number, one in enumerate(manoeuvres):
            told = self.information(sensors, [one])
            found.append(Advice(one.name, "manoeuvre", told.gain - base.gain, told))
            if watch is not None:
                watch((len(positions) + number + 1) / count)
        return sorted(found, key=lambda one: -one.gain)

    def profile(self, sensors: Sequence[Sensor], name: str, points: int = 15) -> Profile:
        """Profile likelihood of a parameter, on the nonlinear model.

        Raises:
            InputError: there is no such parameter.
        """
        if name not in self.prior.names:
            raise InputError(f'There is no parameter "{name}"; there are {", ".join(self.prior.names)}.')
        at = self.prior.names.index(name)
        data, _ = self.sensitivities(sensors)
        covariance = self.covariance(sensors, data)
        inverse = np.linalg.inv(np.linalg.cholesky(covariance))
        reach = 3.0 * float(self.prior.deviation[at])
        offsets = np.linspace(-reach, reach, points)
        k, p = len(self.prior.mean), data.size
        others = np.array([number for number in range(k) if number != at])
        # All points of the row at once: (points, k) columns, each with its own Gauss-Newton steps.
        columns = np.tile(self.prior.mean, (points, 1))
        columns[:, at] += offsets
        tight = np.linalg.inv(np.linalg.cholesky(self.prior.covariance[np.ix_(others, others)]))
        steps = np.where(np.arange(k) < self.prior.factors, STEP, 0.1 * STEP)

        def cost(values: Array, seen: Array) -> Array:
            off = (seen.reshape(points, p) - data.ravel()) @ inverse.T
            pull = (values[:, others] - self.prior.mean[others]) @ tight.T
            return np.asarray((off**2).sum(axis=1) + (pull**2).sum(axis=1))

        damping = np.full(points, 1e-3)
        seen = self.model.predict(columns, sensors)
        least = cost(columns, seen)
        for _ in range(12):
            moved = np.repeat(columns[:, None], len(others), axis=1)
            moved[:, np.arange(len(others)), others] += steps[others]
            slopes = self.model.predict(moved.reshape(-1, k), sensors).reshape(points, len(others), p)
            slopes = (slopes - seen.reshape(points, 1, p)) / steps[others][:, None]
            tried = columns.copy()
            for row in range(points):
                jacobian = inverse @ slopes[row].T
                off = inverse @ (seen[row].ravel() - data.ravel())
                pull = tight @ (columns[row, others] - self.prior.mean[others])
                hessian = jacobian.T @ jacobian + tight.T @ tight
                hessian += damping[row] * np.diag(np.diag(hessian))
                tried[row, others] -= np.linalg.solve(hessian, jacobian.T @ off + tight.T @ pull)
            tried = np.clip(tried, -2.5, 2.5)
            now = self.model.predict(tried, sensors)
            costs = cost(tried, now)
            better = costs < least
            fall = np.where(better, least - costs, 0.0)
            columns[better], seen[better], least[better] = tried[better], now[better], costs[better]
            damping = np.where(better, damping * 0.3, damping * 10.0)
            if float(fall.max()) < 1e-3:
                break
        rise = least - least.min()
        values = self.prior.mean[at] + offsets
        inside = np.flatnonzero(rise <= CHI_SQUARE_95)
        ends = (_crossing(values, rise, inside[0], -1), _crossing(values, rise, inside[-1], 1))
        if at < self.prior.factors:
            values, ends = np.exp(values), (float(np.exp(ends[0])), float(np.exp(ends[1])))
        return Profile(name, values, rise, ends)


def _crossing(values: Array, rise: Array, last: int, side: int) -> float:
    """Where a row of rises crosses the 95 % limit beyond its last point inside."""
    beyond = last + side
    if not 0 <= beyond < len(values):
        return side * float("inf")
    share = (CHI_SQUARE_95 - rise[last]) / (rise[beyond] - rise[last])
    return float(values[last] + share * (values[beyond] - values[last]))
