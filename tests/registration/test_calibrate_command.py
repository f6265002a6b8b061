"""Each ``calibrate`` command as a user runs it: files in, a result with its verdict out, bad input named."""

from functools import cache
from pathlib import Path
from xml.etree import ElementTree

import cv2
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from registration.calibration.grid_images import grid_points
from registration.camera import PinholeCamera

DATA = Path(__file__).parents[3] / "shared/data"
PLUS = DATA / "plus_tracked_sequences"
TIP = np.array([10.0, -5.0, 150.0])


def needed(path):
    if not path.exists():
        pytest.skip(f"the recording is not at {path}")
    return path


def pose_rows(rotations, positions, step_s=0.05):
    times = step_s * np.arange(len(positions))
    return np.column_stack([times, positions, rotations.as_quat()])


def swinging(count=200):
    t = np.linspace(0, 20, count)
    return Rotation.from_rotvec(0.5 * np.column_stack([np.sin(1.1 * t), np.cos(0.7 * t), 0.3 * np.sin(0.5 * t)]))


def pivoting(rng, count=200, noise=0.1):
    turns = swinging(count)
    return pose_rows(turns, -turns.apply(TIP) + (30.0, 20.0, -900.0) + rng.normal(size=(count, 3)) * noise)


def test_pivot_finds_the_tip(terminal, table):
    path = table("poses.csv", pivoting(np.random.default_rng(1)))
    assert terminal.run("calibrate", "pivot", path) == 0
    result = terminal.result("pivot")
    assert np.linalg.norm(np.subtract(result["tip_mm"], TIP)) < result["error_95_mm"] < 0.2
    np.testing.assert_allclose(np.array(result["tool_from_tip"])[:3, 3], result["tip_mm"])
    assert result["read"].keys() == {str(path)}
    assert "PASS: tip error (95 %)" in terminal.said
    assert (terminal.case / "registration/pivot.png").stat().st_size > 1000


def test_pivot_on_the_visit_of_eight_divots_is_no_pivot_calibration(terminal):
    recording = needed(PLUS / "EightLandmarkPointsTrackedForPhantomRegistration.igs.mha")
    assert terminal.run("calibrate", "pivot", recording, "--tool", "Stylus", "--reference", "Reference") == 1
    assert "FAIL" in terminal.said
    assert terminal.result("pivot")["verdict"] == "fail"


def test_pivot_names_what_is_wrong_with_a_recording(terminal, table, tmp_path):
    rows = pivoting(np.random.default_rng(1))
    still = rows.copy()
    still[:, 1:] = rows[0, 1:]
    assert "did not turn" in terminal.refused("calibrate", "pivot", table("still.csv", still))
    assert "20" in terminal.refused("calibrate", "pivot", table("few.csv", rows[:5]))
    short = tmp_path / "short.csv"
    short.write_text("t,x,y,z,qx,qy,qz,qw\n0,1,2,3\n")
    assert "line 2 has 4 numbers" in terminal.refused("calibrate", "pivot", short)
    scaled = rows.copy()
    scaled[:, 4:] *= 3.0
    said = terminal.refused("calibrate", "pivot", table("scaled.csv", scaled))
    assert "200 have a quaternion that is not of unit length" in said
    assert "cannot be read" in terminal.refused("calibrate", "pivot", tmp_path / "missing.csv")


def test_poses_that_are_none_are_left_out_and_told(terminal, table):
    rows = pivoting(np.random.default_rng(1))
    rows[3:6, 4:] *= 3.0
    rows[20:30, 1:] = 0.0  # a lost tool, as some trackers write it
    assert terminal.run("calibrate", "pivot", table("gaps.csv", rows)) == 0
    result = terminal.result("pivot")
    assert "CHECK: 13 of 200 poses of gaps.csv are not valid; 3 have a quaternion" in terminal.said
    assert result["poses_lost"] == 13
    np.testing.assert_allclose(result["tip_mm"], TIP, atol=0.2)


