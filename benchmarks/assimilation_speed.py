"""How fast the filters are, beside DAPPER's and filterpy's ensemble filters on the same problem in the same run.

The problem is that of a procedure: 128 members, the flow state and parameters of a vessel tree with its sensors' biases
and the registration's error (30 variables), 4 sensors. DAPPER's time is the shorter of its square-root and its
perturbed-observation filter. The peers run by the interpreter that has them: give it with ``--peers`` (this one, if
nothing is given), as in ``python -m venv peers && peers/bin/pip install dapper filterpy``.

Load is a second of a procedure at 250 Hz: for each sample of four sensors, the ensemble is integrated by 4 ms, the
sensors are predicted at their places in the lumen, and the whole state is conditioned.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from assimilation_peers import best
from numpy.typing import NDArray

from meshes.phantom import stenosed_bifurcation
from surgical_twin.assimilation.beat import Beat
from surgical_twin.assimilation.filters import Observation
from surgical_twin.assimilation.flow_filter import FilterSettings, FlowFilter
from surgical_twin.assimilation.localization import LocalTransform, gaspari_cohn
from surgical_twin.assimilation.transform import transform_analysis
from surgical_twin.case import Case
from surgical_twin.commands.planning import plan_case
from surgical_twin.demo import phantom_request
from surgical_twin.session_model import SessionModel

Array = NDArray[np.float64]
MEMBERS, VARIABLES, SENSORS, RATE, POSES = 128, 30, 4, 250.0, 50.0
LIMIT = 420


def asked(peers: str, task: str, arrays: dict[str, Any], folder: Path) -> tuple[dict[str, Any], dict[str, Array]]:
    """What a peer's process printed and wrote; the reason under "why" where it did not."""
    source, target = folder / f"{task}.npz", folder / f"{task}_done.npz"
    np.savez(source, **arrays)
    script = Path(__file__).with_name("assimilation_peers.py")
    try:
        done = subprocess.run(
            [peers, str(script), task, str(source), str(target)], capture_output=True, text=True, timeout=LIMIT,
            check=False,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired) as error:
        return {"why": f"{peers} cannot run the peers: {error}"}, {}
    if done.returncode:
        return {"why": (done.stderr.strip() or "no reason given").splitlines()[-1][:200]}, {}
    found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    if not target.is_file():
        return found, {}
    with np.load(target) as stored:
        return found, {name: stored[name] for name in stored.files}


def figure(value: float | None, goal: str, unit: str, why: str = "") -> dict[str, Any]:
    """One line of the result."""
    return {"value": value, "goal": goal, "unit": unit, **({"why": why} if value is None or why else {})}


def exponent(sizes: list[int], seconds: list[float]) -> float:
    """Slope of log time over log size."""
    return float(np.polyfit(np.log(sizes), np.log(seconds), 1)[0])


