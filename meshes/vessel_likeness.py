"""How much a bright structure is a vessel tree: long for its width, a tube along its middle, and not hollow."""

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from meshes.grid import Grid
from meshes.level_set import depth_within
from meshes.tubes import TubeResponses

Mask = npt.NDArray[np.bool_]

LEAST_TUBE_SHARE = 0.12
"""What answers to tubes, along its middle, with less than this part of what an ideal one does is no vessel. Vessels
have half and more, those wider than the tubes tried a fifth; the cortex of bones has a twentieth."""


def vessel_score(component: Mask, contrast: float, tubes: TubeResponses, grid: Grid) -> float:
    """How much a structure is a tree of tubes; without unit.

    Long for its width: its volume over the cube of its largest inscribed radius is some four for a ball, and pi times
    length over radius for a tube. And a tube along its middle: the response there at the width that the structure has
    is near that of an ideal tube of its contrast; sheets, such as the rim of a bone, have none, however long they are.
    """
    depth = depth_within(component, grid.spacing)
    largest = float(depth.max())
    if largest < tubes.radii[0]:
        return 0.0
    share = tube_share(depth, contrast, tubes)
    if share < LEAST_TUBE_SHARE:
        return 0.0
    return float(component.sum() * np.prod(grid.spacing)) / largest**3 * share


def tube_share(depth: npt.NDArray[np.float32], contrast: float, tubes: TubeResponses) -> float:
    """How near the response along the middle of a structure is to that of an ideal tube of its contrast, 0 to 1.

    Args:
        depth: distance [mm] from the outside of the structure, 0 there.
        contrast: between it and what is around it.
        tubes: the responses.
    """
    ridge = (depth > 0) & (depth >= 0.95 * ndimage.maximum_filter(depth, 3)) & (depth >= 0.25 * float(depth.max()))
    return float(np.clip(tubes.at_width(ridge, depth[ridge]) / contrast, 0.0, 1.0).mean())


def hollow(component: Mask, brighter: Mask) -> bool:
    """Whether a structure is only the hull of a brighter one.

    Partial volume gives a vessel's rim a grey value of its own, and what has that value is a long, thin, hollow tube.
    Half of it, and more, lies within two voxels of the brighter core; of a vessel that touches a bone, far less does.
    """
    if not brighter.any():
        return False
    near = ndimage.binary_dilation(brighter, ndimage.generate_binary_structure(3, 3), iterations=2)
    return bool((component & near).sum() > 0.5 * component.sum())
