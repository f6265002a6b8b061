"""What-if against 3D runs of the changed situation.

A phantom is planned as a user plans it. Then its circulation is changed, and its geometry (the stenosis opened, which
the phantom's formulas know), and each changed situation is run in 3D from the periodic state that the reduced model
expects. Beside it stands what the reduced model says at once, and, as the plain alternative, the same network without a
tree: beds in parallel, whose flow goes with their conductance.

The 3D runs are driven by their inflow, so the comparison holds the flow. Errors of pressures are of the mean pressure,
of flows of the mean inflow; that of a stent is of the change of the drop to the outlet behind the stenosis.
"""

from __future__ import annotations

import argparse
import json
import re
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import SimpleITK as sitk
from rich.console import Console
from rich.table import Table

from meshes.files import read_lumen_mesh, write_lumen_mesh
from meshes.phantom import stenosed_bifurcation
from meshes.tetrahedra import mesh_lumen
from surgical_twin.assimilation.flow_filter import FilterState
from surgical_twin.case import LUMEN, MESH, Case
from surgical_twin.commands.planning import plan_case
from surgical_twin.demo import phantom_request
from surgical_twin.flow.run import FlowRun
from surgical_twin.flow.windkessel import Windkessel
from surgical_twin.plan_settings import PlanSettings
from surgical_twin.planning import planned_conditions
from surgical_twin.prediction.circulation import Beat, periodic_beat
from surgical_twin.prediction.interventions import Situation, apply_all
from surgical_twin.prediction.pharmacology import read_drugs
from surgical_twin.prediction.reading import Reader
from surgical_twin.prediction.what_if import Comparison, Predictor
from surgical_twin.session_model import SessionModel
from surgical_twin.training import FlowConditions, RunJob, cores, run_jobs
from surgical_twin.units import PASCAL_PER_MMHG

BEATS = 2.0
"""of each 3D run; the last one is compared"""

CHANGES = {
    "clamp outlet_2": [("clamp", "outlet_2")],
    "svr +30%": [("svr", "+30%")],
    "resistance outlet_1 -40%": [("resistance", "outlet_1=-40%")],
    "resistance outlet_2 +60%": [("resistance", "outlet_2=+60%")],
    "svr -25%, inflow +20%": [("svr", "-25%"), ("inflow", "+20%")],
}
STENTS = [(residual, inflow) for residual in (0.0, 0.1, 0.2, 0.3) for inflow in (1.0, 0.75, 0.87, 1.15, 1.3)]


def sharp_ensemble(model: SessionModel) -> FilterState:
    """The planned patient and no other."""
    initial = model.filter.initial(0, model.waveform.period)
    return replace(initial, log_factors=np.zeros_like(initial.log_factors)[:2])


def changed_conditions(planned: FlowConditions, situation: Situation, before: Situation) -> FlowConditions:
    """The situation's Windkessels and inflow for a 3D run."""
    bed = situation.circulation.parameters
    names = situation.outlets
    windkessels = {
        name: Windkessel(
            proximal_resistance=float(bed.proximal_resistance[0, index]),
            distal_resistance=float(bed.distal_resistance[0, index]),
            compliance=float(bed.compliance[0, index]),
            distal_pressure=float(bed.distal_pressure[0, index]),
        )
        for index, name in enumerate(names)
    }
    factor = float(situation.circulation.scale[0] / before.circulation.scale[0])
    return replace(planned, windkessels=windkessels, mean_flow=planned.mean_flow * factor)


def last_beat(run: FlowRun) -> tuple[np.ndarray, np.ndarray]:
    """Mean pressure [Pa] and flow [m^3/s] of each port over the last beat."""
    inside = run.time > run.time[-1] - run.period + 1e-9
    return run.port_pressure[inside].mean(axis=0), run.port_flow[inside].mean(axis=0)


