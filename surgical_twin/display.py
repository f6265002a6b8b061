"""What is shown of a case and of a running twin; the viewer does the drawing."""

import os
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyvista as pv

from registration.point_files import read_point_file
from streams.messages import TwinState
from streams.recording import read_recording
from streams.security import ClientSecurity
from streams.wire import unpack
from surgical_twin.assimilation.beat import Beat
from surgical_twin.case import ANATOMY, AXIS, FIDUCIALS, MESH, REDUCED, SURFACE, Case
from surgical_twin.display_fields import DisplayFields
from surgical_twin.errors import InputError
from surgical_twin.plan_approval import approval_status
from surgical_twin.plan_desk import CasePlanDesk
from surgical_twin.plan_landmarks import TARGET, PlanLandmarks
from surgical_twin.session_model import SessionModel
from surgical_twin.session_state import SessionState
from surgical_twin.twin_state import build_twin_state
from viewer.ar_model import ArModel
from viewer.ar_page import Certificate, serve_ar
from viewer.case_files import read_surface
from viewer.decimation import within_budget
from viewer.film import write_film
from viewer.gltf import Structure, write_glb
from viewer.guidance import Guide
from viewer.layout import PLANNING
from viewer.listener import StateListener
from viewer.plan_page import serve_plan
from viewer.player import Player
from viewer.quantities import SHEAR, VELOCITY
from viewer.scene import Scene
from viewer.usdz import write_usdz
from viewer.web import serve
from viewer.what_if_panel import WhatIfPanel
from viewer.window import run_window

PRIOR_SEED = 0

DISPLAY_KEY = "SURGICAL_TWIN_DISPLAY_KEY"
"""Variable of the environment that hands a key to the display."""


def planned_state(model: SessionModel) -> SessionState:
    """A session before its procedure, at the phase of the highest inflow: what the plan alone predicts."""
    times = np.linspace(0.0, model.waveform.period, 101)
    peak = float(times[int(np.argmax([model.waveform.value(time) for time in times]))])
    beat = Beat(0, round(model.waveform.period * 1e9))
    ensemble = model.filter.initial(PRIOR_SEED, model.waveform.period)
    step = round(peak / model.filter.settings.time_step)
    return SessionState(ensemble=model.filter.advance(ensemble, step, beat), beat=beat)


def field_values(surface: pv.PolyData, coefficients: np.ndarray) -> np.ndarray:
    """(n,) mmHg: the surface's modes times the coefficients."""
    return np.sum(
        [value * surface.point_data[f"pressure_mode_{number}"] for number, value in enumerate(coefficients)], axis=0
    )


PHASES = 8
"""Moments of the beat in an exported model."""

TRIANGLES = 50_000
"""What a headset draws without a stutter, by default."""


def export_ar(case: Case, path: Path, *, triangles: int = TRIANGLES) -> None:
    """Write the lumen colored by the planned pressure over the beat, the anatomy and the fiducials, as GLB or USDZ.

    Args:
        case: planned to its end.
        path: ending in .glb or .usdz.
        triangles: at most so many in the file.

    Raises:
        InputError: the case is not planned to its end, or the file cannot be written.
    """
    surface = read_surface(case.require(SURFACE))
    model = SessionModel.load(case)
    beat = Beat(0, round(model.waveform.period * 1e9))
    ensemble = model.filter.initial(PRIOR_SEED, model.waveform.period)
    length = round(model.waveform.period / model.filter.settings.time_step)
    phases, at = [], 0
    for phase in range(PHASES):
        step = round(length * phase / PHASES)
        ensemble = model.filter.advance(ensemble, step, beat) if step > at else ensemble
        at = step
        phases.append(field_values(surface, model.reduced.decoder.coefficients(ensemble.ports).mean(axis=0)))
    mean = np.mean(phases, axis=0)
    structures = [Structure("lumen", surface, scalars=mean, cycle=phases)]
    if case.path(ANATOMY).is_file():
        anatomy = read_surface(case.path(ANATOMY))
        if anatomy.n_points:
            structures.append(Structure("anatomy", anatomy, opacity=0.25))
    fiducials = read_point_file(case.path(FIDUCIALS)).by_name() if case.path(FIDUCIALS).is_file() else {}
    write = write_usdz if path.suffix.lower() == ".usdz" else write_glb
    write(
        path,
        within_budget(structures, triangles),
        origin=surface.center,
        anchors={name: point.tolist() for name, point in fiducials.items()},
        period_s=model.waveform.period,
    )


