"""The peers of the assimilation benchmarks, run by an interpreter that has them: DAPPER and filterpy.

Not to be run by hand: `assimilation_speed.py` and `assimilation_accuracy.py` start it as
``python assimilation_peers.py TASK IN.npz OUT.npz``; the last line it prints is one JSON object.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable

import numpy as np


def best(job: Callable[[], object], times: int, clock: Callable[[], float] = time.perf_counter) -> float:
    """Seconds of the fastest of several runs: what others do on the machine must not count."""
    found = float("inf")
    for _ in range(times):
        begin = clock()
        job()
        found = min(found, clock() - begin)
    return found


def lorenz96(given: dict[str, np.ndarray], out: str) -> dict[str, float]:
    """DAPPER's own set-up (mods/Lorenz96/sakov2008.py): its truth and observations, and its filters' estimates."""
    import dapper.da_methods as methods
    from dapper.mods.Lorenz96.sakov2008 import HMM
    from dapper.tools.seeding import set_seed

    cycles = int(given["cycles"])
    HMM.tseq.Ko = cycles
    set_seed(int(given["seed"]))
    truth, observed = HMM.simulate()
    found = {"truth": np.asarray(truth, dtype=float), "observed": np.array(list(observed), dtype=float)}
    filters = {
        "square_root": methods.EnKF("Sqrt", N=24, infl=1.013, rot=True),
        "letkf": methods.LETKF(N=7, rot=True, infl=1.04, loc_rad=4),
        "finite_size": methods.EnKF_N(N=24, rot=True, dual=True),
    }
    for name, one in filters.items():
        set_seed(1 + int(given["seed"]))
        one.assimilate(HMM, truth, observed)
        found[name] = np.asarray(one.stats.mu.a, dtype=float)
    np.savez(out, **found)
    return {"cycles": cycles}


def update(given: dict[str, np.ndarray], out: str) -> dict[str, float | str]:
    """Seconds per update of DAPPER's ensemble filters and filterpy's, on the same ensemble and observations."""
    ensemble, observed, variance = given["ensemble"], given["observed"], given["variance"]
    count, times = len(observed), int(given["times"])
    found: dict[str, float | str] = {}
    try:
        from dapper.da_methods.ensemble import EnKF_analysis
        from dapper.tools.randvars import GaussRV

        noise = GaussRV(C=np.diag(variance), M=count)
        seen = ensemble[:, :count]
        for name, kind in (("dapper_square_root", "Sqrt"), ("dapper_perturbed", "PertObs")):
            found[name] = best(
                lambda kind=kind: EnKF_analysis(ensemble.copy(), seen, noise, observed, kind),  # type: ignore[misc]
                times,
            )
        analysis = EnKF_analysis(ensemble.copy(), seen, noise, observed, "Sqrt")
        np.savez(out, mean=analysis.mean(axis=0), covariance=np.cov(analysis.T))
    except ImportError as error:
        found["dapper_why"] = str(error)
    try:
        from filterpy.kalman import EnsembleKalmanFilter

        n = ensemble.shape[1]
        other = EnsembleKalmanFilter(
            np.zeros(n), np.eye(n), count, 1.0, len(ensemble), lambda state: state[:count], lambda state, dt: state
        )
        other.R = np.diag(variance)

        def step() -> None:
            other.sigmas = ensemble.copy()
            other.x = ensemble.mean(axis=0)
            other.update(observed)

        found["filterpy"] = best(step, max(3, times // 20))
    except ImportError as error:
        found["filterpy_why"] = str(error)
    return found


def local(given: dict[str, np.ndarray], out: str) -> dict[str, float]:
    """Seconds per update of DAPPER's LETKF."""
    from dapper.da_methods.ensemble import local_analyses
    from dapper.tools.localization import nd_Id_localization
    from dapper.tools.randvars import GaussRV

    ensemble, observed = given["ensemble"], given["observed"]
    n = ensemble.shape[1]
    batch, taper = nd_Id_localization((n,), (1,))(float(given["length"]), "x2y", "GC")
    noise = GaussRV(C=1, M=n).C
    job = lambda: local_analyses(ensemble.copy(), ensemble.copy(), noise, observed, batch, taper)  # noqa: E731
    return {"seconds": best(job, int(given["times"]))}


if __name__ == "__main__":
    task, source, target = sys.argv[1:]
    with np.load(source) as arrays:
        asked = {name: arrays[name] for name in arrays.files}
    print("\n" + json.dumps({"lorenz96": lorenz96, "update": update, "local": local}[task](asked, target)))
