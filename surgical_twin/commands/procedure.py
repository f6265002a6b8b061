"""Commands of the procedure: the simulated operating room, the live twin, replay, and the demo of it all."""

import signal
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from surgical_twin.commands.console import CaseFolder, err, out, progress_bar
from surgical_twin.errors import InputError


def simulate(
    case: CaseFolder,
    procedure: Annotated[Path | None, typer.Option(help="Procedure file (TOML).")] = None,
    seed: Annotated[int, typer.Option(help="Draws the simulated patient and all noise.")] = 0,
    devices: Annotated[str, typer.Option(help="Where the twin listens for devices.")] = "tcp://127.0.0.1:5590",
    states: Annotated[
        str, typer.Option(help="Where the twin publishes; used to wait until it listens.")
    ] = "tcp://127.0.0.1:5591",
    wait: Annotated[float, typer.Option(help="Seconds to wait for a twin; without one nothing is played.")] = 120.0,
    prepare: Annotated[bool, typer.Option("--prepare", help="Only make the simulated patient.")] = False,
) -> None:
    """Play a procedure on a simulated patient: publish device streams over ZeroMQ."""
    from surgical_twin.case import Case
    from surgical_twin.playback import play_procedure
    from surgical_twin.procedure import read_procedure
    from surgical_twin.simulate import SimulatedProcedure

    settings = read_procedure(procedure)
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
            say=lambda share: progress.update(task, description="procedure", total=1.0, completed=share),
        )
    out.print(f"{report.sent} messages sent, {report.withheld} lost on purpose, in {report.duration_s:.1f} s.")


def live(
    case: CaseFolder,
    record: Annotated[Path | None, typer.Option(help="Record everything to this MCAP file.")] = None,
    show: Annotated[bool, typer.Option("--show", help="Open a window.")] = False,
    web: Annotated[bool, typer.Option("--web", help="Serve the display as a web page on 127.0.0.1:8080.")] = False,
    seed: Annotated[int, typer.Option(help="Draws the filter's initial ensemble; it is recorded.")] = 0,
    devices: Annotated[str, typer.Option(help="Where to listen for devices.")] = "tcp://127.0.0.1:5590",
    states: Annotated[str, typer.Option(help="Where to publish the twin's states.")] = "tcp://127.0.0.1:5591",
    report: Annotated[Path | None, typer.Option(help="Write latency and counts to this JSON file.")] = None,
) -> None:
    """Run the twin: subscribe, register, assimilate, publish. Ends with the procedure or with Ctrl-C."""
    import json

    from surgical_twin.case import Case, write_atomically
    from surgical_twin.display import start_display
    from surgical_twin.live import Endpoints, LiveLoop
    from surgical_twin.session_model import SessionModel
    from surgical_twin.status_line import status_line

    opened = Case.open(case)
    if record is not None and record.exists():
        raise InputError(f"{record} exists; a recording is never written over: name another file with --record.")
    model = SessionModel.load(opened)
    loop = LiveLoop(model, seed=seed, endpoints=Endpoints(devices, states), record=record, case=str(case.resolve()))
    signal.signal(signal.SIGTERM, lambda *_: loop.stop())
    signal.signal(signal.SIGINT, lambda *_: loop.stop())
    display = start_display(case, states, window=show, web=web)
    try:
        with err.status("waiting for devices") as status:
            result = loop.run(lambda state: status.update(status_line(state)))
    finally:
        if display is not None:
            display.terminate()
    if report is not None:
        write_atomically(report, json.dumps(result.summary(), indent=1))
    table = Table("what", "value", title="live session")
    for name, value in result.summary().items():
        if not isinstance(value, dict):
            table.add_row(name.replace("_", " "), f"{value:.2f}" if isinstance(value, float) else str(value))
    out.print(table)
    if result.recording_failure is not None:
        raise InputError(f"The recording {record} is not complete: {result.recording_failure}.")


def replay(
    recording: Annotated[Path, typer.Argument(help="MCAP file that live recorded.")],
    case: Annotated[Path | None, typer.Option(help="The case; the one named in the recording where not given.")] = None,
) -> None:
    """Run the same session from a recording, and compare its states byte for byte."""
    from surgical_twin.replay import open_recording
    from surgical_twin.replay import replay as run_replay

    opened, model = open_recording(recording, case)
    with progress_bar() as progress:
        task = progress.add_task("replaying", total=max(1, len(opened.events)))
        result = run_replay(opened, model, lambda number, _: progress.update(task, completed=number))
    out.print(
        f"{result.events} events gave {result.states} twin states; {result.recorded_states} were recorded: "
        + (
            "all are byte-identical."
            if result.identical
            else f"state {result.first_difference} is the first that differs."
        )
    )
    if result.truncated is not None:
        raise InputError(f"{recording} is truncated: {result.truncated}")
    if not result.identical:
        raise typer.Exit(1)


def demo(
    folder: Annotated[Path, typer.Option("--out", help="Where everything is written.")] = Path("demo"),
    seed: Annotated[int, typer.Option(help="Draws the phantom's noise, the patient and the devices' noise.")] = 0,
) -> None:
    """Make a phantom CT, plan it, play a procedure against the live twin, and report how well it did."""
    from surgical_twin.demo import run_demo

    raise typer.Exit(run_demo(folder, seed, out))
