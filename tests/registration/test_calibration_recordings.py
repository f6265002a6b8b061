"""Calibrations on real recordings, each against the answer that came with it."""

from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import SimpleITK as sitk

from registration.calibration.camera_pose import locate_camera
from registration.calibration.em_distortion import static_noise
from registration.calibration.hand_eye import calibrate_hand_eye_streams
from registration.calibration.pivot import calibrate_pivot
from registration.calibration.time_offset import find_time_offset, line_position, motion_along_main_direction
from registration.calibration.ultrasound import NWire, calibrate_probe, probe_errors
from registration.camera import PinholeCamera
from registration.errors import InputError
from registration.pose_files import poses_from_rows, read_pose_table, read_sequence
from registration.rigid import rotation_angle

DATA = Path(__file__).parents[3] / "shared/data"
PLUS = DATA / "plus_tracked_sequences"


def needed(path):
    if not path.exists():
        pytest.skip(f"the recording is not at {path}")
    return path


def test_the_water_tank_lag_is_the_one_that_plus_found():
    video = needed(PLUS / "WaterTankBottomTranslationVideoBuffer.igs.mha")
    images = sitk.GetArrayFromImage(sitk.ReadImage(str(video)))
    rows = np.array([line_position(image) for image in images])
    probe = read_sequence(PLUS / "WaterTankBottomTranslationTrackerBuffer-trimmed.igs.mha").stream("Probe").used()
    result = find_time_offset(
        read_sequence(video).time_s, rows, probe.time_s, motion_along_main_direction(probe.poses[:, :3, 3]), reach_s=0.5
    )
    assert result.lag_s == pytest.approx(-0.0648266, abs=0.005)
    assert abs(result.lag_s + 0.0648266) < 2.0 * result.std_s
    assert result.verdict.level == "pass"


def test_three_rigidly_coupled_devices_close_their_loop():
    folder = needed(DATA / "ethz_hand_eye/TANGO_exCALIBur_1")
    devices = [read_pose_table(path, unit_mm=1000.0) for path in sorted(folder.glob("*.csv"))]
    legs = [calibrate_hand_eye_streams(devices[i], devices[j]) for i, j in ((0, 1), (1, 2), (2, 0))]
    loop = legs[0].a_from_b @ legs[1].a_from_b @ legs[2].a_from_b
    # A simple solver left 17.7 mm, 0.11 degrees and 0.3 ms.
    assert np.linalg.norm(loop[:3, 3]) < 10.0
    assert np.degrees(rotation_angle(loop)) < 0.11
    assert abs(sum(leg.offset_s for leg in legs)) < 0.001
    assert all(min(leg.solvers.values()) < 1.2 for leg in legs)


def test_a_simulated_arm_turning_about_nearly_one_axis_is_solved_and_told():
    folder = needed(DATA / "ethz_hand_eye/robot_arm_w_color_camera_sim")
    camera = read_pose_table(folder / "robot_arm_sim_camera.csv", unit_mm=1000.0)
    hand = read_pose_table(folder / "robot_arm_sim_hand.csv", unit_mm=1000.0)
    result = calibrate_hand_eye_streams(camera, hand)
    assert abs(result.offset_s) < 0.010
    assert result.rms_deg < 0.5
    assert "nearly parallel" in result.verdict.reason


def plus_probe_data(part, root, names, phantom_to_reference):
    dots, poses = [], []
    for frame in root.find(f".//{part}").iter("Frame"):
        if frame.get("SegmentationStatus") != "OK":
            continue
        points = {p.get("WireName"): p.get("Position").split()[:2] for p in frame.find("SegmentedPoints")}
        fields = {f.get("Name"): f.get("Value") for f in frame.iter("CustomFrameField")}
        probe, reference = (
            np.array(fields[f"{tool}ToTrackerTransform"].split(), float).reshape(4, 4)
            for tool in ("Probe", "Reference")
        )
        dots.append(np.array([points[name] for name in names], float).reshape(3, 3, 2))
        poses.append(np.linalg.inv(reference @ phantom_to_reference) @ probe)
    return np.array(dots), np.array(poses)


