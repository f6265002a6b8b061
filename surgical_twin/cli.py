"""The command line: every command by its name. Input that cannot be used ends in one sentence and exit code 2."""

import logging
import os
import sys
from collections.abc import Callable
from typing import Annotated

import typer
from rich.text import Text

from meshes.errors import InputError as MeshesInputError
from registration.errors import InputError as RegistrationInputError
from streams.errors import InputError as StreamsInputError
from surgical_twin import __version__
from surgical_twin.commands import (
    assimilation,
    calibration,
    display,
    flow,
    latency,
    planning,
    prediction,
    procedure,
    registration,
    scoring,
    streams,
)
from surgical_twin.commands.console import err, out
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

# In the order in which a person meets them, under the heads that the help shows.
COMMANDS: dict[str, tuple[Callable[..., None], ...]] = {
    "Plan": (
        planning.series,
        planning.segment,
        planning.plan,
        planning.info,
        flow.solve,
        prediction.what_if,
        assimilation.identify,
        display.export,
    ),
    "Procedure": (
        procedure.live,
        procedure.simulate,
        display.view,
        procedure.replay,
        latency.latency,
        scoring.score,
        procedure.demo,
    ),
    "Recordings": (streams.record, streams.play, streams.cut, streams.anonymize, streams.audit),
    "Connections": (streams.bridge, streams.keys),
}
for panel, commands in COMMANDS.items():
    for command in commands:
        app.command(rich_help_panel=panel)(command)
app.command("import", rich_help_panel="Recordings")(streams.import_files)
app.add_typer(registration.register, name="register", rich_help_panel="Registration")
app.add_typer(calibration.calibrate, name="calibrate", rich_help_panel="Registration")


def main() -> None:
    """Run the command line; the entry point of ``surgical-twin`` and ``python -m surgical_twin``."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    if sys.platform == "linux" and not os.environ.get("DISPLAY"):
        # Without a screen VTK would look for one first, and complain that there is none.
        os.environ.setdefault("VTK_DEFAULT_OPENGL_WINDOW", "vtkEGLRenderWindow")
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
