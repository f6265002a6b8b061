"""A real tracked stylus on a real phantom, against the phantom's own geometry and the registration that PLUS found from
the same recording."""

from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from registration import rigid
from registration.dwells import find_dwells
from registration.landmarks import register_landmarks
from registration.pose_files import read_sequence

PLUS = Path(__file__).parents[3] / "shared/data/plus_tracked_sequences"
RECORDING = PLUS / "EightLandmarkPointsTrackedForPhantomRegistration.igs.mha"
CONFIGURATION = PLUS / "PlusDeviceSet_fCal_Sim_RecordPhantomLandmarks.xml"
BASELINE = PLUS / "PhantomRegistrationLandmarkDetection.results.xml"
PLUS_RESIDUAL = 0.198046
"""Mean distance of PLUS's eight landmarks from the phantom's, as its result says, mm."""


def matrix(path, source, target):
    for element in ElementTree.parse(path).iter("Transform"):
        if (element.get("From"), element.get("To")) == (source, target):
            return np.array(element.get("Matrix").split(), float).reshape(4, 4)
    raise AssertionError(f"{path.name} has no transform from {source} to {target}")


def plus_landmarks(tips, window=3, windows=5, still=1.5, apart=5.0):
    """Where PLUS of 2014 puts the landmarks (n, 3): of each dwell of five windows of three frames its mean from the
    second to the fifth frame. (Its code took the count of windows to skip, one, for their size, so that it averaged
    0.27 s and not the second it meant to.)"""
    found, start, means = [], 0, []
    for k in range(window, len(tips) + 1, window):
        means.append(tips[k - window : k].mean(axis=0))
        if np.linalg.norm(np.ptp(means, axis=0)) >= still:
            start, means = k - window, means[-1:]
        if len(means) == windows:
            place = tips[start + 1 : start + windows].mean(axis=0)
            if all(np.linalg.norm(place - other) > apart for other in found):
                found.append(place)
            start, means = k, []
    return np.array(found[1:-1])  # the first and the last are the stylus lying aside


@pytest.fixture(scope="module")
def phantom():
    """Landmarks of the phantom (8, 3), the stylus' poses, the tip in its frame (3,), PLUS's registration (4, 4)."""
    if not RECORDING.is_file():
        pytest.skip(f"the recording is not at {RECORDING}")
    stylus = read_sequence(RECORDING).stream("Stylus", "Reference").used()
    assert len(stylus.poses) > 900
    marks = ElementTree.parse(CONFIGURATION).iter("Landmark")
    landmarks = np.array([element.get("Position").split() for element in marks], float)
    tip = matrix(CONFIGURATION, "StylusTip", "Stylus")[:3, 3]
    return landmarks, stylus, tip, matrix(BASELINE, "Phantom", "Reference")


def off(result, baseline, point):
    """Distance in mm at a point, and angle in degrees, of a registration from the baseline."""
    there = rigid.apply_to_points(baseline, point)
    difference = result.target_from_source @ np.linalg.inv(baseline)
    away = rigid.apply_to_points(difference, there) - there
    return np.linalg.norm(away), np.degrees(rigid.rotation_angle(difference))


def test_from_the_frames_that_plus_averaged_its_registration_is_found(phantom):
    landmarks, stylus, tip, baseline = phantom
    touched = plus_landmarks(stylus.poses[:, :3, :3] @ tip + stylus.poses[:, :3, 3])
    result = register_landmarks(landmarks, touched)
    miss, angle = off(result, baseline, landmarks.mean(axis=0))
    assert miss < 0.05
    assert angle < 0.038
    assert np.mean(result.residuals) == pytest.approx(PLUS_RESIDUAL, abs=0.002)


def test_landmarks_of_a_real_phantom_lie_where_the_phantom_has_them(phantom):
    landmarks, stylus, tip, baseline = phantom
    dwells = find_dwells(stylus, tip)
    assert len(dwells.places) == 8
    assert all("not turned" in left for left in dwells.left_out)  # before and after, lying aside
    result = register_landmarks(landmarks, dwells.places)
    # The phantom's drawing is a truth that PLUS's result is not; both have the same tip and tracker.
    assert np.mean(result.residuals) < PLUS_RESIDUAL
    assert result.warnings == ()
    miss, angle = off(result, baseline, landmarks.mean(axis=0))
    assert miss < 0.2
    assert angle < 0.25
    # Each registration has the error of the frames that it averaged: together they explain how far both are apart.
    theirs = register_landmarks(landmarks, plus_landmarks(stylus.poses[:, :3, :3] @ tip + stylus.poses[:, :3, 3]))
    for point in landmarks:
        here, there = (rigid.apply_to_points(pose, point) for pose in (result.target_from_source, baseline))
        covariance = result.point_covariance(here) + theirs.point_covariance(there)
        assert (here - there) @ np.linalg.solve(covariance, here - there) < 16.3  # chi2, 3 dof, 0.1 %

    exchanged = dwells.places.copy()
    exchanged[[2, 5]] = exchanged[[5, 2]]
    (warning,) = register_landmarks(landmarks, exchanged).warnings
    assert "Fiducials 3 and 6 look swapped" in warning


