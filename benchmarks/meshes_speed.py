"""How long, and with how much memory, an image becomes a mesh: small, large, and beside VMTK.

Every run is a process of its own; its time is the wall clock's, its memory the largest resident size. A time says
little on a machine shared with others: the processors' time, of which two cores have six minutes in three, and the
ratio to VMTK's centerlines, run beside ours on the same lumen, say more.
"""

from __future__ import annotations

import argparse
import json
import logging
import resource
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from analytic_vessels import BLOOD, SNR, TISSUE, AnalyticVessel, vessels
from meshes_figure import figure, kept
from meshes_peers import away_from_stdout
from rich.console import Console
from vmtk import vmtkscripts

from meshes.grid import Grid
from meshes.level_set import wall_surface
from meshes.ports import find_ports
from meshes.quality import mesh_quality
from meshes.segmentation import segment_lumen
from meshes.tetrahedra import mesh_lumen
from meshes.tracing import extract_centerline
from meshes.trimming import trim_to_centerline

COARSE = 0.8
"""Step [mm] at which a vessel's formula is looked at first."""


def volume(size: tuple[int, int, int]) -> sitk.Image:
    """The bifurcation in a volume of this many voxels, slab by slab: the whole would not fit."""
    vessel: AnalyticVessel = vessels()["bifurcation"]()
    extent = vessel.high - vessel.low
    spacing = float(extent[2] / size[2])
    image = np.empty(size[::-1], dtype=np.int16)
    origin = 0.5 * (vessel.low + vessel.high) - spacing * (np.array(size) - 1) / 2
    generator = np.random.default_rng(1)
    coarse = np.ceil((extent + 2.0) / COARSE).astype(int) + 1
    rough = Grid(np.zeros(coarse[::-1], dtype=np.float32), vessel.low - 1.0, np.full(3, COARSE), np.eye(3))
    rough = rough.like(vessel.distance(rough.positions_of(np.arange(rough.values.size))).reshape(rough.values.shape))
    for first in range(0, size[2], 32):
        last = min(first + 32, size[2])
        slab = Grid(np.empty((last - first, size[1], size[0]), dtype=np.float32), origin + [0, 0, first * spacing],
                    np.full(3, spacing), np.eye(3))  # fmt: skip
        points = slab.positions_of(np.arange(slab.values.size))
        depth = rough.sample(points, outside=9.0)
        # The formula itself where the wall may be, or its blur: a distance changes by a millimeter a millimeter.
        near = np.flatnonzero(np.abs(depth) < 2.0 * COARSE + 4.0 * spacing)
        depth[near] = vessel.distance(points[near])
        # An edge as wide as a blur of half a voxel makes it.
        share = 1.0 / (1.0 + np.exp(np.clip(depth / (0.3 * spacing), -40, 40)))
        grey = TISSUE + (BLOOD - TISSUE) * share + generator.normal(0.0, (BLOOD - TISSUE) / SNR, len(points))
        image[first:last] = np.rint(grey).reshape(slab.values.shape)
    made = sitk.GetImageFromArray(image)
    made.SetSpacing((spacing,) * 3)
    made.SetOrigin(tuple(origin))
    return made


