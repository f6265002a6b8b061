"""DICOM as scanners and archives export it: which series there are, and the volume that a series' slices make.

Every file below a folder is looked at, whatever its name, and gathered by its series. The slices of a series make a
volume if they are parallel, of one size, one to a place, and evenly apart along their normal (DICOM PS3.3, C.7.6.2.1.1:
Image Position and Image Orientation). What of this does not hold is named: duplicates of the same content and strays
of another orientation are left out with a note, a gantry's tilt is resampled away with a note, and missing slices,
several phases in one series, or uneven steps are refused, because what lies between would be made up.

Enhanced multi-frame objects carry a place for every frame and are sorted by it; a multi-frame object without places is
a movie and refused. Voxels are decoded by GDCM, compressed or not; nothing but voxels and their placement leaves here.
"""

from __future__ import annotations

import hashlib
import logging
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pydicom
import SimpleITK as sitk
from pydicom.dataset import FileMetaDataset
from pydicom.errors import InvalidDicomError
from pydicom.uid import UID, ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian, RLELossless
from scipy import ndimage

from meshes.errors import InputError
from meshes.grid import Array

SAME_PLACE_MM = 0.01
"""Slices nearer to one another than this are at the same place."""

EVEN_SHARE = 0.05
"""Steps between slices may differ by this part of the usual step: headers are rounded."""

SAME_ORIENTATION = 2e-3
"""Direction cosines that differ by less are the same."""

TILT_DEG = 0.2
"""Slices that drift sideways by more than this angle come from a tilted gantry."""

CLEAR_MAJORITY = 2.0 / 3.0
"""Slices of one orientation and size are taken if they are at least this part of their series."""

_TAGS = [
    "SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID", "SeriesDescription", "SeriesNumber", "Modality", "Rows",
    "Columns", "NumberOfFrames", "ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "InstanceNumber",
    "RescaleSlope", "RescaleIntercept", "SamplesPerPixel", "AcquisitionNumber", "TemporalPositionIdentifier",
    "EchoTime", "TriggerTime", "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence", "FrameTime",
    "TransferSyntaxUID",
]  # fmt: skip

_PHASES = ("AcquisitionNumber", "TemporalPositionIdentifier", "EchoTime", "TriggerTime")
"""What tells slices at the same place apart."""

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


@dataclass(frozen=True)
class _Slice:
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
        return np.cross(self.along_row, self.along_column)

    def like(self, other: _Slice) -> bool:
        """Whether both are of one orientation, voxel and size."""
        return self.size == other.size and bool(
            np.allclose(self.along_row, other.along_row, atol=SAME_ORIENTATION)
            and np.allclose(self.along_column, other.along_column, atol=SAME_ORIENTATION)
            and np.allclose(self.spacing, other.spacing, rtol=1e-3)
        )


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
    return tuple(sorted(series, key=lambda one: (_is_movie(one.headers[0]), -one.frames, one.uid)))


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
    slices = [part for file, header in zip(chosen.files, chosen.headers, strict=True) for part in _slices(file, header)]
    stack, more = _stack(slices, str(path))
    image = _volume(stack, str(path))
    image, tilt = _straightened(image, stack, str(path))
    return image, (*notes, *more, *tilt)


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


def _is_movie(header: pydicom.Dataset) -> bool:
    """Whether an object's frames have no places of their own."""
    frames = int(header.get("NumberOfFrames", 1) or 1)
    return frames > 1 and len(header.get("PerFrameFunctionalGroupsSequence") or []) != frames


def _slices(file: Path, header: pydicom.Dataset) -> list[_Slice]:
    """The slices in a file: one, or one to a frame.

    Raises:
        InputError: it does not say where they are.
    """
    frames = int(header.get("NumberOfFrames", 1) or 1)
    per_frame: Sequence[pydicom.Dataset] = header.get("PerFrameFunctionalGroupsSequence") or []
    if _is_movie(header):
        hint = ", but a time between them" if "FrameTime" in header else ""
        raise InputError(
            f"{file} holds {frames} frames that have no place in the patient{hint}: it is a movie and no "
            "volume; give a "
            f"volume."
        )
    shared = (header.get("SharedFunctionalGroupsSequence") or [pydicom.Dataset()])[0]
    return [
        _slice(file, number, header, [group, shared])
        for number, group in enumerate(per_frame if len(per_frame) == frames else [pydicom.Dataset()] * frames)
    ]


def _slice(file: Path, number: int, header: pydicom.Dataset, groups: list[pydicom.Dataset]) -> _Slice:
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
            "missing); "
            f"export the series again with its geometry."
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
    return _Slice(
        position=np.array(position, dtype=float),
        along_row=row / lengths[0],
        along_column=column / lengths[1],
        spacing=(float(spacing[1]), float(spacing[0])),
        size=(int(header.Columns), int(header.Rows)),
        source=(file, number),
        rescale=(1.0 if slope is None else float(slope), 0.0 if intercept is None else float(intercept)),
        phase=(*(str(header.get(name, "")) for name in _PHASES), "" if place is None else str(place)),
    )


