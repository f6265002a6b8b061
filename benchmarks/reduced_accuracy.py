"""How far the reduced model is from 3D runs that it was never trained on, beside a model of another form.

Two anatomies are planned as a user plans them: a phantom with a stenosis of half its diameter, and a real aorta with
eight outlets and two stenoses. Their held-out runs have another flow, rate, and resistance of every outlet, drawn
inside of the range of the training. Port errors are over the range of each port's values over the cycle. Field errors
are relative L2 norms over the cycle: of pressure over its variation in time and space (over the pressure itself it
would be a tenth of that), of velocity and wall shear stress over themselves.

Beside ours stands operator inference (`reduced_forms.py`) on the same runs. And beside both what no model of a beat
can get below: the distance from the 3D flow of one beat to that of the next, under the same conditions, over the
square root of two. Where a jet breaks up, no two beats are alike.

The 3D runs take minutes each. With `--cache DIR` what is done is kept, and an interrupted benchmark goes on; `--only`
takes one anatomy, `--prepare` makes what is missing and measures nothing.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray
from reduced_forms import OperatorInference, Prediction
from rich.console import Console
from rich.table import Table

from meshes.files import read_lumen_mesh
from meshes.phantom import stenosed_bifurcation
from surgical_twin.case import MESH, REDUCED, Case
from surgical_twin.commands.planning import plan_case
from surgical_twin.demo import phantom_request
from surgical_twin.flow.evaluation import Evaluation
from surgical_twin.flow.field_decoder import nodal_volumes
from surgical_twin.flow.port_fit import START_UP, settled
from surgical_twin.flow.reduced import ReducedModel
from surgical_twin.flow.run import FlowRun
from surgical_twin.plan_anatomy import PlanRequest
from surgical_twin.plan_settings import PlanSettings
from surgical_twin.planning import planned_conditions
from surgical_twin.training import FlowConditions, RunJob, run_jobs
from surgical_twin.training_design import RunRecord, conditions_at
from surgical_twin.training_rounds import DESIGN, beat_of, run_file
from surgical_twin.units import METRES_PER_MM

Array = NDArray[np.float64]
AORTA = Path(__file__).resolve().parents[2] / "shared/data/vmtk_aorta/input/aorta.mha"
INNER = 0.9
"""Held-out states lie within this share of the range."""

console = Console(stderr=True, width=120)


@dataclass(frozen=True)
class Anatomy:
    """One of those measured on."""

    name: str
    tetrahedra: int
    training_runs: int
    held_out: int
    beats: float = 1.75

    def request(self, folder: Path) -> PlanRequest:
        """How it is planned."""
        if self.name == "phantom":
            request = phantom_request(stenosed_bifurcation(seed=0), folder)
        else:
            request = PlanRequest(image=AORTA)
        settings: PlanSettings = request.settings
        mesh = msgspec.structs.replace(settings.mesh, max_tetrahedra=self.tetrahedra)
        training = msgspec.structs.replace(settings.training, most_runs=self.training_runs, beats=self.beats)
        return replace(request, settings=msgspec.structs.replace(settings, mesh=mesh, training=training))

    def coordinates(self, outlets: int) -> Array:
        """(held_out, 2 + N) where the held-out runs are made."""
        return np.random.default_rng(7).uniform(-INNER, INNER, size=(self.held_out, 2 + outlets))


def held_out_files(anatomy: Anatomy, folder: Path) -> list[Path]:
    """Of the held-out runs; the last is that of two beats as planned."""
    return [folder / f"held_out_{number + 1}.npz" for number in range(anatomy.held_out)] + [folder / "two_beats.npz"]


def prepare(anatomy: Anatomy, folder: Path) -> Case:
    """Plan it and make the held-out runs, as far as they are not there."""
    folder.mkdir(parents=True, exist_ok=True)
    plan_case(anatomy.request(folder), folder / "case")
    case = Case.open(folder / "case")
    planned = planned_conditions(case, beats=anatomy.beats)
    conditions: list[FlowConditions] = [
        conditions_at(planned, one) for one in anatomy.coordinates(len(planned.windkessels))
    ]
    conditions.append(replace(planned, duration=planned.duration + planned.period))
    model = load_model(case)
    jobs = []
    for condition, path in zip(conditions, held_out_files(anatomy, folder), strict=True):
        if not path.is_file():
            last = beat_of(model.ports, condition).last.capacitor_pressure[0]
            start = dict(zip(model.ports.outlets, map(float, last), strict=True))
            jobs.append(RunJob(case.require(MESH), condition, path, 4, start, True))
    if jobs:
        with console.status(f"{anatomy.name}: {len(jobs)} held-out 3D runs"):
            run_jobs(jobs, lambda share: None)
    return case


def load_model(case: Case) -> ReducedModel:
    """The case's reduced model."""
    mesh = read_lumen_mesh(case.require(MESH))
    return ReducedModel.load(case.require(REDUCED), mesh.points * METRES_PER_MM, mesh.tetrahedra)


