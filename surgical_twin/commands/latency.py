"""The command that says how much delay and load a session on a case can bear."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from surgical_twin.commands.console import CaseFolder, err, out
from surgical_twin.errors import InputError


def latency(
    case: CaseFolder,
    recording: Annotated[
        Path | None, typer.Option(help="MCAP file of a procedure on the case; a standard load where none is given.")
    ] = None,
    oldest: Annotated[float, typer.Option(help="Milliseconds that a pose may be old when it is shown.")] = 100.0,
    seconds: Annotated[float, typer.Option(help="Seconds of the standard load.")] = 20.0,
    pose_rate: Annotated[float, typer.Option(help="Poses a second in the standard load.")] = 120.0,
    pressure_rate: Annotated[float, typer.Option(help="Pressure samples a second in the standard load.")] = 1000.0,
    write: Annotated[Path | None, typer.Option("--json", help="Write all of it to this JSON file.")] = None,
) -> None:
    """Measure the session on this machine: how old what it shows is, and how much delay and load it can bear."""
    from surgical_twin.case import AXIS, Case, write_atomically
    from surgical_twin.latency_budget import events_of, latency_budget, measured
    from surgical_twin.replay import open_recording
    from surgical_twin.session import Session
    from surgical_twin.session_model import SessionModel
    from surgical_twin.standard_load import LoadSettings, read_stations, standard_load

    for name, value, least in (("--oldest", oldest, 1.0), ("--seconds", seconds, 2.0), ("--pose-rate", pose_rate, 1.0),
                               ("--pressure-rate", pressure_rate, 1.0)):  # fmt: skip
        if not least <= value < 1e6:
            raise InputError(f"{name} {value:g} is not usable; give a number of at least {least:g}.")
    with err.status("measuring the session"):
        if recording is not None:
            opened, model = open_recording(recording, case)
            events = opened.events
        else:
            model = SessionModel.load(Case.open(case))
            stations = read_stations(Case.open(case).require(AXIS))
            load = LoadSettings(pose_hz=pose_rate, pressure_hz=pressure_rate)
            events = events_of(standard_load(model, stations, load, 10**18, seconds), 0, model.case_hash)
        budget = latency_budget(*measured(Session(model), events), oldest)
    table = Table("stage", "messages", "median ms", "99 % within ms", title=f"{budget.seconds:.0f} s of messages")
    for stage in budget.stages:
        table.add_row(stage.name, str(stage.count), f"{stage.median:.2f}", f"{stage.p99:.2f}")
    out.print(table)
    table = Table("messages come", "one core's load", "pose shown: 99 % within ms", "observation taken: 99 % within ms")
    for point in budget.load:
        old = point.pose_shown_p99_ms > oldest
        table.add_row(
            f"{point.factor:g} times as fast",
            f"{point.utilization:.0%}",
            f"{point.pose_shown_p99_ms:.1f}" + (" (too old)" if old else ""),
            f"{point.observation_taken_p99_ms:.1f}",
        )
    out.print(table)
    first, rest = budget.mean_wait_ms
    random_first, random_rest = budget.mean_wait_at_random_ms
    out.print(
        f"Mean wait {first:.2f} ms of poses and states, {rest:.2f} ms of all else; messages that come at random would "
        f"wait {random_first:.2f} and {random_rest:.2f} ms.",
        soft_wrap=True,
    )
    shown_ms = budget.load[0].pose_shown_p99_ms
    if budget.bearable_load < 1.0:
        what = "poses are shown" if shown_ms > oldest else "observations are taken"
        verdict = (
            f"This load is too much for this machine: {what} later than {oldest:g} ms after they arrived. Messages may "
            f"come {budget.bearable_load:.2f} times as fast as they do."
        )
    else:
        verdict = (
            f"A pose may be {oldest:g} ms old when it is shown. The network may take {budget.network_ms:.0f} ms of "
            f"that; or, without any delay there, messages may come {budget.bearable_load:.1f} times as fast."
        )
    out.print(verdict, soft_wrap=True)
    if write is not None:
        write_atomically(write, json.dumps(asdict(budget), indent=1))