def _stack(slices: list[_Slice], name: str) -> tuple[list[_Slice], list[str]]:
    """The slices that make a volume, in the order of their normal, and what was left out.

    Raises:
        InputError: they make none.
    """
    groups: list[list[_Slice]] = []
    for one in slices:
        for group in groups:
            if one.like(group[0]):
                group.append(one)
                break
        else:
            groups.append([one])
    groups.sort(key=len, reverse=True)
    notes = []
    if len(groups) > 1:
        kinds = ", ".join(
            f"{len(group)} {_plane(group[0])} of {group[0].size[0]} x {group[0].size[1]}" for group in groups
        )
        if len(groups[0]) < CLEAR_MAJORITY * len(slices):
            raise InputError(
                f"The series in {name} has slices of mixed orientation or size ({kinds}); export those of one "
                "orientation."
            )
        notes.append(f"The series has slices of mixed orientation or size ({kinds}); only the first are used.")
    normal = groups[0][0].normal
    stack = sorted(groups[0], key=lambda one: (float(one.position @ normal), str(one.source)))
    stack, dropped = _without_duplicates(stack, normal, name)
    if dropped:
        notes.append(f"{dropped} duplicate slices (same place, same content) are left out.")
    if len(stack) < 2:
        raise InputError(f"The series in {name} has {len(stack)} slice of its kind; a volume needs several.")
    heights = np.array([one.position @ normal for one in stack])
    steps = np.diff(heights)
    usual = float(np.median(steps))
    uneven = np.flatnonzero(np.abs(steps - usual) > max(EVEN_SHARE * usual, SAME_PLACE_MM))
    if len(uneven):
        multiple = steps[uneven] / usual
        where = float(heights[uneven[0]]), float(heights[uneven[0] + 1])
        if np.all((multiple > 1.5) & (np.abs(multiple - np.round(multiple)) < 2 * EVEN_SHARE * multiple)):
            count = int(np.round(multiple - 1).sum())
            raise InputError(
                f"The series in {name} misses {count} slices: between {where[0]:.2f} and {where[1]:.2f} mm "
                "along its normal "
                f"there is none, where others are {usual:.3g} mm apart; export the series again, complete."
            )
        raise InputError(
            f"The slices in {name} are unevenly apart: {steps[uneven[0]]:.3g} mm between {where[0]:.2f} and "
            f"{where[1]:.2f} mm along the normal, elsewhere {usual:.3g} mm; export a series of even spacing."
        )
    return stack, notes


def _plane(one: _Slice) -> str:
    return ("sagittal", "coronal", "axial")[int(np.argmax(np.abs(one.normal)))]


def _without_duplicates(stack: list[_Slice], normal: Array, name: str) -> tuple[list[_Slice], int]:
    """One slice to a place, and how many are left out.

    Raises:
        InputError: slices at the same place differ.
    """
    kept: list[_Slice] = []
    dropped, different = 0, []
    for one in stack:
        same = kept and abs(float((one.position - kept[-1].position) @ normal)) < SAME_PLACE_MM
        if not same:
            kept.append(one)
        elif _content(one) == _content(kept[-1]):
            dropped += 1
        else:
            different.append((kept[-1], one))
    if different:
        apart = [
            tag
            for number, tag in enumerate((*_PHASES, "TemporalPositionTimeOffset"))
            if any(a.phase[number] != b.phase[number] for a, b in different)
        ]
        raise InputError(
            f"The series in {name} has {len(different)} slices at places where there already is another one, of other "
            f"content"
            + (f" ({', '.join(apart)} differ)" if apart else "")
            + ": several phases, echoes or acquisitions "
            "in one; export one of them."
        )
    return kept, dropped


def _content(one: _Slice) -> bytes:
    """Hash of a slice's voxels as they are stored."""
    return hashlib.sha256(_frames(one.source[0])[one.source[1]].tobytes()).digest()


def _frames(file: Path) -> npt.NDArray[Any]:
    """(frames, rows, columns) values of a file, with its first frame's rescaling done.

    Raises:
        InputError: it is cut off, or cannot be decoded.
    """
    header = _full_header(file)
    syntax = header.file_meta.get("TransferSyntaxUID", ImplicitVRLittleEndian)
    cells = int(header.Rows) * int(header.Columns) * int(header.get("NumberOfFrames", 1) or 1)
    stored = cells * int(header.get("SamplesPerPixel", 1)) * int(header.get("BitsAllocated", 16)) // 8
    if syntax in (ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian) and file.stat().st_size < stored:
        raise InputError(f"{file} is cut off: it holds less than its {stored} bytes of voxels; copy it again.")
    if syntax == RLELossless:
        return _decoded_by_pydicom(file)
    try:
        image = sitk.ReadImage(str(file))
    except RuntimeError as error:
        raise InputError(f"{file} cannot be decoded ({UID(syntax).name}); export it uncompressed.") from error
    values = sitk.GetArrayFromImage(image)
    if image.GetNumberOfComponentsPerPixel() > 1:
        raise InputError(f"{file} is a color picture; give a series of grey values.")
    return values if values.ndim == 3 else values[None]


