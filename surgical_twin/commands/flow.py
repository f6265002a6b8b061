"""The command that solves a case's 3D flow."""

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from surgical_twin.commands.console import CaseFolder, err, out
from surgical_twin.errors import InputError

Config = Annotated[Path | None, typer.Option(help="solve.toml with any settings that differ from the plan's.")]
Beats = Annotated[int | None, typer.Option(help="Heart beats at most; the run stops itself once it is periodic.")]
Name = Annotated[str, typer.Option("--out", help="Name of the results: they go to CASE/solve/NAME.")]


def solve(case: CaseFolder, config: Config = None, beats: Beats = None, out_name: Name = "planned") -> None:
    """Solve a case's 3D flow into its periodic state: pressure, wall shear, FFR; goes on where interrupted."""
    import msgspec

    from surgical_twin.case import Case
    from surgical_twin.flow.linear_solvers import MPI
    from surgical_twin.solve import solve_case
    from surgical_twin.solve_settings import read_solve

    world = MPI.COMM_WORLD
    first = world.rank == 0
    try:
        refuse_foreign_launcher(world.size, os.environ)
        if beats is not None and beats < 1:
            raise InputError(f"--beats {beats} is not positive; give at least 1.")
        plan = read_solve(config)
        if beats is not None:
            plan = msgspec.structs.replace(plan, beats=beats)
        opened = Case.open(case)
        with Progress(
            TextColumn("{task.description:<28}"),
            BarColumn(),
            TextColumn("{task.percentage:>3.0f}%"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=err,
            disable=not first,
        ) as progress:
            tasks: dict[str, int] = {}

            def say(what: str, share: float) -> None:
                if what not in tasks:
                    tasks[what] = progress.add_task(what, total=1.0)
                progress.update(tasks[what], completed=share)  # type: ignore[arg-type]

            solved = solve_case(
                opened,
                plan,
                settings_folder=Path() if config is None else config.parent,
                name=out_name,
                say=say,
                comm=world if world.size > 1 else None,
            )
    except InputError:
        # Processes that share a run meet the same error: one of them says so.
        if first:
            raise
        sys.exit(2)
    if not first:
        return
    table = Table("port", "mean flow", "mean", "systolic", "diastolic", title=str(solved.folder))
    for port, values in solved.figures["port"].items():
        table.add_row(
            port,
            f"{values['mean_flow_ml_s']:.3f} mL/s",
            f"{values['mean_pressure_mmhg']:.1f} mmHg",
            f"{values['systolic_mmhg']:.1f}",
            f"{values['diastolic_mmhg']:.1f}",
        )
    out.print(table)
    for port, ratio in solved.figures.get("pressure_ratio", {}).items():
        out.print(f"to {port}: FFR {ratio['ffr']:.3f}, iFR {ratio['ifr']:.3f}")
    run = solved.run.figures
    change = run.get("beat_change")
    state = "not measured" if change is None else f"{100 * change:.2g} % from the periodic state"
    beats_run = solved.figures["beats"]
    out.print(
        f"{beats_run:g} {'beat' if beats_run == 1 else 'beats'}, {state}; largest CFL number {run['max_cfl']:.1f}"
    )


def refuse_foreign_launcher(size: int, environment: Mapping[str, str]) -> None:
    """Make sure that processes which were started together know of each other.

    Started by the `mpiexec` of another MPI than mpi4py's, each would take itself for the only one, and all would solve
    the same and write over each other's results.

    Args:
        size: how many processes this one knows of.
        environment: in which launchers say how many they started.

    Raises:
        InputError: they do not.
    """
    for name in ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "MPI_LOCALNRANKS"):
        started = environment.get(name, "")
        if started.isdecimal() and int(started) > 1 and size == 1:
            raise InputError(
                f"This mpiexec started {started} processes that do not know of each other: it is of another MPI than "
                f"this Python's; run the one of this installation, {Path(sys.prefix) / 'bin' / 'mpiexec'}."
            )
