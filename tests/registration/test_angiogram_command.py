"""``register angiogram`` as a user runs it: a planned case and DICOM runs in, the vessels' pose and its verdict out."""

import numpy as np
import pytest
import SimpleITK as sitk
from scipy.ndimage import gaussian_filter
from scipy.spatial import KDTree
from scipy.spatial.transform import Rotation

from registration.errors import InputError
from registration.projection.carm import carm_camera
from registration.projection.vessel_lines import contrast_of, vessel_lines
from registration.rigid import apply_to_points

PIXELS = 256
CONTRAST = 0.04  # attenuation of the filled lumen, 1/mm


def pose(degrees, shift, center):
    matrix = np.eye(4)
    matrix[:3, :3] = Rotation.from_rotvec(np.radians(degrees)).as_matrix()
    matrix[:3, 3] = center + shift - matrix[:3, :3] @ center
    return matrix


def camera_of(primary, isocenter):
    return carm_camera(
        primary_deg=primary,
        secondary_deg=0.0,
        source_to_detector=1100.0,
        source_to_isocenter=750.0,
        pixel_mm=1.2,
        width=PIXELS,
        height=PIXELS,
        isocenter=tuple(isocenter),
    )


def filled(camera, lines, radii):
    """Line integrals of contrast agent: the chords of the tubes around projected lines."""
    total = np.zeros((PIXELS, PIXELS))
    columns, rows = np.meshgrid(np.arange(PIXELS), np.arange(PIXELS))
    for line, radius in zip(lines, radii, strict=True):
        fine = np.linspace(0, len(line) - 1, 600)
        points = np.column_stack([np.interp(fine, np.arange(len(line)), line[:, k]) for k in range(3)])
        width = np.interp(fine, np.arange(len(line)), radius)
        scale = camera.fx / apply_to_points(camera.camera_from_world, points)[:, 2]
        distance, near = KDTree(camera.project(points)).query(np.column_stack([columns.ravel(), rows.ravel()]))
        chord = 2.0 * np.sqrt(np.maximum(width[near] ** 2 - (distance / scale[near]) ** 2, 0.0))
        total = np.maximum(total, CONTRAST * chord.reshape(total.shape))
    return total


def bones(rng):
    """Soft tissue with some bony bars across it."""
    background = 2.0 + 0.3 * gaussian_filter(rng.normal(size=(PIXELS, PIXELS)), 25.0) * 25.0
    for row in range(20, PIXELS, 45):
        background[row : row + 14, 60:200] += 0.5
    return gaussian_filter(background, 1.5)


@pytest.fixture
def angiograms(planned, forked, xray, tmp_path):
    """Makes the runs of some views: three frames, the first without contrast; returns their paths and the truth."""

    def make(angles, turn=(3.0, -4.0, 5.0), shift=(6.0, -5.0, 7.0), shown=3):
        rng = np.random.default_rng(7)
        lines, radii = forked
        # Without a planning image the isocenter is the middle of the vessels' stations.
        middle = np.concatenate([resampled(line) for line in lines]).mean(axis=0)
        truth = pose(turn, shift, middle)
        paths = []
        for k, primary in enumerate(angles):
            camera = camera_of(primary, middle)
            contrast = filled(camera, [apply_to_points(truth, line) for line in lines[:shown]], radii[:shown])
            scene = bones(rng)
            run = np.stack([scene, scene + 0.5 * contrast, scene + contrast])
            counts = rng.poisson(30_000.0 * np.exp(-run)) / 30_000.0
            paths.append(xray(tmp_path / f"view{k}.dcm", -np.log(np.maximum(counts, 1e-4)), primary, pixel=1.2))
        return paths, truth, np.concatenate(lines)

    return make


def resampled(line):
    arc = np.concatenate([[0], np.cumsum(np.linalg.norm(np.diff(line, axis=0), axis=1))])
    at = np.linspace(0, arc[-1], int(np.ceil(arc[-1])) + 1)
    return np.column_stack([np.interp(at, arc, line[:, k]) for k in range(3)])


def missed(result, truth, points):
    return np.linalg.norm(
        apply_to_points(np.array(result["world_from_image"]), points) - apply_to_points(truth, points), axis=1
    )


