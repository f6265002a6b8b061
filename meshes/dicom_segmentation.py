"""DICOM Segmentation objects (PS3.3, A.51): one segment, by its label, as a label map.

Every frame is a slice of one segment with a place of its own; frames without a voxel of a segment may be left out. So
the grid is made from the places of all frames, and slices that are not stored are empty.
"""

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import SimpleITK as sitk

from meshes.dicom import is_dicom
from meshes.errors import InputError
from meshes.slicer import named

SEGMENTATION_STORAGE = ("1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.5.1.4.1.1.66.7")
"""Segmentation Storage, and Label Map Segmentation Storage."""


def is_dicom_segmentation(path: Path) -> bool:
    """Whether a file is a DICOM Segmentation object."""
    if not is_dicom(path):
        return False
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        header = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=["SOPClassUID", "Modality"])
    return str(header.get("SOPClassUID", "")) in SEGMENTATION_STORAGE or header.get("Modality", "") == "SEG"


def read_dicom_segment(path: Path, segment: str | None) -> sitk.Image:
    """A segment as a label map (1 in it), mm, LPS.

    Args:
        path: the object.
        segment: its Segment Label; the only one where None.

    Raises:
        InputError: it cannot be read, its frames have no places, or there is no such segment.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            stored = pydicom.dcmread(path)
            frames = np.atleast_3d(stored.pixel_array)
            if stored.pixel_array.ndim == 2:
                frames = stored.pixel_array[None]
    except Exception as error:  # pydicom raises errors of many kinds on damaged or unknown encodings
        raise InputError(f"{path} cannot be read as a DICOM segmentation ({error}); export it again.") from error
    labels = {str(one.SegmentLabel): int(one.SegmentNumber) for one in stored.get("SegmentSequence", [])}
    name = named(segment, list(labels), path)
    if name is None:
        raise InputError(f"{path} holds no segments; export it again.")
    number = labels[name]
    shared = (stored.get("SharedFunctionalGroupsSequence") or [pydicom.Dataset()])[0]
    groups = stored.get("PerFrameFunctionalGroupsSequence") or []
    if len(groups) != len(frames):
        raise InputError(f"{path} has {len(frames)} frames and places for {len(groups)}; export it again.")
    try:
        cosines = np.array(_of(groups[0], shared, "PlaneOrientationSequence", "ImageOrientationPatient"), dtype=float)
        measures = _of(groups[0], shared, "PixelMeasuresSequence", "PixelSpacing")
        between = _of(groups[0], shared, "PixelMeasuresSequence", "SpacingBetweenSlices", None)
        thick = _of(groups[0], shared, "PixelMeasuresSequence", "SliceThickness", None)
        places = np.array([_of(one, shared, "PlanePositionSequence", "ImagePositionPatient") for one in groups], float)
    except (KeyError, ValueError, TypeError) as error:
        raise InputError(f"{path} does not say where its frames are ({error} is missing); export it again.") from error
    row, column = cosines[:3], cosines[3:]
    normal = np.cross(row, column)
    heights = places @ normal
    step = _step(heights, float(between or thick or 1.0))
    index = np.round((heights - heights.min()) / step).astype(int)
    if np.abs((heights - heights.min()) / step - index).max() > 0.05:
        raise InputError(f"The frames in {path} are unevenly apart; export it again on the image's grid.")
    if np.abs((places - places[0]) @ np.stack([row, column], axis=1)).max() > 0.05 * float(min(measures)):
        raise InputError(f"The frames in {path} are shifted against one another; export it again on the image's grid.")
    values = np.zeros((int(index.max()) + 1, *frames.shape[1:]), dtype=np.uint8)
    label_map = str(stored.get("SegmentationType", "BINARY")) == "LABELMAP"
    least = (
        0.5 * float(stored.get("MaximumFractionalValue", 255)) if stored.get("SegmentationType") == "FRACTIONAL" else 0
    )
    for slot, frame, one in zip(index, frames, groups, strict=True):
        if label_map:
            values[slot] |= (frame == number).astype(np.uint8)
        elif int(_of(one, shared, "SegmentIdentificationSequence", "ReferencedSegmentNumber")) == number:
            values[slot] |= (frame > least).astype(np.uint8)
    image = sitk.GetImageFromArray(values)
    image.SetSpacing((float(measures[1]), float(measures[0]), step))
    image.SetOrigin(tuple(float(v) for v in places[int(np.argmin(heights))]))
    image.SetDirection(np.stack([row, column, normal], axis=1).ravel().tolist())
    return image


def _step(heights: np.typing.NDArray[np.float64], otherwise: float) -> float:
    """mm between slices: the smallest step between the frames that are there."""
    steps = np.diff(np.unique(np.round(heights, 3)))
    return float(steps.min()) if len(steps) else otherwise


_MISSING = object()


def _of(group: pydicom.Dataset, shared: pydicom.Dataset, sequence: str, name: str, otherwise: Any = _MISSING) -> Any:
    """A value from a frame's functional groups, or from those that all frames share.

    Raises:
        KeyError: it is in neither.
    """
    for one in (group, shared):
        part = one.get(sequence)
        if part and name in part[0]:
            return part[0][name].value
    if otherwise is _MISSING:
        raise KeyError(name)
    return otherwise
