import numpy as np
import pytest
import vtk

from viewer.controls import Controls
from viewer.layout import LAYOUTS, panes
from viewer.scene import Scene
from viewer.slices import Volume

SIZE = (960, 540)


@pytest.fixture
def driven(lumen, centerline, ports, state):
    """A scene with an image, and a mouse and keyboard for it."""
    pose = np.diag([1.5, 1.5, 1.5, 1.0])
    pose[:3, 3] = (-60.0, -60.0, -75.0)
    z, y, x = np.mgrid[:100, :80, :80].astype(np.float32)
    way = np.linspace((0.0, 0.0, 60.0), (0.0, 0.0, 0.0), 20)
    scene = Scene(lumen, centerline=centerline, ports=ports, volume=Volume(x + 2 * y + 3 * z, pose), way=way, size=SIZE)
    interactor = vtk.vtkGenericRenderWindowInteractor()
    interactor.SetRenderWindow(scene.plotter.render_window)
    interactor.SetInteractorStyle(vtk.vtkInteractorStyleTrackballCamera())
    interactor.EnableRenderOff()
    interactor.Initialize()
    drawn = []
    controls = Controls(scene, lambda: drawn.append(scene.layout))
    scene.update(state())
    yield scene, interactor, controls, drawn
    scene.close()


def point_at(interactor, x, y, *, shift=False):
    interactor.SetEventInformation(int(x), SIZE[1] - 1 - int(y), 0, int(shift), "\0", 0, None)


def middle(scene, name):
    pane = panes(scene.layout, *SIZE)[name]
    return pane.x + pane.width // 2, pane.y + pane.height // 2


def press(interactor, key):
    interactor.SetKeySym(key)
    interactor.InvokeEvent("KeyPressEvent")


def test_keys_do_what_the_guide_says(driven):
    scene, interactor, controls, drawn = driven
    for key, layout in zip("2341", (*LAYOUTS[1:], LAYOUTS[0]), strict=True):
        press(interactor, key)
        assert scene.layout == layout
    assert len(drawn) == 4
    press(interactor, "c")
    assert scene.quantity.key == "ffr"
    press(interactor, "g")
    assert not scene.outline
    scene.alerts.take(["pressure_stale"], 0.0)
    press(interactor, "a")
    assert scene.alerts.highest is None
    assert not controls.press_key("q")


def test_the_wheel_goes_through_slices_and_space_comes_back_to_the_tip(driven, state):
    scene, interactor, _, _ = driven
    tip = np.array(state().tip)
    point_at(interactor, *middle(scene, "axial"))
    interactor.InvokeEvent("MouseWheelForwardEvent")
    interactor.InvokeEvent("MouseWheelForwardEvent")
    np.testing.assert_allclose(scene.slices["axial"].center, tip + (0, 0, 3.0))
    np.testing.assert_allclose(scene.slices["coronal"].center, tip)
    scene.update(state(tip=(0.0, 0.0, 5.0)))
    np.testing.assert_allclose(scene.slices["axial"].center, tip + (0, 0, 3.0))  # no longer follows
    press(interactor, "space")
    np.testing.assert_allclose(scene.slices["axial"].center, (0.0, 0.0, 5.0))


def test_a_drag_over_a_slice_sets_window_and_level_and_turns_no_camera(driven):
    scene, interactor, _, _ = driven
    camera = scene.plotter.renderer.GetActiveCamera()
    before = camera.GetPosition()
    window, level = scene.window_level
    x, y = middle(scene, "coronal")
    point_at(interactor, x, y)
    interactor.InvokeEvent("LeftButtonPressEvent")
    point_at(interactor, x + 25, y + 50)
    interactor.InvokeEvent("MouseMoveEvent")
    interactor.InvokeEvent("LeftButtonReleaseEvent")
    step = scene.volume.window_level[0] / 250.0
    assert scene.window_level == (pytest.approx(window + 25 * step), pytest.approx(level + 50 * step))
    assert camera.GetPosition() == before
    press(interactor, "r")
    assert scene.window_level == scene.volume.window_level


def test_a_drag_over_the_3d_view_turns_it(driven):
    scene, interactor, _, _ = driven
    camera = scene.plotter.renderer.GetActiveCamera()
    before = np.array(camera.GetPosition())
    x, y = middle(scene, "3d")
    point_at(interactor, x, y)
    interactor.InvokeEvent("LeftButtonPressEvent")
    point_at(interactor, x + 60, y)
    interactor.InvokeEvent("MouseMoveEvent")
    interactor.InvokeEvent("LeftButtonReleaseEvent")
    assert np.linalg.norm(np.array(camera.GetPosition()) - before) > 5.0


def test_shift_brings_all_slices_to_the_mouse(driven):
    scene, interactor, _, _ = driven
    pane = panes(scene.layout, *SIZE)["axial"]
    view = scene.slices["axial"]
    wanted = view.to_point(30, 40, pane.size)
    point_at(interactor, pane.x + 30, pane.y + 40, shift=True)
    interactor.InvokeEvent("MouseMoveEvent")
    for one in scene.slices.values():
        np.testing.assert_allclose(one.center, wanted)


def test_right_zooms_and_middle_moves_a_slice(driven):
    scene, interactor, _, _ = driven
    view = scene.slices["sagittal"]
    span, center = view.span_mm, view.center.copy()
    x, y = middle(scene, "sagittal")
    for press_event, release_event in (
        ("RightButtonPressEvent", "RightButtonReleaseEvent"),
        ("MiddleButtonPressEvent", "MiddleButtonReleaseEvent"),
    ):
        point_at(interactor, x, y)
        interactor.InvokeEvent(press_event)
        point_at(interactor, x, y + 20)
        interactor.InvokeEvent("MouseMoveEvent")
        interactor.InvokeEvent(release_event)
    assert view.span_mm == pytest.approx(span * np.exp(0.16))
    pane = panes(scene.layout, *SIZE)["sagittal"]
    # What was dragged down comes from above: the picture's middle is now farther toward the head.
    np.testing.assert_allclose(view.center, center + (0, 0, 20 * view.mm_per_pixel(pane.size)), atol=1e-6)
    assert not scene.following
