"""The lumen as somebody else has segmented it: label maps, segmentations of 3D Slicer and DICOM, surfaces."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import SimpleITK as sitk
from scipy import ndimage

from meshes.borders import lengthwise_cuts
from meshes.dicom_segmentation import is_dicom_segmentation, read_dicom_segment
from meshes.errors import InputError
from meshes.grid import Grid
from meshes.image import check_volume, is_label_map, read_image, read_volume
from meshes.level_set import signed_distance
from meshes.lumen import Lumen
from meshes.slicer import is_segmentation, read_segment
from meshes.surfaces import Unit, image_of_surface, is_surface, labels_on, lumen_from_surface, read_surface

LEAST_INSIDE = 0.9
"""At least this part of a segmentation on another grid has to lie in the image."""

MOST_VALUES = 256
"""An image of more different values than this is no label map."""

NEXT_PART = 0.1
"""A separate part of at least this part of the largest one's size is told of by its place."""

Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Source:
    """What a plan begins with.

    Attributes:
        image: the planning image.
        notes: what was decided, one sentence each.
        is_lumen: the file is a segmentation and not an image of a patient: the lumen is to be taken from it, too.
    """

    image: sitk.Image
    notes: tuple[str, ...] = ()
    is_lumen: bool = False


def read_source(
    path: Path, *, series: str | None = None, segment: str | None = None, unit: Unit | None = None
) -> Source:
    """Read the image of a plan; where there is a segmentation only, one that shows it.

    Args:
        path: an image, a folder of DICOM slices, a segmentation (label map, ``.seg.nrrd``, DICOM) or a surface.
        series: SeriesInstanceUID, for a folder of DICOM.
        segment: of a segmentation with several, by its name.
        unit: of a surface's lengths; mm where None.

    Raises:
        InputError: it cannot be read, or is nothing of the kind.
    """
    if path.is_file() and is_surface(path):
        image, notes = image_of_surface(path, unit)
        return Source(image, notes, is_lumen=True)
    if path.is_file() and (is_segmentation(path) or is_dicom_segmentation(path)):
        read = read_segment if is_segmentation(path) else read_dicom_segment
        label = check_volume(read(path, segment), str(path))
        return Source(_padded(label), (_LABELS_ONLY,), is_lumen=True)
    volume = read_volume(path, series=series)
    if is_label_map(volume.image):
        return Source(volume.image, (*volume.notes, _LABELS_ONLY), is_lumen=True)
    return Source(volume.image, volume.notes)


_LABELS_ONLY = "The image is a label map: the lumen is taken from it, and there are no grey values to measure by."


def read_lumen(
    path: Path, image: sitk.Image, *, value: int | None = None, segment: str | None = None, unit: Unit | None = None
) -> Lumen:
    """Read a segmentation: a label map, a ``.seg.nrrd`` of 3D Slicer, a DICOM segmentation, or a closed surface.

    Args:
        path: the file; STL, VTP, OBJ and PLY are surfaces, all else is a label map.
        image: the planning image.
        value: which label is lumen; all but 0 where None.
        segment: the name of a segment of a ``.seg.nrrd`` or a DICOM segmentation.
        unit: of a surface's lengths; mm where None.

    Raises:
        InputError: it cannot be read, is empty, does not lie in the image, cannot be closed, or has no such segment or
            label.
    """
    if is_surface(path):
        if segment is not None:
            raise InputError(f"{path} is a surface and has no segments; leave --segment out.")
        return lumen_from_surface(read_surface(path), image, unit=unit, name=str(path))
    if unit is not None:
        raise InputError(f"{path} is no surface, and its file says in which unit it is; leave --unit out.")
    if is_segmentation(path):
        return lumen_from_labels(read_segment(path, segment), image, value=value)
    if is_dicom_segmentation(path):
        return lumen_from_labels(read_dicom_segment(path, segment), image, value=value)
    if segment is not None:
        raise InputError(
            f"{path} has no named segments, only a .seg.nrrd or a DICOM segmentation has; choose a label in plan.toml."
        )
    return lumen_from_labels(read_image(path), image, value=value)


