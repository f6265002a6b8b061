"""The volume that the slices of a DICOM series make.

They have to be parallel, of one size, one to a place, and evenly apart along their normal (DICOM PS3.3, C.7.6.2.1.1:
Image Position and Image Orientation). What of this does not hold is named: duplicates of the same content and strays
of another orientation are left out with a note, a gantry's tilt is resampled away with a note, and missing slices,
several phases in one series, or uneven steps are refused, because what lies between would be made up.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import SimpleITK as sitk
from scipy import ndimage

from meshes.dicom_slices import PHASES, Slice
from meshes.dicom_voxels import content_of, frames_of
from meshes.errors import InputError
from meshes.grid import Array

SAME_PLACE_MM = 0.01
"""Slices nearer to one another than this are at the same place."""

EVEN_SHARE = 0.05
"""Steps between slices may differ by this part of the usual step: headers are rounded."""

TILT_DEG = 0.2
"""Slices that drift sideways by more than this angle come from a tilted gantry."""

CLEAR_MAJORITY = 2.0 / 3.0
"""Slices of one orientation and size are taken if they are at least this part of their series."""


def volume_of(slices: list[Slice], name: str) -> tuple[sitk.Image, list[str]]:
    """The image that slices of one series make, and what was decided on the way, one sentence each.

    Args:
        slices: in any order.
        name: of the series' folder or file, for messages.

    Raises:
        InputError: they make none; the message says why.
    """
    stack, notes = _stacked(slices, name)
    image, tilt = _straightened(_image(stack), stack, name)
    return image, [*notes, *tilt]


def _stacked(slices: list[Slice], name: str) -> tuple[list[Slice], list[str]]:
    """The slices that make a volume, in the order of their normal, and what was left out.

    Raises:
        InputError: they make none.
    """
    groups: list[list[Slice]] = []
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


def _plane(one: Slice) -> str:
    return ("sagittal", "coronal", "axial")[int(np.argmax(np.abs(one.normal)))]


def _without_duplicates(stack: list[Slice], normal: Array, name: str) -> tuple[list[Slice], int]:
    """One slice to a place, and how many are left out.

    Raises:
        InputError: slices at the same place differ.
    """
    kept: list[Slice] = []
    dropped, different = 0, []
    for one in stack:
        same = kept and abs(float((one.position - kept[-1].position) @ normal)) < SAME_PLACE_MM
        if not same:
            kept.append(one)
        elif content_of(one) == content_of(kept[-1]):
            dropped += 1
        else:
            different.append((kept[-1], one))
    if different:
        apart = [
            tag
            for number, tag in enumerate((*PHASES, "TemporalPositionTimeOffset"))
            if any(a.phase[number] != b.phase[number] for a, b in different)
        ]
        raise InputError(
            f"The series in {name} has {len(different)} slices at places where there already is another one, of other "
            f"content{f' ({", ".join(apart)} differ)' if apart else ''}: several phases, echoes or acquisitions in "
            "one; export one of them."
        )
    return kept, dropped


def _image(stack: list[Slice]) -> sitk.Image:
    """The values of a stack as an image."""
    first = stack[0]
    sources = {one.source[0] for one in stack}
    exact = len({one.rescale for one in stack}) == 1 and all(float(v).is_integer() for v in first.rescale)
    volume: npt.NDArray[Any] | None = None
    frames: dict[Path, npt.NDArray[Any]] = {}
    for number, one in enumerate(stack):
        file, frame = one.source
        if len(sources) == len(stack):
            values = frames_of(file)[0]
        else:
            if file not in frames:
                frames[file] = frames_of(file)
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


def _straightened(image: sitk.Image, stack: list[Slice], name: str) -> tuple[sitk.Image, list[str]]:
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
