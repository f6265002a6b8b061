"""How accurate the filters are, where the truth is known from outside of them.

* A linear Gaussian model observed at irregular times, beside the (posterior) Cramér-Rao bound, which there is the exact
  Kalman covariance, computed by its own recursion (Tichavský, Muravchik & Nehorai 1998).
* Lorenz-96 beside DAPPER's filters with the same settings, on DAPPER's own truth and observations. The two are compared
  cycle by cycle in blocks: the difference of their errors over its own standard error.
* Lorenz-96 with 1,000 variables and 16 members, which only works with localization.
* Recorded pressure and flow in a pig's aorta, three-element Windkessel: is the normalized innovation what it should be,
  and does the interval of each parameter hold what least squares finds? What is assumed of the model's error is found
  on the other segments than the one that is judged.

DAPPER runs by the interpreter that has it: give it with ``--peers``.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from assimilation_speed import asked, figure
from numpy.typing import NDArray

from surgical_twin.assimilation.ensemble_filter import Ensemble, EnsembleFilter
from surgical_twin.assimilation.filters import Observation, follow
from surgical_twin.assimilation.inflation import FiniteSizeInflation, FixedInflation
from surgical_twin.assimilation.localization import LocalTransform, gaspari_cohn
from surgical_twin.assimilation.unscented import Gaussian, UnscentedFilter

Array = NDArray[np.float64]
Figures = dict[str, Any]


def chain(n: int) -> Array:
    """(n, n) rates of n weakly coupled, weakly damped oscillators' coordinates, 1/s."""
    rates = -0.05 * np.eye(n)
    for i in range(0, n - 1, 2):
        rates[i, i + 1], rates[i + 1, i] = 1.0 + 0.1 * i, -1.0 - 0.1 * i
    for i in range(n - 2):
        rates[i, i + 2] += 0.15
    return rates


def linear_ratio(kind: str, n: int, members: int, trials: int) -> float:
    """RMS error of a filter over its bound, over the second half of 60 observations at irregular times."""
    from scipy.linalg import expm

    rates, drive, error = chain(n), np.full(n, 0.1), 0.5
    seen = np.arange(0, n, 4)
    generator = np.random.default_rng(7)
    times = np.cumsum(generator.exponential(0.3, 60))
    steps = {time: expm(rates * gap).T for time, gap in zip(times, np.diff(times, prepend=0.0), strict=True)}
    bound, squares, bounds = np.eye(n), [], []
    information = np.zeros((n, n))
    information[seen, seen] = 1.0 / error
    now = 0.0
    for time in times:
        step = steps[time].T
        bound = step @ bound @ step.T + np.diag(drive * (time - now))
        bound = np.linalg.inv(np.linalg.inv(bound) + information)
        bounds.append(np.trace(bound))
        now = time
    for trial in range(trials):
        source = np.random.default_rng((1, trial))
        truth, now, observations, states = source.normal(size=n), 0.0, [], []
        for time in times:
            truth = truth @ steps[time] + source.normal(size=n) * np.sqrt(drive * (time - now))
            now = time
            states.append(truth)
            observations.append(
                Observation(time, truth[seen] + source.normal(size=len(seen)) * np.sqrt(error),
                            np.full(len(seen), error), lambda one: one[:, seen])
            )  # fmt: skip
        dynamics = lambda one, start, end: one @ steps[end]  # noqa: E731
        noise = lambda start, end: drive * (end - start)  # noqa: E731
        if kind == "unscented":
            beliefs = follow(UnscentedFilter(dynamics, noise), Gaussian(0.0, np.zeros(n), np.eye(n)), observations)
        else:
            made = EnsembleFilter(dynamics, noise, seed=trial, inflation=FiniteSizeInflation() if n >= members // 2
                                  else FixedInflation())  # fmt: skip
            start = Ensemble.drawn(0.0, np.zeros(n), np.ones(n), members, seed=trial)
            beliefs = follow(made, start, observations)
        off = [((one.belief.mean - state) ** 2).sum() for one, state in zip(beliefs, states, strict=True)]
        squares.append(off[30:])
    return float(np.sqrt(np.mean(squares) / np.mean(bounds[30:])))


