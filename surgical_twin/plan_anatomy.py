"""The first steps of a plan: from the image to the lumen, its centerline and ports, and the mesh."""

import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import SimpleITK as sitk

from meshes.aneurysm import Aneurysm, find_aneurysms
from meshes.centerline import Centerline
from meshes.extensions import extended
from meshes.external import read_lumen, read_source
from meshes.files import write_lumen_mesh
from meshes.lumen import Lumen
from meshes.own_centerline import read_own_centerline
from meshes.picture import write_mesh_picture, write_projections
from meshes.ports import Port, beyond_ports, find_ports
from meshes.quality import mesh_quality
from meshes.refinement import at_stenosis, edges_at_stenosis
from meshes.sections import cross_sections
from meshes.segmentation import segment_lumen
from meshes.slicer import segment_names, write_segmentation
from meshes.surfaces import Unit
from meshes.tetrahedra import mesh_lumen
from meshes.tracing import extract_centerline
from meshes.trimming import trim_to_centerline, unresolved_narrowing
from surgical_twin.axis import Axis, main_axis
from surgical_twin.case import (
    AXIS,
    BRANCHES,
    CENTERLINE,
    CENTERLINE_TABLE,
    IMAGE,
    LABELS,
    LEVEL_SET,
    LUMEN,
    MESH,
    PICTURE,
    STENOSES,
    Case,
    file_hash,
    write_table,
)
from surgical_twin.errors import InputError
from surgical_twin.plan_settings import PlanSettings
from surgical_twin.vessel_tree import measure_tree, write_tree

Say = Callable[[float], None]
"""Takes the share of a step that is done."""

SEGMENTATION = "lumen.seg.nrrd"
"""The label map as 3D Slicer edits it; edited in place, it is what the next plan takes."""

MESH_PICTURE = "mesh.png"

ANEURYSMS = "aneurysms.csv"

LUMEN_SEGMENT = "lumen"
"""The segment's name in it."""


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
    series: str | None = None
    """SeriesInstanceUID of the series to take of a DICOM folder"""
    unit: Unit | None = None
    """of a surface's lengths"""
    centerline: Path | None = None
    """a centerline to follow instead of the one that would be found"""
    scheduler: str | None = None
    """address of a dask scheduler whose workers do the 3D runs; this machine where None"""


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


def image_step(case: Case, request: PlanRequest, say: Say) -> None:
    """Bring the image into the case."""
    # Names of files and folders, and series' numbers, may identify a patient: only hashes are kept.
    source = {
        "content": source_hash(request.image),
        "series": "" if request.series is None else hashlib.sha256(request.series.encode()).hexdigest()[:16],
        "unit": request.unit or "",
        "segment": request.segment or "" if request.labels is None else "",
    }
    if case.is_current("image", [], source):
        return
    segment = request.segment if request.labels is None else None
    read = read_source(request.image, series=request.series, segment=segment, unit=request.unit)
    case.folder.mkdir(parents=True, exist_ok=True)
    write_image(read.image, case.path(IMAGE))
    figures = {
        "size": list(read.image.GetSize()),
        "spacing_mm": [round(value, 6) for value in read.image.GetSpacing()],
        "direction": [round(value, 9) for value in read.image.GetDirection()],
        "segmentation_only": read.is_lumen,
    }
    case.record_step("image", inputs=[], outputs=[IMAGE], settings=source, figures=figures, notes=read.notes)


def source_hash(path: Path) -> str:
    """Hash of an image file, or of all files below a DICOM folder."""
    if path.is_dir():
        digest = hashlib.sha256()
        for file in sorted(path.rglob("*")):
            if file.is_file():
                digest.update(file_hash(file).encode())
        return digest.hexdigest()
    if not path.is_file():
        raise InputError(f"{path} is no file or folder; give an image (NIfTI, NRRD, MHA) or a folder of DICOM slices.")
    return file_hash(path)


