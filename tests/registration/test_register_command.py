"""Each ``register`` command as a user runs it: files in, a transform with its verdict out, bad input named."""

import re
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import pyvista
import SimpleITK as sitk
from scipy.ndimage import gaussian_filter
from scipy.spatial.transform import Rotation

from registration.camera import PinholeCamera
from registration.projection.carm import Attenuation, carm_camera, radiograph
from registration.rigid import apply_to_points, rotation_angle
from surgical_twin.case import CENTERLINE, CENTERLINE_TABLE, FIDUCIALS, SURFACE, Case, write_table

DATA = Path(__file__).parents[3] / "shared/data"
PLUS = DATA / "plus_tracked_sequences"
POINTS = np.array([[0, 0, 0], [90, 5, 10], [20, 70, -15], [60, 40, 55], [10, -30, 40], [-25, 30, 35.0]])
NAMES = "ABCDEF"
TURN = Rotation.from_rotvec((0.4, -0.8, 0.3)).as_matrix()
TRACKER_FROM_IMAGE = np.block([[TURN, np.array([[100.0], [-50.0], [20.0]])], [np.zeros((1, 3)), np.ones((1, 1))]])


def needed(path):
    if not path.exists():
        pytest.skip(f"the data are not at {path}")
    return path


def moved(points, rng=None, noise=0.2):
    error = 0.0 if rng is None else rng.normal(size=points.shape) * noise
    return apply_to_points(TRACKER_FROM_IMAGE, points) + error


def miss(found, points):
    """RMS distance in mm by which image_from_tracker misses these image points."""
    away = apply_to_points(np.array(found) @ TRACKER_FROM_IMAGE, points) - points
    return float(np.sqrt(np.mean(np.sum(away**2, axis=1))))


@pytest.fixture
def points(table):
    def write(name, rows, names=NAMES):
        return table(name, rows, names=names[: len(rows)], head="name,x,y,z")

    return write


# Landmarks


def test_landmarks_by_name_pass_with_a_picture(terminal, points):
    order = [3, 1, 5, 0, 2, 4]
    touched = points("touched.csv", moved(POINTS, np.random.default_rng(0))[order], "DBFACE")
    assert terminal.run("register", "landmarks", touched, "--target", points("target.csv", POINTS)) == 0
    assert "PASS: error (95 %)" in terminal.said
    result = terminal.result("landmarks")
    assert result["verdict"] == "pass"
    assert set(result["residuals_mm"]) == set(NAMES)
    assert miss(result["image_from_tracker"], POINTS.mean(axis=0, keepdims=True)) < result["error_95_mm"]
    assert (terminal.case / "registration/landmarks.png").stat().st_size > 1000
    # 3D Slicer's transform files lead from the target to the source.
    stored = sitk.ReadTransform(str(terminal.case / "registration/landmarks.tfm"))
    there = np.array([stored.TransformPoint(p.tolist()) for p in POINTS])
    np.testing.assert_allclose(apply_to_points(np.array(result["image_from_tracker"]), there), POINTS, atol=1e-6)


def test_landmarks_judge_the_error_where_it_counts_by_the_limits_of_the_case(terminal, points):
    opened = Case.open(terminal.case)
    opened.manifest["registration"] = {"landmarks": {"check_mm": 1.0, "fail_mm": 2.0}}
    opened.save()
    write_table(opened.path(FIDUCIALS), ("name", "x", "y", "z"), [(n, *p) for n, p in zip(NAMES, POINTS, strict=True)])
    touched = points("touched.csv", moved(POINTS, np.random.default_rng(0)))
    assert terminal.run("register", "landmarks", touched) == 0
    near = terminal.result("landmarks")["error_95_mm"]
    assert terminal.run("register", "landmarks", touched, "--at", "900,0,0") == 1  # far from all fiducials
    assert "FAIL: error (95 %)" in terminal.said
    assert terminal.result("landmarks")["error_95_mm"] > 5 * near


def test_landmarks_name_swapped_labels_and_find_the_order_of_unnamed_points(terminal, points, table):
    target = points("target.csv", POINTS)
    touched = points("touched.csv", moved(POINTS, np.random.default_rng(0)), "BACDEF")
    terminal.run("register", "landmarks", touched, "--target", target)
    assert "look swapped" in terminal.result("landmarks")["warnings"][0]
    assert terminal.run("register", "landmarks", touched, "--target", target, "--unordered") == 0
    assert miss(terminal.result("landmarks")["image_from_tracker"], POINTS) < 0.5