def _full_header(file: Path) -> pydicom.Dataset:
    """Everything but the voxels."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        header = pydicom.dcmread(file, stop_before_pixels=True, force=True)
    if not hasattr(header, "file_meta") or header.file_meta is None:
        header.file_meta = FileMetaDataset()
    return header


def _decoded_by_pydicom(file: Path) -> npt.NDArray[Any]:
    """As `_frames`, for run-length encoding, whose odd sizes GDCM stumbles over."""
    try:
        stored = pydicom.dcmread(file)
        values = np.asarray(stored.pixel_array)
    except Exception as error:  # pydicom raises errors of many kinds on damaged encodings
        raise InputError(f"{file} cannot be decoded (RLE Lossless); export it uncompressed.") from error
    if values.ndim == 2:
        values = values[None]
    slope, intercept = _slices(file, stored)[0].rescale
    if slope.is_integer() and intercept.is_integer():
        return values.astype(np.int32) * int(slope) + int(intercept)
    return values * slope + intercept


def _volume(stack: list[_Slice], name: str) -> sitk.Image:
    """The values of a stack as an image."""
    first = stack[0]
    sources = {one.source[0] for one in stack}
    exact = len({one.rescale for one in stack}) == 1 and all(float(v).is_integer() for v in first.rescale)
    volume: npt.NDArray[Any] | None = None
    frames: dict[Path, npt.NDArray[Any]] = {}
    for number, one in enumerate(stack):
        file, frame = one.source
        if len(sources) == len(stack):
            values = _frames(file)[0]
        else:
            if file not in frames:
                frames[file] = _frames(file)
            values = frames[file][frame]
            # GDCM rescales every frame as the first.
            of_first = next((other.rescale for other in stack if other.source == (file, 0)), one.rescale)
            if of_first != one.rescale:
                values = (values - of_first[1]) / of_first[0] * one.rescale[0] + one.rescale[1]
        if values.shape != first.size[::-1]:
            raise InputError(
                f"{file} holds {values.shape[1]} x {values.shape[0]} voxels, and its header says otherwise."
            )
        if volume is None:
            kind = np.dtype(np.float32) if not exact or values.dtype.kind == "f" else np.dtype(np.int32)
            volume = np.empty((len(stack), *values.shape), dtype=kind)
        volume[number] = values
    assert volume is not None
    if volume.dtype.kind == "i" and int(volume.min()) >= -32768 and int(volume.max()) <= 32767:
        volume = volume.astype(np.int16)
    image = sitk.GetImageFromArray(volume)
    heights = np.array([stack[0].position @ first.normal, stack[-1].position @ first.normal])
    step = float(heights[1] - heights[0]) / (len(stack) - 1)
    image.SetSpacing((*first.spacing, step))
    image.SetOrigin(tuple(float(v) for v in first.position))
    image.SetDirection(np.stack([first.along_row, first.along_column, first.normal], axis=1).ravel().tolist())
    return image


def _straightened(image: sitk.Image, stack: list[_Slice], name: str) -> tuple[sitk.Image, list[str]]:
    """Undo a gantry's tilt: every slice is shifted in its plane to where it belongs.

    Raises:
        InputError: slices are shifted without a rule.
    """
    first = stack[0]
    axes = np.stack([first.along_row, first.along_column], axis=1)
    positions = np.array([one.position for one in stack])
    heights = (positions - first.position) @ first.normal
    sideways = (positions - first.position) @ axes
    slope = sideways[-1] / heights[-1]
    if np.abs(sideways - heights[:, None] * slope).max() > 0.5 * max(first.spacing):
        raise InputError(
            f"The slices in {name} are shifted against one another without a rule; export the series again, straight."
        )
    angle = float(np.degrees(np.arctan(np.linalg.norm(slope))))
    if angle < TILT_DEG:
        return image, []
    shifts = sideways / np.array(first.spacing)
    low, high = np.floor(shifts.min(axis=0)).astype(int), np.ceil(shifts.max(axis=0)).astype(int)
    values = sitk.GetArrayFromImage(image)
    padded = np.full(
        (len(stack), values.shape[1] + high[1] - low[1], values.shape[2] + high[0] - low[0]), values.min(), np.float32
    )
    for number, plane in enumerate(values.astype(np.float32)):
        whole = np.full(padded.shape[1:], values.min(), np.float32)
        whole[-low[1] : -low[1] + plane.shape[0], -low[0] : -low[0] + plane.shape[1]] = plane
        padded[number] = ndimage.shift(whole, shifts[number][::-1], order=1, mode="nearest")
    kind = values.dtype
    straight = sitk.GetImageFromArray(np.rint(padded).astype(kind) if kind.kind == "i" else padded)
    straight.SetSpacing(image.GetSpacing())
    straight.SetDirection(image.GetDirection())
    origin = first.position + axes @ (low * np.array(first.spacing))
    straight.SetOrigin(tuple(float(v) for v in origin))
    return straight, [
        f"The gantry was tilted by {angle:.1f} degrees; the slices are shifted in their planes to make a "
        "straight volume."
    ]
