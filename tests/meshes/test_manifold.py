"""Cubes that touch in a corner, in an edge, and around a hollow."""

import numpy as np
import pytest

from meshes.clipping import boundary, lattice
from meshes.manifold import pinches, without_pinches


def cubes(*chosen):
    cells = np.zeros((5, 5, 5), dtype=bool)
    for place in chosen:
        cells[place] = True
    return lattice((6, 6, 6), cells)


def closed_and_simple(tetrahedra):
    """Every edge of the boundary in two triangles, and Euler's number 2 for each connected surface of no handle."""
    triangles = boundary(tetrahedra)
    edges = np.sort(triangles[:, [[0, 1], [1, 2], [2, 0]]].reshape(-1, 2), axis=1)
    unique, counts = np.unique(edges, axis=0, return_counts=True)
    return bool((counts == 2).all()), len(np.unique(triangles)) - len(unique) + len(triangles)


def test_two_cubes_side_by_side_are_left_as_they_are():
    _, tetrahedra = cubes((1, 1, 1), (1, 1, 2))
    assert len(pinches(boundary(tetrahedra))) == 0
    assert np.array_equal(without_pinches(tetrahedra), tetrahedra)
    assert closed_and_simple(tetrahedra) == (True, 2)


@pytest.mark.parametrize("other", [(2, 2, 2), (1, 2, 2)], ids=["corner", "edge"])
def test_cubes_that_touch_in_less_than_a_face_are_parted(other):
    _, tetrahedra = cubes((1, 1, 1), (0, 1, 1), other)
    assert len(pinches(boundary(tetrahedra))) == (1 if other == (2, 2, 2) else 2)
    parted = without_pinches(tetrahedra)
    assert len(pinches(boundary(parted))) == 0
    assert closed_and_simple(parted)[0]
    # The two cubes side by side are hardly touched.
    assert len(tetrahedra) - 8 <= len(parted) < len(tetrahedra)


def test_a_ring_that_touches_itself_in_an_edge_is_opened_there():
    _, tetrahedra = cubes((1, 1, 1), (2, 1, 1), (3, 1, 1), (3, 2, 1), (3, 3, 1), (2, 3, 1), (1, 2, 2), (2, 2, 2))
    assert len(pinches(boundary(tetrahedra))) > 0
    opened = without_pinches(tetrahedra)
    assert len(opened) > 0.5 * len(tetrahedra)
    assert closed_and_simple(opened)[0]
    assert len(pinches(boundary(opened))) == 0
