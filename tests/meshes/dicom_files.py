"""DICOM files made for tests with pydicom, no part of what they test: slices, multi-frame objects, segments."""

import numpy as np
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import (
    CTImageStorage,
    EnhancedCTImageStorage,
    ExplicitVRLittleEndian,
    RLELossless,
    SegmentationStorage,
    generate_uid,
)

PATIENT = {
    "PatientName": "Rosenkavalier^Octavian",
    "PatientID": "MRN-774411",
    "PatientBirthDate": "19110126",
    "InstitutionName": "Hospital of Arabella",
    "ReferringPhysicianName": "Ochs^Baron",
    "AccessionNumber": "ACC-998877",
    "StudyDate": "20240229",
    "StudyDescription": "Silver rose angiography",
    "DeviceSerialNumber": "SN-55443322",
}


def header(sop_class, series_uid, modality="CT"):
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = sop_class
    meta.MediaStorageSOPInstanceUID = generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    made = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    made.SOPClassUID, made.SOPInstanceUID = sop_class, meta.MediaStorageSOPInstanceUID
    made.SeriesInstanceUID, made.StudyInstanceUID, made.Modality = series_uid, generate_uid(), modality
    for name, value in PATIENT.items():
        setattr(made, name, value)
    return made


def pixels(made, values):
    made.Rows, made.Columns = values.shape[-2:]
    made.SamplesPerPixel, made.PhotometricInterpretation = 1, "MONOCHROME2"
    made.BitsAllocated = made.BitsStored = 16
    made.HighBit, made.PixelRepresentation = 15, 1
    made.PixelData = np.ascontiguousarray(values, dtype="<i2").tobytes()


def write_slices(folder, values, placement, *, series_uid=None, slope=1.0, intercept=0.0, skip=(), compress=False,
                 shear=(0.0, 0.0), phase=None, prefix="IM"):  # fmt: skip
    """Values (nz, ny, nx) as one file to a slice, at the places of an image with ``placement`` (origin, spacing,
    direction); ``shear`` mm per mm along rows and columns is a gantry's tilt."""
    folder.mkdir(parents=True, exist_ok=True)
    origin, spacing, direction = placement
    uid = series_uid or generate_uid()
    for k, plane in enumerate(values):
        if k in skip:
            continue
        made = header(CTImageStorage, uid)
        place = origin + direction @ (np.array([0, 0, k]) * spacing)
        place = place + k * spacing[2] * (shear[0] * direction[:, 0] + shear[1] * direction[:, 1])
        made.ImagePositionPatient = [round(float(v), 6) for v in place]
        made.ImageOrientationPatient = [round(float(v), 9) for v in (*direction[:, 0], *direction[:, 1])]
        made.PixelSpacing = [float(spacing[1]), float(spacing[0])]
        made.SliceThickness, made.InstanceNumber = float(spacing[2]), k + 1
        made.RescaleSlope, made.RescaleIntercept = slope, intercept
        made.SeriesDescription = "arterial 0.75"
        if phase is not None:
            made.AcquisitionNumber = phase
        pixels(made, np.rint((plane - intercept) / slope))
        if compress:
            made.compress(RLELossless)
        # A name that says nothing of the order, as archives give.
        made.save_as(folder / f"{prefix}{(k * 37) % 101:04d}", enforce_file_format=True)
    return uid


def write_enhanced(path, values, placement, order, *, slopes=None):
    """Values (nz, ny, nx) as one enhanced multi-frame object, its frames in any order."""
    origin, spacing, direction = placement
    made = header(EnhancedCTImageStorage, generate_uid())
    slopes = [1.0] * len(values) if slopes is None else slopes
    pixels(made, np.rint(np.stack([values[k] / slopes[k] for k in order])))
    made.NumberOfFrames = len(order)
    shared, measures, plane = Dataset(), Dataset(), Dataset()
    measures.PixelSpacing, measures.SliceThickness = [float(spacing[1]), float(spacing[0])], float(spacing[2])
    plane.ImageOrientationPatient = [round(float(v), 9) for v in (*direction[:, 0], *direction[:, 1])]
    shared.PixelMeasuresSequence, shared.PlaneOrientationSequence = [measures], [plane]
    made.SharedFunctionalGroupsSequence = [shared]
    frames = []
    for k in order:
        frame, position, rescale = Dataset(), Dataset(), Dataset()
        place = origin + direction @ (np.array([0, 0, k]) * spacing)
        position.ImagePositionPatient = [round(float(v), 6) for v in place]
        rescale.RescaleSlope, rescale.RescaleIntercept, rescale.RescaleType = slopes[k], 0.0, "HU"
        frame.PlanePositionSequence, frame.PixelValueTransformationSequence = [position], [rescale]
        frames.append(frame)
    made.PerFrameFunctionalGroupsSequence = frames
    made.save_as(path, enforce_file_format=True)


def write_segmentation(path, masks, placement):
    """Named masks (nz, ny, nx) as a binary DICOM segmentation; empty slices are left out."""
    origin, spacing, direction = placement
    made = header(SegmentationStorage, generate_uid(), "SEG")
    made.SegmentationType, made.SamplesPerPixel = "BINARY", 1
    made.PhotometricInterpretation = "MONOCHROME2"
    made.BitsAllocated = made.BitsStored = 1
    made.HighBit = made.PixelRepresentation = 0
    shape = next(iter(masks.values())).shape
    made.Rows, made.Columns = shape[1:]
    shared, measures, plane = Dataset(), Dataset(), Dataset()
    measures.PixelSpacing, measures.SliceThickness = [float(spacing[1]), float(spacing[0])], float(spacing[2])
    plane.ImageOrientationPatient = [round(float(v), 9) for v in (*direction[:, 0], *direction[:, 1])]
    shared.PixelMeasuresSequence, shared.PlaneOrientationSequence = [measures], [plane]
    made.SharedFunctionalGroupsSequence = [shared]
    segments, frames, bits = [], [], []
    for number, (name, mask) in enumerate(masks.items(), start=1):
        segment = Dataset()
        segment.SegmentNumber, segment.SegmentLabel, segment.SegmentAlgorithmType = number, name, "MANUAL"
        segments.append(segment)
        for k in np.flatnonzero(mask.any(axis=(1, 2))):
            frame, position, which = Dataset(), Dataset(), Dataset()
            place = origin + direction @ (np.array([0, 0, k]) * spacing)
            position.ImagePositionPatient = [round(float(v), 6) for v in place]
            which.ReferencedSegmentNumber = number
            frame.PlanePositionSequence, frame.SegmentIdentificationSequence = [position], [which]
            frames.append(frame)
            bits.append(mask[k].ravel())
    made.SegmentSequence, made.PerFrameFunctionalGroupsSequence = segments, frames
    made.NumberOfFrames = len(frames)
    packed = np.packbits(np.concatenate(bits).astype(np.uint8), bitorder="little").tobytes()
    made.PixelData = packed + b"\0" * (len(packed) % 2)
    made.save_as(path, enforce_file_format=True)
