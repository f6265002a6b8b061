"""How fast the reduced flow model runs: one member, an ensemble, its field decoder, and the estimate from anatomy.

The model is that of a real aorta with eight outlets where the data lie beside the project, else of the phantom with
two; both are planned up to the estimate from the anatomy, whose port model and decoder have the shape of trained ones.
Beside it the same network is integrated as plain ordinary differential equations by SciPy's LSODA, vectorized, with the
tolerance that gives the error which ours has at its step.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.integrate import solve_ivp

from meshes.phantom import stenosed_bifurcation
from surgical_twin.anatomy_estimate import estimated_model
from surgical_twin.case import Case
from surgical_twin.commands.planning import plan_case
from surgical_twin.demo import phantom_request
from surgical_twin.flow.port_model import PortModel, PortParameters, simulate
from surgical_twin.flow.waveform import PeriodicWaveform
from surgical_twin.plan_anatomy import PlanRequest
from surgical_twin.planning import planned_conditions
from surgical_twin.session_model import SessionModel
from surgical_twin.training_design import training_conditions

Array = NDArray[np.float64]
AORTA = Path(__file__).resolve().parents[2] / "shared/data/vmtk_aorta/input/aorta.mha"
STEP = 0.005
BEATS = 10


def best(job: Callable[[], object], times: int = 5) -> float:
    """Seconds of the fastest of several runs."""
    found = float("inf")
    for _ in range(times):
        begin = time.perf_counter()
        job()
        found = min(found, time.perf_counter() - begin)
    return found


def network(model: PortModel, bed: PortParameters, waveform: PeriodicWaveform) -> Callable[[float, Array], Array]:
    """The same network as ordinary differential equations of flows, capacitors and memories."""
    n, k = len(model.outlets), len(model.time_constants)
    system = np.block([[model.inertance, -np.ones((n, 1))], [np.ones((1, n)), np.zeros((1, 1))]])
    inverse = np.linalg.inv(system)
    proximal, distal = bed.proximal_resistance[0], bed.distal_resistance[0]
    compliance, behind = bed.compliance[0], bed.distal_pressure[0]

    def slope(t: float, state: Array) -> Array:
        q, pc, recalled = state[:n], state[n : 2 * n], state[2 * n :].reshape(k, n)
        through, total = q @ model.segments, q.sum()
        lost = through * (model.loss * np.abs(through) + model.junction_loss * abs(total))
        drive = model.resistance @ q + model.segments @ lost + model.recovery * total * abs(total) + proximal * q + pc
        drive += np.einsum("kij,kj->i", model.memory, q - recalled)
        rate = inverse[:n] @ np.append(-drive, waveform.derivative(t))
        memory = (q - recalled) / model.time_constants[:, None]
        return np.concatenate([rate, (q - (pc - behind) / distal) / compliance, memory.ravel()])

    return slope


def against_scipy(model: PortModel, bed: PortParameters, waveform: PeriodicWaveform) -> dict[str, float]:
    """Seconds of ours and of SciPy's for some beats, and the error of each against a far finer run of ours."""
    seconds = BEATS * waveform.period
    steps = round(seconds / STEP)
    times = np.linspace(0.0, seconds, steps + 1)

    def ours(fine: int) -> Array:
        t = np.linspace(0.0, seconds, fine * steps + 1)
        inside = t % waveform.period
        run = simulate(model, bed, t, waveform.spline(inside), waveform.spline(inside, 1), flow=start[:1],
                       capacitor_pressure=start[1:2])  # fmt: skip
        return np.asarray(run.flow[::fine, 0])

    begin = model.steady_state(bed, waveform.value(0.0))
    start = np.concatenate([begin.flow, begin.capacitor_pressure])
    exact = ours(16)
    size = float(np.abs(exact).max())
    error = float(np.abs(ours(1) - exact).max()) / size
    slope = network(model, bed, waveform)
    first = np.concatenate([begin.flow[0], begin.capacitor_pressure[0], begin.lagged_flow[0].ravel()])
    n = len(model.outlets)

    def scipy(tolerance: float) -> Array:
        answer = solve_ivp(slope, (0.0, seconds), first, t_eval=times, rtol=tolerance, atol=tolerance * size,
                           method="LSODA")  # fmt: skip
        return np.asarray(answer.y[:n].T)

    tolerance = 1e-2
    while (theirs := float(np.abs(scipy(tolerance) - exact).max()) / size) > max(error, 1e-5) and tolerance > 1e-9:
        tolerance /= 3.0
    return {
        "ours": best(lambda: ours(1)),
        "scipy": best(lambda: scipy(tolerance), 2),
        "error": error,
        "scipy_error": theirs,
        "seconds": seconds,
    }


