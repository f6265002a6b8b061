"""What a vessel's narrowing is measured against: not the mouth of a side branch, nor the vessel before it."""

import numpy as np
import pytest

from meshes.centerline import Centerline, Line
from meshes.ports import beyond_ports, find_ports
from meshes.sections import cross_sections
from meshes.stenosis import find_stenoses
from meshes.tracing import extract_centerline

SPACING = np.full(3, 0.6)


def stenoses_of(analytic, radius, branch_radius):
    """Those of a vessel of a given radius along z, mm, with a side branch at z = 0 that its centerline leaves out."""
    grid_points, image_of, capsule = analytic
    shape = (50, 40, 134)
    points = grid_points(shape, SPACING) - [9.0, 12.0, 40.0]
    vessel = np.linalg.norm(points[..., :2], axis=-1) - radius(points[..., 2])
    branch = capsule(points, np.zeros(3), np.array([60.0, 0.0, 30.0]), branch_radius)
    level_set = image_of(np.minimum(vessel, branch), shape, SPACING)
    z = np.arange(-38.0, 38.1, 0.5)
    line = np.stack([np.full_like(z, 9.0), np.full_like(z, 12.0), z + 40.0], axis=1)
    centerline = Centerline.of_lines([Line(line, radius(z), None, "outlet_1")])
    return find_stenoses(centerline, cross_sections(level_set, centerline))


def behind_a_bifurcation(narrowest):
    """Radius 3.2 mm up to a bifurcation; behind it the narrowest one, and 2.4 mm from there on."""

    def radius(z):
        before = 1.0 / (1.0 + np.exp(2.0 * (z - 1.0)))
        dip = (2.4 - narrowest) * np.exp(-(((z - 7.0) / 2.5) ** 2))
        return 2.4 + 0.8 * before - dip

    return radius


def test_a_daughter_thinner_than_its_parent_has_no_stenosis_where_the_other_one_is_left_out(analytic):
    """2.0 mm: 17 % off the vessel that it is part of, and 37 % off its parent."""
    assert stenoses_of(analytic, behind_a_bifurcation(2.0), 2.4) == ()


def test_a_stenosis_behind_a_side_branch_is_measured_against_the_vessel_behind(analytic):
    (found,) = stenoses_of(analytic, behind_a_bifurcation(1.2), 2.4)
    assert found.position == pytest.approx([9.0, 12.0, 47.0], abs=1.0)
    assert found.reference_diameter == pytest.approx(4.8, rel=0.05)
    assert found.diameter_reduction == pytest.approx(0.5, abs=0.04)


def test_a_vessel_of_one_width_with_side_branches_has_none(analytic):
    assert stenoses_of(analytic, lambda z: np.full_like(z, 2.4), 2.2) == ()


def test_what_ports_cut_off_is_told(y_shape):
    level_set = y_shape[0]
    ports, centerline = find_ports(level_set, extract_centerline(level_set), cut_radii=3.0)
    beyond = beyond_ports(centerline, ports)
    for branch, end in centerline.terminals():
        ids = centerline.branches[branch].point_ids
        assert beyond[end]
        assert 0 < beyond[ids].sum() < 0.6 * len(ids)
    for port in ports:
        height = (centerline.points - port.center) @ port.normal
        near = np.linalg.norm(centerline.points - port.center, axis=1) < 3.0 * port.radius
        clear = near & (np.abs(height) > 1.0)
        assert (beyond[clear] == (height[clear] > 0)).all()
