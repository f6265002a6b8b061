"""What a person should know before approving a plan: each check with its figure, its bound, and whether it holds.

The bounds: a mesh must be closed and have no element that is inside out; below a scaled Jacobian of 0.1 a
finite-element solution gets inaccurate (Knupp, SIAM J. Sci. Comput. 23 (2001) 193-218, takes positive values as valid).
The flow model is held against the goals of the plan itself, by its error on 3D runs that it was not trained on.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from registration.errors import InputError as RegistrationInputError
from registration.landmarks import register_landmarks
from surgical_twin.case import Case, file_hash
from surgical_twin.plan_landmarks import TARGET, PlanLandmarks
from surgical_twin.plan_settings import TrainingPlan

Verdict = Literal["good", "caution", "failed"]

LEAST_JACOBIAN = 0.1
LEAST_EDGES = 3.0
"""Edges across a throat below which there is no flow profile."""

STILL_LAMINAR = 2000.0
"""Mean Reynolds number from which the flow in a vessel may become turbulent, which no model here resolves."""

TOUCH_ERROR_MM = 1.0
"""Localization error of a touched fiducial that the expected registration error is told for."""


@dataclass(frozen=True)
class Check:
    """One thing that was looked at."""

    name: str
    verdict: Verdict
    words: str


def plan_checks(case: Case) -> tuple[Check, ...]:
    """All checks of a plan, in the order in which it was made; what was not done is a failed check."""
    landmarks = PlanLandmarks(case)
    return (_files(case), _segmentation(case), _mesh(case), _circulation(case), *_model(case), _fiducials(landmarks))


def _files(case: Case) -> Check:
    """Whether files are as their steps wrote them; a step's file that a later step rewrites counts for that step."""
    known: dict[str, str] = {}
    for step in case.manifest.get("step", {}).values():
        known |= step["wrote"]
    changed = [name for name, hash_ in known.items() if not _is(case, name, hash_)]
    if changed:
        return Check("Files", "failed", f"not as the plan wrote them: {', '.join(changed)}; run plan again")
    return Check("Files", "good", f"{len(known)} files are as the plan wrote them")


def _is(case: Case, name: str, known: str) -> bool:
    return case.path(name).is_file() and file_hash(case.path(name)) == known


def _segmentation(case: Case) -> Check:
    lumen, mesh = case.step("lumen").get("figures", {}), case.step("mesh").get("figures", {})
    if not lumen:
        return Check("Segmentation", "failed", "not done")
    words = f"lumen of {lumen['lumen_ml']:.2f} mL"
    if not mesh:
        return Check("Segmentation", "failed", f"{words}; no mesh")
    kept = mesh["volume_ml"] / max(lumen["lumen_ml"], 1e-9)
    words += f", {100.0 * kept:.0f} % of it in the mesh (the rest is cut off by the ports); look at its outline"
    # Less than half in the mesh: vessels were lost, not only ends cut off.
    return Check("Segmentation", "good" if 0.5 <= kept <= 1.1 else "caution", words)


def _mesh(case: Case) -> Check:
    figures = case.step("mesh").get("figures", {})
    if not figures:
        return Check("Mesh", "failed", "not done")
    least = figures["min_scaled_jacobian"]
    throats = [float(edges) for edges in figures.get("edges_across_stenoses", ())]
    words = (
        f"{figures['tetrahedra']} tetrahedra, scaled Jacobian from {least:.2f} (mean "
        f"{figures['mean_scaled_jacobian']:.2f}), dihedral angles from {figures['min_dihedral_deg']:.0f}°"
    )
    if throats:
        words += f", {min(throats):.1f} edges across the narrowest throat"
    if not figures["watertight"] or least <= 0.0:
        why = "an element is inside out" if figures["watertight"] else "it is not closed"
        return Check("Mesh", "failed", f"{words}; {why}")
    poor = least < LEAST_JACOBIAN or (throats and min(throats) < LEAST_EDGES)
    return Check("Mesh", "caution" if poor else "good", words)


def _circulation(case: Case) -> Check:
    figures = case.step("circulation").get("figures", {})
    if not figures:
        return Check("Circulation", "failed", "not done")
    flow = case.manifest["flow"]
    words = (
        f"{6e4 * flow['mean_flow_m3_s']:.2f} L/min at {60.0 / flow['period_s']:.0f} beats/min, Reynolds number "
        f"{figures['reynolds']:.0f}, Womersley number {figures['womersley']:.1f}"
    )
    if figures["reynolds"] > STILL_LAMINAR:
        return Check("Circulation", "caution", f"{words}: the flow may be turbulent, which the model does not know")
    return Check("Circulation", "good", words)


def _model(case: Case) -> tuple[Check, ...]:
    figures, settings = case.step("reduced").get("figures", {}), case.step("runs").get("settings", {})
    if not figures:
        estimate = case.step("estimate").get("figures", {})
        off = f": ± {1.96 * estimate['port_pressure_error_mmhg']:.1f} mmHg at the ports" if estimate else ""
        return (Check("Flow model", "failed", f"3D runs not done; it is the estimate from the anatomy{off}"),)
    return tuple(_held_out(quantity, figures, settings) for quantity in ("pressure", "velocity", "wall_shear"))


def _held_out(quantity: str, figures: Mapping[str, Any], settings: Mapping[str, Any]) -> Check:
    title = f"Model's {quantity.replace('_', ' ')}"
    key = f"{quantity}_goal_percent"
    goal = float(settings.get(key, getattr(TrainingPlan(), key)))
    error = figures.get(f"{quantity}_error")
    if error is None or not math.isfinite(error):
        return Check(title, "caution", "not measured on held-out runs")
    words = f"off by {100.0 * error:.1f} % on 3D runs that were held out; goal {goal:g} %"
    return Check(title, "good" if 100.0 * error <= goal else "caution", words)


def _fiducials(landmarks: PlanLandmarks) -> Check:
    points = np.array(list(landmarks.fiducials.values()))
    if len(points) < 3:
        return Check("Fiducials", "failed", f"{len(points)}; registration needs 3, better 6")
    try:
        fit = register_landmarks(points, points, fle=TOUCH_ERROR_MM, names=list(landmarks.fiducials))
    except RegistrationInputError as error:
        return Check("Fiducials", "failed", str(error))
    target = landmarks.marks.get(TARGET, points.mean(axis=0))
    where = "the target" if TARGET in landmarks.marks else "their middle"
    words = f"{len(points)}; each touched to {TOUCH_ERROR_MM:g} mm leaves {fit.tre(target):.2f} mm (TRE) at {where}"
    if fit.warnings:
        return Check("Fiducials", "caution", f"{words}; {' '.join(fit.warnings)}")
    return Check("Fiducials", "good" if len(points) >= 4 else "caution", words)
