"""What would happen if: pressure and flow before and after an intervention, each with its interval.

An ensemble of patients that the plan, or a procedure so far, leaves possible is run to its periodic state as it is and
with the interventions; member by member the two differ only by them, so the interval of a change is narrower than those
of the two values.

Three things are added to the ensemble's own spread: the reduced model's error on held-out 3D runs, that of the 3D model
against the patient (`SessionSettings`), both of which before and after largely share, and for what was changed in the
geometry the error of the formula that says by how much. Outside of the range that the model was trained on its error
grows with the distance from it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import msgspec
import numpy as np
from numpy.typing import NDArray

from streams.messages import Estimate
from surgical_twin.anatomy_estimate import read_anatomy
from surgical_twin.assimilation.flow_filter import FilterState
from surgical_twin.case import Case
from surgical_twin.errors import InputError
from surgical_twin.flow.port_state import PortState
from surgical_twin.intervals import estimate, estimates
from surgical_twin.prediction.circulation import Beat, Circulation, Source, held, periodic_beat
from surgical_twin.prediction.interventions import Intervention, Situation, apply_all
from surgical_twin.prediction.lesion_places import LesionPlaces
from surgical_twin.session_model import SessionModel
from surgical_twin.units import CUBIC_METRES_PER_ML, PASCAL_PER_MMHG

Array = NDArray[np.float64]

OUTSIDE_GROWTH = 1.0
"""By what share of itself the reduced model's error grows per width of the trained range that a state is outside."""

SHARED = 0.8
"""Correlation between the model's error before and after: it is the same geometry and the same model."""


@dataclass(frozen=True)
class Outcome:
    """One periodic beat of the ensemble in the units that clinicians use; members first."""

    mean_pressure_mmhg: Array
    """(members, ports), inlet first"""
    systolic_mmhg: Array
    diastolic_mmhg: Array
    mean_flow_ml_min: Array
    """(members, ports)"""
    station_mmhg: Array
    """(members, stations) mean pressure at the case's stations along the vessel"""
    lesion_ratio: Array
    """(members, lesions) mean pressure behind over mean pressure at the inlet"""
    perfusion_mmhg: Array
    """(members, outlets) mean outlet pressure less the pressure behind the bed"""
    outside: float
    """how far the flows leave the trained range, in widths of it; 0 inside"""
    error_scale: float
    """by how much the reduced model's error is larger in these states than on average over its held-out runs"""
    coefficients: Array
    """(K,) the pressure field's, mean over beat and members, for a picture"""
    changed_mmhg: dict[int, tuple[float, float, float]]
    """per lesion that was changed: mean pressure before and behind it, and by how much its drop is more than decoded"""


@dataclass(frozen=True)
class Change:
    """One quantity before and after, and the change between."""

    before: Estimate
    after: Estimate
    change: Estimate


@dataclass(frozen=True)
class Comparison:
    """What interventions do."""

    interventions: tuple[str, ...]
    source: Source
    quantities: dict[str, Change]
    """by name and unit: mean pressure outlet_1 [mmHg]"""
    before: Outcome
    after: Outcome
    notes: tuple[str, ...]
    """what forbids trusting it as it stands"""
    situation: Situation
    """after it"""

    def as_plain(self) -> dict[str, object]:
        """The comparison in plain maps and lists, each estimate as value, lower and upper."""
        return {
            "interventions": list(self.interventions),
            "hold": self.source,
            "quantities": {name: msgspec.to_builtins(vars(change)) for name, change in self.quantities.items()},
            "outside_of_trained_range_widths": {"before": self.before.outside, "after": self.after.outside},
            "notes": list(self.notes),
        }


