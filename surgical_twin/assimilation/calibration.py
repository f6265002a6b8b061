"""Parameters from a recorded history: the prior that the live filter starts from.

The history's mean beat (`history`) is what the reduced model's periodic answer (`beat_model`) has to explain:

    y(phase) = h(parameters, phase + lag) + bias + gain error + discrepancy(phase) + scatter of the mean beat.

After Kennedy & O'Hagan (J. R. Statist. Soc. B 63 (2001) 425-464) the discrepancy is a process of its own, periodic over
the beat, and does not shrink with the number of beats: a model error comes again with every beat. Its size is what the
case says of its reduced model at that place, a share of the pressure drop and what the recording itself shows beyond
that (by maximum likelihood). A transducer's bias and a flow probe's gain count likewise. All of these are
integrated out: they stand in the error's covariance. The lag of the beat's begin is estimated with the parameters,
because upstrokes, and R-waves too, are not exactly the plan's phase 0.

The parameters are found by the iterative ensemble smoother (`smoother`), from the plan's prior.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from surgical_twin import __version__
from surgical_twin.assimilation.beat_model import BeatModel, Sensor
from surgical_twin.assimilation.ensemble_filter import Ensemble
from surgical_twin.assimilation.flow_prior import CALIBRATION, FORMAT, FlowPrior, plan_identity
from surgical_twin.assimilation.history import History, MeanBeat, beat_starts, mean_beat
from surgical_twin.assimilation.smoother import iterative_smoother, mixture_moments, modes
from surgical_twin.case import Case, file_hash, write_atomically
from surgical_twin.errors import InputError
from surgical_twin.units import PASCAL_PER_MMHG

Array = NDArray[np.float64]

SIGMAS = 1.959963984540054

DISCREPANCY_LENGTH = 0.05
"""Of a beat: over this the model's error keeps its sign."""

STARTS = 4
"""Further beginnings of the fit, in search of other answers."""

ROUNDS = 3
"""Fits, each with the model error and the flows that the last one showed."""

COMMON_SHARE = 0.9
"""Of the smaller one of two pressure sensors' model errors, as variance: what is wrong with the beds and the inflow is
wrong at all places, and only what is wrong with the tree between them is not."""

LEAST_DISCREPANCY_MMHG = 0.5
LEAST_DISCREPANCY_SHARE = 0.03
"""Of a flow's root mean square: no model is better."""

KNOWN_LAG, UNKNOWN_LAG = 0.02, 0.04
"""Standard deviation of the beat's begin in beats, with R-waves and with upstrokes (after these were aligned)."""


@dataclass(frozen=True)
class SensorErrors:
    """What is not known of the sensors; standard deviations."""

    pressure_bias_mmhg: float = 3.0
    flow_gain: float = 0.05


@dataclass(frozen=True)
class FittedSensor:
    """How a sensor's mean beat is explained."""

    sensor: Sensor
    beat: MeanBeat
    predicted: Array
    """(phases,) by the posterior's mean"""
    lower: Array
    upper: Array
    """(phases,) 95 % of what the posterior and the errors allow"""
    before: Array
    """(phases,) by the plan"""
    discrepancy: float
    """standard deviation of the model's error, in the sensor's unit"""
    residual: float
    """root mean square of what is not explained"""


@dataclass(frozen=True)
class Calibration:
    """The posterior."""

    prior: FlowPrior
    posterior: FlowPrior
    period_s: float
    lag: float
    """beats by which the recording's beats begin after the plan's phase 0"""
    sensors: tuple[FittedSensor, ...]
    iterations: int
    converged: bool
    misfit: float
    """normalized square of the residuals over their number: about 1 or less where the errors are what they should be"""
    notes: tuple[str, ...]


