"""How far image -> lumen -> centerline -> mesh is from the truth, on vessels made from formulas.

Each vessel is imaged at several resolutions with partial volume, blur and noise, and goes through the whole chain with
default settings and without a hand. Beside it run what is done plainly with scikit-image (Otsu's threshold, the largest
part, marching cubes on that mask), VMTK's level set, started from that threshold for it, and VMTK's centerlines on the
same lumen, with the ends picked for it.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import io
import json
import logging
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import pyvista as pv
import SimpleITK as sitk
from analytic_vessels import AnalyticVessel, image_of, vessels
from rich.console import Console
from rich.table import Table
from scipy import ndimage
from scipy.spatial import cKDTree
from skimage.filters import threshold_otsu
from skimage.measure import label, marching_cubes
from vmtk import vmtkscripts

from meshes.aneurysm import find_aneurysms
from meshes.centerline import Centerline
from meshes.clipping import Index
from meshes.external import read_lumen, read_source
from meshes.grid import Array, Grid
from meshes.level_set import wall_surface
from meshes.own_centerline import read_own_centerline
from meshes.partial_volume import thin_areas
from meshes.ports import Port, find_ports
from meshes.quality import mesh_quality
from meshes.sections import cross_sections
from meshes.segmentation import segment_lumen
from meshes.stenosis import find_stenoses
from meshes.surfaces import MM_PER
from meshes.tetrahedra import LumenMesh, mesh_lumen
from meshes.tracing import extract_centerline
from meshes.trimming import trim_to_centerline

ROOT = Path(__file__).resolve().parent.parent
SPACINGS = ((0.5, 0.5, 0.5), (0.75, 0.75, 0.75), (1.0, 1.0, 1.0), (0.5, 0.5, 1.5))
JUNCTION_RADII = 2.0
"""Where branches join there is no radius of one branch: so near to a junction none is compared."""


@dataclass
class Errors:
    """Of one image. Lengths in voxels: the cube root of the voxel's volume."""

    radius_percent: float
    centerline_voxels: float
    volume_percent: float
    surface_mean_voxels: float
    surface_max_voxels: float
    plain_surface_mean_voxels: float
    plain_volume_percent: float
    vmtk_centerline_voxels: float
    vmtk_radius_percent: float
    wall_voxels: float
    """of the segmentation's wall, as VMTK's level set is one"""
    wall_offset_voxels: float
    """outward"""
    vmtk_wall_voxels: float
    vmtk_wall_offset_voxels: float
    min_dihedral_deg: float
    mean_scaled_jacobian: float
    port_flatness: float
    watertight: bool
    stenosis_points: float | None = None
    sac_percent: float | None = None
    """of an aneurysm's volume"""


def measure(vessel: AnalyticVessel, spacing: tuple[float, float, float], seed: int) -> Errors:
    """All errors of one vessel imaged at one resolution."""
    image = image_of(vessel, spacing, seed)
    voxel = float(np.cbrt(np.prod(spacing)))
    lumen = segment_lumen(image)
    centerline = extract_centerline(lumen.level_set)
    sections = cross_sections(lumen.level_set, centerline)
    sections = replace(sections, area=thin_areas(image, centerline, sections))
    trimmed = trim_to_centerline(lumen.level_set, centerline)
    ports, centerline = find_ports(trimmed, centerline)
    mesh = mesh_lumen(trimmed, ports, max_tetrahedra=60_000)
    radius_percent, centerline_voxels = _line_errors(vessel, centerline.points, sections.radius, voxel)
    vmtk_radius, vmtk_line = _vmtk(vessel, lumen.level_set, ports, voxel)
    wall = mesh.triangles[mesh.triangle_tags == 0]
    truth = _truth_surface(vessel, mesh.ports)
    off = np.abs(vessel.distance(_samples(mesh.points, wall, 4))) / voxel
    back = _distance_to(mesh.points, wall, truth) / voxel
    quality = mesh_quality(mesh)
    stenosis = None
    if vessel.stenosis is not None:
        found = find_stenoses(centerline, sections)
        worst = found[0].diameter_reduction if found else 0.0
        stenosis = 100.0 * abs(worst - vessel.stenosis)
    sac = None
    if vessel.sac_volume_ml is not None:
        sacs = find_aneurysms(trimmed, centerline)
        sac = 100.0 * abs(sum(one.volume_ml for one in sacs) / vessel.sac_volume_ml - 1.0)
    plain_surface, plain_volume = _plain(image, vessel, mesh, truth, voxel)
    offset = _wall_offset(vessel, Grid.of(lumen.level_set), mesh.ports) / voxel
    vmtk_offset = _wall_offset(vessel, _vmtk_level_set(image), mesh.ports) / voxel
    return Errors(
        radius_percent=radius_percent,
        centerline_voxels=centerline_voxels,
        volume_percent=100.0 * abs(quality.volume_ml / _truth_volume(vessel, mesh.ports) - 1.0),
        surface_mean_voxels=float(0.5 * (off.mean() + back.mean())),
        surface_max_voxels=float(max(off.max(), back.max())),
        plain_surface_mean_voxels=plain_surface,
        plain_volume_percent=plain_volume,
        vmtk_centerline_voxels=vmtk_line,
        vmtk_radius_percent=vmtk_radius,
        wall_voxels=float(np.abs(offset).mean()),
        wall_offset_voxels=float(offset.mean()),
        vmtk_wall_voxels=float(np.abs(vmtk_offset).mean()),
        vmtk_wall_offset_voxels=float(vmtk_offset.mean()),
        min_dihedral_deg=quality.min_dihedral_deg,
        mean_scaled_jacobian=quality.mean_scaled_jacobian,
        port_flatness=max(quality.port_flatness_mm / (2 * port.radius) for port in mesh.ports),
        watertight=quality.watertight,
        stenosis_points=stenosis,
        sac_percent=sac,
    )


