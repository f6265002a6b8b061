"""A 3D flow run of a case into its periodic state, and everything that is read off it."""

import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tomli_w
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from meshes.centerline import Centerline
from meshes.files import read_centerline, read_lumen_mesh
from surgical_twin.axis import path_axis
from surgical_twin.case import CENTERLINE, MESH, Case, write_atomically, write_table
from surgical_twin.errors import InputError
from surgical_twin.flow.conditions import PortCondition
from surgical_twin.flow.domain import FlowDomain
from surgical_twin.flow.elastic_wall import ElasticWall
from surgical_twin.flow.energy import energy_gap
from surgical_twin.flow.files import table_rows, write_series, write_wall
from surgical_twin.flow.inflow import GivenFlow
from surgical_twin.flow.linear_solvers import MPI
from surgical_twin.flow.navier_stokes import FlowDiverged
from surgical_twin.flow.pressure_ratio import pressure_ratios
from surgical_twin.flow.run import FlowRun, run_flow
from surgical_twin.flow.sections import centerline_sections
from surgical_twin.flow.tuning import Tuned, last_beat, periodic_state, tune_in_flow
from surgical_twin.flow.wall_shear import shear_means
from surgical_twin.flow.waveform import PeriodicWaveform
from surgical_twin.flow.windkessel import Windkessel
from surgical_twin.solve_settings import SolveConditions, SolvePlan, elastic_wall, solve_conditions
from surgical_twin.training import flow_domain
from surgical_twin.units import CUBIC_METRES_PER_ML, METRES_PER_MM, PASCAL_PER_MMHG, read_quantity

Array = NDArray[np.float64]
Say = Callable[[str, float], None]
"""Takes what is being done, and the share of it that is done."""

SOLVES = "solve"
FIELDS, WALL, PORTS, SECTIONS, SUMMARY = "fields.vtkhdf", "wall.vtp", "ports.csv", "sections.csv", "summary.toml"
RUN, LAST_GOOD = "run.npz", "last_good.vtkhdf"
LARGEST_STRAIN = 0.1
"""Of an elastic wall, before a word is said: its model is of first order in it."""

TUNING_BEATS = 4
TUNING_PERIODIC = 0.005
"""Tuning runs come nearer to the periodic state than the 1 % that targets are met to."""


@dataclass(frozen=True)
class Solved:
    """What a solve gave."""

    folder: Path
    run: FlowRun
    figures: dict[str, Any]


def solve_case(
    case: Case,
    plan: SolvePlan,
    *,
    settings_folder: Path,
    name: str,
    say: Say,
    comm: MPI.Comm | None = None,
) -> Solved:
    """Run the flow of a case and write its results to ``solve/NAME`` in the case.

    Args:
        case: with its mesh, centerline and circulation planned.
        plan: the settings.
        settings_folder: where files that they name lie.
        name: of the results' folder.
        say: progress.
        comm: processes that share the work; the first of them writes.

    Raises:
        InputError: from settings that cannot be used, a disk that is full, or a run that diverges.
    """
    if not name or name != Path(name).name or name.startswith("."):
        raise InputError(f'--out "{name}" is no name of a folder; give a plain name such as "rest".')
    mesh_file = case.require(MESH)
    if "flow" not in case.manifest:
        raise InputError(
            f"The case {case.folder} has no circulation: its planning is not finished; run surgical-twin plan."
        )
    domain = flow_domain(read_lumen_mesh(mesh_file))
    conditions = solve_conditions(plan, case.manifest["flow"], domain, settings_folder)
    spacing = read_quantity(plan.section_spacing, "m", name="section_spacing")
    if spacing <= 0:
        raise InputError(f'section_spacing = "{plan.section_spacing}" is not positive; write such as "2 mm".')
    finest = 0.1 * float(np.median(domain.element_length))
    if spacing < finest:
        raise InputError(
            f'section_spacing = "{plan.section_spacing}" is finer than a tenth of the mesh\'s cells, '
            f"{finest / METRES_PER_MM:.2g} mm; write a wider one."
        )
    writes = comm is None or comm.rank == 0
    folder = case.path(SOLVES) / name
    if writes:
        folder.mkdir(parents=True, exist_ok=True)
    if comm is not None:
        comm.Barrier()
    outlets, tuned = dict(conditions.outlets), None
    start = _start(conditions, domain)
    wall = None
    if plan.wall is not None:
        wall = elastic_wall(plan.wall, _radius_at_wall(domain, read_centerline(case.require(CENTERLINE))))
    if conditions.targets is not None:
        tuned = _tuned(domain, conditions, plan, wall, folder, say, comm)
        outlets, start = dict(tuned.beds), tuned.start
    checkpoint = folder / "checkpoint.npz"
    try:
        run = _run(
            domain, conditions, plan, wall, outlets, start, plan.beats, plan.periodic_within, checkpoint,
            lambda share: say("3D flow", share), comm, full=True,
        )  # fmt: skip
    except FlowDiverged as error:
        if writes:
            _write_last_good(domain, checkpoint, folder / LAST_GOOD)
        raise InputError(f"{error} Its fields are in {folder / LAST_GOOD}.") from error
    figures = _figures(run, conditions, tuned)
    if writes:
        say("results", 0.0)
        figures |= _write(case, domain, run, outlets, conditions, folder, spacing, say)
        if wall is not None:
            figures["wall"] |= _wall_figures(domain, wall, run)
        write_atomically(folder / SUMMARY, tomli_w.dumps(figures))
        checkpoint.unlink(missing_ok=True)  # not before: a disk that is full now may have room later
        say("results", 1.0)
    return Solved(folder, run, figures)


