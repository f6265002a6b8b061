import cv2
import numpy as np
import pytest
from PIL import Image, ImageDraw

from streams.messages import Consistency, Estimate, Forecast, SensorState, UncertaintyParts, VesselPlace
from viewer import colors
from viewer.alert_strip import draw_alerts, draw_banner
from viewer.alerts import AlertBoard, Priority
from viewer.errors import InputError
from viewer.lettering import font, format_age, format_estimate, wrap
from viewer.readout import (
    condition_words,
    consistency_words,
    draw_panel,
    parts_words,
    plus_minus,
    short_names,
    tip_halfwidth,
    vessel_place_words,
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
    assert not drawn[614:632].any()
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
    strip = draw_alerts(board.alerts, width, 1.0, 0.0, trusted=False, said=("no state from the twin for 2.5 s",))
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


def rows_of(before, after):
    """Where two panels differ, in rows."""
    return np.flatnonzero((before != after).any(axis=(1, 2)))


def sensor(bias, condition=""):
    return SensorState(bias_mmhg=bias, drift_mmhg_per_h=Estimate(0.0, -4.0, 4.0), nis=0.9, condition=condition)


def test_numbers_of_filter_and_sensors_in_words():
    assert plus_minus(Estimate(97.91, 92.19, 103.64)) == "97.9 ± 5.7"
    assert plus_minus(Estimate(-0.21, -5.3, 4.9)) == "−0.2 ± 5.1"
    assert plus_minus(Estimate(np.nan, 0.0, 1.0)) == "–"
    # 95 % of a normal error is 1.96 standard deviations, and the parts' squares add up.
    assert parts_words(UncertaintyParts(3.0, 0.1, 1.0)) == "patient ± 5.9 · measuring ± 0.2 · model ± 2.0"
    assert consistency_words(Consistency(0.9, 0.4, 1.9, 0.0, 1.0)) == ("0.4 to 1.9 expected", False)
    assert consistency_words(Consistency(0.2, 0.4, 1.9, 0.0, 1.0)) == ("cautious, below 0.4", False)
    assert consistency_words(Consistency(2.5, 0.4, 1.9, 0.0, 1.0)) == ("TOO SURE, beyond 1.9", True)
    assert condition_words(sensor(Estimate(0, -1, 1), "transducer_unzeroed")) == "unzeroed"
    assert condition_words(sensor(Estimate(0, -1, 1), "line_damped")) == "damped"
    streams = ["tracker/catheter", "pressure/catheter_pressure", "pressure/radial", "trigger/r_wave", "odd"]
    assert list(short_names(streams).values()) == ["tracker", "catheter pressure", "radial", "r wave", "odd"]


def test_the_panel_shows_forecasts_consistency_and_each_sensor(state):
    size, limits = (384, 720), (60.0, 140.0)
    known = dict(
        consistency=Consistency(0.9, 0.4, 1.9, 0.0, 1.0),
        sensors={"catheter": sensor(Estimate(0.2, -5.0, 5.4))},
        tip_pressure_parts=UncertaintyParts(2.1, 0.1, 0.4),
        forecasts=tuple(
            Forecast(beats, {"inlet": Estimate(98.0 + beats, 92.0, 104.0)}, {}, UncertaintyParts(3.0, 0.0, 0.4))
            for beats in (1, 5, 30)
        ),
    )
    base = draw_panel(state(**known), size, limits)
    for changed in (
        {"consistency": Consistency(2.5, 0.4, 1.9, 0.0, 1.0)},
        {"sensors": {"catheter": sensor(Estimate(3.2, -2.0, 8.4))}},
        {"sensors": {"catheter": sensor(Estimate(0.2, -5.0, 5.4), "line_damped")}},
        {"tip_pressure_parts": UncertaintyParts(2.1, 0.9, 0.4)},
        {"forecasts": (*known["forecasts"][:2], Forecast(30, {"inlet": Estimate(70.0, 60.0, 80.0)}, {}, None))},
    ):
        rows = rows_of(base, draw_panel(state(**known | changed), size, limits))
        assert 0 < len(rows) < 25  # one line of text, and no other one
    # What is wrong is yellow.
    bad = draw_panel(
        state(**known | {"sensors": {"catheter": sensor(Estimate(0, -5, 5), "line_damped")}}), size, limits
    )
    yellow = np.abs(bad.astype(int) - colors.rgb(Priority.MEDIUM.color)).max(axis=2) < 30
    assert yellow.sum() > 100


def test_a_sensor_that_suffers_is_never_the_one_left_out(state):
    size, limits = (384, 720), (60.0, 140.0)
    well = {f"line_{i}": sensor(Estimate(0.1, -5.0, 5.2)) for i in range(4)}
    ill = well | {"line_3": sensor(Estimate(0.1, -5.0, 5.2), "transducer_stuck")}
    assert len(rows_of(draw_panel(state(sensors=well), size, limits), draw_panel(state(sensors=ill), size, limits)))


def test_a_full_panel_keeps_clear_of_the_color_scale(state):
    """Five rows of navigation, three sensors, all forecasts: still an empty strip above the scale's heading."""
    from viewer.guidance import Guidance

    full = state(
        consistency=Consistency(0.9, 0.4, 1.9, 0.0, 1.0),
        sensors={f"arterial_line_{i}": sensor(Estimate(0.1, -5.0, 5.2), "transducer_disconnected") for i in range(4)},
        tip_pressure_parts=UncertaintyParts(2.1, 0.1, 0.4),
        vessel_place=VesselPlace("2", 0.97, Estimate(34.2, 33.0, 35.4), 0.0, 0.4, 0.6),
        forecasts=(Forecast(1, {"inlet": Estimate(98.0, 92.0, 104.0)}, {}, UncertaintyParts(3.0, 0.0, 0.4)),),
        age_ns={f"stream_{i}": 1_000_000 for i in range(20)},
    )
    guidance = Guidance(2.0, 0.3, np.zeros(3), 12.0, 10.0, (3.0, 4.0), np.zeros(3), np.zeros((0, 3)))
    for silent in (None, 2.0):
        drawn = ink(draw_panel(full, (384, 720), (60.0, 140.0), guidance=guidance, silent_s=silent))
        assert not drawn[614:632].any()


def test_a_long_list_of_alerts_shrinks_before_it_hides_the_picture():
    board = AlertBoard()
    flags = ("registration_doubtful", "line_damped:a/catheter", "sensors_swapped", "circulation_changed", "restarted")
    board.take(flags, 0.0)
    tall = draw_alerts(board.alerts, 656, 1.0, 0.0, trusted=False)
    less = draw_alerts(board.alerts, 656, 1.0, 0.0, trusted=False, most_height=0.8 * tall.shape[0])
    assert less.shape[0] <= 0.8 * tall.shape[0]
    assert np.array_equal(tall, draw_alerts(board.alerts, 656, 1.0, 0.0, trusted=False, most_height=tall.shape[0]))


def test_nothing_stands_above_what_is_more_urgent():
    board = AlertBoard()
    board.take(("registration_drifted", "overloaded", "restarted"), 0.0)
    strip = draw_alerts(board.alerts, 480, 1.0, 0.0, trusted=False)

    def top(color):
        return np.flatnonzero((np.abs(strip.astype(int) - colors.rgb(color)).max(axis=2) < 12).sum(axis=1) > 40)[0]

    assert top(Priority.HIGH.color) <= top(Priority.MEDIUM.color) <= top(Priority.LOW.color)
