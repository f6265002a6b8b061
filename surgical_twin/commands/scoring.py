"""The command that holds a recorded procedure against the simulated patient's truth."""

from pathlib import Path
from typing import Annotated

import typer

from surgical_twin.commands.console import err, out


def score(
    recording: Annotated[Path, typer.Argument(help="MCAP file that live recorded while simulate played.")],
    case: Annotated[Path | None, typer.Option(help="The case; the one named in the recording where not given.")] = None,
    folder: Annotated[Path, typer.Option("--out", help="Where the report and its pictures are written.")] = Path(
        "score"
    ),
) -> None:
    """Hold a recorded procedure against the simulated patient's truth: a report with figures and pictures."""
    from surgical_twin.case import Case
    from surgical_twin.procedure_pictures import make_pictures
    from surgical_twin.replay import open_recording, replay
    from surgical_twin.report import case_figures, procedure_figures, write_report
    from surgical_twin.scoring import score as score_procedure

    opened, model = open_recording(recording, case)
    planned = Case.open(Path(opened.metadata["case"]) if case is None else case)
    with err.status("replaying and scoring"):
        result = score_procedure(model, opened.events, planned)
        replayed = replay(opened, model)
        folder.mkdir(parents=True, exist_ok=True)
        pictures = make_pictures(planned, result, folder)
    figures = {**case_figures(planned), **procedure_figures(result, replayed)}
    raise typer.Exit(write_report(recording.stem, figures, pictures, folder, out))
