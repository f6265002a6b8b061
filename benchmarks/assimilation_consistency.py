"""Whether the twin's intervals mean what they say, on virtual patients whose truth no reduced model was trained on.

Truths are 3D runs on a finer mesh in the real lumen, with shear-thinning blood and another inflow shape; sensors have
a noise of 2 mmHg, a bias of 3 mmHg, 5 % dropouts, and fiducials are touched so badly that the registration is some 2
mm off (``virtual_patients``). Each patient is one procedure: the catheter rests at the inlet, goes through the
stenosis, rests and is pulled back, with an arterial line at the inlet and a flow probe.

    python benchmarks/assimilation_consistency.py --cache FOLDER [--only patients|zeroed|faults|rest]
        [--patients N] [--families s55 ...] [--set check|calibration]

Cases and 3D truths are made once into ``--cache``; the results of each part are kept there as well, per patient, so
that an interrupted run goes on where it was and parts can be run one at a time. They are those of the code that made
them: delete ``consistency_*.json`` after changing it. What sets how large the model's error is was chosen on the
``calibration`` set; the ``check`` set has other truths and other draws.

Beside the share of intervals that hold the truth stands their *spread*, the root mean square of the truth's distance in
standard deviations: above 1 they are too narrow, below 1 too wide.

Of what one catheter and one arterial line cannot tell: a bias that both share moves all pressures as resistances do,
and only the pulse's decay in diastole tells them apart. With both sensors 3 mmHg off (``patients``) the catheter's
bias is therefore known to some 2 mmHg only; where the line was zeroed to 0.5 mmHg (``zeroed``), it is found. How the
compliance is shared between outlets shows in no pressure; its sum does. A drop shows a stenosis's loss times the
square of the flow through it: flow and resistance of that outlet are known half as badly as the loss. All are reported
with the interval they have.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from virtual_patients import (
    CALIBRATION,
    CATHETER,
    CHECK,
    EPOCH,
    QUICK,
    Family,
    Patient,
    make_family,
    with_fault,
)

from streams.messages import Estimate, TwinState
from surgical_twin.assimilation.self_watch import nis_bounds
from surgical_twin.intervals import NORMAL_95

console = Console(width=120, stderr=True)

VERSION = 8
"""Of the measurements: results of another one are made again."""

AFTER_BEATS = 10
FAULT_AT_S = 8.3
"""Not at the beginning of a beat."""

FAULT_LASTS_S = 7.0
FAULTY_S = 21.0
SILENT_S = 30.0
NAMED_WITHIN_BEATS = 3.0
FAULTS: dict[str, tuple[str, ...]] = {
    "height": ("transducer_moved",),
    "damping": ("line_damped",),
    "dropout": ("pressure_stale", "silent"),
    "swap": ("sensors_swapped",),
    "registration": ("registration_drifted", "registration_doubtful"),
    "clamp": ("circulation_changed",),
}
"""What each fault has to be called: any one of these flags."""

NAMES = (
    "transducer_moved",
    "line_damped",
    "line_distorted",
    "sensors_swapped",
    "registration_drifted",
    "registration_doubtful",
    "tip_outside_lumen",
    "circulation_changed",
    "filter_diverged",
    "transducer_",
)
"""Flags that name a fault. Single observations that are gated are no alarm; their share is reported by itself."""


def inside(estimate: Estimate, truth: float) -> bool:
    """Whether the interval holds the truth."""
    return estimate.lower <= truth <= estimate.upper


def seconds(state: TwinState) -> float:
    """Time of the flow state since the procedure began."""
    return (state.model_time_ns - EPOCH) * 1e-9


def true_parameters(patient: Patient) -> dict[str, float]:
    """The hidden factors on the plan, with what they sum up to."""
    return dict(patient.truth.factors)


def total_compliance(patient: Patient, state: TwinState) -> tuple[float, float]:
    """Factor on the sum of the outlets' compliances: as estimated, and true."""
    planned = patient.family.model.filter.planned.compliance[0]
    names = patient.family.model.port_names[1:]
    said = sum(state.parameters[f"compliance_factor.{name}"].value * c for name, c in zip(names, planned, strict=True))
    true = sum(patient.truth.factors[f"compliance_factor.{name}"] * c for name, c in zip(names, planned, strict=True))
    return float(said / planned.sum()), float(true / planned.sum())