def training_runs(case: Case) -> list[FlowRun]:
    """What the case's model was trained on."""
    record = RunRecord.read(case.require(DESIGN))
    assert record is not None
    return [FlowRun.load(case.require(run_file(number))) for number in range(len(record.coordinates))]


def unrest(run: FlowRun, volumes: Array) -> dict[str, float]:
    """Distance of the last beat from the one before, over the square root of two: what no model can foresee."""
    step = float(np.median(np.diff(run.snapshot_time)))
    count = round(run.period / step)
    last, before = slice(-count, None), slice(-2 * count, -count)
    reference = run.port_pressure[:, 1:].mean(axis=1)
    level = np.interp(run.snapshot_time, run.time, reference)
    pressure = run.pressure - level[:, None]

    def relative(values: Array, weights: Array, about: float = 0.0) -> float:
        flat = values.reshape(len(values), len(weights), -1)
        off = (((flat[last] - flat[before]) ** 2).sum(axis=2) @ weights).sum()
        return float(np.sqrt(0.5 * off / (((flat[last] - about) ** 2).sum(axis=2) @ weights).sum()))

    absolute = run.pressure[last] - (run.pressure[last] @ volumes).mean() / volumes.sum()
    drop = pressure[last] - pressure[before]
    return {
        "pressure": float(np.sqrt(0.5 * ((drop**2) @ volumes).sum() / ((absolute**2) @ volumes).sum())),
        "velocity": relative(np.asarray(run.velocity, dtype=float), volumes),
        "wall_shear": relative(np.asarray(run.wall_shear, dtype=float), np.ones(run.wall_shear.shape[1])),
    }


@dataclass(frozen=True)
class Errors:
    """Of one model on one run, in percent."""

    port_pressure: tuple[float, float]
    """mean (root mean square) and largest, of the worst port"""
    port_flow: tuple[float, float]
    pressure: float
    velocity: float
    wall_shear: float | None


def errors_of(evaluation: Evaluation) -> Errors:
    """Ours."""
    shear = evaluation.wall_shear_error
    return Errors(
        port_pressure=(100 * evaluation.port_pressure_rms.max(), 100 * evaluation.port_pressure_max.max()),
        port_flow=(100 * evaluation.port_flow_rms.max(), 100 * evaluation.port_flow_max.max()),
        pressure=100 * evaluation.pressure_error,
        velocity=100 * evaluation.velocity_error,
        wall_shear=None if np.isnan(shear) else 100 * shear,
    )


def errors_of_prediction(run: FlowRun, said: Prediction | None, volumes: Array) -> Errors | None:
    """Another model's, by the same measures."""
    if said is None:
        return None
    keep = settled(run, run.snapshot_time, START_UP)
    when = run.snapshot_time[keep]
    weights = volumes / volumes.sum()

    def port(true: Array, found: Array) -> tuple[float, float]:
        values = np.column_stack([np.interp(when, run.time, column) for column in true.T])
        off = np.abs(found - values) / np.ptp(values, axis=0)
        return 100 * float(np.sqrt((off**2).mean(axis=0)).max()), 100 * float(off.max())

    def relative(found: Array, true: Array, about: float = 0.0) -> float:
        shape = (len(true), len(weights), -1)
        off, size = ((values.reshape(shape) ** 2).sum(axis=2) @ weights for values in (found - true, true - about))
        return 100 * float(np.sqrt(off.sum() / size.sum()))

    pressure, velocity = run.pressure[keep].astype(float), run.velocity[keep].astype(float)
    return Errors(
        port_pressure=port(run.port_pressure, said.port_pressure),
        port_flow=port(run.port_flow[:, 1:], said.port_flow[:, 1:]),
        pressure=relative(said.pressure, pressure, float((pressure @ weights).mean())),
        velocity=relative(said.velocity, velocity),
        wall_shear=None,
    )


def measure(anatomy: Anatomy, folder: Path, case: Case) -> tuple[dict[str, list[Errors]], dict[str, float]]:
    """Errors of each form on each held-out run, and the flow's own unrest."""
    model = load_model(case)
    mesh = read_lumen_mesh(case.require(MESH))
    points = mesh.points * METRES_PER_MM
    volumes = nodal_volumes(points, mesh.tetrahedra)
    *held_out, two_beats = (FlowRun.load(path) for path in held_out_files(anatomy, folder))
    found: dict[str, list[Errors]] = {"ours": [errors_of(model.evaluate(run)) for run in held_out]}
    inside = [model.range_excess(run) for run in held_out]
    console.print(f"{anatomy.name}: outside of the trained range by at most {max(inside):.2f} of its width")
    training = training_runs(case)
    try:
        other = OperatorInference.best(training, points, mesh.tetrahedra)
        said = [errors_of_prediction(run, other.predict(run), volumes) for run in held_out]
        found["operator inference"] = [one for one in said if one is not None]
        blown = len(said) - len(found["operator inference"])
        if blown:
            console.print(f"operator inference blows up on {blown} of {len(said)} held-out runs", style="yellow")
    except ImportError as error:
        console.print(f"operator inference is left out: {error}; install the extra bench", style="yellow")
    except RuntimeError as error:
        console.print(f"operator inference: {error}", style="yellow")
    return found, unrest(two_beats, volumes)


