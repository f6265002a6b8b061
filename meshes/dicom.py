"""DICOM as scanners and archives export it: which series there are, and the volume of one.

Every file below a folder is looked at, whatever its name, and gathered by its series. Enhanced multi-frame objects
carry a place for every frame and are sorted by it; a multi-frame object without places is a movie and refused. What
slices make a volume is told in `dicom_stack`; nothing but voxels and their placement leaves here.
"""

from __future__ import annotations

import logging
import warnings
from dataclasses import dataclass, field
from pathlib import Path

import pydicom
import SimpleITK as sitk
from pydicom.errors import InvalidDicomError

from meshes.dicom_slices import is_movie, slices_in
from meshes.dicom_stack import volume_of
from meshes.errors import InputError

_TAGS = [
    "SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID", "SeriesDescription", "SeriesNumber", "Modality", "Rows",
    "Columns", "NumberOfFrames", "ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "InstanceNumber",
    "RescaleSlope", "RescaleIntercept", "SamplesPerPixel", "AcquisitionNumber", "TemporalPositionIdentifier",
    "EchoTime", "TriggerTime", "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence", "FrameTime",
    "TransferSyntaxUID",
]  # fmt: skip

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Series:
    """One series below a folder."""

    uid: str
    modality: str
    description: str
    files: tuple[Path, ...]
    frames: int
    """slices, counting every frame of a multi-frame object"""
    size: tuple[int, int]
    """columns, rows"""
    headers: tuple[pydicom.Dataset, ...] = field(repr=False, compare=False, default=())

    def __str__(self) -> str:
        about = f', "{self.description}"' if self.description else ""
        return f"{self.uid} ({self.modality}{about}, {self.frames} slices of {self.size[0]} x {self.size[1]})"


def is_dicom(path: Path) -> bool:
    """Whether a file is DICOM by its preamble."""
    if not path.is_file():
        return False
    with path.open("rb") as stream:
        return stream.read(132)[128:] == b"DICM"


def list_series(folder: Path) -> tuple[Series, ...]:
    """Every series of images below a folder, the one with the most slices first.

    Raises:
        InputError: there is none.
    """
    found: dict[str, list[tuple[Path, pydicom.Dataset]]] = {}
    for path in sorted(folder.rglob("*")):
        header = _header(path) if path.is_file() else None
        if header is not None and header.get("Modality", "") != "SEG":
            found.setdefault(str(header.get("SeriesInstanceUID", "without a UID")), []).append((path, header))
    if not found:
        raise InputError(f"{folder} holds no DICOM series of images; give the folder whose files are the slices.")
    series = [_series(uid, files) for uid, files in found.items()]
    # A movie has many frames and is no volume.
    return tuple(sorted(series, key=lambda one: (is_movie(one.headers[0]), -one.frames, one.uid)))


def read_dicom(path: Path, series: str | None = None) -> tuple[sitk.Image, tuple[str, ...]]:
    """The volume of a series, and what was decided on the way, one sentence each (without anything on the patient).

    Args:
        path: a folder, or a file of many frames.
        series: SeriesInstanceUID; the series with the most slices where None.

    Raises:
        InputError: there is no such series, or its slices do not make a volume; the message says why.
    """
    if path.is_file():
        header = _header(path)
        if header is None:
            raise InputError(f"{path} is DICOM without an image in it; give an image, or a folder of slices.")
        if int(header.get("NumberOfFrames", 1) or 1) < 2:
            raise InputError(f"{path} is one slice; give the folder that holds all slices of its series.")
        notes: list[str] = []
        chosen = _series(str(header.get("SeriesInstanceUID", "")), [(path, header)])
        if series not in (None, chosen.uid):
            raise InputError(f"{path} is of series {chosen.uid} and not of {series}; leave --series out.")
    else:
        chosen, notes = _chosen(path, series)
    files = zip(chosen.files, chosen.headers, strict=True)
    slices = [part for file, header in files for part in slices_in(file, header)]
    image, more = volume_of(slices, str(path))
    return image, (*notes, *more)


def _header(path: Path) -> pydicom.Dataset | None:
    """What is needed of a file's header; None where it is no DICOM image."""
    if not (is_dicom(path) or _begins_like_dicom(path)):
        return None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            header = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=_TAGS, force=True)
        return header if "SOPClassUID" in header and "Rows" in header and "Columns" in header else None
    except (InvalidDicomError, OSError, ValueError, KeyError, AttributeError, NotImplementedError, EOFError, TypeError):
        return None


def _begins_like_dicom(path: Path) -> bool:
    """Whether a file without a preamble begins with a group of DICOM's own, as old archives write them."""
    with path.open("rb") as stream:
        return stream.read(2) in (b"\x02\x00", b"\x08\x00")


def _series(uid: str, files: list[tuple[Path, pydicom.Dataset]]) -> Series:
    first = files[0][1]
    return Series(
        uid=uid,
        modality=str(first.get("Modality", "?")),
        description=str(first.get("SeriesDescription", "")),
        files=tuple(path for path, _ in files),
        frames=sum(int(header.get("NumberOfFrames", 1) or 1) for _, header in files),
        size=(int(first.Columns), int(first.Rows)),
        headers=tuple(header for _, header in files),
    )


def _chosen(folder: Path, uid: str | None) -> tuple[Series, list[str]]:
    series = list_series(folder)
    listing = "; ".join(str(one) for one in series)
    if uid is not None:
        for one in series:
            if one.uid == uid:
                return one, []
        raise InputError(f"{folder} holds no series {uid}; it holds {listing}.")
    if len(series) == 1:
        return series[0], []
    logger.warning(
        "%s holds %d series, and the largest is used; choose with --series: %s", folder, len(series), listing
    )
    return series[0], [
        f"Of {len(series)} series in the folder the largest is used ({series[0].modality}, {series[0].frames} slices); "
        f"choose another with --series."
    ]
