"""Reading volumes: NIfTI, NRRD, MetaImage and DICOM, orientation kept; and what is no usable volume, named."""

import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from meshes.dicom import is_dicom, read_dicom
from meshes.errors import InputError
from meshes.nifti import not_finite

SMALLEST_EXTENT_MM, LARGEST_EXTENT_MM = 5.0, 4000.0
"""An image whose longest side is shorter or longer is not in mm."""

FINEST_MM = 0.1
"""Voxels finer than this hardly come from a scanner that a patient lies in."""

MOST_LABELS, LARGEST_LABEL = 64, 255
"""An image of whole numbers from 0 on with no more values than this, most of it 0, is a label map."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Volume:
    """A scalar volume, positions in mm, LPS, and what was decided when it was read, one sentence each."""

    image: sitk.Image
    notes: tuple[str, ...] = ()


def read_image(path: Path, *, series: str | None = None) -> sitk.Image:
    """Read a three-dimensional scalar volume; see `read_volume`, whose notes are logged as warnings."""
    volume = read_volume(path, series=series)
    for note in volume.notes:
        logger.warning("%s: %s", path, note)
    return volume.image


def read_volume(path: Path, *, series: str | None = None) -> Volume:
    """Read a three-dimensional scalar volume; positions are mm in the DICOM patient frame (LPS).

    Args:
        path: NIfTI, NRRD, MHA or multi-frame DICOM file, or a folder of DICOM slices.
        series: SeriesInstanceUID of the series to take of a folder; the one with the most slices where None.

    Raises:
        InputError: there is no such file, folder or series, it cannot be read, or it is no volume of finite, varying
            values and plausible size.
    """
    if not path.exists():
        raise InputError(f"{path} does not exist; give an image (NIfTI, NRRD, MHA) or a folder of DICOM slices.")
    notes: tuple[str, ...] = ()
    if path.is_dir() or is_dicom(path):
        image, notes = read_dicom(path, series)
    elif series is not None:
        raise InputError(f"{path} is no DICOM and has no series; leave --series out.")
    else:
        try:
            image = sitk.ReadImage(str(path))
        except RuntimeError as error:
            reason = str(error).strip().splitlines()[-1]
            raise InputError(
                f"{path} cannot be read as an image ({reason}); give NIfTI, NRRD, MHA or DICOM."
            ) from error
        if count := not_finite(path):
            # The reader has made them 0.
            raise _not_finite(str(path), count)
    image, more = _three_dimensional(image)
    check_volume(image, str(path))
    return Volume(image, (*notes, *more, *_doubts(image)))


def check_volume(image: sitk.Image, name: str) -> sitk.Image:
    """The image, if it is a volume that can be worked with.

    Raises:
        InputError: see `read_volume`.
    """
    size = " x ".join(str(value) for value in image.GetSize())
    if image.GetDimension() > 3:
        raise InputError(
            f"{name} is an image of {size} voxels; a volume with three dimensions is needed: extract one time "
            "or channel."
        )
    if image.GetDimension() != 3 or min(image.GetSize()) < 2:
        raise InputError(f"{name} is an image of {size} voxels; a volume with three dimensions is needed.")
    if image.GetNumberOfComponentsPerPixel() != 1:
        raise InputError(
            f"{name} has {image.GetNumberOfComponentsPerPixel()} values per voxel; a scalar image is needed."
        )
    if image.GetPixelID() in (sitk.sitkComplexFloat32, sitk.sitkComplexFloat64):
        raise InputError(f"{name} has complex voxels; a real image is needed: take the magnitude.")
    values = sitk.GetArrayViewFromImage(image)
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        raise _not_finite(name, int((~np.isfinite(values)).sum()))
    if values.min() == values.max():
        raise InputError(f"{name} has the same value ({values.min()}) in every voxel; there is nothing to see in it.")
    extent = [count * step for count, step in zip(image.GetSize(), image.GetSpacing(), strict=True)]
    if not SMALLEST_EXTENT_MM <= max(extent) <= LARGEST_EXTENT_MM:
        across = " x ".join(f"{value:.3g}" for value in extent)
        raise InputError(
            f"{name} would be {across} mm across; its spacing is not in mm (in metres or micrometres?): set it right."
        )
    return image


def _not_finite(name: str, count: int) -> InputError:
    return InputError(f"{name} has {count} voxels that are not finite; repair them first.")


def is_label_map(image: sitk.Image) -> bool:
    """Whether an image is a label map by its values: few whole numbers, most voxels 0."""
    values = sitk.GetArrayViewFromImage(image)
    if values.dtype.kind == "f" and not np.array_equal(
        values[:: max(1, len(values) // 8)] % 1, 0 * values[:: max(1, len(values) // 8)]
    ):
        return False
    if values.min() < 0 or values.max() > LARGEST_LABEL or np.count_nonzero(values) > 0.5 * values.size:
        return False
    return len(np.unique(values)) <= MOST_LABELS


def _three_dimensional(image: sitk.Image) -> tuple[sitk.Image, tuple[str, ...]]:
    """A four-dimensional image of one time only as the volume that it is."""
    if image.GetDimension() == 4 and image.GetSize()[3] == 1:
        return image[:, :, :, 0], ()
    return image, ()


def _doubts(image: sitk.Image) -> tuple[str, ...]:
    finest = min(image.GetSpacing())
    if finest < FINEST_MM:
        return (
            f"Voxels of {finest:.3g} mm are finer than most scanners for patients make them: if the spacing is in "
            "cm, set it "
            f"right.",
        )
    return ()