def test_two_runs_lay_the_vessels_where_they_are(planned, angiograms):
    paths, truth, points = angiograms((0.0, 80.0))
    code = planned.run("register", "angiogram", *paths)
    assert code == 0, planned.said
    result = planned.result("angiogram")
    assert missed(result, truth, points).mean() < 1.5
    assert result["matched"] > 0.9
    assert set(map(str, paths)) < set(result["read"])
    assert (planned.case / "registration/angiogram.png").stat().st_size > 10_000


def test_one_run_leaves_the_depth_open_and_says_so(planned, angiograms):
    paths, truth, points = angiograms((20.0,))
    assert planned.run("register", "angiogram", *paths) in (0, 1)
    result = planned.result("angiogram")
    assert result["verdict"] != "pass"
    beam = camera_of(20.0, (0, 0, 0)).camera_from_world[2, :3]
    off = apply_to_points(np.array(result["world_from_image"]), points) - apply_to_points(truth, points)
    assert np.linalg.norm(off - np.outer(off @ beam, beam), axis=1).mean() < 2.0


def test_masks_by_hand_and_a_start_from_an_earlier_result(planned, angiograms, tmp_path):
    paths, truth, points = angiograms((0.0, 80.0))
    masks = []
    for k, path in enumerate(paths):
        run = -np.log(np.maximum(sitk.GetArrayFromImage(sitk.ReadImage(str(path))), 1) / 4095.0)
        painted = sitk.GetImageFromArray((gaussian_filter(run[2] - run[0], 1.0) > 0.06).astype(np.uint8) * 255)
        masks += ["--mask", tmp_path / f"mask{k}.png"]
        sitk.WriteImage(painted, str(masks[-1]))
    assert planned.run("register", "angiogram", *paths, *masks) == 0, planned.said
    start = planned.case / "registration/angiogram.json"
    assert planned.run("register", "angiogram", *paths, *masks, "--start", start) == 0
    assert missed(planned.result("angiogram"), truth, points).mean() < 1.5


def test_angiograms_of_another_vessel_do_not_pass(planned, xray, tmp_path):
    rng = np.random.default_rng(8)
    s = np.linspace(0, 2 * np.pi, 200)
    ring = np.column_stack([60 * np.cos(s), 60 * np.sin(s), 8 * np.sin(3 * s)])
    contrast = filled(camera_of(0.0, (0, 0, 0)), [ring], [np.full(200, 3.0)])
    scene = bones(rng)
    path = xray(tmp_path / "ring.dcm", np.stack([scene, scene + contrast]), 0.0, pixel=1.2)
    planned.run("register", "angiogram", path)
    assert planned.result("angiogram")["verdict"] != "pass"


def test_angiograms_that_cannot_be_used_are_named(planned, angiograms, xray, tmp_path):
    paths, _, _ = angiograms((0.0, 80.0))
    assert "1 masks for 2 angiograms" in planned.refused("register", "angiogram", *paths, "--mask", paths[0])
    empty = xray(tmp_path / "empty.dcm", np.ones((2, 64, 64)), 0.0)
    assert "no vessel stands out" in planned.refused("register", "angiogram", empty)
    plain = tmp_path / "plain.png"
    sitk.WriteImage(sitk.Image([64, 64], sitk.sitkUInt8), str(plain))
    assert "DistanceSourceToDetector" in planned.refused("register", "angiogram", plain)
    assert "cannot be read" in planned.refused("register", "angiogram", tmp_path / "none.dcm")
    wrong = planned.refused("register", "angiogram", paths[0], "--mask", plain)
    assert "view 1" in wrong


def test_lines_of_a_straight_vessel_run_along_its_middle():
    rows, columns = np.indices((128, 128))
    tube = np.sqrt(np.maximum(16.0 - (columns - 50.0) ** 2, 0.0))
    noisy = np.stack([0.0 * tube, tube]) + np.random.default_rng(9).normal(size=(2, 128, 128)) * 0.2
    line = vessel_lines(contrast_of(noisy))
    found = columns[line & (rows > 8) & (rows < 120)]
    assert len(found) > 90
    assert abs(np.median(found) - 50.0) <= 1.0
    assert np.mean(np.abs(found - 50.0) <= 2.0) > 0.95
    with pytest.raises(InputError, match="no vessel"):
        vessel_lines(np.zeros((64, 64)))
