"""The lumen as somebody else has segmented it: label maps, 3D Slicer's segmentations, closed surfaces."""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyvista as pv
import SimpleITK as sitk
from scipy import ndimage
from vtkmodules.vtkImagingStencil import vtkImageStencilToImage, vtkPolyDataToImageStencil

from meshes.errors import InputError
from meshes.grid import Grid
from meshes.image import read_image
from meshes.level_set import distance_to, signed_distance
from meshes.lumen import Lumen

SURFACES = (".stl", ".vtp", ".obj", ".ply")
Mask = npt.NDArray[np.bool_]


def read_lumen(path: Path, image: sitk.Image, *, value: int | None = None, segment: str | None = None) -> Lumen:
    """Read a segmentation: a label map on the image's grid, a ``.seg.nrrd`` of 3D Slicer, or a closed surface.

    Args:
        path: the file; STL, VTP, OBJ and PLY are surfaces, all else is a label map.
        image: the planning image.
        value: which label is lumen; all but 0 where None.
        segment: the name of a segment of a ``.seg.nrrd``.

    Raises:
        InputError: it cannot be read, is empty, is on another grid, is open, or has no such segment or label.
    """
    if path.suffix.lower() in SURFACES:
        if segment is not None:
            raise InputError(f"{path} is a surface and has no segments; leave --segment out.")
        return lumen_from_surface(_read_surface(path), image, name=str(path))
    if path.name.lower().endswith(".seg.nrrd"):
        return lumen_from_labels(*_read_slicer(path, image, segment), value=value)
    if segment is not None:
        raise InputError(f"{path} has no named segments, only a .seg.nrrd has; choose a label in plan.toml.")
    return lumen_from_labels(read_image(path), image, value=value)


def lumen_from_labels(labels: sitk.Image, image: sitk.Image, *, value: int | None = None) -> Lumen:
    """Take the lumen from a label map on the image's grid.

    Args:
        labels: 0 is background.
        image: the planning image.
        value: which label is lumen; all but 0 where None.

    Raises:
        InputError: the label map is on another grid, or holds no such label.
    """
    _check_same_grid(labels, image)
    grid = Grid.of(labels, np.float32)
    wanted = grid.values != 0 if value is None else grid.values == value
    if not wanted.any():
        present = ", ".join(f"{number:g}" for number in np.unique(grid.values)[:20])
        asked = "any label but 0" if value is None else f"label {value}"
        raise InputError(f"The label map holds no voxel of {asked}; its values are {present}.")
    parts, count = ndimage.label(wanted, np.ones((3, 3, 3)))
    notes = []
    if count > 1:
        sizes = np.bincount(parts.ravel())[1:]
        wanted = parts == 1 + int(np.argmax(sizes))
        notes.append(f"Of {count} separate parts of the label map the largest, {sizes.max()} voxels, is used.")
    wanted = ndimage.binary_fill_holes(wanted)
    low, high = _box(wanted, 4)
    cropped = grid.crop(low.tolist(), high.tolist())
    block = wanted[low[2] : high[2], low[1] : high[1], low[0] : high[0]]
    # A mask says nothing of where between two voxels the wall is. A narrow Gaussian, and then the level that keeps the
    # volume, gives a smooth wall that neither shrinks nor swells the whole.
    soft = ndimage.gaussian_filter(block.astype(np.float32), 0.7)
    level = float(np.quantile(soft, 1.0 - block.mean()))
    relative = cropped.like((level - soft).astype(np.float32))
    return Lumen(
        label=grid.like(wanted.astype(np.uint8)).image(),
        level_set=signed_distance(relative, block),
        notes=tuple(notes),
    )