def _line_errors(vessel: AnalyticVessel, points: Array, radius: Array, voxel: float) -> tuple[float, float]:
    """Mean radius error [%] and distance [voxels] of a centerline from the true one, away from junctions and ends."""
    true_points = np.concatenate([tube.points for tube in vessel.tubes])
    true_radius = np.concatenate([tube.radius for tube in vessel.tubes])
    far = np.ones(len(points), dtype=bool)
    for place, reach in vessel.junctions:
        far &= np.linalg.norm(points - place, axis=1) > JUNCTION_RADII * reach
    off, nearest = cKDTree(true_points).query(points[far])
    relative = np.abs(radius[far] / true_radius[nearest] - 1.0)
    return float(100.0 * relative.mean()), float(off.mean() / voxel)


def _truth_surface(vessel: AnalyticVessel, ports: tuple[Port, ...]) -> Array:
    """Points of the true wall between the ports."""
    places = _true_wall(vessel.name)
    return places[_between(places, ports, margin=0.7)]


@lru_cache(maxsize=1)
def _true_wall(name: str) -> Array:
    """Points of a vessel's true wall."""
    vessel = vessels()[name]()
    grid = _fine_grid(vessel, 0.35)
    depth = vessel.distance(grid.positions_of(np.arange(grid.values.size)))
    near = np.flatnonzero(np.abs(depth) < 0.35)
    places = grid.positions_of(near)
    for _ in range(3):
        step = 1e-3
        slope = np.stack(
            [(vessel.distance(places + step * e) - vessel.distance(places - step * e)) / (2 * step) for e in np.eye(3)],
            axis=1,
        )
        places -= (vessel.distance(places) / np.maximum((slope**2).sum(axis=1), 0.1))[:, None] * slope
    return places


def _between(places: Array, ports: tuple[Port, ...], margin: float = 0.0) -> np.ndarray:
    """Which places no port cuts off; of a port's plane only what is around its vessel counts."""
    kept = np.ones(len(places), dtype=bool)
    for port in ports:
        offset = places - port.center
        height = offset @ port.normal
        # These vessels end soon behind their ports, and no other branch is there.
        kept &= ~(
            (height > -margin) & (np.linalg.norm(offset - height[:, None] * port.normal, axis=1) < 4 * port.radius)
        )
    return kept


def _fine_grid(vessel: AnalyticVessel, step: float) -> Grid:
    size = np.ceil((vessel.high - vessel.low) / step).astype(int) + 1
    return Grid(np.zeros(size[::-1], dtype=np.float32), vessel.low, np.full(3, step), np.eye(3))


def _truth_volume(vessel: AnalyticVessel, ports: tuple[Port, ...]) -> float:
    """Volume [ml] of the true lumen between the ports, on a fine grid, its surface between grid points by depth."""
    points, share = _true_shares(vessel.name)
    for port in ports:
        offset = points - port.center
        height = offset @ port.normal
        beside = np.linalg.norm(offset - height[:, None] * port.normal, axis=1) < 4 * port.radius
        share = np.where(beside, share * np.clip(0.5 - height / 0.25, 0.0, 1.0), share)
    return float(share.sum() * 0.25**3 / 1000.0)


