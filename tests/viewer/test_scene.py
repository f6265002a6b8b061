import shutil

import numpy as np
import pytest
import pyvista as pv
from PIL import Image

from viewer import colors
from viewer.actors import ToolActors, ellipsoid_axes, pressure_modes
from viewer.catheter import CatheterPath
from viewer.errors import InputError
from viewer.feed import Feed
from viewer.scene import Scene
from viewer.window import require_display, run_window

SIZE = (960, 540)


@pytest.fixture(scope="module")
def scene(lumen, centerline, ports):
    scene = Scene(lumen, centerline=centerline, ports=ports, size=SIZE)
    yield scene
    scene.close()


def view_of(image):
    """The picture without the panel of numbers."""
    return image[:, : int(0.7 * image.shape[1])]


def share(image, color, tolerance=30):
    return float((np.abs(image.astype(int) - np.array(colors.rgb(color))).max(axis=2) < tolerance).mean())


def colorfulness(image):
    drawn = image[image.max(axis=2) > 60].astype(int)  # the background has a tint of its own
    return float(np.ptp(drawn, axis=1).mean())


def test_wall_pressure_is_the_sum_of_the_modes(scene, lumen, state):
    scene.update(state(field_coefficients=(95.0, 12.0, -6.0)))
    expected = 95.0 + 12.0 * lumen.points[:, 2] / 60.0 - 6.0 * lumen.points[:, 0] / 25.0
    np.testing.assert_allclose(scene.wall_values, expected, rtol=1e-5)


@pytest.mark.parametrize("pressure", [75.0, 100.0, 125.0])
def test_the_wall_has_the_color_of_its_pressure(scene, state, pressure):
    hidden = dict(tip=None, tip_covariance=None, tip_valid=False)
    scene.update(state(field_coefficients=(pressure, 0.0, 0.0), **hidden))
    picture = scene.render(SIZE)
    # The wall that faces the viewer in the middle of the trunk, beside the centerline's place.
    rows = slice(int(0.3 * SIZE[1]), int(0.45 * SIZE[1]))
    columns = np.abs(view_of(picture)[rows].astype(int) - colors.rgb(colors.BACKGROUND)).max(axis=2).max(axis=0) > 30
    middle = int(np.flatnonzero(columns).mean())
    seen = np.median(picture[rows, middle - 2 : middle + 3].reshape(-1, 3), axis=0)
    np.testing.assert_allclose(seen, 255.0 * colors.pressure_colors([pressure], (60.0, 140.0))[0], atol=30)


def test_the_color_range_never_follows_the_data(scene, state):
    scene.update(state(field_coefficients=(100.0, 0.0, 0.0)))
    before = scene.render(SIZE)
    scene.update(state(field_coefficients=(250.0, 90.0, 0.0)))
    scene.render(SIZE)
    scene.update(state(field_coefficients=(100.0, 0.0, 0.0)))
    np.testing.assert_array_equal(scene.render(SIZE), before)


def test_flags_make_the_picture_visibly_untrusted(scene, state):
    scene.update(state())
    trusted = scene.render(SIZE)
    assert scene.trusted
    scene.update(state(flags=("tip_unknown", "registration_doubtful")))
    untrusted = scene.render(SIZE)
    assert not scene.trusted
    assert share(view_of(trusted), colors.ALARM) < 0.001
    assert share(view_of(untrusted)[:6], colors.ALARM) > 0.9
    below = slice(100, None)
    assert colorfulness(view_of(untrusted)[below]) < 0.35 * colorfulness(view_of(trusted)[below])
    scene.update(state())
    np.testing.assert_array_equal(scene.render(SIZE), trusted)


def test_a_silent_twin_is_not_trusted_until_it_speaks(scene, state):
    scene.update(state())
    trusted = scene.render(SIZE)
    scene.show_silence(2.5)
    assert not scene.trusted
    assert share(view_of(scene.render(SIZE))[:28], colors.ALARM) > 0.5
    scene.update(state())
    np.testing.assert_array_equal(scene.render(SIZE), trusted)


def test_a_new_scene_says_that_it_has_heard_nothing(lumen):
    scene = Scene(lumen, size=SIZE)
    assert not scene.trusted
    assert share(view_of(scene.render())[:28], colors.ALARM) > 0.5
    scene.close()


def test_the_tool_is_shown_only_where_it_is_known(scene, state):
    scene.update(state())
    assert share(view_of(scene.render(SIZE)), colors.TIP, 70) > 0.0001
    for change in ({"tip_valid": False}, {"tip": None}, {"tip_covariance": None}):
        scene.update(state(**change))
        assert share(view_of(scene.render(SIZE)), colors.TIP, 70) == 0.0, change


