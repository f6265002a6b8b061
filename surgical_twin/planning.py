"""Planning: from an image to a case that a procedure can be run on, step by step.

Each step reads files of the case and writes files of the case. A step whose inputs and settings have not
changed since it was last run is skipped, so an interrupted plan goes on where it was, and a label map
corrected by hand carries through everything behind it.
"""

import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pyvista as pv
import SimpleITK as sitk

from meshes.anatomy import anatomy_surface, skin_points
from meshes.centerline import Centerline
from meshes.files import read_centerline, read_lumen_mesh
from meshes.lumen import Lumen
from meshes.tetrahedra import LumenMesh
from registration.point_files import read_point_file
from surgical_twin.anatomy_estimate import UNCERTAINTY, estimated_model
from surgical_twin.axis import Axis, main_axis, path_axis
from surgical_twin.case import (
    ANATOMY,
    BRANCHES,
    CENTERLINE,
    CENTERLINE_TABLE,
    FIDUCIALS,
    IMAGE,
    LABELS,
    LEVEL_SET,
    MESH,
    REDUCED,
    STENOSES,
    SURFACE,
    Case,
    write_table,
)
from surgical_twin.errors import InputError
from surgical_twin.flow.reduced import ReducedModel
from surgical_twin.flow.rheology import Newtonian
from surgical_twin.flow.run import FlowRun
from surgical_twin.flow.waveform import PeriodicWaveform
from surgical_twin.flow.windkessel import tune_windkessels
from surgical_twin.plan_anatomy import (
    PlanRequest,
    Say,
    image_step,
    lumen_step,
    mesh_step,
    plain,
    source_hash,
    without_none,
)
from surgical_twin.plan_anatomy import write_image as write_image
from surgical_twin.plan_settings import read_flow
from surgical_twin.training import FlowConditions, planned_windkessels
from surgical_twin.training_design import RunRecord, training_conditions
from surgical_twin.training_rounds import DESIGN, Training, run_file
from surgical_twin.units import METRES_PER_MM, PASCAL_PER_MMHG


@dataclass(frozen=True)
class Step:
    """One step of planning: its name for the manifest and for a person, and what it does."""

    name: str
    title: str
    run: Callable[[Case, PlanRequest, Say], None]


def plan(request: PlanRequest, case: Case, watch: Callable[[Step], Say], *, until: str | None = None) -> None:
    """Run every planning step that is not current.

    Args:
        request: what to plan from.
        case: where to.
        watch: called when a step begins; returns what takes the share of it that is done.
        until: the last step to run; all where None.

    Raises:
        InputError: from any step, for input that cannot be used; nothing is left half-written.
    """
    for step in STEPS:
        say = watch(step)
        say(0.0)
        step.run(case, request, say)
        say(1.0)
        if step.name == until:
            break


def _anatomy(case: Case, request: PlanRequest, say: Say) -> None:
    """The surroundings to show, and the points to touch."""
    given = request.settings.fiducials
    settings = {"fiducials": "" if given is None else source_hash(Path(given))}
    if case.is_current("anatomy", [IMAGE, LABELS, LEVEL_SET], settings):
        return
    image = sitk.ReadImage(str(case.require(IMAGE)))
    lumen = Lumen(
        label=sitk.ReadImage(str(case.require(LABELS))),
        level_set=sitk.ReadImage(str(case.require(LEVEL_SET))),
        notes=(),
    )
    write_polydata(anatomy_surface(image, lumen), case.path(ANATOMY))
    say(0.7)
    fiducials = skin_points(image) if given is None else read_point_file(Path(given)).by_name()
    if len(fiducials) < 3:
        raise InputError(f"{given} names {len(fiducials)} fiducials; registration needs at least 3, better 6.")
    write_table(
        case.path(FIDUCIALS),
        ("name", "x", "y", "z"),
        [(name, *(f"{value:.4f}" for value in point)) for name, point in fiducials.items()],
    )
    case.record_step(
        "anatomy",
        inputs=[IMAGE, LABELS, LEVEL_SET],
        outputs=[ANATOMY, FIDUCIALS],
        settings=settings,
        figures={"fiducials": len(fiducials)},
        notes=() if given else ("The fiducials are well-spread points of the skin, proposed from the image.",),
    )


def write_polydata(surface: pv.PolyData, path: Path) -> None:
    """Write a surface as VTP under a temporary name and rename it."""
    temporary = path.with_name(f".{os.getpid()}.{path.name}")
    surface.save(temporary)
    temporary.replace(path)


