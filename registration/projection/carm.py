r"""A C-arm's projections: geometry from DICOM tags, and radiographs computed from a CT (DRR).

Geometry. The detector lies at `source_to_detector` from the X-ray focus, seen along the central ray; the isocenter
at `source_to_isocenter`. DICOM's positioner angles turn the gantry about the patient's axes, in LPS: a positive
primary angle turns the *receptor* towards the patient's left (LAO), a positive secondary one towards the head (CRA).
At 0/0 the receptor is in front (A, -y): rays run from the back (P) to the front. Each view is a `PinholeCamera` whose
focal length is the source-detector distance in pixels - so points, centerlines and overlays use the same projection as
any camera. A camera sees as from the X-ray focus: at 0/0 columns run towards the patient's right and rows towards the
feet. Angiograms are usually *shown* as from the receptor, with the patient's left on the right: mirror such an image
(`numpy.fliplr`) before it is compared.

Radiograph. The line integral of the attenuation from the focus to each pixel, by trilinear sampling at equal steps.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from registration.camera import PinholeCamera
from registration.errors import InputError
from registration.projection.ray_kernel import ray_sums
from registration.rigid import Array, invert

WATER_PER_MM = 0.02
"""Attenuation of water at about 60 keV, 1/mm."""


def carm_camera(
    *,
    primary_deg: float,
    secondary_deg: float,
    source_to_detector: float,
    source_to_isocenter: float,
    pixel_mm: float,
    width: int,
    height: int,
    isocenter: tuple[float, float, float] = (0.0, 0.0, 0.0),
) -> PinholeCamera:
    """Camera of one C-arm view.

    Args:
        primary_deg: positioner primary angle, positive LAO (DICOM 0018,1510).
        secondary_deg: positioner secondary angle, positive cranial (0018,1511).
        source_to_detector: mm (0018,1110).
        source_to_isocenter: mm (0018,9402; 0018,1111 where the patient is in the isocenter).
        pixel_mm: detector pixel (0018,1164), after binning.
        width: columns.
        height: rows.
        isocenter: (3,) in the patient frame, mm.

    Raises:
        InputError: distances that cannot be.
    """
    if not 0.0 < source_to_isocenter < source_to_detector:
        raise InputError(
            f"source to isocenter {source_to_isocenter:g} mm and to detector {source_to_detector:g} mm: the isocenter "
            "must lie between source and detector."
        )
    if not pixel_mm > 0.0:
        raise InputError(f"detector pixel of {pixel_mm:g} mm is not a positive length.")
    a, b = np.radians(primary_deg), np.radians(secondary_deg)
    # Direction from the isocenter to the receptor: in front (-y), turned to the left (+x) and to the head (+z).
    towards = np.array([np.sin(a) * np.cos(b), -np.cos(a) * np.cos(b), np.sin(b)])
    columns = -np.array([np.cos(a), np.sin(a), 0.0])
    rows = np.cross(towards, columns)
    pose = np.eye(4)
    pose[:3, :3] = np.stack([columns, rows, towards])
    source = np.array(isocenter) - source_to_isocenter * towards
    pose[:3, 3] = -pose[:3, :3] @ source
    focal = source_to_detector / pixel_mm
    return PinholeCamera(width, height, focal, focal, (width - 1) / 2, (height - 1) / 2, camera_from_world=pose)


def carm_camera_from_dicom(
    tags: Mapping[str, Any], *, isocenter: tuple[float, float, float] = (0, 0, 0)
) -> PinholeCamera:
    """Camera of a view from its DICOM attributes, by keyword (pydicom) or "gggg|eeee" (SimpleITK).

    Raises:
        InputError: an attribute that is missing or no number, named.
    """

    def number(keyword: str, tag: str, default: float | None = None) -> float:
        value = tags.get(keyword, tags.get(tag))
        if value is None or str(value).strip() == "":
            if default is not None:
                return default
            raise InputError(f"the image has no {keyword} ({tag.replace('|', ',')}), which fixes the C-arm's geometry.")
        try:
            return float(str(value).split("\\")[0])
        except ValueError:
            raise InputError(f"{keyword} ({tag.replace('|', ',')}) is {value!r}, which is no number.") from None

    detector = number("DistanceSourceToDetector", "0018|1110")
    isocenter_mm = number(
        "DistanceSourceToIsocenter", "0018|9402", number("DistanceSourceToPatient", "0018|1111", 0.0) or None
    )
    return carm_camera(
        primary_deg=number("PositionerPrimaryAngle", "0018|1510"),
        secondary_deg=number("PositionerSecondaryAngle", "0018|1511"),
        source_to_detector=detector,
        source_to_isocenter=isocenter_mm,
        pixel_mm=number("ImagerPixelSpacing", "0018|1164"),
        width=int(number("Columns", "0028|0011")),
        height=int(number("Rows", "0028|0010")),
        isocenter=isocenter,
    )


ONE_DIRECTION_DEG = 10.0
"""Views whose beams differ by less are one view, as far as the depth goes."""

LEAST_VOXELS, LEAST_WIDTH_MM = 4, 10.0
"""Of a volume per side, and of what a radiograph shows."""


@dataclass(frozen=True)
class Attenuation:
    """A volume of attenuation: values (z, y, x) in 1/mm, and (4, 4) from points in mm to voxel indices (x, y, z)."""

    values: NDArray[np.float32]
    index_from_point: Array
    corners: Array

    @classmethod
    def from_ct(cls, ct: sitk.Image, *, spacing: float | None = None, floor_hu: float = -700.0) -> Attenuation:
        """From a CT in Hounsfield units: mu = mu_water (1 + HU / 1000), nothing below `floor_hu`.

        Args:
            ct: the volume.
            spacing: thin it to about this voxel size in mm first; as it is if not given.
            floor_hu: values below (air, couch foam) attenuate nothing.

        Raises:
            InputError: not a volume of gray values in Hounsfield units and mm.
        """
        if ct.GetDimension() != 3:
            raise InputError(f"the CT is {ct.GetDimension()}D; give a volume.")
        if ct.GetNumberOfComponentsPerPixel() != 1:
            raise InputError(f"the CT has {ct.GetNumberOfComponentsPerPixel()} values per voxel; give a gray volume.")
        if min(ct.GetSize()) < LEAST_VOXELS:
            raise InputError(f"the CT has {' x '.join(map(str, ct.GetSize()))} voxels; give a volume.")
        width = float(np.max(np.multiply(ct.GetSize(), ct.GetSpacing())))
        if width < LEAST_WIDTH_MM:
            raise InputError(f"the CT is {width:.3g} mm wide; mend its spacing, which is hardly in mm.")
        image = sitk.Cast(ct, sitk.sitkFloat32)
        if spacing is not None:
            factors = [max(1, round(spacing / s)) for s in image.GetSpacing()]
            image = sitk.BinShrink(image, [min(f, n) for f, n in zip(factors, image.GetSize(), strict=True)])
        hu = sitk.GetArrayFromImage(image)
        if not np.isfinite(hu).all():
            raise InputError("the CT holds values that are not finite; replace them first.")
        if not (hu > floor_hu).any():
            raise InputError(f"the CT has nothing above {floor_hu:g}; give one in Hounsfield units, with a body in it.")
        values = np.where(hu > floor_hu, WATER_PER_MM * (1.0 + hu / 1000.0), 0.0).clip(0.0).astype(np.float32)
        point_from_index = np.eye(4)
        point_from_index[:3, :3] = np.array(image.GetDirection()).reshape(3, 3) * image.GetSpacing()
        point_from_index[:3, 3] = image.GetOrigin()
        size = np.array(image.GetSize())
        ends = np.array(np.meshgrid(*[(-0.5, n - 0.5) for n in size])).reshape(3, -1).T
        corners = ends @ point_from_index[:3, :3].T + point_from_index[:3, 3]
        return cls(values, np.linalg.inv(point_from_index), corners)

    def thinned(self, factor: int) -> Attenuation:
        """The volume averaged over blocks of `factor` voxels per side."""
        if factor <= 1:
            return self
        keep = [n // factor * factor for n in self.values.shape]
        cut = self.values[: keep[0], : keep[1], : keep[2]]
        z, y, x = (n // factor for n in keep)
        values = cut.reshape(z, factor, y, factor, x, factor).mean(axis=(1, 3, 5))
        # Index i of a block is the middle of old indices i factor .. i factor + factor - 1.
        scale = np.diag([1.0 / factor] * 3 + [1.0])
        scale[:3, 3] = -0.5 * (factor - 1) / factor
        return Attenuation(np.asarray(values, dtype=np.float32), scale @ self.index_from_point, self.corners)

    @cached_property
    def filled(self) -> tuple[Array, NDArray[np.float32]]:
        """The part that attenuates, with a rim of zeros, and the voxel (x, y, z) at which it begins."""
        begin, end = [], []
        for axis in range(3):
            there = np.flatnonzero(self.values.any(axis=tuple(k for k in range(3) if k != axis)))
            begin.append(int(there[0]) if len(there) else 0)
            end.append(int(there[-1]) + 1 if len(there) else 1)
        z, y, x = (slice(b, e) for b, e in zip(begin, end, strict=True))
        return np.array(begin[::-1], dtype=np.float64) - 1.0, np.pad(self.values[z, y, x], 1)

    @property
    def middle(self) -> Array:
        """(3,) middle of the volume, mm."""
        return self.corners.mean(axis=0)


def radiograph(
    volume: Attenuation,
    camera: PinholeCamera,
    world_from_volume: Array | None = None,
    *,
    step_mm: float = 2.0,
    pixels: Array | None = None,
) -> Array:
    """Line integrals of the attenuation (dimensionless): an image (height, width), or (n,) at `pixels` (n, 2).

    Args:
        volume: what attenuates.
        camera: the view; lens distortion is ignored (flat-panel detectors have none).
        world_from_volume: (4, 4) pose of the volume in the camera's world; the identity if not given.
        step_mm: of the sampling along rays.
        pixels: where to compute; the whole image if not given.
    """
    if pixels is None:
        columns, rows = np.meshgrid(np.arange(camera.width), np.arange(camera.height))
        points = np.column_stack([columns.ravel(), rows.ravel()]).astype(np.float64)
    else:
        points = np.asarray(pixels, dtype=np.float64)
    pose = camera.camera_from_world if world_from_volume is None else camera.camera_from_world @ world_from_volume
    volume_from_camera = invert(pose)
    source = volume_from_camera[:3, 3]
    rays = np.column_stack([(points - (camera.cx, camera.cy)) / (camera.fx, camera.fy), np.ones(len(points))])
    rays = rays @ volume_from_camera[:3, :3].T
    rays /= np.linalg.norm(rays, axis=1, keepdims=True)
    index = volume.index_from_point
    start, along = index[:3, :3] @ source + index[:3, 3], rays @ index[:3, :3].T
    first, values = volume.filled
    result = np.empty(len(points))
    ray_sums(values, start - first, np.ascontiguousarray(along), step_mm, result)
    result *= step_mm
    return result if pixels is not None else result.reshape(camera.height, camera.width)


def refuse_unseen(cameras: Sequence[PinholeCamera], points: Array, what: str) -> None:
    """Refuse a pose from which a view shows none of points (n, 3) of the world, in mm.

    Raises:
        InputError: there is such a view.
    """
    for k, camera in enumerate(cameras):
        if not camera.visible(points).any():
            raise InputError(
                f"view {k + 1} shows nothing of the {what} where the search begins, {np.abs(points).max():.3g} mm from "
                "the world's origin; check the isocenter and the frame of the --start."
            )


def one_direction(cameras: Sequence[PinholeCamera]) -> bool:
    """Whether all views look along nearly one line, from either side."""
    beams = np.array([camera.camera_from_world[2, :3] for camera in cameras])
    return bool((np.abs(beams @ beams[0]) > math.cos(math.radians(ONE_DIRECTION_DEG))).all())
