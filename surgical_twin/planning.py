"""Planning: from an image to a case that a procedure can be run on, step by step.

Each step reads files of the case and writes files of the case. A step whose inputs and settings have not
changed since it was last run is skipped, so an interrupted plan goes on where it was, and a label map
corrected by hand carries through everything behind it.
"""

import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyvista as pv
import SimpleITK as sitk

from meshes.anatomy import anatomy_surface, skin_points
from meshes.centerline import Centerline, extract_centerline
from meshes.external import read_lumen
from meshes.files import read_centerline, read_lumen_mesh, write_lumen_mesh
from meshes.image import read_image
from meshes.lumen import Lumen
from meshes.picture import write_projections
from meshes.ports import find_ports
from meshes.quality import mesh_quality
from meshes.segmentation import segment_lumen
from meshes.tetrahedra import LumenMesh, mesh_lumen
from meshes.trimming import trim_to_centerline, unresolved_narrowing
from surgical_twin.axis import Axis, main_axis, path_axis
from surgical_twin.case import (
    ANATOMY,
    AXIS,
    BRANCHES,
    CENTERLINE,
    CENTERLINE_TABLE,
    FIDUCIALS,
    IMAGE,
    LABELS,
    LEVEL_SET,
    LUMEN,
    MESH,
    PICTURE,
    REDUCED,
    STENOSES,
    SURFACE,
    Case,
    file_hash,
    write_table,
)
from surgical_twin.errors import InputError
from surgical_twin.flow.reduced import ReducedModel
from surgical_twin.flow.rheology import Newtonian
from surgical_twin.flow.run import FlowRun
from surgical_twin.flow.waveform import PeriodicWaveform
from surgical_twin.flow.windkessel import tune_windkessels
from surgical_twin.plan_settings import PlanSettings, read_flow
from surgical_twin.session_model import read_points
from surgical_twin.training import FlowConditions, RunJob, planned_windkessels, run_jobs, training_conditions
from surgical_twin.units import METRES_PER_MM, PASCAL_PER_MMHG
from surgical_twin.vessel_tree import measure_tree, write_tree

Say = Callable[[float], None]
"""Takes the share of a step that is done."""

TRAINING_RUNS = ("runs/training_1.npz", "runs/training_2.npz", "runs/held_out.npz")


@dataclass(frozen=True)
class PlanRequest:
    """What a person asked for."""

    image: Path
    labels: Path | None = None
    segment: str | None = None
    seed: tuple[float, float, float] | None = None
    threshold: float | None = None
    region: tuple[float, float, float, float, float, float] | None = None
    settings: PlanSettings = PlanSettings()


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


def write_image(image: sitk.Image, path: Path) -> None:
    """Write an image as compressed NRRD under a temporary name and rename it.

    Only the grid and the voxels are written: what else the source held (DICOM tags with the patient's name) stays out
    of the case.
    """
    bare = sitk.Image(image)
    for key in bare.GetMetaDataKeys():
        bare.EraseMetaData(key)
    temporary = path.with_name(f".{os.getpid()}.{path.name}")
    sitk.WriteImage(bare, str(temporary), useCompression=True)
    temporary.replace(path)


def _image(case: Case, request: PlanRequest, say: Say) -> None:
    """Bring the image into the case."""
    source = {"name": request.image.name, "content": _source_hash(request.image)}
    if case.is_current("image", [], source):
        return
    image = read_image(request.image)
    case.folder.mkdir(parents=True, exist_ok=True)
    write_image(image, case.path(IMAGE))
    figures = {
        "size": list(image.GetSize()),
        "spacing_mm": [round(value, 6) for value in image.GetSpacing()],
        "direction": [round(value, 9) for value in image.GetDirection()],
    }
    case.record_step("image", inputs=[], outputs=[IMAGE], settings=source, figures=figures)


def _source_hash(path: Path) -> str:
    """Hash of an image file, or of all files of a DICOM folder."""
    if path.is_dir():
        return " ".join(file_hash(file) for file in sorted(path.rglob("*")) if file.is_file())[:4096]
    if not path.is_file():
        raise InputError(f"{path} is no file or folder; give an image (NIfTI, NRRD, MHA) or a folder of DICOM slices.")
    return file_hash(path)


def _lumen(case: Case, request: PlanRequest, say: Say) -> None:
    """Find the lumen, or take it from the label map."""
    settings: dict[str, Any] = {
        "seed": list(request.seed or ()),
        "threshold": "" if request.threshold is None else request.threshold,
        "region": list(request.region or ()),
        "segment": request.segment or "",
        "labels": "" if request.labels is None else _source_hash(request.labels),
        **_without_none(request.settings.segmentation),
    }
    if case.is_current("lumen", [IMAGE], settings):
        return
    image = sitk.ReadImage(str(case.require(IMAGE)))
    lumen: Lumen
    if request.labels is None:
        lumen = segment_lumen(image, seed=request.seed, threshold=request.threshold, region=request.region)
    else:
        value = request.settings.segmentation.label
        lumen = read_lumen(request.labels, image, value=value, segment=request.segment)
    write_image(lumen.label, case.path(LABELS))
    write_image(lumen.level_set, case.path(LEVEL_SET))
    write_projections(image, lumen.label, case.path(PICTURE), title=f"{request.image.name}: the lumen found")
    voxels = int(sitk.GetArrayViewFromImage(lumen.label).sum())
    figures = {"lumen_voxels": voxels, "lumen_ml": round(voxels * float(np.prod(image.GetSpacing())) / 1000, 4)}
    case.record_step(
        "lumen",
        inputs=[IMAGE],
        outputs=[LABELS, LEVEL_SET, PICTURE],
        settings=settings,
        figures=figures,
        notes=lumen.notes,
    )


