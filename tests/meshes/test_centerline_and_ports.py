"""Centerlines and ports of vessels whose axes are known."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshes.centerline import Centerline, Line
from meshes.errors import InputError
from meshes.ports import find_ports
from meshes.tracing import extract_centerline


def distance_to_segment(points, start, end):
    axis = end - start
    along = np.clip((points - start) @ axis / (axis @ axis), 0, 1)
    return np.linalg.norm(points - start - along[:, None] * axis, axis=1)


def test_a_y_has_three_branches_in_the_middle_of_its_vessels(y_shape):
    level_set, fork, ends, radii = y_shape
    centerline = extract_centerline(level_set)
    assert len(centerline.branches) == 3
    for branch in centerline.branches:
        points = centerline.points[branch.point_ids]
        far = points[np.linalg.norm(points - fork, axis=1) > 9]
        name = min(ends, key=lambda name: distance_to_segment(far, fork, ends[name]).mean())
        assert distance_to_segment(far, fork, ends[name]).mean() < 0.3
        inner = branch.point_ids[np.linalg.norm(points - fork, axis=1) > 9]
        assert np.median(centerline.radius[inner]) == pytest.approx(radii[name], rel=0.06)


def test_the_widest_end_is_the_inlet_unless_another_is_named(y_shape):
    level_set, _, ends, _ = y_shape
    widest = extract_centerline(level_set).points[0]
    assert np.linalg.norm(widest - ends["parent"]) < 5
    named = extract_centerline(level_set, inlet_near=tuple(ends["left"])).points[0]
    assert np.linalg.norm(named - ends["left"]) < 5


def test_ports_are_normal_to_their_vessels_and_have_their_areas(y_shape):
    level_set, fork, ends, radii = y_shape
    ports, centerline = find_ports(level_set, extract_centerline(level_set))
    assert [port.name for port in ports] == ["inlet", "outlet_1", "outlet_2"]
    assert [port.tag for port in ports] == [1, 2, 3]
    for port in ports:
        name = min(ends, key=lambda name: np.linalg.norm(port.center - ends[name]))
        axis = (ends[name] - fork) / np.linalg.norm(ends[name] - fork)
        assert np.degrees(np.arccos(port.normal @ axis)) < 8
        assert port.area == pytest.approx(np.pi * radii[name] ** 2, rel=0.07)
    path = centerline.points[centerline.path_to("outlet_1")]
    assert np.linalg.norm(path[0] - ports[0].center) < 1.5
    assert np.linalg.norm(path[-1] - ports[1].center) < 1.5
    assert np.linalg.norm(np.diff(path, axis=0), axis=1).max() < 2.5
    with pytest.raises(InputError, match="outlet_9"):
        centerline.path_to("outlet_9")


def test_an_inlet_chosen_by_name_gives_the_tree_that_is_found_from_there(y_shape):
    """Turning the tree around is the same as beginning the search at the other end."""
    level_set, _, ends, _ = y_shape
    ports, turned = find_ports(level_set, extract_centerline(level_set), inlet="outlet_2")
    again, searched = find_ports(level_set, extract_centerline(level_set, inlet_near=tuple(ends["right"])))
    assert np.linalg.norm(ports[0].center - ends["right"]) < 4.0
    assert [port.name for port in ports] == [port.name for port in again]
    for one, other in zip(ports, again, strict=True):
        np.testing.assert_allclose(one.center, other.center, atol=0.3)
        assert one.radius == pytest.approx(other.radius, rel=0.02)
    assert [branch.parent for branch in turned.branches] == [None, 0, 0]
    for name in ("outlet_1", "outlet_2"):
        way, expected = turned.points[turned.path_to(name)], searched.points[searched.path_to(name)]
        steps = np.linalg.norm(np.diff(way, axis=0), axis=1)
        assert steps.max() < 2.5
        assert steps.sum() == pytest.approx(np.linalg.norm(np.diff(expected, axis=0), axis=1).sum(), rel=0.02)
    for branch in turned.branches:
        assert turned.arc_length[branch.point_ids[0]] == 0.0
        assert (np.diff(turned.arc_length[branch.point_ids]) > 0).all()
        assert (turned.branch[branch.point_ids] == branch.index).all()
    with pytest.raises(InputError, match="is no port"):
        find_ports(level_set, turned, inlet="aorta")


def a_tree(parents):
    """A tree of straight branches: child n of a branch goes on from its end."""
    lines, tips = [], {None: np.zeros(3)}
    for index, parent in enumerate(parents):
        begin = tips[parent]
        tips[index] = begin + [10.0, 3.0 * index, 1.0]
        points = begin + np.linspace(0, 1, 5)[:, None] * (tips[index] - begin)
        lines.append(Line(points, np.full(5, 1.0 + index), parent))
    return Centerline.of_lines(lines)


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_turning_a_tree_around_keeps_its_branches_and_their_joints(data):
    count = data.draw(st.integers(1, 9))
    tree = a_tree([None, *(data.draw(st.integers(0, index - 1)) for index in range(1, count))])
    leaf = data.draw(st.sampled_from([branch for branch, _ in tree.terminals()[1:]]))
    turned = tree.rooted_at(leaf)
    np.testing.assert_array_equal(turned.points[0], tree.points[tree.branches[leaf].point_ids[-1]])
    for branch in turned.branches:
        if branch.parent is not None:
            assert branch.parent < branch.index
            before = turned.branches[branch.parent]
            np.testing.assert_array_equal(turned.points[branch.point_ids[0]], turned.points[before.point_ids[-1]])

    def sides(centerline):
        return sorted(
            sorted(map(tuple, centerline.points[branch.point_ids].round(6).tolist())) for branch in centerline.branches
        )

    assert sides(turned) == sides(tree)
    ends = {tuple(tree.points[place].round(6)) for _, place in tree.terminals()}
    assert {tuple(turned.points[place].round(6)) for _, place in turned.terminals()} == ends


def test_a_bent_tube_is_followed(analytic):
    grid_points, image_of, _ = analytic
    shape = (110, 110, 30)
    points = grid_points(shape)
    center = np.array([5.0, 5.0, 9.0])
    flat = points - center
    ring = np.hypot(flat[:, 0], flat[:, 1])
    distance = np.hypot(ring - 40.0, flat[:, 2]) - 3.5
    quarter = np.maximum(distance, np.maximum(-flat[:, 0], -flat[:, 1]))
    centerline = extract_centerline(image_of(quarter, shape))
    assert len(centerline.branches) == 1
    line = centerline.points - center
    assert np.abs(np.hypot(line[:, 0], line[:, 1]) - 40.0).mean() < 0.3
    assert np.abs(line[:, 2]).mean() < 0.3
    assert centerline.radius.mean() == pytest.approx(3.5, rel=0.05)
    assert centerline.arc_length[-1] == pytest.approx(np.pi / 2 * 40, abs=9)


@settings(max_examples=8, deadline=None)
@given(angles=st.tuples(*[st.floats(-0.6, 0.6)] * 3), radius=st.floats(2.0, 4.0))
def test_a_straight_vessel_has_one_branch_however_it_lies(analytic, angles, radius):
    grid_points, image_of, capsule = analytic
    import SimpleITK as sitk

    rotation = np.array(sitk.Euler3DTransform((0, 0, 0), *angles).GetMatrix()).reshape(3, 3)
    shape = (56, 56, 56)
    middle = np.array([16.5, 16.5, 16.5])
    axis = rotation @ [0.0, 0.0, 11.0]
    distance = capsule(grid_points(shape), middle - axis, middle + axis, radius)
    centerline = extract_centerline(image_of(distance, shape))
    assert len(centerline.branches) == 1
    assert distance_to_segment(centerline.points, middle - axis, middle + axis).mean() < 0.35


def test_a_lumen_too_small_or_too_round_is_refused(analytic):
    grid_points, image_of, _ = analytic
    shape = (20, 20, 20)
    points = grid_points(shape)
    with pytest.raises(InputError, match="too small"):
        extract_centerline(image_of(np.linalg.norm(points - 6.0, axis=1) - 0.9, shape))
    with pytest.raises(InputError, match="longer than wide"):
        extract_centerline(image_of(np.linalg.norm(points - 6.0, axis=1) - 4.5, shape))
