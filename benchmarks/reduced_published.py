"""The lumped model's distance from published one-dimensional waveforms (openBF, after Boileau et al. 2015).

A common carotid artery and an aortic bifurcation, with the inflows and Windkessels of that benchmark. openBF's walls
give way and carry waves; the port model is rigid, with friction after Poiseuille and the inertance of the fluid.
Its vessels' compliance, which the 1D model spreads along them, is left out, or added to the Windkessels behind them:
both distances are told, as the root mean square over a beat, over the pulse of that place.

J. Boileau, P. Nithiarasu, P. J. Blanco et al., Int. J. Numer. Meth. Biomed. Engng. 31 (2015) e02732.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from surgical_twin.flow.anatomy_model import tube_element
from surgical_twin.flow.port_model import PortModel, PortParameters
from surgical_twin.flow.waveform import PeriodicWaveform
from surgical_twin.prediction.circulation import Circulation, periodic_beat

Array = NDArray[np.float64]
DATA = Path(__file__).resolve().parents[2] / "shared/data/openbf_1d"
POISSON = 0.5
STEP = 0.002


@dataclass(frozen=True)
class Tube:
    """One vessel of the benchmark; SI."""

    length: float
    radius: float
    wall: float
    modulus: float

    @property
    def compliance(self) -> float:
        """m^3/Pa of the whole vessel: L dA/dP = L 2 pi R^3 (1 - nu^2) / (E h)."""
        return self.length * 2 * np.pi * self.radius**3 * (1 - POISSON**2) / (self.modulus * self.wall)


CAROTID = (Tube(126e-3, 2.6485e-3, 0.24e-3, 700e3), (), (2.4875e8, 1.8697e9, 1.7529e-10))
AORTA = (
    Tube(86e-3, 7.581e-3, 0.9e-3, 500e3),
    (Tube(85e-3, 5.492e-3, 0.68e-3, 700e3),) * 2,
    (6.8123e7, 3.1013e9, 3.6664e-10),
)


def distances(name: str, parent: Tube, children: tuple[Tube, ...], bed: tuple[float, ...]) -> dict[str, Any]:
    """In percent of the pulse: pressure at the inlet and an outlet, and flow at that outlet."""
    blood = {"density": 1060.0, "viscosity": 4e-3}
    trunk = tube_element(parent.length, 2 * parent.radius, **blood)
    twigs = [tube_element(one.length, 2 * one.radius, **blood) for one in children]
    count = max(1, len(children))
    ones = np.ones((count, count))
    friction, inertance = trunk.resistance * ones, trunk.inertance * ones
    for place, twig in enumerate(twigs):
        friction[place, place] += twig.resistance
        inertance[place, place] += twig.inertance
    model = PortModel(
        outlets=tuple(f"outlet_{place + 1}" for place in range(count)),
        resistance=friction,
        inertance=inertance,
        segments=np.eye(count),
        loss=np.zeros(count),
        junction_loss=np.zeros(count),
        recovery=np.zeros(count),
        memory=np.zeros((0, count, count)),
        time_constants=np.zeros(0),
    )
    table = np.loadtxt(DATA / f"models/boileau2015/{name}/{name}_inlet.dat")
    waveform = PeriodicWaveform.from_table(table[:, 0], table[:, 1])
    stored = np.load(DATA / f"{name}_reference.npz")
    prefix = ("00", "02") if count == 1 else ("04", "06")
    flow, outlet = stored[f"{prefix[0]}_Q"], stored[f"{prefix[1]}_P"]
    inlet = stored["02_P"]
    found: dict[str, Any] = {}
    for kind, share in (("rigid", 0.0), ("compliance in the beds", 1.0)):
        proximal, distal, compliance = bed
        vessels = parent.compliance / count + (children[0].compliance if children else 0.0)
        parameters = PortParameters(
            *(np.full((1, count), value) for value in (proximal, distal, compliance + share * vessels, 0.0))
        )
        beat = periodic_beat(Circulation(model, parameters, waveform, np.ones(1)), time_step=STEP)

        def off(ours: Array, theirs: Array, column: int, beat_time: Array = beat.time) -> float:
            own = np.interp(theirs[:, 0] % waveform.period, beat_time, ours, period=waveform.period)
            # openBF's pressures are above the one outside of the vessel, as ours are above the veins'.
            return 100 * float(np.sqrt(((own - theirs[:, column]) ** 2).mean()) / np.ptp(theirs[:, column]))

        found[kind] = {
            "inlet_pressure": off(beat.inlet_pressure[:, 0], inlet, 1),
            "outlet_pressure": off(beat.outlet_pressure[:, 0, 0], outlet, -1),
            "outlet_flow": off(beat.flow[:, 0, 0], flow, -1),
        }
    return found


def main() -> None:
    """Compare and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="the same: it takes a second")
    parser.parse_args()
    figures: dict[str, Any] = {}
    if not DATA.is_dir():
        figures["distance"] = {"value": None, "why": f"{DATA} is not there"}
    else:
        for name, case in (("cca", CAROTID), ("ibif", AORTA)):
            for kind, values in distances(name, *case).items():
                for quantity, value in values.items():
                    label = f"{name}_{quantity}_{kind.replace(' ', '_')}"
                    figures[label] = {"value": value, "unit": "% of the pulse"}
                    print(f"{name:5} {kind:24} {quantity:16} {value:6.1f} % of the pulse")
    print(json.dumps({"benchmark": "reduced_published", "figures": figures}))


if __name__ == "__main__":
    main()