def distance_square(estimate: Estimate, truth: float, *, factor: bool = False) -> float:
    """Squared distance of the truth from an estimate in its standard deviations; of a factor, on a logarithmic scale.

    Coverage counts who is outside, which few patients show; the mean of this, 1 where intervals mean what they say,
    tells as much of a few.
    """
    value, lower, upper = estimate.value, estimate.lower, estimate.upper
    if factor:
        value, lower, upper, truth = math.log(value), math.log(lower), math.log(upper), math.log(truth)
    deviation = (upper - lower) / (2.0 * NORMAL_95)
    return ((value - truth) / deviation) ** 2


def measure(patient: Patient) -> dict[str, Any]:
    """All figures of one procedure without a fault."""
    states = patient.play()
    settled = [one for one in states if one.axis_pressure_mmhg and seconds(one) > AFTER_BEATS * patient.truth.period]
    stations = patient.family.axis.stations()
    squares, covered, flow_off, flow_covered = [], [], [], []
    pressure_distance, flow_distance = [], []
    for state in settled[::3]:
        truth = np.array([patient.pressure(seconds(state), float(distance)) for distance in stations])
        said = np.array([one.value for one in state.axis_pressure_mmhg])
        squares.append(float(np.mean((said - truth) ** 2)))
        covered.append(float(np.mean([inside(o, t) for o, t in zip(state.axis_pressure_mmhg, truth, strict=True)])))
        pressure_distance += [
            distance_square(one, true) for one, true in zip(state.axis_pressure_mmhg, truth.tolist(), strict=True)
        ]
        for port in patient.family.model.port_names[1:]:
            true_flow = patient.truth.flow_at(seconds(state), port)
            flow_off.append(state.port_flow_ml_s[port].value - true_flow)
            flow_covered.append(inside(state.port_flow_ml_s[port], true_flow))
            flow_distance.append(distance_square(state.port_flow_ml_s[port], true_flow))
    outlets = patient.family.model.port_names[1:]
    mean_flow = float(np.mean([patient.truth.port_flow_ml_s[:, 1 + k].mean() for k in range(len(outlets))]))
    last = states[-1]
    factors = true_parameters(patient)
    resistance = [
        last.parameters[f"resistance_factor.{n}"].value / factors[f"resistance_factor.{n}"] - 1 for n in outlets
    ]
    known = [name for name in last.parameters if name in factors]
    said_c, true_c = total_compliance(patient, last)
    bias = last.sensors[CATHETER].bias_mmhg
    return {
        "pressure_square": float(np.mean(squares)),
        "pressure_covered": float(np.mean(covered)),
        "flow_square": float(np.mean(np.square(flow_off))) / mean_flow**2,
        "flow_covered": float(np.mean(flow_covered)),
        "resistance_square": float(np.mean(np.square(resistance))),
        "compliance_square": (said_c / true_c - 1.0) ** 2,
        "parameters_covered": float(np.mean([inside(last.parameters[name], factors[name]) for name in known])),
        "pressure_distance": float(np.mean(pressure_distance)),
        "flow_distance": float(np.mean(flow_distance)),
        "parameter_distance": {
            kind: float(
                np.mean(
                    [
                        distance_square(last.parameters[name], factors[name], factor=True)
                        for name in known
                        if name.startswith(kind)
                    ]
                )
            )
            for kind in ("resistance", "compliance", "inflow")
        },
        "bias_distance": distance_square(bias, patient.biases[0]),
        "bias_off": bias.value - patient.biases[0],
        "bias_covered": inside(bias, patient.biases[0]),
        "bias_width": bias.upper - bias.lower,
        **_ahead(patient, states),
        **_forecasts(patient, states),
        "nis": [one.nis for one in last.sensors.values() if one.nis is not None],
        "alarms": sorted({flag for state in settled for flag in state.flags if _alarming(flag)}),
        "tip_off": _tip_off(patient, settled),
        "gated": last.counters.get("refused", 0) / max(1, last.counters.get("assimilated", 1)),
        "duration_s": patient.duration_s,
    }


