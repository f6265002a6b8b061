"""How far image -> lumen -> centerline -> mesh is from the truth, on vessels made from formulas.

Each vessel is imaged at several resolutions with partial volume, blur and noise, and goes through the whole chain with
default settings and without a hand. Beside it run what is done plainly with scikit-image (Otsu's threshold, the largest
part, marching cubes on that mask), VMTK's level set, started from that threshold for it, and VMTK's centerlines on the
same lumen, with the ends picked for it.
"""

from __future__ import annotations

import argparse
import json
import logging
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
from analytic_vessels import AnalyticVessel, image_of, vessels
from meshes_figure import figure, kept
from meshes_peers import plain_errors, vmtk_level_set, vmtk_line_errors
from meshes_real import aorta, given, planned
from meshes_truth import distance_to, line_errors, samples, truth_surface, truth_volume, wall_offset
from rich.console import Console
from rich.table import Table

from meshes.aneurysm import find_aneurysms
from meshes.grid import Grid
from meshes.partial_volume import thin_areas
from meshes.ports import find_ports
from meshes.quality import mesh_quality
from meshes.sections import cross_sections
from meshes.segmentation import segment_lumen
from meshes.stenosis import find_stenoses
from meshes.tetrahedra import mesh_lumen
from meshes.tracing import extract_centerline
from meshes.trimming import trim_to_centerline

SPACINGS = ((0.5, 0.5, 0.5), (0.75, 0.75, 0.75), (1.0, 1.0, 1.0), (0.5, 0.5, 1.5))


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
    radius_percent, centerline_voxels = line_errors(vessel, centerline.points, sections.radius, voxel)
    vmtk_radius, vmtk_line = vmtk_line_errors(vessel, lumen.level_set, ports, voxel)
    wall = mesh.triangles[mesh.triangle_tags == 0]
    truth = truth_surface(vessel, mesh.ports)
    off = np.abs(vessel.distance(samples(mesh.points, wall, 4))) / voxel
    back = distance_to(mesh.points, wall, truth) / voxel
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
    plain_surface, plain_volume = plain_errors(image, vessel, mesh, truth, voxel)
    offset = wall_offset(vessel, Grid.of(lumen.level_set), mesh.ports) / voxel
    vmtk_offset = wall_offset(vessel, vmtk_level_set(image), mesh.ports) / voxel
    return Errors(
        radius_percent=radius_percent,
        centerline_voxels=centerline_voxels,
        volume_percent=100.0 * abs(quality.volume_ml / truth_volume(vessel, mesh.ports) - 1.0),
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one resolution, no real volume")
    parser.add_argument("--only", help="one vessel, or 'real' for the real volumes")
    parser.add_argument(
        "--keep",
        type=Path,
        help="a folder where each result is kept: what the same code has measured already is not measured again, so "
        "that the whole can be run in pieces",
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
            errors = Errors(
                **kept(
                    arguments.keep,
                    f"{name}_{'x'.join(map(str, spacing))}",
                    lambda make=make, spacing=spacing: asdict(measure(make(), spacing, seed=1)),
                )
            )
            found.append(errors)
            shown = [getattr(errors, column) for column in COLUMNS]
            table.add_row(name, "x".join(map(str, spacing)), *("" if v is None else f"{v:.3g}" for v in shown))
            console.print(f"{name} {spacing}: " + json.dumps(asdict(errors)), soft_wrap=True, highlight=False)
    console.print(table)

    figures = {
        **(phantom_figures(found) if found else {}),
        **(
            {**aorta(), **given(), **planned(arguments.keep, console)}
            if arguments.only == "real" or not (arguments.quick or arguments.only)
            else {}
        ),
    }
    print(json.dumps({"benchmark": "meshes_accuracy", "figures": figures}))


if __name__ == "__main__":
    main()
