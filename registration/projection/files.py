"""Radiographs from DICOM files: line integrals, and the C-arm's geometry."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import SimpleITK as sitk
from numpy.typing import ArrayLike

from registration.camera import PinholeCamera
from registration.errors import InputError
from registration.image.files import read_image
from registration.projection.carm import carm_camera_from_dicom
from registration.rigid import Array

_RELATIONSHIP, _SIGN = "0028|1040", "0028|1041"
"""Pixel Intensity Relationship (LIN or LOG of the X-ray intensity) and its sign: -1 where pixels grow as it falls."""


def read_radiograph(path: Path, isocenter: ArrayLike) -> tuple[Array, PinholeCamera]:
    """Line integrals (rows, columns), bones bright, and the view's camera, from one DICOM radiograph or run.

    Of a run the frames are averaged. Pixels that follow the intensity at the receptor (bones dark) become line
    integrals by minus the logarithm of their part of the brightest one; pixels that follow its logarithm are line
    integrals already, but for scale and sign.

    Args:
        path: the file.
        isocenter: (3,) where the C-arm's isocenter is in the patient frame, mm.

    Raises:
        InputError: no image, colors, or tags without the C-arm's geometry.
    """
    pixels, tags, camera = _read(path, isocenter)
    return _integrals(pixels.mean(axis=0), tags), camera


def read_run(path: Path, isocenter: ArrayLike) -> tuple[Array, PinholeCamera]:
    """As `read_radiograph`, but each frame by itself: (frames, rows, columns)."""
    pixels, tags, camera = _read(path, isocenter)
    return _integrals(pixels, tags), camera


def middle_of(path: Path) -> Array:
    """(3,) middle of a volume in the patient frame, mm, from its file's header.

    Raises:
        InputError: it cannot be read.
    """
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    try:
        reader.ReadImageInformation()
    except RuntimeError:
        raise InputError(f"{path} cannot be read as an image; give NRRD, NIfTI, MHA or DICOM.") from None
    direction = np.array(reader.GetDirection()).reshape(reader.GetDimension(), -1)
    half = (np.array(reader.GetSize()) - 1.0) / 2.0 * reader.GetSpacing()
    return np.asarray(direction @ half + reader.GetOrigin())


def _read(path: Path, isocenter: ArrayLike) -> tuple[Array, dict[str, str], PinholeCamera]:
    read = read_image(path)
    if read.GetNumberOfComponentsPerPixel() > 1:
        raise InputError(f"{path} is a color picture; give the radiograph itself, as DICOM.")
    tags = {key: read.GetMetaData(key) for key in read.GetMetaDataKeys()}
    pixels = sitk.GetArrayFromImage(read).astype(np.float64)
    pixels = pixels[None] if pixels.ndim == 2 else pixels
    tags |= {"0028|0010": str(pixels.shape[1]), "0028|0011": str(pixels.shape[2])}
    x, y, z = (float(v) for v in np.asarray(isocenter, dtype=np.float64))
    try:
        camera = carm_camera_from_dicom(tags, isocenter=(x, y, z))
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    return pixels, tags, camera


def _integrals(pixels: Array, tags: dict[str, str]) -> Array:
    # What DICOM calls photometric interpretation is about display only; the sign says what the stored values mean.
    intensity = (
        pixels.max() - pixels if tags.get(_SIGN, "1").strip() == "-1" else pixels - min(0.0, float(pixels.min()))
    )
    if tags.get(_RELATIONSHIP, "").strip() == "LOG":
        return np.asarray((intensity.max() - intensity) / max(float(np.ptp(intensity)), 1.0))
    return np.asarray(-np.log(np.maximum(intensity, 1.0) / max(float(intensity.max()), 1.0)))
