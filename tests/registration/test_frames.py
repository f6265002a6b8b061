import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.linalg import expm
from scipy.spatial.transform import Rotation

from registration.errors import InputError
from registration.frames import FrameGraph
from registration.pose_error import PoseError

few = settings(max_examples=25, deadline=None)


def random_transform(rng, reach=300.0):
    matrix = np.eye(4)
    matrix[:3, :3] = Rotation.random(rng=rng).as_matrix()
    matrix[:3, 3] = rng.uniform(-reach, reach, 3)
    return matrix


def random_covariance(rng, angle=2e-3, length=0.3):
    root = rng.normal(size=(6, 6)) * np.repeat([angle, length], 3)[:, None]
    return root @ root.T / 6


def hat(xi):
    w, t = xi[:3], xi[3:]
    return np.array([[0, -w[2], w[1], t[0]], [w[2], 0, -w[0], t[1]], [-w[1], w[0], 0, t[2]], [0, 0, 0, 0]])


def navigation(rng):
    """image <- reference <- tracker <- tool, the middle edge stored the other way round."""
    graph = FrameGraph()
    a, b, c = (random_transform(rng) for _ in range(3))
    sa, sb, sc = (random_covariance(rng) for _ in range(3))
    graph.set("image", "reference", a, sa)
    graph.set("tracker", "reference", b, sb, time_ns=1_000)
    graph.set("tracker", "tool", c, sc, time_ns=3_000)
    return graph, (a, b, c), (sa, sb, sc)


@few
@given(st.integers(0, 2**32 - 1))
def test_chains_compose_and_invert(seed):
    graph, (a, b, c), _ = navigation(np.random.default_rng(seed))
    np.testing.assert_allclose(graph.get("image", "tool").matrix, a @ np.linalg.inv(b) @ c, atol=1e-9)
    np.testing.assert_allclose(graph.get("tool", "image").matrix, np.linalg.inv(a @ np.linalg.inv(b) @ c), atol=1e-9)


@few
@given(st.integers(0, 2**32 - 1))
def test_covariance_of_the_inverse_way_inverts_back(seed):
    graph, _, _ = navigation(np.random.default_rng(seed))
    there, back = graph.get("image", "tool"), graph.get("tool", "image")
    other = FrameGraph()
    other.set("tool", "image", back.matrix, back.covariance)
    np.testing.assert_allclose(other.get("image", "tool").covariance, there.covariance, rtol=1e-5, atol=1e-7)


def test_composed_covariance_is_what_sampling_gives():
    rng = np.random.default_rng(7)
    graph, matrices, covariances = navigation(rng)
    point, point_covariance = np.array([5.0, -20.0, 120.0]), np.diag([0.02, 0.05, 0.01])
    moved, predicted = graph.transform_point("image", "tool", point, point_covariance)
    samples = []
    roots = [np.linalg.cholesky(s + 1e-18 * np.eye(6)) for s in covariances]
    for _ in range(6000):
        noisy = [expm(hat(root @ rng.normal(size=6))) @ matrix for matrix, root in zip(matrices, roots, strict=True)]
        tip = point + np.sqrt(np.diag(point_covariance)) * rng.normal(size=3)
        samples.append((noisy[0] @ np.linalg.inv(noisy[1]) @ noisy[2] @ [*tip, 1.0])[:3])
    actual = np.cov(np.array(samples).T)
    np.testing.assert_allclose(moved, np.mean(samples, axis=0), atol=0.1)
    # Each entry of a sample covariance of 6000 draws wanders by about 2 % of the scale.
    np.testing.assert_allclose(predicted, actual, atol=0.06 * np.trace(actual) / 3)


