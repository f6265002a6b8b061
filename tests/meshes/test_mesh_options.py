"""What a mesh can have besides: layers at the wall, finer places, flow extensions; loops; and other formats."""

import numpy as np
import pytest

from meshes.clipping import volumes
from meshes.errors import InputError
from meshes.exchange import export_mesh, import_mesh
from meshes.extensions import extended
from meshes.mending import scaled_jacobians
from meshes.own_centerline import read_own_centerline
from meshes.picture import write_mesh_picture
from meshes.ports import find_ports
from meshes.quality import mesh_quality
from meshes.sizing import Refinement
from meshes.tetrahedra import mesh_lumen
from meshes.tracing import extract_centerline


@pytest.fixture(scope="module")
def vessel(y_shape, analytic):
    """The Y on voxels of 1 mm."""
    grid_points, image_of, capsule = analytic
    _, fork, ends, radii = y_shape
    shape, spacing = (48, 24, 68), np.ones(3)
    points = grid_points(shape, spacing)
    level_set = image_of(
        np.min([capsule(points, fork, ends[name], radii[name]) for name in ends], axis=0), shape, spacing
    )
    ports, centerline = find_ports(level_set, extract_centerline(level_set))
    return level_set, ports, centerline, mesh_lumen(level_set, ports, edges_across=4.0, max_tetrahedra=15_000)


def test_edges_are_short_where_that_is_asked_for(vessel, y_shape):
    level_set, ports, _, plain = vessel
    place = 0.5 * (y_shape[1] + y_shape[2]["parent"])
    asked = Refinement(place[None], np.array([3.0]), np.array([0.6]))
    finer = mesh_lumen(level_set, ports, edges_across=4.0, max_tetrahedra=40_000, finer=[asked])

    def edge(mesh, reach):
        middles = mesh.points[mesh.tetrahedra].mean(axis=1)
        near = np.linalg.norm(middles - place, axis=1) < reach
        return np.cbrt(8.5 * np.median(volumes(mesh.points, mesh.tetrahedra[near])))

    assert edge(plain, 3.0) > 1.2
    assert edge(finer, 3.0) < 0.85
    assert mesh_quality(finer).min_dihedral_deg > 8


def test_layers_follow_the_wall_and_keep_the_lumen(vessel):
    level_set, ports, _, plain = vessel
    layered = mesh_lumen(level_set, ports, edges_across=4.0, max_tetrahedra=15_000, wall_layers=2, wall_share=0.25)
    quality, before = mesh_quality(layered), mesh_quality(plain)
    assert quality.watertight
    assert quality.min_scaled_jacobian > 0.0
    assert quality.port_flatness_mm < 1e-6 * min(port.radius for port in ports)
    # Flat triangles, four edges across.
    assert quality.volume_ml == pytest.approx(before.volume_ml, rel=0.03)
    assert set(np.unique(layered.triangle_tags)) == {0, 1, 2, 3}
    for port in layered.ports:
        corners = layered.points[layered.triangles[layered.triangle_tags == port.tag]]
        area = np.linalg.norm(np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]), axis=1).sum() / 2
        assert area == pytest.approx(port.area, rel=0.06)
    # At the wall elements are thinner than they are wide: two layers within a quarter of the radius.
    wall = np.unique(layered.triangles[layered.triangle_tags == 0])
    at_wall = np.isin(layered.tetrahedra, wall).sum(axis=1) == 3
    heights = 3 * volumes(layered.points, layered.tetrahedra[at_wall])
    assert len(heights) > 500
    assert (scaled_jacobians(layered.points, layered.tetrahedra) > 0).all()


def test_extensions_lead_the_ports_sections_straight_on(vessel):
    level_set, ports, _, plain = vessel
    longer, moved = extended(level_set, ports, 3.0)
    for port, after in zip(ports, moved, strict=True):
        np.testing.assert_allclose(after.center, port.center + 3.0 * port.radius * port.normal)
    mesh = mesh_lumen(longer, moved, edges_across=4.0, max_tetrahedra=25_000)
    added = sum(3.0 * port.radius * port.area for port in ports) / 1000
    assert mesh_quality(mesh).volume_ml == pytest.approx(mesh_quality(plain).volume_ml + added, rel=0.02)