def test_the_numbers_follow_the_state(scene, state):
    from streams.messages import Estimate

    pictures = []
    for changes in (
        {},
        {"tip_pressure_mmhg": Estimate(value=92.4, lower=80.0, upper=99.0)},
        {"tip_pressure_mmhg": None},
        {"fre": 0.9},
        {"registered": False},
        {"age_ns": {"tracker": 2_000_000_000}},
        {"port_flow_ml_s": {}},
    ):
        scene.update(state(**changes))
        pictures.append(scene.render(SIZE)[:, int(0.7 * SIZE[0]) + 1 :].tobytes())
    assert len(set(pictures)) == len(pictures)


def test_a_state_of_another_case_is_refused(scene, state):
    with pytest.raises(InputError, match="2 field coefficients but the display surface has 3"):
        scene.update(state(field_coefficients=(95.0, 1.0)))


def test_pictures_have_the_size_asked_for_and_replace_a_file_whole(scene, state, tmp_path):
    scene.update(state())
    path = tmp_path / "picture.png"
    path.write_bytes(b"old")
    scene.save_png(path, (800, 600))
    assert Image.open(path).size == (800, 600)
    assert [p.name for p in tmp_path.iterdir()] == ["picture.png"]
    with pytest.raises(InputError, match="does not exist"):
        scene.save_png(tmp_path / "nowhere" / "picture.png")
    with pytest.raises(InputError, match="too small"):
        scene.render((100, 50))
    assert scene.render((1280, 720)).shape == (720, 1280, 3)
    scene.render(SIZE)


def test_a_window_of_a_few_pixels_is_no_fault(scene, state, capfd):
    """A browser opens the page with one, and then gives it its size."""
    scene.update(state())
    window = scene.plotter.render_window
    size = window.GetSize()
    for tiny in ((30, 500), (300, 20), (10, 10)):
        window.SetSize(*tiny)
        scene.refresh()
    window.SetSize(*size)
    scene.refresh()
    # What goes wrong inside of VTK's callbacks is only printed.
    assert "Traceback" not in capfd.readouterr().err


def test_a_case_folder_is_shown(case, state, ports):
    surface = pv.read(case / "surface.vtp")
    surface.field_data["PortNames"] = list(ports)
    surface.field_data["PortCenters"] = np.array(list(ports.values()))
    surface.save(case / "surface.vtp")
    scene = Scene.from_case(case, size=SIZE)
    scene.update(state())
    labelled = scene.render(SIZE)
    scene.close()
    assert share(view_of(labelled), colors.TEXT, 20) > 0.0005


def test_case_folders_that_cannot_be_shown_are_refused(case, tmp_path):
    with pytest.raises(InputError, match=r"case folder .* does not exist"):
        Scene.from_case(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"surface\.vtp does not exist"):
        Scene.from_case(tmp_path / "empty")
    broken = tmp_path / "broken"
    shutil.copytree(case, broken)
    (broken / "surface.vtp").write_text("this is no XML")
    with pytest.raises(InputError, match="not a VTP"):
        Scene.from_case(broken)
    shutil.copy(case / "surface.vtp", broken / "surface.vtp")
    pv.PolyData([[0.0, 0, 0]]).save(broken / "centerline.vtp")
    with pytest.raises(InputError, match="no line"):
        Scene.from_case(broken)
    pv.PolyData().save(broken / "surface.vtp")
    with pytest.raises(InputError, match="no points"):
        Scene.from_case(broken)


def test_modes_must_be_numbered_without_gaps(lumen):
    holed = lumen.copy()
    holed["pressure_mode_5"] = holed["pressure_mode_1"]
    with pytest.raises(InputError, match="without gaps"):
        pressure_modes(holed)
    assert pressure_modes(lumen).shape == (lumen.n_points, 3)


def test_ellipsoid_holds_95_percent_however_it_is_turned():
    rng = np.random.default_rng(0)
    root = rng.normal(size=(3, 3))
    covariance = root @ root.T
    samples = rng.multivariate_normal(np.zeros(3), covariance, size=20000)
    inside = np.linalg.norm(np.linalg.solve(ellipsoid_axes(covariance), samples.T), axis=0) < 1.0
    assert inside.mean() == pytest.approx(0.95, abs=0.006)


def test_ellipsoid_is_drawn_at_the_tip_with_its_extent(state):
    tool = ToolActors(None, radius=1.0)
    tool.show(state(tip=(10.0, 20.0, 30.0), tip_covariance=(4.0, 0, 0, 0, 1.0, 0, 0, 0, 0.25)))
    x0, x1, y0, y1, z0, z1 = tool.ellipsoid.GetBounds()
    half = np.sqrt(7.8147) * np.array([2.0, 1.0, 0.5])
    np.testing.assert_allclose([(x1 - x0) / 2, (y1 - y0) / 2, (z1 - z0) / 2], half, rtol=0.02)
    np.testing.assert_allclose([(x0 + x1) / 2, (y0 + y1) / 2, (z0 + z1) / 2], [10, 20, 30], atol=0.05)
    with pytest.raises(InputError, match="finite"):
        tool.show(state(tip=(np.nan, 0.0, 0.0)))


