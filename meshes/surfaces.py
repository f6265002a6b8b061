"""The lumen from a surface of triangles, as modeling tools export it: closed, with open ends, or with small faults.

Open ends are closed by flat caps, and edges that belong to more than two triangles are tolerated, as long as inside and
outside are told apart the same way along each of three directions: a surface for which they are not is refused, with
where it fails. Files do not say in which unit or frame they are: lengths are in mm, LPS or RAS, unless that cannot be.
"""

from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import pyvista as pv
import SimpleITK as sitk
from scipy import ndimage
from vtkmodules.vtkImagingStencil import vtkImageStencilToImage, vtkPolyDataToImageStencil

from meshes.errors import InputError
from meshes.grid import Array, Grid
from meshes.level_set import distance_to
from meshes.lumen import Lumen

SURFACES = (".stl", ".vtp", ".obj", ".ply", ".vtk")
Unit = Literal["mm", "cm", "m"]
MM_PER: dict[str, float] = {"mm": 1.0, "cm": 10.0, "m": 1000.0}
Mask = npt.NDArray[np.bool_]

LARGEST_CAP_SHARE = 0.2
"""Caps that would be more than this part of the whole surface close no ends of vessels."""

DISAGREEMENT = 0.01
"""Inside and outside may differ between directions for this part of the voxels inside."""

LEAST_MEAN_RADIUS_MM, LEAST_LENGTH_MM = 0.75, 8.0
"""A vessel tree with a smaller mean radius, or shorter, is taken to be in another unit than mm."""

RADIUS_VOXELS = 7.0
"""Voxels to a vessel tree's mean radius, where no image says how fine the grid is to be."""

MOST_VOXELS = 8_000_000
BLOOD, TISSUE = 400, 40
"""Grey values of an image made from a surface."""


def is_surface(path: Path) -> bool:
    """Whether a file is a surface by its name."""
    return path.suffix.lower() in SURFACES


def read_surface(path: Path) -> pv.PolyData:
    """Read a surface of triangles in the file's own unit.

    Raises:
        InputError: it does not exist, cannot be read, or holds no triangles.
    """
    if not path.is_file():
        raise InputError(f"{path} does not exist; give a label map or a closed surface.")
    try:
        surface = pv.read(path)
    except Exception as error:  # VTK's readers raise errors of many kinds
        raise InputError(f"{path} cannot be read as a surface ({error}).") from error
    if not isinstance(surface, pv.PolyData):
        raise InputError(f"{path} holds a {type(surface).__name__} and no surface of triangles.")
    bare = pv.PolyData(np.asarray(surface.points, dtype=float), surface.faces)
    if bare.n_cells == 0 or bare.n_points == 0:
        raise InputError(f"{path} holds no triangles; export it as a closed surface mesh.")
    if not np.isfinite(bare.points).all():
        raise InputError(f"{path} has points that are not finite; export it again.")
    return bare


def closed_surface(surface: pv.PolyData, name: str) -> tuple[pv.PolyData, list[str]]:
    """The largest part of a surface, its open ends closed, and what was done about its faults, one sentence each.

    Raises:
        InputError: it cannot be closed.
    """
    notes: list[str] = []
    # Coordinates of single precision: what is equal there is one point.
    surface = surface.triangulate().clean(tolerance=1e-7)
    parts = surface.connectivity("all").split_bodies() if surface.n_cells else []
    if len(parts) > 1:
        surface = max((part.extract_surface(algorithm=None) for part in parts), key=lambda part: part.area)
        surface.clear_data()
        notes.append(f"The surface has {len(parts)} separate parts; only the largest is used.")
    before = surface.area
    open_edges = _edges(surface, boundary=True)
    if open_edges.n_cells:
        loops = len(open_edges.connectivity("all").split_bodies())
        where = _point(open_edges.points.mean(axis=0))
        filled = surface.fill_holes(2.0 * surface.length).triangulate().clean()
        left = _edges(filled, boundary=True).n_cells
        if left or filled.area - before > LARGEST_CAP_SHARE * filled.area:
            raise InputError(
                f"{name} is no closed surface: {open_edges.n_cells} of its edges are open (around {where}) and do not "
                f"bound ends of vessels that could be capped; close it first."
            )
        surface = filled
        notes.append(f"{loops} open ends ({open_edges.n_cells} open edges) are closed by flat caps.")
    faults = _edges(surface, boundary=False)
    if faults.n_cells:
        notes.append(
            f"{faults.n_cells} edges belong to more than two triangles (around {_point(faults.points.mean(axis=0))}); "
            f"inside and outside are clear all the same."
        )
    # Caps may face the other way, and the volume would be wrong.
    surface = surface.compute_normals(
        cell_normals=True, point_normals=False, split_vertices=False, consistent_normals=True, auto_orient_normals=True
    )
    surface.clear_data()
    return surface, notes