def run(size: tuple[int, int, int], tetrahedra: int, *, beside_vmtk: bool) -> dict[str, float]:
    """The whole chain on a volume, timed; what it took to make the volume is not counted."""
    image = volume(size)
    made_gb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    before = processor_seconds()
    start = time.perf_counter()
    lumen = segment_lumen(image)
    segmented = time.perf_counter()
    segmenting = processor_seconds() - before
    centerline = extract_centerline(lumen.level_set)
    lined = time.perf_counter()
    trimmed = trim_to_centerline(lumen.level_set, centerline)
    ports, _ = find_ports(trimmed, centerline)
    mesh = mesh_lumen(trimmed, ports, edges_across=14.0, max_tetrahedra=tetrahedra)
    meshed = time.perf_counter()
    found = {
        "seconds": meshed - start,
        "processor_seconds": processor_seconds() - before,
        "segmentation_seconds": segmented - start,
        "segmentation_processor_seconds": segmenting,
        "centerline_seconds": lined - segmented,
        "mesh_seconds": meshed - lined,
        "tetrahedra": len(mesh.tetrahedra),
        "min_scaled_jacobian": mesh_quality(mesh).min_scaled_jacobian,
        "peak_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6,
        "image_gb": made_gb,
    }
    if beside_vmtk:
        script = vmtkscripts.vmtkCenterlines()
        script.Surface = wall_surface(Grid.of(lumen.level_set)).extract_largest().triangulate().clean()
        script.SeedSelectorName = "pointlist"
        script.SourcePoints = ports[0].center.tolist()
        script.TargetPoints = np.concatenate([port.center for port in ports[1:]]).tolist()
        script.PrintError = script.PrintLog = lambda *_: None
        start = time.perf_counter()
        with away_from_stdout():
            script.Execute()
        found["vmtk_centerline_seconds"] = time.perf_counter() - start
    return found


def processor_seconds() -> float:
    """What this process and those it started have used of the processors: no other program's work is in it."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def in_a_process(size: tuple[int, int, int], tetrahedra: int, *, beside_vmtk: bool = False) -> dict[str, float]:
    """`run` in a fresh process, so that its memory is its own."""
    command = [sys.executable, __file__, "--size", ",".join(map(str, size)), "--tetrahedra", str(tetrahedra)]
    done = subprocess.run([*command, *(["--vmtk"] if beside_vmtk else [])], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise SystemExit(done.stderr)
    return dict(json.loads(done.stdout.strip().splitlines()[-1]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="no volume of 512 x 512 x 600 voxels")
    parser.add_argument("--size", help="one volume: I,J,K voxels")
    parser.add_argument("--tetrahedra", type=int, default=200_000)
    parser.add_argument("--vmtk", action="store_true")
    parser.add_argument("--keep", type=Path, help="a folder where each volume's figures are kept, of this code")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.ERROR)
    if arguments.size:
        i, j, k = (int(part) for part in arguments.size.split(","))
        print(json.dumps(run((i, j, k), arguments.tetrahedra, beside_vmtk=arguments.vmtk)))
        return
    console = Console(stderr=True)
    keep = arguments.keep
    half = kept(keep, "speed_200", lambda: in_a_process((200, 200, 200), 200_000))
    console.print("200^3", half)
    whole = kept(keep, "speed_256", lambda: in_a_process((256, 256, 256), 200_000, beside_vmtk=True))
    console.print("256^3", whole)
    # The segmentation's work goes with the voxels; the mesh's, with the tetrahedra, would only hide how it grows.
    growth = whole["segmentation_processor_seconds"] / half["segmentation_processor_seconds"] / (256 / 200) ** 3
    why = {"why": "left out by --quick"}
    large = None if arguments.quick else kept(keep, "speed_512", lambda: in_a_process((512, 512, 600), 200_000))
    console.print("512x512x600", large)
    figures = {
        "minutes_256_cubed": figure(whole["seconds"] / 60.0, "<= 3", "min"),
        "processor_minutes_256_cubed": figure(whole["processor_seconds"] / 60.0, "<= 6", "min"),
        "tetrahedra_256_cubed": figure(whole["tetrahedra"], "in 150000 250000", "1"),
        "memory_256_cubed": figure(whole["peak_gb"], "<= 4", "GB"),
        "growth_with_voxels": figure(growth, "<= 1.2", "ratio"),
        "memory_512_512_600": figure(
            None if large is None else large["peak_gb"], "<= 12", "GB", **({} if large else why)
        ),
        "centerline_speed_against_vmtk": figure(
            whole["vmtk_centerline_seconds"] / whole["centerline_seconds"], ">= 1", "ratio"
        ),
    }
    print(json.dumps({"benchmark": "meshes_speed", "figures": figures}))


if __name__ == "__main__":
    main()