def show(anatomy: Anatomy, found: dict[str, list[Errors]], floor: dict[str, float]) -> None:
    """A table of them."""
    table = Table(
        "form", "run", "port pressure %", "port flow %", "pressure %", "velocity %", "wall shear %",
        title=f"{anatomy.name}: errors on held-out runs",
    )  # fmt: skip
    for form, several in found.items():
        for number, one in enumerate(several, start=1):
            shear = "" if one.wall_shear is None else f"{one.wall_shear:.2f}"
            pairs = [f"{mean:.2f} (max {most:.2f})" for mean, most in (one.port_pressure, one.port_flow)]
            table.add_row(form, str(number), *pairs, f"{one.pressure:.2f}", f"{one.velocity:.2f}", shear)
    unrests = [f"{100 * floor[name]:.2f}" for name in ("pressure", "velocity", "wall_shear")]
    table.add_row("one beat to the next / sqrt 2", "", "", "", *unrests)
    console.print(table)


def figures_of(anatomy: Anatomy, found: dict[str, list[Errors]], floor: dict[str, float]) -> dict[str, object]:
    """The worst of each over the held-out runs."""
    ours: Sequence[Errors] = found["ours"]
    name = anatomy.name
    figures: dict[str, object] = {
        f"{name}_port_pressure_mean": figure(max(one.port_pressure[0] for one in ours), "<= 1", "% of range"),
        f"{name}_port_pressure_max": figure(max(one.port_pressure[1] for one in ours), "<= 2", "% of range"),
        f"{name}_port_flow_mean": figure(max(one.port_flow[0] for one in ours), "<= 1", "% of range"),
        f"{name}_port_flow_max": figure(max(one.port_flow[1] for one in ours), "<= 2", "% of range"),
        f"{name}_pressure_field": figure(max(one.pressure for one in ours), "<= 1.5", "%"),
        f"{name}_velocity_field": figure(max(one.velocity for one in ours), "<= 4", "%"),
        f"{name}_wall_shear": figure(max(one.wall_shear or 0.0 for one in ours), "<= 6", "%"),
        **{f"{name}_unrest_{key}": figure(100 * value, None, "%") for key, value in floor.items()},
        f"{name}_held_out_runs": figure(len(ours), None, "runs"),
    }
    peer = found.get("operator inference")
    if peer:
        figures |= {
            f"{name}_operator_inference_port_pressure_mean": figure(max(o.port_pressure[0] for o in peer), None, "%"),
            f"{name}_operator_inference_port_flow_mean": figure(max(o.port_flow[0] for o in peer), None, "%"),
            f"{name}_operator_inference_pressure_field": figure(max(one.pressure for one in peer), None, "%"),
            f"{name}_operator_inference_velocity_field": figure(max(one.velocity for one in peer), None, "%"),
        }
    return figures


def figure(value: float, goal: str | None, unit: str) -> dict[str, object]:
    """One figure as benchmarks print it."""
    return {"value": value, **({"goal": goal} if goal else {}), "unit": unit}


def main() -> None:
    """Plan, run, compare, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="the phantom alone, with four training runs")
    parser.add_argument("--cache", type=Path, help="a folder that keeps plans and runs")
    parser.add_argument("--only", choices=["phantom", "aorta"], help="one anatomy")
    parser.add_argument("--prepare", action="store_true", help="make what is missing, measure nothing")
    options = parser.parse_args()
    anatomies = [Anatomy("phantom", 14_000, 4 if options.quick else 8, 2 if options.quick else 4)]
    if not options.quick and AORTA.is_file():
        anatomies.append(Anatomy("aorta", 18_000, 13, 3))
    figures: dict[str, object] = {}
    with tempfile.TemporaryDirectory() as folder:
        root = options.cache or Path(folder)
        for anatomy in anatomies:
            if options.only not in (None, anatomy.name):
                continue
            case = prepare(anatomy, root / anatomy.name)
            if not options.prepare:
                found, floor = measure(anatomy, root / anatomy.name, case)
                show(anatomy, found, floor)
                figures |= figures_of(anatomy, found, floor)
    if not options.quick and not AORTA.is_file():
        figures["aorta"] = {"value": None, "why": f"{AORTA} is not there"}
    print(json.dumps({"benchmark": "reduced_accuracy", "figures": figures}))


if __name__ == "__main__":
    main()