def in_millimetres(surface: pv.PolyData, unit: Unit | None, name: str) -> pv.PolyData:
    """A closed surface in mm.

    Args:
        surface: in the file's unit.
        unit: of the file; mm where None, if a vessel tree can be of that size.
        name: what messages call it.

    Raises:
        InputError: in mm it would be too small for a vessel tree, and no unit is given.
    """
    if unit is None:
        radius, length = 2.0 * surface.volume / surface.area, surface.length
        if length < LEAST_LENGTH_MM or radius < LEAST_MEAN_RADIUS_MM or length > 2000.0:
            raise InputError(
                f"{name} in mm would be a vessel tree {length:.3g} mm long with a mean radius of {radius:.2g} "
                "mm; say in "
                f"which unit it is with --unit cm, --unit m or --unit mm."
            )
    scaled = surface.copy()
    scaled.points = np.asarray(surface.points, dtype=float) * MM_PER[unit or "mm"]
    return scaled


def lumen_from_surface(
    surface: pv.PolyData, image: sitk.Image, *, unit: Unit | None = None, name: str = "the surface"
) -> Lumen:
    """Take the lumen from a surface, whose exact distance is kept.

    A surface file does not say in which frame it is. One that lies in the image in LPS only, or in RAS only (as VMTK
    writes), is there; one that lies in it in both is taken as LPS, with a note.

    Args:
        surface: triangles, in the unit given.
        image: the planning image; the label map is made on its grid.
        unit: mm where None.
        name: what messages call it.

    Raises:
        InputError: it is empty, cannot be closed, or is not in the image.
    """
    surface, notes = closed_surface(surface, name)
    grid = Grid.of(image)
    raw = np.asarray(surface.points, dtype=float)
    shares = {key: _inside_shares(raw * scale, grid) for key, scale in MM_PER.items()}
    inside = shares[unit or "mm"]
    frame = "LPS" if inside["LPS"] >= 0.9 or inside["LPS"] >= inside["RAS"] else "RAS"
    fits = [
        key for key, of in shares.items() if max(of.values()) > 0.9 and surface.length * MM_PER[key] > LEAST_LENGTH_MM
    ]
    if inside[frame] < 0.5 or surface.length * MM_PER[unit or "mm"] < LEAST_LENGTH_MM:
        hint = f"; in {fits[0]} it would: give --unit {fits[0]}" if unit is None and fits else ""
        raise InputError(
            f"{name} does not lie in the image with its lengths in {unit or 'mm'} ({100 * inside['LPS']:.0f} % of its "
            f"points are inside in LPS, {100 * inside['RAS']:.0f} % in RAS, and it is "
            f"{surface.length * MM_PER[unit or 'mm']:.3g} mm long){hint}; is it of this patient?"
        )
    surface.points = raw * MM_PER[unit or "mm"] * ([1.0, 1.0, 1.0] if frame == "LPS" else [-1.0, -1.0, 1.0])
    notes.append(f"The surface is taken to be in {frame}, in {unit or 'mm'}.")
    if min(inside.values()) > 0.5:
        notes.append("It would lie in the image in RAS as well: look at the picture.")
    if inside[frame] < 0.999:
        notes.append(f"{100 * (1 - inside[frame]):.1f} % of the surface's points are outside of the image.")
    level_set = _level_set(surface, float(np.cbrt(np.prod(grid.spacing))), name)
    return Lumen(label=labels_on(grid, level_set).image(), level_set=level_set.image(), notes=tuple(notes))