def _circulation(case: Case, request: PlanRequest, say: Say) -> None:
    """Inflow and Windkessels from what a clinic knows."""
    plan_flow = request.settings.flow
    settings = without_none(plan_flow)
    if case.is_current("circulation", [MESH], settings):
        return
    quantities = read_flow(plan_flow)
    mesh = read_lumen_mesh(case.require(MESH))
    inlet = next(port for port in mesh.ports if port.role == "inlet")
    outlets = [port for port in mesh.ports if port.role == "outlet"]
    area = inlet.area * METRES_PER_MM**2
    mean_flow = quantities.mean_flow or quantities.mean_velocity * area
    waveform = PeriodicWaveform.named(plan_flow.waveform, mean=mean_flow, period=quantities.period)
    windkessels = tune_windkessels(
        waveform,
        {port.name: port.radius * METRES_PER_MM for port in outlets},
        mean_pressure=quantities.mean_pressure,
        pulse_pressure=quantities.pulse_pressure,
    )
    reynolds = 2 * quantities.density * mean_flow / (np.pi * inlet.radius * METRES_PER_MM * quantities.viscosity)
    womersley = (
        inlet.radius
        * METRES_PER_MM
        * np.sqrt(2 * np.pi * quantities.density / (quantities.period * quantities.viscosity))
    )
    case.manifest["flow"] = {
        "inlet": inlet.name,
        "waveform": plan_flow.waveform,
        "mean_flow_m3_s": mean_flow,
        "period_s": quantities.period,
        "density_kg_m3": quantities.density,
        "viscosity_pa_s": quantities.viscosity,
        "time_step_s": quantities.time_step,
        "windkessels": {name: asdict(bed) for name, bed in windkessels.items()},
    }
    figures = {"reynolds": round(float(reynolds), 1), "womersley": round(float(womersley), 2)}
    case.record_step("circulation", inputs=[MESH], outputs=[], settings=settings, figures=figures)


def planned_conditions(case: Case, *, beats: float) -> FlowConditions:
    """The planned state of the circulation as conditions of a 3D run."""
    flow = case.manifest["flow"]
    return FlowConditions(
        waveform=flow["waveform"],
        mean_flow=flow["mean_flow_m3_s"],
        period=flow["period_s"],
        windkessels=planned_windkessels(flow),
        density=flow["density_kg_m3"],
        rheology=Newtonian(flow["viscosity_pa_s"]),
        time_step=flow["time_step_s"],
        duration=beats * flow["period_s"],
    )


def _estimate(case: Case, request: PlanRequest, say: Say) -> None:
    """A flow model from the anatomy alone, which works until the trained one is there.

    It lies where the trained model will; its record names no output, so that the trained model in its place does not
    make it be done again, and a change of what it was made from does.
    """
    inputs = [MESH, CENTERLINE, CENTERLINE_TABLE, BRANCHES, STENOSES]
    settings = {"circulation": _flow_text(case)}
    if case.is_current("estimate", inputs, settings) and case.path(REDUCED).is_file() and case.path(SURFACE).is_file():
        return
    planned = planned_conditions(case, beats=1.0)
    model = estimated_model(case, planned, training_conditions(planned))
    say(0.8)
    model.save(case.path(REDUCED))
    write_polydata(display_surface(read_lumen_mesh(case.require(MESH)), model), case.path(SURFACE))
    figures = {
        "port_pressure_error_mmhg": round(float(model.port_pressure_error.max()) / PASCAL_PER_MMHG, 2),
        "drop_uncertainty_percent": round(100.0 * UNCERTAINTY),
    }
    case.record_step("estimate", inputs=inputs, outputs=[], settings=settings, figures=figures)


def _training(case: Case, request: PlanRequest) -> Training:
    plan = request.settings.training
    return Training(
        case=case,
        planned=planned_conditions(case, beats=plan.beats),
        plan=plan,
        shared=shared_branches(read_centerline(case.require(CENTERLINE))),
        scheduler=request.scheduler,
    )