def lumen_from_surface(surface: pv.PolyData, image: sitk.Image, *, name: str = "the surface") -> Lumen:
    """Take the lumen from a closed surface, whose exact distance is kept.

    A surface file does not say in which frame it is. One that lies in the image in LPS only, or in RAS only (as VMTK
    writes), is there; one that lies in it in both is taken as LPS, with a note.

    Args:
        surface: triangles, mm.
        image: the planning image; the label map is made on its grid.
        name: what messages call it.

    Raises:
        InputError: it is empty, open, or not in the image.
    """
    surface = surface.triangulate().clean()
    if surface.n_cells == 0:
        raise InputError(f"{name} holds no triangles; export it as a closed surface mesh.")
    edges = surface.extract_feature_edges(
        boundary_edges=True, non_manifold_edges=True, feature_edges=False, manifold_edges=False
    )
    if edges.n_cells:
        where = ", ".join(f"{value:.1f}" for value in edges.points.mean(axis=0))
        raise InputError(
            f"{name} is no closed surface: {edges.n_cells} of its edges are open or belong to more than two triangles "
            f"(around {where}); close it first, caps included."
        )
    grid = Grid.of(image)
    points = np.asarray(surface.points, dtype=float)
    frames = {"LPS": points, "RAS": points * [-1.0, -1.0, 1.0]}
    inside = {frame: float(grid.contains(places).mean()) for frame, places in frames.items()}
    frame = "LPS" if inside["LPS"] >= 0.9 or inside["LPS"] >= inside["RAS"] else "RAS"
    if inside[frame] < 0.5:
        raise InputError(
            f"{name} lies outside the image ({100 * inside['LPS']:.0f} % of its points are inside in LPS, "
            f"{100 * inside['RAS']:.0f} % in RAS); are its lengths in mm, and is it of this patient?"
        )
    surface.points = frames[frame]
    notes = [f"The surface is taken to be in {frame}, in mm."]
    if min(inside.values()) > 0.5:
        notes.append("It would lie in the image in RAS as well: look at the picture.")
    # A grid of its own, as fine as the image, for the exact distance.
    step = float(np.cbrt(np.prod(grid.spacing)))
    low, high = np.array(surface.bounds[::2]) - 5 * step, np.array(surface.bounds[1::2]) + 5 * step
    size = np.ceil((high - low) / step).astype(int) + 1
    fine = Grid(np.zeros(size[::-1], dtype=np.float32), low, np.full(3, step), np.eye(3))
    block = _enclosed(surface, fine)
    if not block.any():
        raise InputError(f"{name} encloses no voxel of the image; are its lengths in mm?")
    # The distance is taken to the triangles' middles: they have to be small.
    dense = surface.subdivide_adaptive(max_edge_len=step, max_n_passes=8)
    level_set = distance_to(dense, fine.like(np.where(block, -1.0, 1.0).astype(np.float32)))
    label = np.zeros(grid.values.shape, dtype=np.uint8)
    corners = np.array([[x, y, z] for x in (0, size[0]) for y in (0, size[1]) for z in (0, size[2])])
    corners = grid.to_index(fine.to_position(corners))
    first = np.clip(np.floor(corners.min(axis=0)).astype(int), 0, grid.size)
    last = np.clip(np.ceil(corners.max(axis=0)).astype(int) + 1, 0, grid.size)
    part = grid.crop(first.tolist(), last.tolist())
    depth = level_set.sample(part.positions_of(np.arange(part.values.size)), outside=step).reshape(part.values.shape)
    label[first[2] : last[2], first[1] : last[1], first[0] : last[0]] = depth < 0
    return Lumen(label=grid.like(label).image(), level_set=level_set.image(), notes=tuple(notes))


def _enclosed(surface: pv.PolyData, grid: Grid) -> Mask:
    """Which points of an axis-aligned grid a closed surface encloses."""
    stencil = vtkPolyDataToImageStencil()
    stencil.SetInputData(surface)
    stencil.SetOutputOrigin(*grid.origin)
    stencil.SetOutputSpacing(*grid.spacing)
    stencil.SetOutputWholeExtent(*(int(n) for size in grid.size for n in (0, size - 1)))
    to_image = vtkImageStencilToImage()
    to_image.SetInputConnection(stencil.GetOutputPort())
    to_image.SetInsideValue(1)
    to_image.SetOutsideValue(0)
    to_image.SetOutputScalarTypeToUnsignedChar()
    to_image.Update()
    return np.asarray(pv.wrap(to_image.GetOutput()).active_scalars).reshape(grid.values.shape) > 0


def _read_surface(path: Path) -> pv.PolyData:
    if not path.is_file():
        raise InputError(f"{path} does not exist; give a label map or a closed surface.")
    try:
        surface = pv.read(path)
    except Exception as error:  # VTK's readers raise errors of many kinds
        raise InputError(f"{path} cannot be read as a surface ({error}).") from error
    if not isinstance(surface, pv.PolyData):
        raise InputError(f"{path} holds a {type(surface).__name__} and no surface of triangles.")
    return surface


