"""Making the boundary of a tetrahedral mesh a closed surface that touches itself nowhere."""

from __future__ import annotations

import numpy as np
from scipy import sparse
from scipy.sparse import csgraph

from meshes.clipping import Index, boundary

_MOST_ROUNDS = 30


def pinches(triangles: Index) -> Index:
    """Vertices of a closed surface where it touches itself: its triangles around them form more than one fan."""
    corners = np.arange(3 * len(triangles)).reshape(-1, 3)
    # Each triangle gives at each of its edges a link for each of the edge's two vertices.
    edge = np.concatenate([triangles[:, [a, b]] for a, b in ((0, 1), (1, 2), (2, 0))])
    here = np.concatenate([corners[:, [a, b]] for a, b in ((0, 1), (1, 2), (2, 0))])
    swapped = edge[:, 0] > edge[:, 1]
    edge[swapped], here[swapped] = edge[swapped][:, ::-1], here[swapped][:, ::-1]
    order = np.lexsort((edge[:, 1], edge[:, 0]))
    edge, here = edge[order], here[order]
    begins = np.flatnonzero(np.concatenate([[True], np.any(edge[1:] != edge[:-1], axis=1)]))
    counts = np.diff(np.concatenate([begins, [len(edge)]]))
    bad = np.unique(edge[begins[counts != 2]])
    pairs = begins[counts == 2]
    links = np.concatenate([np.stack([here[pairs, side], here[pairs + 1, side]], axis=1) for side in (0, 1)])
    graph = sparse.coo_matrix((np.ones(len(links)), (links[:, 0], links[:, 1])), shape=(corners.size, corners.size))
    _, fan = csgraph.connected_components(graph, directed=False)
    fans = np.unique(np.stack([triangles.ravel(), fan], axis=1), axis=0)
    vertices, number = np.unique(fans[:, 0], return_counts=True)
    return np.union1d(bad, vertices[number > 1]).astype(np.int64)


def without_pinches(tetrahedra: Index) -> Index:
    """Some tetrahedra fewer, so that the boundary touches itself nowhere.

    Around a vertex where parts of the mesh meet in that vertex or in an edge only, the largest part is kept; where it
    is the outside that meets itself so, the tetrahedra around the vertex go. What is taken away is smaller than
    what the image resolves.
    """
    for _ in range(_MOST_ROUNDS):
        bad = pinches(boundary(tetrahedra))
        if len(bad) == 0:
            break
        at_bad = np.isin(tetrahedra, bad)
        star = np.flatnonzero(at_bad.any(axis=1))
        removed: list[int] = []
        owners: dict[int, list[int]] = {int(vertex): [] for vertex in bad}
        for row in star.tolist():
            for vertex in tetrahedra[row][at_bad[row]].tolist():
                owners[vertex].append(row)
        for vertex, rows in owners.items():
            parts = _parts_around(tetrahedra[rows], vertex)
            sizes = np.bincount(parts)
            keep = int(np.argmax(sizes)) if len(sizes) > 1 else -1
            removed += [row for row, part in zip(rows, parts.tolist(), strict=True) if part != keep]
        tetrahedra = np.delete(tetrahedra, np.unique(removed).astype(np.int64), axis=0)
    return tetrahedra


def _parts_around(star: Index, vertex: int) -> Index:
    """Which tetrahedra of a vertex's star are connected through faces at that vertex: a part's number for each."""
    seen: dict[tuple[int, ...], int] = {}
    part = list(range(len(star)))

    def root(number: int) -> int:
        while part[number] != number:
            number = part[number]
        return number

    for number, row in enumerate(star.tolist()):
        others = [corner for corner in row if corner != vertex]
        for left_out in others:
            face = tuple(sorted(corner for corner in others if corner != left_out))
            if face in seen:
                part[root(number)] = root(seen[face])
            else:
                seen[face] = number
    _, parts = np.unique([root(number) for number in range(len(star))], return_inverse=True)
    return parts.astype(np.int64)