def test_landmarks_read_what_slicer_writes(terminal, tmp_path, points):
    ras = moved(POINTS) * (-1, -1, 1)
    head = "# Markups fiducial file version = 4.11\n# CoordinateSystem = RAS\n# columns = "
    head += "id,x,y,z,ow,ox,oy,oz,vis,sel,lock,label,desc,associatedNodeID\n"
    rows = "".join(
        f"{k},{x},{y},{z},0,0,0,1,1,1,0,{n},,\n" for k, (n, (x, y, z)) in enumerate(zip(NAMES, ras, strict=True))
    )
    (tmp_path / "touched.fcsv").write_text(head + rows)
    target = points("target.csv", POINTS)
    assert terminal.run("register", "landmarks", tmp_path / "touched.fcsv", "--target", target, "--fle", "0.3") == 0
    assert miss(terminal.result("landmarks")["image_from_tracker"], POINTS) < 1e-6


def test_landmarks_that_fit_exactly_are_no_proof(terminal, points):
    target = points("target.csv", POINTS)
    assert terminal.run("register", "landmarks", target, "--target", target) == 0
    assert terminal.result("landmarks")["verdict"] == "check"
    assert "as measured ones never do" in terminal.said


def test_landmarks_of_a_phantom_are_read_from_the_configuration_of_plus(terminal, table, tmp_path):
    config = needed(PLUS / "PlusDeviceSet_fCal_Sim_RecordPhantomLandmarks.xml")
    marks = {m.get("Name"): m.get("Position").split() for m in ElementTree.parse(config).iter("Landmark")}
    touched = table("t.csv", moved(np.array(list(marks.values()), float)))  # paired in their order
    assert terminal.run("register", "landmarks", touched, "--target", config, "--fle", "0.3") == 0
    assert set(terminal.result("landmarks")["residuals_mm"]) == set(marks)
    (tmp_path / "none.xml").write_text("<PlusConfiguration/>")
    assert "no phantom" in terminal.refused("register", "landmarks", touched, "--target", tmp_path / "none.xml")
    (tmp_path / "cut.xml").write_text("<PlusConfiguration>")
    assert "no PLUS" in terminal.refused("register", "landmarks", touched, "--target", tmp_path / "cut.xml")


def test_landmarks_refuse_what_cannot_be_used(terminal, points, table, tmp_path):
    target = points("target.csv", POINTS)
    few = points("few.csv", POINTS[:2])
    assert "only 2 fiducial pairs" in terminal.refused("register", "landmarks", few, "--target", few)
    broken = tmp_path / "broken.csv"
    broken.write_text("name,x,y,z\nA,1,2,3\nB,1,two,3\n")
    assert "line 3" in terminal.refused("register", "landmarks", broken, "--target", target)
    strange = points("strange.csv", POINTS, "ABCDEX")
    assert "'X'" in terminal.refused("register", "landmarks", strange, "--target", target)
    twice = points("twice.csv", POINTS, "AACDEF")
    assert "two points of the name 'A'" in terminal.refused("register", "landmarks", twice, "--target", target)
    line = points("line.csv", np.outer(np.arange(6.0), (10, 20, 5)))
    assert "line" in terminal.refused("register", "landmarks", line, "--target", line)
    assert "no fiducials.csv" in terminal.refused("register", "landmarks", target)
    said = terminal.refused("register", "landmarks", target, "--target", target, "--at", "1,2")
    assert "--at" in said
    nan = points("nan.csv", np.where(np.arange(18).reshape(6, 3) == 4, np.nan, POINTS))
    assert "line 3" in terminal.refused("register", "landmarks", nan, "--target", target)


def test_landmarks_of_which_both_files_are_in_meters_do_not_pass(terminal, points):
    touched = points("touched.csv", moved(POINTS, np.random.default_rng(0)) / 1000.0)
    assert terminal.run("register", "landmarks", touched, "--target", points("target.csv", POINTS / 1000.0)) == 0
    assert terminal.result("landmarks")["verdict"] == "check"
    assert "are the files in meters?" in terminal.said