def _radius_at_wall(domain: FlowDomain, centerline: Centerline) -> Array:
    """(w,) m: the vessel's radius at the place on the centerline that is nearest to each node of the wall."""
    tree = cKDTree(centerline.points * METRES_PER_MM)
    return np.asarray(centerline.radius[tree.query(domain.points[domain.wall_nodes])[1]] * METRES_PER_MM)


def _wall_figures(domain: FlowDomain, wall: ElasticWall, run: FlowRun) -> dict[str, Any]:
    """How an elastic wall moved; a note where it moved farther than its model is good for."""
    moved = np.linalg.norm(run.displacement, axis=2)
    share = float((moved / wall.radius).max())
    figures: dict[str, Any] = {
        "displacement_max_mm": float(moved.max()) / METRES_PER_MM,
        "displacement_max_of_radius": share,
    }
    if share > LARGEST_STRAIN:
        figures["note"] = (
            f"The wall moved by up to {share:.0%} of the radius, and is modelled for some 5 %: set "
            "wall.reference_pressure to the pressure of the image, or check youngs_modulus and thickness."
        )
    return figures


def _start(conditions: SolveConditions, domain: FlowDomain) -> dict[str, float]:
    """Capacitor pressures of the periodic state when a beat begins, outlets sharing the flow by resistance."""
    inflow = _total_inflow(conditions, domain)
    beds = {name: bed for name, bed in conditions.outlets.items() if isinstance(bed, Windkessel)}
    if inflow is None or len(beds) != len(conditions.outlets):
        return {}
    conductance = {name: 1.0 / (bed.proximal_resistance + bed.distal_resistance) for name, bed in beds.items()}
    total = sum(conductance.values())
    return {
        name: float(periodic_state(bed.circuit(), inflow.scaled(conductance[name] / total))[0])
        for name, bed in beds.items()
    }


def _total_inflow(conditions: SolveConditions, domain: FlowDomain) -> PeriodicWaveform | None:
    """Of all inlets together; None where one of them is not of given flow, or none flows on average."""
    found = []
    for port in domain.inlets:
        condition = conditions.inlets[port.name]
        if not isinstance(condition, GivenFlow):
            return None
        found.append(condition.waveform)
    times = np.linspace(0.0, conditions.period, 257)
    total = PeriodicWaveform.from_table(times, sum(np.array([one.value(time) for time in times]) for one in found))
    return total if total.mean > 0 else None


