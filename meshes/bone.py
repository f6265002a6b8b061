"""Telling a vessel from the bone, plaque or metal that it touches.

Bone is brighter than blood, but between bone and tissue partial volume passes through blood's grey values: each bone
has a rim, about a voxel thick, that looks like blood, and where a vessel touches a bone that rim, and all bones beside
it, would be taken for a branch. A rim is thinner than any vessel that can be measured beside a bone: it holds no ball
of one voxel's radius. It is taken off (a morphological opening, beside what is brighter only), the vessel is what is
still connected, and gets back what the opening took off the vessel itself.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage

Mask = npt.NDArray[np.bool_]
Box = tuple[slice, ...]

RIM_VOXELS = 2
"""Partial volume and blur reach this far from what is brighter."""

SPECK_VOXELS = 8
"""Fewer voxels are noise, and no bone."""

FACES = ndimage.generate_binary_structure(3, 1)
CORNERS = ndimage.generate_binary_structure(3, 3)


@dataclass(frozen=True)
class Parted:
    """A vessel without the bones that touch it."""

    component: Mask
    brighter: Mask
    """the bones, plaques or metal beside it"""
    rims: Mask
    """their rims, which are as bright as blood and are none"""


def without_bone(
    above: Mask,
    component: Mask,
    brighter: Mask,
    connected: Callable[[Mask], Mask | None],
    is_vessel: Callable[[Mask, Box], bool],
) -> Parted:
    """The vessel in ``component`` alone, if something brighter than blood touches it.

    Args:
        above: every voxel as bright as blood.
        component: the part of it that a vessel was found in.
        brighter: every voxel brighter than blood can be.
        connected: the part of a mask that the vessel is in, or None.
        is_vessel: whether something brighter, given in a box of the image, is a vessel all the same; then it has no
            rim.
    """
    nothing = Parted(component, np.zeros(above.shape, dtype=bool), np.zeros(above.shape, dtype=bool))
    if not component.any() or not brighter.any():
        return nothing
    (side,) = ndimage.find_objects(component.astype(np.uint8))
    box = _wider(side, RIM_VOXELS + 2)
    inner, bright, band = component[box], brighter[box], above[box]
    near = ndimage.binary_dilation(inner, CORNERS, iterations=RIM_VOXELS)
    if not (near & bright).any():
        return nothing
    parts, count = ndimage.label(bright, CORNERS)
    sizes = np.bincount(parts[parts > 0], minlength=count + 1)
    touched = np.unique(parts[near & bright])
    boxes = ndimage.find_objects(parts)
    foreign = np.zeros(inner.shape, dtype=bool)
    for number in touched[touched > 0]:
        if sizes[number] < SPECK_VOXELS:
            continue
        small = _wider(boxes[number - 1], 1)
        part = parts[small] == number
        at = tuple(slice(b.start + s.start, min(b.start + s.stop, b.stop)) for b, s in zip(box, small, strict=True))
        if not is_vessel(part, at):
            foreign[small] |= part
    if not foreign.any():
        return nothing
    beside = ndimage.binary_dilation(foreign, CORNERS, iterations=RIM_VOXELS)
    wide = ndimage.binary_dilation(ndimage.binary_erosion(band, FACES, border_value=1), FACES)
    free = band & (wide | ~beside)
    whole = above.copy()
    whole[box] = free
    found = connected(whole)
    if found is None:
        return nothing
    # The opening rounds a vessel's edges off, and takes the thin lumen beside a plaque: a voxel's width comes back.
    found[box] |= band & ndimage.binary_dilation(found[box], FACES)
    rims = np.zeros(above.shape, dtype=bool)
    rims[box] = band & ~free & ~found[box]
    brighter = np.zeros(above.shape, dtype=bool)
    brighter[box] = foreign
    return Parted(found, brighter, rims)


def _wider(box: Box, margin: int) -> Box:
    """A box with some voxels more at each side; where that is beyond the image, less."""
    return tuple(slice(max(0, side.start - margin), side.stop + margin) for side in box)
