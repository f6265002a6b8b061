"""Lumens segmented elsewhere: surfaces, and the segmentations of 3D Slicer."""

import numpy as np
import pytest
import pyvista as pv
import SimpleITK as sitk

from meshes.errors import InputError
from meshes.external import read_lumen, read_source
from meshes.grid import Grid

CENTER = np.array([40.0, 30.0, 20.0])


@pytest.fixture
def image():
    """Voxels of 0.8 x 0.8 x 1.2 mm around the tube, turned a little, all in the octant of positive x and y."""
    made = sitk.GetImageFromArray(np.random.default_rng(0).normal(0, 1, (50, 50, 50)).astype(np.float32))
    made.SetSpacing((0.8, 0.8, 1.2))
    rotation = np.array(sitk.Euler3DTransform((0, 0, 0), 0.1, 0.05, -0.1).GetMatrix()).reshape(3, 3)
    made.SetDirection(rotation.ravel())
    made.SetOrigin(CENTER - rotation @ (np.array([0.8, 0.8, 1.2]) * 24.5))
    return made


def tube():
    """Closed, of radius 4 mm and length 30 mm, of long triangles."""
    return pv.Cylinder(center=CENTER, direction=(0.1, 0.2, 1.0), radius=4.0, height=30.0, resolution=80).triangulate()


@pytest.mark.parametrize("ending", ["stl", "vtp", "obj"])
@pytest.mark.parametrize("frame", ["LPS", "RAS"])
def test_a_closed_surface_keeps_its_place_and_volume(tmp_path, image, ending, frame):
    surface = tube()
    if frame == "RAS":
        surface.points = surface.points * [-1, -1, 1]
    path = tmp_path / f"lumen.{ending}"
    surface.save(path)
    lumen = read_lumen(path, image)
    field = Grid.of(lumen.level_set)
    volume = np.clip(0.5 - field.values / field.spacing[0], 0, 1).sum() * np.prod(field.spacing)
    assert volume == pytest.approx(np.pi * 16 * 30, rel=0.02)
    beside = CENTER + 2.5 * np.array([1.0, 0.0, -0.1]) / np.sqrt(1.01)
    assert -field.sample(beside[None])[0] == pytest.approx(1.5, abs=0.05)
    voxels = sitk.GetArrayViewFromImage(lumen.label).sum() * 0.8 * 0.8 * 1.2
    assert voxels == pytest.approx(np.pi * 16 * 30, rel=0.05)
    assert any(frame in note for note in lumen.notes)


def test_surfaces_that_enclose_nothing_are_refused(tmp_path, image):
    half = tube().clip(normal=(1, 0, 0), origin=CENTER, invert=False).extract_surface(algorithm=None).triangulate()
    half.save(tmp_path / "open.stl")
    with pytest.raises(InputError, match="edges are open"):
        read_lumen(tmp_path / "open.stl", image)
    metres = tube()
    metres.points = metres.points / 1000.0
    metres.save(tmp_path / "metres.stl")
    with pytest.raises(InputError, match="in m it would: give --unit m"):
        read_lumen(tmp_path / "metres.stl", image)
    assert "in m." in read_lumen(tmp_path / "metres.stl", image, unit="m").notes[0]
    (tmp_path / "text.stl").write_text("hello")
    with pytest.raises(InputError):
        read_lumen(tmp_path / "text.stl", image)
    with pytest.raises(InputError, match="does not exist"):
        read_lumen(tmp_path / "nowhere.vtp", image)


def slicer_file(path, image, *, shift=0.0):
    """Two segments, in a file that covers a part of the image only, as 3D Slicer writes it."""
    values = np.zeros((50, 50, 50), dtype=np.uint8)
    values[16:38, 20:30, 20:30] = 1
    values[16:38, 33:37, 33:37] = 5
    whole = sitk.GetImageFromArray(values)
    whole.CopyInformation(image)
    part = whole[15:40, 15:40, 5:45]
    part.SetOrigin(np.array(part.GetOrigin()) + shift)
    for number, (name, label) in enumerate((("artery", 1), ("vein", 5))):
        part.SetMetaData(f"Segment{number}_Name", name)
        part.SetMetaData(f"Segment{number}_LabelValue", str(label))
        part.SetMetaData(f"Segment{number}_Layer", "0")
    sitk.WriteImage(part, str(path))
    return values


def test_a_segment_of_3d_slicer_is_chosen_by_its_name(tmp_path, image):
    values = slicer_file(tmp_path / "lumen.seg.nrrd", image)
    for name, label in (("artery", 1), ("vein", 5)):
        lumen = read_lumen(tmp_path / "lumen.seg.nrrd", image, segment=name)
        np.testing.assert_array_equal(sitk.GetArrayFromImage(lumen.label) > 0, values == label)
    with pytest.raises(InputError, match='"artery", "vein"'):
        read_lumen(tmp_path / "lumen.seg.nrrd", image)
    with pytest.raises(InputError, match='no segment "nerve"'):
        read_lumen(tmp_path / "lumen.seg.nrrd", image, segment="nerve")


def test_a_segmentation_between_the_voxels_keeps_its_place(tmp_path, image):
    """Its wall is found on its own grid, 0.3 mm beside the image's."""
    slicer_file(tmp_path / "at.seg.nrrd", image)
    slicer_file(tmp_path / "beside.seg.nrrd", image, shift=0.3)
    at = read_lumen(tmp_path / "at.seg.nrrd", image, segment="artery")
    beside = read_lumen(tmp_path / "beside.seg.nrrd", image, segment="artery")
    assert any("another grid" in note for note in beside.notes)
    field, moved = Grid.of(at.level_set), Grid.of(beside.level_set)
    near = field.positions_of(np.flatnonzero(np.abs(field.values) < 0.8))
    np.testing.assert_allclose(moved.sample(near + 0.3), field.sample(near), atol=0.02)


def test_open_ends_are_closed_flat(tmp_path, image):
    pv.Cylinder(
        center=CENTER, direction=(0.1, 0.2, 1.0), radius=4.0, height=30.0, resolution=80, capping=False
    ).triangulate().save(tmp_path / "open.stl")
    lumen = read_lumen(tmp_path / "open.stl", image)
    assert "2 open ends (160 open edges) are closed by flat caps." in lumen.notes
    tube().save(tmp_path / "closed.stl")
    closed = Grid.of(read_lumen(tmp_path / "closed.stl", image).level_set)
    np.testing.assert_allclose(Grid.of(lumen.level_set).values, closed.values, atol=0.02)


def test_a_real_surface_with_faults_is_closed(real_data):
    """A model of the field with 14 open edges and 180 that belong to more than two triangles, in cm."""
    path = real_data("seqseg", "seqseg", "tutorial", "data", "Models", "shawn_260.vtp")
    with pytest.raises(InputError, match="--unit cm"):
        read_source(path)
    source = read_source(path, unit="cm")
    lumen = read_lumen(path, source.image, unit="cm")
    field = Grid.of(lumen.level_set)
    volume = np.clip(0.5 - field.values / field.spacing[0], 0, 1).sum() * np.prod(field.spacing)
    # VTK's volume of the surface as it is.
    assert volume / 1000 == pytest.approx(144.96, rel=0.01)
    assert any("2 open ends" in note for note in lumen.notes)
