"""What runs beside ours on the same images: scikit-image done plainly, VMTK's level set and VMTK's centerlines."""

from __future__ import annotations

import contextlib
import ctypes
import io
import os
import sys
from collections.abc import Iterator

import numpy as np
import pyvista as pv
import SimpleITK as sitk
from analytic_vessels import AnalyticVessel
from meshes_truth import between, distance_to, line_errors, truth_volume
from scipy import ndimage
from skimage.filters import threshold_otsu
from skimage.measure import label, marching_cubes
from vmtk import vmtkscripts

from meshes.grid import Array, Grid
from meshes.level_set import wall_surface
from meshes.ports import Port
from meshes.tetrahedra import LumenMesh


def plain_errors(
    image: sitk.Image, vessel: AnalyticVessel, mesh: LumenMesh, truth: Array, voxel: float
) -> tuple[float, float]:
    """Surface and volume error of scikit-image done plainly, between the same ports."""
    grid = Grid.of(image)
    mask = grid.values > threshold_otsu(grid.values)
    parts = label(mask, connectivity=1)
    mask = parts == 1 + int(np.argmax(np.bincount(parts.ravel())[1:]))
    vertices, faces, _, _ = marching_cubes(np.pad(mask, 1).astype(np.float32), 0.5)
    places = grid.to_position(vertices[:, ::-1] - 1.0)
    kept = between(places, mesh.ports)
    off = np.abs(vessel.distance(places[kept])) / voxel
    back = distance_to(places, faces, truth) / voxel
    inside = grid.positions_of(np.flatnonzero(mask))
    volume = float(between(inside, mesh.ports).sum() * np.prod(grid.spacing) / 1000.0)
    return float(0.5 * (off.mean() + back.mean())), abs(volume / truth_volume(vessel, mesh.ports) - 1.0) * 100.0


def vmtk_line_errors(
    vessel: AnalyticVessel, level_set: sitk.Image, ports: tuple[Port, ...], voxel: float
) -> tuple[float, float]:
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
    inside = between(points, ports)
    return line_errors(vessel, points[inside], radius[inside], voxel)


def vmtk_level_set(image: sitk.Image) -> Grid:
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