def test_a_point_that_is_none_a_crowd_and_a_folder_that_is_a_file_are_refused(terminal, points, table):
    target = points("target.csv", POINTS)
    words = ("register", "landmarks", target, "--target", target)
    assert '--at "nan,0,0" is not X,Y,Z' in terminal.refused(*words, "--at", "nan,0,0")
    crowd = table("crowd.csv", np.random.default_rng(0).uniform(-90, 90, (200, 3)))
    said = terminal.refused("register", "landmarks", crowd, "--target", crowd, "--unordered")
    assert "has 200 points" in said
    assert "up to 50" in said
    (terminal.case / "registration").write_text("a file")
    assert terminal.run(*words) == 2
    assert "registration cannot be written to" in terminal.complained
    assert (terminal.case / "registration").read_text() == "a file"


def test_limits_of_a_case_that_mean_nothing_are_refused(terminal, points):
    target = points("target.csv", POINTS)
    opened = Case.open(terminal.case)
    for wrong in ({"check_mm": 5.0, "fail_mm": 2.0}, {"check_mm": "two"}, 3):
        opened.manifest["registration"] = {"landmarks": wrong}
        opened.save()
        assert "registration.landmarks" in terminal.refused("register", "landmarks", target, "--target", target)


# Surface


def test_surface_of_a_vessel_model_from_touched_points(terminal, table):
    mesh = needed(PLUS / "SimulatedUltrasound_NeedleModel_NeedleTip.stl")
    rng = np.random.default_rng(1)
    model = pyvista.read(mesh).triangulate()
    corners = model.points[model.faces.reshape(-1, 4)[:, 1:]]
    areas = 0.5 * np.linalg.norm(np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]), axis=1)
    chosen = rng.choice(len(corners), 400, p=areas / areas.sum())
    places = np.einsum("nk,nkj->nj", rng.dirichlet(np.ones(3), 400), corners[chosen])
    touched = table("touched.csv", moved(places, rng, 0.05))
    terminal.run("register", "surface", touched, "--mesh", mesh, "--noise", "0.1")
    result = terminal.result("surface")
    assert result["rms_mm"] < 0.15
    assert result["not_held"]  # a needle turns about its own axis
    assert result["verdict"] != "pass"


@pytest.fixture(scope="session")
def bent_body():
    """A surface without any symmetry, about 80 mm wide."""
    sphere = pyvista.Icosphere(radius=40.0, nsub=4)
    p = sphere.points
    p = p * (1 + 0.25 * np.sin(p[:, :1] / 15) + 0.2 * np.cos(p[:, 1:2] / 11 + 1)) * (1.3, 1.0, 0.7)
    return pyvista.PolyData(p, sphere.faces)


def test_surface_is_found_from_any_start_and_from_a_given_one(terminal, table, bent_body, points):
    rng = np.random.default_rng(2)
    bent_body.save(terminal.case / SURFACE)
    touched = table("touched.csv", moved(bent_body.points[rng.choice(bent_body.n_points, 300)], rng, 0.3))
    assert terminal.run("register", "surface", touched) == 0, terminal.said
    result = terminal.result("surface")
    assert miss(result["image_from_tracker"], bent_body.points) < 0.4
    assert np.linalg.eigvalsh(result["covariance"]).min() > 0.0
    start = terminal.case / "registration/surface.json"
    assert terminal.run("register", "surface", touched, "--start", start) == 0
    slicer = terminal.case / "registration/surface.tfm"
    kept = slicer.rename(terminal.case.parent / "start.tfm")
    assert terminal.run("register", "surface", touched, "--start", kept) == 0
    assert terminal.result("surface")["starts"] < result["starts"]
    assert miss(terminal.result("surface")["image_from_tracker"], bent_body.points) < 0.4


def test_surface_refuses_what_cannot_be_used(terminal, table, tmp_path, bent_body):
    touched = table("touched.csv", POINTS)
    assert "no surface.vtp" in terminal.refused("register", "surface", touched)
    assert "is not there" in terminal.refused("register", "surface", touched, "--mesh", tmp_path / "no.stl")
    text = tmp_path / "text.stl"
    text.write_text("no triangles here")
    assert "text.stl" in terminal.refused("register", "surface", touched, "--mesh", text)
    image = tmp_path / "scan.vti"
    pyvista.ImageData(dimensions=(9, 9, 9)).save(image)
    assert "is an image, not a surface" in terminal.refused("register", "surface", touched, "--mesh", image)
    no_markups = tmp_path / "none.mrk.json"
    no_markups.write_text('{"markups": []}')
    assert "holds no markups" in terminal.refused("register", "surface", no_markups, "--mesh", image)
    mesh = tmp_path / "body.ply"
    bent_body.save(mesh)
    assert "points" in terminal.refused("register", "surface", table("few.csv", POINTS[:3]), "--mesh", mesh)
    meters = table("meters.csv", np.asarray(bent_body.points)[::40] / 1000.0)
    assert "one of them is not in mm" in terminal.refused("register", "surface", meters, "--mesh", mesh)
    assert "no registration's result" in terminal.refused(
        "register", "surface", touched, "--mesh", mesh, "--start", touched
    )
    failed = tmp_path / "failed.json"
    failed.write_text('{"image_from_tracker": [[1]], "verdict": "fail", "reason": "too far"}')
    said = terminal.refused("register", "surface", touched, "--mesh", mesh, "--start", failed)
    assert "failed (too far)" in said


