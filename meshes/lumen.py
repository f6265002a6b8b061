"""The lumen of a vessel tree: a label map, and the signed distance to its wall."""

from dataclasses import dataclass

import SimpleITK as sitk


@dataclass(frozen=True)
class Lumen:
    """The lumen of one vessel tree.

    Attributes:
        label: uint8, 1 in the lumen, on the image's grid.
        level_set: float32, signed distance to the wall in mm, negative inside; cropped, nearly cubic voxels.
        notes: what was decided on the way, one sentence each.
    """

    label: sitk.Image
    level_set: sitk.Image
    notes: tuple[str, ...]