def test_a_ring_between_two_ends_is_one_loop_without_ports(analytic):
    """A vessel that divides and joins again: no port halfway around."""
    grid_points, image_of, capsule = analytic
    shape, spacing = (54, 18, 80), np.ones(3)
    points = grid_points(shape, spacing)
    center = np.array([27.0, 9.0, 39.0])
    flat = points - center
    ring = np.hypot(np.hypot(flat[:, 0], flat[:, 2]) - 16.0, flat[:, 1]) - 2.5
    trunk = capsule(points, center + [0, 0, 16.0], center + [0, 0, 33.0], 3.2)
    leg = capsule(points, center - [0, 0, 16.0], center - [0, 0, 33.0], 3.0)
    level_set = image_of(np.minimum(np.minimum(ring, trunk), leg), shape, spacing)
    centerline = extract_centerline(level_set)
    assert sum(branch.closes_loop for branch in centerline.branches) == 1
    assert any("1 loops" in note for note in centerline.notes)
    ports, _ = find_ports(level_set, centerline)
    assert len(ports) == 2
    mesh = mesh_lumen(level_set, ports, edges_across=4.0, max_tetrahedra=20_000)
    assert mesh_quality(mesh).handles == 1
    assert mesh_quality(mesh).watertight


@pytest.mark.parametrize("ending", ["mesh", "msh", "xdmf", "vtu", "vtk"])
def test_other_formats_give_back_the_mesh(vessel, tmp_path, ending):
    mesh = vessel[3]
    export_mesh(mesh, tmp_path / f"mesh.{ending}")
    back = import_mesh(tmp_path / f"mesh.{ending}")
    np.testing.assert_allclose(back.points, mesh.points, rtol=1e-12, atol=1e-12)
    assert sorted(map(sorted, back.tetrahedra.tolist())) == sorted(map(sorted, mesh.tetrahedra.tolist()))
    np.testing.assert_array_equal(np.bincount(back.triangle_tags), np.bincount(mesh.triangle_tags))
    for one, other in zip(back.ports, mesh.ports, strict=True):
        assert (one.tag, one.role) == (other.tag, other.role)
        assert one.normal @ other.normal > 0.999999
        assert abs((one.center - other.center) @ other.normal) < 1e-6
        assert one.radius == pytest.approx(other.radius, rel=0.03)


def test_what_is_no_mesh_is_named(vessel, tmp_path):
    with pytest.raises(InputError, match="names no format"):
        export_mesh(vessel[3], tmp_path / "mesh.doc")
    with pytest.raises(InputError, match="does not exist"):
        export_mesh(vessel[3], tmp_path / "nowhere" / "mesh.vtu")
    (tmp_path / "bad.mesh").write_text("MeshVersionFormatted 2\nnonsense")
    with pytest.raises(InputError, match=r"bad\.mesh"):
        import_mesh(tmp_path / "bad.mesh")


def test_the_meshs_picture_is_written(vessel, tmp_path):
    write_mesh_picture(vessel[3], tmp_path / "mesh.png")
    assert (tmp_path / "mesh.png").stat().st_size > 20_000
    assert [path.name for path in tmp_path.iterdir()] == ["mesh.png"]


def test_a_published_centerline_is_followed(real_data):
    """VMTK's own lines of its aorta: RAS, both from the inlet; 77.8 and 76.2 mm long, radius 2.8 to 7.6 mm."""
    import SimpleITK as sitk

    from meshes.external import read_lumen

    image = sitk.ReadImage(str(real_data("vmtk_aorta", "input", "aorta.mha")))
    lumen = read_lumen(real_data("vmtk_aorta", "input", "aorta-surface.vtp"), image)
    line = read_own_centerline(real_data("vmtk_aorta", "input", "aorta-centerline.vtp"), lumen.level_set)
    assert [branch.parent for branch in line.branches] == [None, 0, 0]
    trunk, *children = [line.arc_length[branch.point_ids[-1]] for branch in line.branches]
    assert sorted(trunk + child for child in children) == pytest.approx([76.156, 77.812], abs=1.5)
    assert line.radius.max() == pytest.approx(7.58, abs=0.05)
