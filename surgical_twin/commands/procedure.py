"""Commands of the procedure: the simulated operating room, the live twin, replay, and the demo of it all."""

import os
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from streams.messages import TwinState
from streams.recording import RecordingFile
from streams.roles import SIMULATOR, WATCH
from surgical_twin.commands.console import CaseFolder, err, out, progress_bar
from surgical_twin.commands.network import (
    DEVICES,
    STATES,
    DevicesAt,
    Insecure,
    SimulatorKeys,
    StatesAt,
    TwinKeys,
    as_client,
    display_key,
    ends_with,
    guarding,
)
from surgical_twin.errors import InputError
from surgical_twin.pace import KEYS, Keyboard, Pace, read_speed
from surgical_twin.status_line import status_line


def simulate(
    case: CaseFolder,
    procedure: Annotated[Path | None, typer.Option(help="Procedure file (TOML).")] = None,
    seed: Annotated[int, typer.Option(help="Draws the simulated patient and all noise.")] = 0,
    devices: DevicesAt = DEVICES,
    states: StatesAt = STATES,
    wait: Annotated[float, typer.Option(help="Seconds to wait for a twin; without one nothing is played.")] = 120.0,
    prepare: Annotated[bool, typer.Option("--prepare", help="Only make the simulated patient.")] = False,
    keys: SimulatorKeys = None,
    insecure: Insecure = False,
) -> None:
    """Play a procedure on a simulated patient: publish device streams over ZeroMQ."""
    from surgical_twin.case import Case
    from surgical_twin.playback import play_procedure
    from surgical_twin.procedure import read_procedure
    from surgical_twin.simulate import SimulatedProcedure

    settings = read_procedure(procedure)
    security = as_client(keys, SIMULATOR, insecure=insecure)
    with progress_bar() as progress:
        task = progress.add_task("simulated patient (3D)", total=1.0)
        simulated = SimulatedProcedure.prepare(
            Case.open(case), settings, seed, lambda share: progress.update(task, completed=share)
        )
        progress.update(task, completed=1.0)
        if prepare:
            return
        task = progress.add_task("waiting for the twin", total=None)
        report = play_procedure(
            simulated,
            devices,
            states,
            wait_s=wait,
            security=security,
            insecure=insecure,
            say=lambda share: progress.update(task, description="procedure", total=1.0, completed=share),
        )
    out.print(f"{report.sent} messages sent, {report.withheld} lost on purpose, in {report.duration_s:.1f} s.")


def live(
    case: CaseFolder,
    record: Annotated[Path | None, typer.Option(help="Record everything to this MCAP file.")] = None,
    show: Annotated[bool, typer.Option("--show", help="Open a window.")] = False,
    web: Annotated[bool, typer.Option("--web", help="Serve the display as a web page on 127.0.0.1:8080.")] = False,
    seed: Annotated[int, typer.Option(help="Draws the filter's initial ensemble; it is recorded.")] = 0,
    devices: DevicesAt = DEVICES,
    states: StatesAt = STATES,
    commands: Annotated[
        str | None, typer.Option(help="Where to take commands and questions, such as tcp://127.0.0.1:5592.")
    ] = None,
    registration: Annotated[
        str | None,
        typer.Option(help="Begin with this registration of the case, such as surface, or with a result's .json."),
    ] = None,
    keys: TwinKeys = None,
    insecure: Insecure = False,
    report: Annotated[Path | None, typer.Option(help="Write latency and counts to this JSON file.")] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the session of --record whose process was ended.")
    ] = False,
    watchdog: Annotated[
        bool, typer.Option(help="Start the session again, where it was, if its process dies or hangs.")
    ] = hasattr(os, "fork"),
) -> None:
    """Run the twin: subscribe, register, assimilate, publish. Ends with the procedure or with Ctrl-C."""
    import json

    from surgical_twin.case import Case, write_atomically
    from surgical_twin.checkpoint import checkpoint_path
    from surgical_twin.display import start_display
    from surgical_twin.live import AUDIT_LOG, Endpoints, LiveLoop
    from surgical_twin.patient_registration import read_registration
    from surgical_twin.session_model import SessionModel
    from surgical_twin.warm_up import warm_up
    from surgical_twin.watchdog import Pulse, watched

    opened = Case.open(case)
    if record is not None and record.exists() and not resume:
        again = "; or go on with it with --resume" if checkpoint_path(record, case).is_file() else ""
        raise InputError(f"{record} exists; a recording is never written over: name another file with --record{again}.")
    registered = None if registration is None else read_registration(opened, registration)
    own_key = display_key(keys, insecure=insecure)
    model = SessionModel.load(opened)
    with err.status("making ready"):
        warm_up(model)
    display = start_display(case, states, window=show, web=web, key=own_key, commands=commands)
    pulse = Pulse()
    watching = os.getpid()
    try:
        before = watched(pulse, lambda text: err.print(text, style="bold red", highlight=False)) if watchdog else 0
        with guarding(keys, insecure=insecure) as security:
            if security is not None and own_key is not None:
                security.admit("display", (WATCH,), own_key)
            loop = LiveLoop(
                model,
                seed=seed,
                endpoints=Endpoints(devices, states, commands),
                record=record,
                case=str(case.resolve()),
                security=security,
                insecure=insecure,
                audit_log=opened.path(AUDIT_LOG),
                go_on=resume or before > 0,
                registration=registered,
            )
            ends_with(loop.stop)
            with err.status("waiting for devices") as status:
                result = loop.run(lambda state: status.update(status_line(state)), pulse.beat, pulse.over)
    finally:
        if display is not None and os.getpid() == watching:
            display.terminate()
    if report is not None:
        write_atomically(report, json.dumps(result.summary(), indent=1))
    table = Table("what", "value", title="live session")
    for name, value in result.summary().items():
        if not isinstance(value, dict) and value is not None:
            table.add_row(name.replace("_", " "), f"{value:.2f}" if isinstance(value, float) else str(value))
    out.print(table)
    for reason, count in result.refused_clients.items():
        out.print(f"{count} attempts to connect were refused: {reason}.", soft_wrap=True, highlight=False)
    if result.recording_failure is not None:
        raise InputError(f"The recording {record} is not complete: {result.recording_failure}.")