@lru_cache(maxsize=1)
def _true_shares(name: str) -> tuple[Array, Array]:
    """Cells of 0.25 mm that a vessel's lumen reaches, and which share of each it fills."""
    vessel = vessels()[name]()
    grid = _fine_grid(vessel, 0.25)
    points = grid.positions_of(np.arange(grid.values.size))
    # Distances to a line of points cost most: first from every fourth cell, along each axis, which are near at all.
    coarse = _fine_grid(vessel, 1.0)
    far = coarse.like(vessel.distance(coarse.positions_of(np.arange(coarse.values.size))).reshape(coarse.values.shape))
    points = points[far.sample(points) < 1.5]
    share = np.clip(0.5 - vessel.distance(points) / 0.25, 0.0, 1.0)
    return points[share > 0], share[share > 0]


def _distance_to(points: Array, triangles: np.ndarray, places: Array) -> Array:
    """(n,) distance of places from a surface, by samples of it that are dense against the errors measured."""
    corners = points[triangles]
    samples = _samples(points, triangles, 8)
    distance, nearest = cKDTree(samples).query(places)
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    normals /= np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-12)
    owner = nearest // 45
    plane = np.abs(np.einsum("nd,nd->n", places - samples[nearest], normals[owner]))
    # The foot on the sample's own triangle, where the sample is not far beside it.
    return np.where(distance < 0.6, np.minimum(plane, distance), distance)


def _samples(points: Array, triangles: Index, count: int) -> Array:
    """Points all over triangles, ``count`` to an edge."""
    weights = np.array([[i, j, count - i - j] for i in range(count + 1) for j in range(count + 1 - i)]) / count
    return np.einsum("wc,tcd->twd", weights, points[triangles]).reshape(-1, 3)


def _plain(
    image: sitk.Image, vessel: AnalyticVessel, mesh: LumenMesh, truth: Array, voxel: float
) -> tuple[float, float]:
    """Surface and volume error of scikit-image done plainly, between the same ports."""
    grid = Grid.of(image)
    mask = grid.values > threshold_otsu(grid.values)
    parts = label(mask, connectivity=1)
    mask = parts == 1 + int(np.argmax(np.bincount(parts.ravel())[1:]))
    vertices, faces, _, _ = marching_cubes(np.pad(mask, 1).astype(np.float32), 0.5)
    places = grid.to_position(vertices[:, ::-1] - 1.0)
    kept = _between(places, mesh.ports)
    off = np.abs(vessel.distance(places[kept])) / voxel
    back = _distance_to(places, faces, truth) / voxel
    inside = grid.positions_of(np.flatnonzero(mask))
    volume = float(_between(inside, mesh.ports).sum() * np.prod(grid.spacing) / 1000.0)
    return float(0.5 * (off.mean() + back.mean())), abs(volume / _truth_volume(vessel, mesh.ports) - 1.0) * 100.0


def _vmtk(vessel: AnalyticVessel, level_set: sitk.Image, ports: tuple[Port, ...], voxel: float) -> tuple[float, float]:
    """Radius and centerline error of VMTK's centerlines on the same lumen; its ends are picked for it."""
    surface = wall_surface(Grid.of(level_set)).extract_largest().triangulate().clean()
    script = vmtkscripts.vmtkCenterlines()
    script.Surface = surface
    script.SeedSelectorName = "pointlist"
    script.SourcePoints = ports[0].center.tolist()
    script.TargetPoints = np.concatenate([port.center for port in ports[1:]]).tolist()
    script.PrintError = script.PrintLog = lambda *_: None
    with away_from_stdout():
        script.Execute()
    line = pv.wrap(script.Centerlines)
    points, radius = np.asarray(line.points, float), np.asarray(line.point_data["MaximumInscribedSphereRadius"])
    # Beyond the ports neither is compared.
    inside = _between(points, ports)
    return _line_errors(vessel, points[inside], radius[inside], voxel)


def _wall_offset(vessel: AnalyticVessel, level_set: Grid, ports: tuple[Port, ...]) -> Array:
    """(n,) how far [mm] outside of the true wall the zero of a level set is, between the ports."""
    places = np.asarray(wall_surface(level_set).extract_largest().points, float)
    return vessel.distance(places[_between(places, ports, margin=0.7)])


