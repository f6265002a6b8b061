"""Where paths of a vessel tree meet halfway around a loop.

Such a meeting is told from an end by the lumen: through it the way to the other path is short, along the tree it is
long.
"""

from __future__ import annotations

import numpy as np
from scipy import sparse
from scipy.sparse import csgraph

from meshes.centerline import Indices
from meshes.grid import Array
from meshes.lumen_graph import LumenGraph

MEETING_RADII, AROUND_RADII = 6.0, 6.0
"""Two paths meet in a loop where one's tip is within the first many of its radii of the other through the lumen, and
farther than the second many along the tree."""


def meetings(graph: LumenGraph, paths: list[Indices]) -> tuple[list[Indices], set[int]]:
    """Paths that meet others halfway around loops, led on to where they meet, and their last voxels.

    The lumen goes on behind such a tip to another path, which along the tree is far away.
    """
    paths = list(paths)
    meeting: set[int] = set()
    tips = [(number, int(path[-1])) for number, path in enumerate(paths)]
    begins = {int(path[0]) for path in paths[1:]}
    for number, tip in tips:
        if tip in begins:
            continue
        width = max(graph.own_radius(paths[number])[0], graph.step)
        reach = MEETING_RADII * width + graph.step
        near, before = csgraph.dijkstra(
            graph.length, directed=False, indices=tip, limit=reach, return_predecessors=True
        )
        along = _along_tree(graph, paths, tip)
        others = np.array(sorted({int(v) for n, path in enumerate(paths) if n != number for v in path}), dtype=np.int64)
        met = others[(near[others] <= reach) & (along[others] > AROUND_RADII * width + 2.0 * near[others])]
        if len(met) == 0:
            continue
        nearest = int(met[np.argmin(near[met])])
        way = [nearest]
        while way[-1] != tip:
            way.append(int(before[way[-1]]))
        # Up to the other path, and no voxel of it.
        paths[number] = np.concatenate([paths[number], np.array(way[-2:0:-1], dtype=np.int64)])
        meeting.add(int(paths[number][-1]))
    return paths, meeting


def _along_tree(graph: LumenGraph, paths: list[Indices], start: int) -> Array:
    """(count,) distance [mm] of the paths' voxels from one of them along the paths; infinite elsewhere."""
    rows = np.concatenate([path[:-1] for path in paths])
    columns = np.concatenate([path[1:] for path in paths])
    lengths = np.linalg.norm(graph.positions[rows] - graph.positions[columns], axis=1)
    count = len(graph.positions)
    tree = sparse.coo_matrix((lengths, (rows, columns)), shape=(count, count)).tocsr()
    distance: Array = csgraph.dijkstra(tree, directed=False, indices=start)
    return distance
