"""Commands that make a case and say what it holds."""

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from surgical_twin.commands.console import out, progress_bar, read_numbers
from surgical_twin.commands.streams import show_recording

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


def _request(
    image: Path,
    labels: Path | None,
    segment_name: str | None,
    seed: str | None,
    threshold: float | None,
    region: str | None,
    config: Path | None,
) -> "PlanRequest":  # type: ignore[name-defined]  # noqa: F821
    from surgical_twin.plan_settings import read_plan
    from surgical_twin.planning import PlanRequest

    point = None if seed is None else read_numbers("--seed", seed, "X,Y,Z", "three numbers in mm (LPS)")
    box = (
        None
        if region is None
        else read_numbers("--region", region, "X,Y,Z,X,Y,Z", "two opposite corners of a box in mm (LPS)")
    )
    return PlanRequest(image, labels, segment_name, point, threshold, box, read_plan(config))  # type: ignore[arg-type]


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

    plan_case(_request(image, labels, segment_name, seed, threshold, region, config), case, until="lumen")
    info(case)
    out.print(f"Look at {case / PICTURE}.", soft_wrap=True)


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
    plan_case(_request(image, labels, segment_name, seed, threshold, region, config), case)
    info(case)


def plan_case(request: "PlanRequest", folder: Path, *, until: str | None = None) -> None:  # type: ignore[name-defined]  # noqa: F821
    """Plan with a progress bar per step."""
    from surgical_twin.case import Case
    from surgical_twin.planning import Step
    from surgical_twin.planning import plan as run_plan

    opened = Case.create(folder)
    with progress_bar() as progress:

        def watch(step: Step):  # type: ignore[no-untyped-def]
            task = progress.add_task(step.title, total=1.0)
            return lambda share: progress.update(task, completed=share)

        run_plan(request, opened, watch, until=until)


def info(case: Annotated[Path, typer.Argument(help="The case's folder, or a recording.")]) -> None:
    """Say what a case holds, each step with its figures, or what a recording holds, stream by stream."""
    from surgical_twin.case import Case

    if case.is_file():
        show_recording(case)
        return
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
