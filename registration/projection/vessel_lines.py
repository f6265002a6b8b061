"""Middle lines of contrast-filled vessels in an angiogram."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from registration.errors import InputError
from registration.image.files import read_gray_image
from registration.rigid import Array

WIDTHS = (1.5, 2.5, 4.0, 6.0)
"""Half widths of the vessels looked for, in pixels of a picture of `STANDARD` columns."""

STANDARD = 512.0

SURE, POSSIBLE = 0.35, 0.12
"""Parts of the strongest tubular response that begin a vessel, and that carry it on."""

SHORTEST = 0.05
"""Lines shorter than this part of the picture's width are specks."""


def contrast_of(frames: Array) -> Array:
    """What contrast agent added in a run of line integrals (frames, rows, columns): the most of any frame above the
    first one, taken before it came; a single frame (rows, columns) as it is."""
    values = np.asarray(frames, dtype=np.float64)
    if values.ndim == 2:
        return values
    return np.asarray((values - values[0]).max(axis=0)) if len(values) > 1 else np.asarray(values[0])


def vessel_lines(integrals: Array) -> NDArray[np.bool_]:
    """Mask (rows, columns) of the vessels' middle lines, one pixel wide, from line integrals (vessels bright).

    Tubes are found by the eigenvalues of the Hessian at several widths (Frangi 1998, Antiga 2007), followed from where
    they are sure to where they are possible, and thinned.

    Raises:
        InputError: no vessel stands out.
    """
    values = np.asarray(integrals, dtype=np.float64)
    image = sitk.GetImageFromArray(values.astype(np.float32))
    scale = max(1.0, values.shape[1] / STANDARD)
    response = np.zeros(values.shape)
    for width in WIDTHS:
        # Scaled by the width squared, the response to a tube of that half width does not depend on it.
        smooth = sitk.SmoothingRecursiveGaussian(image, scale * width)
        spread = float(sitk.GetArrayViewFromImage(smooth).std())
        found = sitk.ObjectnessMeasure(
            smooth * (scale * width) ** 2 / max(spread, 1e-12),
            alpha=0.5, beta=0.5, gamma=0.5, scaleObjectnessMeasure=True, objectDimension=1, brightObject=True,
        )  # fmt: skip
        response = np.maximum(response, sitk.GetArrayFromImage(found))
    top = float(np.percentile(response, 99.5))
    if not top > 0.0:
        raise InputError("no vessel stands out in the angiogram; give a mask of its vessels.")
    strength = sitk.GetImageFromArray((response / top).astype(np.float32))
    tubes = sitk.DoubleThreshold(strength, POSSIBLE, SURE, 1e9, 1e9)
    lines = sitk.BinaryThinning(tubes)
    parts = sitk.RelabelComponent(
        sitk.ConnectedComponent(lines, True), minimumObjectSize=int(SHORTEST * values.shape[1])
    )
    mask = np.asarray(sitk.GetArrayFromImage(parts) > 0)
    if mask.sum() < SHORTEST * values.shape[1]:
        raise InputError("no vessel stands out in the angiogram; give a mask of its vessels.")
    return mask


def read_lines(path: Path) -> NDArray[np.bool_]:
    """Middle lines, one pixel wide, of vessels painted in a picture (not zero inside).

    Raises:
        InputError: the file is no picture of one slice.
    """
    painted = read_gray_image(path)
    if painted.GetDimension() == 3 and painted.GetSize()[2] == 1:
        painted = painted[:, :, 0]
    if painted.GetDimension() != 2:
        raise InputError(f"{path} is no single picture; give a mask of one view's vessels.")
    return np.asarray(sitk.GetArrayFromImage(sitk.BinaryThinning(painted != 0)) != 0)
