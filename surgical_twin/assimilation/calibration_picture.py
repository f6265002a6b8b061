"""Pictures of a calibration and of what a sensor plan can tell."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from surgical_twin.assimilation.calibration import SIGMAS, Calibration
from surgical_twin.assimilation.identifiability import UNSEEN, Advice, Information, Profile
from surgical_twin.errors import InputError

PLAN, KNOWN, MEASURED = "#9aa5b1", "#1f5fa8", "#222222"
SHOWN_ADVICE = 5
"""Of each kind."""


def draw_calibration(found: Calibration, path: Path) -> None:
    """Each sensor's mean beat with what explains it, and each parameter's interval before and after.

    Raises:
        InputError: the file cannot be written.
    """

    def draw(figure: Any) -> None:
        count = len(found.sensors)
        grid = figure.add_gridspec(count, 2, width_ratios=(1.3, 1.0))
        for number, one in enumerate(found.sensors):
            axes = figure.add_subplot(grid[number, 0])
            phase = np.arange(1, len(one.predicted) + 1) / len(one.predicted)
            axes.fill_between(phase, one.lower, one.upper, color=KNOWN, alpha=0.18, lw=0, label="95 %")
            axes.plot(phase, one.before, color=PLAN, ls="--", label="plan")
            axes.plot(phase, one.predicted, color=KNOWN, label="calibrated")
            axes.plot(phase, one.beat.values, ".", color=MEASURED, ms=4, label=f"mean of {one.beat.beats} beats")
            axes.set_ylabel(f"{one.sensor.label} [{one.sensor.unit}]")
            axes.legend(frameon=False, fontsize=8)
            axes.set_xlabel("phase of the beat")
        axes = figure.add_subplot(grid[:, 1])
        factors = found.prior.factors
        places = np.arange(factors)[::-1]
        for prior, color, shift in ((found.prior, PLAN, 0.16), (found.posterior, KNOWN, -0.16)):
            mean, half = prior.mean[:factors], SIGMAS * prior.deviation[:factors]
            middle = np.exp(mean)
            ends = np.abs(np.exp([mean - half, mean + half]) - middle)
            label = "plan" if color == PLAN else "calibrated"
            axes.errorbar(middle, places + shift, xerr=ends, fmt="o", color=color, ms=4, capsize=2, label=label)
        axes.axvline(1.0, color=PLAN, lw=0.8)
        axes.set_xscale("log")
        ticks = [0.4, 0.5, 0.7, 1.0, 1.4, 2.0, 2.5]
        axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        axes.minorticks_off()
        axes.set_yticks(places, found.prior.names[:factors])
        axes.set_xlabel("factor on the plan, 95 %")
        axes.set_ylim(-0.6, factors - 0.1)
        axes.legend(frameon=False, fontsize=8, loc="upper right", ncols=2)

    _write(draw, path, (11.0, max(4.0, 2.8 * len(found.sensors), 0.32 * found.prior.factors)))


def draw_identifiability(
    told: Information,
    advice: Sequence[Advice],
    profiles: Sequence[Profile],
    sensors: str,
    path: Path,
) -> None:
    """What the plan tells of each parameter, the combinations that stay open, and what would help.

    Raises:
        InputError: the file cannot be written.
    """
    names = list(told.names)
    columns = 2 + (1 if profiles else 0)

    def draw(figure: Any) -> None:
        grid = figure.add_gridspec(2, columns)
        axes = figure.add_subplot(grid[:, 0])
        places = np.arange(len(names))[::-1]
        axes.barh(places, 100.0 * told.prior.deviation, color=PLAN, height=0.75, label="before")
        axes.barh(places, 100.0 * told.deviation, color=KNOWN, height=0.45, label="with these sensors")
        axes.set_yticks(places, names)
        axes.set_xlabel("standard deviation [%]")
        axes.set_title(sensors, fontsize=9)
        axes.legend(frameon=False, fontsize=8)
        axes = figure.add_subplot(grid[0, 1])
        open_ones = [one for one in told.directions() if one.kept > UNSEEN][:6] or told.directions()[:3]
        table = np.array([one.weights * np.sign(one.weights[np.argmax(np.abs(one.weights))]) for one in open_ones])
        axes.imshow(table, cmap="RdBu_r", vmin=-1.0, vmax=1.0, aspect="auto")
        axes.set_xticks(range(len(names)), names, rotation=60, ha="right", fontsize=7)
        axes.set_yticks(range(len(open_ones)), [f"{100 * one.kept:.0f} % left" for one in open_ones], fontsize=8)
        axes.set_title("combinations least seen: what rises while what falls", fontsize=9)
        axes = figure.add_subplot(grid[1, 1])
        kinds = [[one for one in advice if one.kind == kind] for kind in ("position", "manoeuvre")]
        shown = [*kinds[0][:SHOWN_ADVICE], *kinds[1][:SHOWN_ADVICE]]
        places = np.arange(len(shown))[::-1]
        colors = [KNOWN if one.kind == "position" else "#c2701c" for one in shown]
        axes.barh(places, [one.gain for one in shown], color=colors)
        axes.set_yticks(places, [one.what for one in shown], fontsize=8)
        axes.set_xlabel("would tell besides [nats]: blue a position, orange a manoeuvre")
        for number, one in enumerate(profiles[:2]):
            axes = figure.add_subplot(grid[number, 2])
            axes.plot(one.values, one.rise, "o-", color=KNOWN, ms=3)
            axes.axhline(3.84, color=PLAN, ls="--")
            axes.set_ylim(0.0, max(8.0, min(30.0, float(one.rise.max()))))
            axes.set_xlabel(one.name)
            axes.set_ylabel("rise of -2 log likelihood")

    _write(draw, path, (7.0 * columns - 1.5, max(6.5, 0.34 * len(names))))


def _write(draw: Callable[[Any], None], path: Path, size: tuple[float, float]) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="constrained", dpi=110)
    draw(figure)
    temporary = path.with_name(f".{path.stem}.part.png")
    try:
        figure.savefig(temporary, format="png")
        temporary.replace(path)
    except OSError as error:
        raise InputError(f"{path} cannot be written ({error.strerror}); name another file.") from error
    finally:
        temporary.unlink(missing_ok=True)