def test_touched_points_in_centimeters_are_asked_for(terminal, table, bent_body):
    bent_body.save(terminal.case / SURFACE)
    rng = np.random.default_rng(2)
    touched = moved(bent_body.points[rng.choice(bent_body.n_points, 200)], rng, 0.3)
    terminal.run("register", "surface", table("cm.csv", touched / 10.0))
    assert terminal.result("surface")["verdict"] != "pass"
    assert "are both in mm?" in terminal.said
    assert "is a folder" in terminal.refused("register", "surface", table("t.csv", touched), "--mesh", terminal.case)


# Images


def test_image_shift_of_a_real_slice(terminal):
    folder = needed(DATA / "itk_course_multimodal")
    fixed, shifted = folder / "BrainProtonDensitySliceBorder20.png", folder / "BrainProtonDensitySliceShifted13x17y.png"
    assert terminal.run("register", "image", shifted, "--fixed", fixed, "--kind", "translation") == 0
    result = terminal.result("image")
    np.testing.assert_allclose(np.array(result["moving_from_fixed"])[:2, 2], (13.0, 17.0), atol=0.05)
    laid = sitk.GetArrayFromImage(sitk.ReadImage(str(terminal.case / "registration/image_on_fixed.nrrd"))).astype(float)
    base = sitk.GetArrayFromImage(sitk.ReadImage(str(fixed))).astype(float)
    inner = np.s_[40:-40, 40:-40]
    assert np.corrcoef(laid[inner].ravel(), base[inner].ravel())[0, 1] > 0.99
    transform = sitk.ReadTransform(str(terminal.case / "registration/image.tfm"))
    np.testing.assert_allclose(transform.TransformPoint((50.0, 60.0)), (63.0, 77.0), atol=0.05)


def lumpy(size=32, spacing=5.0):
    rng = np.random.default_rng(0)
    z, y, x = (np.indices((size, size, size)) - size / 2) * spacing
    values = 60.0 * ((x / 62) ** 2 + (y / 52) ** 2 + (z / 58) ** 2 < 1)
    for _ in range(12):
        c, r = rng.uniform(-32, 32, 3), rng.uniform(8, 18, 3)
        ellipsoid = ((x - c[0]) / r[0]) ** 2 + ((y - c[1]) / r[1]) ** 2 + ((z - c[2]) / r[2]) ** 2 < 1
        values[ellipsoid] = rng.uniform(80, 255)
    image = sitk.GetImageFromArray(gaussian_filter(values, 0.8).astype(np.float32))
    image.SetSpacing([spacing] * 3)
    return image


def test_image_bent_and_started_from_landmarks(terminal, tmp_path, points):
    fixed = lumpy()
    true = sitk.Euler3DTransform((80.0, 80.0, 80.0), 0.1, -0.05, 0.3, (12.0, -9.0, 7.0))
    moving = sitk.Resample(fixed, true)
    sitk.WriteImage(fixed, str(tmp_path / "fixed.nrrd"))
    sitk.WriteImage(moving, str(tmp_path / "moving.nii.gz"))
    # What lies at x in the moving image lies at T(x) in the fixed one.
    seen = (POINTS - POINTS.mean(axis=0)) * 0.5 + 80.0
    there = np.array([true.TransformPoint(p.tolist()) for p in seen])
    fixed_points, moving_points = points("f.csv", there), points("m.csv", seen)
    words = (tmp_path / "moving.nii.gz", "--fixed", tmp_path / "fixed.nrrd", "--kind", "demons")
    code = terminal.run("register", "image", *words, "--fixed-points", fixed_points, "--moving-points", moving_points)
    result = terminal.result("image")
    assert code == 0, terminal.said
    assert result["jacobian"][0] > 0.0
    assert np.mean(list(result["landmark_errors_mm"].values())) < 1.5  # voxels of 5 mm
    assert (terminal.case / "registration/image.h5").is_file()


