"""DICOM as scanners, archives and mistakes make it."""

import numpy as np
import pytest
import SimpleITK as sitk
from pydicom.uid import generate_uid

from meshes.dicom import list_series
from meshes.errors import InputError
from meshes.external import read_lumen
from meshes.grid import Grid
from meshes.image import read_volume


def turned():
    return np.array(sitk.Euler3DTransform((0, 0, 0), 0.2, -0.3, 0.1).GetMatrix()).reshape(3, 3)


PLACEMENT = (np.array([-12.5, 44.0, 3.25]), np.array([0.7, 0.8, 1.9]), turned())


@pytest.fixture
def values():
    return np.random.default_rng(0).integers(-1000, 1000, (9, 8, 7)).astype(float)


def agrees(image, values, placement=PLACEMENT):
    origin, spacing, direction = placement
    np.testing.assert_array_equal(sitk.GetArrayFromImage(image), values)
    for index in ((0, 0, 0), (6, 7, 8), (3, 0, 5)):
        place = origin + direction @ (np.array(index) * spacing)
        np.testing.assert_allclose(image.TransformIndexToPhysicalPoint(index), place, atol=1e-4)


def refused(path, words, **options):
    with pytest.raises(InputError, match=words) as raised:
        read_volume(path, **options)
    assert "Rosenkavalier" not in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("compress", [False, True], ids=["plain", "rle"])
def test_slices_in_any_order_below_a_folder_are_a_volume(dicom, tmp_path, values, compress):
    dicom.write_slices(tmp_path / "a" / "b", values, PLACEMENT, slope=2.0, intercept=-1024.0, compress=compress)
    (tmp_path / "readme.txt").write_text("not a slice")
    (tmp_path / "a" / "zeros").write_bytes(bytes(1000))
    volume = read_volume(tmp_path)
    agrees(volume.image, np.rint((values + 1024) / 2) * 2 - 1024)
    assert volume.notes == ()


@pytest.mark.parametrize("compressor", ["JPEG2000", "JPEG"])
def test_compressed_slices_that_itk_writes_are_read(tmp_path, compressor):
    values = np.random.default_rng(1).integers(-1000, 1000, (9, 48, 40)).astype(float)
    for k in range(len(values)):
        plane = sitk.JoinSeries(sitk.GetImageFromArray(values[k].astype(np.int16)))
        plane.SetSpacing((0.7, 0.8, 1.9))
        for key, text in {
            "0008|0060": "CT",
            "0020|000e": "1.2.3.4",
            "0020|0032": f"0\\0\\{1.9 * k:.3f}",
            "0020|0037": "1\\0\\0\\0\\1\\0",
        }.items():
            plane.SetMetaData(key, text)
        writer = sitk.ImageFileWriter()
        writer.KeepOriginalImageUIDOn()
        writer.UseCompressionOn()
        writer.SetCompressor(compressor)
        writer.SetFileName(str(tmp_path / f"{k}.dcm"))
        writer.Execute(plane)
    agrees(read_volume(tmp_path).image, values, (np.zeros(3), np.array([0.7, 0.8, 1.9]), np.eye(3)))


def test_of_several_series_the_largest_is_taken_or_the_one_that_is_named(dicom, tmp_path, values):
    first = dicom.write_slices(tmp_path, values[:5], PLACEMENT, prefix="A")
    second = dicom.write_slices(tmp_path, values, PLACEMENT, prefix="B")
    assert [(one.uid, one.frames) for one in list_series(tmp_path)] == [(second, 9), (first, 5)]
    largest = read_volume(tmp_path)
    agrees(largest.image, values)
    assert "Of 2 series" in largest.notes[0]
    assert second not in " ".join(largest.notes)
    assert read_volume(tmp_path, series=first).image.GetSize() == (7, 8, 5)
    refused(tmp_path, f"no series 1.2.3.*{first}", series="1.2.3")


def test_missing_slices_are_named(dicom, tmp_path, values):
    dicom.write_slices(tmp_path, values, PLACEMENT, skip=(3, 4, 6))
    refused(tmp_path, "misses 3 slices")


def test_uneven_slices_are_named(dicom, tmp_path, values):
    origin, spacing, direction = PLACEMENT
    uid = dicom.write_slices(tmp_path, values[:5], PLACEMENT, prefix="A")
    beyond = origin + direction @ (np.array([0, 0, 5.37]) * spacing)
    dicom.write_slices(tmp_path, values[5:], (beyond, spacing, direction), series_uid=uid, prefix="B")
    refused(tmp_path, "unevenly apart")


def test_duplicates_are_left_out_and_several_phases_are_refused(dicom, tmp_path, values):
    uid = dicom.write_slices(tmp_path / "twice", values, PLACEMENT, prefix="A")
    dicom.write_slices(tmp_path / "twice", values[2:4], (
        PLACEMENT[0] + PLACEMENT[2] @ (np.array([0, 0, 2]) * PLACEMENT[1]), *PLACEMENT[1:]
    ), series_uid=uid, prefix="B")  # fmt: skip
    volume = read_volume(tmp_path / "twice")
    agrees(volume.image, values)
    assert volume.notes == ("2 duplicate slices (same place, same content) are left out.",)
    uid = dicom.write_slices(tmp_path / "phases", values, PLACEMENT, prefix="A", phase=1)
    dicom.write_slices(tmp_path / "phases", values + 7, PLACEMENT, series_uid=uid, prefix="B", phase=2)
    refused(tmp_path / "phases", r"9 slices at places .* \(AcquisitionNumber differ\)")


