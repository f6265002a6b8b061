"""The 3D flow solver against numbers from outside: exact solutions, published benchmarks, another solver, experiments.

Each case says where its truth is from. `--only NAME ...` runs some of them; `--quick` takes coarser meshes where a
case has them and leaves out what takes minutes. Real data are read from `../shared/data` where it is there.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable

from flow_cylinder import dfg_2d1, dfg_2d2, dfg_2d3, dfg_3d1z
from flow_elastic import artery, wave
from flow_figures import Figures
from flow_nozzle import fda
from flow_orders import orders
from flow_svfsi import svfsi
from flow_tubes import energy, poiseuille, windkessel, womersley

CASES: dict[str, Callable[[bool], Figures]] = {
    "orders": orders,
    "poiseuille": poiseuille,
    "womersley": womersley,
    "windkessel": windkessel,
    "energy": energy,
    "elastic_wave": wave,
    "elastic_artery": artery,
    "svfsi": svfsi,
    "dfg_2d1": dfg_2d1,
    "dfg_2d2": dfg_2d2,
    "dfg_2d3": dfg_2d3,
    "dfg_3d1z": dfg_3d1z,
    "fda": fda,
}
SLOW = ("dfg_2d2", "dfg_2d3")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--only", nargs="*", choices=sorted(CASES), default=None)
    options = parser.parse_args()
    figures: Figures = {}
    for name, case in CASES.items():
        if options.only is not None and name not in options.only:
            continue
        if options.quick and name in SLOW and options.only is None:
            continue
        figures |= case(options.quick)
    print(json.dumps({"benchmark": "flow_verification", "figures": figures}))


if __name__ == "__main__":
    main()
