"""The overlay of a headset: against motions known beforehand, and in an emulated headset whose controller touches."""

import asyncio
import json

import numpy as np
import pytest
from aiohttp.test_utils import TestClient, TestServer
from scipy.spatial.transform import Rotation

from viewer.ar_model import ArModel
from viewer.ar_page import ArServer
from viewer.ar_registration import Observation, lay_over, meeting_point, read_observations
from viewer.errors import InputError

ANCHORS = {
    "nose": (0.0, 0.02, 0.11),
    "left ear": (0.08, 0.0, 0.0),
    "right ear": (-0.08, 0.01, 0.0),
    "brow": (0.01, 0.07, 0.09),
    "chin": (0.0, -0.06, 0.09),
    "crown": (0.0, 0.12, -0.02),
}


def motion(seed):
    rng = np.random.default_rng(seed)
    matrix = np.eye(4)
    matrix[:3, :3] = Rotation.random(random_state=seed).as_matrix()
    matrix[:3, 3] = rng.uniform(-2.0, 2.0, 3)
    return matrix, rng


def moved(matrix, place):
    return tuple((matrix[:3, :3] @ np.array(place) + matrix[:3, 3]).tolist())


@pytest.mark.parametrize("seed", range(4))
def test_touched_fiducials_give_back_the_motion_and_rays_do_too(seed):
    matrix, rng = motion(seed)
    touched = [Observation(name, moved(matrix, place)) for name, place in ANCHORS.items()]
    np.testing.assert_allclose(lay_over(ANCHORS, touched).headset_from_model, matrix, atol=1e-9)
    pointed = []
    for name, place in ANCHORS.items():
        goal = np.array(moved(matrix, place))
        eyes = goal + np.array([(0.5, 0.1, 0.2), (-0.4, 0.3, 0.3), (0.0, -0.1, 0.6)])
        length = rng.uniform(0.2, 3.0, (3, 1))
        pointed.append(Observation(name, None, tuple(map(tuple, np.hstack([eyes, length * (goal - eyes)]).tolist()))))
    found = lay_over(ANCHORS, pointed[:4])
    np.testing.assert_allclose(found.headset_from_model, matrix, atol=1e-7)
    plain = found.as_plain()
    np.testing.assert_allclose(np.array(plain["matrix"]).reshape(4, 4).T, matrix, atol=1e-7)


def test_the_error_that_is_told_holds_what_it_says():
    """2 mm a touch, 400 times: the vessel's middle lies within the told radius of its place in 95 % at least."""
    matrix, rng = motion(7)
    inside = []
    for _ in range(400):
        touched = [
            Observation(name, tuple((np.array(moved(matrix, place)) + rng.normal(0.0, 0.002 / np.sqrt(3), 3)).tolist()))
            for name, place in ANCHORS.items()
        ]
        found = lay_over(ANCHORS, touched)
        off = 1e3 * np.linalg.norm(found.headset_from_model[:3, 3] - matrix[:3, 3])
        inside.append(off <= found.error_mm)
    assert np.mean(inside) > 0.92


def test_what_cannot_be_laid_over_is_refused_in_words():
    matrix, _ = motion(1)
    touched = [Observation(name, moved(matrix, place)) for name, place in ANCHORS.items()]
    for given, words in (
        (touched[:2], "at least 3"),
        ([*touched, touched[0]], "given twice"),
        ([Observation("knee", (0.0, 0.0, 0.0)), *touched], "no fiducial knee"),
        ([Observation("nose", (np.nan, 0.0, 0.0)), *touched[1:]], "no finite place"),
        ([Observation("nose"), *touched[1:]], "from two sides"),
        ([Observation(one.name, (1.0, 1.0, 1.0)) for one in touched], "same place"),
    ):
        with pytest.raises(InputError, match=words):
            lay_over(ANCHORS, given)
    ray = np.array([0.0, 0.0, 0.0, 0.0, 0.0, -1.0])
    for other, words in (
        ((0.01, 0.0, 0.0, 0.0, 0.02, -1.0), "same side"),
        ((1.0, 0.3, -1.0, -1.0, 0.0, 0.0), "pass each other by"),
        ((1.0, 0.0, 1.0, -1.0, 0.0, 0.0), "behind the hand"),
        ((1.0, 0.0, 1.0, 0.0, 0.0, 0.0), "no direction"),
    ):
        with pytest.raises(InputError, match=words):
            meeting_point(np.array([ray, other]))
    for bad in (None, "x", [{"name": 3}], [{"name": "a", "point": [1, 2]}], [{"name": "a", "more": 1}]):
        with pytest.raises(InputError, match="cannot be read"):
            read_observations(bad)
    with pytest.raises(InputError, match="too many"):
        read_observations([{"name": str(n)} for n in range(60)])


def test_an_overlay_that_is_far_off_is_not_laid_over():
    matrix, rng = motion(2)
    touched = [
        Observation(name, tuple((np.array(moved(matrix, place)) + rng.normal(0.0, 0.03, 3)).tolist()))
        for name, place in ANCHORS.items()
    ]
    found = lay_over(ANCHORS, touched)
    assert found.level == "fail"
    assert not found.as_plain()["ok"]
    assert "FRE" in found.words


def test_a_page_that_registers_is_answered_and_no_other(lumen):
    center = np.array(lumen.center)
    planned = {name: center + 1e3 * np.array(place)[[0, 2, 1]] * (1, -1, 1) for name, place in ANCHORS.items()}
    model = ArModel(lumen, anchors=planned, triangles=3000)
    for name, place in ANCHORS.items():  # metres, y up: as the page has them
        np.testing.assert_allclose(model.anchors_m[name], place, atol=1e-9)
    matrix, _ = motion(3)
    wish = {
        "do": "register",
        "fiducials": [{"name": name, "point": moved(matrix, place)} for name, place in ANCHORS.items()],
    }

    async def visit():
        served = TestServer(ArServer(model, lambda: None).application())
        async with (
            TestClient(served) as client,
            client.ws_connect("/stream") as one,
            client.ws_connect("/stream") as other,
        ):
            await one.send_str(json.dumps(wish))
            answer = json.loads(await one.receive_str(timeout=5))
            await one.send_str(json.dumps({"do": "register", "fiducials": wish["fiducials"][:1]}))
            refused = json.loads(await one.receive_str(timeout=5))
            with pytest.raises(asyncio.TimeoutError):
                await other.receive(timeout=0.3)
            return answer["registration"], refused["registration"]

    answer, refused = asyncio.run(visit())
    assert answer["ok"]
    np.testing.assert_allclose(np.array(answer["matrix"]).reshape(4, 4).T, matrix, atol=1e-7)
    assert not refused["ok"]
    assert "at least 3" in refused["words"]
