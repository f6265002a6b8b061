"""Reading volumes: NIfTI, NRRD, MetaImage, and folders of DICOM slices, orientation kept."""

import logging
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from meshes.errors import InputError

logger = logging.getLogger(__name__)


def read_image(path: Path) -> sitk.Image:
    """Read a three-dimensional scalar volume; positions are mm in the DICOM patient frame (LPS).

    Of a DICOM folder with several series the one with the most slices is taken, and the others are named in a
    warning.

    Raises:
        InputError: there is no such file or folder, it cannot be read, or it is no volume of finite, varying values.
    """
    if not path.exists():
        raise InputError(f"{path} does not exist; give an image (NIfTI, NRRD, MHA) or a folder of DICOM slices.")
    try:
        image = _read_folder(path) if path.is_dir() else sitk.ReadImage(str(path))
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1]
        raise InputError(f"{path} cannot be read as an image ({reason}); give NIfTI, NRRD, MHA or DICOM.") from error
    return check_volume(image, str(path))


def check_volume(image: sitk.Image, name: str) -> sitk.Image:
    """The image, if it is a volume that can be worked with.

    Raises:
        InputError: see `read_image`.
    """
    if image.GetDimension() != 3 or min(image.GetSize()) < 2:
        size = " x ".join(str(value) for value in image.GetSize())
        raise InputError(f"{name} is an image of {size} voxels; a volume with three dimensions is needed.")
    if image.GetNumberOfComponentsPerPixel() != 1:
        raise InputError(
            f"{name} has {image.GetNumberOfComponentsPerPixel()} values per voxel; a scalar image is needed."
        )
    if image.GetPixelID() in (sitk.sitkComplexFloat32, sitk.sitkComplexFloat64):
        raise InputError(f"{name} has complex voxels; a real image is needed: take the magnitude.")
    values = sitk.GetArrayViewFromImage(image)
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        raise InputError(
            f"{name} has {int((~np.isfinite(values)).sum())} voxels that are not finite; repair them first."
        )
    if values.min() == values.max():
        raise InputError(f"{name} has the same value ({values.min()}) in every voxel; there is nothing to see in it.")
    return image


def _read_folder(folder: Path) -> sitk.Image:
    reader = sitk.ImageSeriesReader()
    series = {uid: reader.GetGDCMSeriesFileNames(str(folder), uid) for uid in reader.GetGDCMSeriesIDs(str(folder))}
    if not series:
        raise InputError(f"{folder} holds no DICOM series; give the folder whose files are the slices.")
    chosen = max(series, key=lambda uid: (len(series[uid]), uid))
    for uid in series:
        if uid != chosen:
            logger.warning("%s also holds series %s with %d files; not used", folder, uid, len(series[uid]))
    reader.SetFileNames(series[chosen])
    return reader.Execute()
