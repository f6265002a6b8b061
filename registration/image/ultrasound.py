r"""3D ultrasound laid over CT or MR.

Ultrasound shows boundaries as much as tissue, so that neither intensities nor edges of a CT predict it alone, and
mutual information over the whole volume finds little. In a small patch it is close to a mixture of both (LC2: Wein et
al. 2008, Fuerst et al. 2014),

    u = a f + b |grad f| + c,

with a, b, c of its own for each patch, fitted by least squares. What is maximized is the part of the ultrasound's
variance in patches that their mixtures explain,

    S = sum_p var_p(fit) / sum_p var_p(u):

patches in shadow or of even tissue have no variance, and no say; most of the rest is speckle, which nothing explains. S
needs no derivatives: it is sampled by an adapting population from coarse to fine, from a start that tracking or
landmarks give - an ultrasound volume is too small a part of the body to be found anywhere in it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import SimpleITK as sitk
from numpy.typing import ArrayLike

from registration.errors import InputError
from registration.image.patch_kernel import mixture_correlation
from registration.rigid import Array, check_rigid, turned_about
from registration.sampled_search import sampled_search
from registration.verdict import Verdict, worst

PATCH = 3
"""Samples from a patch's center to its side: 7 x 7 x 7."""

PATCHES = 500
LEVELS_MM = (3.0, 1.5)
"""Distance of a patch's samples, coarse to fine."""

SEARCHES = 3
APART_MM = 3.0
LEAST_EXPLAINED = 0.07
"""Of the variance; of a patch of another place about 0.05 is explained."""


@dataclass(frozen=True)
class UltrasoundRegistration:
    """Result of `register_ultrasound`.

    Attributes:
        moving_from_fixed: (4, 4) maps points of the CT into the ultrasound, mm.
        explained: part of the ultrasound's local variance that the CT explains.
        start_explained: the same at the start.
        agreement_mm: how far apart the two best searches ended, over the ultrasound's corners.
        verdict: whether to use it.
    """

    moving_from_fixed: Array
    explained: float
    start_explained: float
    agreement_mm: float
    verdict: Verdict


def register_ultrasound(
    fixed: sitk.Image,
    moving: sitk.Image,
    *,
    start: ArrayLike | None = None,
    reach_mm: float = 12.0,
    reach_deg: float = 10.0,
    patches: int = PATCHES,
    seed: int = 0,
) -> UltrasoundRegistration:
    """Rigid transform that lays a 3D ultrasound volume over a CT (or MR).

    Args:
        fixed: the CT.
        moving: the ultrasound; zeros are where it saw nothing.
        start: (4, 4) guess of moving_from_fixed, from tracking or landmarks; the identity if not given.
        reach_mm: how far off the guess may be, per axis.
        reach_deg: how far turned.
        patches: of the ultrasound that are compared.
        seed: of the sampling.

    Raises:
        InputError: images that are no volumes, or an ultrasound that shows nothing.
    """
    for image, name in ((fixed, "fixed"), (moving, "moving")):
        if image.GetDimension() != 3:
            raise InputError(f"the {name} image is {image.GetDimension()}D; ultrasound is registered in 3D.")
    guess = np.linalg.inv(np.eye(4) if start is None else check_rigid(start, "start"))  # CT from ultrasound
    rng = np.random.default_rng(seed)
    levels = [_Level(fixed, moving, spacing, patches, rng) for spacing in LEVELS_MM]
    center = guess[:3, :3] @ levels[0].middle + guess[:3, 3]
    unit = np.concatenate([np.repeat(np.radians(reach_deg), 3), np.repeat(reach_mm, 3)])

    def pose_at(x: Array) -> Array:
        return turned_about(center, x[:3] * unit[:3], x[3:] * unit[3:]) @ guess

    def loss(x: Array, level: _Level) -> float:
        # A gentle pull to the guess: beyond the reach nothing was promised.
        return 0.02 * float(np.sum(np.maximum(np.abs(x) - 1.3, 0.0) ** 2)) - level.explained(pose_at(x))

    sample = np.concatenate([np.zeros((1, 6)), rng.uniform(-1.0, 1.0, (60, 6))])
    values = [loss(x, levels[0]) for x in sample]
    coarse = [
        sampled_search(lambda x: loss(x, levels[0]), sample[k], 0.4, rng, rounds=18)
        for k in np.argsort(values)[:SEARCHES]
    ]
    coarse.sort(key=lambda item: item[1])
    x, value = sampled_search(lambda x: loss(x, levels[1]), coarse[0][0], 0.08, rng, rounds=14)
    ends = [pose_at(end) @ levels[0].corners for end, _ in coarse[:2]]
    apart = float(np.linalg.norm((ends[0] - ends[1])[:3], axis=0).mean())
    explained, first = -value, levels[1].explained(guess)
    shown = f"{100 * explained:.0f} % of the ultrasound's local variance explained ({100 * first:.0f} % at the start)"
    verdicts = [Verdict("pass", shown)]
    if explained < LEAST_EXPLAINED:
        verdicts.append(Verdict("fail", f"{shown}: the images have nothing in common"))
    if np.abs(x).max() > 1.25:
        verdicts.append(Verdict("check", f"{shown}: the pose lies at the edge of the reach; give a nearer start"))
    if apart > APART_MM and coarse[1][1] - coarse[0][1] < 0.03:
        verdicts.append(Verdict("check", f"{shown}: another pose {apart:.0f} mm away fits as well"))
    return UltrasoundRegistration(np.linalg.inv(pose_at(x)), explained, first, apart, worst(verdicts))