def test_a_tool_that_was_never_seen_is_said_to_be_lost(terminal):
    recording = needed(PLUS / "NwirePhantomFreehand.igs.mha")
    said = terminal.refused("calibrate", "pivot", recording, "--tool", "Stylus")
    assert "none of 97 poses is valid" in said
    assert "no transform NeedleToTracker" in terminal.refused("calibrate", "pivot", recording, "--tool", "Needle")


def test_spin_finds_the_axis_towards_the_tip(terminal, table):
    rng = np.random.default_rng(2)
    assert terminal.run("calibrate", "pivot", table("poses.csv", pivoting(rng))) == 0
    axis = np.array([0.2, -0.1, 1.0]) / np.linalg.norm((0.2, -0.1, 1.0))
    upright, _ = Rotation.align_vectors([[0.3, 0.9, 0.1]], [axis])
    spun = Rotation.from_rotvec(np.outer(np.linspace(0, 5, 120), upright.apply(axis))) * upright
    spun = spun * Rotation.from_rotvec(rng.normal(size=(120, 3)) * 0.002)
    recording = table("spin.csv", pose_rows(spun, rng.normal(size=(120, 3)) * 0.1))
    pivot = terminal.case / "registration/pivot.json"
    assert terminal.run("calibrate", "spin", recording, "--pivot", pivot) == 0
    result = terminal.result("spin")
    off = np.degrees(np.arccos(np.clip(np.dot(result["axis"], axis), -1, 1)))
    assert off < result["error_95_deg"] < 0.5
    tool_from_tip = np.array(result["tool_from_tip"])
    np.testing.assert_allclose(tool_from_tip[:3, 2], result["axis"], atol=1e-9)
    np.testing.assert_allclose(tool_from_tip[:3, 3], TIP, atol=0.3)
    assert np.linalg.det(tool_from_tip[:3, :3]) == pytest.approx(1.0)


def test_spin_refuses_a_tool_at_rest_and_a_pivot_that_is_none(terminal, table):
    still = table("still.csv", pose_rows(Rotation.from_rotvec(np.zeros((40, 3))), np.zeros((40, 3))))
    assert "not spun" in terminal.refused("calibrate", "spin", still)
    spun = table(
        "s.csv", pose_rows(Rotation.from_rotvec(np.outer(np.linspace(0, 5, 40), (0, 0, 1))), np.zeros((40, 3)))
    )
    assert "tip_mm" in terminal.refused("calibrate", "spin", spun, "--pivot", still)


HOLES = np.array([[0, 0, 0], [40, 0, 0], [40, 30, 0], [0, 30, 5], [20, 15, 10.0]])


def on_template(rng, holes):
    turns = Rotation.from_rotvec(rng.normal(size=(len(holes), 3)) * 0.4)
    return pose_rows(turns, holes - turns.apply(TIP) + rng.normal(size=holes.shape) * 0.1)


def test_template_finds_the_tip_in_known_holes(terminal, table):
    visited = np.repeat(HOLES, 4, axis=0)
    poses = table("poses.csv", on_template(np.random.default_rng(3), visited))
    assert terminal.run("calibrate", "template", poses, table("holes.csv", visited)) == 0
    result = terminal.result("template")
    assert np.linalg.norm(np.subtract(result["tip_mm"], TIP)) < result["error_95_mm"]
    assert len(result["residuals_mm"]) == 20


def test_template_refuses_poses_and_holes_that_differ_in_number(terminal, table):
    poses = table("poses.csv", on_template(np.random.default_rng(3), HOLES))
    said = terminal.refused("calibrate", "template", poses, table("holes.csv", HOLES[:3]))
    assert "5 poses and 3 hole positions" in said


def test_hand_eye_of_a_real_arm_that_turned_about_nearly_one_axis(terminal):
    folder = needed(DATA / "ethz_hand_eye/robot_arm_w_color_camera_sim")
    words = (folder / "robot_arm_sim_camera.csv", folder / "robot_arm_sim_hand.csv", "--unit", "1000")
    terminal.run("calibrate", "hand-eye", *words)
    result = terminal.result("hand-eye")
    assert "nearly parallel" in result["reason"]
    assert abs(result["offset_s"]) < 0.010
    assert result["rms_deg"] < 0.5
    assert len(result["solvers"]) == 5


