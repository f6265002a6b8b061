"""Calibrations on made recordings: what is put in comes out, errors are predicted, and bad recordings are told."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from registration import rigid
from registration.calibration.em_distortion import map_distortion, static_noise
from registration.calibration.hand_eye import calibrate_hand_eye, calibrate_hand_eye_streams
from registration.calibration.hand_eye_solvers import SOLVERS
from registration.calibration.pivot import calibrate_on_template, calibrate_pivot, calibrate_spin
from registration.calibration.time_offset import find_time_offset, line_position
from registration.calibration.ultrasound import NWire, calibrate_probe, probe_errors
from registration.errors import InputError
from registration.pose_files import PoseStream, poses_from_rows, read_pose_table, read_sequence

few = settings(max_examples=15, deadline=None)
seeds = st.integers(0, 2**32 - 1)


def random_transform(rng, reach=300.0):
    matrix = np.eye(4)
    matrix[:3, :3], matrix[:3, 3] = Rotation.random(rng=rng).as_matrix(), rng.uniform(-reach, reach, 3)
    return matrix


def pivoting(rng, tip, *, cone_deg=30.0, count=300, noise=0.2, frame=None):
    """Poses of a tool whose tip stays in a divot while the handle swings through a cone."""
    frame = random_transform(rng) if frame is None else frame
    poses = np.tile(np.eye(4), (count, 1, 1))
    t = np.linspace(0, 20, count)
    swing = np.radians(cone_deg) * np.column_stack([np.sin(1.1 * t), np.cos(0.7 * t), 0.3 * np.sin(0.5 * t)])
    poses[:, :3, :3] = Rotation.from_rotvec(swing).as_matrix()
    poses[:, :3, 3] = -poses[:, :3, :3] @ tip
    poses = frame @ poses
    poses[:, :3, 3] += rng.normal(size=(count, 3)) * noise
    return poses, frame[:3, 3]


@few
@given(seeds)
def test_pivot_finds_tip_and_divot_within_its_own_error(seed):
    rng = np.random.default_rng(seed)
    tip = rng.uniform(-150, 150, 3)
    poses, divot = pivoting(rng, tip)
    result = calibrate_pivot(poses)
    assert np.linalg.norm(result.tip - tip) < 2.0 * result.error_95
    assert np.linalg.norm(result.pivot - divot) < 0.3
    assert result.error_95 < 0.3
    assert result.rms == pytest.approx(0.2 * np.sqrt(3), rel=0.15)
    assert result.verdict.level == "pass"


def test_pivot_error_holds_in_95_percent():
    rng = np.random.default_rng(0)
    tip = np.array([10.0, -20.0, 150.0])
    inside = []
    for _ in range(150):
        result = calibrate_pivot(pivoting(rng, tip, cone_deg=20.0, count=80)[0])
        inside.append(np.linalg.norm(result.tip - tip) <= result.error_95)
    assert 0.90 < np.mean(inside) <= 1.0


def test_a_small_residual_without_motion_does_not_pass():
    rng = np.random.default_rng(1)
    tip = np.array([0.0, 0.0, 150.0])
    result = calibrate_pivot(pivoting(rng, tip, cone_deg=2.0)[0])
    assert result.rms < 0.5  # which alone would look perfect
    assert result.verdict.level == "fail"
    assert "too little" in str(result.verdict) or "tip error" in str(result.verdict)
    with pytest.raises(InputError, match="did not turn"):
        calibrate_pivot(np.tile(random_transform(rng), (100, 1, 1)))


def test_turning_about_one_axis_only_is_refused():
    poses = np.tile(np.eye(4), (60, 1, 1))
    poses[:, :3, :3] = Rotation.from_rotvec(np.outer(np.linspace(0, 1, 60), (0, 0, 1.0))).as_matrix()
    with pytest.raises(InputError, match="single axis"):
        calibrate_pivot(poses)


def test_poses_whose_tip_slipped_are_left_out_and_counted():
    rng = np.random.default_rng(2)
    tip = np.array([5.0, 3.0, 120.0])
    poses, _ = pivoting(rng, tip)
    poses[100:140, :3, 3] += (8.0, -5.0, 4.0)
    result = calibrate_pivot(poses)
    assert np.linalg.norm(result.tip - tip) < 0.3
    assert not result.kept[100:140].any()
    assert result.verdict.level == "check"
    assert "40 of 300 poses" in result.verdict.reason


def test_a_bent_recording_shows_in_its_halves():
    rng = np.random.default_rng(3)
    first, _ = pivoting(rng, np.array([0.0, 0.0, 150.0]), frame=np.eye(4))
    second, _ = pivoting(rng, np.array([4.0, 0.0, 150.0]), frame=np.eye(4))  # the tool was bent half way
    result = calibrate_pivot(np.concatenate([first, second]))
    assert result.half_difference > 3.0
    assert result.verdict.level == "fail"


@few
@given(seeds)
def test_moving_the_tracker_or_turning_the_tool_frame_turns_the_tip_and_nothing_else(seed):
    rng = np.random.default_rng(seed)
    poses, _ = pivoting(rng, np.array([20.0, 10.0, 130.0]))
    world, tool = random_transform(rng), random_transform(rng)
    before, after = calibrate_pivot(poses), calibrate_pivot(world @ poses @ np.linalg.inv(tool))
    np.testing.assert_allclose(after.tip, rigid.apply_to_points(tool, before.tip), atol=1e-5)
    assert after.error_95 == pytest.approx(before.error_95, rel=1e-4)
    assert after.rms == pytest.approx(before.rms, rel=1e-6)


def test_spin_finds_the_axis_and_refuses_a_still_tool():
    rng = np.random.default_rng(4)
    axis = np.array([0.2, -0.1, 1.0]) / np.linalg.norm([0.2, -0.1, 1.0])
    frame = random_transform(rng)
    poses = np.tile(np.eye(4), (200, 1, 1))
    turned = Rotation.from_rotvec(np.outer(np.linspace(0, 3, 200), axis))
    wobble = Rotation.from_rotvec(rng.normal(size=(200, 3)) * np.radians(0.3))
    poses[:, :3, :3] = frame[:3, :3] @ (wobble * turned).as_matrix()
    result = calibrate_spin(poses, tip=(0, 0, 100.0))
    assert np.degrees(np.arccos(result.axis @ axis)) < max(result.error_95_deg, 0.05)
    assert result.verdict.level == "pass"
    assert calibrate_spin(poses, tip=(0, 0, -100.0)).axis @ axis < -0.99
    with pytest.raises(InputError, match="not spun"):
        calibrate_spin(np.tile(frame, (50, 1, 1)))


def test_a_template_gives_the_tip_and_a_wrong_hole_shows():
    rng = np.random.default_rng(5)
    tip, holes = np.array([3.0, -8.0, 160.0]), np.array([[0, 0, 0], [40, 0, 0], [0, 40, 0], [40, 40, 10.0]])
    points = np.repeat(holes, 10, axis=0)
    poses = np.array([random_transform(rng) for _ in points])
    poses[:, :3, 3] = points - poses[:, :3, :3] @ tip + rng.normal(size=points.shape) * 0.1
    result = calibrate_on_template(poses, points)
    assert np.linalg.norm(result.tip - tip) < 0.1
    assert result.verdict.level == "pass"
    wrong = points.copy()
    wrong[:10] += (0, 10, 0)
    assert calibrate_on_template(poses, wrong).verdict.level == "fail"
    assert "1 hole(s) used" in calibrate_on_template(poses[:10], points[:10]).verdict.reason


@few
@given(seeds)
def test_every_closed_form_solves_exact_motions(seed):
    rng = np.random.default_rng(seed)
    x = random_transform(rng)
    b = np.array([random_transform(rng) for _ in range(12)])
    a = x @ b @ np.linalg.inv(x)
    for name, solver in SOLVERS.items():
        np.testing.assert_allclose(solver(a, b), x, atol=1e-6, err_msg=name)


def mounted(rng, x, count, noise_mm=0.3, noise_deg=0.05, axes=3):
    world = random_transform(rng)
    a = np.array([random_transform(rng) for _ in range(count)])
    if axes == 1:
        a[:, :3, :3] = Rotation.from_rotvec(np.outer(np.linspace(0, 2, count), (0, 0, 1.0))).as_matrix()
    b = np.linalg.inv(world) @ a @ x
    b[:, :3, 3] += rng.normal(size=(count, 3)) * noise_mm
    b[:, :3, :3] = b[:, :3, :3] @ Rotation.from_rotvec(rng.normal(size=(count, 3)) * np.radians(noise_deg)).as_matrix()
    return a, b


@few
@given(seeds)
def test_hand_eye_finds_the_mounting_within_its_own_error(seed):
    rng = np.random.default_rng(seed)
    x = random_transform(rng, 80.0)
    result = calibrate_hand_eye(*mounted(rng, x, 25))
    difference = result.a_from_b @ np.linalg.inv(x)
    assert np.linalg.norm(result.a_from_b[:3, 3] - x[:3, 3]) < max(3.0 * result.error_mm, 0.5)
    assert np.degrees(rigid.rotation_angle(difference)) < 0.2
    assert result.error_mm < 1.5
    assert result.verdict.level == "pass"


def test_hand_eye_outliers_and_parallel_axes_are_told():
    rng = np.random.default_rng(6)
    x = random_transform(rng, 80.0)
    a, b = mounted(rng, x, 30)
    b[3] = random_transform(rng)  # one pose of another target
    assert np.linalg.norm(calibrate_hand_eye(a, b).a_from_b[:3, 3] - x[:3, 3]) < 1.0
    with pytest.raises(InputError, match="parallel axes"):
        calibrate_hand_eye(*mounted(rng, x, 30, noise_mm=0, noise_deg=0, axes=1))
    with pytest.raises(InputError, match="30 poses of one frame but 29"):
        calibrate_hand_eye(a, b[:29])
    inverse = np.linalg.inv(b)
    assert calibrate_hand_eye(a, inverse).verdict.level == "fail"


def wandering(rng, duration, rate):
    t = np.arange(0, duration, 1 / rate)
    parts = rng.uniform(0.2, 1.3, (6, 4)), rng.uniform(0, 6, (6, 4))
    waves = np.stack([np.sin(w[:, None] * t + p[:, None]).sum(axis=0) for w, p in zip(*parts, strict=True)])
    poses = np.tile(np.eye(4), (len(t), 1, 1))
    poses[:, :3, :3] = Rotation.from_rotvec(0.3 * waves[:3].T).as_matrix()
    poses[:, :3, 3] = 60.0 * waves[3:].T
    return t, poses


def test_streams_of_two_clocks_give_mounting_and_offset():
    rng = np.random.default_rng(7)
    x, world = random_transform(rng, 80.0), random_transform(rng)
    t, poses = wandering(rng, 40.0, 200.0)
    other = np.linalg.inv(world) @ poses @ x
    a = PoseStream("a", t[::5], poses[::5], np.ones(len(t[::5]), bool))
    keep = np.arange(0, len(t), 7)
    b = PoseStream("b", t[keep] + 1000.037, other[keep], np.ones(len(keep), bool))
    result = calibrate_hand_eye_streams(a, b)
    assert result.offset_s == pytest.approx(1000.037, abs=0.001)
    np.testing.assert_allclose(result.a_from_b, x, atol=0.5)
    assert result.verdict.level == "pass"


@few
@given(seeds, st.floats(-0.3, 0.3))
def test_a_lag_is_found_to_a_millisecond(seed, lag):
    rng = np.random.default_rng(seed)
    ta, tb = np.sort(rng.uniform(0, 20, 400)), np.arange(-1, 21, 0.025)
    waves = rng.uniform(0.5, 6, 5), rng.uniform(0, 6, 5)

    def motion(t):
        return sum(np.sin(w * t + p) for w, p in zip(*waves, strict=True))

    result = find_time_offset(
        ta, motion(ta) + rng.normal(size=400) * 0.03, tb + lag, -4.0 * motion(tb) + 7.0, reach_s=0.5
    )
    assert abs(result.lag_s - lag) < max(5.0 * result.std_s, 0.001)
    assert result.std_s < 0.005
    assert result.gain == pytest.approx(-0.25, rel=0.05)
    assert result.verdict.level in ("pass", "check")


def test_signals_that_cannot_be_aligned_are_told():
    rng = np.random.default_rng(8)
    t = np.linspace(0, 10, 200)
    assert find_time_offset(t, rng.normal(size=200), t, rng.normal(size=200)).verdict.level == "fail"
    with pytest.raises(InputError, match="do not overlap"):
        find_time_offset(t, np.sin(t), t + 100.0, np.sin(t))
    with pytest.raises(InputError, match="does not move"):
        find_time_offset(t, np.ones(200), t, np.sin(t))
    with pytest.raises(InputError, match="do not increase at sample 5"):
        find_time_offset(np.concatenate([t[:5], t[4:]]), np.sin(np.arange(201.0)), t, np.sin(t))
    regular = find_time_offset(t, np.sin(12 * t), t, np.sin(12 * t), reach_s=1.0)
    assert regular.verdict.level == "check"


def test_a_tilted_line_under_speckle_is_read_to_a_fraction_of_a_pixel():
    rng = np.random.default_rng(9)
    rows = np.arange(300)[:, None]
    for tilt, level in ((0.0, 120.3), (0.2, 150.7), (-0.15, 90.2)):
        place = level + tilt * (np.arange(400) - 199.5)
        image = 200.0 * np.exp(-0.5 * ((rows - place) / 3.0) ** 2) * rng.uniform(0.5, 1.0, (300, 400))
        image[:, :60] *= 0.0  # shadow
        image[250:260, 100:200] = 230.0  # a reverberation
        assert line_position(image) == pytest.approx(level, abs=0.5)
    assert np.isnan(line_position(np.zeros((300, 400))))


def probe_images(rng, matrix, wires, count, noise_px=1.0):
    """Dots where image planes of random pose cut the wires, and the poses."""
    dots, poses = [], []
    while len(dots) < count:
        pose = np.eye(4)
        turn = Rotation.from_euler("xyz", [90, 0, 0], degrees=True) * Rotation.from_rotvec(rng.normal(size=3) * 0.2)
        pose[:3, :3] = turn.as_matrix() @ matrix[:3, :3].T / np.linalg.norm(matrix[:3, 0])
        pose[:3, :3] = Rotation.from_matrix(pose[:3, :3]).as_matrix()
        pose[:3, 3] = rng.uniform(5, 35) * np.array([0, 1.0, 0]) + rng.normal(size=3) * 5
        image = np.linalg.inv(pose @ matrix)  # pixels from phantom
        found = []
        for wire in wires:
            for ends in (wire.left, wire.diagonal, wire.right):
                z = (ends @ image[:3, :3].T + image[:3, 3])[:, 2]
                where = ends[0] + z[0] / (z[0] - z[1]) * (ends[1] - ends[0])
                found.append((image[:3, :3] @ where + image[:3, 3])[:2])
        dots.append(np.array(found).reshape(len(wires), 3, 2) + rng.normal(size=(len(wires), 3, 2)) * noise_px)
        poses.append(pose)
    return np.array(dots), np.array(poses)


def test_an_ultrasound_probe_is_calibrated_from_n_wires():
    rng = np.random.default_rng(10)
    wires = [
        NWire(
            np.array([[30, 0, z], [30, 40, z]], float),
            np.array([[d, 0, z], [e, 40, z]], float),
            np.array([[60, 0, z], [60, 40, z]], float),
        )
        for z, d, e in ((20, 55, 35), (10, 35, 55), (0, 55, 40))
    ]
    matrix = np.eye(4)
    matrix[:3, :3] = Rotation.random(rng=rng).as_matrix() * (0.08, 0.075, 0.0775)
    matrix[:3, 3] = (12.0, 45.0, -3.0)
    dots, poses = probe_images(rng, matrix, wires, 60)
    dots[7, 1, 1] += 60.0  # one dot segmented on an artifact
    result = calibrate_probe(wires, dots, poses)
    assert not result.kept[7, 1]
    corners = np.array([[0, 0, 0], [800, 0, 0], [0, 600, 0], [800, 600, 0.0]])
    miss = rigid.apply_to_points(result.probe_from_image, corners) - rigid.apply_to_points(matrix, corners)
    assert np.linalg.norm(miss, axis=1).max() < 0.5
    np.testing.assert_allclose(result.spacing_mm, (0.08, 0.075), rtol=0.005)
    fresh = probe_images(rng, matrix, wires, 20)
    assert probe_errors(result.probe_from_image, wires, *fresh).mean() < 0.3
    dots[3, 0, 0, 0] = np.nan
    with pytest.raises(InputError, match="image 3 has a dot"):
        calibrate_probe(wires, dots, poses)


def test_a_distorted_field_is_mapped_and_not_extrapolated():
    rng = np.random.default_rng(11)

    def distort(points):
        return points + 6.0 * np.exp(-np.sum((points - (150, 0, 0)) ** 2, axis=1) / 150.0**2)[:, None] * (
            1.0,
            0.4,
            -0.2,
        )

    true = rng.uniform(-150, 150, (500, 3))
    field = map_distortion(distort(true) + rng.normal(size=true.shape) * 0.1, true)
    assert field.after_mm < 0.25 * field.before_mm
    assert field.verdict.level == "pass"
    fresh = rng.uniform(-120, 120, (100, 3))
    corrected, done = field.correct(distort(fresh))
    assert done.all()
    assert np.sqrt(np.mean(np.sum((corrected - fresh) ** 2, axis=1))) < 1.5 * field.after_mm
    outside, done = field.correct([[500.0, 0, 0]])
    assert not done[0]
    assert outside[0, 0] == 500.0
    with pytest.raises(InputError, match="plane"):
        map_distortion(true * (1, 1, 0), true)
    noise = rng.normal(size=true.shape)
    assert map_distortion(true + noise * 5.0, true).verdict.level == "fail"


def test_rows_of_zeros_are_not_poses_and_a_moving_tool_has_no_noise():
    rng = np.random.default_rng(12)
    positions = rng.normal(size=(60, 3)) * 0.02 + (100, 20, -250)
    quaternions = np.tile((1.0, 0, 0, 0), (60, 1))
    positions[[3, 9]], quaternions[[3, 9]] = 0.0, 0.0
    stream = poses_from_rows(np.arange(60) / 20, positions, quaternions, scalar_first=True)
    noise = static_noise(stream)
    assert noise.missing == 2
    np.testing.assert_allclose(noise.position_std, 0.02, rtol=0.4)
    moving = poses_from_rows(np.arange(60) / 20, positions + np.arange(60)[:, None], quaternions, scalar_first=True)
    with pytest.raises(InputError, match="moved"):
        static_noise(moving)


def test_pose_tables_are_read_and_bad_lines_named(tmp_path):
    path = tmp_path / "poses.csv"
    path.write_text("t,x,y,z,qx,qy,qz,qw\n0.0,1,2,3,0,0,0,1\n0.1,1,2,nan,0,0,0,1\n0.2,0,0,0,0,0,0,0\n")
    stream = read_pose_table(path, unit_mm=1000.0)
    np.testing.assert_array_equal(stream.valid, [True, False, False])
    np.testing.assert_allclose(stream.poses[0, :3, 3], (1000, 2000, 3000))
    path.write_text("0.0 1 2 3 0 0 0 1\n0.1 1 2\n")
    with pytest.raises(InputError, match="line 2 has 3 numbers"):
        read_pose_table(path)
    path.write_text("nothing here\n")
    with pytest.raises(InputError, match="no lines of time"):
        read_pose_table(path)
    with pytest.raises(InputError, match="no stamped frames"):
        read_sequence(path)
    with pytest.raises(InputError, match="cannot be read"):
        read_sequence(tmp_path / "missing.mha")
