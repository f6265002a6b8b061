"""The voxels of a DICOM file, decoded by GDCM, or by pydicom where GDCM stumbles."""

from __future__ import annotations

import hashlib
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pydicom
import SimpleITK as sitk
from pydicom.dataset import FileMetaDataset
from pydicom.uid import UID, ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian, RLELossless

from meshes.dicom_slices import Slice, slices_in
from meshes.errors import InputError


def content_of(one: Slice) -> bytes:
    """Hash of a slice's voxels as they are stored."""
    return hashlib.sha256(frames_of(one.source[0])[one.source[1]].tobytes()).digest()


def frames_of(file: Path) -> npt.NDArray[Any]:
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
    slope, intercept = slices_in(file, stored)[0].rescale
    if slope.is_integer() and intercept.is_integer():
        return values.astype(np.int32) * int(slope) + int(intercept)
    return values * slope + intercept