def calibrate(
    model: BeatModel,
    prior: FlowPrior,
    history: History,
    sensors: Sequence[Sensor],
    *,
    errors: SensorErrors | None = None,
    seed: int = 0,
    watch: Callable[[float], None] | None = None,
) -> Calibration:
    """Fit a history.

    Args:
        model: of the case; its period is replaced by the history's.
        prior: before the history.
        history: what was recorded.
        sensors: where each of its signals was measured, in their order.
        errors: of the sensors.
        seed: of the ensemble's draws.
        watch: called with the share that is done.

    Raises:
        InputError: the history has no three whole beats.
    """
    allowed = errors or SensorErrors()
    starts = beat_starts(history)
    lengths = np.diff(starts)
    period = float(np.median(lengths))
    model = replace(model, period_s=period)
    beats = [mean_beat(signal, starts, model.phases) for signal in history.signals]
    notes = [
        f"{beat.left_out} of {beat.left_out + beat.beats} beats of the {beat.signal.quantity} at {beat.signal.place} "
        "are unlike the others or have gaps, and were left out."
        for beat in beats
        if beat.left_out
    ]
    observed = np.concatenate([beat.values for beat in beats])
    plan = model.predict(prior.mean[None], sensors)[0]
    known = history.r_waves_s is not None
    begin = 0.0 if known else _alignment(plan[0], beats[0].values)
    deviation = KNOWN_LAG if known else UNKNOWN_LAG
    k = len(prior.mean)
    members = max(64, 3 * (k + 1))
    draws = Ensemble.drawn(0.0, np.zeros(k + 1), np.ones(k + 1), members, seed).members
    joint = np.hstack([prior.mean + draws[:, :k] @ prior.root.T, begin + deviation * draws[:, k:]])

    def predict(columns: Array) -> Array:
        seen = model.predict(np.clip(columns[:, :k], -2.5, 2.5), sensors)
        return shifted(seen, columns[:, k]).reshape(len(columns), -1)

    states = model.states(prior.mean[None])
    sizes = [_discrepancy(model, sensor, beat, states) for sensor, beat in zip(sensors, beats, strict=True)]
    expected = plan
    for number in range(ROUNDS):
        covariance = error_covariance(sensors, beats, sizes, allowed, expected)
        told = None if watch is None else partial(_part, watch, 0.5 * number / ROUNDS, 0.5 / ROUNDS)
        found = iterative_smoother(joint, predict, observed, covariance, most_iterations=16, tolerance=0.06, watch=told)
        residual = observed - found.predicted.mean(axis=0)
        expected = found.predicted.mean(axis=0).reshape(expected.shape)
        shares = _shown_discrepancy(residual, found.predicted, sensors, beats, sizes, allowed, expected)
        if number > 0 and max(shares) < 1.1:
            break
        if number < ROUNDS - 1:
            sizes = [size * share for size, share in zip(sizes, shares, strict=True)]
    # A history may be explained in more than one way: the same fit from other beginnings.
    answers = [found]
    for number in range(STARTS):
        answers.append(
            iterative_smoother(
                joint, predict, observed, covariance, most_iterations=16, tolerance=0.06, start=number * 7 % members
            )
        )
        if watch is not None:
            watch(0.5 + 0.5 * (number + 1) / STARTS)
    ways = modes([one for one in answers if one.converged] or [found])
    found = ways[0][1]
    mean, joint_covariance = mixture_moments(ways)
    if len(ways) > 1:
        weights = ", ".join(f"{100 * weight:.0f} %" for weight, _ in ways)
        notes.append(
            f"{len(ways)} different sets of parameters explain the history (weights {weights}); the intervals span "
            "all. surgical-twin identify says what would tell them apart."
        )
    residual = observed - found.predicted.mean(axis=0)
    spread = np.cov(found.predicted.T) + covariance
    band = SIGMAS * np.sqrt(np.diag(spread))
    if not found.converged:
        notes.append("The fit has not settled; its intervals may be too narrow.")
    posterior = FlowPrior(prior.outlets, mean[:k], joint_covariance[:k, :k])
    far = np.abs(posterior.mean - prior.mean) / prior.deviation
    notes += [
        f"{name} moved by {value:.1f} of the plan's standard deviations: the plan or the recording is doubtful."
        for name, value in zip(prior.names, far, strict=True)
        if value > 3.0
    ]
    before = shifted(plan[None], np.array([begin]))[0]
    fitted = []
    for number, (sensor, beat) in enumerate(zip(sensors, beats, strict=True)):
        part = slice(number * model.phases, (number + 1) * model.phases)
        middle = found.predicted.mean(axis=0)[part]
        fitted.append(
            FittedSensor(
                sensor, beat, middle, middle - band[part], middle + band[part], before[number], sizes[number],
                float(np.sqrt((residual[part] ** 2).mean())),
            )
        )  # fmt: skip
        if sizes[number] > 3.0 * _discrepancy(model, sensor, beat, states):
            notes.append(
                f"The model misses the {sensor.label} by far more than its stated error; the intervals are widened for "
                "it. Check where the sensor is, and its zero."
            )
    return Calibration(
        prior=prior,
        posterior=posterior,
        period_s=period,
        lag=float(found.members[:, k].mean()),
        sensors=tuple(fitted),
        iterations=found.iterations,
        converged=found.converged,
        misfit=float(residual @ np.linalg.solve(covariance, residual)) / len(residual),
        notes=tuple(notes),
    )