def image_of_surface(path: Path, unit: Unit | None) -> tuple[sitk.Image, tuple[str, ...]]:
    """An image (int16) that shows what a surface encloses as blood, for a plan from the surface alone; and notes.

    Raises:
        InputError: see `read_surface`, `closed_surface` and `in_millimetres`.
    """
    surface, _ = closed_surface(read_surface(path), str(path))
    surface = in_millimetres(surface, unit, str(path))
    step = 2.0 * surface.volume / surface.area / RADIUS_VOXELS
    extent = np.array(surface.bounds[1::2]) - np.array(surface.bounds[::2])
    step = max(step, float(np.cbrt(np.prod(extent) / MOST_VOXELS)))
    level_set = _level_set(surface, step, str(path))
    share = np.clip(0.5 - level_set.values / step, 0.0, 1.0)
    grey = np.rint(TISSUE + (BLOOD - TISSUE) * share).astype(np.int16)
    return level_set.like(grey).image(), (
        f"There is no image: one is made of the surface (voxels of {step:.2f} mm), whose lengths are in "
        f"{unit or 'mm'} and "
        f"whose frame is taken to be LPS.",
    )


def labels_on(grid: Grid, level_set: Grid) -> Grid:
    """1 at the voxels of a grid where a level set on another one is negative; uint8."""
    label = np.zeros(grid.values.shape, dtype=np.uint8)
    size = level_set.size
    corners = np.array([[x, y, z] for x in (0, size[0]) for y in (0, size[1]) for z in (0, size[2])])
    index = grid.to_index(level_set.to_position(corners))
    first = np.clip(np.floor(index.min(axis=0)).astype(int), 0, grid.size)
    last = np.clip(np.ceil(index.max(axis=0)).astype(int) + 1, 0, grid.size)
    outside = float(level_set.spacing.max())
    for k in range(first[2], last[2]):
        part = grid.crop((first[0], first[1], k), (last[0], last[1], k + 1))
        if part.values.size:
            depth = level_set.sample(part.positions_of(np.arange(part.values.size)), outside=outside)
            label[k, first[1] : last[1], first[0] : last[0]] = (depth < 0).reshape(part.values.shape)[0]
    return grid.like(label)


def _level_set(surface: pv.PolyData, step: float, name: str) -> Grid:
    """The exact distance to a closed surface on a grid of its own, steps of ``step`` mm, negative inside.

    Raises:
        InputError: what is inside cannot be told.
    """
    low, high = np.array(surface.bounds[::2]) - 5 * step, np.array(surface.bounds[1::2]) + 5 * step
    size = np.ceil((high - low) / step).astype(int) + 1
    fine = Grid(np.zeros(size[::-1], dtype=np.float32), low, np.full(3, step), np.eye(3))
    block = _enclosed(surface, fine, name)
    if not block.any():
        raise InputError(f"{name} encloses no voxel of the image; are its lengths in mm?")
    parts, count = ndimage.label(block)
    if count > 1:
        block = parts == 1 + int(np.argmax(np.bincount(parts.ravel())[1:]))
    block = ndimage.binary_fill_holes(block)
    # The distance is taken to the triangles' middles: they have to be small.
    return distance_to(_divided(surface, step), fine.like(np.where(block, -1.0, 1.0).astype(np.float32)))


