"""Where the slices of a DICOM file lie: one, or one to each frame of a multi-frame object."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pydicom

from meshes.errors import InputError
from meshes.grid import Array

SAME_ORIENTATION = 2e-3
"""Direction cosines that differ by less are the same."""

PHASES = ("AcquisitionNumber", "TemporalPositionIdentifier", "EchoTime", "TriggerTime")
"""What tells slices at the same place apart."""


@dataclass(frozen=True)
class Slice:
    """Where a slice lies: center of its first voxel (3,), rows' and columns' unit vectors, steps along both; mm."""

    position: Array
    along_row: Array
    along_column: Array
    spacing: tuple[float, float]
    size: tuple[int, int]
    source: tuple[Path, int]
    """file, and number of the frame in it"""
    rescale: tuple[float, float]
    phase: tuple[str, ...]

    @property
    def normal(self) -> Array:
        """(3,) unit vector that the slices of a volume follow one another along."""
        return np.cross(self.along_row, self.along_column)

    def like(self, other: Slice) -> bool:
        """Whether both are of one orientation, voxel and size."""
        return self.size == other.size and bool(
            np.allclose(self.along_row, other.along_row, atol=SAME_ORIENTATION)
            and np.allclose(self.along_column, other.along_column, atol=SAME_ORIENTATION)
            and np.allclose(self.spacing, other.spacing, rtol=1e-3)
        )


def is_movie(header: pydicom.Dataset) -> bool:
    """Whether an object's frames have no places of their own."""
    frames = int(header.get("NumberOfFrames", 1) or 1)
    return frames > 1 and len(header.get("PerFrameFunctionalGroupsSequence") or []) != frames


def slices_in(file: Path, header: pydicom.Dataset) -> list[Slice]:
    """The slices in a file: one, or one to a frame.

    Raises:
        InputError: it does not say where they are.
    """
    frames = int(header.get("NumberOfFrames", 1) or 1)
    per_frame: Sequence[pydicom.Dataset] = header.get("PerFrameFunctionalGroupsSequence") or []
    if is_movie(header):
        hint = ", but a time between them" if "FrameTime" in header else ""
        raise InputError(
            f"{file} holds {frames} frames that have no place in the patient{hint}: it is a movie and no "
            "volume; give a volume."
        )
    shared = (header.get("SharedFunctionalGroupsSequence") or [pydicom.Dataset()])[0]
    return [
        _slice(file, number, header, [group, shared])
        for number, group in enumerate(per_frame if len(per_frame) == frames else [pydicom.Dataset()] * frames)
    ]


def _slice(file: Path, number: int, header: pydicom.Dataset, groups: list[pydicom.Dataset]) -> Slice:
    def of(sequence: str, name: str) -> Any:
        for group in groups:
            part = group.get(sequence)
            if part and name in part[0]:
                return part[0][name].value
        return header.get(name)

    position = of("PlanePositionSequence", "ImagePositionPatient")
    cosines = of("PlaneOrientationSequence", "ImageOrientationPatient")
    spacing = of("PixelMeasuresSequence", "PixelSpacing")
    if position is None or cosines is None or spacing is None or len(cosines) != 6 or len(position) != 3:
        raise InputError(
            f"{file} does not say where its voxels are (Image Position, Image Orientation or Pixel Spacing is "
            "missing); export the series again with its geometry."
        )
    slope = of("PixelValueTransformationSequence", "RescaleSlope")
    intercept = of("PixelValueTransformationSequence", "RescaleIntercept")
    row, column = np.array(cosines[:3], dtype=float), np.array(cosines[3:], dtype=float)
    lengths = np.linalg.norm(row), np.linalg.norm(column)
    if min(lengths) < 0.5 or abs(row @ column) > 0.01:
        raise InputError(
            f"{file} has an Image Orientation of no two perpendicular directions; export the series again."
        )
    place = of("TemporalPositionSequence", "TemporalPositionTimeOffset")
    return Slice(
        position=np.array(position, dtype=float),
        along_row=row / lengths[0],
        along_column=column / lengths[1],
        spacing=(float(spacing[1]), float(spacing[0])),
        size=(int(header.Columns), int(header.Rows)),
        source=(file, number),
        rescale=(1.0 if slope is None else float(slope), 0.0 if intercept is None else float(intercept)),
        phase=(*(str(header.get(name, "")) for name in PHASES), "" if place is None else str(place)),
    )
