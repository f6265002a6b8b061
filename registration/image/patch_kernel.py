"""How well ultrasound is a local mixture of a CT's values and edges (LC2), compiled: one loop over patches."""

import numpy as np
from numba import njit
from numpy.typing import NDArray

Array = NDArray[np.float64]
Floats = NDArray[np.float32]


@njit(cache=True)
def mixture_correlation(values: Floats, edges: Floats, patches: Floats, offsets: Array, centers: Array) -> float:
    """Part of the ultrasound's variance in patches that CT values and edges explain, 0 to 1; see `ultrasound`.

    Args:
        values: (z, y, x) of the CT.
        edges: (z, y, x) length of its gradient.
        patches: (n, m) of the ultrasound, NaN where it saw nothing.
        offsets: (m, 3) of a patch's samples from its center, in voxels of the CT, x first.
        centers: (n, 3) of the patches, in the same.
    """
    flat_values, flat_edges = values.ravel(), edges.ravel()
    row, slab = values.shape[2], values.shape[1] * values.shape[2]
    # Indices without sign are not looked at for being negative.
    right, down, behind = np.uint64(1), np.uint64(row), np.uint64(slab)
    ends = (values.shape[2] - 1.001, values.shape[1] - 1.001, values.shape[0] - 1.001)
    explained, whole = 0.0, 0.0
    for i in range(len(patches)):
        count, seen = 0, 0
        su, sf, sg, suu, sff, sgg, sfg, suf, sug = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
        tu, tuu = 0.0, 0.0
        for j in range(patches.shape[1]):
            u = patches[i, j]
            if np.isnan(u):
                continue
            seen += 1
            tu += u
            tuu += u * u
            x, y, z = centers[i, 0] + offsets[j, 0], centers[i, 1] + offsets[j, 1], centers[i, 2] + offsets[j, 2]
            if not (0.0 <= x <= ends[0] and 0.0 <= y <= ends[1] and 0.0 <= z <= ends[2]):
                continue
            ix, iy, iz = int(x), int(y), int(z)
            fx, fy, fz = x - ix, y - iy, z - iz
            a = np.uint64(iz * slab + iy * row + ix)
            b, c, d = a + down, a + behind, a + behind + down
            w00, w01 = (1.0 - fz) * (1.0 - fy), (1.0 - fz) * fy
            w10, w11 = fz * (1.0 - fy), fz * fy
            f = (1.0 - fx) * (w00 * flat_values[a] + w01 * flat_values[b] + w10 * flat_values[c] + w11 * flat_values[d])
            g = (1.0 - fx) * (w00 * flat_edges[a] + w01 * flat_edges[b] + w10 * flat_edges[c] + w11 * flat_edges[d])
            a, b, c, d = a + right, b + right, c + right, d + right
            f += fx * (w00 * flat_values[a] + w01 * flat_values[b] + w10 * flat_values[c] + w11 * flat_values[d])
            g += fx * (w00 * flat_edges[a] + w01 * flat_edges[b] + w10 * flat_edges[c] + w11 * flat_edges[d])
            count += 1
            su, sf, sg = su + u, sf + f, sg + g
            suu, sff, sgg = suu + u * u, sff + f * f, sgg + g * g
            sfg, suf, sug = sfg + f * g, suf + u * f, sug + u * g
        if seen == 0:
            continue
        # A patch that the CT does not reach is one that it does not explain.
        whole += tuu - tu * tu / seen
        if 2 * count < seen:
            continue
        suu, sff, sgg = suu - su * su / count, sff - sf * sf / count, sgg - sg * sg / count
        sfg, suf, sug = sfg - sf * sg / count, suf - su * sf / count, sug - su * sg / count
        sff, sgg = sff + 1e-9 * count, sgg + 1e-9 * count
        determinant = sff * sgg - sfg * sfg
        if determinant > 1e-6 * sff * sgg:
            explained += (sgg * suf * suf - 2.0 * sfg * suf * sug + sff * sug * sug) / determinant
        else:
            explained += max(suf * suf / sff, sug * sug / sgg)
    return explained / whole if whole > 0.0 else 0.0