def _ahead(patient: Patient, states: Sequence[TwinState]) -> dict[str, Any]:
    """Mean pressure over a beat 12 mm beyond the narrowest place, said when the tip is 8 mm before it."""
    crossing = patient.crossing_s()
    stations = patient.family.axis.stations()
    place = int(np.argmin(np.abs(stations - (patient.family.axis.narrowest + 12.0))))
    period = patient.truth.period
    beat = [one for one in states if one.axis_pressure_mmhg and crossing - period <= seconds(one) < crossing]
    means = [float(np.mean([getattr(one.axis_pressure_mmhg[place], end) for one in beat])) for end in
             ("value", "lower", "upper")]  # fmt: skip
    truth = float(np.mean([patient.pressure(seconds(one), float(stations[place])) for one in beat]))
    return {
        "ahead_off": means[0] - truth,
        "ahead_covered": means[1] <= truth <= means[2],
        "ahead_distance": distance_square(Estimate(*means), truth),
        "ahead_width": means[2] - means[1],
    }


def _forecasts(patient: Patient, states: Sequence[TwinState]) -> dict[str, Any]:
    """Forecasts of a beat's mean, made after `AFTER_BEATS`, for a patient to whom nothing is done."""
    made = next((one for one in states if one.forecasts and seconds(one) > AFTER_BEATS * patient.truth.period), None)
    if made is None:
        return {"forecast_covered": {}, "forecast_distance": {}}
    covered: dict[str, float] = {}
    distances: dict[str, float] = {}
    beat = np.linspace(0.0, patient.truth.period, 60, endpoint=False)
    for forecast in made.forecasts:
        said = [
            (estimate, float(np.mean([patient.truth.port_pressure_at(t, port) for t in beat])))
            for port, estimate in forecast.port_pressure_mmhg.items()
        ]
        said += [
            (estimate, float(np.mean([patient.truth.flow_at(t, port) for t in beat])))
            for port, estimate in forecast.port_flow_ml_s.items()
        ]
        covered[str(forecast.beats)] = float(np.mean([inside(*one) for one in said]))
        distances[str(forecast.beats)] = float(np.mean([distance_square(*one) for one in said]))
    return {"forecast_covered": covered, "forecast_distance": distances}


def _tip_off(patient: Patient, states: Sequence[TwinState]) -> float:
    """Root mean squared error of the tip, mm."""
    off = []
    for state in states[::5]:
        if state.tip is not None:
            true = patient.family.axis.at(patient.distance((state.source_time_ns - EPOCH) * 1e-9))[0]
            off.append(float(np.sum((np.array(state.tip) - true) ** 2)))
    return float(np.sqrt(np.mean(off)))


def _alarming(flag: str) -> bool:
    return flag.startswith(NAMES)


