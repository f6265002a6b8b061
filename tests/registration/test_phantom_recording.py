"""A real tracked stylus on a real phantom, against the registration that PLUS found from the same
recording."""

from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from registration import rigid
from registration.landmarks import register_landmarks
from registration.pose_files import read_sequence

PLUS = Path(__file__).parents[3] / "shared/data/plus_tracked_sequences"
RECORDING = PLUS / "EightLandmarkPointsTrackedForPhantomRegistration.igs.mha"
CONFIGURATION = PLUS / "PlusDeviceSet_fCal_Sim_RecordPhantomLandmarks.xml"
BASELINE = PLUS / "PhantomRegistrationLandmarkDetection.results.xml"


def matrix(path, source, target):
    for element in ElementTree.parse(path).iter("Transform"):
        if (element.get("From"), element.get("To")) == (source, target):
            return np.array(element.get("Matrix").split(), float).reshape(4, 4)
    raise AssertionError(f"{path.name} has no transform from {source} to {target}")


def dwells(tips, window=20, still=1.0):
    """Median tip (n, 3) of each spell of at least `window` frames within `still` mm of its running mean.

    The spells that begin with the first or end with the last frame are the stylus lying aside.
    """
    center = np.array([tips[i : i + window].mean(axis=0) for i in range(len(tips) - window)])
    rest = np.array([np.abs(tips[i : i + window] - center[i]).max() < still for i in range(len(tips) - window)])
    found = []
    start = None
    for i, quiet in enumerate([*rest, False]):
        if quiet and start is None:
            start = i
        elif not quiet and start is not None:
            spot = np.median(tips[start : i - 1 + window], axis=0)
            aside = start == 0 or i == len(rest)
            if not aside and (not found or np.linalg.norm(found[-1] - spot) > 10.0):
                found.append(spot)
            start = None
    return np.array(found)


@pytest.fixture(scope="module")
def phantom():
    """Landmarks of the phantom (8, 3), where the stylus touched them (8, 3), and PLUS's registration (4, 4)."""
    if not RECORDING.is_file():
        pytest.skip(f"the recording is not at {RECORDING}")
    stylus = read_sequence(RECORDING).stream("Stylus", "Reference").used()
    assert len(stylus.poses) > 900
    tips = stylus.poses @ matrix(CONFIGURATION, "StylusTip", "Stylus")[:, 3]
    landmarks = np.array(
        [element.get("Position").split() for element in ElementTree.parse(CONFIGURATION).iter("Landmark")],
        float,
    )
    touched = dwells(tips[:, :3])
    assert len(touched) == len(landmarks)
    return landmarks, touched, matrix(BASELINE, "Phantom", "Reference")


def test_landmarks_of_a_real_phantom_agree_with_plus(phantom):
    landmarks, touched, baseline = phantom
    result = register_landmarks(landmarks, touched)
    difference = result.target_from_source @ np.linalg.inv(baseline)
    middle = rigid.apply_to_points(baseline, landmarks.mean(axis=0))
    miss = np.linalg.norm(rigid.apply_to_points(difference, middle) - middle)
    angle = np.degrees(rigid.rotation_angle(difference))

    # PLUS reports its own residual as a mean over its own dwell detection; ours is the RMS.
    assert result.fre == pytest.approx(0.35, abs=0.05)
    assert miss < 0.3
    assert angle < 0.15
    assert result.warnings == ()
    # Both registrations carry the same recording's noise: they must agree within what ours predicts of
    # itself.
    for point in landmarks:
        here = rigid.apply_to_points(result.target_from_source, point)
        offset = here - rigid.apply_to_points(baseline, point)
        assert offset @ np.linalg.solve(result.point_covariance(here), offset) < 16.3  # chi2, 3 dof, 0.1 %

    exchanged = touched.copy()
    exchanged[[2, 5]] = exchanged[[5, 2]]
    (warning,) = register_landmarks(landmarks, exchanged).warnings
    assert "Fiducials 3 and 6 look swapped" in warning


def test_the_command_registers_the_real_phantom_as_plus_did(phantom, terminal, table):
    landmarks, touched, baseline = phantom
    names = [f"L{k}" for k in range(8)]
    source = table("touched.csv", touched[::-1], names=names[::-1], head="name,x,y,z")
    target = table("phantom.csv", landmarks, names=names, head="name,x,y,z")
    assert terminal.run("register", "landmarks", source, "--target", target) == 0
    result = terminal.result("landmarks")
    difference = np.array(result["image_from_tracker"]) @ baseline
    off = np.linalg.norm(rigid.apply_to_points(difference, landmarks) - landmarks, axis=1)
    assert off.max() < 0.45
    assert off.mean() < result["error_95_mm"] < 1.0
    assert set(result["left_out_mm"]) == set(names)
