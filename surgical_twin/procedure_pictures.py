"""Pictures of a procedure on a simulated patient: overlays on a camera image, the scene, pressure in time and along the
vessel."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from registration.camera import PinholeCamera
from registration.point_files import read_point_file
from registration.rigid import invert
from streams.messages import TwinState
from surgical_twin.case import ANATOMY, CENTERLINE, FIDUCIALS, SURFACE, Case
from surgical_twin.display import open_scene
from surgical_twin.scoring import PlayedProcedure, Score
from viewer.case_files import read_surface
from viewer.overlay import Overlay
from viewer.photograph import BONE, Surface, photograph
from viewer.picture_files import write_png
from viewer.waveforms import axis_profile, pressure_traces

Array = NDArray[np.float64]

CAMERA_DISTANCE_MM = 260.0
PAST_NS = 12_000_000_000
"""How much of the past the scene's curves are given."""

WINDOW_S = 4.0
"""How much of a trace is drawn before and after the tip passes the narrowest place."""


def make_pictures(case: Case, score: Score, folder: Path) -> dict[str, Path]:
    """Draw everything into a folder: caption -> file."""
    played, states = PlayedProcedure.load(case), score.states
    narrow = float(
        np.interp(
            played.axis.narrowest,
            [played.distance(played.motion.times[1]), played.distance(played.motion.times[2])],
            played.motion.times[1:3],
        )
    )
    # Shown at the moment of the highest flow of the beat in which the tip passes the narrowest place.
    flow = played.truth.port_flow_ml_s[:, 0]
    peak = float(played.truth.time[int(np.argmax(flow))])
    moment = np.floor(narrow / played.truth.period) * played.truth.period + peak
    trusted = [state for state in states if state.tip_pressure_mmhg is not None and not state.flags]
    shown = min(trusted or states, key=lambda state: abs(played.seconds(state.model_time_ns) - moment))
    early = next((state for state in states if state.field_coefficients and not state.registered), states[0])
    pictures = {
        "The overlay on a camera image: the tip in the narrowest place at peak flow": folder / "overlay.png",
        "Before registration the overlay says that it is not to be trusted": folder / "overlay_untrusted.png",
        "The scene at the same moment": folder / "scene.png",
        "Pressure at the tip while it passes the narrowest place": folder / "trace.png",
        "Pressure at the tip over the whole procedure": folder / "trace_whole.png",
        "Mean pressure along the vessel, predicted before the catheter went there": folder / "profile.png",
    }
    overlay, untrusted, scene, trace, whole, profile = pictures.values()
    _overlays(case, played, score, (shown, early), (overlay, untrusted))
    drawing = open_scene(case)
    for state in states:
        if 0 <= shown.source_time_ns - state.source_time_ns < PAST_NS:
            drawing.remember(state)
    drawing.update(shown)
    drawing.save_png(scene)
    drawing.close()
    near = score.whole.between(narrow - WINDOW_S, narrow + WINDOW_S)
    within = (score.measured_time >= near.time[0]) & (score.measured_time <= near.time[-1])
    pressure_traces(
        trace,
        near.time,
        near.value,
        near.lower,
        near.upper,
        measured_time=score.measured_time[within],
        measured=score.measured_mmhg[within],
        truth=near.truth,
    )
    pressure_traces(
        whole,
        score.whole.time,
        score.whole.value,
        score.whole.lower,
        score.whole.upper,
        truth=score.whole.truth,
        title="Pressure at the catheter tip, whole procedure",
    )
    axis_profile(
        profile,
        score.profile_station_mm,
        *score.profile_estimate.T,
        truth=score.profile_truth,
        tip=(score.ahead.tip_at_prediction_mm, 0.5),
        title="Mean pressure along the vessel, before the catheter crossed",
    )
    return pictures


def _overlays(
    case: Case,
    played: PlayedProcedure,
    score: Score,
    states: tuple[TwinState, TwinState],
    paths: tuple[Path, Path],
) -> None:
    """Photograph the patient as a surgeon's camera would, and lay the twin's drawing over it.

    The camera's pose is known to the tracker. The photograph is taken where the camera truly is; the drawing goes where
    the registration puts it, so that its error shows.
    """
    lumen = read_surface(case.require(SURFACE))
    center = np.array(lumen.center)
    camera_from_image = looking_at(center, center + np.array([0.25, -1.0, 0.1]) * CAMERA_DISTANCE_MM)
    camera = PinholeCamera(
        width=1280,
        height=720,
        fx=1500.0,
        fy=1498.0,
        cx=655.0,
        cy=352.0,
        distortion=(-0.12, 0.05, 0.0006, -0.0004, 0.0),
        camera_from_world=camera_from_image,
    )
    surfaces = [Surface(read_surface(case.path(ANATOMY)), color=BONE)]
    image = photograph(
        surfaces,
        camera,
        markers={name: point.tolist() for name, point in read_point_file(case.require(FIDUCIALS)).by_name().items()},
        marker_radius=2.5,
        rng=np.random.default_rng(0),
    )
    camera_from_tracker = camera_from_image @ played.image_from_tracker
    believed = camera_from_tracker @ invert(score.image_from_tracker)
    drawing = Overlay(lumen, camera.posed(believed), centerline=read_surface(case.require(CENTERLINE)))
    for state, path in zip(states, paths, strict=True):
        drawing.update(state)
        write_png(path, drawing.compose(image))
    drawing.close()


def looking_at(target: Array, eye: Array) -> Array:
    """(4, 4) camera_from_world of a camera at ``eye`` that looks at ``target``, the head (z of LPS) up."""
    forward = (target - eye) / np.linalg.norm(target - eye)
    right = np.cross(forward, [0.0, 0.0, 1.0])
    right /= np.linalg.norm(right)
    pose = np.eye(4)
    pose[:3, :3] = np.stack([right, np.cross(forward, right), forward])
    pose[:3, 3] = -pose[:3, :3] @ eye
    return pose
