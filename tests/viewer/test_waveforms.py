import numpy as np
import pytest
from PIL import Image

from viewer import colors, waveforms
from viewer.errors import InputError


def distance_to(image, color):
    return np.abs(image.astype(int) - np.array(colors.rgb(color))).max(axis=2)


@pytest.fixture
def traces():
    time = np.linspace(0, 3, 400)
    truth = 95 + 20 * np.sin(2 * np.pi * time)
    return time, truth


def test_traces_show_band_measurement_and_truth(tmp_path, traces):
    time, truth = traces
    path = tmp_path / "traces.png"
    waveforms.pressure_traces(
        path, time, truth + 1, truth - 4, truth + 6, measured_time=time[::4], measured=truth[::4], truth=truth
    )
    image = np.asarray(Image.open(path).convert("RGB"))
    assert image.shape == (480, 1280, 3)
    for color in (waveforms.PREDICTED, waveforms.MEASURED, waveforms.TRUTH):
        assert (distance_to(image, color) < 40).sum() > 100, color
    without = tmp_path / "without.png"
    waveforms.pressure_traces(without, time, truth + 1, truth - 4, truth + 6)
    assert (distance_to(np.asarray(Image.open(without).convert("RGB")), waveforms.MEASURED) < 40).sum() == 0


def test_a_wider_interval_is_a_wider_band(tmp_path, traces):
    time, truth = traces
    areas = []
    for width in (2.0, 6.0):
        path = tmp_path / f"{width}.png"
        # Truth fixed far away above and below, so that both pictures have the same scale.
        waveforms.axis_profile(path, time, truth, truth - width, truth + width, truth=truth * 0 + [60, 130][0])
        image = np.asarray(Image.open(path).convert("RGB")).astype(int)
        base = np.array(colors.rgb(colors.PANEL))
        tint = (0.72 * base + 0.28 * np.array(colors.rgb(waveforms.PREDICTED))).astype(int)
        areas.append((np.abs(image - tint).max(axis=2) < 12).sum())
    assert areas[1] > 2.0 * areas[0]


def test_gaps_break_the_curve_and_the_tip_is_marked(tmp_path, traces):
    time, truth = traces
    holed = truth.copy()
    holed[100:200] = np.nan
    waveforms.pressure_traces(tmp_path / "gap.png", time, holed, holed - 2, holed + 2)
    image = np.asarray(Image.open(tmp_path / "gap.png").convert("RGB"))
    columns = (distance_to(image, waveforms.PREDICTED) < 40)[60:].any(axis=0)
    assert 250 < np.diff(np.flatnonzero(columns)).max() < 350  # a quarter of the axis is empty
    waveforms.axis_profile(tmp_path / "tip.png", time, truth, truth - 2, truth + 2, tip=(1.5, 0.1))
    plain = tmp_path / "plain.png"
    waveforms.axis_profile(plain, time, truth, truth - 2, truth + 2)
    changed = np.asarray(Image.open(tmp_path / "tip.png")) != np.asarray(Image.open(plain))
    assert changed.any()


def test_pictures_are_deterministic_and_leave_nothing_behind(tmp_path, traces):
    time, truth = traces
    for name in ("a.png", "b.png"):
        waveforms.pressure_traces(tmp_path / name, time, truth, truth - 1, truth + 1)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.png", "b.png"]


def test_curves_that_do_not_fit_together_are_refused(tmp_path, traces):
    time, truth = traces
    with pytest.raises(InputError, match=r"differ in length: time .400,., predicted .399,."):
        waveforms.pressure_traces(tmp_path / "x.png", time, truth[1:], truth, truth)
    with pytest.raises(InputError, match="measured"):
        waveforms.pressure_traces(tmp_path / "x.png", time, truth, truth, truth, measured=truth[:5])
    with pytest.raises(InputError, match="no finite"):
        waveforms.axis_profile(tmp_path / "x.png", time, truth * np.nan, truth, truth)
    with pytest.raises(InputError, match="does not exist"):
        waveforms.axis_profile(tmp_path / "no" / "x.png", time, truth, truth, truth)
    assert list(tmp_path.iterdir()) == []
