"""The part of `assimilation_accuracy.py` on recorded pressure and flow in a pig's aorta.

Each of four segments is judged with the model error that the other three suggest. Beside the filter stands what others
do with these records: least squares over the whole segment, and the same filter with white errors of the size that
least squares leaves, which shows what goes wrong without a model of the model's error.
"""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import least_squares

from surgical_twin.assimilation.windkessel_record import (
    COMPLIANCE,
    IMPEDANCE,
    RESISTANCE,
    ModelError,
    WindkesselRecord,
    fit_model_error,
    follow_windkessel,
)

Array = NDArray[np.float64]
EVERY = 2
"""Of 200 samples a second; the arterial line's own dynamics make neighbours alike."""

NAMES = {"resistance": RESISTANCE, "compliance": COMPLIANCE, "impedance": IMPEDANCE}


def data_folder() -> Path | None:
    """Where the recordings lie beside the project."""
    for parent in Path(__file__).resolve().parents:
        found = parent / "shared/data/streams_pig_aortic_pressure_flow/invivo_data"
        if found.is_dir():
            return found
    return None


def read_segment(folder: Path, number: int) -> WindkesselRecord:
    """One segment; pressure and flow have the same times up to rounding."""
    columns = []
    for kind in ("P", "Q"):
        with (folder / f"Ao_baseline1_Ao{kind}{number}.csv").open(encoding="utf-8") as stream:
            rows = [row for row in csv.reader(stream) if row and not row[0].startswith(("#", "timestamp"))]
        clocks = [[float(part) for part in row[0].split(":")] for row in rows]
        columns.append(
            (np.array([3600 * h + 60 * m + s for h, m, s in clocks]), np.array([float(row[1]) for row in rows]))
        )
    (times, pressure), (_, flow) = columns
    return WindkesselRecord(times - times[0], pressure, flow)


def windkessel_pressure(record: WindkesselRecord, r: float, c: float, z: float, first: float) -> Array:
    """Pressure by the trapezoidal rule: independent of the filter's closed form."""
    minutes = np.diff(record.time_s) / 60.0
    pc = np.empty(len(record.time_s))
    pc[0] = first
    q = record.flow_l_min
    for k, h in enumerate(minutes):
        half = 0.5 * h / c
        pc[k + 1] = (pc[k] * (1.0 - half / r) + half * (q[k] + q[k + 1])) / (1.0 + half / r)
    return np.asarray(pc + z * q)


def least_squares_fit(record: WindkesselRecord) -> tuple[dict[str, float], float]:
    """R, C and Z over the whole record, and the root-mean-square residual in mmHg."""

    def residual(x: Array) -> Array:
        return windkessel_pressure(record, *np.exp(x[:3]), x[3]) - record.pressure_mmhg

    start = [*np.log([66.0, 1.2e-3, 1.6]), record.pressure_mmhg[0]]
    found = least_squares(residual, start)
    return dict(zip(NAMES, np.exp(found.x[:3]), strict=True)), float(np.sqrt((found.fun**2).mean()))


def pig_figures(quick: bool) -> dict[str, Any]:
    """NIS within its bounds, intervals that hold the least-squares values."""
    folder = data_folder()
    if folder is None:
        why = "the recordings (shared/data/streams_pig_aortic_pressure_flow) are not there"
        return {
            f"pig_{name}": {"value": None, "goal": "== 4", "unit": "of 4 segments", "why": why}
            for name in ("nis_within_bounds", *(f"{one}_interval_holds_least_squares" for one in NAMES))
        }
    records = [read_segment(folder, number) for number in (1, 2, 3, 4)]
    within, holds, nis = 0, dict.fromkeys(NAMES, 0), []
    white_compliance, white_nis, compliance, batch_compliance = [], [], [], []
    for number, record in enumerate(records):
        others = [one for k, one in enumerate(records) if k != number]
        error = fit_model_error(others[:1] if quick else others, every=EVERY, evaluations=40 if quick else 100)
        found = follow_windkessel(record, error, every=EVERY)
        batch, rms = least_squares_fit(record)
        low, high = found.nis_bounds
        nis.append(found.mean_nis)
        within += low <= found.mean_nis <= high
        lines = []
        for name, column in NAMES.items():
            lower, middle, upper = found.interval(column)
            holds[name] += lower <= batch[name] <= upper
            lines.append(f"{name} {middle:.4g} [{lower:.4g}, {upper:.4g}] least squares {batch[name]:.4g}")
        compliance.append(found.interval(COMPLIANCE)[1])
        batch_compliance.append(batch["compliance"])
        blind = ModelError(deviation_mmhg=1e-3, correlation_s=0.05, flow_gain=1e-3, noise_mmhg=0.85 * rms, wander=0.02)
        white = follow_windkessel(record, blind, every=EVERY)
        white_compliance.append(white.interval(COMPLIANCE))
        white_nis.append(white.mean_nis)
        print(f"segment {number + 1}: NIS {found.mean_nis:.3f} in [{low:.3f}, {high:.3f}]; " + "; ".join(lines))
        print(f"    {error}; least squares leaves {rms:.2f} mmHg; with white errors C {white_compliance[-1]}")
    missed = sum(
        not low <= value <= high for (low, _, high), value in zip(white_compliance, batch_compliance, strict=True)
    )
    total = {"goal": "== 4", "unit": "of 4 segments"}
    return {
        "pig_nis_within_bounds": {"value": int(within), **total},
        "pig_mean_nis": {"value": float(np.mean(nis)), "goal": "in 0.93 1.07", "unit": "of 1, four segments"},
        **{f"pig_{name}_interval_holds_least_squares": {"value": int(holds[name]), **total} for name in NAMES},
        "pig_compliance_over_least_squares": {
            "value": float(np.mean(np.array(compliance) / batch_compliance)), "goal": "> 0", "unit": "ratio",
        },
        "pig_white_errors_compliance_over_least_squares": {
            "value": float(np.mean([one[1] for one in white_compliance] / np.array(batch_compliance))),
            "goal": "> 0", "unit": "ratio",
        },
        "pig_white_errors_intervals_that_miss": {"value": int(missed), "goal": ">= 0", "unit": "of 4 segments"},
        "pig_white_errors_mean_nis": {"value": float(np.mean(white_nis)), "goal": ">= 0", "unit": "of 1"},
    }  # fmt: skip
