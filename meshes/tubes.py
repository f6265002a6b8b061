"""How much each voxel of an image looks like the middle of a bright tube of some width."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import SimpleITK as sitk

from meshes.errors import InputError

Mask = npt.NDArray[np.bool_]
Array = npt.NDArray[np.float64]

LEAST_RANGE, USUAL_RANGE = 50.0, 2000.0
"""An image whose grey values reach over less than the first is looked at as if they reached over the second, a CT's."""


@dataclass(frozen=True)
class SegmentationSettings:
    """What the search for vessels assumes; lengths in mm."""

    smallest_radius: float = 0.8
    """Thinner vessels are not looked for."""
    largest_radius: float = 9.0
    """Wider vessels are found by their wall only as far as their core looks like a tube."""
    scales: int = 4
    """Widths of tubes tried between the two, in equal ratios."""
    core_share: float = 0.25
    """Tubeness, as a share of the strongest in the image, from which on a voxel counts as a vessel's core."""
    bias_length: float = 15.0
    """How fast blood's grey value may change through the image: the Gaussian's standard deviation."""
    bone_excess: float = 0.6
    """Voxels brighter than blood by more than this share of the contrast are bone, metal or calcification."""
    least_contrast: float = 0.15
    """Blood may fade to this share of its usual contrast (at the edge of an MR coil) and still be followed."""
    least_vessel_score: float = 4.0
    """Structures that are less of a vessel tree are none: a tube scores about its length over its radius, a lump of
    bone 2, the body 0.05."""
    point_spread: float = 0.5
    """Standard deviation of the scanner's blur in voxels."""
    seed_reach: float = 2.0
    """A seed may miss the lumen by this much."""


@dataclass(frozen=True)
class TubeResponses:
    """Responses to tubes of several widths, normalized to about the tube's contrast for an ideal one."""

    radii: tuple[float, ...]
    """mm, increasing"""
    responses: tuple[npt.NDArray[np.float32], ...]
    """one array per radius, on the image's grid"""

    def best(self) -> npt.NDArray[np.float32]:
        """The strongest response over all widths."""
        strongest: npt.NDArray[np.float32] = np.maximum.reduce(self.responses)
        return strongest

    def at_width(self, where: Mask, radius: Array) -> Array:
        """(n,) the response at the n voxels of a mask to tubes of the width given for each [mm]."""
        ratio = np.log(np.maximum(radius, 1e-6))[:, None] - np.log(self.radii)[None]
        chosen = np.argmin(np.abs(ratio), axis=1)
        stacked = np.stack([response[where] for response in self.responses], axis=1)
        # The widths tried are coarse: the neighboring ones count too.
        beside = [
            stacked[np.arange(len(chosen)), np.clip(chosen + step, 0, len(self.radii) - 1)] for step in (-1, 0, 1)
        ]
        return np.max(beside, axis=0).astype(float)


def tube_responses(image: sitk.Image, settings: SegmentationSettings) -> TubeResponses:
    """The objectness of Antiga (Insight Journal 2007) for bright tubes, over a range of widths.

    The second derivative of a blurred tube falls with the square of the width, so responses are multiplied by it; then
    an ideal tube answers at its own width with a fixed part, about a third, of its contrast.
    """
    floating = sitk.Cast(image, sitk.sitkFloat32)
    # Air and metal make the strongest edges of all; blood is not among the extremes.
    sample = sitk.GetArrayViewFromImage(floating)[::2, ::2, ::2]
    low, high = np.quantile(sample, [0.02, 0.9995])
    floating = sitk.Clamp(floating, sitk.sitkFloat32, float(low), float(high))
    # Objectness takes a structure of a few grey values for noise: an image from 0 to 1 has a thousand times fewer.
    scale = USUAL_RANGE / float(high - low) if 0.0 < high - low < LEAST_RANGE else 1.0
    if scale != 1.0:
        floating = floating * scale
    ratio = settings.largest_radius / settings.smallest_radius
    radii, responses = [], []
    for number in range(settings.scales):
        radius = settings.smallest_radius * ratio ** (number / max(1, settings.scales - 1))
        sigma = radius / np.sqrt(2.0)
        factors = tuple(
            max(1, min(int(sigma / 1.5 / spacing), size))
            for spacing, size in zip(image.GetSpacing(), image.GetSize(), strict=True)
        )
        coarse = floating if max(factors) == 1 else sitk.BinShrink(floating, factors)
        if min(coarse.GetSize()) < 5:
            continue
        smooth = sitk.SmoothingRecursiveGaussian(coarse, float(sigma))
        response = sitk.ObjectnessMeasure(
            smooth, alpha=0.5, beta=0.5, gamma=5.0, scaleObjectnessMeasure=True, objectDimension=1, brightObject=True
        )
        response = sitk.Cast(response, sitk.sitkFloat32) * float(3.0 * sigma**2 / scale)
        if max(factors) > 1:
            response = sitk.Resample(response, floating, sitk.Transform(), sitk.sitkLinear, 0.0)
        radii.append(float(radius))
        responses.append(sitk.GetArrayFromImage(response))
    if not radii:
        raise InputError(
            f"The image is too small to find vessels in ({' x '.join(map(str, image.GetSize()))} voxels); give a "
            "larger one, or labels."
        )
    return TubeResponses(tuple(radii), tuple(responses))