def test_hand_eye_between_clocks_of_other_epochs(terminal, table):
    rng = np.random.default_rng(4)
    turns = swinging(200)
    mounting = Rotation.from_rotvec((0.2, 0.5, -0.4))
    places = rng.normal(size=3) * 50 + 40 * np.sin(np.outer(np.linspace(0, 20, 200), (0.7, 0.9, 1.3)))
    first = pose_rows(turns, places)
    second = pose_rows(turns * mounting, places + turns.apply((30.0, -20.0, 10.0)))
    second[:, 0] += 1.6e9
    assert terminal.run("calibrate", "hand-eye", table("a.csv", first), table("b.csv", second)) == 0
    result = terminal.result("hand-eye")
    assert result["offset_s"] == pytest.approx(1.6e9, abs=0.01)
    np.testing.assert_allclose(np.array(result["first_from_second"])[:3, 3], (30, -20, 10), atol=0.3)


def test_hand_eye_refuses_recordings_too_short_to_compare(terminal, table):
    rows = pivoting(np.random.default_rng(4))[:8]
    said = terminal.refused("calibrate", "hand-eye", table("a.csv", rows), table("b.csv", rows))
    assert "a.csv has 8 valid poses" in said


def test_hand_eye_of_two_motions_that_have_nothing_in_common_is_no_calibration(terminal, table):
    rng = np.random.default_rng(4)
    paths = []
    for name in ("a.csv", "b.csv"):
        steps = Rotation.from_rotvec(np.cumsum(np.cumsum(rng.normal(size=(200, 3)) * 0.004, axis=0), axis=0))
        paths.append(table(name, pose_rows(steps, rng.normal(size=(200, 3)))))
    assert terminal.run("calibrate", "hand-eye", *paths) == 1
    assert "FAIL" in terminal.said


def test_the_lag_of_a_probe_behind_its_video_is_the_one_that_plus_found(terminal):
    video = needed(PLUS / "WaterTankBottomTranslationVideoBuffer.igs.mha")
    probe = PLUS / "WaterTankBottomTranslationTrackerBuffer-trimmed.igs.mha"
    assert terminal.run("calibrate", "time-offset", video, probe, "--second-tool", "Probe", "--reach", "0.5") == 0
    result = terminal.result("time-offset")
    baseline = ElementTree.parse(PLUS / "TemporalCalibrationResultsBaseline.xml").getroot()
    known = next(float(e.get("TrackerLagSec")) for e in baseline.iter() if e.get("TrackerLagSec"))
    assert result["lag_s"] == pytest.approx(known, abs=0.005)
    assert abs(result["lag_s"] - known) < 2.0 * result["lag_std_s"]


def test_the_lag_between_two_tables_of_one_signal(terminal, table):
    rng = np.random.default_rng(5)
    knots = np.interp(np.arange(0, 30, 0.02), np.arange(0, 31, 0.7), rng.normal(size=45))

    def signal(t):
        return np.interp(t, np.arange(0, 30, 0.02), knots)

    ta, tb = np.arange(1, 29, 0.04), np.arange(1, 29, 0.031)
    first = table("first.csv", np.column_stack([ta, signal(ta)]))
    second = table("second.csv", np.column_stack([tb + 0.12, -3 * signal(tb) + 40]))
    assert terminal.run("calibrate", "time-offset", first, second) == 0
    assert terminal.result("time-offset")["lag_s"] == pytest.approx(0.12, abs=0.004)
    assert terminal.result("time-offset")["correlation"] < -0.9
    flat = table("flat.csv", np.column_stack([tb, np.ones_like(tb)]))
    terminal.refused("calibrate", "time-offset", first, flat)
    assert "no images" in terminal.refused(
        "calibrate", "time-offset", needed(PLUS / "SlidingProbeTrackingData.igs.mha"), first
    )


CAMERA = PinholeCamera(640, 480, 620.0, 624.0, 322.0, 236.0, (-0.12, 0.05, 0.0, 0.0, 0.0))
SQUARE_MM = 10.0
INNER = grid_points(9, 6, SQUARE_MM)