def open_scene(case: Case, **options: Any) -> Scene:
    """The scene of a case, with wall shear and velocity where its flow model has them, its landmarks, and what its
    plan's approval is worth.

    Raises:
        InputError: the case has nothing to show.
    """
    case.require(SURFACE)
    approval, marks = approval_status(case), PlanLandmarks(case).marks
    options = {"plan_words": approval.words, "plan_changed": approval.state == "changed"} | options
    if TARGET in marks:
        options = {"target": marks[TARGET]} | options
    fields = DisplayFields.of(case) if case.path(REDUCED).is_file() and case.path(MESH).is_file() else None
    if fields is not None:
        note = SHEAR.note if fields.relative_error is None else f"± {196.0 * fields.relative_error:.0f} % (95 %)"
        shear, speed = fields.planned_limits(float(case.manifest["flow"]["mean_flow_m3_s"]))
        options |= {
            "fields": {SHEAR.key: fields.shear_pa, VELOCITY.key: fields.velocity_m_s},
            "quantities": (
                replace(SHEAR, note=note, limits=(0.0, shear)),
                replace(VELOCITY, note=note, limits=(0.0, speed)),
            ),
            "listeners": (fields.take,),
            "grid": fields.grid,
        }
    scene = Scene.from_case(case.folder, **options)
    scene.mark(marks)
    return scene


def export_png(case: Case, path: Path) -> None:
    """Write a picture of the case as the display shows it before a procedure.

    Raises:
        InputError: the case is not planned to its end, or the file cannot be written.
    """
    scene = open_scene(case)
    try:
        model = SessionModel.load(case)
        scene.update(build_twin_state(model, planned_state(model), 0))
        scene.save_png(path)
    finally:
        scene.close()


def run_plan(case: Case, *, port: int) -> None:
    """Serve the planning page of a case until interrupted.

    Raises:
        InputError: the case is not planned so far that it has a flow model, or the port is in use.
    """
    scene = open_scene(case, layout=PLANNING)
    desk = None
    try:
        model = SessionModel.load(case)
        scene.show_plan(build_twin_state(model, planned_state(model), 0))
        desk = CasePlanDesk(case)
        serve_plan(
            scene, desk, port=port, on_ready=lambda address: print(f"the planning page is at {address}", flush=True)
        )
    finally:
        if desk is not None:
            desk.close()
        scene.close()


def start_display(
    case: Path,
    states: str,
    *,
    window: bool,
    web: bool,
    key: ClientSecurity | None = None,
    commands: str | None = None,
) -> subprocess.Popen[bytes] | None:
    """Start the display in a process of its own, so that drawing never delays the session.

    With keys it gets one of its own, which the twin has to let in and which may only watch and ask. The key goes
    through the environment, which only this user may read, and never through the command line, which everyone may.

    Args:
        case: its folder.
        states: where the twin publishes.
        window: show it in a window.
        web: serve it as a page.
        key: for a twin with keys.
        commands: where the twin takes questions; the page then has its what-if panel.
    """
    if not (window or web):
        return None
    command = [sys.executable, "-m", "surgical_twin", "view", str(case), "--states", _near(states)]
    if web and commands is not None:
        command += ["--commands", _near(commands)]
    environment = dict(os.environ)
    if key is not None:
        environment[DISPLAY_KEY] = key.as_text()
    return subprocess.Popen([*command, "--web"] if web else command, env=environment)


def _near(endpoint: str) -> str:
    """What listens on all addresses is reached on this machine's own."""
    return re.sub(r"^tcp://(\*|0\.0\.0\.0):", "tcp://127.0.0.1:", endpoint)


def handed_security() -> ClientSecurity | None:
    """The key that `start_display` gave to this process, or None; it is taken out of the environment.

    Raises:
        InputError: it is none.
    """
    text = os.environ.pop(DISPLAY_KEY, None)
    return None if text is None else ClientSecurity.from_text(text)


