import matplotlib
import numpy as np
import pytest
import pyvista as pv
import trimesh

from viewer.errors import InputError
from viewer.gltf import GLTF_FROM_LPS, Structure, write_glb


@pytest.fixture
def written(tmp_path, lumen):
    pressure = 95.0 + 12.0 * np.asarray(lumen["pressure_mode_1"], float)
    bone = pv.Cube(center=(0, 40, 0), x_length=60, y_length=20, z_length=120)
    path = tmp_path / "case.glb"
    write_glb(
        path,
        [Structure("lumen", lumen, scalars=pressure), Structure("bone", bone, color="#d9cfb8", opacity=0.3)],
    )
    return path, lumen, pressure


def test_positions_are_in_metres_and_the_head_is_up(written, parse_glb, glb_accessor):
    path, lumen, _ = written
    document, binary = parse_glb(path)
    attributes = document["meshes"][0]["primitives"][0]["attributes"]
    points = glb_accessor(document, binary, attributes["POSITION"])
    expected = np.column_stack([lumen.points[:, 0], lumen.points[:, 2], -lumen.points[:, 1]]) * 0.001
    np.testing.assert_allclose(points, expected, atol=1e-8)
    entry = document["accessors"][attributes["POSITION"]]
    np.testing.assert_array_equal(np.float32(entry["min"]), points.min(axis=0))
    np.testing.assert_array_equal(np.float32(entry["max"]), points.max(axis=0))
    assert np.linalg.det(GLTF_FROM_LPS[:3, :3]) == pytest.approx(1e-9)  # a rotation, not a mirror


def test_normals_are_unit_and_point_out_of_the_vessel(written, parse_glb, glb_accessor):
    path, _, _ = written
    document, binary = parse_glb(path)
    primitive = document["meshes"][0]["primitives"][0]
    points = glb_accessor(document, binary, primitive["attributes"]["POSITION"]).astype(float)
    normals = glb_accessor(document, binary, primitive["attributes"]["NORMAL"])
    np.testing.assert_allclose(np.linalg.norm(normals, axis=1), 1.0, atol=1e-5)
    triangles = glb_accessor(document, binary, primitive["indices"]).reshape(-1, 3).astype(int)
    a, b, c = (points[triangles[:, i]] for i in range(3))
    faces = np.cross(b - a, c - a)
    assert np.einsum("ij,ij->", a, faces) > 0.0  # enclosed volume is positive: the triangles wind outward
    area = np.linalg.norm(faces, axis=1)
    agreement = np.einsum("ij,ij->i", normals[triangles[:, 0]], faces)[area > 1e-12] / area[area > 1e-12]
    assert np.quantile(agreement, 0.02) > 0.3


def test_vertex_colors_are_the_map_in_linear_light(written, parse_glb, glb_accessor):
    path, _, pressure = written
    document, binary = parse_glb(path)
    found = glb_accessor(document, binary, document["meshes"][0]["primitives"][0]["attributes"]["COLOR_0"])
    srgb = matplotlib.colormaps["viridis"](0.1 + 0.9 * (pressure - 60.0) / 80.0)[:, :3]
    back = np.where(found[:, :3] <= 0.0031308, 12.92 * found[:, :3], 1.055 * found[:, :3] ** (1 / 2.4) - 0.055)
    np.testing.assert_allclose(back, srgb, atol=0.01)
    np.testing.assert_array_equal(found[:, 3], 1.0)
    for material in document["materials"]:
        assert material["pbrMetallicRoughness"]["baseColorFactor"] == [1, 1, 1, 1]


def test_nodes_are_named_and_see_through_ones_are_blended(written, parse_glb, glb_accessor):
    document, binary = parse_glb(written[0])
    assert [node["name"] for node in document["nodes"]] == ["lumen", "bone"]
    assert document["scenes"][0]["nodes"] == [0, 1]
    lumen, bone = document["materials"]
    assert (lumen["alphaMode"], bone["alphaMode"]) == ("OPAQUE", "BLEND")
    assert lumen["doubleSided"]
    assert bone["doubleSided"]
    alpha = glb_accessor(document, binary, document["meshes"][1]["primitives"][0]["attributes"]["COLOR_0"])[:, 3]
    np.testing.assert_allclose(alpha, 0.3)


def test_trimesh_reads_the_same_model(written):
    path, lumen, _ = written
    scene = trimesh.load(path)
    assert set(scene.graph.nodes_geometry) == {"lumen", "bone"}
    assert scene.units in (None, "m", "meter", "meters")
    low, high = scene.geometry["lumen"].bounds
    bounds = np.array(lumen.bounds).reshape(3, 2) * 0.001
    np.testing.assert_allclose(low, [bounds[0, 0], bounds[2, 0], -bounds[1, 1]], atol=1e-6)
    np.testing.assert_allclose(high, [bounds[0, 1], bounds[2, 1], -bounds[1, 0]], atol=1e-6)
    assert scene.geometry["lumen"].area == pytest.approx(lumen.area * 1e-6, rel=1e-4)
    assert scene.geometry["bone"].volume == pytest.approx(0.06 * 0.02 * 0.12, rel=1e-4)


def test_origin_moves_the_model_and_is_told(tmp_path, lumen, parse_glb, glb_accessor):
    path = tmp_path / "centered.glb"
    center = np.array(lumen.center)
    write_glb(path, [Structure("lumen", lumen)], origin=center)
    document, binary = parse_glb(path)
    points = glb_accessor(document, binary, 0)
    np.testing.assert_allclose(points.min(axis=0) + points.max(axis=0), 0.0, atol=1e-6)
    assert document["asset"]["extras"]["origin_lps_mm"] == pytest.approx(list(center))


def test_the_same_input_gives_the_same_bytes(tmp_path, lumen):
    for name in ("a.glb", "b.glb"):
        write_glb(tmp_path / name, [Structure("lumen", lumen)])
    assert (tmp_path / "a.glb").read_bytes() == (tmp_path / "b.glb").read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.glb", "b.glb"]


def test_what_cannot_be_exported_is_refused(tmp_path, lumen):
    glb = tmp_path / "x.glb"
    with pytest.raises(InputError, match=r"end in \.glb"):
        write_glb(tmp_path / "x.gltf", [Structure("lumen", lumen)])
    with pytest.raises(InputError, match="does not exist"):
        write_glb(tmp_path / "nowhere" / "x.glb", [Structure("lumen", lumen)])
    with pytest.raises(InputError, match="no structure"):
        write_glb(glb, [])
    with pytest.raises(InputError, match="twice"):
        write_glb(glb, [Structure("a", lumen), Structure("a", lumen)])
    with pytest.raises(InputError, match="empty"):
        write_glb(glb, [Structure("a", pv.PolyData())])
    with pytest.raises(InputError, match="scalars of shape"):
        write_glb(glb, [Structure("a", lumen, scalars=[1.0, 2.0])])
    with pytest.raises(InputError, match="not finite"):
        write_glb(glb, [Structure("a", lumen, scalars=np.full(lumen.n_points, np.nan))])
    with pytest.raises(InputError, match="opacity"):
        write_glb(glb, [Structure("a", lumen, opacity=0.0)])
    with pytest.raises(InputError, match="empty; give the lower"):
        write_glb(glb, [Structure("a", lumen)], limits=(100, 100))
    assert not glb.exists()
