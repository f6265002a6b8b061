import cv2
import numpy as np
import pytest
from PIL import Image, ImageDraw

from streams.messages import Estimate, VesselPlace
from viewer import colors
from viewer.alerts import AlertBoard, Priority
from viewer.errors import InputError
from viewer.readout import (
    draw_alerts,
    draw_banner,
    draw_panel,
    font,
    format_age,
    format_estimate,
    tip_halfwidth,
    vessel_place_words,
    wrap,
)

# Machado, Oliveira, Fernandes (2009): full deuteranopia and protanopia on linear light.
DEUTERANOPIA = [
    [0.367322, 0.860646, -0.227968],
    [0.280085, 0.672501, 0.047413],
    [-0.011820, 0.042940, 0.968881],
]
PROTANOPIA = [
    [0.152286, 1.052583, -0.204868],
    [0.114503, 0.786281, 0.099216],
    [-0.003882, -0.048116, 1.051998],
]


def lightness(linear):
    y = linear @ (0.2126, 0.7152, 0.0722)
    return np.where(y > 0.008856, 116 * np.cbrt(y) - 16, 903.3 * y)


@pytest.mark.parametrize("eye", [np.eye(3), DEUTERANOPIA, PROTANOPIA], ids=["full", "deuteranopia", "protanopia"])
def test_pressure_map_rises_evenly_for_every_eye(eye):
    table = colors.pressure_table(64)[:, :3] / 255.0
    linear = np.where(table <= 0.04045, table / 12.92, ((table + 0.055) / 1.055) ** 2.4)
    levels = lightness(np.clip(linear @ np.array(eye).T, 0, 1))
    steps = np.diff(levels)
    assert (steps > 0).all()
    assert steps.max() < 2.5 * steps.mean()
    assert levels[-1] - levels[0] > 60


def test_lowest_pressure_is_visible_on_the_background():
    dark = colors.linear_from_srgb(np.array(colors.rgb(colors.BACKGROUND)) / 255.0)
    low = colors.linear_from_srgb(colors.pressure_table()[0, :3] / 255.0)
    assert lightness(low) - lightness(dark) > 10


def test_colors_refuse_an_empty_range_and_values_without_color():
    with pytest.raises(InputError, match="empty"):
        colors.pressure_colors([1.0], (5.0, 5.0))
    with pytest.raises(InputError, match="not finite"):
        colors.pressure_colors([np.nan], (0.0, 1.0))
    ends = colors.pressure_colors([-5.0, 0.0, 1.0, 9.0], (0.0, 1.0))
    np.testing.assert_array_equal(ends[0], ends[1])
    np.testing.assert_array_equal(ends[2], ends[3])


@pytest.mark.parametrize(
    ("value", "lower", "upper", "words"),
    [
        (92.437, 88.13, 96.61, ("92.4", "88.1 to 96.6")),
        (120.4, 80.0, 160.0, ("120", "80 to 160")),
        (1.2345, 1.2, 1.3, ("1.23", "1.20 to 1.30")),
        (-3.21, -5.0, -1.0, ("−3.2", "−5.0 to −1.0")),
        (np.nan, 0.0, 1.0, ("–", "not known")),
    ],
)
def test_numbers_come_with_their_interval(value, lower, upper, words):
    from streams.messages import Estimate

    assert format_estimate(Estimate(value=value, lower=lower, upper=upper)) == words


def test_ages_are_in_the_unit_a_person_uses():
    assert format_age(16_400_000) == "16 ms"
    assert format_age(2_340_000_000) == "2.3 s"


def test_tip_halfwidth_is_the_longest_axis_of_the_ellipsoid(state):
    turned = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))[0]
    covariance = turned @ np.diag([0.25, 1.0, 4.0]) @ turned.T
    assert tip_halfwidth(state(tip_covariance=tuple(covariance.ravel()))) == pytest.approx(2.0 * 2.7955, rel=1e-3)
    assert tip_halfwidth(state(tip_valid=False)) is None


def ink(panel):
    return np.abs(panel.astype(int) - np.array(colors.rgb(colors.PANEL))).max(axis=2) > 40