def costs(quick: bool) -> dict[str, Any]:
    """How the cost of an analysis grows."""
    generator = np.random.default_rng(0)
    times = 15 if quick else 50

    def seconds(members: int, variables: int, count: int) -> float:
        ensemble = generator.normal(size=(members, variables))
        predicted = generator.normal(size=(members, count))
        return best(lambda: transform_analysis(ensemble, predicted, np.zeros(count), np.ones(count)), times)

    sizes = [512, 1024, 2048, 4096] if quick else [512, 1024, 2048, 4096, 8192]
    many = [4, 8, 16, 32, 64]
    plenty = [128, 256, 512, 1024, 2048, 4096]
    local = []
    states = [250, 500, 1000, 2000]
    for n in states:
        ring = np.abs((np.arange(n)[:, None] - np.arange(n) + n // 2) % n - n // 2).astype(float)
        rule, ensemble = LocalTransform(gaspari_cohn(ring, 4.0)), generator.normal(size=(16, n))
        observation = Observation(0.0, np.zeros(n), np.ones(n), lambda one: one)
        rule(ensemble, ensemble, observation, 1.0)  # its groups are made
        local.append(best(lambda: rule(ensemble, ensemble, observation, 1.0), max(3, times // 3)))  # noqa: B023
    return {
        "exponent_members": figure(
            exponent(sizes, [seconds(m, VARIABLES, SENSORS) for m in sizes]), "<= 1.2", "exponent"
        ),
        "exponent_observations": figure(exponent(many, [seconds(128, 2000, p) for p in many]), "<= 1.2", "exponent"),
        "exponent_observations_beyond_members": figure(
            exponent(plenty, [seconds(64, 200, p) for p in plenty]), "<= 1.2", "exponent"
        ),
        "exponent_local_state_and_observations": figure(exponent(states, local), "<= 1.2", "exponent"),
    }


def against_peers(peers: str, quick: bool, folder: Path) -> dict[str, Any]:
    """Time per update on the same numbers; and that the answers agree."""
    generator = np.random.default_rng(1)
    ensemble = generator.normal(size=(MEMBERS, VARIABLES)) @ generator.normal(size=(VARIABLES, VARIABLES))
    observed, variance = generator.normal(size=SENSORS), generator.uniform(0.5, 4.0, SENSORS)
    times = 2000 if quick else 10_000
    found, answer = asked(peers, "update", {"ensemble": ensemble, "observed": observed, "variance": variance,
                                            "times": times}, folder)  # fmt: skip

    def ours() -> Array:
        return transform_analysis(ensemble, ensemble[:, :SENSORS], observed, variance)

    took = best(ours, times)
    why = found.get("why", "")
    dapper = min((found[name] for name in ("dapper_square_root", "dapper_perturbed") if name in found), default=None)
    filterpy = found.get("filterpy")
    agreement = None
    if answer:
        mine = ours()
        agreement = float(
            max(np.abs(mine.mean(axis=0) - answer["mean"]).max(), np.abs(np.cov(mine.T) - answer["covariance"]).max())
        )
    n = 1000
    wide, seen = generator.normal(size=(16, n)), generator.normal(size=n)
    ring = np.abs((np.arange(n)[:, None] - np.arange(n) + n // 2) % n - n // 2).astype(float)
    rule = LocalTransform(gaspari_cohn(ring, 4.0))
    observation = Observation(0.0, seen, np.ones(n), lambda one: one)
    rule(wide, wide, observation, 1.0)
    local = best(lambda: rule(wide, wide, observation, 1.0), 5 if quick else 15)
    theirs, _ = asked(peers, "local", {"ensemble": wide, "observed": seen, "length": 4.0, "times": 3}, folder)
    them = theirs.get("seconds")
    return {
        "update": figure(1e6 * took, "> 0", "us"),
        "times_faster_than_dapper": figure(
            None if dapper is None else dapper / took, ">= 10", "ratio", found.get("dapper_why", why)
        ),
        "times_faster_than_filterpy": figure(
            None if filterpy is None else filterpy / took, ">= 10", "ratio", found.get("filterpy_why", why)
        ),
        "difference_from_dapper": figure(agreement, "<= 1e-8", "largest, of mean and covariance", why),
        "local_update_1000_states": figure(1e3 * local, "> 0", "ms"),
        "times_faster_than_dappers_letkf": figure(
            None if them is None else them / local, ">= 10", "ratio", theirs.get("why", "")
        ),
    }


def load(path: Path | None, folder: Path, quick: bool) -> dict[str, Any]:
    """Share of one core that the filter takes with 128 members and 4 sensors at 250 Hz.

    One of the sensors is at the tip of a catheter that is tracked at 50 Hz; its place in the lumen is looked up as
    often.
    """
    if path is None:
        path = folder / "case"
        plan_case(phantom_request(stenosed_bifurcation(seed=0), folder), path, until="estimate")
    model = SessionModel.load(Case.open(path))
    made = FlowFilter(
        model.reduced.ports, model.waveform, model.filter.planned,
        FilterSettings(members=MEMBERS, time_step=1.0 / RATE),
    )  # fmt: skip
    period = model.waveform.period
    beat = Beat(0, round(period * 1e9))
    start = made.initial(0, period)
    points = model.reduced.decoder.points * 1e3
    fixed = model.place(points[:: max(1, len(points) // (SENSORS - 1))][: SENSORS - 1])
    samples = 125 if quick else 500

    def run() -> None:
        state, tip, count = start, model.place(points[:1]), made.outlet_count
        for number in range(1, samples + 1):
            state = made.advance(state, number, beat)
            if number % round(RATE / POSES) == 0:
                tip = model.place(points[number % len(points)][None])
            predicted = np.hstack([fixed.pressure(state.ports), tip.pressure(state.ports)])
            joint = np.hstack([state.ports.flow, state.ports.capacitor_pressure, state.log_factors])
            joint = transform_analysis(joint, predicted, predicted[0], np.full(SENSORS, 400.0))
            ports = made.model.complete(
                joint[:, :count], joint[:, count : 2 * count], np.zeros(MEMBERS), made.parameters(joint[:, 2 * count :])
            )
            state = replace(state, ports=ports, log_factors=joint[:, 2 * count :])

    run()
    # Processor time: a share of one core, whatever else the machine does.
    took = best(run, 3, time.process_time)
    return {"core_share_128_members_4_sensors_250_hz": figure(100.0 * took / (samples / RATE), "<= 25", "% of a core")}


def main() -> None:
    """Measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer repetitions")
    parser.add_argument("--peers", default=sys.executable, help="interpreter that has dapper and filterpy")
    parser.add_argument("--case", type=Path, help="a planned case for the load, instead of the phantom")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        figures = against_peers(options.peers, options.quick, folder)
        figures |= costs(options.quick)
        figures |= load(options.case, folder, options.quick)
    print(json.dumps({"benchmark": "assimilation_speed", "figures": figures}))


if __name__ == "__main__":
    main()