def test_catheter_follows_the_vessel_to_its_tip(centerline):
    path = CatheterPath(centerline)
    tip = np.array([11.5, 2.0, -26.0])
    line = path.to(tip)
    np.testing.assert_allclose(line[0], (0, 0, 60), atol=1e-9)
    np.testing.assert_allclose(line[-1], tip)
    length = np.linalg.norm(np.diff(line, axis=0), axis=1).sum()
    assert length == pytest.approx(60 + np.linalg.norm(tip), rel=0.03)
    assert np.linalg.norm(line, axis=1).min() < 2.0  # through the fork
    assert path.to((60.0, 0.0, 0.0)) is None
    back = CatheterPath(centerline, access=(-18.0, -3.0, -50.0)).to(tip)
    np.testing.assert_allclose(back[0], (-18, -3, -50), atol=1e-9)


def test_catheter_stays_away_from_a_vessel_that_is_not_joined(centerline):
    far = centerline.copy()
    far.points[far["BranchId"] == 2] += (0.0, 0.0, -200.0)
    path = CatheterPath(far)
    assert path.to(far.points[-1]) is None
    assert path.to((11.5, 2.0, -26.0)) is not None


def test_feed_shows_the_newest_and_tells_silence_and_misfits(scene, state):
    now = [0.0]
    states = [None, state(sequence=4), None, None, state(field_coefficients=(1.0,)), state(sequence=6)]
    feed = Feed(scene, lambda: states.pop(0), stale_after_s=1.0, clock=lambda: now[0])
    assert not feed.poll()
    assert "waiting" in feed.status
    assert feed.poll()
    assert scene.trusted
    assert feed.status == "state 4: live"
    now[0] = 0.9
    assert not feed.poll()
    assert scene.trusted
    now[0] = 1.2
    assert feed.poll()
    assert not scene.trusted
    assert "silent for 1.2 s" in feed.status
    assert feed.poll()
    assert not scene.trusted
    assert "not of the same case" in feed.status
    assert feed.poll()
    assert scene.trusted
    with pytest.raises(InputError, match="silence"):
        Feed(scene, lambda: None, stale_after_s=0.0)


def test_a_window_needs_a_display(scene, lumen):
    with pytest.raises(InputError, match="off_screen=False"):
        run_window(scene, lambda: None)
    wanted = Scene(lumen, off_screen=False)
    if wanted.plotter.render_window.GetClassName() == "vtkEGLRenderWindow":
        with pytest.raises(InputError, match="no display"):
            run_window(wanted, lambda: None)
    else:
        require_display(wanted)
    wanted.close()


def test_panes_take_turns_within_their_share_of_the_time_and_trust_does_not_wait(lumen, centerline, state):
    now = [0.0]
    scene = Scene(lumen, centerline=centerline, size=SIZE, layout="conventional", clock=lambda: now[0])
    scene.update(state(sequence=1))
    scene.refresh(at_once=True)

    def panel():
        return scene.plotter.screenshot(None, return_img=True)[:, int(0.7 * SIZE[0]) + 1 :].tobytes()

    first = panel()
    scene.update(state(sequence=2, fre=0.9))
    scene.refresh()  # no time has gone by: nothing is earned yet
    assert panel() == first
    for step in range(40):
        now[0] += 0.1
        scene.update(state(sequence=3 + step, fre=0.9))
        scene.refresh()
    second = panel()
    assert second != first
    scene.update(state(sequence=99, fre=0.9, flags=("pressure_stale",)))
    scene.refresh()
    assert panel() != second
    scene.close()


def test_a_frame_is_drawn_each_time_it_is_asked_for(scene, state):
    """PyVista's own render does nothing before a window is shown."""
    frames = []
    tag = scene.plotter.render_window.AddObserver("EndEvent", lambda *_: frames.append(1))
    scene.update(state())
    for _ in range(3):
        scene.refresh()
    scene.plotter.render_window.RemoveObserver(tag)
    assert len(frames) == 3


@pytest.mark.parametrize("layout", ["conventional", "four_up", "endoluminal"])
def test_what_is_not_trusted_is_seen_in_every_arrangement(lumen, centerline, state, layout):
    scene = Scene(lumen, centerline=centerline, size=SIZE, layout=layout)
    scene.update(state())
    plain = share(scene.render(), colors.ALARM)
    scene.update(state(flags=("registration_drifted",), tip_valid=False))
    assert share(scene.render(), colors.ALARM) > plain + 0.02
    scene.close()