def test_the_probe_calibration_is_as_good_as_that_of_plus_on_fresh_images():
    results = needed(PLUS / "FreehandCalibration3NWires_fCal2.0.results.xml")
    config = ElementTree.parse(PLUS / "PlusDeviceSet_fCal_Sim_SpatialCalibration_2.0.xml")
    wires = [
        np.array([w.get("EndPointFront").split(), w.get("EndPointBack").split()], float) for w in config.iter("Wire")
    ]
    names = [w.get("Name") for w in config.iter("Wire")]
    ns = [NWire(*wires[i : i + 3]) for i in (0, 3, 6)]
    (phantom,) = (
        np.array(t.get("Matrix").split(), float).reshape(4, 4)
        for t in config.iter("Transform")
        if t.get("From") == "Phantom"
    )
    root = ElementTree.parse(results).getroot()
    baseline = np.array(next(root.iter("Transform")).get("Matrix").split(), float).reshape(4, 4)
    calibration = plus_probe_data("CalibrationData", root, names, phantom)
    validation = plus_probe_data("ValidationData", root, names, phantom)
    result = calibrate_probe(ns, *calibration)
    ours = probe_errors(result.probe_from_image, ns, *validation).mean()
    theirs = probe_errors(baseline, ns, *validation).mean()
    assert theirs == pytest.approx(0.54, abs=0.04)  # as PLUS reports it: the same measure
    assert ours < 1.05 * theirs
    assert result.verdict.level == "pass"
    np.testing.assert_allclose(result.spacing_mm, np.linalg.norm(baseline[:3, :2], axis=0), rtol=0.03)


def test_a_tool_that_was_never_seen_has_no_poses():
    header = read_sequence(needed(PLUS / "NwirePhantomFreehand.igs.mha"))
    stylus = header.stream("Stylus")
    assert len(stylus.valid) == 97
    assert not stylus.valid.any()
    with pytest.raises(InputError, match="none of 97 poses is valid"):
        stylus.used()
    with pytest.raises(InputError, match="no transform NeedleToTracker"):
        header.stream("Needle")


def test_pivoting_in_each_divot_gives_one_stylus_within_the_predicted_errors():
    header = read_sequence(needed(PLUS / "EightLandmarkPointsTrackedForPhantomRegistration.igs.mha"))
    stylus = header.stream("Stylus", "Reference").used()
    spells = ((77, 162), (173, 253), (277, 352), (364, 457), (532, 613), (627, 715), (728, 820), (833, 930))
    fits = [calibrate_pivot(stylus.poses[a:b]) for a, b in spells]
    tips = np.array([fit.tip for fit in fits])
    weights = np.array([fit.error_95**-2 for fit in fits])
    middle = weights @ tips / weights.sum()
    inside = [np.linalg.norm(fit.tip - middle) < fit.error_95 for fit in fits]
    assert np.sum(inside) >= 7
    # Short spells of a hand-held stylus: none of them may claim to be good.
    assert all(fit.verdict.level != "pass" for fit in fits)


def test_the_dots_of_a_laparoscope_reproject_as_published():
    folder = needed(DATA / "streams_tracked_laparoscope_calibration")
    k = np.loadtxt(folder / "viking.left.intrinsics.txt")
    distortion = tuple(np.loadtxt(folder / "viking.left.distortion.txt"))
    camera = PinholeCamera(1920, 1080, k[0, 0], k[1, 1], k[0, 2], k[1, 2], distortion)
    dots = np.loadtxt(folder / "viking.left.image_points.0.subset.txt")
    index = dots[:, 0].astype(int)
    grid = np.column_stack([index % 25 * 5.0, index // 25 * 5.0, np.zeros(len(index))])
    result = locate_camera(camera, grid, dots[:, 1:])
    published = np.loadtxt(folder / "viking.left.extrinsics.0.txt")
    assert result.rms_px <= 2.65
    difference = result.camera.camera_from_world @ np.linalg.inv(published)
    assert np.degrees(rotation_angle(difference)) < 0.5
    assert np.linalg.norm(result.camera.camera_from_world[:3, 3] - published[:3, 3]) < 1.0


def test_em_sensors_at_rest_have_the_published_jitter_and_their_missing_rows_are_counted():
    path = needed(DATA / "streams_ndi_em_tracker_static/NDIdata_snakeravenTest_2_2_21.csv")
    rows = [
        [float(v) for v in line.split(",") if v.strip()]
        for line in path.read_text().splitlines()
        if line.split(",")[0].strip().isdigit() and line.count(",") > 20
    ]
    table = np.array([row for row in rows if len(row) == 33])
    time_s = table[:, 1] * 3600 + table[:, 2] * 60 + table[:, 3] + table[:, 4] / 1000
    missing = []
    for sensor in range(4):
        columns = table[:, 5 + 7 * sensor : 12 + 7 * sensor]
        stream = poses_from_rows(time_s, columns[:, :3], columns[:, 3:], name="abcd"[sensor], scalar_first=True)
        noise = static_noise(stream)
        missing.append(noise.missing)
        # The first rows after a sensor appears still settle.
        assert np.median(noise.position_std) < 0.08
    assert missing == [2, 4, 9, 1]