def test_image_refuses_what_cannot_be_used(terminal, tmp_path, points):
    sitk.WriteImage(lumpy(16, 10.0), str(tmp_path / "a.nrrd"))
    text = tmp_path / "text.nrrd"
    text.write_text("no image")
    words = ("--fixed", tmp_path / "a.nrrd")
    assert "cannot be read as an image" in terminal.refused("register", "image", text, *words)
    assert "no image.nrrd" in terminal.refused("register", "image", tmp_path / "a.nrrd")
    said = terminal.refused("register", "image", tmp_path / "a.nrrd", *words, "--kind", "magic")
    assert "demons" in said
    one = points("p.csv", POINTS)
    said = terminal.refused("register", "image", tmp_path / "a.nrrd", *words, "--fixed-points", one)
    assert "both --fixed-points and --moving-points" in said
    sitk.WriteImage(lumpy(16, 10.0)[:, :, 8], str(tmp_path / "slice.nrrd"))
    assert "fixed image is 3D and the moving one 2D" in terminal.refused(
        "register", "image", tmp_path / "slice.nrrd", *words
    )
    sitk.WriteImage(sitk.Image([16, 16, 16], sitk.sitkFloat32), str(tmp_path / "flat.nrrd"))
    assert "same value everywhere" in terminal.refused("register", "image", tmp_path / "flat.nrrd", *words)


def test_images_of_more_than_one_volume_of_other_units_or_mirrored_are_refused(terminal, tmp_path, head_ct):
    ct = head_ct(24, 6.0)
    fixed = tmp_path / "fixed.nrrd"
    sitk.WriteImage(ct, str(fixed))
    sitk.WriteImage(sitk.JoinSeries([ct, ct]), str(tmp_path / "series.nrrd"))
    said = terminal.refused("register", "image", tmp_path / "series.nrrd", "--fixed", fixed)
    assert "4 dimensions; save one volume" in said
    mirror = tmp_path / "mirror.tfm"
    sitk.WriteTransform(sitk.AffineTransform([-1, 0, 0, 0, 1, 0, 0, 0, 1.0], [0, 0, 0]), str(mirror))
    said = terminal.refused("register", "image", fixed, "--fixed", fixed, "--start", mirror)
    assert "the start mirrors the image" in said
    ct.SetSpacing((0.006,) * 3)
    sitk.WriteImage(ct, str(tmp_path / "meters.nrrd"))
    said = terminal.refused("register", "image", tmp_path / "meters.nrrd", "--fixed", fixed)
    assert "144 mm wide and the moving one 0.144 mm" in said


def test_images_that_do_not_overlap_are_named(terminal, tmp_path, points):
    fixed = lumpy(24, 6.0)
    sitk.WriteImage(fixed, str(tmp_path / "fixed.nrrd"))
    fixed.SetOrigin((5000.0, 0.0, 0.0))
    sitk.WriteImage(fixed, str(tmp_path / "far.nrrd"))
    words = (tmp_path / "far.nrrd", "--fixed", tmp_path / "fixed.nrrd")
    assert terminal.run("register", "image", *words) == 0
    assert "CHECK: as their files place them the images do not overlap, their middles are 5000 mm" in terminal.said
    found = np.array(terminal.result("image")["moving_from_fixed"])
    np.testing.assert_allclose(found @ (69.0, 69.0, 69.0, 1.0), (5069.0, 69.0, 69.0, 1.0), atol=0.5)
    for path in (terminal.case / "registration").iterdir():
        path.unlink()
    (terminal.case / "registration").rmdir()
    assert "5000 mm apart; give a --start" in terminal.refused("register", "image", *words, "--kind", "ultrasound")
    # The start the wrong way round moves the images twice as far apart.
    sitk.WriteTransform(sitk.TranslationTransform(3, (-5000.0, 0.0, 0.0)), str(tmp_path / "back.tfm"))
    said = terminal.refused("register", "image", *words, "--start", tmp_path / "back.tfm")
    assert "the start leaves the images apart, their middles 10000 mm" in said
    sitk.WriteTransform(sitk.TranslationTransform(3, (5000.0, 0.0, 0.0)), str(tmp_path / "there.tfm"))
    assert terminal.run("register", "image", *words, "--start", tmp_path / "there.tfm") == 0
    assert "do not overlap" not in terminal.said