def _vmtk_level_set(image: sitk.Image) -> Grid:
    """VMTK's geodesic level set with its own defaults, started from the plain threshold of the slightly smoothed image.

    As in its tutorial: 300 iterations of advection to the ridge of the gradient, no curvature, no propagation. VTK's
    images of that version know no direction: it works on the voxels' own axes.
    """
    grid = Grid.of(image)
    smooth = ndimage.gaussian_filter(grid.values, 0.7)
    start = (threshold_otsu(smooth) - smooth) / float(np.ptp(smooth))

    def as_vtk(values: Array) -> pv.ImageData:
        data = pv.ImageData(dimensions=tuple(int(n) for n in grid.size), spacing=tuple(grid.spacing))
        data.point_data["values"] = values.astype(np.float32).ravel()
        return data

    script = vmtkscripts.vmtkLevelSetSegmentation()
    script.Image, script.InitialLevelSets, script.NumberOfIterations = as_vtk(grid.values), as_vtk(start), 300
    script.PrintError = script.PrintLog = lambda *_: None
    with away_from_stdout():
        script.Execute()
    (found,) = pv.wrap(script.LevelSets).point_data.values()
    return grid.like(np.asarray(found, dtype=np.float32).reshape(grid.values.shape))


@contextlib.contextmanager
def away_from_stdout() -> Iterator[None]:
    """What VMTK prints, from Python and from C++, goes to standard error: the last line of standard output is ours."""
    sys.stdout.flush()
    saved = os.dup(1)
    os.dup2(2, 1)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
        ctypes.CDLL(None).fflush(None)
    finally:
        os.dup2(saved, 1)
        os.close(saved)


def aorta() -> dict[str, dict[str, object]]:
    """The contrast MR angiogram of VMTK's tutorial against VMTK's own level set, where the data are there.

    The level set ends in the middle of vessels, where its seeds were put, and within its bounding box the same vessels
    go on; so besides the Dice in that box there is the one between the level set's ends, which its centerline tells.
    It is no truth to a fraction of a voxel either: on vessels made from formulas VMTK's level set lies inside of the
    true wall (`Errors.vmtk_wall_offset_voxels`).
    """
    folder = data_folder() / "vmtk_aorta" / "input"
    goals = {
        "aorta_dice": (">= 0.96", "1"),
        "aorta_dice_between_ends": (">= 0.96", "1"),
        "aorta_surface_distance": ("<= 0.5", "voxel"),
        "aorta_hausdorff_95": ("<= 2", "voxel"),
    }
    if not folder.is_dir():
        return {name: figure(None, *goal, why="the volume is not on this machine") for name, goal in goals.items()}
    reference_image = sitk.ReadImage(str(folder / "aorta-final-levelset.mha"))
    reference = Grid.of(reference_image)
    lumen = segment_lumen(sitk.ReadImage(str(folder / "aorta.mha")))
    mask = sitk.GetArrayFromImage(lumen.label) > 0
    true = reference.values < 0
    box = np.zeros(true.shape, dtype=bool)
    box[ndimage.find_objects(true.astype(int))[0]] = True
    between = box & _between_ends(reference, read_own_centerline(folder / "aorta-centerline.vtp", reference_image))
    ours = Grid.of(lumen.level_set)
    theirs = wall_surface(reference)
    places = np.asarray(theirs.points, float)
    inner = np.all((reference.to_index(places) > 2) & (reference.to_index(places) < reference.size - 3), axis=1)
    distance = np.abs(ours.sample(places[inner]))
    mine = np.asarray(wall_surface(ours).points, float)
    index = np.clip(np.round(reference.to_index(mine)).astype(int), 0, reference.size - 1)
    back = cKDTree(places).query(mine[between[index[:, 2], index[:, 1], index[:, 0]]])[0]
    voxel = float(np.cbrt(np.prod(reference.spacing)))
    values = {
        "aorta_dice": _dice(mask[box], true[box]),
        "aorta_dice_between_ends": _dice(mask[between], true[between]),
        "aorta_surface_distance": float(distance.mean() / voxel),
        "aorta_hausdorff_95": max(float(np.quantile(distance, 0.95)), float(np.quantile(back, 0.95))) / voxel,
    }
    return {name: figure(value, *goals[name]) for name, value in values.items()}