def _run(
    domain: FlowDomain,
    conditions: SolveConditions,
    plan: SolvePlan,
    wall: ElasticWall | None,
    outlets: dict[str, PortCondition],
    start: dict[str, float],
    beats: int,
    periodic_within: float,
    checkpoint: Path | None,
    progress: Callable[[float], None],
    comm: MPI.Comm | None,
    *,
    full: bool,
) -> FlowRun:
    in_beat = max(1, int(np.ceil(conditions.period / conditions.time_step - 1e-9)))
    return run_flow(
        domain,
        inflow=conditions.inlets,
        outlets=outlets,
        duration=beats * conditions.period,
        time_step=conditions.time_step,
        snapshot_every=max(1, round(in_beat / plan.snapshots)) if full else in_beat,
        density=conditions.density,
        rheology=conditions.rheology,
        initial_capacitor_pressure=start,
        progress=progress,
        checkpoint=checkpoint,
        keep_checkpoint=full,
        order=plan.order,
        max_cfl=plan.max_cfl,
        periodic_within=periodic_within,
        wall_shear=full,
        energy=full,
        last_beat_only=True,
        wall=wall,
        comm=comm,
    )


def _tuned(
    domain: FlowDomain,
    conditions: SolveConditions,
    plan: SolvePlan,
    wall: ElasticWall | None,
    folder: Path,
    say: Say,
    comm: MPI.Comm | None,
) -> Tuned:
    inflow = _total_inflow(conditions, domain)
    if inflow is None or conditions.targets is None:
        raise InputError("Tuning needs inlets of given flow with a positive mean; give [ports.INLET] a flow.")
    done = 0

    def run(beds: dict[str, Windkessel], start: dict[str, float]) -> FlowRun:
        nonlocal done
        done += 1
        return _run(
            domain, conditions, plan, wall, dict(beds), start, TUNING_BEATS, TUNING_PERIODIC,
            folder / f"tuning_{done}.checkpoint.npz", lambda share: say(f"tuning, run {done}", share), comm, full=False,
        )  # fmt: skip

    return tune_in_flow(run, inflow, conditions.targets)


def _figures(run: FlowRun, conditions: SolveConditions, tuned: Tuned | None) -> dict[str, Any]:
    part = last_beat(run)
    time = run.time[part]
    ports: dict[str, dict[str, float]] = {}
    for place, name in enumerate(run.port_names):
        flow, pressure = run.port_flow[part, place], run.port_pressure[part, place]
        span = time[-1] - time[0]
        ports[name] = {
            "mean_flow_ml_s": float(np.trapezoid(flow, time) / span / CUBIC_METRES_PER_ML),
            "mean_pressure_mmhg": float(np.trapezoid(pressure, time) / span / PASCAL_PER_MMHG),
            "systolic_mmhg": float(pressure.max() / PASCAL_PER_MMHG),
            "diastolic_mmhg": float(pressure.min() / PASCAL_PER_MMHG),
        }
    figures: dict[str, Any] = {"run": run.figures, "beats": float(run.time[-1] / run.period), "port": ports}
    if len(run.energy):
        gap, loss = energy_gap(time, run.energy[part])
        figures["energy"] = {"loss_mw": 1e3 * loss, "balance_gap": gap}
    if tuned is not None:
        figures["tuning"] = {
            "runs": tuned.runs,
            "errors": tuned.errors,
            "windkessels": {name: asdict(bed) for name, bed in tuned.beds.items()},
        }
    return figures