def _read_slicer(path: Path, image: sitk.Image, segment: str | None) -> tuple[sitk.Image, sitk.Image]:
    """A segmentation of 3D Slicer as a label map on the image's grid, and the image.

    Segments that overlap are in several layers; the file covers only as much of the grid as its segments fill.
    """
    if not path.is_file():
        raise InputError(f"{path} does not exist; give a label map or a segmentation.")
    try:
        stored = sitk.ReadImage(str(path))
    except RuntimeError as error:
        raise InputError(f"{path} cannot be read ({str(error).strip().splitlines()[-1]}).") from error
    segments: dict[str, tuple[int, int]] = {}
    number = 0
    while stored.HasMetaDataKey(f"Segment{number}_Name"):
        layer, label = _key(stored, f"Segment{number}_Layer", 0), _key(stored, f"Segment{number}_LabelValue", 1)
        segments[str(stored.GetMetaData(f"Segment{number}_Name"))] = (layer, label)
        number += 1
    names = ", ".join(f'"{known}"' for known in segments)
    if segment is None and len(segments) > 1:
        raise InputError(f"{path} holds several segments ({names}); say which is lumen with --segment.")
    if segment is not None and segment not in segments:
        raise InputError(f'{path} has no segment "{segment}"; it has {names or "none with a name"}.')
    layer, label = segments[segment or next(iter(segments))] if segments else (0, 0)
    if stored.GetNumberOfComponentsPerPixel() > 1:
        stored = sitk.VectorIndexSelectionCast(stored, layer)
    labels = Grid.of(stored)
    wanted = labels.values == label if segments else labels.values != 0
    return _on_grid(labels.like(wanted.astype(np.uint8)), Grid.of(image)).image(), image


def _key(image: sitk.Image, key: str, otherwise: int) -> int:
    return int(image.GetMetaData(key)) if image.HasMetaDataKey(key) else otherwise


def _on_grid(labels: Grid, grid: Grid) -> Grid:
    """Labels on a part of a grid, on the whole of it; what lies outside of it is cut off.

    Raises:
        InputError: their voxels are not voxels of the grid.
    """
    first = grid.to_index(labels.to_position(np.zeros(3)))[0]
    aligned = np.allclose(labels.matrix, grid.matrix, atol=1e-4 * float(grid.spacing.min()))
    if not aligned or np.abs(first - np.round(first)).max() > 1e-2:
        raise InputError(
            "The segmentation is on another grid than the image; in 3D Slicer choose the image as its source "
            "geometry, or export it as a label map with the image as reference."
        )
    start = np.round(first).astype(int)
    whole = np.zeros(grid.values.shape, dtype=np.uint8)
    low, high = np.maximum(start, 0), np.minimum(start + labels.size, grid.size)
    if (high > low).all():
        target = tuple(slice(a, b) for a, b in zip(low[::-1], high[::-1], strict=True))
        source = tuple(slice(a, b) for a, b in zip((low - start)[::-1], (high - start)[::-1], strict=True))
        whole[target] = labels.values[source]
    return grid.like(whole)


def _box(mask: Mask, margin: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """First and past-the-last voxel (i, j, k) of a mask's bounding box with a margin, within the array."""
    found = ndimage.find_objects(mask.astype(np.uint8))[0]
    low = np.array([max(0, part.start - margin) for part in found[::-1]])
    high = np.array([min(size, part.stop + margin) for part, size in zip(found[::-1], mask.shape[::-1], strict=True)])
    return low, high


def _check_same_grid(labels: sitk.Image, image: sitk.Image) -> None:
    same = labels.GetSize() == image.GetSize() and all(
        np.allclose(a, b, rtol=1e-4, atol=1e-3 * min(image.GetSpacing()))
        for a, b in (
            (labels.GetOrigin(), image.GetOrigin()),
            (labels.GetSpacing(), image.GetSpacing()),
            (labels.GetDirection(), image.GetDirection()),
        )
    )
    if not same:
        raise InputError(
            f"The label map is on another grid ({labels.GetSize()} voxels of {_point(labels.GetSpacing())} mm) than "
            f"the image ({image.GetSize()} of {_point(image.GetSpacing())} mm); resample it onto the image."
        )


def _point(values: npt.ArrayLike) -> str:
    return "(" + ", ".join(f"{value:.4g}" for value in np.asarray(values, dtype=float)) + ")"