def lumen_step(case: Case, request: PlanRequest, say: Say) -> None:
    """Find the lumen, or take it from a segmentation: one that is given, or the case's own, edited by hand."""
    labels = request.labels
    if labels is None and case.step("image")["figures"].get("segmentation_only"):
        labels = request.image
    settings: dict[str, Any] = {
        "seed": list(request.seed or ()),
        "threshold": "" if request.threshold is None else request.threshold,
        "region": list(request.region or ()),
        "segment": request.segment or "",
        "labels": "" if labels is None else source_hash(labels),
        "unit": request.unit or "",
        **without_none(request.settings.segmentation),
    }
    edited, mark = _edited(case, settings)
    if mark:
        settings["edited"] = mark
    if edited is None and case.is_current("lumen", [IMAGE], settings):
        return
    image = sitk.ReadImage(str(case.require(IMAGE)))
    lumen: Lumen
    notes: list[str] = []
    if mark:
        source = edited or case.require(SEGMENTATION)
        names = segment_names(source)
        lumen = read_lumen(source, image, segment=LUMEN_SEGMENT if LUMEN_SEGMENT in names else request.segment)
        notes.append("The lumen is the case's own segmentation as it was edited by hand.")
    elif labels is None:
        lumen = segment_lumen(image, seed=request.seed, threshold=request.threshold, region=request.region)
    else:
        unit = request.unit if request.labels is None or request.unit is not None else None
        value = request.settings.segmentation.label
        lumen = read_lumen(labels, image, value=value, segment=request.segment, unit=unit)
    write_image(lumen.label, case.path(LABELS))
    if edited is None or edited.name != SEGMENTATION:
        _put_aside(case, edited if not mark else None)
        write_segmentation(lumen.label, case.path(SEGMENTATION), name=LUMEN_SEGMENT)
    write_image(lumen.level_set, case.path(LEVEL_SET))
    write_projections(image, lumen.label, case.path(PICTURE), title="the lumen found")
    voxels = int(sitk.GetArrayViewFromImage(lumen.label).sum())
    figures = {"lumen_voxels": voxels, "lumen_ml": round(voxels * float(np.prod(image.GetSpacing())) / 1000, 4)}
    case.record_step(
        "lumen",
        inputs=[IMAGE],
        outputs=[LABELS, SEGMENTATION, LEVEL_SET, PICTURE],
        settings=settings,
        figures=figures,
        notes=(*notes, *lumen.notes),
    )


def _edited(case: Case, settings: Mapping[str, Any]) -> tuple[Path | None, str]:
    """The file of the case's segmentation that was edited since the last plan, and the hash of the edit to plan with.

    An edit holds as long as nothing else is asked for; then it is put aside.
    """
    done = case.step("lumen")
    if not done:
        return None, ""
    before = dict(done["settings"])
    mark = str(before.pop("edited", ""))
    changed = [
        case.path(name)
        for name in (SEGMENTATION, LABELS)
        if name in done["wrote"] and case.path(name).is_file() and file_hash(case.path(name)) != done["wrote"][name]
    ]
    if before != dict(settings):
        for path in changed:
            _put_aside(case, path)
        return None, ""
    if changed:
        return changed[0], file_hash(changed[0])
    return None, mark


def _put_aside(case: Case, path: Path | None) -> None:
    """Keep a segmentation edited by hand under another name: nothing that a person drew is written over."""
    if path is not None and path.is_file():
        path.replace(case.path(f"edited_{file_hash(path)[:8]}_{path.name}"))


def mesh_step(case: Case, request: PlanRequest, say: Say) -> None:
    """Centerline, ports, tetrahedra."""
    plan_mesh, plan_ports = request.settings.mesh, request.settings.ports
    settings = {
        **without_none(plan_mesh),
        **without_none(plan_ports),
        "centerline": "" if request.centerline is None else source_hash(request.centerline),
    }
    if case.is_current("mesh", [IMAGE, LEVEL_SET], settings):
        return
    image = sitk.ReadImage(str(case.require(IMAGE)))
    level_set = sitk.ReadImage(str(case.require(LEVEL_SET)))
    trimmed, ports, centerline = _cut(image, level_set, request)
    say(0.2)
    narrowing = unresolved_narrowing(level_set, centerline)
    beyond = beyond_ports(centerline, ports)
    vessel = measure_tree(image, level_set, centerline)
    # What the ports cut off thins out there, and is in no mesh.
    vessel = replace(vessel, stenoses=tuple(found for found in vessel.stenoses if not beyond[found.point]))
    aneurysms = find_aneurysms(trimmed, centerline, whole=level_set, beyond=beyond)
    # A stenosis is meshed as wide as the image resolves: its edges follow that width.
    meshed_radius = cross_sections(trimmed, centerline).radius
    if plan_ports.extension_radii:
        trimmed, ports = extended(trimmed, ports, plan_ports.extension_radii)
    mesh = mesh_lumen(
        trimmed,
        ports,
        edges_across=plan_mesh.edges_across,
        max_tetrahedra=plan_mesh.max_tetrahedra,
        finer=[
            at_stenosis(stenosis, centerline, meshed_radius, plan_mesh.stenosis_edges_across)
            for stenosis in vessel.stenoses
        ],
        wall_layers=plan_mesh.wall_layers,
        wall_share=plan_mesh.wall_share,
    )
    say(0.9)
    write_image(trimmed, case.path(LUMEN))
    write_tree(case, centerline, vessel)
    write_lumen_mesh(mesh, case.path(MESH))
    write_mesh_picture(mesh, case.path(MESH_PICTURE), title="the mesh")
    _write_aneurysms(case, aneurysms)
    axis = main_axis(centerline, mesh.ports)
    _write_axis(case, axis)
    quality = mesh_quality(mesh)
    across = [edges_at_stenosis(mesh, stenosis, centerline, meshed_radius) for stenosis in vessel.stenoses]
    figures = {
        "branches": len(centerline.branches),
        "ports": len(mesh.ports),
        "axis_outlet": axis.outlet,
        "narrowest_at_mm": round(axis.narrowest, 3),
        "narrowing": round(axis.narrowing, 4),
        "stenoses": len(vessel.stenoses),
        "aneurysms": len(aneurysms),
        "edges_across_stenoses": [round(edges, 2) for edges in across],
        **{name: plain(value) for name, value in asdict(quality).items()},
    }
    kept = {port.name for port in mesh.ports}
    blind = ", ".join(port.name for port in ports if port.name not in kept)
    case.record_step(
        "mesh",
        inputs=[IMAGE, LEVEL_SET],
        outputs=[LUMEN, CENTERLINE, CENTERLINE_TABLE, BRANCHES, STENOSES, ANEURYSMS, MESH, MESH_PICTURE, AXIS],
        settings=settings,
        figures=figures,
        notes=(
            *centerline.notes,
            *vessel.notes,
            *(_aneurysm_note(aneurysm) for aneurysm in aneurysms),
            *([] if narrowing is None else [_NARROWING_NOTE.format(narrowing)]),
            *([_BLIND_NOTE.format(blind)] if blind else []),
            *([_HANDLES_NOTE.format(quality.handles)] if quality.handles else []),
            *mesh.notes,
            *([_ACROSS_NOTE.format(", ".join(f"{edges:.1f}" for edges in across))] if across else []),
        ),
    )