class _Level:
    """Both images at one resolution, the ultrasound cut into patches."""

    def __init__(
        self, fixed: sitk.Image, moving: sitk.Image, spacing: float, patches: int, rng: np.random.Generator
    ) -> None:
        ct = _smoothed(fixed, spacing)
        values = sitk.GetArrayFromImage(ct)
        scale = max(float(np.ptp(values)), 1e-12)
        self._values = np.ascontiguousarray(values / scale, dtype=np.float32)
        edges = sitk.GetArrayFromImage(sitk.GradientMagnitude(ct)) * spacing / scale
        self._edges = np.ascontiguousarray(edges, dtype=np.float32)
        direction = np.array(ct.GetDirection()).reshape(3, 3) * ct.GetSpacing()
        self._index_from_point = np.linalg.inv(direction)
        self._origin = np.array(ct.GetOrigin())
        corners = _corners(moving)
        seen = _smoothed(sitk.Cast(moving != 0, sitk.sitkFloat32), spacing) > 0.7
        moving = _smoothed(moving, spacing)
        steps = np.arange(-PATCH, PATCH + 1) * spacing
        self._offsets = np.array(np.meshgrid(steps, steps, steps)).reshape(3, -1).T.copy()
        self.corners = corners
        size = np.array(moving.GetSize())
        places = np.argwhere(sitk.GetArrayViewFromImage(seen) != 0)[:, ::-1]
        if len(places) < 100:
            raise InputError("the ultrasound volume is empty or too small; zeros are where it saw nothing.")
        chosen = places[rng.choice(len(places), min(patches, len(places)), replace=False)]
        turn = np.array(moving.GetDirection()).reshape(3, 3) * moving.GetSpacing()
        self._centers = chosen @ turn.T + moving.GetOrigin()
        self.middle = (places @ turn.T + moving.GetOrigin()).mean(axis=0)
        index = (self._centers[:, None] + self._offsets - moving.GetOrigin()) @ np.linalg.inv(turn).T
        index = np.rint(index).astype(int)
        inside = ((index >= 0) & (index < size)).all(axis=2)
        i, j, k = np.moveaxis(np.clip(index, 0, size - 1), 2, 0)
        picked = sitk.GetArrayViewFromImage(moving)[k, j, i]
        inside &= sitk.GetArrayViewFromImage(seen)[k, j, i] != 0
        self._patches = np.where(inside, picked, np.nan).astype(np.float32)
        self._patches -= np.nanmean(self._patches)
        self._patches /= max(float(np.nanstd(self._patches)), 1e-12)

    def explained(self, fixed_from_moving: Array) -> float:
        turn = self._index_from_point @ fixed_from_moving[:3, :3]
        shift = self._index_from_point @ (fixed_from_moving[:3, 3] - self._origin)
        offsets, centers = self._offsets @ turn.T, self._centers @ turn.T + shift
        return float(mixture_correlation(self._values, self._edges, self._patches, offsets, centers))


def _corners(image: sitk.Image) -> Array:
    """(4, 8) homogeneous points of a volume's corners, mm."""
    ends = np.array(np.meshgrid(*[(0.0, n - 1.0) for n in image.GetSize()])).reshape(3, -1).T
    points = np.array([image.TransformContinuousIndexToPhysicalPoint(end.tolist()) for end in ends])
    return np.column_stack([points, np.ones(8)]).T


def _smoothed(image: sitk.Image, spacing: float) -> sitk.Image:
    """Blurred to what samples `spacing` mm apart can show, on no finer voxels than that needs."""
    factors = [
        max(1, min(int(0.6 * spacing / s), n // 8)) for s, n in zip(image.GetSpacing(), image.GetSize(), strict=True)
    ]
    thinned = sitk.BinShrink(sitk.Cast(image, sitk.sitkFloat32), factors)
    return sitk.SmoothingRecursiveGaussian(thinned, 0.5 * spacing)