@cache
def directions():
    """(n, 3) where the camera's half pixels look, row by row, without the lens' distortion."""
    j, i = np.meshgrid(np.arange(CAMERA.width * 2), np.arange(CAMERA.height * 2))
    pixels = (np.column_stack([j.ravel(), i.ravel()]) - 0.5) / 2
    k = np.array([[CAMERA.fx, 0, CAMERA.cx], [0, CAMERA.fy, CAMERA.cy], [0, 0, 1]])
    straight = cv2.undistortPoints(pixels[:, None], k, np.array(CAMERA.distortion))[:, 0]
    return np.column_stack([straight, np.ones(len(straight))])


def board(camera):
    """A checkerboard of 10 x 7 squares as a camera sees it, lens distortion and all."""
    world = camera.world_from_camera
    rays = directions() @ world[:3, :3].T
    place = (world[:3, 3] - rays * (world[2, 3] / rays[:, 2:])) / SQUARE_MM + 1.0
    cell = np.floor(place[:, :2])
    on_board = (cell >= 0).all(axis=1) & (cell[:, 0] < 10) & (cell[:, 1] < 7)
    bright = np.where(on_board & (cell.sum(axis=1) % 2 == 0), 20.0, 235.0).reshape(2 * camera.height, 2 * camera.width)
    return cv2.resize(bright, (camera.width, camera.height), interpolation=cv2.INTER_AREA).astype(np.uint8)


def views(rng, count):
    """Cameras that see the whole board, tilted."""
    cameras = []
    while len(cameras) < count:
        pose = np.eye(4)
        pose[:3, :3] = Rotation.from_rotvec(rng.normal(size=3) * (0.45, 0.45, 0.2)).as_matrix()
        pose[:3, 3] = rng.uniform((-25, -15, 120), (25, 15, 175)) - pose[:3, :3] @ INNER.mean(axis=0)
        camera = CAMERA.posed(pose)
        if camera.visible(INNER + 0.0).all() and camera.visible(np.array([[-9, -9, 0], [89, 59, 0.0]])).all():
            cameras.append(camera)
    return cameras


def test_camera_from_pictures_of_a_checkerboard_and_its_marker(terminal, table, tmp_path):
    rng = np.random.default_rng(6)
    cameras = views(rng, 9)
    pictures = []
    for k, camera in enumerate(cameras):
        pictures.append(tmp_path / f"view{k:02d}.png")
        cv2.imwrite(str(pictures[-1]), board(camera))
    cv2.imwrite(str(pictures[4]), np.full((480, 640), 90, np.uint8))  # a picture without the board
    mounting = np.eye(4)  # marker_from_camera
    mounting[:3, :3], mounting[:3, 3] = Rotation.from_rotvec((0.3, -0.2, 0.5)).as_matrix(), (12.0, -30.0, 45.0)
    tracker = np.eye(4)  # tracker_from_board
    tracker[:3, :3], tracker[:3, 3] = Rotation.from_rotvec((1.0, 0.4, -0.3)).as_matrix(), (100.0, 50.0, -800.0)
    markers = np.array([tracker @ camera.world_from_camera @ np.linalg.inv(mounting) for camera in cameras])
    poses = table("markers.csv", pose_rows(Rotation.from_matrix(markers[:, :3, :3]), markers[:, :3, 3]))

    code = terminal.run("calibrate", "camera", *pictures, "--grid", "9,6", "--spacing", "10", "--markers", poses)
    assert code == 0, terminal.said
    result = terminal.result("camera")
    assert result["pictures_without_grid"] == 1
    assert result["views_used"] == 8
    for name, true in (("fx", 620.0), ("fy", 624.0), ("cx", 322.0), ("cy", 236.0)):
        assert result["intrinsics"][name] == pytest.approx(true, abs=2.5)
    assert result["rms_px"] < 0.3
    found = np.array(result["marker_from_camera"])
    miss = np.linalg.inv(found) @ mounting
    assert np.linalg.norm(miss[:3, 3]) < max(result["error_95_mm"], 0.5)
    assert np.degrees(Rotation.from_matrix(miss[:3, :3]).magnitude()) < 0.3


