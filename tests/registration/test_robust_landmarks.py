import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from registration import rigid
from registration.errors import InputError
from registration.landmarks import register_landmarks
from registration.robust_landmarks import fit_similarity, leave_one_out, match_landmarks, register_without_outliers

few = settings(max_examples=20, deadline=None)
seeds = st.integers(0, 2**32 - 1)

SPATIAL = np.array([[0, 0, 0], [90, 5, 10], [20, 70, -15], [60, 40, 55], [10, -30, 40], [-25, 30, 35.0]])
EIGHT = np.vstack([SPATIAL, [[70, -35, -20], [-10, 60, 60.0]]])
NAMES = list("ABCDEFGH")


def random_transform(rng):
    matrix = np.eye(4)
    matrix[:3, :3], matrix[:3, 3] = Rotation.random(rng=rng).as_matrix(), rng.uniform(-500, 500, 3)
    return matrix


@few
@given(seeds)
def test_two_outliers_of_eight_are_left_out_and_named(seed):
    rng = np.random.default_rng(seed)
    truth = random_transform(rng)
    target = rigid.apply_to_points(truth, EIGHT) + rng.normal(size=EIGHT.shape) * 0.2
    bad = rng.choice(8, 2, replace=False)
    moves = rng.normal(size=(2, 3))
    target[bad] += moves / np.linalg.norm(moves, axis=1)[:, None] * rng.uniform(8, 40, (2, 1))
    result = register_without_outliers(EIGHT, target, fle=0.35, names=NAMES)
    assert {left.name for left in result.excluded} == {NAMES[i] for i in bad}
    assert all(left.distance > 5.0 and left.expected < 1.5 for left in result.excluded)
    clean = np.setdiff1d(range(8), bad)
    again = register_landmarks(EIGHT[clean], target[clean])
    np.testing.assert_allclose(result.registration.target_from_source, again.target_from_source, atol=1e-9)


def test_an_outlier_is_found_without_knowing_the_localization_error():
    rng = np.random.default_rng(0)
    for which in range(8):
        target = EIGHT + rng.normal(size=EIGHT.shape) * 0.3
        target[which] += (7, -8, 6)
        excluded = register_without_outliers(EIGHT, target, names=NAMES).excluded
        assert [left.name for left in excluded] == [NAMES[which]]


@pytest.mark.parametrize("fle", [0.5, None])
def test_good_fiducials_are_seldom_left_out(fle):
    rng = np.random.default_rng(1)
    excluded = sum(
        len(register_without_outliers(EIGHT, EIGHT + rng.normal(size=EIGHT.shape) * 0.5 / np.sqrt(3), fle=fle).excluded)
        for _ in range(150)
    )
    assert excluded <= 0.02 * 8 * 150


def test_no_majority_is_said():
    rng = np.random.default_rng(2)
    with pytest.raises(InputError, match="no 5 of 8 fiducials agree"):
        register_without_outliers(EIGHT, EIGHT + rng.normal(size=EIGHT.shape) * 20.0, fle=0.5)
    with pytest.raises(InputError, match="4 fiducials cannot outvote"):
        register_without_outliers(EIGHT[:4], EIGHT[:4])


def test_leaving_one_out_predicts_its_own_distance():
    rng = np.random.default_rng(3)
    ratios, fle = [], 0.3 * np.sqrt(3)
    for _ in range(150):
        target = SPATIAL + rng.normal(size=SPATIAL.shape) * 0.3
        ratios += [(left.distance / left.expected) ** 2 for left in leave_one_out(SPATIAL, target, fle=fle)]
    assert np.mean(ratios) == pytest.approx(1.0, abs=0.1)


@few
@given(seeds)
def test_points_in_any_order_with_extra_ones_are_matched(seed):
    rng = np.random.default_rng(seed)
    truth, order = random_transform(rng), rng.permutation(6)
    target = np.vstack(
        [
            rigid.apply_to_points(truth, EIGHT[:6])[order] + rng.normal(size=(6, 3)) * 0.2,
            rigid.apply_to_points(truth, rng.uniform(-150, -80, (2, 3))),  # away from all others
        ]
    )
    result = match_landmarks(EIGHT[:7], target, tolerance=2.0, names=NAMES[:7])
    assert dict(zip(result.source.tolist(), result.target.tolist(), strict=True)) == {
        int(order[k]): k for k in range(6)
    }
    assert result.unmatched_source == ("G",)
    assert result.unmatched_target == (6, 7)
    difference = result.registration.target_from_source @ np.linalg.inv(truth)
    assert rigid.rotation_angle(difference) < 0.02


