"""AR files against readers that are not ours: the Khronos validator, trimesh, and USD's own checker."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import pyvista as pv
import trimesh

from viewer.colors import pressure_colors
from viewer.decimation import within_budget
from viewer.errors import InputError
from viewer.gltf import Structure, write_glb
from viewer.usdz import write_usdz

ANCHORS = {"nasion": (10.0, -80.0, 30.0), "left ear": (70.0, 5.0, 20.0)}
PHASES = 6


@pytest.fixture(scope="module")
def structures(lumen):
    z = np.asarray(lumen["pressure_mode_1"], float)
    cycle = np.array([95.0 + 12.0 * z + 20.0 * np.sin(2 * np.pi * k / PHASES) for k in range(PHASES)])
    bone = pv.Cube(center=(0, 40, 0), x_length=60, y_length=20, z_length=120).triangulate()
    return [Structure("lumen", lumen, scalars=cycle.mean(axis=0), cycle=cycle), Structure("bone", bone, opacity=0.3)]


@pytest.fixture(scope="module")
def glb(structures, tmp_path_factory):
    path = tmp_path_factory.mktemp("ar") / "case.glb"
    write_glb(path, structures, anchors=ANCHORS, period_s=0.8)
    return path


def test_anchors_are_empty_nodes_at_the_fiducials(glb, parse_glb):
    document, _ = parse_glb(glb)
    nodes = {node["name"]: node for node in document["nodes"]}
    np.testing.assert_allclose(nodes["anchor nasion"]["translation"], (0.010, 0.030, 0.080))
    assert "mesh" not in nodes["anchor left ear"]
    assert sorted(document["scenes"][0]["nodes"]) == [0, 1, 2, 3]


def test_pressure_is_an_attribute_of_the_vertices(glb, structures, parse_glb, glb_accessor):
    document, binary = parse_glb(glb)
    lumen, bone = (mesh["primitives"][0]["attributes"] for mesh in document["meshes"])
    np.testing.assert_allclose(
        glb_accessor(document, binary, lumen["_PRESSURE"])[:, 0], structures[0].scalars, rtol=1e-6
    )
    assert "_PRESSURE" not in bone


def test_colors_go_through_the_beat_and_back(glb, structures, parse_glb, glb_accessor):
    """Base and targets blended as glTF 2.0 section 3.7.2.2 says give each phase's color."""
    document, binary = parse_glb(glb)
    primitive = document["meshes"][0]["primitives"][0]
    base = glb_accessor(document, binary, primitive["attributes"]["COLOR_0"]).astype(float)
    changes = [glb_accessor(document, binary, t["COLOR_0"]).astype(float) for t in primitive["targets"]]
    sampler = document["animations"][0]["samplers"][0]
    times = glb_accessor(document, binary, sampler["input"])[:, 0]
    weights = glb_accessor(document, binary, sampler["output"]).reshape(len(times), PHASES)
    np.testing.assert_allclose(times, np.linspace(0.0, 0.8, PHASES + 1), rtol=1e-6)
    for k in (0, 2, PHASES):
        found = base + np.tensordot(weights[k], changes, axes=1)
        srgb = pressure_colors(structures[0].cycle[k % PHASES], (60.0, 140.0))
        linear = np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
        np.testing.assert_allclose(found[:, :3], linear, atol=1e-5)
        np.testing.assert_allclose(found[:, 3], 1.0)
    assert document["animations"][0]["channels"][0]["target"] == {"node": 0, "path": "weights"}


def test_trimesh_reads_the_animated_file(glb, lumen):
    scene = trimesh.load(glb)
    assert scene.geometry["lumen"].area == pytest.approx(lumen.area * 1e-6, rel=1e-4)


def test_the_khronos_validator_finds_nothing(glb):
    """Runs where node and the npm package gltf-validator are: NODE_PATH names the folder that holds it."""
    node = shutil.which("node")
    folders = [f for f in os.environ.get("NODE_PATH", "").split(os.pathsep) if f]
    if node is None or not any((Path(folder) / "gltf-validator").is_dir() for folder in folders):
        pytest.skip("needs node and the npm package gltf-validator, with NODE_PATH naming its folder")
    program = (
        "require('gltf-validator').validateBytes(new Uint8Array(require('fs').readFileSync(process.argv[1])))"
        ".then(report => console.log(JSON.stringify(report)))"
    )
    run = subprocess.run([node, "-e", program, str(glb)], capture_output=True, text=True, timeout=60, check=True)
    issues = json.loads(run.stdout)["issues"]
    assert (issues["numErrors"], issues["numWarnings"]) == (0, 0), issues["messages"][:5]


