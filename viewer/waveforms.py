"""Curves: pressure over time, measured against predicted, and pressure along the vessel, each with its 95 %
band."""

from __future__ import annotations

import os
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import ArrayLike, NDArray

from viewer import colors
from viewer.errors import InputError

PREDICTED = "#4fc3b1"
MEASURED = "#ffd166"
TRUTH = "#ffffff"

STYLE = {
    "font.family": "DejaVu Sans",
    "font.size": 15.0,
    "axes.facecolor": colors.PANEL,
    "axes.edgecolor": colors.RULE,
    "axes.labelcolor": colors.MUTED,
    "axes.titlecolor": colors.TEXT,
    "axes.titlesize": 18.0,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": colors.RULE,
    "grid.linewidth": 0.8,
    "figure.facecolor": colors.BACKGROUND,
    "xtick.color": colors.MUTED,
    "ytick.color": colors.MUTED,
    "legend.facecolor": colors.PANEL,
    "legend.edgecolor": colors.RULE,
    "legend.labelcolor": colors.TEXT,
    "legend.framealpha": 0.9,
}


def pressure_traces(
    path: Path | str,
    time: ArrayLike,
    predicted: ArrayLike,
    lower: ArrayLike,
    upper: ArrayLike,
    *,
    measured_time: ArrayLike | None = None,
    measured: ArrayLike | None = None,
    truth_time: ArrayLike | None = None,
    truth: ArrayLike | None = None,
    title: str = "Pressure at the catheter tip",
    size: tuple[int, int] = (1280, 480),
) -> None:
    """Write a PNG of a predicted pressure with its 95 % band, and of what was measured.

    Args:
        path: where to; the file appears complete or not at all.
        time: (n,) seconds; gaps may be marked by NaN in the curves.
        predicted: (n,) mmHg.
        lower: (n,) mmHg, lower end of the 95 % interval.
        upper: (n,) mmHg, upper end.
        measured_time: (m,) seconds; `time` if not given.
        measured: (m,) mmHg.
        truth_time: (k,) seconds; `time` if not given.
        truth: (k,) mmHg, where a simulated procedure knows it.
        title: heading.
        size: width and height in pixels.

    Raises:
        InputError: curves of unequal lengths, or nothing finite to draw.
    """
    t, p, low, high = _same_length(time=time, predicted=predicted, lower=lower, upper=upper)
    with matplotlib.rc_context(STYLE):
        figure, axes = new_figure(size)
        axes.fill_between(t, low, high, color=PREDICTED, alpha=0.28, linewidth=0, label="95 % interval")
        axes.plot(t, p, color=PREDICTED, linewidth=2.2, label="predicted")
        if measured is not None:
            x, y = _same_length(measured_time=t if measured_time is None else measured_time, measured=measured)
            axes.plot(x, y, color=MEASURED, linewidth=1.2, label="measured")
        if truth is not None:
            x, y = _same_length(truth_time=t if truth_time is None else truth_time, truth=truth)
            axes.plot(x, y, color=TRUTH, linewidth=1.4, linestyle=(0, (5, 3)), label="truth")
        _finish(figure, axes, path, title, "time [s]", "pressure [mmHg]", t)


def axis_profile(
    path: Path | str,
    arc_length: ArrayLike,
    pressure: ArrayLike,
    lower: ArrayLike,
    upper: ArrayLike,
    *,
    truth: ArrayLike | None = None,
    tip: tuple[float, float] | None = None,
    title: str = "Pressure along the vessel",
    size: tuple[int, int] = (1280, 480),
) -> None:
    """Write a PNG of the pressure along the centerline with its 95 % band.

    Args:
        path: where to; the file appears complete or not at all.
        arc_length: (n,) mm from the inlet.
        pressure: (n,) mmHg.
        lower: (n,) mmHg, lower end of the 95 % interval.
        upper: (n,) mmHg, upper end.
        truth: (n,) mmHg, where a simulated procedure knows it.
        tip: arc length in mm and its standard deviation, to mark where the catheter's tip is (± 1.96 of
            them).
        title: heading.
        size: width and height in pixels.

    Raises:
        InputError: curves of unequal lengths, or nothing finite to draw.
    """
    s, p, low, high = _same_length(arc_length=arc_length, pressure=pressure, lower=lower, upper=upper)
    with matplotlib.rc_context(STYLE):
        figure, axes = new_figure(size)
        axes.fill_between(s, low, high, color=PREDICTED, alpha=0.28, linewidth=0, label="95 % interval")
        axes.plot(s, p, color=PREDICTED, linewidth=2.4, label="estimated")
        if truth is not None:
            _, y = _same_length(arc_length=s, truth=truth)
            axes.plot(s, y, color=TRUTH, linewidth=1.4, linestyle=(0, (5, 3)), label="truth")
        if tip is not None:
            where, deviation = tip
            axes.axvspan(
                where - 1.96 * deviation,
                where + 1.96 * deviation,
                color=colors.TIP,
                alpha=0.25,
                label="tip, 95 %",
            )
        _finish(figure, axes, path, title, "distance from the inlet [mm]", "pressure [mmHg]", s)


def new_figure(size: tuple[int, int]) -> tuple[Figure, Axes]:
    """A figure of so many pixels with one pair of axes."""
    dpi = 100.0
    figure = Figure(figsize=(size[0] / dpi, size[1] / dpi), dpi=dpi, layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.add_subplot()


def _finish(
    figure: Figure, axes: Axes, path: Path | str, title: str, across: str, up: str, x: NDArray[np.float64]
) -> None:
    """Labels, legend outside the curves' way, and the file written atomically."""
    axes.set_title(title, pad=12)
    axes.set_xlabel(across)
    axes.set_ylabel(up)
    finite = x[np.isfinite(x)]
    if finite[0] < finite[-1]:
        axes.set_xlim(finite.min(), finite.max())
    # Above the plot, where no curve can run under it.
    legend = axes.legend(loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=5, frameon=False, borderaxespad=0.4)
    figure.draw_without_rendering()
    if legend.get_window_extent().overlaps(axes._left_title.get_window_extent()):
        axes.set_title(title, pad=48)  # a long title goes above the legend
    path = Path(path)
    if not path.parent.is_dir():
        raise InputError(f"folder {path.parent} does not exist; make it before writing {path.name} there.")
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        # No software version in the file: the same curves give the same bytes.
        figure.savefig(temporary, format="png", metadata={"Software": None})
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _same_length(**curves: ArrayLike) -> list[NDArray[np.float64]]:
    """The curves as arrays of one length, with at least one finite value each."""
    arrays = {name: np.asarray(curve, dtype=np.float64) for name, curve in curves.items()}
    lengths = {name: array.shape for name, array in arrays.items()}
    if len(set(lengths.values())) != 1 or any(array.ndim != 1 for array in arrays.values()):
        told = ", ".join(f"{name} {shape}" for name, shape in lengths.items())
        raise InputError(f"curves to draw differ in length: {told}; give one value of each per point.")
    for name, array in arrays.items():
        if not np.isfinite(array).any():
            raise InputError(f"curve {name} holds no finite value; there is nothing to draw.")
    return list(arrays.values())
