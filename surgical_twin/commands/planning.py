"""Commands that make a case and say what it holds."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from surgical_twin.commands.console import out, progress_bar, read_numbers
from surgical_twin.commands.streams import show_recording
from surgical_twin.errors import InputError

ImageFile = Annotated[Path, typer.Argument(help="NIfTI, NRRD, MHA, a folder of DICOM; or a segmentation alone.")]
NewCase = Annotated[Path, typer.Option(help="The case's folder; made if it is not there.")]
Labels = Annotated[
    Path | None,
    typer.Option(help="Label map, .seg.nrrd, DICOM SEG or closed surface, instead of segmentation."),
]
Segment = Annotated[
    str | None, typer.Option("--segment", help="Which segment of a .seg.nrrd or DICOM SEG is lumen, by its name.")
]
Seed = Annotated[str | None, typer.Option(help="A point in the vessel: X,Y,Z in mm, LPS.")]
Threshold = Annotated[float | None, typer.Option(help="Grey value at the wall, where the one found is not right.")]
Config = Annotated[Path | None, typer.Option(help="plan.toml with any settings that differ from the defaults.")]
Series = Annotated[
    str | None, typer.Option(help="Of a DICOM folder: the SeriesInstanceUID to take; the largest where not given.")
]
LengthUnit = Annotated[str | None, typer.Option("--unit", help="Unit of a surface's lengths: mm, cm or m.")]
OwnCenterline = Annotated[
    Path | None, typer.Option("--centerline", help="Follow this centerline (VTP, VTK or Slicer's .mrk.json) instead.")
]
Until = Annotated[str | None, typer.Option(help="Stop after this step, such as lumen or mesh.")]
Scheduler = Annotated[
    str | None, typer.Option(help="Address of a dask scheduler whose workers do the 3D runs: tcp://HOST:8786.")
]
Region = Annotated[str | None, typer.Option(help="Look only inside this box: X,Y,Z,X,Y,Z in mm, LPS.")]


def _request(
    image: Path,
    labels: Path | None,
    segment_name: str | None,
    seed: str | None,
    threshold: float | None,
    region: str | None,
    config: Path | None,
    series: str | None,
    unit: str | None,
    centerline: Path | None = None,
) -> "PlanRequest":  # type: ignore[name-defined]  # noqa: F821
    from surgical_twin.plan_settings import read_plan
    from surgical_twin.planning import PlanRequest

    point = None if seed is None else read_numbers("--seed", seed, "X,Y,Z", "three numbers in mm (LPS)")
    box = (
        None
        if region is None
        else read_numbers("--region", region, "X,Y,Z,X,Y,Z", "two opposite corners of a box in mm (LPS)")
    )
    if unit not in (None, "mm", "cm", "m"):
        raise InputError(f"--unit {unit} is not known; give mm, cm or m.")
    settings = read_plan(config)
    return PlanRequest(image, labels, segment_name, point, threshold, box, settings, series, unit, centerline)  # type: ignore[arg-type]


def segment(
    image: ImageFile,
    case: NewCase,
    labels: Labels = None,
    segment_name: Segment = None,
    seed: Seed = None,
    threshold: Threshold = None,
    region: Region = None,
    config: Config = None,
    series: Series = None,
    unit: LengthUnit = None,
) -> None:
    """Find the lumen only, and write a picture to judge it by: the first steps of plan."""
    from surgical_twin.case import PICTURE

    request = _request(image, labels, segment_name, seed, threshold, region, config, series, unit)
    plan_case(request, case, until="lumen")
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
    series: Series = None,
    unit: LengthUnit = None,
    centerline: OwnCenterline = None,
    until: Until = None,
    scheduler: Scheduler = None,
) -> None:
    """Plan a case from an angiography volume: lumen, mesh, 3D flow, reduced model."""
    request = _request(image, labels, segment_name, seed, threshold, region, config, series, unit, centerline)
    plan_case(replace(request, scheduler=scheduler), case, until=until)
    info(case)


def plan_case(request: "PlanRequest", folder: Path, *, until: str | None = None) -> None:  # type: ignore[name-defined]  # noqa: F821
    """Plan with a progress bar per step."""
    from surgical_twin.case import Case
    from surgical_twin.planning import STEPS, Step
    from surgical_twin.planning import plan as run_plan

    names = [step.name for step in STEPS]
    if until is not None and until not in names:
        raise InputError(f"--until {until} is no step; the steps are {', '.join(names)}.")
    opened = Case.create(folder)
    with progress_bar() as progress:

        def watch(step: Step):  # type: ignore[no-untyped-def]
            task = progress.add_task(step.title, total=1.0)
            return lambda share: progress.update(task, completed=share)

        run_plan(request, opened, watch, until=until)


def series(folder: Annotated[Path, typer.Argument(help="A folder of DICOM files, at any depth.")]) -> None:
    """List the DICOM series below a folder, the largest first, to choose one of with --series."""
    from meshes.dicom import list_series

    if not folder.is_dir():
        raise InputError(f"{folder} is no folder; give the one that holds the DICOM files.")
    table = Table("SeriesInstanceUID", "modality", "slices", "size", "description")
    for one in list_series(folder):
        size = f"{one.size[0]} x {one.size[1]}"
        table.add_row(Text(one.uid, overflow="fold"), one.modality, str(one.frames), size, Text(one.description))
    out.print(table)


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