# Lumen


def pull_back(forked, rng, count=400):
    lines, _ = forked
    path = np.concatenate([lines[0], lines[1][1:]])
    arc = np.concatenate([[0], np.cumsum(np.linalg.norm(np.diff(path, axis=0), axis=1))])
    at = np.linspace(arc[-1] - 5, 10, count)
    return np.column_stack([np.interp(at, arc, path[:, k]) for k in range(3)]), arc[-1] - at


def test_lumen_corrects_a_drift_and_says_the_branch(planned, forked, table):
    rng = np.random.default_rng(3)
    true, _ = pull_back(forked, rng)
    shift = np.array([2.5, -2.0, 1.5])
    fixes = true + shift + rng.normal(size=true.shape) * 0.5
    path = table("fixes.csv", np.column_stack([0.025 * np.arange(400), fixes]), head="time_s,x,y,z")
    code = planned.run("register", "lumen", path, "--noise", "0.5")
    result = planned.result("lumen")
    assert code == 0, planned.said
    assert result["branch"] == "0"
    assert result["along_mm"] == pytest.approx(10.0, abs=5.0)
    left = apply_to_points(np.array(result["correction"]), true + shift) - true
    assert np.sqrt(np.mean(np.sum(left**2, axis=1))) < 0.4 * np.linalg.norm(shift)
    assert set(result["read"]) >= {str(path)}


def test_lumen_says_that_the_catheter_is_not_in_the_vessel(planned, forked, table):
    true, _ = pull_back(forked, np.random.default_rng(4), 80)
    path = table("fixes.csv", np.column_stack([0.025 * np.arange(80), true + (60.0, 0, 0)]))
    assert planned.run("register", "lumen", path) == 1
    assert "outside the lumen" in planned.said


def test_lumen_refuses_what_cannot_be_used(planned, table, tmp_path):
    fixes = table("fixes.csv", [[0, 1, 2]])
    assert "line 1 has 3 numbers" in planned.refused("register", "lumen", fixes)
    nan = table("nan.csv", [[0, np.nan, 2, 3], [1, np.nan, 2, 3]])
    assert "none of 2 fixes" in planned.refused("register", "lumen", nan)
    good = table("good.csv", [[0, 0, 0, 5]])
    for noise in ("0", "-1", "nan", "inf"):
        assert "not a positive length" in planned.refused("register", "lumen", good, "--noise", noise)
    back = table("back.csv", [[3 - k, 0, 0, 5 + k] for k in range(4)])
    assert planned.run("register", "lumen", back) == 1
    assert "3 of 4 fixes cannot be used: times must increase" in planned.said
    (planned.case / CENTERLINE_TABLE).write_text("branch,x\n0,1\n")
    assert "plan the case again" in planned.refused("register", "lumen", good)
    (planned.case / CENTERLINE).unlink()
    assert "no centerline.vtp" in planned.refused("register", "lumen", good)


# Elastic


def block(path):
    grid = pyvista.ImageData(dimensions=(9, 8, 7), spacing=(15.0, 15.0, 15.0))
    grid.triangulate().save(path)
    return path


def test_elastic_moves_a_target_with_the_surface(terminal, tmp_path, table):
    body = block(tmp_path / "body.vtu")
    rng = np.random.default_rng(5)
    before = np.column_stack([rng.uniform(5, 115, 60), rng.uniform(5, 100, 60), np.full(60, 90.0)])
    sag = np.array([0.0, 0.0, -5.0])
    after = before + sag
    target = np.array([[60.0, 50.0, 45.0], [30.0, 80.0, 60.0]])
    words = ("--move", table("targets.csv", target), "--noise", "0.2")
    code = terminal.run("register", "elastic", body, table("b.csv", before), table("a.csv", after), *words)
    assert code == 0, terminal.said
    rows = np.loadtxt(terminal.case / "registration/elastic_points.csv", delimiter=",", skiprows=1)
    np.testing.assert_allclose(rows[:, :3], target, atol=1e-3)
    np.testing.assert_allclose(rows[:, 3:], target + sag, atol=0.3)


