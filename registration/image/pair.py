"""Two images brought together by whatever kind of transform is asked for: linear first, then bent where wanted."""

from __future__ import annotations

from dataclasses import dataclass
from typing import get_args

import numpy as np
import SimpleITK as sitk
from numpy.typing import ArrayLike

from registration.errors import InputError
from registration.image.deformable import DeformableRegistration, Method, register_deformable
from registration.image.intensity import ImageRegistration, Kind, register_images, transform_of
from registration.image.ultrasound import UltrasoundRegistration, register_ultrasound
from registration.rigid import Array
from registration.verdict import Verdict, worst

KINDS = (*get_args(Kind), *get_args(Method), "ultrasound")

WIDEST = 50.0
"""Images of which one is so many times as wide as the other are hardly both in mm."""

PROBES = 16
"""Points per axis at which it is looked whether one image lies in the other."""


@dataclass(frozen=True)
class PairRegistration:
    """Result of `register_pair`: the whole transform, fixed to moving points, its linear part, the deformable part
    where one was asked for, and whether to use it."""

    transform: sitk.Transform
    linear: ImageRegistration | UltrasoundRegistration
    bent: DeformableRegistration | None
    verdict: Verdict


def register_pair(
    fixed: sitk.Image, moving: sitk.Image, kind: str = "rigid", *, start: ArrayLike | None = None
) -> PairRegistration:
    """Transform of one of `KINDS` that lays a moving image over a fixed one.

    Args:
        fixed: the image whose frame the other is brought into.
        moving: the other image.
        kind: how many degrees of freedom; the deformable ones begin with a rigid registration, "ultrasound" is the
            rigid one of a 3D ultrasound volume.
        start: (d+1, d+1) guess of moving_from_fixed; tried beside the others.

    Raises:
        InputError: a kind that is not known, a start that leaves the images apart or mirrors them, or images that
            cannot be registered.
    """
    if kind not in KINDS:
        raise InputError(f'registration of kind "{kind}" is not known; use one of {", ".join(KINDS)}.')
    _refuse_other_units(fixed, moving)
    placed = _placement(fixed, moving, start, centered=kind != "ultrasound")
    if kind == "ultrasound":
        laid = register_ultrasound(fixed, moving, start=start)
        return PairRegistration(transform_of(laid.moving_from_fixed), laid, None, laid.verdict)
    if kind in get_args(Kind):
        linear = register_images(fixed, moving, kind=kind, start=start)  # type: ignore[arg-type]
        return PairRegistration(linear.transform, linear, None, worst([placed, linear.verdict]))
    linear = register_images(fixed, moving, start=start)
    bent = register_deformable(fixed, moving, start=linear.transform, method=kind)  # type: ignore[arg-type]
    return PairRegistration(bent.transform, linear, bent, worst([placed, linear.verdict, bent.verdict]))


def _refuse_other_units(fixed: sitk.Image, moving: sitk.Image) -> None:
    first, second = (
        max(n * step for n, step in zip(i.GetSize(), i.GetSpacing(), strict=True)) for i in (fixed, moving)
    )
    if max(first, second) > WIDEST * min(first, second):
        raise InputError(
            f"the fixed image is {first:.3g} mm wide and the moving one {second:.3g} mm: one of them is hardly in mm; "
            "mend its spacing."
        )


def _placement(fixed: sitk.Image, moving: sitk.Image, start: ArrayLike | None, *, centered: bool) -> Verdict:
    """Whether the images lie over each other where the search begins: as their files place them, or by a start.

    Args:
        fixed: the fixed image.
        moving: the moving image.
        start: (d+1, d+1) guess of moving_from_fixed, if any.
        centered: whether the search also begins from center to center.

    Raises:
        InputError: a given start leaves them apart, or they are apart and the search does not center them.
    """
    dimension = fixed.GetDimension()
    if moving.GetDimension() != dimension:
        return Verdict("pass", "")  # refused by the registration itself
    matrix = np.eye(dimension + 1) if start is None else np.asarray(start, dtype=np.float64)
    if matrix.shape != (dimension + 1, dimension + 1):
        raise InputError(f"the start is a {matrix.shape[0] - 1}D transform and the images are {dimension}D.")
    if not (np.isfinite(matrix).all() and abs(np.linalg.det(matrix)) > 1e-9):
        raise InputError("the start has no inverse, or values that are not finite; give a rigid or affine transform.")
    if dimension == 3 and np.linalg.det(matrix[:3, :3]) < 0.0:  # a slice may lie face down, a body has no other side
        raise InputError("the start mirrors the image, left for right; give a rigid or affine one that does not.")
    there = _points(fixed, PROBES) @ matrix.T
    back = _points(moving, PROBES) @ np.linalg.inv(matrix).T
    if _inside(moving, there).any() or _inside(fixed, back).any():
        return Verdict("pass", "the images lie over each other at the start")
    distance = float(np.linalg.norm(there.mean(axis=0) - _points(moving, PROBES).mean(axis=0)))
    if start is not None:
        raise InputError(
            f"the start leaves the images apart, their middles {distance:.0f} mm from each other; it maps fixed to "
            "moving points: give the other way round, or none to begin from center to center."
        )
    shown = f"as their files place them the images do not overlap, their middles are {distance:.0f} mm apart"
    if not centered:
        raise InputError(f"{shown}; give a --start from tracking, or --fixed-points and --moving-points.")
    return Verdict(
        "check",
        f"{shown}, so that the search began from center to center: make sure that both show the same place, or give "
        "--start or landmarks",
    )


def _points(image: sitk.Image, count: int) -> Array:
    """Homogeneous points (n, d+1) in mm, `count` per axis through the whole of an image."""
    ends = [np.linspace(0.0, n - 1.0, min(count, n)) for n in image.GetSize()]
    index = np.stack(np.meshgrid(*ends, indexing="ij"), axis=-1).reshape(-1, len(ends))
    turn = np.array(image.GetDirection()).reshape(len(ends), -1) * image.GetSpacing()
    return np.column_stack([index @ turn.T + image.GetOrigin(), np.ones(len(index))])


def _inside(image: sitk.Image, points: Array) -> np.ndarray:
    """Which of homogeneous points (n, d+1), mm, lie in an image (n,)."""
    size = np.array(image.GetSize())
    turn = np.array(image.GetDirection()).reshape(len(size), -1) * image.GetSpacing()
    index = (points[:, :-1] - image.GetOrigin()) @ np.linalg.inv(turn).T
    return np.asarray(((index >= -0.5) & (index <= size - 0.5)).all(axis=1))
