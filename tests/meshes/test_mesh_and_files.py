"""Tetrahedra, their cutting, their quality, and files."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshes.anatomy import anatomy_surface, body_mask, skin_points
from meshes.clipping import boundary, clip, lattice, oriented, volumes
from meshes.errors import InputError
from meshes.files import read_centerline, read_lumen_mesh, write_centerline, write_lumen_mesh
from meshes.grid import Grid
from meshes.mending import scaled_jacobians
from meshes.ports import find_ports
from meshes.quality import mesh_quality
from meshes.tetrahedra import mesh_lumen
from meshes.tracing import extract_centerline
from meshes.trimming import trim_to_centerline


@pytest.fixture(scope="module")
def meshed(lumen):
    centerline = extract_centerline(lumen.level_set)
    level_set = trim_to_centerline(lumen.level_set, centerline)
    ports, centerline = find_ports(level_set, centerline)
    return level_set, ports, centerline, mesh_lumen(level_set, ports, edges_across=5.0, max_tetrahedra=14_000)


def test_the_mesh_is_one_a_solver_trusts(meshed):
    _, ports, _, mesh = meshed
    quality = mesh_quality(mesh)
    assert quality.watertight
    assert quality.min_scaled_jacobian > 0.1
    assert quality.mean_scaled_jacobian > 0.55
    assert quality.min_dihedral_deg > 8
    assert quality.port_flatness_mm < 1e-9
    assert quality.tetrahedra <= 14_000
    assert set(np.unique(mesh.triangle_tags)) == {0, *(port.tag for port in ports)}


def test_ports_of_the_mesh_have_the_areas_of_the_vessel(meshed):
    _, _, _, mesh = meshed
    for port in mesh.ports:
        corners = mesh.points[mesh.triangles[mesh.triangle_tags == port.tag]]
        area = (
            0.5 * np.linalg.norm(np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]), axis=1).sum()
        )
        assert area == pytest.approx(port.area, rel=0.06)


def test_the_mesh_holds_the_lumens_volume(meshed, phantom):
    _, ports, _, mesh = meshed
    inside = phantom.truth_signed_distance(mesh.points)
    assert inside.max() < 0.4  # no vertex is far outside the true vessel
    # Divergence theorem on the truth would need its surface; voxels of the truth between the ports stand for it.
    field = Grid.of(phantom.truth_label, np.uint8)
    centers = field.positions_of(np.flatnonzero(field.values))
    between = np.all([(centers - port.center) @ port.normal < 0 for port in ports], axis=0)
    truth = between.sum() * np.prod(field.spacing) / 1000
    assert mesh_quality(mesh).volume_ml == pytest.approx(truth, rel=0.04)


def test_the_same_input_gives_the_same_mesh_and_a_finer_one_keeps_the_ports(meshed):
    level_set, ports, _, mesh = meshed
    again = mesh_lumen(level_set, ports, edges_across=5.0, max_tetrahedra=14_000)
    np.testing.assert_array_equal(again.points, mesh.points)
    np.testing.assert_array_equal(again.tetrahedra, mesh.tetrahedra)
    finer = mesh_lumen(level_set, ports, edges_across=5.0, max_tetrahedra=22_000)
    assert len(finer.tetrahedra) > 1.3 * len(mesh.tetrahedra)
    assert [port.name for port in finer.ports] == [port.name for port in mesh.ports]


def test_files_give_back_exactly_what_was_written(meshed, tmp_path):
    _, _, centerline, mesh = meshed
    write_lumen_mesh(mesh, tmp_path / "mesh.vtu")
    read = read_lumen_mesh(tmp_path / "mesh.vtu")
    for name in ("points", "tetrahedra", "triangles", "triangle_tags"):
        np.testing.assert_array_equal(getattr(read, name), getattr(mesh, name))
    for one, other in zip(read.ports, mesh.ports, strict=True):
        assert (one.name, one.role, one.tag, one.area) == (other.name, other.role, other.tag, other.area)
        np.testing.assert_array_equal(one.normal, other.normal)
    write_centerline(centerline, tmp_path / "centerline.vtp")
    back = read_centerline(tmp_path / "centerline.vtp")
    np.testing.assert_array_equal(back.points, centerline.points)
    np.testing.assert_array_equal(back.path_to("outlet_1"), centerline.path_to("outlet_1"))
    with pytest.raises(InputError, match="There is no"):
        read_lumen_mesh(tmp_path / "missing.vtu")
    (tmp_path / "bad.vtu").write_text("nonsense")
    with pytest.raises(InputError, match=r"bad\.vtu"):
        read_lumen_mesh(tmp_path / "bad.vtu")
    with pytest.raises(InputError, match=r"centerline\.vtp"):
        read_lumen_mesh(tmp_path / "centerline.vtp")


@settings(max_examples=25, deadline=None)
@given(
    normal=st.tuples(*[st.floats(-1, 1)] * 3).filter(lambda n: np.linalg.norm(n) > 0.2),
    offset=st.floats(-1.2, 1.2),
)
def test_a_cut_keeps_exactly_the_part_on_its_side(normal, offset):
    nodes, cells = lattice((5, 5, 5), np.ones((4, 4, 4), dtype=bool))
    points = nodes / 2.0 - 1.0
    cells = oriented(points, cells)
    values = points @ (np.array(normal) / np.linalg.norm(normal)) - offset
    parts = []
    for sign in (1.0, -1.0):
        if not (sign * values < 0).any():
            parts.append(0.0)
            continue
        kept_points, kept, on_cut = clip(points, cells, sign * values)
        parts.append(volumes(kept_points, kept).sum())
        assert (volumes(kept_points, kept) > -1e-12).all()
        heights = kept_points @ (np.array(normal) / np.linalg.norm(normal)) - offset
        assert (sign * heights < 1e-9).all()
        np.testing.assert_allclose(heights[on_cut], 0.0, atol=1e-9)
        edges = np.sort(boundary(kept)[:, [[0, 1], [1, 2], [2, 0]]].reshape(-1, 2), axis=1)
        assert (np.unique(edges, axis=0, return_counts=True)[1] % 2 == 0).all()
    assert sum(parts) == pytest.approx(8.0)


def test_a_regular_tetrahedron_is_of_quality_one():
    points = np.array([[1.0, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]])
    cell = oriented(points, np.array([[0, 1, 2, 3]]))
    assert scaled_jacobians(points, cell)[0] == pytest.approx(1.0)
    assert scaled_jacobians(points, cell[:, [1, 0, 2, 3]])[0] == pytest.approx(-1.0)


def test_skin_points_lie_on_the_skin_and_far_apart(phantom):
    points = skin_points(phantom.image, count=6)
    places = np.array(list(points.values()))
    field = Grid.of(phantom.image)
    body = Grid(body_mask(field).astype(np.float32), field.origin, field.spacing, field.direction)
    for place in places:
        around = body.sample(place + np.random.default_rng(0).normal(0, 1.5, (200, 3)))
        assert around.min() < 0.5 < around.max()
    apart = np.linalg.norm(places[:, None] - places[None], axis=2)[np.triu_indices(6, 1)]
    assert apart.min() > 20


def test_the_backdrop_of_the_phantom_is_its_bone(phantom, lumen):
    surface = anatomy_surface(phantom.image, lumen)
    assert 100 < surface.n_cells <= 30_000
    assert surface.volume == pytest.approx(4 / 3 * np.pi * 13 * 11 * 17, rel=0.15)
