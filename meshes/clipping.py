"""Cutting a tetrahedral mesh along the zero of a function that is linear in every tetrahedron.

A tetrahedron that the zero plane crosses keeps its part with negative values, which is again divided into tetrahedra.
Quadrilateral faces of what is kept are divided by the diagonal from the end with the smaller vertex number, so that
neighbors agree and the mesh stays conforming (Dompierre et al., "How to subdivide pyramids, prisms and hexahedra into
tetrahedra", 8th International Meshing Roundtable, 1999). The cut itself is exact: a plane stays a plane.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from meshes.grid import Array

Index = npt.NDArray[np.int64]

_FACES = np.array([[1, 2, 3], [0, 3, 2], [0, 1, 3], [0, 2, 1]])


def clip(points: Array, tetrahedra: Index, values: Array) -> tuple[Array, Index, npt.NDArray[np.bool_]]:
    """Keep the part of the mesh where ``values`` (n,) at the vertices are negative.

    Tetrahedra are positively oriented. Returns points, tetrahedra and, for every point, whether it lies on the zero.
    Vertices whose value is exactly 0 are on the cut and are not moved. Unused points are dropped.
    """
    sign = np.sign(values).astype(np.int8)
    of = sign[tetrahedra]
    negatives, positives = np.sum(of < 0, axis=1), np.sum(of > 0, axis=1)
    kept: list[Index] = []

    crossed = (negatives > 0) & (positives > 0)
    # Vertices in the order negative, zero, positive, each group by vertex number.
    cut, cut_sign = tetrahedra[crossed], of[crossed]
    order = np.lexsort((cut, cut_sign), axis=1)
    cut = np.take_along_axis(cut, order, axis=1)
    n, p = negatives[crossed], positives[crossed]

    edges = np.concatenate(
        [np.stack([cut[:, a], cut[:, b]], 1)[(a < n) & (b >= 4 - p)] for a in range(3) for b in range(a + 1, 4)]
    )
    key, first = np.unique(edges[:, 0] * len(points) + edges[:, 1], return_index=True)
    edges = edges[first]
    t = values[edges[:, 0]] / (values[edges[:, 0]] - values[edges[:, 1]])
    new_points = points[edges[:, 0]] + t[:, None] * (points[edges[:, 1]] - points[edges[:, 0]])

    def at(a: Index, b: Index) -> Index:
        return np.asarray(len(points) + np.searchsorted(key, a * len(points) + b), dtype=np.int64)

    def add(*columns: Index) -> None:
        kept.append(np.stack(columns, axis=1))

    for nn, pp in {(int(i), int(j)) for i, j in zip(n, p, strict=True)}:
        a, b, c, d = cut[(n == nn) & (p == pp)].T
        if nn == 1:
            ends = [v if 4 - pp > number else at(a, v) for number, v in ((1, b), (2, c), (3, d))]
            add(a, *ends)
        elif (nn, pp) == (2, 1):
            add(c, a, b, at(b, d))
            add(c, a, at(b, d), at(a, d))
        elif (nn, pp) == (2, 2):
            ac, ad, bc, bd = at(a, c), at(a, d), at(b, c), at(b, d)
            add(a, b, bc, bd)
            add(a, ac, ad, bd)
            add(a, ac, bd, bc)
        else:
            ad, bd, cd = at(a, d), at(b, d), at(c, d)
            add(a, b, c, cd)
            add(a, b, cd, bd)
            add(a, bd, cd, ad)

    everything = np.concatenate([points, new_points])
    on_zero = np.concatenate([values == 0.0, np.ones(len(new_points), dtype=bool)])
    whole = tetrahedra[(positives == 0) & (negatives > 0)]
    result = np.concatenate([whole, oriented(everything, np.concatenate(kept))]) if kept else whole
    used, result = renumbered(result, len(everything))
    return everything[used], result, on_zero[used]


def renumbered(cells: Index, count: int) -> tuple[Index, Index]:
    """The vertices, of ``count``, that cells use, in their order, and the cells with these numbered from 0."""
    used = np.zeros(count, dtype=bool)
    used[cells] = True
    number = np.cumsum(used) - 1
    return np.flatnonzero(used), number[cells]


def oriented(points: Array, tetrahedra: Index) -> Index:
    """The same tetrahedra with two vertices swapped wherever the volume is negative."""
    flip = volumes(points, tetrahedra) < 0
    result = tetrahedra.copy()
    result[flip, 2], result[flip, 3] = tetrahedra[flip, 3], tetrahedra[flip, 2]
    return result


def volumes(points: Array, tetrahedra: Index) -> Array:
    """Signed volumes (m,) of tetrahedra."""
    a, b, c, d = (points[tetrahedra[:, i]] for i in range(4))
    signed: Array = np.einsum("ij,ij->i", b - a, np.cross(c - a, d - a)) / 6.0
    return signed


def boundary(tetrahedra: Index) -> Index:
    """The faces (k, 3) that belong to one tetrahedron only, oriented outward for positively oriented tetrahedra."""
    faces = tetrahedra[:, _FACES].reshape(-1, 3)
    _, first, count = np.unique(row_keys(np.sort(faces, axis=1)), return_index=True, return_counts=True)
    outer: Index = faces[np.sort(first[count == 1])]
    return outer


def row_keys(rows: Index) -> Index:
    """(n,) one number for each row of vertex numbers, in the rows' order: numbers are sorted faster than rows."""
    count = int(rows.max(initial=0)) + 1
    if count ** rows.shape[1] >= 2**63:
        return np.asarray(np.unique(rows, axis=0, return_inverse=True)[1].ravel(), dtype=np.int64)
    key = rows[:, 0].astype(np.int64)
    for column in rows.T[1:]:
        key = key * count + column
    return np.asarray(key)


def lattice(shape: npt.ArrayLike, cells: npt.NDArray[np.bool_]) -> tuple[Index, Index]:
    """Divide chosen cubes of a grid with ``shape`` (nx, ny, nz) nodes into six tetrahedra each (Kuhn's division).

    ``cells`` (nx-1, ny-1, nz-1) chooses. Returns the grid indices (n, 3) of the nodes used and the tetrahedra (m, 4).
    """
    nx, ny, nz = (int(v) for v in np.asarray(shape))
    corner = np.argwhere(cells)
    base = (corner[:, 0] * ny + corner[:, 1]) * nz + corner[:, 2]
    step = np.array([ny * nz, nz, 1])
    parts = []
    for path, odd in (((0, 1, 2), 0), ((0, 2, 1), 1), ((1, 0, 2), 1), ((1, 2, 0), 0), ((2, 0, 1), 0), ((2, 1, 0), 1)):
        chain = [base, base + step[path[0]], base + step[path[0]] + step[path[1]], base + step.sum()]
        if odd:
            chain[1], chain[2] = chain[2], chain[1]
        parts.append(np.stack(chain, axis=1))
    used, tetrahedra = np.unique(np.concatenate(parts), return_inverse=True)
    nodes = np.stack(np.unravel_index(used, (nx, ny, nz)), axis=1)
    return nodes.astype(np.int64), tetrahedra.reshape(-1, 4).astype(np.int64)
