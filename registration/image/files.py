"""Images and transforms of images as files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import SimpleITK as sitk
from numpy.typing import ArrayLike

from registration.errors import InputError
from registration.rigid import Array


def read_image(path: Path) -> sitk.Image:
    """Read an image (NRRD, NIfTI, MHA, DICOM, PNG).

    Raises:
        InputError: it cannot be read.
    """
    try:
        return sitk.ReadImage(str(path))
    except RuntimeError:
        raise InputError(f"{path} cannot be read as an image; give NRRD, NIfTI, MHA or DICOM.") from None


def read_gray_image(path: Path) -> sitk.Image:
    """As `read_image`; the components of a color picture are averaged.

    Raises:
        InputError: it cannot be read, or holds more than one volume.
    """
    image = read_image(path)
    if image.GetDimension() > 3:
        raise InputError(f"{path} has {image.GetDimension()} dimensions; save one volume of it by itself.")
    count = image.GetNumberOfComponentsPerPixel()
    if count == 1:
        return image
    parts = [sitk.VectorIndexSelectionCast(image, k, sitk.sitkFloat32) for k in range(count)]
    return sum(parts[1:], start=parts[0]) / count


def flat(transform: sitk.Transform) -> sitk.Transform:
    """A transform without composites inside composites, which no transform file can hold."""
    if not isinstance(transform, sitk.CompositeTransform):
        return transform
    parts = [flat(transform.GetNthTransform(k)) for k in range(transform.GetNumberOfTransforms())]
    result = sitk.CompositeTransform(transform.GetDimension())
    for part in parts:
        if isinstance(part, sitk.CompositeTransform):
            for k in range(part.GetNumberOfTransforms()):
                result.AddTransform(part.GetNthTransform(k))
        else:
            result.AddTransform(part)
    return result


def read_linear_transform(path: Path) -> Array:
    """The matrix (4, 4) of a linear transform file of 3D Slicer or SimpleITK (``.tfm``, ``.h5``, ``.mat``), fixed to
    moving points in LPS, mm.

    Raises:
        InputError: it cannot be read, or bends.
    """
    try:
        read = sitk.ReadTransform(str(path))
    except RuntimeError:
        raise InputError(f"{path} cannot be read as a transform; give .tfm or .h5 as 3D Slicer saves them.") from None
    if not read.IsLinear() or read.GetDimension() != 3:
        raise InputError(f"{path} holds a transform that is not linear, or not of 3D; give a rigid one to start from.")
    origin = np.array(read.TransformPoint((0.0, 0.0, 0.0)))
    columns = [np.array(read.TransformPoint(axis)) - origin for axis in np.eye(3).tolist()]
    matrix = np.eye(4)
    matrix[:3, :3], matrix[:3, 3] = np.column_stack(columns), origin
    return matrix


def write_transform(transform: sitk.Transform, path: Path) -> None:
    """Write a transform as 3D Slicer and SimpleITK read it: ``.tfm`` (text), ``.h5`` where it holds a field."""
    sitk.WriteTransform(flat(transform), str(path))


def write_pose(target_from_source: ArrayLike, path: Path) -> None:
    """Write a rigid pose (4, 4) in LPS as a ``.tfm`` that 3D Slicer loads so that source data put under it move to the
    target. Such files hold the way back, from target to source points, as resampling needs it."""
    back = np.linalg.inv(np.asarray(target_from_source, dtype=np.float64))
    transform = sitk.AffineTransform(back[:3, :3].ravel().tolist(), back[:3, 3].tolist())
    sitk.WriteTransform(transform, str(path))