@few
@given(st.integers(0, 2**32 - 1))
def test_moving_the_world_turns_the_point_covariance_and_nothing_else(seed):
    rng = np.random.default_rng(seed)
    graph, _, _ = navigation(rng)
    world = random_transform(rng)
    before_point, before = graph.transform_point("image", "tool", (1.0, 2.0, 3.0))
    graph.set("world", "image", world)
    point, covariance = graph.transform_point("world", "tool", (1.0, 2.0, 3.0))
    np.testing.assert_allclose(point, world[:3, :3] @ before_point + world[:3, 3], atol=1e-9)
    np.testing.assert_allclose(covariance, world[:3, :3] @ before @ world[:3, :3].T, rtol=1e-5, atol=1e-7)


def test_setting_again_either_way_round_replaces():
    graph = FrameGraph()
    shift = np.eye(4)
    shift[0, 3] = 5.0
    graph.set("image", "tracker", np.eye(4))
    graph.set("tracker", "image", shift)
    assert graph.get("image", "tracker").matrix[0, 3] == -5.0
    graph.set("image", "tracker", shift)
    assert graph.get("image", "tracker").matrix[0, 3] == 5.0
    assert graph.get("tracker", "image").matrix[0, 3] == -5.0
    assert graph.frames == ("image", "tracker")


def test_the_oldest_measurement_gives_the_age():
    graph, _, _ = navigation(np.random.default_rng(0))
    assert graph.age_ns("image", "tool", 5_000) == 4_000
    assert graph.age_ns("tracker", "tool", 5_000) == 2_000
    assert graph.age_ns("image", "reference", 5_000) is None


def test_a_frame_seen_from_itself_is_exact():
    graph, _, _ = navigation(np.random.default_rng(0))
    pose = graph.get("tool", "tool")
    np.testing.assert_array_equal(pose.matrix, np.eye(4))
    np.testing.assert_array_equal(pose.covariance, np.zeros((6, 6)))


def test_unjoined_unknown_and_looping_frames_are_refused():
    graph, _, _ = navigation(np.random.default_rng(0))
    graph.set("camera", "lens", np.eye(4))
    with pytest.raises(InputError, match="'lens' to frame 'image'"):
        graph.get("image", "lens")
    with pytest.raises(InputError, match="'probe' is not known; known frames are image, reference"):
        graph.get("image", "probe")
    with pytest.raises(InputError, match="'probe' is not known"):
        graph.get("probe", "probe")
    with pytest.raises(InputError, match="close a loop"):
        graph.set("image", "tool", np.eye(4))
    with pytest.raises(InputError, match="itself"):
        graph.set("image", "image", np.eye(4))
    with pytest.raises(InputError, match="image_from_probe scales"):
        graph.set("image", "probe", np.diag([2.0, 1, 1, 1]))
    with pytest.raises(InputError, match="probe"):  # a refused edge leaves nothing behind
        graph.get("image", "probe")


@pytest.mark.parametrize(
    ("covariance", "words"),
    [
        (np.eye(3), "shape"),
        (np.full((6, 6), np.nan), "finite"),
        (np.triu(np.ones((6, 6))), "symmetric"),
        (-np.eye(6), "non-negative diagonal"),
        (np.eye(6) + 2.0 * (np.eye(6, k=1) + np.eye(6, k=-1)), "negative eigenvalue"),
    ],
)
def test_covariances_that_are_none_are_refused(covariance, words):
    with pytest.raises(InputError, match=words):
        FrameGraph().set("a", "b", np.eye(4), covariance)


@given(st.integers(0, 2**32 - 1))
def test_the_mean_square_of_a_pose_error_is_the_trace_of_its_covariance(seed):
    rng = np.random.default_rng(seed)
    root = rng.normal(size=(6, 6))
    error = PoseError(root @ root.T, rng.normal(size=3) * 50)
    point = rng.normal(size=3) * 100
    assert error.mean_square(point) == pytest.approx(np.trace(error.point_covariance(point)))
    elsewhere = error.about(rng.normal(size=3) * 80)
    np.testing.assert_allclose(elsewhere.point_covariance(point), error.point_covariance(point), rtol=1e-8, atol=1e-8)
