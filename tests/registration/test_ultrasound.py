"""3D ultrasound to CT, from files to the verdict: an appearance that neither values nor edges of the CT tell alone."""

import numpy as np
import pytest
import SimpleITK as sitk
from scipy.ndimage import gaussian_filter
from scipy.spatial.transform import Rotation

from registration.errors import InputError
from registration.image.intensity import transform_of
from registration.image.ultrasound import register_ultrasound
from registration.rigid import apply_to_points


def tissue(seed=0, size=64, spacing=2.0):
    """A volume of soft lumps of several values, its middle at the origin."""
    rng = np.random.default_rng(seed)
    z, y, x = (np.indices((size, size, size)) - (size - 1) / 2) * spacing
    values = np.zeros((size, size, size))
    for _ in range(40):
        c, s = rng.uniform(-55, 55, 3), rng.uniform(6, 18, 3)
        values[((x - c[0]) / s[0]) ** 2 + ((y - c[1]) / s[1]) ** 2 + ((z - c[2]) / s[2]) ** 2 < 1] = rng.uniform(
            20, 200
        )
    image = sitk.GetImageFromArray(gaussian_filter(values, 0.7).astype(np.float32))
    image.SetSpacing([spacing] * 3)
    image.SetOrigin([-0.5 * (size - 1) * spacing] * 3)
    return image


def insonified(ct, moving_from_fixed, rng, size=40, spacing=2.0):
    """The cone of a probe in front (-y): echoes of faces across the beam, scatter not in order of the CT's values,
    speckle, and less and less behind what reflects."""
    grid = sitk.Image([size] * 3, sitk.sitkFloat32)
    grid.SetSpacing([spacing] * 3)
    grid.SetOrigin([-0.5 * (size - 1) * spacing] * 3)
    seen = sitk.Resample(ct, grid, transform_of(np.linalg.inv(moving_from_fixed)), sitk.sitkLinear, 0.0)
    values = sitk.GetArrayFromImage(seen) / 200.0
    faces = np.abs(np.gradient(values, axis=1))
    amplitude = 5.0 * faces + 0.1 + 0.4 * np.exp(-(((values - 0.5) / 0.2) ** 2))
    amplitude *= np.exp(-np.cumsum(0.1 * faces + 0.004, axis=1))
    speckle = np.hypot(*(gaussian_filter(rng.normal(size=values.shape), 0.5) for _ in range(2)))
    echo = np.log(1.0 + 30.0 * amplitude * speckle / speckle.mean())
    z, y, x = np.indices(values.shape)
    middle = (size - 1) / 2
    cone = np.hypot(x - middle, z - middle) < 0.6 * (y + 12)
    image = sitk.GetImageFromArray(np.where(cone, echo, 0.0).astype(np.float32))
    image.CopyInformation(grid)
    return image


def pose(degrees, shift):
    matrix = np.eye(4)
    matrix[:3, :3], matrix[:3, 3] = Rotation.from_rotvec(np.radians(degrees)).as_matrix(), shift
    return matrix


def miss(found, true):
    points = np.random.default_rng(1).uniform(-25, 25, (30, 3))
    return np.linalg.norm(apply_to_points(found, points) - apply_to_points(true, points), axis=1).mean()


def test_ultrasound_is_laid_on_a_ct_from_a_tracked_start(terminal, tmp_path):
    rng = np.random.default_rng(2)
    ct, true = tissue(), pose((12.0, -20.0, 8.0), (6.0, -4.0, 5.0))
    sitk.WriteImage(ct, str(tmp_path / "ct.nrrd"))
    sitk.WriteImage(insonified(ct, true, rng), str(tmp_path / "us.mha"))
    start = pose((3.0, 4.0, -3.0), (4.0, 5.0, -4.0)) @ true
    assert miss(start, true) > 6.0
    sitk.WriteTransform(transform_of(start), str(tmp_path / "tracked.tfm"))
    words = (tmp_path / "us.mha", "--fixed", tmp_path / "ct.nrrd", "--kind", "ultrasound")
    code = terminal.run("register", "image", *words, "--start", tmp_path / "tracked.tfm")
    assert code == 0, terminal.said
    assert miss(np.array(terminal.result("image")["moving_from_fixed"]), true) < 1.5
    assert "local variance explained" in terminal.said
    assert (terminal.case / "registration/image.tfm").is_file()


def test_ultrasound_of_something_else_does_not_pass():
    rng = np.random.default_rng(3)
    other = insonified(tissue(seed=9), np.eye(4), rng)
    assert register_ultrasound(tissue(), other, patches=60).verdict.level != "pass"


def test_ultrasound_that_cannot_be_used_is_named(terminal, tmp_path):
    ct = tissue(size=24, spacing=5.0)
    with pytest.raises(InputError, match="2D"):
        register_ultrasound(ct, ct[:, :, 12])
    with pytest.raises(InputError, match="empty"):
        register_ultrasound(ct, sitk.Image([24, 24, 24], sitk.sitkFloat32))
    sitk.WriteImage(ct, str(tmp_path / "ct.nrrd"))
    (tmp_path / "no.tfm").write_text("no transform")
    words = ("register", "image", tmp_path / "ct.nrrd", "--fixed", tmp_path / "ct.nrrd", "--start", tmp_path / "no.tfm")
    assert "cannot be read as a transform" in terminal.refused(*words)
    spline = sitk.BSplineTransformInitializer(ct, [2, 2, 2])
    sitk.WriteTransform(spline, str(tmp_path / "no.tfm"))
    assert "not linear" in terminal.refused(*words)
