"""Volumes as hospitals export them, and what is none."""

import numpy as np
import pytest
import SimpleITK as sitk

from meshes.errors import InputError
from meshes.grid import Grid
from meshes.image import read_image


def oblique(kind=sitk.sitkInt16):
    image = sitk.GetImageFromArray(np.random.default_rng(0).integers(-1000, 1000, (7, 6, 5)))
    image = sitk.Cast(image, kind)
    image.SetSpacing((0.7, 0.8, 1.9))
    image.SetOrigin((-12.5, 44.0, 3.25))
    rotation = sitk.Euler3DTransform((0, 0, 0), 0.2, -0.3, 0.1).GetMatrix()
    image.SetDirection(rotation)
    return image


@pytest.mark.parametrize("name", ["a.nrrd", "a.nii.gz", "a.mha", "a.mhd"])
def test_placement_and_values_are_kept(tmp_path, name):
    image = oblique()
    sitk.WriteImage(image, str(tmp_path / name))
    read = read_image(tmp_path / name)
    np.testing.assert_array_equal(sitk.GetArrayFromImage(read), sitk.GetArrayFromImage(image))
    for corner in ((0, 0, 0), (4, 5, 6), (4, 0, 3)):
        np.testing.assert_allclose(
            read.TransformIndexToPhysicalPoint(corner), image.TransformIndexToPhysicalPoint(corner), atol=1e-4
        )


def test_a_folder_of_dicom_slices_is_a_volume(tmp_path):
    image = oblique()
    direction = np.array(image.GetDirection()).reshape(3, 3)
    for number in range(image.GetSize()[2]):
        part = image[:, :, number]
        slice_ = sitk.JoinSeries(part)
        slice_.SetSpacing(image.GetSpacing())
        position = image.TransformIndexToPhysicalPoint((0, 0, number))
        orientation = [*direction[:, 0], *direction[:, 1]]
        for key, value in {
            "0008|0060": "CT",
            "0020|000e": "1.2.826.0.1.3680043.2.1125.1",
            "0020|000d": "1.2.826.0.1.3680043.2.1125.2",
            "0020|0032": "\\".join(f"{item:.6f}" for item in position),
            "0020|0037": "\\".join(f"{item:.8f}" for item in orientation),
            "0020|0013": str(number + 1),
        }.items():
            slice_.SetMetaData(key, value)
        writer = sitk.ImageFileWriter()
        writer.KeepOriginalImageUIDOn()
        writer.SetFileName(str(tmp_path / f"{number:03d}.dcm"))
        writer.Execute(slice_)
    read = read_image(tmp_path)
    np.testing.assert_array_equal(sitk.GetArrayFromImage(read), sitk.GetArrayFromImage(image))
    np.testing.assert_allclose(read.GetSpacing(), image.GetSpacing(), atol=1e-3)


def refuses(path, words):
    with pytest.raises(InputError, match=words):
        read_image(path)


def test_what_is_no_volume_is_named(tmp_path):
    refuses(tmp_path / "nowhere.nrrd", "does not exist")
    (tmp_path / "text.nrrd").write_text("not an image")
    refuses(tmp_path / "text.nrrd", "cannot be read")
    (tmp_path / "empty").mkdir()
    refuses(tmp_path / "empty", "no DICOM")
    sitk.WriteImage(sitk.Image(5, 5, sitk.sitkInt16), str(tmp_path / "flat.nrrd"))
    refuses(tmp_path / "flat.nrrd", "three dimensions")
    sitk.WriteImage(sitk.Image([4, 4, 4, 4], sitk.sitkInt16), str(tmp_path / "moving.nrrd"))
    refuses(tmp_path / "moving.nrrd", "three dimensions")
    sitk.WriteImage(sitk.Image([4, 4, 4], sitk.sitkVectorFloat32, 3), str(tmp_path / "vector.nrrd"))
    refuses(tmp_path / "vector.nrrd", "3 values per voxel")
    sitk.WriteImage(sitk.Image(5, 5, 5, sitk.sitkInt16), str(tmp_path / "zero.nrrd"))
    refuses(tmp_path / "zero.nrrd", "same value")
    values = np.ones((5, 5, 5), dtype=np.float32)
    values[2, 2, 2] = np.nan
    sitk.WriteImage(sitk.GetImageFromArray(values), str(tmp_path / "nan.nrrd"))
    refuses(tmp_path / "nan.nrrd", "1 voxels that are not finite")


def test_a_grid_keeps_its_values_when_the_image_is_gone():
    image = sitk.GetImageFromArray(np.full((64, 64, 64), 7.0, dtype=np.float32))
    grid = Grid.of(image)
    image += 1.0
    del image
    other = [sitk.GetImageFromArray(np.zeros((64, 64, 64), dtype=np.float32)) for _ in range(4)]
    assert len(other) == 4
    assert (grid.values == 7.0).all()
    assert grid.values.flags.owndata


def test_voxels_that_are_not_finite_are_named_in_every_format(tmp_path):
    """ITK's NIfTI reader makes them 0 and says nothing."""
    values = np.random.default_rng(0).normal(size=(8, 9, 10))
    values[2, 3, 4], values[5, 5, 5] = np.nan, np.inf
    for kind in (np.float32, np.float64):
        for name in ("a.nrrd", "a.nii", "a.nii.gz", "a.mha"):
            sitk.WriteImage(sitk.GetImageFromArray(values.astype(kind)), str(tmp_path / name))
            with pytest.raises(InputError, match="2 voxels that are not finite"):
                read_image(tmp_path / name)
