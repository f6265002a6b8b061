"""Line integrals through a volume, compiled: one loop over rays, one over the samples of each.

A search for a pose computes thousands of small radiographs, and an array library would spend its time on moving the
coordinates of millions of samples through memory. Numba keeps the compiled loop beside the module; samples are added in
the order written, so that the same input gives the same output to the bit.
"""

import numpy as np
from numba import njit
from numpy.typing import NDArray

Array = NDArray[np.float64]


@njit(cache=True)
def ray_sums(values: NDArray[np.float32], start: Array, along: Array, step: float, sums: Array) -> None:
    """Sums of trilinear samples of a volume along rays from one focus.

    Args:
        values: (z, y, x) with a rim of zeros, so that rays enter and leave without a jump.
        start: (3,) the focus, in voxels of `values`, x first.
        along: (n, 3) the way of each ray per mm, in voxels.
        step: distance of the samples, mm; they lie at (k + 1/2) step from the focus: equal paths get equal ones.
        sums: (n,) where the sums go.
    """
    one = np.float32(1.0)
    flat = values.ravel()
    row, slab = values.shape[2], values.shape[1] * values.shape[2]
    # Indices without sign are not looked at for being negative.
    right, down, behind = np.uint64(1), np.uint64(row), np.uint64(slab)
    size = (values.shape[2] - 1.001, values.shape[1] - 1.001, values.shape[0] - 1.001)
    for i in range(len(along)):
        enter, leave = 0.0, np.inf
        for axis in range(3):
            a, s = along[i, axis], start[axis]
            if abs(a) < 1e-12:
                if s <= 0.0 or s >= size[axis]:
                    leave = -1.0
                continue
            first, second = -s / a, (size[axis] - s) / a
            enter = max(enter, min(first, second))
            leave = min(leave, max(first, second))
        total = 0.0
        if leave > enter:
            begin = max(0, int(np.ceil(enter / step - 0.5)))
            end = int(np.floor(leave / step - 0.5))
            dx, dy, dz = along[i, 0] * step, along[i, 1] * step, along[i, 2] * step
            for k in range(begin, end + 1):
                # Rounding may put the outermost sample a hair outside.
                x = max(start[0] + (k + 0.5) * dx, 0.0)
                y = max(start[1] + (k + 0.5) * dy, 0.0)
                z = max(start[2] + (k + 0.5) * dz, 0.0)
                ix, iy, iz = int(x), int(y), int(z)
                fx, fy, fz = np.float32(x - ix), np.float32(y - iy), np.float32(z - iz)
                a0 = np.uint64(iz * slab + iy * row + ix)
                a1, a2, a3 = a0 + down, a0 + behind, a0 + behind + down
                near = (one - fy) * ((one - fx) * flat[a0] + fx * flat[a0 + right])
                near += fy * ((one - fx) * flat[a1] + fx * flat[a1 + right])
                far = (one - fy) * ((one - fx) * flat[a2] + fx * flat[a2 + right])
                far += fy * ((one - fx) * flat[a3] + fx * flat[a3 + right])
                total += (one - fz) * near + fz * far
        sums[i] = total
