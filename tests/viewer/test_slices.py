import numpy as np
import pytest
import pyvista as pv
import SimpleITK as sitk

from viewer import colors
from viewer.errors import InputError
from viewer.slices import OUTLINE, PLANES, SliceView, Volume, draw_slice, lumen_cut

SIZE = (240, 200)
BY_NAME = {plane.name: plane for plane in PLANES}


def turned_volume(function, path):
    """A volume on a grid that lies askew in the patient, written and read as a case's image is."""
    angle = np.radians(25.0)
    turn = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1.0]])
    image = sitk.Image(90, 80, 70, sitk.sitkFloat32)
    image.SetSpacing((1.5, 1.4, 1.6))
    image.SetOrigin((-40.0, -75.0, -55.0))
    image.SetDirection(turn.ravel())
    z, y, x = np.mgrid[:70, :80, :90]
    index = np.stack([x, y, z], -1) * (1.5, 1.4, 1.6)
    points = index @ turn.T + (-40.0, -75.0, -55.0)
    array = sitk.GetImageFromArray(function(points).astype(np.float32))
    array.CopyInformation(image)
    sitk.WriteImage(array, str(path))
    return Volume.read(path)


@pytest.mark.parametrize("plane", PLANES, ids=lambda plane: plane.name)
def test_a_slice_samples_the_patients_own_axes(plane, tmp_path):
    slope = np.array([3.0, -2.0, 5.0])
    volume = turned_volume(lambda p: 100.0 + p @ slope, tmp_path / "image.nrrd")
    view = SliceView(plane, volume.center + (3.0, -2.0, 4.0), span_mm=30.0)
    step = view.mm_per_pixel(SIZE)
    right, down = np.array(plane.right), np.array(plane.down)
    found = volume.sample(view.to_point(0, 0, SIZE), step * right, step * down, SIZE[::-1])
    rows, columns = np.mgrid[: SIZE[1], : SIZE[0]]
    offsets = (columns - 119.5)[..., None] * step * right + (rows - 99.5)[..., None] * step * down
    np.testing.assert_allclose(found, 100.0 + (view.center + offsets) @ slope, atol=0.01)


@pytest.mark.parametrize(
    ("name", "toward", "side"),
    [
        ("Axial", (-1, 0, 0), "left"),  # the patient's right is -x in LPS, and on the picture's left
        ("Axial", (0, -1, 0), "top"),  # front
        ("Coronal", (-1, 0, 0), "left"),
        ("Coronal", (0, 0, 1), "top"),  # head
        ("Sagittal", (0, -1, 0), "left"),
        ("Sagittal", (0, 0, 1), "top"),
    ],
)
def test_radiological_convention(name, toward, side, tmp_path):
    ball = np.array([5.0, -10.0, 0.0]) + 14.0 * np.array(toward)
    volume = turned_volume(lambda p: 1000.0 * (np.linalg.norm(p - ball, axis=-1) < 5.0), tmp_path / "image.nrrd")
    view = SliceView(BY_NAME[name], np.array([5.0, -10.0, 0.0]), span_mm=50.0)
    picture = draw_slice(volume, view, SIZE, window_level=(1000.0, 500.0))
    inside = picture[40:-40, 60:-60] if side == "top" else picture[60:-60, 30:-30]
    middle = picture[30:-30, 30:-30, 1].astype(float) > 150
    assert inside.size
    rows, columns = np.nonzero(middle)
    row, column = rows.mean() + 30 - 99.5, columns.mean() + 30 - 119.5
    assert (column < -20 and abs(row) < 12) if side == "left" else (row < -20 and abs(column) < 12)
    assert BY_NAME[name].letters[0 if side == "left" else 2] == {
        (-1, 0, 0): "R", (0, -1, 0): "A", (0, 0, 1): "S",
    }[toward]  # fmt: skip


