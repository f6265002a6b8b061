import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.linalg import expm, logm
from scipy.spatial.transform import Rotation, Slerp

from registration import rigid
from registration.errors import InputError

seeds = st.integers(0, 2**32 - 1)
few = settings(max_examples=30, deadline=None)


def random_transform(rng: np.random.Generator, reach: float = 500.0) -> np.ndarray:
    matrix = np.eye(4)
    matrix[:3, :3] = Rotation.random(rng=rng).as_matrix()
    matrix[:3, 3] = rng.uniform(-reach, reach, 3)
    return matrix


def hat(xi: np.ndarray) -> np.ndarray:
    w, t = xi[:3], xi[3:]
    return np.array([[0, -w[2], w[1], t[0]], [w[2], 0, -w[0], t[1]], [-w[1], w[0], 0, t[2]], [0, 0, 0, 0]])


@few
@given(seeds)
def test_quaternions_agree_with_scipy_for_every_rotation(seed):
    rng = np.random.default_rng(seed)
    matrix = random_transform(rng)
    ours = rigid.quaternion_from_matrix(matrix)
    theirs = Rotation.from_matrix(matrix[:3, :3]).as_quat(scalar_first=True, canonical=True)
    np.testing.assert_allclose(ours * np.sign(ours @ theirs), theirs, atol=1e-12)
    np.testing.assert_allclose(rigid.matrix_from_quaternion(ours, matrix[:3, 3]), matrix, atol=1e-12)


@pytest.mark.parametrize("axis", [(1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 1, 0), (0.1, -1, 1)])
def test_half_turns_have_their_quaternion(axis):
    vector = np.pi * np.array(axis) / np.linalg.norm(axis)
    matrix = Rotation.from_rotvec(vector).as_matrix()
    again = rigid.matrix_from_quaternion(rigid.quaternion_from_matrix(matrix))[:3, :3]
    np.testing.assert_allclose(again, matrix, atol=1e-12)
    assert rigid.rotation_angle(matrix) == pytest.approx(np.pi, abs=1e-9)


@few
@given(seeds)
def test_composition_and_inverse_act_as_on_points(seed):
    rng = np.random.default_rng(seed)
    a, b, points = random_transform(rng), random_transform(rng), rng.normal(size=(5, 3)) * 100
    there = rigid.apply_to_points(a, rigid.apply_to_points(b, points))
    np.testing.assert_allclose(rigid.apply_to_points(rigid.compose(a, b), points), there, atol=1e-9)
    np.testing.assert_allclose(
        rigid.apply_to_points(rigid.invert(a), there), rigid.apply_to_points(b, points), atol=1e-9
    )
    np.testing.assert_allclose(rigid.invert(a), np.linalg.inv(a), atol=1e-9)
    difference = rigid.apply_to_points(a, points[0]) - rigid.apply_to_points(a, points[1])
    np.testing.assert_allclose(rigid.apply_to_vectors(a, points[0] - points[1]), difference, atol=1e-9)


@few
@given(seeds, st.floats(1e-9, 3.0))
def test_exponential_is_the_matrix_exponential(seed, angle):
    xi = np.random.default_rng(seed).normal(size=6)
    xi[:3] *= angle / np.linalg.norm(xi[:3])
    np.testing.assert_allclose(rigid.exponential(xi), expm(hat(xi)), atol=1e-10)


@few
@given(seeds)
def test_adjoint_moves_an_exponential_through_a_transform(seed):
    rng = np.random.default_rng(seed)
    matrix, xi = random_transform(rng, 50.0), rng.normal(size=6) * 0.1
    moved = logm(matrix @ expm(hat(xi)) @ np.linalg.inv(matrix)).real
    np.testing.assert_allclose(hat(rigid.adjoint(matrix) @ xi), moved, atol=1e-8)


@few
@given(seeds, st.floats(0, 1))
def test_interpolation_agrees_with_scipy_slerp(seed, fraction):
    rng = np.random.default_rng(seed)
    a, b = random_transform(rng), random_transform(rng)
    expected = Slerp([0, 1], Rotation.from_matrix([a[:3, :3], b[:3, :3]]))(fraction).as_matrix()
    result = rigid.interpolate(a, b, fraction)
    np.testing.assert_allclose(result[:3, :3], expected, atol=1e-9)
    np.testing.assert_allclose(result[:3, 3], a[:3, 3] + fraction * (b[:3, 3] - a[:3, 3]), atol=1e-9)


def test_slerp_takes_the_short_way_round():
    a = Rotation.from_euler("z", 10, degrees=True).as_quat(scalar_first=True)
    b = -Rotation.from_euler("z", 30, degrees=True).as_quat(scalar_first=True)
    middle = Rotation.from_quat(rigid.slerp(a, b, 0.5), scalar_first=True)
    assert middle.as_euler("zyx", degrees=True)[0] == pytest.approx(20.0)


def test_skew_is_the_cross_product():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(4, 3)), rng.normal(size=(4, 3))
    np.testing.assert_allclose(np.einsum("nij,nj->ni", rigid.skew(a), b), np.cross(a, b))


@pytest.mark.parametrize(
    ("matrix", "words"),
    [
        (np.eye(3), "shape"),
        (np.diag([1.0, 1.0, -1.0, 1.0]), "reflection"),
        (np.diag([2.0, 1.0, 1.0, 1.0]), "scales"),
        (np.full((4, 4), np.nan), "finite"),
        ([[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [5, 0, 0, 1]], "last row"),
        ("identity", "numbers"),
    ],
)
def test_matrices_that_are_not_rigid_are_refused(matrix, words):
    with pytest.raises(InputError, match=words):
        rigid.check_rigid(matrix, "image_from_tracker")


def test_a_missing_pose_of_zeros_is_refused_rather_than_made_an_identity():
    with pytest.raises(InputError, match="length 0"):
        rigid.matrix_from_quaternion((0.0, 0.0, 0.0, 0.0))
    with pytest.raises(InputError, match="length nan"):
        rigid.matrix_from_quaternion((np.nan, 0.0, 0.0, 0.0))


def test_poses_are_not_extrapolated():
    with pytest.raises(InputError, match="outside 0 to 1"):
        rigid.interpolate(np.eye(4), np.eye(4), 1.2)
