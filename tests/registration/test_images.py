from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from scipy.ndimage import gaussian_filter

from registration.absolute_orientation import fit_points, residuals_of
from registration.errors import InputError
from registration.image.deformable import register_deformable
from registration.image.intensity import matrix_of, register_images, resample, transform_of
from registration.image.quality import check_jacobian, checkerboard, landmark_errors, thin_plate_warp

DATA = Path(__file__).parents[3] / "shared/data"
COURSE = DATA / "itk_course_multimodal"


def needed(path):
    if not path.exists():
        pytest.skip(f"the data are not at {path}")
    return path


def body(size=48, spacing=4.0, seed=0):
    """A lumpy body of several tissues in an image of about 190 mm."""
    rng = np.random.default_rng(seed)
    z, y, x = (np.indices((size, size, size)) - size / 2) * spacing
    skin = np.sqrt((x / 80) ** 2 + (y / 65) ** 2 + (z / 75) ** 2) < 1 + 0.15 * np.sin(x / 20) + 0.1 * np.cos(y / 17 + 1)
    values = 40.0 * skin
    for _ in range(14):
        c, r = rng.uniform(-45, 45, 3), rng.uniform(8, 22, 3)
        values[((x - c[0]) / r[0]) ** 2 + ((y - c[1]) / r[1]) ** 2 + ((z - c[2]) / r[2]) ** 2 < 1] = rng.uniform(
            60, 255
        )
    image = sitk.GetImageFromArray(gaussian_filter(values * skin, 0.7).astype(np.float32))
    image.SetSpacing([spacing] * 3)
    image.SetOrigin([-0.5 * size * spacing + 30] * 3)
    return image


def other_modality(image, seed=0):
    """Tissues in another, not monotonic, order of brightness, with a bias field and noise."""
    rng = np.random.default_rng(seed)
    a = sitk.GetArrayFromImage(image) / 255.0
    z, y, _ = np.indices(a.shape) / a.shape[0]
    values = (np.sin(3.8 * a) * 180 + 40 * (a > 0.5)) * (1 + 0.25 * np.sin(3 * z) + 0.15 * y)
    result = sitk.GetImageFromArray((values + rng.normal(size=a.shape) * 6.0).astype(np.float32))
    result.CopyInformation(image)
    return result


def moved(rng, center, shift=20.0, degrees=15.0):
    axis = rng.normal(size=3)
    transform = sitk.VersorRigid3DTransform(
        (axis / np.linalg.norm(axis)).tolist(), np.radians(rng.uniform(-1, 1) * degrees)
    )
    transform.SetCenter(np.asarray(center, float).tolist())
    transform.SetTranslation(rng.uniform(-shift, shift, 3).tolist())
    return transform


def miss(transform, truth, points):
    return np.mean([np.linalg.norm(np.subtract(transform.TransformPoint(p), truth.TransformPoint(p))) for p in points])


POINTS = [[float(v) for v in p] for p in np.random.default_rng(5).uniform(-20, 80, (20, 3))]


def test_rigid_registration_across_modalities_from_far_starts():
    rng = np.random.default_rng(1)
    fixed = body()
    truth = moved(rng, (30, 30, 30))
    grid = sitk.Image([56] * 3, sitk.sitkFloat32)
    grid.SetSpacing([4.0] * 3)
    grid.SetOrigin([-90.0] * 3)
    moving = other_modality(sitk.Resample(fixed, grid, truth.GetInverse(), sitk.sitkLinear, 0.0))
    for seed in range(4):
        off = moved(np.random.default_rng(seed), (30, 30, 30))
        result = register_images(fixed, moving, start=sitk.CompositeTransform([truth, off]))
        assert miss(result.transform, truth, POINTS) < 1.0
        assert result.verdict.level == "pass"
        assert result.mutual_information > result.start_information
    again = register_images(fixed, moving, start=sitk.CompositeTransform([truth, off]))
    np.testing.assert_allclose(again.moving_from_fixed, result.moving_from_fixed, atol=1e-9)


def test_affine_finds_a_scale_and_matrices_convert_both_ways():
    fixed = body()
    matrix = np.eye(4)
    matrix[:3, :3] = np.diag([1.08, 0.95, 1.0])
    matrix[:3, 3] = (4.0, -3.0, 5.0)
    truth = transform_of(matrix)
    np.testing.assert_allclose(matrix_of(truth), matrix, atol=1e-9)
    moving = sitk.Resample(fixed, fixed, truth.GetInverse(), sitk.sitkLinear, 0.0)
    result = register_images(fixed, moving, kind="affine")
    assert miss(result.transform, truth, POINTS) < 1.0


