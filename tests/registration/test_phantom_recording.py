"""A real tracked stylus on a real phantom, against the registration that PLUS found from the same
recording."""

import re
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from registration import rigid
from registration.landmarks import register_landmarks

PLUS = Path(__file__).parents[3] / "shared/data/plus_tracked_sequences"
RECORDING = PLUS / "EightLandmarkPointsTrackedForPhantomRegistration.igs.mha"
CONFIGURATION = PLUS / "PlusDeviceSet_fCal_Sim_RecordPhantomLandmarks.xml"
BASELINE = PLUS / "PhantomRegistrationLandmarkDetection.results.xml"


def transforms(tool):
    """Poses (n, 4, 4) of a tool and whether each is valid (n,), from the text header of the recording."""
    text = RECORDING.read_text(errors="replace")
    rows = dict(re.findall(rf"Seq_Frame(\d+)_{tool}Transform = ([^\n]+)", text))
    status = dict(re.findall(rf"Seq_Frame(\d+)_{tool}TransformStatus = (\w+)", text))
    poses = np.array([np.array(rows[k].split(), float).reshape(4, 4) for k in sorted(rows)])
    return poses, np.array([status[k] == "OK" for k in sorted(rows)])


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


def test_landmarks_of_a_real_phantom_agree_with_plus():
    if not RECORDING.is_file():
        pytest.skip(f"the recording is not at {RECORDING}")
    reference, reference_ok = transforms("ReferenceToTracker")
    stylus, stylus_ok = transforms("StylusToTracker")
    assert len(reference) == 1000
    tip = matrix(CONFIGURATION, "StylusTip", "Stylus")
    ok = reference_ok & stylus_ok
    tips = np.array(
        [
            rigid.compose(rigid.invert(rigid.check_rigid(r, tolerance=1e-3)), s, tip)[:3, 3]
            for r, s in zip(reference[ok], stylus[ok], strict=True)
        ]
    )
    landmarks = np.array(
        [element.get("Position").split() for element in ElementTree.parse(CONFIGURATION).iter("Landmark")],
        float,
    )
    touched = dwells(tips)
    assert len(touched) == len(landmarks)

    result = register_landmarks(landmarks, touched)
    baseline = matrix(BASELINE, "Phantom", "Reference")
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