def test_the_outline_is_where_the_wall_is(tmp_path):
    sphere = pv.Sphere(radius=12.0, center=(1.0, 2.0, 3.0), theta_resolution=80, phi_resolution=80)
    view = SliceView(BY_NAME["Axial"], np.array([1.0, 2.0, 8.0]), span_mm=40.0)
    pieces = np.array(lumen_cut(sphere, view))
    radius = np.linalg.norm(pieces[..., :2] - (1.0, 2.0), axis=-1)
    np.testing.assert_allclose(pieces[..., 2], 8.0, atol=1e-9)
    np.testing.assert_allclose(radius, np.sqrt(12.0**2 - 5.0**2), atol=0.05)
    volume = turned_volume(lambda p: 0.0 * p[..., 0], tmp_path / "image.nrrd")
    picture = draw_slice(volume, view, SIZE, window_level=(2.0, 1.0), lumen=sphere)
    rows, columns = np.nonzero(np.abs(picture.astype(int) - colors.rgb(OUTLINE)).max(axis=2) < 40)
    drawn = np.hypot(rows - 99.5, columns - 119.5) * view.mm_per_pixel(SIZE)
    assert np.median(drawn) == pytest.approx(np.sqrt(119.0), abs=0.2)
    assert lumen_cut(sphere, SliceView(BY_NAME["Axial"], np.array([1.0, 2.0, 90.0]))) == []


def test_crosshair_and_ellipse_are_at_the_tip(tmp_path):
    volume = turned_volume(lambda p: 0.0 * p[..., 0], tmp_path / "image.nrrd")
    view = SliceView(BY_NAME["Coronal"], np.array([0.0, 0.0, 0.0]), span_mm=40.0)
    tip = (4.1, 0.0, 6.1)
    x, y = view.to_pixel(tip, SIZE)
    assert x == pytest.approx(119.5 + 4.1 / 0.2)
    assert y == pytest.approx(99.5 - 6.1 / 0.2)
    np.testing.assert_allclose(view.to_point(x, y, SIZE), tip)
    picture = draw_slice(volume, view, SIZE, window_level=(2.0, 1.0), tip=tip, covariance=np.diag([4.0, 1.0, 0.25]))
    pink = np.abs(picture.astype(int) - colors.rgb(colors.TIP)).max(axis=2) < 60
    assert pink[round(y), 5:60].all()
    # The ellipse's half-axes across and up: 2.4477 standard deviations, 0.2 mm a pixel.
    across, up = np.sqrt(5.9915) * np.array([2.0, 0.5]) / 0.2
    angle = np.linspace(0.3, 2.8, 9)
    on = [pink[round(y + up * np.sin(a)), round(x + across * np.cos(a))] for a in angle]
    assert np.mean(on) > 0.7


def test_an_untrusted_slice_is_hatched_and_has_no_crosshair(tmp_path):
    volume = turned_volume(lambda p: 100.0 + 0.0 * p[..., 0], tmp_path / "image.nrrd")
    view = SliceView(BY_NAME["Axial"], volume.center, span_mm=40.0)
    plain = draw_slice(volume, view, SIZE, window_level=(200.0, 100.0), tip=volume.center)
    doubted = draw_slice(volume, view, SIZE, window_level=(200.0, 100.0), tip=volume.center, warning="NOT TRUSTED")
    # Below the words, whose red has pink edges.
    pink = [(np.abs(p[90:].astype(int) - colors.rgb(colors.TIP)).max(axis=2) < 60).sum() for p in (plain, doubted)]
    assert pink[0] > 200
    assert pink[1] == 0
    assert 0.3 < (np.abs(plain.astype(int) - doubted).max(axis=2) > 15).mean() < 0.8


def test_window_level_maps_values_to_grey(tmp_path):
    volume = turned_volume(lambda p: 10.0 * p[..., 0], tmp_path / "image.nrrd")
    view = SliceView(BY_NAME["Axial"], np.array([5.0, -10.0, 0.0]), span_mm=30.0)
    picture = draw_slice(volume, view, SIZE, window_level=(200.0, 50.0))
    row = picture[60, 20:-20, 0].astype(float)
    value = 10.0 * (5.0 + (np.arange(20, 220) - 119.5) * 0.15)
    np.testing.assert_allclose(row, np.clip((value + 50.0) / 200.0, 0, 1) * 255.0, atol=1.5)


def test_scrolling_zooming_and_bad_images(tmp_path):
    view = SliceView(BY_NAME["Sagittal"], np.array([1.0, 2.0, 3.0]), span_mm=50.0)
    view.scroll(2, 1.5)
    np.testing.assert_allclose(view.center, (4.0, 2.0, 3.0))
    view.zoom(1e-9)
    assert view.span_mm == 15.0
    with pytest.raises(InputError, match="is no image"):
        Volume.read(tmp_path / "nothing.nrrd")
    with pytest.raises(InputError, match="no slices"):
        Volume(np.zeros((4, 4), dtype=np.float32), np.eye(4))