@pytest.mark.parametrize("size", [(384, 720), (240, 600), (576, 1080)])
def test_nothing_runs_over_the_edge_of_the_panel(state, size):
    from streams.messages import Estimate

    crowded = state(
        port_flow_ml_s={
            f"left internal carotid artery {i}": Estimate(value=-1234.5, lower=-2345.6, upper=-1.2) for i in range(9)
        },
        age_ns={f"optical_tracker_of_the_ceiling_{i}": 123_456_000_000 for i in range(9)},
        tip_pressure_mmhg=Estimate(value=-1234.5, lower=-1300.0, upper=-1200.0),
    )
    drawn = ink(draw_panel(crowded, size, (60.0, 140.0), silent_s=12.3))
    margin = 8 * min(size[1] / 720, size[0] / 384)
    assert not drawn[:, : int(margin)].any()
    assert not drawn[:, -int(margin) :].any()
    assert not drawn[: int(margin)].any()
    assert not drawn[-int(margin) :].any()


def test_rows_do_not_touch_the_color_scale(state):
    many = state(age_ns={f"stream_{i}": 1_000_000 for i in range(20)})
    drawn = ink(draw_panel(many, (384, 720), (60.0, 140.0)))
    # Between the last row and the scale's heading there is an empty strip.
    assert not drawn[588:620].any()
    assert drawn[640:700, 30:350].mean(axis=1).max() > 0.9  # the scale itself


def test_ages_go_on_counting_while_the_twin_is_silent(state):
    before = draw_panel(state(), (384, 720), (60.0, 140.0), silent_s=1.0)
    after = draw_panel(state(), (384, 720), (60.0, 140.0), silent_s=2.0)
    rows = np.flatnonzero((before != after).any(axis=(1, 2)))
    assert np.ptp(rows) > 25  # not only the line that tells the silence


def test_every_reason_is_in_the_banner():
    one = draw_banner(("tracker stale",), 900, 1.0)
    many = draw_banner(tuple(f"reason number {i} of many that were given" for i in range(12)), 900, 1.0)
    assert one.shape[1] == many.shape[1] == 900
    assert many.shape[0] > one.shape[0] + 3 * 20
    draw = ImageDraw.Draw(Image.new("RGB", (10, 10)))
    face = font(18)
    words = "a bb ccc " + "d" * 200 + " end"
    lines = wrap(words, face, 300, draw)
    assert "".join(lines).replace(" ", "") == words.replace(" ", "")
    assert all(draw.textlength(line, font=face) <= 300 for line in lines)


@pytest.mark.parametrize("width", [360, 656, 1344])
def test_no_alert_is_cut_off_however_many_there_are(width):
    board = AlertBoard()
    board.take([f"silent:tracker/a tool with quite a long name number {i}" for i in range(9)], 0.0)
    strip = draw_alerts(board.alerts, width, 1.0, 0.0, trusted=False, doubts=("no state from the twin for 2.5 s",))
    yellow = (np.abs(strip.astype(int) - colors.rgb(Priority.MEDIUM.color)).max(axis=2) < 12).astype(np.uint8)
    chips = [box for box in cv2.connectedComponentsWithStats(yellow)[2][1:] if box[4] > 500]
    assert len(chips) == 9
    for left, top, wide, tall, _ in chips:
        assert left > 5
        assert left + wide < width - 5
        assert top > 5
        assert top + tall < strip.shape[0]


def test_the_panel_says_in_which_branch_the_tip_is_or_how_far_outside(state):
    inside = VesselPlace("2", 0.97, Estimate(34.2, 33.0, 35.4), 0.0, 0.4, 0.6)
    outside = VesselPlace("2", 0.97, Estimate(34.2, 33.0, 35.4), 2.31, 0.4, 0.6)
    assert vessel_place_words(inside) == ("2", "97 %, 34 mm along")
    assert vessel_place_words(outside) == ("2", "2.3 mm outside the lumen")
    size, limits = (384, 720), (60.0, 140.0)
    panels = [draw_panel(state(vessel_place=one), size, limits) for one in (None, inside, outside)]
    assert not np.array_equal(panels[0], panels[1])
    assert not np.array_equal(panels[1], panels[2])