def test_the_command_registers_the_recorded_stylus_as_plus_did(phantom, terminal):
    landmarks, _, tip, baseline = phantom
    given = ("--target", CONFIGURATION, "--reference", "Reference")
    assert terminal.run("register", "landmarks", RECORDING, *given, "--tip", CONFIGURATION) == 0
    result = terminal.result("landmarks")
    difference = np.array(result["image_from_tracker"]) @ baseline
    away = np.linalg.norm(rigid.apply_to_points(difference, landmarks) - landmarks, axis=1)
    assert away.max() < 0.45
    assert 0.1 < result["error_95_mm"] < 0.5
    assert list(result["residuals_mm"]) == [f"#{k}" for k in range(1, 9)]
    assert len(result["dwells"]["begin_s"]) == 8
    # The tip by its numbers is the same, and which is which is found as well.
    numbers = ",".join(map(str, tip))
    assert terminal.run("register", "landmarks", RECORDING, *given, "--tip", numbers, "--unordered") == 0
    again = terminal.result("landmarks")["image_from_tracker"]
    np.testing.assert_allclose(again, result["image_from_tracker"], atol=1e-3)


def test_the_command_says_why_a_recording_of_a_stylus_cannot_be_used(phantom, terminal, tmp_path):
    given = ("register", "landmarks", RECORDING, "--target", CONFIGURATION)
    assert "give the stylus' --tip" in terminal.refused(*given)
    assert "Is the tip the right one?" in terminal.refused(*given, "--tip", "0,0,500")
    assert "no transform PointerToTracker; it has" in terminal.refused(*given, "--tip", "0,0,0", "--tool", "Pointer")
    assert '--tip "1,2,x" is not X,Y,Z' in terminal.refused(*given, "--tip", "1,2,x")
    (tmp_path / "empty.xml").write_text("<PlusConfiguration/>")
    assert "where StylusTip is in Stylus" in terminal.refused(*given, "--tip", tmp_path / "empty.xml")
    assert "no registration's result with tip_mm" in terminal.refused(*given, "--tip", tmp_path / "pivot.json")
    # Of the landmarks one was not touched: which, nobody knows.
    fewer = tmp_path / "fewer.xml"
    fewer.write_text("\n".join(line for line in CONFIGURATION.read_text().splitlines() if '"#8" Pos' not in line))
    told = terminal.refused(*given[:3], "--target", fewer, "--reference", "Reference", "--tip", CONFIGURATION)
    assert "shows 8 landmarks being touched (from 5.1, " in told
    assert "has 7" in told


def swung(place, tip, seconds, rng, turn_deg=20.0, rate=30.0):
    """Poses (n, 4, 4) of a stylus whose tip stands at a place, swung about it."""
    count = round(seconds * rate)
    angle = np.radians(turn_deg) * np.sin(np.arange(count) / rate * 3.0)
    poses = np.tile(np.eye(4), (count, 1, 1))
    poses[:, :3, :3] = Rotation.from_rotvec(angle[:, None] * (0.6, 0.8, 0.0)).as_matrix()
    poses[:, :3, 3] = place - poses[:, :3, :3] @ tip + rng.normal(size=(count, 3)) * 0.1
    return poses


def test_a_table_of_a_stylus_gives_its_landmarks_and_what_is_none(terminal, table, tmp_path):
    rng, tip = np.random.default_rng(0), np.array([0.0, 5.0, 150.0])
    places = np.array([[0, 0, 0], [80, 0, 10], [0, 60, 20], [60, 70, -30.0]])
    parts = [swung([-200, 0, 0], tip, 3.0, rng, turn_deg=0.0)]  # lies aside
    for k in (0, 1, 0, 2, 3):  # the first is touched twice
        before = parts[-1][-1]
        after = swung(places[k], tip, 2.0, rng)
        way = np.linspace(0, 1, 15)[:, None, None]
        parts += [before * (1 - way) + after[0] * way, after]
    poses = np.concatenate(parts)
    turn = Rotation.from_matrix(poses[:, :3, :3])
    rows = np.column_stack([100.0 + np.arange(len(poses)) / 30.0, poses[:, :3, 3], turn.as_quat()])
    rows[400:403] = np.nan  # lost for a moment
    recording = table("stylus.csv", rows)
    target = table("target.csv", places, names="ABCD", head="name,x,y,z")
    pivot = tmp_path / "pivot.json"
    pivot.write_text(f'{{"tip_mm": {tip.tolist()}, "verdict": "pass", "reason": ""}}')
    assert terminal.run("register", "landmarks", recording, "--target", target, "--tip", pivot) == 0
    result = terminal.result("landmarks")
    np.testing.assert_allclose(result["image_from_tracker"], np.eye(4), atol=0.1)
    aside, again = result["dwells"]["left_out"]
    assert "at 0.0 s" in aside and "not turned" in aside  # noqa: PT018
    assert "landmark 1 was touched again" in again
    assert str(pivot) in str(result)