def trial(patient: Patient, kind: str) -> dict[str, Any]:
    """One fault: how long until it was named, and how the twin did after it had ended."""
    lasting = kind in ("clamp", "height", "registration")
    # The run with a clamp begins at an R-wave.
    period = patient.truth.period
    at_s = float(np.ceil(FAULT_AT_S / period) * period) if kind == "clamp" else FAULT_AT_S
    end = np.inf if lasting else FAULT_AT_S + (SILENT_S if kind == "dropout" else FAULT_LASTS_S)
    faulty = with_fault(patient, kind, at_s, end)
    states = faulty.play()
    named = None
    for state in states:
        time_s = (state.source_time_ns - EPOCH) * 1e-9
        if time_s >= at_s and any(flag.startswith(FAULTS[kind]) for flag in state.flags):
            named = (time_s - at_s) / faulty.truth.period
            break
    others = sorted(
        {
            flag
            for state in states
            for flag in state.flags
            if (state.source_time_ns - EPOCH) * 1e-9 > at_s and _alarming(flag)
        }
    )
    last = [one for one in states if one.axis_pressure_mmhg][-20:]
    off = [one.port_pressure_mmhg[faulty.family.model.port_names[0]].value - faulty.pressure(seconds(one), 0.0)
           for one in last]  # fmt: skip
    return {
        "named_beats": named,
        "named": named is not None and named <= NAMED_WITHIN_BEATS,
        "recovered_rms": float(np.sqrt(np.mean(np.square(off)))),
        "flags": others,
    }