def lumen_from_labels(labels: sitk.Image, image: sitk.Image, *, value: int | None = None) -> Lumen:
    """Take the lumen from a label map, on the image's grid or on another one.

    Labels on the image's grid, or on a part of it, are taken as they are. From labels on another grid that lies in the
    image the wall is found on their own grid, and nothing of their resolution is lost; only the label map that is
    returned is resampled.

    Args:
        labels: 0 is background.
        image: the planning image.
        value: which label is lumen; all but 0 where None.

    Raises:
        InputError: the label map does not lie in the image, is none, or holds no such label.
    """
    grid = Grid.of(labels, np.float32)
    target = Grid.of(image, np.float32)
    aligned = _is_part(grid, target)
    if not np.array_equal(np.rint(grid.values), grid.values):
        raise InputError(
            f"The label map {'' if aligned else 'is on another grid than the image and '}holds values that are "
            "no whole "
            f"numbers; it is no label map: give one, or leave --labels out."
        )
    values = np.unique(grid.values)
    if value is None and (len(values) > MOST_VALUES or values[0] < 0):
        raise InputError(
            f"The label map holds {len(values)} different values from {values[0]:g} to {values[-1]:g}; it is an image "
            "and no label map: give one, or name the label that is lumen in plan.toml (segmentation.label)."
        )
    wanted = grid.values != 0 if value is None else grid.values == value
    if not wanted.any():
        present = ", ".join(f"{number:g}" for number in values[:20])
        asked = "any label but 0" if value is None else f"label {value}"
        raise InputError(f"The label map holds no voxel of {asked}; its values are {present}.")
    notes: list[str] = []
    taken = [f"{number:g}" for number in values if number != 0]
    if value is None and len(taken) > 1:
        notes.append(
            f"The labels {', '.join(taken)} are taken together as lumen; segmentation.label in plan.toml names one."
        )
    inside = float(target.contains(grid.positions_of(np.flatnonzero(wanted)), margin=-0.5).mean())
    if inside < LEAST_INSIDE:
        raise InputError(
            f"The label map is on another grid than the image and does not lie in it: only {100 * inside:.0f} % of its "
            f"labels are inside ({_extent(grid)} against {_extent(target)} mm, LPS); is it of this image?"
        )
    if inside < 1.0:
        notes.append(f"{100 * (1 - inside):.1f} % of the label map lie outside of the image.")
    if aligned:
        wanted_grid = _on_grid(grid.like(wanted.astype(np.uint8)), target)
        wanted, grid = wanted_grid.values > 0, wanted_grid
    else:
        notes.append(
            f"The label map is on another grid ({_shape(grid)}) than the image ({_shape(target)}); its wall is "
            "found on its "
            f"own grid."
        )
    wanted, more = _one_whole(wanted, grid)
    low, high = _box(wanted, 4)
    cropped = grid.crop(low.tolist(), high.tolist())
    block = wanted[low[2] : high[2], low[1] : high[1], low[0] : high[0]]
    # A mask says nothing of where between two voxels the wall is. A narrow Gaussian, and then the level that keeps the
    # volume, gives a smooth wall that neither shrinks nor swells the whole.
    soft = ndimage.gaussian_filter(block.astype(np.float32), 0.7)
    level = float(np.quantile(soft, 1.0 - block.mean()))
    relative = cropped.like((level - soft).astype(np.float32))
    level_set = signed_distance(relative, block)
    if aligned:
        label = target.like(wanted.astype(np.uint8))
    else:
        label = labels_on(target, Grid.of(level_set))
        if not label.values.any():
            raise InputError("The label map is so much finer than the image that no voxel of the image is lumen.")
    cuts = lengthwise_cuts(label.values > 0, target)
    return Lumen(label=label.image(), level_set=level_set, notes=(*notes, *more, *cuts))


