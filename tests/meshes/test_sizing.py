"""Edge lengths follow the vessel's true radius, and the number of tetrahedra that is allowed."""

import dataclasses
import re

import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import given, settings
from hypothesis import strategies as st

from meshes.grid import Grid
from meshes.mending import scaled_jacobians
from meshes.ports import find_ports
from meshes.sizing import FEWEST_ACROSS, SHARED, Refinement, Sizes, local_radius
from meshes.tetrahedra import mesh_lumen
from meshes.tracing import extract_centerline


@settings(max_examples=10, deadline=None)
@given(
    angles=st.tuples(*[st.floats(-1.5, 1.5)] * 3),
    offset=st.tuples(*[st.floats(-0.5, 0.5)] * 3),
    radius=st.floats(1.2, 4.0),
)
def test_a_thin_vessels_radius_is_right_wherever_its_middle_lies_between_voxels(analytic, angles, offset, radius):
    """The distance at the voxel nearest to the middle is up to 0.87 voxels less than the radius."""
    grid_points, image_of, capsule = analytic
    shape, spacing = (32, 32, 32), np.full(3, 0.5)
    rotation = np.array(sitk.Euler3DTransform((0, 0, 0), *angles).GetMatrix()).reshape(3, 3)
    middle, axis = 7.75 + 0.5 * np.array(offset), rotation @ [0.0, 0.0, 20.0]
    radius = 0.5 * radius
    distance = capsule(grid_points(shape, spacing), middle - axis, middle + axis, radius)
    found = local_radius(Grid.of(image_of(distance, shape, spacing)))
    along = middle + np.linspace(-0.2, 0.2, 9)[:, None] * axis
    assert found.sample(along) == pytest.approx(radius, rel=0.1)
    # On the wall as well as in the middle.
    assert found.sample(along + radius * rotation[:, 0]) == pytest.approx(radius, rel=0.1)


@pytest.fixture(scope="module")
def tree(analytic):
    """A wide vessel and a thin branch, on voxels of 0.8 mm."""
    grid_points, image_of, capsule = analytic
    shape, spacing = (50, 30, 60), np.full(3, 0.8)
    points = grid_points(shape, spacing)
    wide = capsule(points, np.array([12.0, 12.0, 6.0]), np.array([12.0, 12.0, 41.0]), 4.0)
    thin = capsule(points, np.array([12.0, 12.0, 18.0]), np.array([34.0, 12.0, 30.0]), 1.3)
    level_set = image_of(np.minimum(wide, thin), shape, spacing)
    ports, _ = find_ports(level_set, extract_centerline(level_set))
    assert len(ports) == 3
    return level_set, ports


def test_no_more_tetrahedra_are_made_than_allowed_and_it_is_told_what_that_took(tree):
    mesh = mesh_lumen(*tree, edges_across=9.0, max_tetrahedra=12_000)
    assert 0.8 * 12_000 < len(mesh.tetrahedra) <= 12_000
    (told,) = mesh.notes
    assert "max_tetrahedra = 12000" in told
    assert "edges_across = 9" in told
    (needed,) = re.findall(r"about (\d+) tetrahedra", told)
    free = mesh_lumen(*tree, edges_across=9.0, max_tetrahedra=10 * int(needed))
    assert len(free.tetrahedra) == pytest.approx(int(needed), rel=0.35)
    assert len(mesh.ports) == 3
    assert scaled_jacobians(mesh.points, mesh.tetrahedra).min() > 0.1


def test_where_thin_vessels_need_more_than_allowed_it_is_told_what_to_change(tree):
    mesh = mesh_lumen(*tree, edges_across=5.0, max_tetrahedra=1_500)
    assert len(mesh.tetrahedra) > 1_500
    (told,) = mesh.notes
    assert str(len(mesh.tetrahedra)) in told
    assert "max_tetrahedra allows 1500" in told
    assert "ports.most" in told
    # The thin branch is open: it has nodes inside, some edges across.
    wall = np.unique(mesh.triangles)
    inner = mesh.points[np.setdiff1d(np.arange(len(mesh.points)), wall)]
    axis = np.array([22.0, 0.0, 12.0]) / np.hypot(22.0, 12.0)
    away = inner - [12.0, 12.0, 18.0]
    along = away @ axis
    beside = np.linalg.norm(away - along[:, None] * axis, axis=1)
    assert ((along > 8.0) & (beside < 1.0)).sum() > 10


def test_lengths_are_as_short_as_asked_and_never_fewer_than_some_across(tree):
    level_set, _ = tree
    radius = local_radius(Grid.of(level_set))
    points = np.array([[12.0, 12.0, 36.0], [28.5, 12.0, 27.0]])
    sizes = Sizes.of(radius, points[:1], edge_length=None, edges_across=8.0, finer=())
    assert sizes.at(points, 1.0) == pytest.approx([1.0, 0.35], rel=0.1)
    assert sizes.at(points, 100.0) == pytest.approx([8.0 / FEWEST_ACROSS, 2.6 / FEWEST_ACROSS], rel=0.1)
    place = Refinement(points[:1], np.array([2.0]), np.array([0.2]))
    finer = Sizes.of(radius, points[:1], edge_length=None, edges_across=8.0, finer=[place])
    beside = points[:1] + [[0, 0, -1.0], [0, 0, -4.0]]
    assert finer.at(beside, 1.0) == pytest.approx([0.2, 0.8], rel=0.05)
    # What is finer stays so until everything else has as few edges across as it may.
    assert finer.at(beside, 8.0 / FEWEST_ACROSS)[0] == pytest.approx(0.2, rel=0.05)
    # Then a lesser place pays before one that is to be kept.
    assert finer.at(beside, 16.0 / FEWEST_ACROSS)[0] == pytest.approx(0.2 * SHARED, rel=0.05)
    lesser = Sizes.of(
        radius, points[:1], edge_length=None, edges_across=8.0, finer=[dataclasses.replace(place, first=False)]
    )
    assert lesser.at(beside, 16.0 / FEWEST_ACROSS)[0] == pytest.approx(0.4, rel=0.05)