def _runs(case: Case, request: PlanRequest, say: Say) -> None:
    """The 3D runs."""
    settings = {**without_none(request.settings.training), "circulation": _flow_text(case)}
    if case.is_current("runs", [MESH], settings):
        return
    mesh = read_lumen_mesh(case.require(MESH))
    estimate = ReducedModel.load(case.require(REDUCED), mesh.points * METRES_PER_MM, mesh.tetrahedra)
    record = _training(case, request).make_runs(estimate.ports, say)
    files = [run_file(number) for number in range(len(record.coordinates))]
    figures = {Path(name).stem: plain(FlowRun.load(case.path(name)).figures) for name in files}
    notes = (
        [
            f"{len(files)} 3D runs; before the last were chosen, the largest estimated error was "
            f"{record.estimates[-1]:.2f} of its goal."
        ]
        if record.estimates
        else []
    )
    case.record_step("runs", inputs=[MESH], outputs=[*files, DESIGN], settings=settings, figures=figures, notes=notes)


def _flow_text(case: Case) -> str:
    return repr(case.manifest["flow"])


def _reduced(case: Case, request: PlanRequest, say: Say) -> None:
    """Train the reduced model, measure it on runs left out, and write what the display needs."""
    record = RunRecord.read(case.require(DESIGN))
    if record is None:
        raise InputError(f"The case {case.folder} has no {DESIGN}; plan it again.")
    inputs = [MESH, CENTERLINE, DESIGN, *(run_file(number) for number in range(len(record.coordinates)))]
    if case.is_current("reduced", inputs, {}):
        return
    mesh = read_lumen_mesh(case.require(MESH))
    model = _training(case, request).model(record)
    say(0.8)
    model.save(case.path(REDUCED))
    write_polydata(display_surface(mesh, model), case.path(SURFACE))
    figures = {name: max(one[name] for one in model.held_out) for name in model.held_out[0]}
    case.record_step("reduced", inputs=inputs, outputs=[REDUCED, SURFACE], settings={}, figures=plain(figures))


def shared_branches(centerline: Centerline) -> list[list[str]]:
    """The outlets behind each branch that feeds several: what the reduced model's tree has in common."""
    feeds: dict[int, list[str]] = {branch.index: [] for branch in centerline.branches}
    for branch in centerline.branches:
        if branch.end is None:
            continue
        above: int | None = branch.index
        while above is not None:
            feeds[above].append(branch.end)
            above = centerline.branches[above].parent
    groups = {tuple(sorted(outlets)) for outlets in feeds.values() if len(outlets) > 1}
    return [list(group) for group in sorted(groups)]


def display_surface(mesh: LumenMesh, model: ReducedModel) -> pv.PolyData:
    """The lumen's boundary with the pressure modes [mmHg per coefficient] at its vertices."""
    used, triangles = np.unique(mesh.triangles, return_inverse=True)
    triangles = triangles.reshape(-1, 3)
    faces = np.hstack([np.full((len(triangles), 1), 3), triangles]).ravel()
    surface = pv.PolyData(mesh.points[used], faces)
    surface.cell_data["Tag"] = mesh.triangle_tags
    surface.field_data["PortNames"] = [port.name for port in mesh.ports]
    surface.field_data["PortCenters"] = np.array([port.center for port in mesh.ports])
    modes = model.decoder.display_modes(used.astype(np.int64)) / PASCAL_PER_MMHG
    for number in range(modes.shape[1]):
        surface.point_data[f"pressure_mode_{number}"] = modes[:, number].astype(np.float32)
    return surface


STEPS = (
    Step("image", "reading the image", image_step),
    Step("lumen", "finding the lumen", lumen_step),
    Step("mesh", "centerline, ports and mesh", mesh_step),
    Step("anatomy", "anatomy and fiducials", _anatomy),
    Step("circulation", "tuning the circulation", _circulation),
    Step("estimate", "estimating the flow from the anatomy", _estimate),
    Step("runs", "3D flow", _runs),
    Step("reduced", "training the reduced model", _reduced),
)


def load_axis(case: Case, outlet: str | None = None) -> Axis:
    """The way through a planned case to an outlet; the one through the narrowest place where none is named.

    Raises:
        InputError: the case has no such outlet.
    """
    centerline = read_centerline(case.require(CENTERLINE))
    ports = read_lumen_mesh(case.require(MESH)).ports
    if outlet is None:
        return main_axis(centerline, ports)
    outlets = [port.name for port in ports if port.role == "outlet"]
    if outlet not in outlets:
        raise InputError(f"The case has no outlet {outlet}; its outlets are {', '.join(outlets)}.")
    return path_axis(centerline, ports, outlet)