def linear(options: argparse.Namespace, folder: Path) -> Figures:
    """Beside the Cramér-Rao bound."""
    trials = 40 if options.quick else 200
    return {
        "linear_8_states_64_members": figure(linear_ratio("ensemble", 8, 64, trials), "<= 1.25", "RMS over the bound"),
        "linear_8_states_12_members": figure(linear_ratio("ensemble", 8, 12, trials), "<= 1.25", "RMS over the bound"),
        "linear_40_states_64_members": figure(
            linear_ratio("ensemble", 40, 64, trials // 2), "<= 1.25", "RMS over the bound"
        ),
        "linear_8_states_unscented": figure(linear_ratio("unscented", 8, 0, trials), "<= 1.25", "RMS over the bound"),
    }


def lorenz96(states: Array, start: float, end: float) -> Array:
    """Lorenz (1996) with a force of 8, by one step of the classical Runge-Kutta method."""

    def slope(x: Array) -> Array:
        return np.asarray((np.roll(x, -1, axis=-1) - np.roll(x, 2, axis=-1)) * np.roll(x, 1, axis=-1) - x + 8.0)

    h = end - start
    a = slope(states)
    b = slope(states + 0.5 * h * a)
    c = slope(states + 0.5 * h * b)
    return np.asarray(states + h / 6.0 * (a + 2 * b + 2 * c + slope(states + h * c)))


def ring_distance(n: int) -> Array:
    """(n, n) on a ring."""
    return np.abs((np.arange(n)[:, None] - np.arange(n) + n // 2) % n - n // 2).astype(float)


def tracked(made: EnsembleFilter, start: Ensemble, truth: Array, observed: Array, step: float) -> Array:
    """(cycles,) root-mean-square error over the variables after each analysis."""
    n = truth.shape[1]
    observations = (
        Observation(step * (cycle + 1), values, np.ones(n), lambda one: one) for cycle, values in enumerate(observed)
    )
    analyses = follow(made, start, observations)
    return np.array(
        [np.sqrt(((one.belief.mean - state) ** 2).mean()) for one, state in zip(analyses, truth, strict=True)]
    )


def block_error(values: Array, blocks: int = 20) -> float:
    """Standard error of a mean of correlated values, from the means of blocks."""
    means = np.array([one.mean() for one in np.array_split(values, blocks)])
    return float(means.std(ddof=1) / np.sqrt(blocks))


def chaos(options: argparse.Namespace, folder: Path) -> Figures:
    """Lorenz-96 beside DAPPER."""
    cycles, burn = (1000, 400) if options.quick else (4000, 400)
    found, theirs = asked(options.peers, "lorenz96", {"cycles": cycles, "seed": 3}, folder)
    why = found.get("why", "")
    # DAPPER analyses pairs of variables at once, with the mean of both one's distances.
    paired = ring_distance(40).reshape(20, 2, 40).mean(axis=1).repeat(2, axis=0)
    ours = {
        "square_root": (24, EnsembleFilter(lorenz96, inflation=FixedInflation(1.013), rotate=True), 0.18),
        "letkf": (7, EnsembleFilter(lorenz96, inflation=FixedInflation(1.04), rotate=True,
                                    localization=LocalTransform(gaspari_cohn(paired, 4.0))), 0.22),
        "finite_size": (24, EnsembleFilter(lorenz96, inflation=FiniteSizeInflation(), rotate=True), 0.21),
    }  # fmt: skip
    figures: Figures = {}
    for name, (members, made, _) in ours.items():
        if not theirs:
            figures[f"lorenz96_{name}_difference"] = figure(None, "<= 2", "standard errors", why)
            continue
        truth = theirs["truth"][1:]
        start_at = np.zeros(40)
        start_at[0] = 1.0
        start = Ensemble.drawn(0.0, start_at, np.full(40, 0.001), members, seed=5)
        mine = tracked(made, start, truth, theirs["observed"], 0.05)[burn:]
        other = np.sqrt(((theirs[name] - truth) ** 2).mean(axis=1))[burn:]
        error = block_error(mine - other)
        figures[f"lorenz96_{name}"] = figure(float(mine.mean()), ">= 0", f"RMSE, +- {block_error(mine):.4f}")
        figures[f"lorenz96_{name}_dapper"] = figure(float(other.mean()), ">= 0", f"RMSE, +- {block_error(other):.4f}")
        figures[f"lorenz96_{name}_difference"] = figure(
            float((mine.mean() - other.mean()) / error), "in -2 2", "standard errors"
        )
    n, cycles = 1000, 250 if options.quick else 600
    generator = np.random.default_rng(11)
    truth_at = 8.0 + generator.normal(size=(1, n))
    for number in range(300):
        truth_at = lorenz96(truth_at, 0.05 * number, 0.05 * (number + 1))
    truth = np.empty((cycles, n))
    for cycle in range(cycles):
        truth_at = lorenz96(truth_at, 0.0, 0.05)
        truth[cycle] = truth_at[0]
    observed = truth + generator.normal(size=truth.shape)
    start = Ensemble(0.0, truth[0] + generator.normal(size=(16, n)))
    local = LocalTransform(gaspari_cohn(ring_distance(n), 6.0))
    made = EnsembleFilter(lorenz96, inflation=FixedInflation(1.02), rotate=True, localization=local)
    near = tracked(made, start, truth, observed, 0.05)[100:]
    blind = tracked(EnsembleFilter(lorenz96, inflation=FixedInflation(1.02)), start, truth, observed, 0.05)[100:]
    figures["lorenz96_1000_states_16_members"] = figure(float(near.mean()), "<= 0.25", "RMSE")
    figures["lorenz96_1000_states_without_localization"] = figure(float(blind.mean()), ">= 0", "RMSE")
    return figures


def pig(options: argparse.Namespace, folder: Path) -> Figures:
    """Recorded aortic pressure and flow."""
    from assimilation_pig import pig_figures

    return pig_figures(options.quick)


PARTS: dict[str, Callable[[argparse.Namespace, Path], Figures]] = {"linear": linear, "lorenz96": chaos, "pig": pig}


def main() -> None:
    """Measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="shorter runs")
    parser.add_argument("--peers", default=sys.executable, help="interpreter that has dapper")
    parser.add_argument("--only", choices=sorted(PARTS), action="append", help="only these parts")
    options = parser.parse_args()
    figures: Figures = {}
    with tempfile.TemporaryDirectory() as name:
        for part in options.only or PARTS:
            figures |= PARTS[part](options, Path(name))
    print(json.dumps({"benchmark": "assimilation_accuracy", "figures": figures}))


if __name__ == "__main__":
    main()