def test_slices_shifted_by_13_and_17_pixels():
    fixed = sitk.ReadImage(str(needed(COURSE / "BrainProtonDensitySliceBorder20.png")))
    moving = sitk.ReadImage(str(COURSE / "BrainProtonDensitySliceShifted13x17y.png"))
    for kind in ("translation", "rigid"):
        result = register_images(fixed, moving, kind=kind)
        np.testing.assert_allclose(matrix_of(result.transform) @ (110, 128, 1), (123, 145, 1), atol=0.02)
        assert result.verdict.level == "pass"


def test_images_that_have_nothing_in_common_do_not_pass():
    rng = np.random.default_rng(2)
    fixed = body()
    noise = sitk.GetImageFromArray(rng.normal(size=(48, 48, 48)).astype(np.float32))
    noise.CopyInformation(fixed)
    assert register_images(fixed, noise).verdict.level != "pass"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda im: im * 0 + 3, "same value everywhere"),
        (lambda im: im[:4], "too small"),
        (lambda im: im[:, :, 10], "3D and the moving one 2D"),
        (lambda im: im / 0.0 - im / 0.0, "not finite|same value"),
    ],
)
def test_images_that_cannot_be_registered_are_refused(change, words):
    image = body()
    with pytest.raises(InputError, match=words):
        register_images(image, change(image))


def bent(image, seed=3, size=20.0):
    rng = np.random.default_rng(seed)
    bend = sitk.BSplineTransformInitializer(image, [3, 3, 3], order=3)
    bend.SetParameters((rng.uniform(-1, 1, len(bend.GetParameters())) * size).tolist())
    return bend


@pytest.mark.parametrize(("method", "left"), [("b-spline", 0.5), ("demons", 0.6)])
def test_a_known_deformation_is_mostly_found_and_does_not_fold(method, left):
    fixed = body()
    truth = bent(fixed)
    field = sitk.TransformToDisplacementField(
        truth, sitk.sitkVectorFloat64, fixed.GetSize(), fixed.GetOrigin(), fixed.GetSpacing(), fixed.GetDirection()
    )
    inverse = sitk.DisplacementFieldTransform(sitk.InvertDisplacementField(field, maximumNumberOfIterations=40))
    moving = sitk.Resample(fixed, fixed, inverse, sitk.sitkLinear, 0.0)
    moving = moving if method == "demons" else other_modality(moving)
    inside = [p for p in POINTS if np.linalg.norm(np.subtract(p, 30)) < 55]
    before = miss(sitk.Transform(3, sitk.sitkIdentity), truth, inside)
    result = register_deformable(fixed, moving, method=method, spacing_mm=4.0)
    assert miss(result.transform, truth, inside) < left * before
    assert result.jacobian.smallest > 0.0
    assert result.verdict.level in ("pass", "check")


def test_folds_are_found():
    image = body()
    assert check_jacobian(sitk.Transform(3, sitk.sitkIdentity), image).folded == 0.0
    assert check_jacobian(bent(image, size=90.0), image).folded > 0.01
    scaling = sitk.ScaleTransform(3, [1.1, 1.0, 1.0])
    assert check_jacobian(scaling, image).smallest == pytest.approx(1.1)


def test_a_checkerboard_of_an_image_with_itself_is_the_image():
    image = body()
    picture = checkerboard(image, resample(image, image, sitk.Transform(3, sitk.sitkIdentity)))
    assert picture.shape == (48, 3 * 52)
    assert 0.0 <= picture.min() < picture.max() <= 1.0
    values = sitk.GetArrayFromImage(image)[24]
    low, high = np.quantile(sitk.GetArrayFromImage(image), (0.01, 0.99))
    np.testing.assert_allclose(picture[:, :48], np.clip((values - low) / (high - low), 0, 1), atol=1e-6)


def test_lung_landmarks_fit_as_published():
    folder = needed(DATA / "elastix_examples")
    fixed, moving = (
        np.loadtxt(folder / f"CT_3D_lung_{name}_point_set_corrected.txt", skiprows=2) for name in ("fixed", "moving")
    )
    assert np.linalg.norm(fixed - moving, axis=1).mean() == pytest.approx(35.3, abs=0.1)
    rigid = residuals_of(fit_points(fixed[None], moving[None]), fixed, moving)[0]
    assert np.sqrt(np.mean(rigid**2)) == pytest.approx(4.13, abs=0.02)
    rows = np.column_stack([fixed, np.ones(len(fixed))])
    affine = np.linalg.lstsq(rows, moving, rcond=None)[0]
    assert np.sqrt(np.mean(np.sum((rows @ affine - moving) ** 2, axis=1))) == pytest.approx(3.23, abs=0.02)
    warp = thin_plate_warp(fixed, moving)
    assert warp.leave_one_out.mean() <= 2.31
    np.testing.assert_allclose(warp(fixed), moving, atol=1e-6)
    errors = landmark_errors(transform_of(np.vstack([affine.T, [0, 0, 0, 1]])), fixed, moving)
    assert np.sqrt(np.mean(errors**2)) == pytest.approx(3.23, abs=0.02)