def _divided(surface: pv.PolyData, longest: float) -> pv.PolyData:
    """The same surface of triangles with edges no longer than ``longest``, each halved across its longest edge.

    Neighbors are not made to agree: only the triangles' places and normals are wanted.
    """
    corners = np.asarray(surface.points, dtype=float)[surface.faces.reshape(-1, 4)[:, 1:]]
    done = []
    while len(corners):
        edges = np.linalg.norm(np.roll(corners, -1, axis=1) - corners, axis=2)
        large = edges.max(axis=1) > longest
        done.append(corners[~large])
        # The longest edge first: from corner 0 to corner 1.
        turn = (np.argmax(edges[large], axis=1)[:, None] + np.arange(3)) % 3
        a, b, c = np.moveaxis(np.take_along_axis(corners[large], turn[:, :, None], axis=1), 1, 0)
        middle = 0.5 * (a + b)
        corners = np.concatenate([np.stack([a, middle, c], axis=1), np.stack([middle, b, c], axis=1)])
    small = np.concatenate(done)
    faces = np.column_stack([np.full(len(small), 3), np.arange(3 * len(small)).reshape(-1, 3)])
    return pv.PolyData(small.reshape(-1, 3), faces.ravel())


def _enclosed(surface: pv.PolyData, grid: Grid, name: str) -> Mask:
    """Which points of an axis-aligned grid a surface encloses: the majority of three directions.

    Raises:
        InputError: the directions disagree on many.
    """
    votes = np.zeros(grid.values.shape, dtype=np.uint8)
    for turn in range(3):
        # The coordinates turned by one place each time: slices are cut across z.
        order = [(axis + turn) % 3 for axis in range(3)]
        turned = pv.PolyData(np.asarray(surface.points)[:, order], surface.faces)
        inside = _parity(turned, grid.origin[order], grid.spacing[order], grid.size[order])
        # inside[c, b, a] with a = order[0]: back to [k, j, i].
        axes = [order[2], order[1], order[0]]
        votes += np.transpose(inside, [axes.index(axis) for axis in (2, 1, 0)]).astype(np.uint8)
    block = votes >= 2
    doubtful = int(((votes == 1) | (votes == 2)).sum())
    if doubtful > max(DISAGREEMENT * int(block.sum()), 20):
        where = grid.positions_of(np.flatnonzero(((votes == 1) | (votes == 2)).ravel())).mean(axis=0)
        raise InputError(
            f"{name} is no closed surface: for {doubtful} voxels, around {_point(where)}, it is not clear "
            "whether they are "
            f"inside; repair it there."
        )
    return np.asarray(block)


def _parity(surface: pv.PolyData, origin: Array, spacing: Array, size: npt.NDArray[np.int64]) -> Mask:
    """Points of a grid inside a surface, by its outline in every slice across z; (nz, ny, nx)."""
    stencil = vtkPolyDataToImageStencil()
    stencil.SetInputData(surface)
    stencil.SetOutputOrigin(*origin)
    stencil.SetOutputSpacing(*spacing)
    stencil.SetOutputWholeExtent(*(int(n) for count in size for n in (0, count - 1)))
    to_image = vtkImageStencilToImage()
    to_image.SetInputConnection(stencil.GetOutputPort())
    to_image.SetInsideValue(1)
    to_image.SetOutsideValue(0)
    to_image.SetOutputScalarTypeToUnsignedChar()
    to_image.Update()
    return np.asarray(pv.wrap(to_image.GetOutput()).active_scalars).reshape([int(n) for n in size[::-1]]) > 0


def _inside_shares(points: Array, grid: Grid) -> dict[str, float]:
    """Which part of some points (mm) lies in an image if they are in LPS, and if they are in RAS."""
    return {
        "LPS": float(grid.contains(points).mean()),
        "RAS": float(grid.contains(points * [-1.0, -1.0, 1.0]).mean()),
    }


def _edges(surface: pv.PolyData, *, boundary: bool) -> pv.PolyData:
    """Edges of one triangle only, or of more than two."""
    return surface.extract_feature_edges(
        boundary_edges=boundary, non_manifold_edges=not boundary, feature_edges=False, manifold_edges=False
    )


def _point(values: npt.ArrayLike) -> str:
    return "(" + ", ".join(f"{value:.4g}" for value in np.asarray(values, dtype=float)) + ")"