class Predictor:
    """Answers what-if questions on one case."""

    def __init__(self, case: Case, model: SessionModel, ensemble: FilterState | None = None) -> None:
        """Take a case and an ensemble: that of a procedure so far, or the plan's prior where None.

        Raises:
            InputError: a file of the case is missing.
        """
        self.model = model
        planned = case.manifest["flow"]
        log_factors = (ensemble or model.filter.initial(0, model.waveform.period)).log_factors
        parameters = model.filter.parameters(log_factors)
        circulation = Circulation(
            model.reduced.ports, parameters, model.waveform, model.filter.inflow_factor(log_factors)
        )
        anatomy = read_anatomy(case, planned["density_kg_m3"], planned["viscosity_pa_s"])
        anatomy = anatomy.for_outlets(model.reduced.ports.outlets)
        self._baseline = periodic_beat(circulation)
        self._lesion_places = LesionPlaces.of(case, model, anatomy)
        self._usual_gap = self._gap(self._baseline, _some(self._baseline))
        drops = tuple(self._lesion_places.drop(self._baseline, number) for number in range(len(anatomy.lesions)))
        flow = self._baseline.mean_flow.mean(axis=0)
        self.situation = Situation(
            circulation=circulation,
            anatomy=anatomy,
            lesion_drop=drops,
            lesion_span=self._lesion_places.recovered - self._lesion_places.started,
            split=flow / flow.sum(),
            mean_inflow=float(flow.sum()),
        )

    @property
    def planned_inflow(self) -> float:
        """m^3/s: the ensemble's mean."""
        circulation = self.situation.circulation
        return float(circulation.scale.mean() * circulation.waveform.mean)

    def outcome(self, situation: Situation, beat: Beat) -> Outcome:
        """A periodic beat in clinical units."""
        model = self.model
        pressure = np.concatenate([beat.inlet_pressure[:, :, None], beat.outlet_pressure], axis=2) / PASCAL_PER_MMHG
        flow = np.concatenate([beat.flow.sum(axis=2, keepdims=True), beat.flow], axis=2)
        chosen = _some(beat)
        stations = np.mean([model.axis.pressure(state) for state in chosen], axis=0)
        inlet = beat.mean_inlet_pressure / PASCAL_PER_MMHG
        before, behind = self._lesion_places.around_mmhg(chosen)
        changed: dict[int, tuple[float, float, float]] = {}
        for lesion, moved in self._moved(situation, beat, chosen).items():
            behind[:, lesion] -= moved
            ends = before[:, lesion], behind[:, lesion], moved
            stations = self._with_changed(stations, lesion, self._lesion_places.stations, ends)
            changed[lesion] = tuple(float(one.mean()) for one in ends)  # type: ignore[assignment]
        bed = situation.circulation.parameters
        return Outcome(
            mean_pressure_mmhg=pressure.mean(axis=0),
            systolic_mmhg=pressure.max(axis=0),
            diastolic_mmhg=pressure.min(axis=0),
            mean_flow_ml_min=flow.mean(axis=0) / CUBIC_METRES_PER_ML * 60.0,
            station_mmhg=stations,
            lesion_ratio=behind / inlet[:, None],
            perfusion_mmhg=(beat.mean_outlet_pressure - bed.distal_pressure) / PASCAL_PER_MMHG,
            outside=float(np.mean([model.reduced.in_range(state) for state in chosen])),
            error_scale=_error_scale(model, chosen),
            coefficients=np.mean([model.reduced.decoder.coefficients(s).mean(axis=0) for s in chosen], axis=0),
            changed_mmhg=changed,
        )

    def field_mmhg(self, outcome: Outcome, points: Array, modes_mmhg: Array) -> Array:
        """(n,) mean pressure at points (n, 3) mm of the lumen, from the pressure modes (n, K) there."""
        field = (modes_mmhg @ outcome.coefficients)[None]
        for lesion, ends in outcome.changed_mmhg.items():
            field = self._with_changed(field, lesion, points, tuple(np.array([one]) for one in ends))  # type: ignore[arg-type]
        return np.asarray(field[0])

    def _with_changed(self, decoded: Array, lesion: int, points: Array, ends: tuple[Array, Array, Array]) -> Array:
        """(members, n) decoded pressure at points, a lesion having been changed.

        ``ends`` are (members,) pressure before and behind it, and by how much its drop is more than decoded: so much
        everything behind is moved. Over the lesion itself pressure goes straight from the one to the other.
        """
        before, behind, moved = ends
        part = self._lesion_places.part(lesion, points)
        over = before[:, None] + np.outer(behind - before, part)
        return np.where((part > 0.0) & (part < 1.0), over, decoded - np.outer(moved, part))

    @property
    def station_distance_mm(self) -> Array:
        """(stations,) distance of each station from the inlet along the vessel."""
        steps = np.linalg.norm(np.diff(self._lesion_places.stations, axis=0), axis=1)
        return np.concatenate([[0.0], np.cumsum(steps)])

    def station_estimates(self, outcome: Outcome) -> Array:
        """(3, stations) mmHg: mean pressure along the vessel, and the ends of its 95 % interval."""
        drop = (outcome.station_mmhg - outcome.mean_pressure_mmhg[:, :1]).mean(axis=0)
        error = self.model.with_discrepancy(_growth(outcome) * self.model.axis.error_mmhg, drop)
        found = estimates(outcome.station_mmhg, error)
        return np.array([(one.value, one.lower, one.upper) for one in found]).T

    def _moved(self, situation: Situation, beat: Beat, states: Sequence[PortState]) -> dict[int, Array]:
        """(members,) mmHg per changed lesion: by how much its mean drop is more than the decoder has it.

        The decoder knows the lesion as it was, and at the flow of an opened one it extrapolates. The port model has the
        change in it: everything behind the lesion is moved to where the decoded pressure at its outlet is the model's.
        """
        gap = self._gap(beat, states) - self._usual_gap
        anatomy, found = situation.anatomy, dict[int, Array]()
        feeds = {lesion: anatomy.feeds[anatomy.lesions[lesion].branch] for lesion in situation.drop_change}
        # The lesion nearer to the inlet first: what it moves, it moves behind the others as well.
        for lesion in sorted(feeds, key=lambda one: (-int(feeds[one].sum()), anatomy.lesions[one].start)):
            outlet = int(np.argmax(np.where(feeds[lesion], beat.mean_flow.mean(axis=0), -np.inf)))
            found[lesion] = -gap[:, outlet] - sum(moved for other, moved in found.items() if feeds[other][outlet])
        return found

    def _gap(self, beat: Beat, states: Sequence[PortState]) -> Array:
        """(members, N) mmHg: mean pressure of each outlet in the port model, less that of the decoder."""
        return beat.mean_outlet_pressure / PASCAL_PER_MMHG - self._lesion_places.outlets_mmhg(states)

    def compare(self, interventions: Sequence[Intervention], *, source: Source = "flow", seed: int = 0) -> Comparison:
        """What the interventions do to the patient: those on the whole body first, each kind in the order given.

        Args:
            interventions: at least one.
            source: what feeds the inlet keeps this (see `circulation`).
            seed: draws what is uncertain of their effects.

        Raises:
            InputError: one cannot be done here, or the circulation does not settle.
        """
        if not interventions:
            raise InputError("Say what would be done, for example --clamp outlet_1 or --svr +20%.")
        # What is done to the whole body changes what feeds the inlet; only then comes what is done to these vessels.
        after = apply_all(self.situation, [one for one in interventions if one.systemic], seed)
        beat = periodic_beat(after.circulation)
        local = [one for one in interventions if not one.systemic]
        if local:
            after = apply_all(after, local, seed)
            circulation, beat = held(after.circulation, source, beat)
            after = replace(after, circulation=circulation)
        first, second = self.outcome(self.situation, self._baseline), self.outcome(after, beat)
        notes = []
        if self.model.reduced.estimated:
            notes.append(
                "The flow model is the estimate from the anatomy alone: the 3D runs of the plan are not done, and the "
                "intervals are as wide as that makes them."
            )
        if second.outside > 0.25:
            notes.append(
                f"After this the flows lie {second.outside:.1f} widths outside of the range that the model was trained "
                "on: the intervals are widened, and a 3D run of the changed situation is the way to know."
            )
        return Comparison(
            interventions=tuple(one.words for one in interventions),
            source=source,
            quantities=self._quantities(after, first, second),
            before=first,
            after=second,
            notes=tuple(notes),
            situation=after,
        )

    def _quantities(self, after: Situation, first: Outcome, second: Outcome) -> dict[str, Change]:
        model, names = self.model, self.model.port_names
        growth = _growth(second)
        # What a formula has changed of a drop is known as well as the formula.
        drops = [(one.mean_pressure_mmhg[:, :1] - one.mean_pressure_mmhg).mean(axis=0) for one in (first, second)]
        formula = after.drop_spread * np.abs(drops[1] - drops[0])
        pressure = self._pressure_errors(first), np.hypot(self._pressure_errors(second), formula)
        flow = model.flow_error_ml_s * 60.0
        found: dict[str, Change] = {}
        for index, name in enumerate(names):
            errors = float(pressure[0][index]), float(pressure[1][index])
            for label, values in (
                ("mean", lambda outcome: outcome.mean_pressure_mmhg),
                ("systolic", lambda outcome: outcome.systolic_mmhg),
                ("diastolic", lambda outcome: outcome.diastolic_mmhg),
            ):
                pair = values(first)[:, index], values(second)[:, index]
                found[f"{label} pressure {name} [mmHg]"] = _change(*pair, *errors)
        for index, name in enumerate(names):
            pair = first.mean_flow_ml_min[:, index], second.mean_flow_ml_min[:, index]
            # A flow that has become small has a small error too.
            shrunk = min(1.0, abs(float(pair[1].mean())) / max(abs(float(pair[0].mean())), 1e-12))
            error = float(flow[index])
            found[f"mean flow {name} [mL/min]"] = _change(*pair, error, error * growth * max(shrunk, 0.02))
        for index, name in enumerate(names[1:]):
            errors = float(pressure[0][1 + index]), float(pressure[1][1 + index])
            pair = first.perfusion_mmhg[:, index], second.perfusion_mmhg[:, index]
            found[f"perfusion pressure {name} [mmHg]"] = _change(*pair, *errors)
        for lesion in range(len(self.situation.anatomy.lesions)):
            pair = first.lesion_ratio[:, lesion], second.lesion_ratio[:, lesion]
            inlet = float(first.mean_pressure_mmhg[:, 0].mean()), float(second.mean_pressure_mmhg[:, 0].mean())
            lost = [float(np.mean(1.0 - one)) * level for one, level in zip(pair, inlet, strict=True)]
            share = model.settings.drop_uncertainty
            changed = after.drop_spread * abs(lost[0] - lost[1]) if lesion in after.drop_change else 0.0
            found[f"Pd/Pa stenosis_{lesion + 1} [ratio]"] = _change(
                *pair, share * abs(lost[0]) / inlet[0], float(np.hypot(share * growth * lost[1], changed)) / inlet[1]
            )
        return found

    def _pressure_errors(self, outcome: Outcome) -> Array:
        """(ports,) mmHg."""
        drop = (outcome.mean_pressure_mmhg - outcome.mean_pressure_mmhg[:, :1]).mean(axis=0)
        return self.model.with_discrepancy(_growth(outcome) * self.model.pressure_error_mmhg, drop)