GIVEN = {
    "pulmonary_label_map": ("seqseg/seqseg/tests/test_data/truths/PA000005.nii.gz", None),
    "circle_of_willis_label_map": ("topcow_labels/test_assets/seg_metrics/topcow_roi/topcow_ct_roi_003.nii.gz", None),
    "staircase_surface": ("seqseg/seqseg/tutorial/data/Models/shawn_260.vtp", "cm"),
    "smooth_surface": (
        "simvascular_tests/new-api-tests/simulation/reduced-order-modeling/input/model_surface.vtp",
        "cm",
    ),
}
"""Segmentations and surfaces that come without an image: what is given is the reference, the lumen read from it the
result. With them the units of surfaces."""


def given() -> dict[str, dict[str, object]]:
    """How well the lumen that is read from a label map or a surface agrees with it, before any branch is left out."""
    figures: dict[str, dict[str, object]] = {}
    for name, (file, unit) in GIVEN.items():
        path = data_folder() / file
        if not path.is_file():
            why = {"why": "the file is not on this machine"}
            figures[f"{name}_hausdorff_95"] = figure(None, "<= 2", "voxel", **why)
            continue
        image = read_source(path, series=None, segment=None, unit=unit).image
        lumen = read_lumen(path, image, unit=unit)
        ours = Grid.of(lumen.level_set)
        wall = np.asarray(wall_surface(ours).points, float)
        if path.suffix == ".vtp":
            surface = pv.read(path).extract_largest().triangulate()
            scale = MM_PER[unit]
            theirs = np.asarray(surface.subdivide(1, "linear").points, float) * scale
            # A surface has no voxels to count: its volume instead.
            volume = float((ours.values < 0).sum() * np.prod(ours.spacing))
            off = 100.0 * abs(volume / (surface.volume * scale**3) - 1.0)
            figures[f"{name}_volume_error"] = figure(off, "<= 2", "%")
        else:
            grid = Grid.of(image)
            parts = label(grid.values > 0, connectivity=3)
            mask = parts == 1 + int(np.argmax(np.bincount(parts.ravel())[1:]))
            theirs = np.asarray(wall_surface(grid.like(0.5 - mask.astype(np.float32))).points, float)
            near = np.flatnonzero(ndimage.binary_dilation(mask, iterations=2))
            inside = ours.sample(grid.positions_of(near), outside=1.0) < 0
            figures[f"{name}_dice"] = figure(_dice(inside, mask.ravel()[near]), ">= 0.85", "1")
        voxel = float(np.cbrt(np.prod(image.GetSpacing())))
        apart = max(
            float(np.quantile(cKDTree(one).query(other)[0], 0.95)) for one, other in ((wall, theirs), (theirs, wall))
        )
        figures[f"{name}_hausdorff_95"] = figure(apart / voxel, "<= 2", "voxel")
    return figures


def data_folder() -> Path:
    """Where the real data are, on machines that have them."""
    return Path(os.environ.get("SURGICAL_TWIN_DATA", ROOT.parent / "shared" / "data"))


def _dice(one: np.ndarray, other: np.ndarray) -> float:
    return float(2.0 * (one & other).sum() / (one.sum() + other.sum()))


def _between_ends(grid: Grid, centerline: Centerline) -> np.ndarray:
    """Which voxels lie before the planes across a centerline's ends."""
    places = grid.positions_of(np.arange(grid.values.size))
    kept = np.ones(len(places), dtype=bool)
    tangents = centerline.tangents()
    for number, (_, end) in enumerate(centerline.terminals()):
        offset = places - centerline.points[end]
        beyond = offset @ tangents[end] * (-1.0 if number == 0 else 1.0) > 0
        kept &= ~(beyond & (np.linalg.norm(offset, axis=1) < 4 * centerline.radius[end]))
    return kept.reshape(grid.values.shape)


def figure(value: float | None, goal: str, unit: str, **more: object) -> dict[str, object]:
    """One figure in the shape that every benchmark prints."""
    return {"value": None if value is None else round(value, 4), "goal": goal, "unit": unit, **more}


COLUMNS = {
    "radius_percent": "radius %",
    "centerline_voxels": "line vx",
    "volume_percent": "volume %",
    "surface_mean_voxels": "wall vx",
    "surface_max_voxels": "max vx",
    "stenosis_points": "stenosis",
    "plain_surface_mean_voxels": "plain wall",
    "plain_volume_percent": "plain vol",
    "vmtk_centerline_voxels": "vmtk line",
    "vmtk_radius_percent": "vmtk rad",
    "wall_voxels": "wall",
    "wall_offset_voxels": "wall out",
    "vmtk_wall_voxels": "vmtk wall",
    "vmtk_wall_offset_voxels": "vmtk out",
    "min_dihedral_deg": "dihedral",
    "mean_scaled_jacobian": "SJ",
}