def test_camera_from_a_table_of_points_and_pixels(terminal, table):
    rng = np.random.default_rng(7)
    rows = []
    for k, camera in enumerate(views(rng, 12)):
        seen = camera.project(INNER) + rng.normal(size=(54, 2)) * 0.1
        rows.append(np.column_stack([np.full(54, k), INNER, seen]))
    path = table("views.csv", np.concatenate(rows), head="view,x,y,z,u,v")
    assert terminal.run("calibrate", "camera", path, "--size", "640,480") == 0
    result = terminal.result("camera")
    for name, true in (("fx", 620.0), ("fy", 624.0), ("cx", 322.0), ("cy", 236.0)):
        assert abs(result["intrinsics"][name] - true) < 4.0 * result["intrinsics_std"][name]


def test_camera_refuses_what_it_cannot_use(terminal, table, tmp_path):
    path = table("views.csv", np.zeros((3, 6)))
    assert "--size" in terminal.refused("calibrate", "camera", path)
    assert "--grid" in terminal.refused("calibrate", "camera", tmp_path / "view.png")
    said = terminal.refused("calibrate", "camera", tmp_path / "view.png", "--grid", "9,6")
    assert "view.png cannot be read as a picture" in said
    cv2.imwrite(str(tmp_path / "gray.png"), np.full((480, 640), 90, np.uint8))
    said = terminal.refused("calibrate", "camera", tmp_path / "gray.png", "--grid", "9,6")
    assert "none of 1 pictures shows the whole grid" in said
    assert "not COLUMNS,ROWS" in terminal.refused("calibrate", "camera", tmp_path / "gray.png", "--grid", "9")
    said = terminal.refused("calibrate", "camera", tmp_path / "gray.png", "--grid", "9,6", "--pattern", "stripes")
    assert "stripes" in said


def plus_probe_tables(table, part):
    """Tables of wires, dots and poses of a recording that PLUS calibrated a probe with."""
    config = ElementTree.parse(PLUS / "PlusDeviceSet_fCal_Sim_SpatialCalibration_2.0.xml")
    wires = list(config.iter("Wire"))
    names = [wire.get("Name") for wire in wires]
    ends = [[*wire.get("EndPointFront").split(), *wire.get("EndPointBack").split()] for wire in wires]
    phantom = next(
        np.array(t.get("Matrix").split(), float).reshape(4, 4)
        for t in config.iter("Transform")
        if t.get("From") == "Phantom"
    )
    root = ElementTree.parse(PLUS / "FreehandCalibration3NWires_fCal2.0.results.xml").getroot()
    dots, poses = [], []
    for frame in root.find(f".//{part}").iter("Frame"):
        if frame.get("SegmentationStatus") != "OK":
            continue
        fields = {f.get("Name"): f.get("Value") for f in frame.iter("CustomFrameField")}
        probe, reference = (
            np.array(fields[f"{tool}ToTrackerTransform"].split(), float).reshape(4, 4)
            for tool in ("Probe", "Reference")
        )
        poses.append(np.linalg.inv(reference @ phantom) @ probe)
        for point in frame.find("SegmentedPoints"):
            if point.get("WireName") in names:
                wire = names.index(point.get("WireName")) + 1
                dots.append([len(poses), wire, *map(float, point.get("Position").split()[:2])])
    matrices = np.array(poses)
    rotations = Rotation.from_matrix(matrices[:, :3, :3])
    baseline = np.array(next(root.iter("Transform")).get("Matrix").split(), float).reshape(4, 4)
    return (
        table("wires.csv", np.array(ends, float)),
        table("dots.csv", dots, head="image,wire,u,v"),
        table("probe.csv", pose_rows(rotations, matrices[:, :3, 3])),
        baseline,
    )