class Kept:
    """Results by patient in the cache, so that nothing is measured twice; those of other shards are read as well."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.results: dict[str, Any] = {}
        for one in sorted(path.parent.glob(f"{path.stem.rpartition('_')[0]}_*.json")):
            content = json.loads(one.read_text(encoding="utf-8"))
            if content.get("version") == VERSION:
                self.results |= content["results"]

    def measured(self, key: str, make: Any) -> Any:
        """The result of a key, made where it is not known."""
        if key not in self.results:
            begin = time.monotonic()
            self.results[key] = make()
            temporary = self.path.with_suffix(".tmp")
            temporary.write_text(json.dumps({"version": VERSION, "results": self.results}), encoding="utf-8")
            temporary.replace(self.path)
            console.print(f"{key}: {time.monotonic() - begin:.0f} s", highlight=False)
        return self.results[key]


def figure(value: float | None, goal: str, unit: str, why: str = "") -> dict[str, Any]:
    """One figure of the report."""
    made: dict[str, Any] = {"value": None if value is None else round(float(value), 4), "goal": goal, "unit": unit}
    if why:
        made["why"] = why
    return made


def root(results: Sequence[dict[str, Any]], name: str) -> float:
    """Root of the mean of squares."""
    return float(np.sqrt(np.mean([one[name] for one in results])))


def mean(results: Sequence[dict[str, Any]], name: str) -> float:
    """Mean over patients."""
    return float(np.mean([one[name] for one in results]))


def patient_figures(results: Sequence[dict[str, Any]], prefix: str) -> dict[str, Any]:
    """Figures of all patients of a part."""
    nis = [one for result in results for one in result["nis"]]
    beats = 5 * len(nis)
    low, high = nis_bounds(beats)
    figures = {
        "pressure_rms": figure(root(results, "pressure_square"), "<= 2", "mmHg"),
        "outlet_flow": figure(100 * root(results, "flow_square"), "<= 5", "%"),
        "resistance": figure(100 * root(results, "resistance_square"), "<= 5", "%"),
        "total_compliance": figure(100 * root(results, "compliance_square"), "<= 10", "%"),
        "bias": figure(
            float(np.sqrt(np.mean(np.square([one["bias_off"] for one in results])))),
            "<= 0.5",
            "mmHg",
            "" if prefix else "a bias that both sensors share cannot be told from the resistances",
        ),
        "bias_interval_half": figure(0.5 * mean(results, "bias_width"), "<= 3", "mmHg"),
        "pressure_coverage": figure(mean(results, "pressure_covered"), "in 0.93 0.97", ""),
        "flow_coverage": figure(mean(results, "flow_covered"), "in 0.93 0.97", ""),
        "parameter_coverage": figure(mean(results, "parameters_covered"), "in 0.93 0.97", ""),
        "bias_coverage": figure(mean(results, "bias_covered"), "in 0.93 0.97", ""),
        "ahead_coverage": figure(mean(results, "ahead_covered"), ">= 0.93", ""),
        "ahead_rms": figure(float(np.sqrt(np.mean(np.square([one["ahead_off"] for one in results])))), "<= 6", "mmHg"),
        "nis": figure(float(np.mean(nis)), f"in {low:.3f} {high:.3f}", ""),
        **{
            f"{name}_spread": figure(float(np.sqrt(mean(results, f"{name}_distance"))), "in 0.8 1.2", "")
            for name in ("pressure", "flow", "bias", "ahead")
        },
        **{
            f"{kind}_spread": figure(
                float(np.sqrt(np.mean([one["parameter_distance"][kind] for one in results]))), "in 0.8 1.2", ""
            )
            for kind in ("resistance", "compliance", "inflow")
        },
        "tip": figure(mean(results, "tip_off"), "<= 2", "mm"),
        "gated": figure(mean(results, "gated"), "<= 0.01", ""),
    }
    for beats_ahead in ("1", "5", "30"):
        held = [one["forecast_covered"][beats_ahead] for one in results if beats_ahead in one["forecast_covered"]]
        figures[f"forecast_{beats_ahead}_coverage"] = figure(float(np.mean(held)) if held else None, "in 0.93 0.97", "")
        away = [one["forecast_distance"][beats_ahead] for one in results if beats_ahead in one["forecast_distance"]]
        figures[f"forecast_{beats_ahead}_spread"] = figure(
            float(np.sqrt(np.mean(away))) if away else None, "in 0.8 1.2", ""
        )
    hours = sum(one["duration_s"] for one in results) / 3600.0
    alarms = sum(len(one["alarms"]) for one in results)
    figures["false_alarms"] = figure(alarms / hours, "<= 1", "1/h")
    return {f"{prefix}{name}": value for name, value in figures.items()}


def patients(families: Sequence[Family], count: int, first_seed: int) -> list[Patient]:
    """Virtual patients, spread over families and truths."""
    longest = max(len(family.truths) for family in families)
    bare = [
        Patient(family, family.truths[turn], 0)
        for turn in range(longest)
        for family in families
        if turn < len(family.truths)
    ]
    return [replace(bare[number % len(bare)], seed=first_seed + number) for number in range(count)]


FIRST_SEED = {"check": 6000, "calibration": 5000}


def main() -> int:
    """Run the parts that are asked for, and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cache", type=Path, default=Path("benchmark_cache"))
    parser.add_argument("--patients", type=int, default=100)
    parser.add_argument("--trials", type=int, default=20, help="of each fault")
    parser.add_argument("--only", nargs="+", choices=("patients", "zeroed", "faults", "rest"))
    parser.add_argument("--families", nargs="+", choices=tuple(CHECK), default=list(CHECK))
    parser.add_argument("--faults", nargs="+", choices=tuple(FAULTS), default=list(FAULTS))
    parser.add_argument("--set", choices=("check", "calibration"), default="check", dest="drawn_from")
    parser.add_argument("--shard", default="0/1", help="measure only every n-th patient, from k: k/n")
    parser.add_argument(
        "--quick", action="store_true", help="a coarse case, two procedures and one trial of each fault"
    )
    options = parser.parse_args()
    try:
        shard, shards = (int(number) for number in options.shard.split("/"))
    except ValueError:
        parser.error(f"--shard {options.shard} is not of the form k/n")
    if not 0 <= shard < shards:
        parser.error(f"--shard {options.shard}: k has to be at least 0 and less than n")
    parts = options.only or ["patients", "zeroed", "faults", "rest"]
    options.cache.mkdir(parents=True, exist_ok=True)
    truths = CHECK if options.drawn_from == "check" else CALIBRATION
    rest_s = 60.0
    if options.quick:
        options.families, options.patients, options.trials, rest_s = [QUICK], min(options.patients, 2), 1, 15.0
        truths = {QUICK: (1,)}
        options.faults = [kind for kind in options.faults if kind != "clamp"]
    families = [
        make_family(name, options.cache, console.print, truths[name], clamped="faults" in parts and not options.quick)
        for name in options.families
    ]
    kept = Kept(options.cache / f"consistency_{options.drawn_from}_{shard}.json")
    figures: dict[str, Any] = {}
    first_seed = FIRST_SEED[options.drawn_from]
    everyone = patients(families, options.patients, first_seed)
    drawn = [one for number, one in enumerate(everyone) if number % shards == shard]
    for part, prefix, zero in (("patients", "", None), ("zeroed", "zeroed_", 0.5)):
        if part in parts:
            results = [
                kept.measured(
                    f"{part}_{one.family.name}_{one.seed}",
                    lambda one=one, zero=zero: measure(replace(one, zero_mmhg=zero)),
                )
                for one in drawn
            ]
            figures |= patient_figures(results, prefix)
    if "rest" in parts:
        # Quiet minutes: nothing happens, and nothing is to be said of it.
        quiet = [
            replace(one, seed=first_seed + 500 + k, at_rest_s=rest_s) for k, one in enumerate(drawn[: options.trials])
        ]
        results = [
            kept.measured(f"rest_{one.family.name}_{one.seed}", lambda one=one: measure_rest(one)) for one in quiet
        ]
        hours = sum(one["duration_s"] for one in results) / 3600.0
        alarms = sum(len(one["alarms"]) for one in results)
        figures["false_alarms_at_rest"] = figure(alarms / hours, "<= 1", "1/h")
        figures["hours_at_rest"] = figure(hours, ">= 0.3", "h")
    if "faults" in parts:
        figures |= fault_figures(families, options, kept, first_seed + 2000)
    print(json.dumps({"benchmark": "assimilation_consistency", "figures": figures}))
    return 0


