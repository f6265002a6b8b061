"""The command line. Input that cannot be used ends in one sentence and exit code 2."""

import logging
import signal
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from meshes.errors import InputError as MeshesInputError
from registration.errors import InputError as RegistrationInputError
from streams.errors import InputError as StreamsInputError
from surgical_twin import __version__
from surgical_twin.errors import InputError
from viewer.errors import InputError as ViewerInputError

INPUT_ERRORS = (InputError, MeshesInputError, RegistrationInputError, StreamsInputError, ViewerInputError)

app = typer.Typer(
    name="surgical-twin",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="An intraoperative surgical twin: plan a case from CT or MR, run it live, replay it. "
    "Research software; no medical device.",
)
out = Console()
err = Console(stderr=True)

CaseFolder = Annotated[Path, typer.Argument(help="The case's folder.")]


def main() -> None:
    """Run the command line; the entry point of ``surgical-twin`` and ``python -m surgical_twin``."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    try:
        # Wrong usage ends in the usage's own sentence and exit code 2 inside; so does an interrupt, with 130.
        app()
    except INPUT_ERRORS as error:
        err.print("[bold red]error:[/]", Text(str(error)), soft_wrap=True)
        sys.exit(2)


@app.callback(invoke_without_command=True)
def root(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    """Take the options that come before any command."""
    if version:
        out.print(f"surgical-twin {__version__}")
        raise typer.Exit


def _seed_point(text: str | None) -> tuple[float, float, float] | None:
    if text is None:
        return None
    try:
        x, y, z = (float(part) for part in text.split(","))
    except ValueError as error:
        raise InputError(f'--seed "{text}" is not X,Y,Z: three numbers in mm (LPS) with commas between.') from error
    return x, y, z


def _region_box(text: str | None) -> tuple[float, float, float, float, float, float] | None:
    if text is None:
        return None
    try:
        x0, y0, z0, x1, y1, z1 = (float(part) for part in text.split(","))
    except ValueError as error:
        raise InputError(
            f'--region "{text}" is not X,Y,Z,X,Y,Z: two opposite corners of a box in mm (LPS) with commas between.'
        ) from error
    return x0, y0, z0, x1, y1, z1


ImageFile = Annotated[Path, typer.Argument(help="NIfTI, NRRD or MHA file, or a folder of DICOM slices.")]
NewCase = Annotated[Path, typer.Option(help="The case's folder; made if it is not there.")]
Labels = Annotated[
    Path | None,
    typer.Option(help="Label map on the image's grid, .seg.nrrd or closed surface, instead of segmentation."),
]
Segment = Annotated[str | None, typer.Option("--segment", help="Which segment of a .seg.nrrd is lumen, by its name.")]
Seed = Annotated[str | None, typer.Option(help="A point in the vessel: X,Y,Z in mm, LPS.")]
Threshold = Annotated[float | None, typer.Option(help="Grey value at the wall, where the one found is not right.")]
Config = Annotated[Path | None, typer.Option(help="plan.toml with any settings that differ from the defaults.")]
Region = Annotated[str | None, typer.Option(help="Look only inside this box: X,Y,Z,X,Y,Z in mm, LPS.")]


@app.command()
def segment(
    image: ImageFile,
    case: NewCase,
    labels: Labels = None,
    segment_name: Segment = None,
    seed: Seed = None,
    threshold: Threshold = None,
    region: Region = None,
    config: Config = None,
) -> None:
    """Find the lumen only, and write a picture to judge it by: the first steps of plan."""
    from surgical_twin.case import PICTURE
    from surgical_twin.plan_settings import read_plan
    from surgical_twin.planning import PlanRequest

    request = PlanRequest(
        image, labels, segment_name, _seed_point(seed), threshold, _region_box(region), read_plan(config)
    )
    plan_case(request, case, until="lumen")
    info(case)
    out.print(f"Look at {case / PICTURE}.", soft_wrap=True)


@app.command()
def plan(
    image: ImageFile,
    case: NewCase,
    labels: Labels = None,
    segment_name: Segment = None,
    seed: Seed = None,
    threshold: Threshold = None,
    region: Region = None,
    config: Config = None,
) -> None:
    """Plan a case from an angiography volume: lumen, mesh, 3D flow, reduced model."""
    from surgical_twin.plan_settings import read_plan
    from surgical_twin.planning import PlanRequest

    request = PlanRequest(
        image, labels, segment_name, _seed_point(seed), threshold, _region_box(region), read_plan(config)
    )
    plan_case(request, case)
    info(case)


def plan_case(request: "PlanRequest", folder: Path, *, until: str | None = None) -> None:  # type: ignore[name-defined]  # noqa: F821
    """Plan with a progress bar per step."""
    from surgical_twin.case import Case
    from surgical_twin.planning import Step
    from surgical_twin.planning import plan as run_plan

    opened = Case.create(folder)
    with _progress() as progress:

        def watch(step: Step):  # type: ignore[no-untyped-def]
            task = progress.add_task(step.title, total=1.0)
            return lambda share: progress.update(task, completed=share)

        run_plan(request, opened, watch, until=until)


def _progress() -> Progress:
    return Progress(
        TextColumn("{task.description:<28}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f}%"),
        TimeElapsedColumn(),
        console=err,
    )


@app.command()
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
    with _progress() as progress:
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


@app.command()
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


@app.command()
def replay(
    recording: Annotated[Path, typer.Argument(help="MCAP file that live recorded.")],
    case: Annotated[Path | None, typer.Option(help="The case; the one named in the recording where not given.")] = None,
) -> None:
    """Run the same session from a recording, and compare its states byte for byte."""
    from surgical_twin.replay import open_recording
    from surgical_twin.replay import replay as run_replay

    opened, model = open_recording(recording, case)
    with _progress() as progress:
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


@app.command()
def export(
    case: CaseFolder,
    glb: Annotated[Path | None, typer.Option(help="Write the 3D scene for AR and the web (GLB).")] = None,
    png: Annotated[Path | None, typer.Option(help="Write a picture.")] = None,
) -> None:
    """Write the planned case as a GLB model, a picture, or both."""
    from surgical_twin.case import Case
    from surgical_twin.display import export_glb, export_png

    if glb is None and png is None:
        raise InputError("export has nothing to write; give --glb FILE, --png FILE or both.")
    opened = Case.open(case)
    if glb is not None:
        export_glb(opened, glb)
        out.print(f"{glb} written")
    if png is not None:
        export_png(opened, png)
        out.print(f"{png} written")


@app.command()
def view(
    case: CaseFolder,
    states: Annotated[str, typer.Option(help="Where the twin publishes its states.")] = "tcp://127.0.0.1:5591",
    web: Annotated[bool, typer.Option("--web", help="Serve a web page instead of opening a window.")] = False,
    port: Annotated[int, typer.Option(help="Port of the web page on 127.0.0.1.")] = 8080,
) -> None:
    """Show a running twin in a window or as a web page."""
    from surgical_twin.case import Case
    from surgical_twin.display import run_display

    run_display(Case.open(case), states, web=web, port=port)


@app.command()
def info(case: CaseFolder) -> None:
    """Say what a case holds: each step with its figures, and what was decided."""
    from surgical_twin.case import Case

    opened = Case.open(case)
    table = Table("step", "figures", title=f"{opened.folder} (format {opened.manifest['case']['format']})")
    for name, step in opened.manifest.get("step", {}).items():
        table.add_row(name, _figures(step["figures"]))
    out.print(table)
    for name, step in opened.manifest.get("step", {}).items():
        for note in step["notes"]:
            out.print(f"{name}: {note}", soft_wrap=True, highlight=False)


def _figures(figures: dict[str, object]) -> str:
    lines = []
    for name, value in figures.items():
        if isinstance(value, dict):
            inner = ", ".join(f"{key} {number:.4g}" for key, number in value.items() if isinstance(number, int | float))
            lines.append(f"{name}: {inner}")
        else:
            lines.append(
                f"{name.replace('_', ' ')} {value:.4g}"
                if isinstance(value, float)
                else f"{name.replace('_', ' ')} {value}"
            )
    return "\n".join(lines)


@app.command()
def demo(
    folder: Annotated[Path, typer.Option("--out", help="Where everything is written.")] = Path("demo"),
    seed: Annotated[int, typer.Option(help="Draws the phantom's noise, the patient and the devices' noise.")] = 0,
) -> None:
    """Make a phantom CT, plan it, play a procedure against the live twin, and report how well it did."""
    from surgical_twin.demo import run_demo

    raise typer.Exit(run_demo(folder, seed, out))