def replay(
    recording: Annotated[Path, typer.Argument(help="MCAP file that live recorded.")],
    case: Annotated[Path | None, typer.Option(help="The case; the one named in the recording where not given.")] = None,
    speed: Annotated[str, typer.Option(help="real, full, or a factor on real time such as 0.5 or 4.")] = "full",
    begin: Annotated[
        float, typer.Option("--from", help="Seconds after the beginning; what was before goes at full speed.")
    ] = 0.0,
    pause: Annotated[bool, typer.Option("--pause", help="Wait for a key at the beginning, or at --from.")] = False,
    verify: Annotated[
        bool,
        typer.Option("--verify", help="Say which event is the first that is not as it was, or gives another state."),
    ] = False,
    states: Annotated[
        str | None, typer.Option(help="Publish the states here, flagged as a replay, for a viewer.")
    ] = None,
) -> None:
    """Run the same session from a recording, and compare its states byte for byte."""
    from surgical_twin.replay import ReplayPublisher, open_file
    from surgical_twin.replay import replay as run_replay

    pace_speed = read_speed(speed)
    if not begin >= 0:  # so that nan is refused too
        raise InputError("--from is seconds after the beginning of the recording, and not negative.")
    if pause and not sys.stdin.isatty():
        raise InputError("--pause waits for a key, and there is no terminal to press one on; leave it out.")
    opened, model = open_file(recording, case)
    publisher = None if states is None else ReplayPublisher(states)
    try:
        with Keyboard() as keyboard, progress_bar() as progress:
            task = progress.add_task("replaying", total=1.0)
            if keyboard.there and (pace_speed is not None or pause):
                err.print(KEYS, highlight=False)
            pace = Pace(pace_speed, begin_s=begin, paused=pause, read_keys=keyboard.read if keyboard.there else None)

            def watch(number: int, state: TwinState) -> None:
                paced = pace_speed is not None or pace.paused
                said = status_line(state)[:100] if paced else "replaying"
                progress.update(task, completed=opened.share, description=said)
                if publisher is not None:
                    publisher.publish(state)

            result = run_replay(opened, model, watch, pace)
            progress.update(task, completed=opened.share if result.ended_early else 1.0)
    finally:
        if publisher is not None:
            publisher.close()
    if result.ended_early:
        verdict = "the replay was ended before the recording."
    elif not result.comparable:
        verdict = "its beginning was cut off, so they cannot be compared."
    elif not result.recorded_states:
        verdict = "there is nothing to compare them with."
    elif result.identical:
        verdict = "all are byte-identical."
    else:
        verdict = f"state {result.first_difference} is the first that differs"
        verdict += "." if result.first_different_event is None else f", after event {result.first_different_event}."
    out.print(
        f"{result.events} events gave {result.states} twin states; {result.recorded_states} were recorded: {verdict}",
        soft_wrap=True,
        highlight=False,
    )
    if verify or result.changed is not None:
        out.print(_chain_verdict(opened, result.changed), soft_wrap=True, highlight=False)
    if result.truncated is not None:
        raise InputError(f"{recording} is truncated: {result.truncated}")
    if not result.identical or result.changed is not None:
        raise typer.Exit(1)


def _chain_verdict(recording: RecordingFile, changed: str | None) -> str:
    if changed is not None:
        return f"The file is not as it was recorded: {changed}."
    if not recording.chained:
        return "The file has no chain of hashes: whether it is as it was recorded cannot be told."
    unsealed = recording.chain.unsealed
    open_end = f"; the last {unsealed} are not sealed" if unsealed else ""
    return (
        f"{recording.chain.sealed} events and states are as they were recorded{open_end} "
        f"(head of the chain {recording.chain.head.hex()})."
    )


def demo(
    folder: Annotated[Path, typer.Option("--out", help="Where everything is written.")] = Path("demo"),
    seed: Annotated[int, typer.Option(help="Draws the phantom's noise, the patient and the devices' noise.")] = 0,
) -> None:
    """Make a phantom CT, plan it, play a procedure against the live twin, and report how well it did."""
    from surgical_twin.demo import run_demo

    raise typer.Exit(run_demo(folder, seed, out))