def test_a_budget_of_triangles_is_kept_and_the_vessel_with_its_values(structures):
    total = sum(one.mesh.n_cells for one in structures)
    budget = total // 3
    smaller = within_budget(structures, budget)
    assert sum(one.mesh.n_cells for one in smaller) <= budget
    lumen, small = structures[0].mesh, smaller[0].mesh
    assert small.volume == pytest.approx(lumen.volume, rel=0.01)
    z = np.asarray(small.points)[:, 2] / 60.0
    np.testing.assert_allclose(smaller[0].scalars, 95.0 + 12.0 * z, atol=0.15)
    np.testing.assert_allclose(smaller[0].cycle[1], 95.0 + 12.0 * z + 20.0 * np.sin(np.pi / 3), atol=0.15)
    assert within_budget(structures, 10 * total)[0].mesh.n_cells == lumen.n_cells
    with pytest.raises(InputError, match="too few"):
        within_budget(structures, 100)


def test_what_surrounds_the_vessel_is_thinned_first(structures):
    shell = Structure("shell", pv.Sphere(radius=90.0, theta_resolution=120, phi_resolution=120))
    lumen = structures[0]
    smaller = within_budget([lumen, shell], lumen.mesh.n_cells + 5000)
    assert smaller[0].mesh.n_cells == lumen.mesh.n_cells
    assert smaller[1].mesh.n_cells <= 5000


def test_bad_cycles_and_anchors_are_refused(structures, tmp_path):
    lumen = structures[0].mesh
    path = tmp_path / "x.glb"
    with pytest.raises(InputError, match="cycle of shape"):
        write_glb(path, [Structure("a", lumen, scalars=np.zeros(lumen.n_points) + 90, cycle=np.zeros((3, 5)))])
    with pytest.raises(InputError, match="anchor f is not finite"):
        write_glb(path, [structures[1]], anchors={"f": (np.nan, 0, 0)})
    with pytest.raises(InputError, match="a beat of 0 s"):
        write_glb(path, structures, period_s=0.0)
    assert not path.exists()


@pytest.fixture(scope="module")
def usdz(structures, tmp_path_factory):
    path = tmp_path_factory.mktemp("ar") / "case.usdz"
    write_usdz(path, structures, anchors=ANCHORS, period_s=0.8)
    return path


def test_usds_own_checker_finds_nothing(usdz):
    """What `usdchecker` runs: all validators from USD 25 on, the compliance checker with ARKit's rules before."""
    from pxr import Usd, UsdUtils

    if hasattr(UsdUtils, "ComplianceChecker"):
        checker = UsdUtils.ComplianceChecker(arkit=True)
        checker.CheckCompliance(str(usdz))
        assert not [*checker.GetErrors(), *checker.GetFailedChecks(), *checker.GetWarnings()]
        return
    from pxr import UsdValidation

    validators = UsdValidation.ValidationRegistry().GetOrLoadAllValidators()
    assert any("UsdzPackage" in v.GetMetadata().name for v in validators)
    found = UsdValidation.ValidationContext(validators).Validate(Usd.Stage.Open(str(usdz)))
    assert [error.GetErrorAsString() for error in found] == []


def test_usdz_is_in_metres_with_names_and_a_beat(usdz, structures):
    from pxr import Usd, UsdGeom

    stage = Usd.Stage.Open(str(usdz))
    assert UsdGeom.GetStageMetersPerUnit(stage) == 1.0
    assert UsdGeom.GetStageUpAxis(stage) == "Y"
    mesh = UsdGeom.Mesh(stage.GetPrimAtPath("/surgical_twin/lumen"))
    points = np.array(mesh.GetPointsAttr().Get())
    lumen = structures[0].mesh.points
    np.testing.assert_allclose(points, np.column_stack([lumen[:, 0], lumen[:, 2], -lumen[:, 1]]) * 0.001, atol=1e-7)
    pressure = UsdGeom.PrimvarsAPI(mesh).GetPrimvar("pressure")
    np.testing.assert_allclose(pressure.Get(0.8 * 24.0 * 2 / PHASES), structures[0].cycle[2], rtol=1e-5)
    anchor = UsdGeom.Xformable(stage.GetPrimAtPath("/surgical_twin/anchor_left_ear"))
    place = anchor.ComputeLocalToWorldTransform(Usd.TimeCode.Default()).ExtractTranslation()
    np.testing.assert_allclose(place, (0.070, 0.020, -0.005))
    assert stage.GetEndTimeCode() == pytest.approx(19.2)
