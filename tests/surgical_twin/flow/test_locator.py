"""Point location against brute force over every cell and a dense sampling of the boundary."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize
from scipy.spatial import Delaunay

from surgical_twin.errors import InputError
from surgical_twin.flow.locator import MeshLocator


def a_mesh(seed, count=150):
    """A graded, irregular, non-convex mesh: cells of a random cloud, with a bite taken out."""
    rng = np.random.default_rng(seed)
    points = rng.uniform(size=(count, 3)) ** 2.0
    cells = Delaunay(points).simplices
    edges = points[cells][:, 1:] - points[cells][:, :1]
    volumes = np.linalg.det(edges)
    longest = np.linalg.norm(edges, axis=2).max(axis=1)
    keep = np.abs(volumes) > 1e-4 * longest**3
    keep &= np.linalg.norm(points[cells].mean(axis=1) - 0.3, axis=1) > 0.15
    return points, cells[keep].astype(np.int64)


def brute_weights(queries, corners):
    """(queries, cells, 4) barycentric weights in every cell, from the four equations that define them."""
    systems = np.concatenate([corners.transpose(0, 2, 1), np.ones((len(corners), 1, 4))], axis=1)
    right = np.column_stack([queries, np.ones(len(queries))]).T
    return np.linalg.solve(systems, right).transpose(2, 0, 1)


def brute_distance(point, corners):
    """Distance to a tetrahedron as a quadratic program over its weights."""
    best = np.inf
    for start in np.vstack([np.eye(4) * 0.7 + 0.075, np.full(4, 0.25)]):
        answer = minimize(
            lambda w: ((w @ corners - point) ** 2).sum(),
            start,
            jac=lambda w: 2.0 * corners @ (w @ corners - point),
            bounds=[(0.0, 1.0)] * 4,
            constraints={"type": "eq", "fun": lambda w: w.sum() - 1.0, "jac": lambda w: np.ones(4)},
            options={"ftol": 1e-15, "maxiter": 300},
        )
        best = min(best, float(np.sqrt(answer.fun)))
    return best


@settings(max_examples=12, deadline=None)
@given(seed=st.integers(0, 1000))
def test_inside_and_outside_agree_with_every_cell_tried(seed):
    points, cells = a_mesh(seed)
    locator = MeshLocator(points, cells)
    queries = np.random.default_rng(seed + 1).uniform(-0.1, 1.0, size=(60, 3))
    found = locator.locate(queries)
    for number, query in enumerate(queries):
        cell, weights, distance = locator.locate_one(query)
        assert (cell, distance) == (found.cells[number], found.distance[number])
        np.testing.assert_array_equal(weights, found.weights[number])
    assert (found.weights >= 0.0).all()
    np.testing.assert_allclose(found.weights.sum(axis=1), 1.0, atol=1e-12)
    np.testing.assert_array_equal(found.vertices, cells[found.cells])
    reached = (found.weights[..., None] * points[found.vertices]).sum(axis=1)
    np.testing.assert_allclose(np.linalg.norm(reached - queries, axis=1), found.distance, atol=1e-9)
    inside = brute_weights(queries, points[cells]).min(axis=2).max(axis=1) >= -1e-9
    np.testing.assert_array_equal(found.distance == 0.0, inside)


def test_the_nearest_point_of_the_boundary_is_the_nearest_of_all_cells():
    points, cells = a_mesh(5, count=40)
    locator = MeshLocator(points, cells)
    queries = np.random.default_rng(0).uniform(-0.3, 1.3, size=(12, 3))
    found = locator.locate(queries)
    assert (found.distance > 0.0).sum() >= 6
    for query, distance in zip(queries, found.distance, strict=True):
        truth = min(brute_distance(query, points[cell]) for cell in cells)
        assert distance == pytest.approx(truth, abs=2e-5)


def test_vertices_edges_and_faces_are_inside():
    points, cells = a_mesh(2)
    locator = MeshLocator(points, cells)
    corners = points[cells[:50]]
    for weights in ([1.0, 0.0, 0.0, 0.0], [0.5, 0.5, 0.0, 0.0], [0.2, 0.3, 0.5, 0.0]):
        queries = np.einsum("c,ncx->nx", weights, corners)
        found = locator.locate(queries)
        assert (found.distance < 1e-9).all()
        reached = (found.weights[..., None] * points[found.vertices]).sum(axis=1)
        np.testing.assert_allclose(reached, queries, atol=1e-9)


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 100), shift=st.floats(-1e3, 1e3))
def test_moving_mesh_and_points_together_changes_nothing(seed, shift):
    points, cells = a_mesh(3)
    rng = np.random.default_rng(seed)
    rotation, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    queries = rng.uniform(-0.1, 1.0, size=(20, 3))
    here = MeshLocator(points, cells).locate(queries)
    there = MeshLocator(points @ rotation.T + shift, cells).locate(queries @ rotation.T + shift)
    np.testing.assert_allclose(there.distance, here.distance, atol=1e-8)


def test_cells_of_very_different_size_and_flat_boxes_are_all_found():
    """A raster that suits the small ones has the large ones in many boxes, or leaves them out."""
    points, cells = a_mesh(4)
    small = points * 1e-3 + 3.0
    thin = points * [1.0, 1.0, 1e-2] + [0.0, 0.0, 50.0]
    everything = np.concatenate([points, small, thin])
    all_cells = np.concatenate([cells, cells + len(points), cells + 2 * len(points)])
    locator = MeshLocator(everything, all_cells)
    inside = everything[all_cells].mean(axis=1)
    found = locator.locate(inside)
    np.testing.assert_array_equal(found.cells, np.arange(len(all_cells)))
    np.testing.assert_array_equal(found.distance, 0.0)


def test_a_mesh_that_cannot_be_searched_is_refused():
    points, cells = a_mesh(1)
    with pytest.raises(InputError, match="at least one"):
        MeshLocator(points, cells[:0])
    with pytest.raises(InputError, match="outside 0"):
        MeshLocator(points, cells + 1000)
    flat = points.copy()
    flat[:, 2] = 0.0
    with pytest.raises(InputError, match="flat"):
        MeshLocator(flat, cells)
    with pytest.raises(InputError, match="not finite"):
        MeshLocator(points, cells).locate(np.array([[np.nan, 0.0, 0.0]]))