def _some(beat: Beat) -> tuple[PortState, ...]:
    """Enough of a beat's states for its means."""
    return beat.states[:: max(1, len(beat.states) // 40)]


def _growth(outcome: Outcome) -> float:
    return outcome.error_scale * (1.0 + OUTSIDE_GROWTH * outcome.outside)


def _error_scale(model: SessionModel, states: Sequence[PortState]) -> float:
    """Of the error model in these states, without what it grows by outside of the range; 1 where there is none."""
    errors = model.reduced.errors
    if errors is None:
        return 1.0
    scales = [
        errors.scale(state.inflow, state.flow_derivative.sum(axis=1), np.zeros(len(state.flow))) for state in states
    ]
    return float(np.sqrt(np.mean(np.square(scales))))


def _change(first: Array, second: Array, first_error: float, second_error: float) -> Change:
    between = np.sqrt(first_error**2 + second_error**2 - 2.0 * SHARED * first_error * second_error)
    return Change(
        before=estimate(first, first_error),
        after=estimate(second, second_error),
        change=estimate(second - first, float(between)),
    )


def rank(comparisons: Mapping[str, Comparison]) -> list[tuple[str, float]]:
    """Alternatives by a stated utility, the best first.

    Utility = mean over members and outlets of min(1, flow after / flow before), less 0.5 times the share of stenoses
    whose Pd/Pa stays at or below 0.80, less 0.02 per mmHg by which the inlet's mean pressure lies outside of 65 to 110
    mmHg: keep every territory perfused, leave no significant stenosis, keep the pressure in range.
    """
    scored = []
    for name, comparison in comparisons.items():
        first, second = comparison.before, comparison.after
        kept = np.minimum(1.0, second.mean_flow_ml_min[:, 1:] / np.maximum(first.mean_flow_ml_min[:, 1:], 1e-9))
        significant = float((second.lesion_ratio <= 0.80).mean()) if second.lesion_ratio.size else 0.0
        pressure = second.mean_pressure_mmhg[:, 0]
        beyond = np.maximum(0.0, np.maximum(65.0 - pressure, pressure - 110.0))
        scored.append((name, float(kept.mean() - 0.5 * significant - 0.02 * beyond.mean())))
    return sorted(scored, key=lambda pair: -pair[1])