def recorded_states(recording: Path, case: Path | None = None) -> tuple[list[TwinState], Case]:
    """A recording's states, and its case: the one named in it where none is given.

    Raises:
        InputError: it cannot be read, or holds no states.
    """
    read = read_recording(recording)
    states = [state for state in map(unpack, read.states) if isinstance(state, TwinState)]
    if not states:
        raise InputError(f"{recording} holds no states of the twin; give a recording of a live session.")
    return states, Case.open(case if case is not None else Path(read.metadata.get("case", "")))


def run_replay(case: Case, recording: Path, *, port: int) -> None:
    """Serve a recording's states as a page with a time bar, until interrupted.

    Raises:
        InputError: the recording cannot be read, or the port is in use.
    """
    states, _ = recorded_states(recording, case.folder)
    scene = open_scene(case)
    try:
        player = Player(states, every=scene.remember)
        serve(
            scene,
            player.next_state,
            port=port,
            on_ready=lambda address: print(f"the replay is at {address}", flush=True),
            player=player,
        )
    finally:
        scene.close()


def export_film(
    recording: Path,
    path: Path,
    *,
    case: Path | None = None,
    begin_s: float = 0.0,
    seconds: float | None = None,
    speed: float = 1.0,
    size: tuple[int, int] = (1280, 720),
    say: Callable[[float], None] | None = None,
) -> int:
    """Write what a recording's states looked like on the display as MP4; returns the number of frames.

    Args:
        recording: of a live session.
        path: ending in .mp4.
        case: its folder; the one named in the recording where None.
        begin_s: seconds after the first state.
        seconds: how much of the procedure; all where None.
        speed: seconds of the procedure in a second of film.
        size: width and height in pixels.
        say: called with the seconds of the procedure that are done.

    Raises:
        InputError: the recording or its case cannot be read, or holds no states there.
    """
    states, opened = recorded_states(recording, case)
    first = states[0].source_time_ns + round(begin_s * 1e9)
    last = first + round((seconds if seconds is not None else 1e6) * 1e9)
    states = [state for state in states if first <= state.source_time_ns <= last]
    if not states:
        raise InputError(f"{recording} holds no states from {begin_s:g} s on; begin earlier.")
    scene = open_scene(opened, size=size)
    try:
        return write_film(path, scene, states, speed=speed, say=say)
    finally:
        scene.close()


def run_ar(
    case: Case,
    states: str,
    *,
    host: str,
    port: int,
    tls: Certificate | None = None,
    triangles: int = TRIANGLES,
    security: ClientSecurity | None = None,
) -> None:
    """Serve a running twin as a page that draws by itself, in AR too, until interrupted.

    Raises:
        InputError: the case has nothing to show, the port is in use, or TLS is missing beyond this machine.
    """
    surface = read_surface(case.require(SURFACE))
    anatomy = read_surface(case.path(ANATOMY)) if case.path(ANATOMY).is_file() else None
    way = read_point_file(case.path(AXIS)).points if case.path(AXIS).is_file() else None
    ends = surface.field_data.get("PortCenters", None)
    landmarks = PlanLandmarks(case)
    guide = Guide(surface, way=way, ends=ends, target=landmarks.marks.get(TARGET))
    model = ArModel(surface, anatomy=anatomy, guide=guide, anchors=landmarks.fiducials, triangles=triangles)
    with StateListener(states, security=security) as listener:
        serve_ar(
            model,
            listener.poll,
            host,
            port,
            tls=tls,
            on_ready=lambda address: print(f"the AR page is at {address}", flush=True),
        )


def run_display(
    case: Case,
    states: str,
    *,
    web: bool,
    port: int,
    security: ClientSecurity | None = None,
    commands: str | None = None,
) -> None:
    """Show a running twin until the window is closed or the page's server is interrupted.

    Raises:
        InputError: the case has nothing to show, there is no display, or the port is in use.
    """
    case.require(SURFACE)
    with StateListener(states, security=security) as listener:
        scene = open_scene(case, off_screen=web)
        listener.every = scene.remember
        try:
            if web:
                serve(
                    scene,
                    listener.poll,
                    port=port,
                    on_ready=lambda address: print(f"the display is at {address}", flush=True),
                    desk=None if commands is None else WhatIfPanel(commands, security=security),
                )
            else:
                run_window(scene, listener.poll)
        finally:
            scene.close()