def test_a_symmetric_arrangement_is_refused_not_guessed():
    square = np.array([[0, 0, 0], [100, 0, 0], [100, 100, 0], [0, 100, 0.0]])
    with pytest.raises(InputError, match="fits in two ways"):
        match_landmarks(square, square, tolerance=2.0)


def test_mirrored_points_are_named():
    with pytest.raises(InputError, match="mirror"):
        match_landmarks(EIGHT, EIGHT * (1, -1, 1), tolerance=2.0)


def test_points_that_do_not_agree_are_refused():
    with pytest.raises(InputError, match="no three points"):
        match_landmarks(EIGHT, EIGHT * 10.0 + np.arange(8)[:, None] ** 2 * 7.0, tolerance=1.0)
    with pytest.raises(InputError, match="2 source"):
        match_landmarks(EIGHT[:2], EIGHT, tolerance=1.0)


@pytest.mark.parametrize("order", [[1, 2, 0, 3, 4, 5], [3, 4, 5, 0, 1, 2], [5, 4, 3, 2, 1, 0]])
def test_labels_mixed_among_more_than_two_are_named(order):
    rng = np.random.default_rng(5)
    target = SPATIAL[order] + rng.normal(size=SPATIAL.shape) * 0.3
    (warning,) = register_landmarks(SPATIAL, target, names=NAMES[:6]).warnings
    back = np.argsort(order)
    for i in np.flatnonzero(back != np.arange(6)):
        assert f"{NAMES[i]} is {NAMES[back[i]]}" in warning


def test_four_mirrored_fiducials_are_named_where_the_error_is_known():
    warnings = register_landmarks(SPATIAL[:4], SPATIAL[:4] * (1, 1, -1), fle=0.5).warnings
    assert "mirror" in warnings[0]


def test_four_mirrored_fiducials_are_named_as_a_mirror_and_one_displaced_is_not():
    mirrors = 0
    for seed in range(40):
        rng = np.random.default_rng(seed)
        points = rng.uniform(-80, 80, (4, 3))
        noise = rng.normal(size=points.shape) * 0.4
        mirrors += any(
            "mirror image" in said for said in register_landmarks(points, points * (-1, 1, 1) + noise).warnings
        )
        displaced = points + noise
        displaced[2] += rng.normal(size=3) * 15.0
        assert not any("mirror" in said for said in register_landmarks(points, displaced).warnings)
    assert mirrors >= 36


def test_of_four_that_lie_alike_on_both_sides_a_mirror_is_named_beside_a_swap():
    head = np.array([[75.0, 0, 0], [-75, 2, 1], [0, -90, 20], [1, 5, 110]])  # ears, nose, crown
    noise = np.random.default_rng(8).normal(size=head.shape) * 0.4
    (warning,) = register_landmarks(head, head * (-1, 1, 1) + noise, names=["left", "right", "nose", "crown"]).warnings
    assert "left and right look swapped" in warning
    assert "A mirror image fits as well" in warning
    lopsided = SPATIAL[:4]
    (warning,) = register_landmarks(lopsided, lopsided[[1, 0, 2, 3]] + noise, names=NAMES[:4]).warnings
    assert "swapped" in warning
    assert "mirror" not in warning


def test_units_that_differ_are_named_and_a_scale_is_found_only_on_request():
    rng = np.random.default_rng(6)
    meters = (SPATIAL + rng.normal(size=SPATIAL.shape) * 0.2) / 1000.0
    assert "0.001 times as far apart" in register_landmarks(SPATIAL, meters).warnings[0]
    assert "1000 times as far apart" in register_landmarks(meters, np.round(meters * 1e6) / 1e3).warnings[0]
    fit = fit_similarity(SPATIAL, meters)
    assert abs(fit.scale - 0.001) < 3 * fit.scale_std
    assert fit.scale_std < 1e-5
