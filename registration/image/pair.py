"""Two images brought together by whatever kind of transform is asked for: linear first, then bent where wanted."""

from __future__ import annotations

from dataclasses import dataclass
from typing import get_args

import SimpleITK as sitk
from numpy.typing import ArrayLike

from registration.errors import InputError
from registration.image.deformable import DeformableRegistration, Method, register_deformable
from registration.image.intensity import ImageRegistration, Kind, register_images, transform_of
from registration.image.ultrasound import UltrasoundRegistration, register_ultrasound
from registration.verdict import Verdict, worst

KINDS = (*get_args(Kind), *get_args(Method), "ultrasound")


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
        InputError: a kind that is not known, or images that cannot be registered.
    """
    if kind not in KINDS:
        raise InputError(f'registration of kind "{kind}" is not known; use one of {", ".join(KINDS)}.')
    if kind == "ultrasound":
        laid = register_ultrasound(fixed, moving, start=start)
        return PairRegistration(transform_of(laid.moving_from_fixed), laid, None, laid.verdict)
    if kind in get_args(Kind):
        linear = register_images(fixed, moving, kind=kind, start=start)  # type: ignore[arg-type]
        return PairRegistration(linear.transform, linear, None, linear.verdict)
    linear = register_images(fixed, moving, start=start)
    bent = register_deformable(fixed, moving, start=linear.transform, method=kind)  # type: ignore[arg-type]
    return PairRegistration(bent.transform, linear, bent, worst([linear.verdict, bent.verdict]))