def measure_rest(patient: Patient) -> dict[str, Any]:
    """Alarms of a procedure in which nothing happens."""
    states = [one for one in patient.play() if one.axis_pressure_mmhg and seconds(one) > 3.0]
    return {
        "alarms": sorted({flag for state in states for flag in state.flags if _alarming(flag)}),
        "duration_s": patient.duration_s,
    }


def fault_figures(
    families: Sequence[Family], options: argparse.Namespace, kept: Kept, first_seed: int
) -> dict[str, Any]:
    """Figures of the injected faults, together and by kind."""
    figures, named, recovered = {}, [], []
    for kind in options.faults:
        able = [one for one in families if kind != "clamp" or one.clamped is not None]
        if not able:
            continue
        results = []
        for number in range(options.trials):
            family = able[number % len(able)]
            # The transient begins where the truth before the clamp is.
            truths = (family.clamped[0],) if kind == "clamp" and family.clamped else family.truths
            patient = Patient(family, truths[number // len(able) % len(truths)], first_seed + number)
            if kind in ("swap", "registration"):
                patient = replace(patient, settle_s=0.5, speed_mm_s=12.0, rest_s=11.0)
            else:
                patient = replace(patient, at_rest_s=FAULTY_S + (SILENT_S - FAULT_LASTS_S if kind == "dropout" else 0))
            key = f"{kind}_{family.name}_{patient.seed}"
            results.append(kept.measured(key, lambda patient=patient, kind=kind: trial(patient, kind)))
        figures[f"named_{kind}"] = figure(mean(results, "named"), ">= 0.95", "")
        named += [one["named"] for one in results]
        recovered += [one["recovered_rms"] for one in results if kind != "registration"]
    if named:
        figures["faults_named"] = figure(float(np.mean(named)), ">= 0.95", "")
    if recovered:
        figures["recovered_rms"] = figure(float(np.sqrt(np.mean(np.square(recovered)))), "<= 4", "mmHg")
    return figures


if __name__ == "__main__":
    sys.exit(main())
