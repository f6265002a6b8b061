"""Bad tetrahedra are mended, and nothing else is changed."""

import numpy as np
import pytest

from meshes.clipping import boundary, lattice, oriented, volumes
from meshes.mending import relaxed, scaled_jacobians, without_wedges, worst_shapes


def box():
    """A box of 6 x 5 x 4 lattice cells."""
    points, cells = lattice(np.array([7, 6, 5]), np.ones((6, 5, 4), dtype=bool))
    points = points.astype(float)
    return points, oriented(points, cells)


def on_boundary(points, cells):
    held = np.zeros(len(points), dtype=bool)
    held[boundary(cells).ravel()] = True
    return held


@pytest.mark.parametrize("seed", range(5))
def test_flattened_tetrahedra_inside_are_made_good_again(seed):
    points, cells = box()
    free = np.flatnonzero(~on_boundary(points, cells))
    generator = np.random.default_rng(seed)
    spoilt = points.copy()
    for node in generator.choice(free, 3, replace=False):
        # Nearly into the plane of a face opposite to it.
        cell = cells[np.flatnonzero((cells == node).any(axis=1))[0]]
        spoilt[node] += 0.97 * (points[cell[cell != node]].mean(axis=0) - spoilt[node])
    assert worst_shapes(spoilt, cells).min() < 0.1
    mended = relaxed(spoilt, cells, [], 0.25)
    assert worst_shapes(mended, cells).min() > 0.25
    assert volumes(mended, cells).sum() == pytest.approx(volumes(points, cells).sum(), rel=0.02)


def test_a_ports_nodes_stay_in_its_plane_and_the_walls_near_by():
    points, cells = box()
    held = on_boundary(points, cells)
    floor = np.flatnonzero(points[:, 2] == 0)
    spoilt = points.copy()
    inner_floor = [n for n in floor if 0 < points[n, 0] < 6 and 0 < points[n, 1] < 5]
    spoilt[inner_floor[0]] += [0.75, 0.0, 0.0]
    before = worst_shapes(spoilt, cells).min()
    mended = relaxed(spoilt, cells, [(np.array([0.0, 0.0, 1.0]), floor)], 0.3)
    assert worst_shapes(mended, cells).min() > before
    assert (mended[floor, 2] == 0).all()
    assert np.linalg.norm(mended - spoilt, axis=1)[held].max() < 0.5


def test_a_good_mesh_is_left_as_it_is():
    points, cells = box()
    np.testing.assert_array_equal(relaxed(points, cells, [], 0.3), points)
    assert len(without_wedges(points, cells, 0.1)) == len(cells)


def test_a_flat_wedge_is_taken_off_the_boundary():
    points, cells = box()
    a, b, c = boundary(cells)[0]
    edge_owner = next(face for face in boundary(cells)[1:] if {a, b} <= set(face.tolist()))
    d = next(node for node in edge_owner.tolist() if node not in (a, b))
    # A flat tetrahedron over two faces of the boundary that lie in one plane, its outer edge lifted a little.
    wedge = np.array([[a, b, c, d]])
    lifted = points.copy()
    normal = np.cross(points[b] - points[a], points[c] - points[a])
    lifted[[a, b]] -= 1e-3 * normal / np.linalg.norm(normal)
    joined = oriented(lifted, np.concatenate([cells, wedge]))
    assert worst_shapes(lifted, joined)[-1] < 0.05
    assert {tuple(sorted(cell)) for cell in without_wedges(lifted, joined, 0.05).tolist()} == {
        tuple(sorted(cell)) for cell in cells.tolist()
    }


def test_shapes_agree_with_vtk():
    pv = pytest.importorskip("pyvista")
    points = np.random.default_rng(1).normal(size=(400, 3))
    cells = oriented(points, np.arange(400).reshape(-1, 4))
    grid = pv.UnstructuredGrid({pv.CellType.TETRA: cells}, points)
    quality = grid.cell_quality(["scaled_jacobian", "min_angle"])
    np.testing.assert_allclose(scaled_jacobians(points, cells), quality.cell_data["scaled_jacobian"], rtol=1e-6)
    # VTK's angle is the smallest dihedral; an obtuse one may have a smaller sine.
    assert (worst_shapes(points, cells) <= np.sin(np.radians(quality.cell_data["min_angle"])) + 1e-9).all()