def main() -> None:
    """Plan up to the estimate, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="the phantom, though the aorta is there")
    parser.add_argument("--case", type=Path, help="a planned case instead")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = options.case
        if path is None:
            path = Path(folder) / "case"
            real = AORTA.is_file() and not options.quick
            request = PlanRequest(image=AORTA) if real else phantom_request(stenosed_bifurcation(seed=0), Path(folder))
            plan_case(request, path, until="estimate")
        case = Case.open(path)
        planned = planned_conditions(case, beats=1.0)
        design = training_conditions(planned)
        made = best(lambda: estimated_model(case, planned, design), 3)
        model = SessionModel.load(case)
    ports, waveform, bed = model.reduced.ports, model.waveform, model.filter.planned
    pair = against_scipy(ports, bed, waveform)
    figures = {
        "outlets": {"value": len(ports.outlets), "goal": ">= 1", "unit": "outlets"},
        "one_member": {"value": pair["seconds"] / pair["ours"], "goal": ">= 1000", "unit": "x real time"},
        "against_scipy": {"value": pair["scipy"] / pair["ours"], "goal": ">= 10", "unit": "ratio"},
        "error_of_a_step": {"value": 100.0 * pair["error"], "goal": "<= 1", "unit": "% of the largest flow"},
        "error_of_scipy": {"value": 100.0 * pair["scipy_error"], "goal": "<= 1", "unit": "% of the largest flow"},
    }
    many = model.filter.initial(0, waveform.period)
    log_factors = np.resize(many.log_factors, (128, many.log_factors.shape[1]))
    parameters, scale = model.filter.parameters(log_factors), model.filter.inflow_factor(log_factors)
    state = ports.steady_state(parameters, scale * waveform.mean)
    stepper = ports.stepper(parameters, STEP)
    times = np.arange(1, round(waveform.period / STEP) + 1) * STEP % waveform.period
    inflow, rate = np.outer(waveform.spline(times), scale), np.outer(waveform.spline(times, 1), scale)
    took = best(lambda: stepper.advance(state, inflow, rate), 9)
    figures["members_128"] = {"value": len(times) * STEP / took, "goal": ">= 20", "unit": "x real time"}

    decoder = model.reduced.decoder
    vertices = np.resize(np.arange(len(decoder.points)), 50_000)
    one = type(state)(*(getattr(state, name)[:1] for name in state.__dataclass_fields__))
    modes = decoder.display_modes(vertices)
    took = best(lambda: decoder.coefficients(one).astype(np.float32) @ modes.T, 9)
    figures["field_of_50000_vertices"] = {"value": 1e3 * took, "goal": "<= 5", "unit": "ms"}
    place = model.place(np.array([decoder.points.mean(axis=0) * 1e3]))
    took = best(lambda: place.operator.pressure(place.decoder.coefficients(state)), 200)
    figures["pressure_at_a_point"] = {"value": 1e6 * took, "goal": "<= 1000", "unit": "us, 128 members"}
    figures["estimate_from_anatomy"] = {"value": made, "goal": "<= 1", "unit": "s"}
    print(json.dumps({"benchmark": "reduced_speed", "figures": figures}))


if __name__ == "__main__":
    main()
