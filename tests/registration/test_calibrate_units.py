"""What ``calibrate`` commands say of units, options and frames that cannot be."""

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

TIP = np.array([10.0, -5.0, 150.0])


@pytest.fixture
def swung():
    """Rows of time, position and quaternion of a tool pivoted about its tip, with 0.1 mm of noise."""
    rng = np.random.default_rng(1)
    t = np.linspace(0, 20, 200)
    turns = Rotation.from_rotvec(0.5 * np.column_stack([np.sin(1.1 * t), np.cos(0.7 * t), 0.3 * np.sin(0.5 * t)]))
    places = -turns.apply(TIP) + (30.0, 20.0, -900.0) + rng.normal(size=(200, 3)) * 0.1
    return np.column_stack([0.05 * np.arange(200), places, turns.as_quat()])


def in_meters(rows):
    return rows * np.array([1, 1e-3, 1e-3, 1e-3, 1, 1, 1, 1])


def test_a_pivot_in_meters_does_not_pass(terminal, table, swung):
    assert terminal.run("calibrate", "pivot", table("m.csv", in_meters(swung))) == 0
    assert terminal.result("pivot")["verdict"] == "check"
    assert "0.15 mm from the tool's origin" in terminal.said
    assert "are the poses in meters? give mm" in terminal.said


def test_a_device_s_number_for_not_seen_is_no_position(terminal, table, swung):
    lost = swung.copy()
    lost[::5, 1:4] = -3.697314e28  # as NDI writes it
    assert terminal.run("calibrate", "pivot", table("lost.csv", lost)) == 0
    assert "40 of 200 poses of lost.csv are not valid" in terminal.said
    assert np.linalg.norm(np.subtract(terminal.result("pivot")["tip_mm"], TIP)) < 0.2


def test_hand_eye_asks_for_the_unit(terminal, table, swung):
    first, second = table("a.csv", swung), table("b.csv", in_meters(swung))
    for unit in ("0", "-1", "nan", "inf"):
        said = terminal.refused("calibrate", "hand-eye", first, first, "--unit", unit)
        assert "is not a positive length" in said
    terminal.run("calibrate", "hand-eye", first, second)
    assert terminal.result("hand-eye")["verdict"] != "pass"
    assert "b.csv lie within 0.15 mm" in terminal.said
    assert "is one in meters?" in terminal.said


def test_time_offset_refuses_a_reach_that_is_none(terminal, table, swung):
    path = table("a.csv", swung)
    for reach in ("0", "-1", "nan", "inf"):
        assert "not a positive time" in terminal.refused("calibrate", "time-offset", path, path, "--reach", reach)
    for reach in ("1e9", "1e-6"):
        assert "give a reach between" in terminal.refused("calibrate", "time-offset", path, path, "--reach", reach)


def test_template_tells_of_poses_that_were_lost(terminal, table, swung):
    holes = np.repeat([[0, 0, 0], [50, 0, 0], [0, 50, 0], [50, 50, 10.0]], 50, axis=0)
    rows = swung.copy()
    rows[:, 1:4] = holes - Rotation.from_quat(rows[:, 4:]).apply(TIP)
    rows[::2, 1] = np.nan
    places = table("holes.csv", holes)
    assert terminal.run("calibrate", "template", table("half.csv", rows), places) == 0
    assert "CHECK: 100 of 200 poses of half.csv are not valid" in terminal.said
    rows[:, 1] = np.nan
    said = terminal.refused("calibrate", "template", table("none.csv", rows), places)
    assert "none of 200 poses is valid" in said


def test_em_distortion_names_other_units_and_a_mirror(terminal, table):
    measured = np.random.default_rng(9).uniform(-80, 80, (60, 3))
    true = measured + 2.0 * np.sin(measured / 60)
    first, second = table("measured.csv", measured), table("meters.csv", true / 1000.0)
    said = terminal.refused("calibrate", "em-distortion", first, second)
    assert "give both in mm" in said
    assert terminal.run("calibrate", "em-distortion", table("both.csv", measured / 1000.0), second) == 0
    assert terminal.result("em-distortion")["verdict"] == "check"
    assert "are they in meters?" in terminal.said
    mirrored = table("mirrored.csv", true * (-1, 1, 1))
    assert "mirror image" in terminal.refused("calibrate", "em-distortion", first, mirrored)


@pytest.mark.parametrize("size", ["640.5,480", "0,480", "-640,480", "1e12,480"])
def test_a_camera_s_image_has_a_whole_number_of_pixels(terminal, table, size):
    views = table("views.csv", np.ones((30, 6)))
    said = terminal.refused("calibrate", "camera", views, "--size", size)
    assert f'--size "{size}" is not WIDTH,HEIGHT: whole numbers from 1 to 100000' in said