def test_mixed_orientation_is_named(dicom, tmp_path, values):
    uid = dicom.write_slices(tmp_path / "scout", values, PLACEMENT, prefix="A")
    coronal = np.array([[1.0, 0, 0], [0, 0, -1], [0, 1, 0]])
    dicom.write_slices(tmp_path / "scout", values[:1], (np.zeros(3), PLACEMENT[1], coronal), series_uid=uid, prefix="B")
    volume = read_volume(tmp_path / "scout")
    agrees(volume.image, values)
    assert "mixed orientation" in volume.notes[0]
    assert "9 axial of 7 x 8, 1 coronal of 7 x 8" in volume.notes[0]
    uid = dicom.write_slices(tmp_path / "both", values, PLACEMENT, prefix="A")
    dicom.write_slices(tmp_path / "both", values, (np.zeros(3), PLACEMENT[1], coronal), series_uid=uid, prefix="B")
    refused(tmp_path / "both", "mixed orientation")


def test_a_tilted_gantry_is_straightened(dicom, tmp_path):
    """A linear function of the place stays that function, wherever it is sampled."""
    slope, spacing = np.array([3.0, -2.0, 5.0]), np.array([0.7, 0.8, 1.9])
    shear = (0.0, np.tan(np.deg2rad(15.0)))
    k, j, i = np.meshgrid(np.arange(9), np.arange(40), np.arange(30), indexing="ij")
    places = np.stack([i * 0.7, j * 0.8 + shear[1] * k * 1.9, k * 1.9], axis=-1)
    values = np.rint(places @ slope)
    dicom.write_slices(tmp_path, values, (np.zeros(3), spacing, np.eye(3)), shear=shear)
    volume = read_volume(tmp_path)
    assert "15.0 degrees" in volume.notes[0]
    grid = Grid.of(volume.image)
    inner = grid.to_position(np.array([[10, 12, 0], [15, 20, 4], [20, 24, 8], [5, 16, 2]]))
    np.testing.assert_allclose(grid.sample(inner), inner @ slope, atol=1.5)


@pytest.mark.parametrize("slopes", [None, [1, 2, 1, 4, 1, 2, 1, 2, 1]], ids=["one scale", "a scale to a frame"])
def test_an_enhanced_object_is_sorted_by_the_places_of_its_frames(dicom, tmp_path, values, slopes):
    values = 4 * np.rint(values / 4)
    dicom.write_enhanced(tmp_path / "e.dcm", values, PLACEMENT, [4, 0, 8, 2, 1, 7, 3, 6, 5], slopes=slopes)
    agrees(read_volume(tmp_path / "e.dcm").image, values)
    agrees(read_volume(tmp_path).image, values)


def test_what_is_no_volume_is_named(dicom, tmp_path, values):
    (tmp_path / "empty").mkdir()
    refused(tmp_path / "empty", "no DICOM series")
    dicom.write_slices(tmp_path / "one", values[:1], PLACEMENT)
    refused(tmp_path / "one", "has 1 slice")
    refused(next((tmp_path / "one").iterdir()), "one slice; give the folder")
    uid = dicom.write_slices(tmp_path / "cut", values, PLACEMENT)
    broken = sorted((tmp_path / "cut").iterdir())[4]
    broken.write_bytes(broken.read_bytes()[:-60])
    refused(tmp_path / "cut", "is cut off|cannot be decoded")
    assert uid


def test_a_cine_is_no_volume(real_data):
    """Its 16 frames are 69 ms apart, and not 69 mm."""
    refused(real_data("vmtk_aorta", "input", "mr-dicom.dcm"), "a movie and no volume")


def test_a_segment_is_taken_by_its_label(dicom, tmp_path):
    artery, vein = np.zeros((2, 20, 30, 28), dtype=bool)
    artery[3:17, 10:16, 8:14] = True
    vein[5:12, 20:25, 18:23] = True
    placement = (np.array([5.0, -7.0, 11.0]), np.array([0.8, 0.8, 1.2]), turned())
    dicom.write_segmentation(tmp_path / "seg.dcm", {"Aorta": artery, "Vena cava": vein}, placement)
    image = Grid(np.random.default_rng(0).normal(size=(20, 30, 28)).astype(np.float32), *placement).image()
    for name, mask in (("Aorta", artery), ("Vena cava", vein)):
        lumen = read_lumen(tmp_path / "seg.dcm", image, segment=name)
        np.testing.assert_array_equal(sitk.GetArrayFromImage(lumen.label) > 0, mask)
    with pytest.raises(InputError, match='"Aorta", "Vena cava"'):
        read_lumen(tmp_path / "seg.dcm", image)


def test_a_series_number_is_for_dicom_only(tmp_path, values):
    sitk.WriteImage(sitk.GetImageFromArray(values), str(tmp_path / "a.nrrd"))
    refused(tmp_path / "a.nrrd", "no DICOM", series=generate_uid())