def test_elastic_moves_the_centerline_of_the_case(planned, forked, tmp_path, table):
    lines, _ = forked
    grid = pyvista.ImageData(dimensions=(9, 8, 14), spacing=(15.0, 15.0, 15.0), origin=(-60.0, -52.0, -15.0))
    grid.triangulate().save(tmp_path / "body.vtu")
    rng = np.random.default_rng(5)
    before = np.column_stack([rng.uniform(-50, 50, 50), np.full(50, 53.0), rng.uniform(0, 160, 50)])
    code = planned.run(
        "register", "elastic", tmp_path / "body.vtu", table("b.csv", before), table("a.csv", before + (0, 4.0, 0))
    )
    assert code == 0, planned.said
    rows = np.loadtxt(planned.case / "registration/elastic_points.csv", delimiter=",", skiprows=1)
    assert len(rows) == sum(map(len, lines)) + 19
    np.testing.assert_allclose(rows[:60, 3:] - rows[:60, :3], np.tile((0, 4.0, 0), (60, 1)), atol=0.3)


def test_elastic_refuses_what_cannot_be_used(terminal, tmp_path, table):
    points = table("points.csv", POINTS)
    surface = tmp_path / "surface.vtu"
    pyvista.UnstructuredGrid(pyvista.Sphere().cast_to_unstructured_grid()).save(surface)
    assert "no tetrahedra" in terminal.refused("register", "elastic", surface, points, points, "--move", points)
    body = block(tmp_path / "body.vtu")
    fewer = table("fewer.csv", POINTS[:4])
    said = terminal.refused("register", "elastic", body, points, fewer, "--move", points)
    assert re.search("6 points and .*fewer.csv 4", said)
    for noise in ("0", "-1", "nan"):
        words = ("--move", points, "--noise", noise)
        assert "not a positive length" in terminal.refused("register", "elastic", body, points, points, *words)
    assert "no centerline.vtp" in terminal.refused("register", "elastic", body, points, points)


def test_elastic_refuses_what_lies_elsewhere_or_went_too_far(terminal, tmp_path, table):
    body = block(tmp_path / "body.vtu")
    rng = np.random.default_rng(5)
    before = np.column_stack([rng.uniform(5, 115, 40), rng.uniform(5, 100, 40), np.full(40, 90.0)])
    source, goal = table("b.csv", before), table("a.csv", before - (0, 0, 4.0))
    target = table("targets.csv", [[60.0, 50.0, 45.0]])
    elsewhere = table("elsewhere.csv", [[5000.0, 0, 0]])
    words = ("register", "elastic", body)
    assert "all 1 points to move lie far from" in terminal.refused(*words, source, goal, "--move", elsewhere)
    said = terminal.refused(*words, source, goal, "--move", target, "--support", elsewhere)
    assert "1 of 1 support points lie far from the body, which is 183 mm across" in said
    off = table("off.csv", before + 500.0)
    assert "40 of 40 surface points" in terminal.refused(*words, off, off, "--move", target)
    grid = pyvista.read(body)
    grid.points = np.asarray(grid.points) / 1000.0
    grid.save(tmp_path / "meters.vtu")
    said = terminal.refused(*words[:2], tmp_path / "meters.vtu", source, goal, "--move", target)
    assert "the body, which is 0.183 mm across" in said
    assert terminal.run(*words, source, table("far.csv", before + 500.0), "--move", target) == 1
    assert "were both sets measured in one frame?" in terminal.said
    both = table("both.csv", [[60.0, 50.0, 45.0], [5000.0, 0, 0]])
    assert terminal.run(*words, source, goal, "--move", both) == 0
    assert "CHECK: 1 of 2 points to move lie far outside the body" in terminal.said


# Projection


def test_projection_from_two_dicom_views(terminal, tmp_path, head_ct, xray):
    ct = head_ct()
    sitk.WriteImage(ct, str(terminal.case / "image.nrrd"))
    volume = Attenuation.from_ct(ct, spacing=2.0)
    true = np.eye(4)
    true[:3, :3] = Rotation.from_rotvec(np.radians((3.0, -2.0, 4.0))).as_matrix()
    true[:3, 3] = (5.0, -4.0, 6.0)
    views = []
    for primary in (0.0, 90.0):
        camera: PinholeCamera = carm_camera(
            primary_deg=primary,
            secondary_deg=0.0,
            source_to_detector=1100.0,
            source_to_isocenter=750.0,
            pixel_mm=2.4,
            width=120,
            height=120,
            isocenter=tuple(volume.middle),
        )
        views.append(xray(tmp_path / f"{primary:.0f}.dcm", radiograph(volume, camera, true), primary))
    code = terminal.run("register", "projection", *views)
    assert code == 0, terminal.said
    found = np.array(terminal.result("projection")["world_from_image"])
    corners = np.array([[x, y, z] for x in (-50, 50) for y in (-50, 50) for z in (-50, 50.0)])
    off = np.linalg.norm(apply_to_points(found, corners) - apply_to_points(true, corners), axis=1)
    assert off.mean() < 1.0
    assert np.degrees(rotation_angle(found @ np.linalg.inv(true))) < 1.0