def start_of(beat: Beat, names: tuple[str, ...]) -> dict[str, float]:
    """Capacitor pressures [Pa] where the reduced model's periodic beat begins."""
    last = beat.last.capacitor_pressure[0]
    return dict(zip(names, (float(value) for value in last), strict=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--quick", action="store_true", help="a coarse mesh, one clamp, one change of resistance, one stent"
    )
    parser.add_argument("--case", type=Path, help="a planned demo case to use; planned anew where not given")
    parser.add_argument("--cache", type=Path, help="a folder that keeps the plan and the runs; goes on where it was")
    arguments = parser.parse_args()
    console = Console(stderr=True)
    with tempfile.TemporaryDirectory() as folder:
        work = arguments.cache or Path(folder)
        work.mkdir(parents=True, exist_ok=True)
        case = Case.open(arguments.case) if arguments.case else plan(work, arguments.quick)
        report(case, work, arguments.quick, console)


def plan(work: Path, quick: bool) -> Case:
    """Plan the phantom."""
    request = phantom_request(stenosed_bifurcation(seed=0), work)
    if quick:
        settings = request.settings
        coarse = replace_mesh(settings, edges_across=5.0, max_tetrahedra=14_000)
        request = replace(request, settings=coarse)
    plan_case(request, work / "case")
    return Case.open(work / "case")


def replace_mesh(settings: PlanSettings, **changes: float) -> PlanSettings:
    """Other mesh settings."""
    return msgspec.structs.replace(settings, mesh=msgspec.structs.replace(settings.mesh, **changes))


def report(case: Case, work: Path, quick: bool, console: Console) -> None:
    """Run everything in 3D, compare, print."""
    model = SessionModel.load(case)
    predictor = Predictor(case, model, sharp_ensemble(model))
    reader = Reader(predictor.situation, read_drugs(), predictor.planned_inflow)
    planned = planned_conditions(case, beats=BEATS)
    wishes: dict[str, list[tuple[str, str]]] = dict(list(CHANGES.items())[:2] if quick else CHANGES)
    stents = STENTS[:1] if quick else STENTS
    for residual, inflow in stents:
        # The run of the present geometry at this inflow is the reference that a stent is compared with.
        if inflow != 1.0:
            wishes[f"inflow x{inflow}"] = [("inflow", f"x{inflow}")]
        wishes[f"stent, {100 * residual:.0f} % left, inflow x{inflow}"] = [
            ("stent", f"stenosis_1={100 * residual:.0f}%"),
            *([] if inflow == 1.0 else [("inflow", f"x{inflow}")]),
        ]
    wishes["as planned"] = []
    opened = {residual: opened_mesh(case, work, residual) for residual, _ in stents}
    jobs, comparisons = [], {}
    for name, asked in wishes.items():
        chosen = [reader.read(kind, text) for kind, text in asked]
        situation = apply_all(predictor.situation, chosen, 0)
        beat = periodic_beat(situation.circulation)
        mesh = case.require(MESH)
        if name.startswith("stent"):
            mesh = opened[float(name.split()[1]) / 100.0]
        jobs.append(
            RunJob(
                mesh=mesh,
                conditions=changed_conditions(planned, situation, predictor.situation),
                result=work / f"{re.sub(r'[^a-z0-9]+', '_', name)}.npz",
                snapshot_every=10_000,
                capacitor_pressure=start_of(beat, situation.outlets),
            )
        )
        comparisons[name] = predictor.compare(chosen, source="flow") if chosen else None
    missing = [job for job in jobs if not job.result.is_file()]
    batch = cores()
    for number in range(0, len(missing), batch):  # a few at a time, so that what is done stays done
        with console.status(f"3D runs {number + 1} to {number + batch} of {len(missing)}"):
            run_jobs(missing[number : number + batch], lambda share: None)
    runs = {name: FlowRun.load(job.result) for name, job in zip(wishes, jobs, strict=True)}
    figures = measure(predictor, comparisons, runs, console)
    print(json.dumps({"benchmark": "what_if_accuracy", "figures": figures}))


def opened_mesh(case: Case, work: Path, residual: float) -> Path:
    """The phantom with its stenosis opened to a residual, meshed between the case's own ports."""
    path = work / f"opened_{round(100 * residual)}.vtu"
    if path.is_file():
        return path
    lumen = sitk.ReadImage(str(case.require(LUMEN)))
    phantom = stenosed_bifurcation(seed=0, stenosis=residual)
    index = np.indices(lumen.GetSize()[::-1]).reshape(3, -1)[::-1].T
    direction = np.array(lumen.GetDirection()).reshape(3, 3)
    points = np.array(lumen.GetOrigin()) + (index * np.array(lumen.GetSpacing())) @ direction.T
    distance = phantom.truth_signed_distance(points).reshape(lumen.GetSize()[::-1])
    made = sitk.GetImageFromArray(distance.astype(np.float32))
    made.CopyInformation(lumen)
    plan_mesh = read_lumen_mesh(case.require(MESH))
    settings = case.step("mesh")["settings"]
    mesh = mesh_lumen(
        made, plan_mesh.ports, edges_across=settings["edges_across"], max_tetrahedra=settings["max_tetrahedra"]
    )
    write_lumen_mesh(mesh, path)
    return path


def measure(
    predictor: Predictor,
    comparisons: Mapping[str, Comparison | None],
    runs: Mapping[str, FlowRun],
    console: Console,
) -> dict[str, dict[str, object]]:
    """Errors of each change."""
    table = Table(
        "change", "pressure %", "flow %", "beds alone: flow %", "drop change %", "inside", title="what-if against 3D"
    )
    network, beds_alone, stent_errors, inside = [], [], [], []
    resting = last_beat(runs["as planned"])
    for name, comparison in comparisons.items():
        if comparison is None:
            continue
        pressure, flow = last_beat(runs[name])
        outcome = comparison.after
        said_pressure = outcome.mean_pressure_mmhg[0] * PASCAL_PER_MMHG
        said_flow = outcome.mean_flow_ml_min[0] / 60.0 * 1e-6
        pressure_error = 100 * float(np.abs(said_pressure / pressure - 1.0).max())
        flow_error = 100 * float(np.abs(said_flow - flow).max() / flow[0])
        row = [name, f"{pressure_error:.2f}", f"{flow_error:.2f}"]
        if name.startswith("stent"):
            inflow = name.rsplit("x", 1)[1]
            before = resting if inflow == "1.0" else last_beat(runs[f"inflow x{inflow}"])
            true_change = (pressure[0] - pressure[1]) - (before[0][0] - before[0][1])
            first = comparison.before if inflow == "1.0" else comparisons[f"inflow x{inflow}"].after  # type: ignore[union-attr]
            drop = (first.mean_pressure_mmhg[0, 0] - first.mean_pressure_mmhg[0, 1]) * PASCAL_PER_MMHG
            said_change = (said_pressure[0] - said_pressure[1]) - drop
            stent_errors.append(100 * abs(said_change / true_change - 1.0))
            estimate = comparison.quantities["mean pressure outlet_1 [mmHg]"].after
            inside.append(estimate.lower <= pressure[1] / PASCAL_PER_MMHG <= estimate.upper)
            row += ["", f"{stent_errors[-1]:.1f}", str(inside[-1])]
        else:
            bed = apply_beds(predictor, name)
            beds_alone.append(100 * float(np.abs(bed - flow[1:] / flow[0]).max()))
            network += [pressure_error, flow_error]
            row += [f"{beds_alone[-1]:.2f}", "", ""]
        table.add_row(*row)
    console.print(table)
    return {
        "network_error_max": {"value": max(network), "goal": "<= 2", "unit": "%"},
        "beds_alone_flow_error_max": {"value": max(beds_alone), "unit": "%"},
        "stent_drop_error_max": {"value": max(stent_errors), "goal": "<= 10", "unit": "%"},
        "stent_interval_contains_3d": {"value": 100 * float(np.mean(inside)), "goal": ">= 90", "unit": "%"},
        "stent_cases": {"value": len(inside), "unit": "1"},
    }


def apply_beds(predictor: Predictor, name: str) -> np.ndarray:
    """(N,) shares of the inflow with beds in parallel and no tree."""
    reader = Reader(predictor.situation, read_drugs(), predictor.planned_inflow)
    asked = CHANGES.get(name) or [("inflow", name.split()[1])]
    after = apply_all(predictor.situation, [reader.read(kind, text) for kind, text in asked], 0)
    bed = after.circulation.parameters
    conductance = 1.0 / (bed.proximal_resistance[0] + bed.distal_resistance[0])
    return np.asarray(conductance / conductance.sum())


if __name__ == "__main__":
    main()