def _mesh(case: Case, request: PlanRequest, say: Say) -> None:
    """Centerline, ports, tetrahedra."""
    plan_settings = request.settings
    settings = {**_without_none(plan_settings.mesh), **_without_none(plan_settings.ports)}
    if case.is_current("mesh", [IMAGE, LEVEL_SET], settings):
        return
    level_set = sitk.ReadImage(str(case.require(LEVEL_SET)))
    centerline = extract_centerline(level_set, inlet_near=plan_settings.ports.inlet_near)
    say(0.2)
    narrowing = unresolved_narrowing(level_set, centerline)
    trimmed = trim_to_centerline(level_set, centerline)
    ports, centerline = find_ports(trimmed, centerline)
    vessel = measure_tree(sitk.ReadImage(str(case.require(IMAGE))), level_set, centerline)
    mesh = mesh_lumen(
        trimmed,
        ports,
        edges_across=plan_settings.mesh.edges_across,
        max_tetrahedra=plan_settings.mesh.max_tetrahedra,
    )
    say(0.9)
    write_image(trimmed, case.path(LUMEN))
    write_tree(case, centerline, vessel)
    write_lumen_mesh(mesh, case.path(MESH))
    axis = main_axis(centerline, mesh.ports)
    stations = axis.stations()
    write_table(
        case.path(AXIS),
        ("name", "x", "y", "z", "radius_mm"),
        [
            (f"{distance:.3f}", *(f"{value:.4f}" for value in point), f"{radius:.4f}")
            for distance, point, radius in zip(
                stations, axis.at(stations), np.interp(stations, axis.distance, axis.radius), strict=True
            )
        ],
    )
    figures = {
        "branches": len(centerline.branches),
        "ports": len(ports),
        "axis_outlet": axis.outlet,
        "narrowest_mm": round(axis.narrowest, 3),
        "narrowing": round(axis.narrowing, 4),
        "stenoses": len(vessel.stenoses),
        **{name: _plain(value) for name, value in asdict(mesh_quality(mesh)).items()},
    }
    case.record_step(
        "mesh",
        inputs=[IMAGE, LEVEL_SET],
        outputs=[LUMEN, CENTERLINE, CENTERLINE_TABLE, BRANCHES, STENOSES, MESH, AXIS],
        settings=settings,
        figures=figures,
        notes=(
            *centerline.notes,
            *vessel.notes,
            *([] if narrowing is None else [_NARROWING_NOTE.format(narrowing)]),
        ),
    )


_NARROWING_NOTE = (
    "A kept vessel is narrower (radius {:.2f} mm) than the image resolves; it is meshed as wide as the image resolves, "
    "so a stenosis there is underestimated."
)


def _anatomy(case: Case, request: PlanRequest, say: Say) -> None:
    """The surroundings to show, and the points to touch."""
    given = request.settings.fiducials
    settings = {"fiducials": "" if given is None else _source_hash(Path(given))}
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
    fiducials = skin_points(image) if given is None else read_points(Path(given))
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
    settings = _without_none(plan_flow)
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


def _runs(case: Case, request: PlanRequest, say: Say) -> None:
    """The 3D runs."""
    settings = {**_without_none(request.settings.training), "circulation": _flow_text(case)}
    if case.is_current("runs", [MESH], settings):
        return
    conditions = training_conditions(planned_conditions(case, beats=request.settings.training.beats))
    jobs = [
        RunJob(mesh=case.require(MESH), conditions=condition, result=case.path(name))
        for condition, name in zip(conditions, TRAINING_RUNS, strict=True)
    ]
    run_jobs(jobs, say)
    figures = {Path(name).stem: _plain(FlowRun.load(case.path(name)).figures) for name in TRAINING_RUNS}
    case.record_step("runs", inputs=[MESH], outputs=TRAINING_RUNS, settings=settings, figures=figures)


def _flow_text(case: Case) -> str:
    return repr(case.manifest["flow"])


def _reduced(case: Case, request: PlanRequest, say: Say) -> None:
    """Train the reduced model, measure it on the held-out run, and write what the display needs."""
    inputs = [MESH, CENTERLINE, *TRAINING_RUNS]
    if case.is_current("reduced", inputs, {}):
        return
    mesh = read_lumen_mesh(case.require(MESH))
    *training, held_out = (FlowRun.load(case.require(name)) for name in TRAINING_RUNS)
    shared = shared_branches(read_centerline(case.require(CENTERLINE)))
    model = ReducedModel.train(
        training, mesh.points * METRES_PER_MM, mesh.tetrahedra, held_out=[held_out], shared=shared
    )
    say(0.8)
    model.save(case.path(REDUCED))
    write_polydata(display_surface(mesh, model), case.path(SURFACE))
    case.record_step(
        "reduced", inputs=inputs, outputs=[REDUCED, SURFACE], settings={}, figures=_plain(model.held_out[0])
    )


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


def _without_none(settings: msgspec.Struct) -> dict[str, Any]:
    """A settings structure as TOML can hold it."""
    return {name: value for name, value in msgspec.to_builtins(settings).items() if value is not None}


def _plain(value: Any) -> Any:
    """Numbers and containers as TOML can hold them; None is left out."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items() if item is not None}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, np.ndarray):
        return _plain(value.tolist())
    if isinstance(value, np.generic):
        return value.item()
    return value


STEPS = (
    Step("image", "reading the image", _image),
    Step("lumen", "finding the lumen", _lumen),
    Step("mesh", "centerline, ports and mesh", _mesh),
    Step("anatomy", "anatomy and fiducials", _anatomy),
    Step("circulation", "tuning the circulation", _circulation),
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