def phantom_figures(found: list[Errors]) -> dict[str, dict[str, object]]:
    """The figures of all images together, each with its goal."""

    def mean(column: str) -> float:
        return float(np.mean([getattr(errors, column) for errors in found]))

    stenoses = [errors.stenosis_points for errors in found if errors.stenosis_points is not None]
    sacs = [errors.sac_percent for errors in found if errors.sac_percent is not None]
    left_out = {"why": "left out by --only"}
    return {
        "radius_error": figure(mean("radius_percent"), "<= 3", "%"),
        "centerline_off": figure(mean("centerline_voxels"), "<= 0.25", "voxel"),
        "stenosis_error": figure(
            max(stenoses) if stenoses else None, "<= 4", "points", **({} if stenoses else left_out)
        ),
        "sac_volume_error": figure(max(sacs) if sacs else None, "<= 5", "%", **({} if sacs else left_out)),
        "volume_error": figure(max(errors.volume_percent for errors in found), "<= 2", "%"),
        "surface_distance_mean": figure(max(errors.surface_mean_voxels for errors in found), "<= 0.3", "voxel"),
        "surface_distance_max": figure(max(errors.surface_max_voxels for errors in found), "<= 1.5", "voxel"),
        # The median: where the plain threshold loses half of the vessel, its error has no bounds.
        "accuracy_against_scikit_image": figure(
            float(np.median([errors.plain_surface_mean_voxels / errors.surface_mean_voxels for errors in found])),
            ">= 2",
            "ratio",
        ),
        "centerline_accuracy_against_vmtk": figure(
            mean("vmtk_centerline_voxels") / mean("centerline_voxels"), ">= 1", "ratio"
        ),
        "wall_accuracy_against_vmtk": figure(mean("vmtk_wall_voxels") / mean("wall_voxels"), ">= 1", "ratio"),
        "radius_accuracy_against_vmtk": figure(mean("vmtk_radius_percent") / mean("radius_percent"), ">= 1", "ratio"),
        "min_dihedral": figure(min(errors.min_dihedral_deg for errors in found), ">= 8", "degree"),
        "mean_scaled_jacobian": figure(min(errors.mean_scaled_jacobian for errors in found), ">= 0.6", "1"),
        "port_flatness": figure(max(errors.port_flatness for errors in found), "<= 1e-6", "diameter"),
        "open_meshes": figure(float(sum(not errors.watertight for errors in found)), "== 0", "1"),
    }


def kept(
    folder: Path | None, name: str, make: Callable[[], AnalyticVessel], spacing: tuple[float, float, float]
) -> Errors:
    """The errors of one image: measured now, or read from the folder where they were kept."""
    if folder is None:
        return measure(make(), spacing, seed=1)
    file = folder / f"{name}_{'x'.join(map(str, spacing))}.json"
    if not file.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        errors = measure(make(), spacing, seed=1)
        file.with_suffix(".part").write_text(json.dumps(asdict(errors)))
        file.with_suffix(".part").replace(file)
    return Errors(**json.loads(file.read_text()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one resolution, no real volume")
    parser.add_argument("--only", help="one vessel, or 'real' for the real volumes")
    parser.add_argument(
        "--keep",
        type=Path,
        help="a folder where each image's errors are kept: what is there is not measured again, so that the whole can "
        "be run in pieces; of the same code only",
    )
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.ERROR)
    console = Console(stderr=True, width=170)
    table = Table("vessel", "spacing", *COLUMNS.values())
    found: list[Errors] = []
    for name, make in vessels().items():
        if arguments.only not in (None, name):
            continue
        for spacing in SPACINGS[1:2] if arguments.quick else SPACINGS:
            errors = kept(arguments.keep, name, make, spacing)
            found.append(errors)
            shown = [getattr(errors, column) for column in COLUMNS]
            table.add_row(name, "x".join(map(str, spacing)), *("" if v is None else f"{v:.3g}" for v in shown))
            console.print(f"{name} {spacing}: " + json.dumps(asdict(errors)), soft_wrap=True, highlight=False)
    console.print(table)

    figures = {
        **(phantom_figures(found) if found else {}),
        **({**aorta(), **given()} if arguments.only == "real" or not (arguments.quick or arguments.only) else {}),
    }
    print(json.dumps({"benchmark": "meshes_accuracy", "figures": figures}))


if __name__ == "__main__":
    main()