def test_an_ultrasound_probe_is_calibrated_as_plus_did_from_the_same_images(terminal, table):
    needed(PLUS / "FreehandCalibration3NWires_fCal2.0.results.xml")
    wires, dots, poses, baseline = plus_probe_tables(table, "CalibrationData")
    assert terminal.run("calibrate", "ultrasound", wires, dots, poses) == 0
    result = terminal.result("ultrasound")
    corners = np.array([[0, 0, 0, 1.0], [819, 0, 0, 1], [0, 615, 0, 1], [819, 615, 0, 1]])
    apart = corners @ (np.array(result["probe_from_image"]) - baseline).T
    assert np.linalg.norm(apart[:, :3], axis=1).max() < 2.0  # mm; both of one recording, by two fits
    assert result["middle_wire_error_mm"] < 0.7
    assert result["images_left_out"] == 0


def test_ultrasound_refuses_wires_that_are_not_there(terminal, table):
    n = [[0, 0, 0, 0, 40, 0], [0, 0, 0, 20, 40, 0], [20, 0, 0, 20, 40, 0]]
    poses = table("poses.csv", on_template(np.random.default_rng(8), np.repeat(HOLES, 3, axis=0)))
    dots = table("dots.csv", [[1, 7, 10, 10]])
    assert "names wire 7 of 3" in terminal.refused("calibrate", "ultrasound", table("w.csv", n), dots, poses)
    assert "2 wires" in terminal.refused("calibrate", "ultrasound", table("w2.csv", n[:2]), dots, poses)
    part = table("part.csv", [[1, 1, 10, 10]])
    assert "no image that shows all 3 wires" in terminal.refused(
        "calibrate", "ultrasound", table("w.csv", n), part, poses
    )


def test_em_distortion_maps_a_bent_field_with_the_frames_apart(terminal, table):
    rng = np.random.default_rng(9)
    measured = rng.uniform(-80, 80, (250, 3))
    bent = 4.0 * np.column_stack(
        [np.sin(measured[:, 1] / 60), np.cos(measured[:, 2] / 70), np.sin(measured[:, 0] / 50 + 1)]
    )
    turn = Rotation.from_rotvec((0.3, -0.5, 0.2))
    true = turn.apply(measured + bent + rng.normal(size=bent.shape) * 0.1) + (200.0, -40.0, 12.0)
    names = [f"p{k}" for k in range(250)]
    order = rng.permutation(250)
    first = table("measured.csv", measured, names=names, head="name,x,y,z")
    second = table("true.csv", true[order], names=[names[k] for k in order], head="name,x,y,z")
    assert terminal.run("calibrate", "em-distortion", first, second) == 0
    result = terminal.result("em-distortion")
    assert result["after_mm"] < 0.35 < 1.5 < result["before_mm"]
    rows = np.loadtxt(terminal.case / "registration/em-distortion.csv", delimiter=",", skiprows=1)
    assert rows.shape == (250, 6)
    # What the map corrects to is where the sensor was, in the tracker's frame.
    tracker_from_true = np.array(result["tracker_from_true"])
    goal = true[np.argmin(np.linalg.norm(rows[:, None, :3] - measured, axis=2), axis=1)]
    goal = goal @ tracker_from_true[:3, :3].T + tracker_from_true[:3, 3]
    np.testing.assert_allclose(rows[:, :3] + rows[:, 3:], goal, atol=0.01)


def test_em_distortion_refuses_a_plane_and_few_samples(terminal, table):
    rng = np.random.default_rng(10)
    plane = rng.uniform(-80, 80, (60, 3)) * (1, 1, 0)
    assert "plane" in terminal.refused("calibrate", "em-distortion", table("a.csv", plane), table("b.csv", plane))
    few = rng.uniform(-80, 80, (12, 3))
    assert "12 samples" in terminal.refused("calibrate", "em-distortion", table("a.csv", few), table("b.csv", few))


def test_a_case_that_is_none_is_said(terminal, table, tmp_path):
    terminal.case = tmp_path / "nothing"
    terminal.case.mkdir()
    path = table("poses.csv", pivoting(np.random.default_rng(1)))
    assert "is no case" in terminal.refused("calibrate", "pivot", path)