def _write(
    case: Case,
    domain: FlowDomain,
    run: FlowRun,
    outlets: dict[str, PortCondition],
    conditions: SolveConditions,
    folder: Path,
    spacing: float,
    say: Say,
) -> dict[str, Any]:
    """All files of a run; figures of what was read off the fields."""
    columns: dict[str, Array] = {"time_s": run.time}
    for place, name in enumerate(run.port_names):
        columns[f"{name}_flow_ml_s"] = run.port_flow[:, place] / CUBIC_METRES_PER_ML
        columns[f"{name}_pressure_mmhg"] = run.port_pressure[:, place] / PASCAL_PER_MMHG
    _table(folder / PORTS, columns)
    whole = run.snapshot_time >= run.time[-1] - run.period * (1 + 1e-6)
    times = run.snapshot_time[whole] - (run.time[-1] - run.period)
    pressure, velocity, shear = run.pressure[whole], run.velocity[whole], run.wall_shear[whole]
    moved = run.displacement[whole] if len(run.displacement) else run.displacement
    walls = np.zeros((len(domain.points), 3), dtype=np.float32)

    def fields(place: int) -> dict[str, Array]:
        stress = walls.copy()
        stress[domain.wall_nodes] = shear[place]
        made = {
            "pressure_mmhg": pressure[place] / np.float32(PASCAL_PER_MMHG),
            "velocity_m_s": velocity[place],
            "wall_shear_stress_pa": stress,
        }
        if moved.size:
            displacement = walls.copy()
            displacement[domain.wall_nodes] = moved[place] / np.float32(METRES_PER_MM)
            made["displacement_mm"] = displacement
        return made

    write_series(folder / FIELDS, domain, times, fields)
    say("results", 0.4)
    means = shear_means(times, shear)
    peak = int(np.argmax(np.linalg.norm(shear, axis=2).mean(axis=1)))
    at_peak = {"peak_wall_shear_stress_pa": shear[peak]}
    if moved.size:
        at_peak["displacement_mm"] = moved[peak] / np.float32(METRES_PER_MM)
    write_wall(folder / WALL, domain, means, at_peak)
    run.save(folder / RUN)
    say("results", 0.6)
    figures: dict[str, Any] = {
        "wall": {
            "tawss_mean_pa": float(means.mean_magnitude.mean()),
            "tawss_95_pa": float(np.percentile(means.mean_magnitude, 95)),
            "osi_mean": float(means.oscillation.mean()),
        }
    }
    ratios: dict[str, dict[str, float]] = {}
    centerline, ports = read_centerline(case.require(CENTERLINE)), read_lumen_mesh(case.require(MESH)).ports
    rows: list[list[str]] = []
    header: list[str] = []
    for port in domain.outlets:
        axis = path_axis(centerline, ports, port.name)
        sections, distance = centerline_sections(domain, axis.points * METRES_PER_MM, spacing)
        flow, mean = sections.flow(velocity), sections.pressure(pressure)
        span = times[-1] - times[0]
        table: dict[str, Array] = {
            "distance_mm": distance / METRES_PER_MM,
            **{f"{letter}_mm": sections.centers[:, k] / METRES_PER_MM for k, letter in enumerate("xyz")},
            "area_mm2": sections.area / METRES_PER_MM**2,
            "mean_flow_ml_s": np.trapezoid(flow, times, axis=0) / span / CUBIC_METRES_PER_ML,
            "mean_pressure_mmhg": np.trapezoid(mean, times, axis=0) / span / PASCAL_PER_MMHG,
            "peak_flow_ml_s": flow.max(axis=0) / CUBIC_METRES_PER_ML,
            "systolic_mmhg": mean.max(axis=0) / PASCAL_PER_MMHG,
            "diastolic_mmhg": mean.min(axis=0) / PASCAL_PER_MMHG,
        }
        inlet = np.interp(
            times, run.time[last_beat(run)] - (run.time[-1] - run.period), run.port_pressure[last_beat(run), 0]
        )
        try:
            ratio = pressure_ratios(times, inlet, mean)
        except InputError as error:
            figures.setdefault("notes", []).append(str(error))
            table |= {"ffr": np.full(len(distance), np.nan), "ifr": np.full(len(distance), np.nan)}
        else:
            table |= {"ffr": ratio.ffr, "ifr": ratio.ifr}
            ratios[port.name] = {"ffr": float(ratio.ffr[-1]), "ifr": float(ratio.ifr[-1])}
        names, values = table_rows(table)
        header = ["outlet", *names]
        rows += [[port.name, *row] for row in values]
    _write_rows(folder / SECTIONS, header, rows)
    if ratios:
        figures["pressure_ratio"] = ratios
    return figures


def _table(path: Path, columns: dict[str, Array]) -> None:
    header, rows = table_rows(columns)
    _write_rows(path, list(header), rows)


def _write_rows(path: Path, header: list[str], rows: list[list[str]]) -> None:
    try:
        write_table(path, header, rows)
    except OSError as error:
        path.with_name(f".{path.name}.{os.getpid()}.part").unlink(missing_ok=True)
        raise InputError(
            f"{path} cannot be written ({error.strerror}); make room on the disk and run again."
        ) from error


def _write_last_good(domain: FlowDomain, checkpoint: Path, path: Path) -> None:
    """The fields of a checkpoint, to look at where a flow diverged."""
    with np.load(checkpoint, allow_pickle=False) as data:
        pressure, time = data["pressure"], float(data["numbers"][0])
        velocity = data["velocity"][: len(domain.points)]
    fields = {"pressure_mmhg": pressure / PASCAL_PER_MMHG, "velocity_m_s": velocity}
    write_series(path, domain, np.array([time]), lambda place: fields)
