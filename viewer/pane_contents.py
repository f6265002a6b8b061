"""What stands in each flat pane at a moment: a key that tells whether it has changed, and how to draw it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import pyvista as pv
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from viewer import colors
from viewer.alerts import doubts
from viewer.curves import draw_pullback, draw_waves
from viewer.guidance import Guide
from viewer.history import History
from viewer.layout import Pane
from viewer.lettering import font
from viewer.moment import Moment
from viewer.quantities import Quantity
from viewer.readout import draw_panel
from viewer.slices import SliceView, Volume, draw_slice

Pixels = NDArray[np.uint8]


class Content(NamedTuple):
    """What a pane shows: equal keys mean equal pictures."""

    key: object
    draw: Callable[[], Pixels]


def panel_content(moment: Moment, pane: Pane, limits: tuple[float, float], quantity: Quantity, pace: str) -> Content:
    """The numbers."""
    # The silence counts on in tenths; redraw no more often than the text changes.
    silent = None if moment.silent_s is None else round(moment.silent_s, 1)
    # Numbers of a state that cannot be shown are not shown either.
    shown = moment.state if moment.problem is None else None
    return Content(
        (moment.state, silent, moment.problem, pane, quantity.key, pace),
        lambda: draw_panel(
            shown,
            pane.size,
            limits,
            silent_s=silent,
            guidance=moment.guidance,
            quantity=quantity,
            pace=pace,
        ),
    )


@dataclass(frozen=True, eq=False)
class SliceLook:
    """How slices are shown, as a person chose it.

    Attributes:
        volume: the planning image; None where there is none.
        window_level: of its gray values.
        outline: the lumen whose outline is drawn; None for none.
        following: whether the slices follow the tip.
        scale: of type and lines.
        marks: landmarks by name, (3,) mm LPS.
    """

    volume: Volume | None
    window_level: tuple[float, float]
    outline: pv.PolyData | None
    following: bool
    scale: float
    marks: Mapping[str, NDArray[np.float64]] = field(default_factory=dict)


def slice_content(moment: Moment, view: SliceView, pane: Pane, look: SliceLook) -> Content:
    """A slice through the planning image with the tip and its uncertainty."""
    state = moment.state
    tip = state.tip if state is not None and state.tip_valid and moment.problem is None else None
    covariance = None if tip is None or state is None else state.tip_covariance
    if covariance is None:
        tip = None  # a point without its uncertainty is not shown
    warning = None if tip is not None else "TIP NOT KNOWN"
    if not moment.trusted and (state is None or tip is None or moment.silent_s is not None or doubts(state.flags)):
        warning = warning or "NOT TRUSTED"
    note = "" if look.following else "not following: space"
    if moment.planning:
        tip, covariance, warning, note = None, None, None, ""

    def draw() -> Pixels:
        if look.volume is None:
            return words_pane(pane.size, "NO IMAGE")
        return draw_slice(
            look.volume,
            view,
            pane.size,
            window_level=look.window_level,
            lumen=look.outline,
            tip=tip,
            covariance=covariance,
            warning=warning,
            note=note,
            scale=look.scale,
            marks=look.marks,
            cross=view.center if moment.planning else None,
        )

    key = (
        tuple(np.round(view.center, 2)), view.span_mm, pane, look.window_level, look.outline is None, warning,
        look.following, None if tip is None else tuple(np.round(tip, 2)), covariance,
        moment.planning, tuple((name, *np.round(at, 2)) for name, at in look.marks.items()),
    )  # fmt: skip
    return Content(key, draw)


def waves_content(moment: Moment, history: History, pane: Pane, scale: float) -> Content:
    """The tip's pressure in time."""
    number = None if moment.state is None else moment.state.sequence
    return Content(
        (number, moment.doubt, pane),
        lambda: draw_waves(history.waves(), pane.size, scale=scale, warning=moment.doubt),
    )


def pullback_content(
    moment: Moment,
    history: History,
    guide: Guide,
    stations: NDArray[np.float64] | None,
    pane: Pane,
    scale: float,
) -> Content:
    """Mean pressure of the last beat along the vessel, and where the tip is there."""
    means, state = history.beat, moment.state
    place = None
    if state is not None and state.tip is not None and state.tip_valid:
        along = guide.along(state.tip)
        if along is not None:
            place = (along, 1.96 * (state.tre or 0.0) / float(np.sqrt(3.0)))
    distance = None
    if stations is not None and means is not None and len(means.axis_mmhg):
        steps = np.linalg.norm(np.diff(stations, axis=0), axis=1)
        distance = np.concatenate([[0.0], np.cumsum(steps)])
    return Content(
        (id(means), None if place is None else round(place[0], 1), moment.doubt, pane),
        lambda: draw_pullback(
            distance,
            None if means is None else means.axis_mmhg,
            None if means is None else means.inlet_mmhg,
            pane.size,
            scale=scale,
            tip_mm=place,
            whole_beat=means is None or means.whole_beat,
            warning=moment.doubt,
        ),
    )


def words_pane(size: tuple[int, int], words: str) -> NDArray[np.uint8]:
    """An empty pane that says why it is empty."""
    image = Image.new("RGB", size, colors.PANEL)
    draw = ImageDraw.Draw(image)
    for start in range(-size[1], size[0], 26):
        draw.line([(start, size[1]), (start + size[1], 0)], fill=colors.RULE, width=6)
    face = font(max(round(size[1] / 16), 14), bold=True)
    half = 0.5 * draw.textlength(words, font=face) + 12
    x, y, tall = size[0] / 2, size[1] / 2, face.size
    draw.rectangle([x - half, y - tall, x + half, y + tall], fill=colors.ALARM)
    draw.text((x, y), words, font=face, fill="#ffffff", anchor="mm")
    draw.rectangle([0, 0, size[0] - 1, size[1] - 1], outline=colors.RULE)
    return np.asarray(image, dtype=np.uint8)