def _cut(
    image: sitk.Image, level_set: sitk.Image, request: PlanRequest
) -> tuple[sitk.Image, tuple[Port, ...], Centerline]:
    """The lumen that is meshed, its ports, and its centerline; the inlet is the one that is asked for."""
    wanted = request.settings.ports
    if request.centerline is not None:
        centerline = read_own_centerline(request.centerline, level_set, inlet_near=wanted.inlet_near, unit=request.unit)
    else:
        centerline = extract_centerline(level_set, inlet_near=wanted.inlet_near, max_ends=wanted.most, image=image)
    trimmed = trim_to_centerline(level_set, centerline)
    ports, centerline = find_ports(
        trimmed, centerline, cut_radii=wanted.cut_radii, names=wanted.names, inlet=wanted.inlet
    )
    return trimmed, ports, centerline


def _write_aneurysms(case: Case, aneurysms: Sequence[Aneurysm]) -> None:
    write_table(
        case.path(ANEURYSMS),
        ("branch", "arc_length_mm", "x", "y", "z", "volume_ml", "width_mm", "vessel_diameter_mm", "kind"),
        [
            (
                sac.branch,
                f"{sac.arc_length:.3f}",
                *(f"{value:.3f}" for value in sac.position),
                f"{sac.volume_ml:.4f}",
                f"{sac.width:.3f}",
                f"{sac.vessel_diameter:.3f}",
                "fusiform" if sac.fusiform else "saccular",
            )
            for sac in aneurysms
        ],
    )


def _aneurysm_note(aneurysm: Aneurysm) -> str:
    where = ", ".join(f"{value:.1f}" for value in aneurysm.position)
    return (
        f"{'Fusiform' if aneurysm.fusiform else 'Saccular'} aneurysm in branch {aneurysm.branch} at ({where}) mm: its "
        f"sac holds {aneurysm.volume_ml:.2g} ml and is {aneurysm.width:.1f} mm wide; the vessel beside it "
        f"{aneurysm.vessel_diameter:.1f} mm."
    )


def _write_axis(case: Case, axis: Axis) -> None:
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


_BLIND_NOTE = "The vessels of {} end blind: they cannot be cut without cutting others."
_HANDLES_NOTE = "The lumen has {} loops (handles); flow goes both ways around each."
_ACROSS_NOTE = "Edges of the mesh across the throats of the stenoses, in their order: {}."
_NARROWING_NOTE = (
    "A kept vessel is narrower (radius {:.2f} mm) than the image resolves; it is meshed as wide as the image resolves, "
    "so a stenosis there is underestimated."
)


def without_none(settings: msgspec.Struct) -> dict[str, Any]:
    """A settings structure as TOML can hold it."""
    return {name: value for name, value in msgspec.to_builtins(settings).items() if value is not None}


def plain(value: Any) -> Any:
    """Numbers and containers as TOML can hold them; None is left out."""
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items() if item is not None}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, np.ndarray):
        return plain(value.tolist())
    if isinstance(value, np.generic):
        return value.item()
    return value