def _part(watch: Callable[[float], None], begin: float, length: float, share: float) -> None:
    watch(begin + length * share)


def shifted(values: Array, lag: Array) -> Array:
    """Periodic values (m, sensors, phases) as they are ``lag`` (m,) beats later, by their Fourier series."""
    phases = values.shape[-1]
    order = np.arange(phases // 2 + 1)
    turn = np.exp(2j * np.pi * np.outer(lag, order))
    if phases % 2 == 0:
        turn[:, -1] = np.cos(np.pi * lag * phases)
    return np.asarray(np.fft.irfft(np.fft.rfft(values, axis=-1) * turn[:, None], phases, axis=-1))


def _alignment(plan: Array, seen: Array) -> float:
    """Beats by which a recorded beat begins after the plan's, by their likeness."""
    lags = np.arange(0, 200) / 200.0
    moved = shifted(np.repeat(plan[None, None], len(lags), axis=0), lags)[:, 0]
    like = [float(np.corrcoef(one, seen)[0, 1]) for one in moved]
    return float(lags[int(np.argmax(like))])


def _discrepancy(model: BeatModel, sensor: Sensor, beat: MeanBeat, states: Sequence[Any]) -> float:
    """Standard deviation of the model's error at a sensor as the case states it."""
    settings = model.model.settings
    if sensor.quantity == "flow":
        own = float(model.model.reduced.port_flow_error[sensor.port - 1]) * 1e6 if sensor.port else 0.0
        return float(np.hypot(own, LEAST_DISCREPANCY_SHARE * np.sqrt((beat.values**2).mean())))
    if sensor.place is not None:
        own = float(sensor.place.error_mmhg[0])
    else:
        own = float(model.model.reduced.port_pressure_error[sensor.port or 0]) / PASCAL_PER_MMHG
    drop = settings.drop_uncertainty * float(np.abs(model.drop(states, sensor)).max())
    return float(np.sqrt(own**2 + drop**2 + LEAST_DISCREPANCY_MMHG**2))


def phase_correlation(phases: int, length: float = DISCREPANCY_LENGTH) -> Array:
    """(phases, phases) of a process that is periodic over the beat (MacKay 1998), of a length in beats."""
    apart = np.subtract.outer(np.arange(phases), np.arange(phases)) / phases
    return np.asarray(np.exp(-2.0 * (np.sin(np.pi * apart) / (2.0 * np.pi * length)) ** 2))


def error_covariance(
    sensors: Sequence[Sensor],
    beats: Sequence[MeanBeat],
    sizes: Sequence[float],
    errors: SensorErrors,
    expected: Sequence[Array] | Array,
) -> Array:
    """(p, p) of everything that keeps the mean beats from the model's.

    A flow probe's gain error is taken of what the model expects (sensors, phases). Taken of what was measured it would
    favor small flows (Peelle's pertinent puzzle; D'Agostini, Nucl. Instrum. Meth. A 346 (1994) 306-311).
    """
    phases = [len(beat.values) for beat in beats]
    ends = np.cumsum([0, *phases])
    total = np.zeros((ends[-1], ends[-1]))
    for i, (sensor, beat, size, through) in enumerate(zip(sensors, beats, sizes, expected, strict=True)):
        own = slice(ends[i], ends[i + 1])
        block = size**2 * phase_correlation(phases[i]) + float(beat.level_variance)
        block += np.eye(phases[i]) * (beat.shape_variance + 1e-4 * size**2)
        if sensor.quantity == "pressure":
            block += errors.pressure_bias_mmhg**2
        else:
            block += errors.flow_gain**2 * np.outer(through, through)
        total[own, own] = block
        for j in range(i):
            if sensor.quantity == sensors[j].quantity == "pressure":
                shared = COMMON_SHARE * min(size, sizes[j]) ** 2 * phase_correlation(phases[i])
                other = slice(ends[j], ends[j + 1])
                total[own, other], total[other, own] = shared, shared.T
    return total


def _shown_discrepancy(
    residual: Array,
    predicted: Array,
    sensors: Sequence[Sensor],
    beats: Sequence[MeanBeat],
    sizes: Sequence[float],
    errors: SensorErrors,
    expected: Array,
) -> list[float]:
    """By how much each sensor's discrepancy is larger than assumed: the factor >= 1 of the largest likelihood."""
    spread = np.cov(predicted.T)
    factors = []
    begin = 0
    for sensor, beat, size, through in zip(sensors, beats, sizes, expected, strict=True):
        part = slice(begin, begin + len(beat.values))
        begin = part.stop
        best, chosen = -np.inf, 1.0
        for factor in np.geomspace(1.0, 10.0, 25):
            total = error_covariance([sensor], [beat], [size * factor], errors, [through]) + spread[part, part]
            root = np.linalg.cholesky(total)
            off = np.linalg.solve(root, residual[part])
            likelihood = -0.5 * float(off @ off) - float(np.log(np.diag(root)).sum())
            if likelihood > best + 1e-9:
                best, chosen = likelihood, float(factor)
        factors.append(chosen)
    return factors


def physical_intervals(model: BeatModel, prior: FlowPrior) -> list[dict[str, Any]]:
    """Each parameter's median and 95 % interval, as a factor on the plan and in the clinic's units."""
    planned, flow, count = model.model.filter.planned, model.model.waveform.mean, len(prior.outlets)
    peripheral = (planned.proximal_resistance + planned.distal_resistance)[0]
    units = [
        *((float(value) / PASCAL_PER_MMHG * 1e-6, "mmHg s/mL") for value in peripheral),
        *((float(value) * PASCAL_PER_MMHG * 1e6, "mL/mmHg") for value in planned.compliance[0]),
        (flow * 60e3, "L/min"),
        (1.0, "times the plan's"),
    ]
    table = []
    for number, name in enumerate(prior.names):
        mean, deviation = float(prior.mean[number]), float(prior.deviation[number])
        ends = np.array([mean, mean - SIGMAS * deviation, mean + SIGMAS * deviation])
        line: dict[str, Any] = {"name": name}
        if number < 2 * count + 2:
            scale, unit = units[number]
            line |= {"factor": np.exp(ends).tolist(), "value": (scale * np.exp(ends)).tolist(), "unit": unit}
        else:
            line |= {"value": ends.tolist(), "unit": "of the mean flow"}
        table.append(line)
    return table


def keep_calibration(case: Case, model: BeatModel, found: Calibration, history: Path) -> Path:
    """Write ``calibration.json`` into the case and name the step in its manifest.

    Raises:
        InputError: the case cannot be written to.
    """
    try:
        digest = file_hash(history)
    except OSError as error:
        raise InputError(f"{history} cannot be read ({error.strerror}).") from error
    content = {
        "format": FORMAT,
        "software": __version__,
        "history": history.name,
        "history_sha256": digest,
        "outlets": list(found.posterior.outlets),
        "plan": plan_identity(case),
        "parameters": physical_intervals(model, found.posterior),
        "prior": {
            "names": list(found.posterior.names),
            "mean": found.posterior.mean.tolist(),
            "covariance": found.posterior.covariance.tolist(),
        },
        "period_s": found.period_s,
        "lag_beats": found.lag,
        "misfit": found.misfit,
        "iterations": found.iterations,
        "sensors": [
            {
                "sensor": one.sensor.label,
                "unit": one.sensor.unit,
                "beats": one.beat.beats,
                "beats_left_out": one.beat.left_out,
                "model_error": one.discrepancy,
                "rms_residual": one.residual,
                "measured": one.beat.values.tolist(),
                "predicted": one.predicted.tolist(),
            }
            for one in found.sensors
        ],
        "notes": list(found.notes),
    }
    path = case.path(CALIBRATION)
    try:
        write_atomically(path, json.dumps(content, indent=1))
    except OSError as error:
        raise InputError(f"{path} cannot be written ({error.strerror}).") from error
    figures = {"period_s": found.period_s, "misfit": found.misfit}
    figures |= {f"rms_{one.sensor.label.replace(' ', '_')}": one.residual for one in found.sensors}
    case.record_step(
        "calibrate", inputs=["reduced.npz"], outputs=[CALIBRATION],
        settings={"history": str(history), "history_sha256": digest}, figures=figures, notes=found.notes,
    )  # fmt: skip
    return path