def test_projection_refuses_pictures_without_geometry(terminal, tmp_path, head_ct, xray):
    sitk.WriteImage(head_ct(16, 10.0), str(terminal.case / "image.nrrd"))
    plain = tmp_path / "plain.png"
    sitk.WriteImage(sitk.Image([32, 32], sitk.sitkUInt8), str(plain))
    said = terminal.refused("register", "projection", plain)
    assert "plain.png" in said
    color = tmp_path / "color.png"
    sitk.WriteImage(sitk.Image([32, 32], sitk.sitkVectorUInt8, 3), str(color))
    assert "color" in terminal.refused("register", "projection", color)
    assert "cannot be read" in terminal.refused("register", "projection", tmp_path / "no.dcm")
    view = xray(tmp_path / "view.dcm", np.ones((32, 32)), 0.0)
    assert "flat" in terminal.refused("register", "projection", view)
    start = tmp_path / "start.json"
    start.write_text('{"verdict": "pass", "image_from_tracker": []}')
    assert "world_from_image" in terminal.refused("register", "projection", view, "--start", start)


def test_projection_names_a_volume_or_a_start_that_shows_nothing(terminal, tmp_path, head_ct, xray):
    ct = head_ct(32, 5.0)
    sitk.WriteImage(ct, str(terminal.case / "image.nrrd"))
    view = xray(tmp_path / "view.dcm", np.random.default_rng(0).random((64, 64)), 0.0)

    def refused(image, *words):
        sitk.WriteImage(image, str(tmp_path / "ct.nrrd"))
        return terminal.refused("register", "projection", view, "--ct", tmp_path / "ct.nrrd", *words)

    assert "values that are not finite" in refused(ct * float("nan"))
    assert "nothing above -700; give one in Hounsfield units" in refused(ct * 0.0 - 1000.0)
    assert "3 values per voxel" in refused(sitk.Compose(ct, ct, ct))
    assert "32 x 32 x 1 voxels" in refused(ct[:, :, 5:6])
    ct.SetSpacing((0.005,) * 3)
    assert "0.16 mm wide; mend its spacing" in refused(ct)
    start = tmp_path / "start.json"
    far = [[1, 0, 0, 5000], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]
    start.write_text(f'{{"verdict": "pass", "world_from_image": {far}}}')
    said = terminal.refused("register", "projection", view, "--start", start)
    assert "view 1 shows nothing of the volume where the search begins" in said


def test_two_projections_from_one_side_hold_the_depth_no_better_than_one(terminal, tmp_path, head_ct, xray):
    ct = head_ct(32, 5.0)
    sitk.WriteImage(ct, str(terminal.case / "image.nrrd"))
    volume = Attenuation.from_ct(ct, spacing=4.0)
    camera = carm_camera(
        primary_deg=0.0,
        secondary_deg=0.0,
        source_to_detector=1100.0,
        source_to_isocenter=750.0,
        pixel_mm=4.0,
        width=72,
        height=72,
        isocenter=tuple(volume.middle),
    )
    view = xray(tmp_path / "view.dcm", radiograph(volume, camera, np.eye(4)), 0.0, pixel=4.0)
    assert terminal.run("register", "projection", view, view) == 0
    assert terminal.result("projection")["verdict"] == "check"
    assert "one view holds the depth along the beam poorly" in terminal.said


# All of them


@pytest.mark.parametrize("command", ["landmarks", "surface", "image", "lumen", "elastic", "projection", "angiogram"])
def test_every_command_says_that_a_folder_is_no_case(terminal, points, tmp_path, command):
    terminal.case = tmp_path / "nothing"
    terminal.case.mkdir()
    path = points("p.csv", POINTS)
    words = (path,) * (3 if command == "elastic" else 1)
    assert "is no case" in terminal.refused("register", command, *words)
