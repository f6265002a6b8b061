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
    read = read_image(path)
    if read.GetNumberOfComponentsPerPixel() > 1:
        raise InputError(f"{path} is a color picture; give the radiograph itself, as DICOM.")
    tags = {key: read.GetMetaData(key) for key in read.GetMetaDataKeys()}
    pixels = sitk.GetArrayFromImage(read).astype(np.float64)
    pixels = pixels.mean(axis=0) if pixels.ndim == 3 else pixels
    tags |= {"0028|0010": str(pixels.shape[0]), "0028|0011": str(pixels.shape[1])}
    x, y, z = (float(v) for v in np.asarray(isocenter, dtype=np.float64))
    try:
        camera = carm_camera_from_dicom(tags, isocenter=(x, y, z))
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    # What DICOM calls photometric interpretation is about display only; the sign says what the stored values mean.
    intensity = (
        pixels.max() - pixels if tags.get(_SIGN, "1").strip() == "-1" else pixels - min(0.0, float(pixels.min()))
    )
    if tags.get(_RELATIONSHIP, "").strip() == "LOG":
        return (intensity.max() - intensity) / max(float(np.ptp(intensity)), 1.0), camera
    return -np.log(np.maximum(intensity, 1.0) / max(float(intensity.max()), 1.0)), camera