def _one_whole(wanted: Mask, grid: Grid) -> tuple[Mask, list[str]]:
    """The largest part of a mask with its hollows filled, and what was done, one sentence each."""
    notes = []
    parts, count = ndimage.label(wanted, np.ones((3, 3, 3)))
    if count > 1:
        sizes = np.bincount(parts.ravel())[1:]
        order = np.argsort(-sizes, kind="stable")
        wanted = parts == 1 + int(order[0])
        notes.append(f"Of {count} separate parts of the label map the largest, {sizes.max()} voxels, is used.")
        for number in order[1:4]:
            if sizes[number] >= NEXT_PART * sizes.max():
                where = grid.positions_of(np.flatnonzero(parts == 1 + int(number))).mean(axis=0)
                notes.append(
                    f"Another vessel tree of {sizes[number]} voxels, around {_point(where)} mm, is not "
                    "connected with it and "
                    f"is left out."
                )
    filled = ndimage.binary_fill_holes(wanted)
    hollow = int(filled.sum() - wanted.sum())
    if hollow:
        notes.append(f"Hollows of {hollow} voxels within the lumen are filled.")
    return np.asarray(filled), notes


def _is_part(labels: Grid, grid: Grid) -> bool:
    """Whether the voxels of a label map are voxels of a grid."""
    tolerance = 1e-3 * float(grid.spacing.min())
    first = grid.to_index(labels.to_position(np.zeros(3)))[0]
    last = grid.to_index(labels.to_position(labels.size - 1.0))[0]
    # Over the whole of the label map, so that small differences of spacing and direction count by what they do.
    drift = last - first - (labels.size - 1)
    return bool(
        np.allclose(labels.matrix, grid.matrix, atol=10 * tolerance)
        and np.abs(first - np.round(first)).max() <= 1e-2
        and np.abs(drift).max() <= 0.1
    )


def _on_grid(labels: Grid, grid: Grid) -> Grid:
    """Labels on a part of a grid, on the whole of it; what lies outside of it is cut off."""
    first = grid.to_index(labels.to_position(np.zeros(3)))[0]
    start = np.round(first).astype(int)
    whole = np.zeros(grid.values.shape, dtype=np.uint8)
    low, high = np.maximum(start, 0), np.minimum(start + labels.size, grid.size)
    if (high > low).all():
        target = tuple(slice(a, b) for a, b in zip(low[::-1], high[::-1], strict=True))
        source = tuple(slice(a, b) for a, b in zip((low - start)[::-1], (high - start)[::-1], strict=True))
        whole[target] = labels.values[source]
    return grid.like(whole)


def _padded(label: sitk.Image, margin: int = 4) -> sitk.Image:
    """A segmentation that covers only as much as its segment fills, with some voxels around it."""
    return sitk.ConstantPad(label, [margin] * 3, [margin] * 3, 0)


def _box(mask: Mask, margin: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """First and past-the-last voxel (i, j, k) of a mask's bounding box with a margin, within the array."""
    found = ndimage.find_objects(mask.astype(np.uint8))[0]
    low = np.array([max(0, part.start - margin) for part in found[::-1]])
    high = np.array([min(size, part.stop + margin) for part, size in zip(found[::-1], mask.shape[::-1], strict=True)])
    return low, high


def _shape(grid: Grid) -> str:
    return f"{' x '.join(str(n) for n in grid.size)} voxels of {_point(grid.spacing)} mm"


def _extent(grid: Grid) -> str:
    corners = grid.to_position(np.stack(np.meshgrid(*[[0, n - 1] for n in grid.size]), -1).reshape(-1, 3))
    return f"{_point(corners.min(axis=0))} to {_point(corners.max(axis=0))}"


def _point(values: npt.ArrayLike) -> str:
    return "(" + ", ".join(f"{value:.4g}" for value in np.asarray(values, dtype=float)) + ")"
