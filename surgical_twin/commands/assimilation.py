"""Commands before the procedure: learn the circulation from a history, and ask what sensors can tell."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from surgical_twin.commands.console import CaseFolder, err, out, progress_bar
from surgical_twin.errors import InputError

if TYPE_CHECKING:
    from surgical_twin.assimilation.identifiability import Advice, Information, Profile

Many = list[str] | None

Bias = Annotated[str, typer.Option(help="Standard deviation of a pressure transducer's zero.")]
Gain = Annotated[str, typer.Option(help="Standard deviation of a flow probe's gain.")]


def history(
    case: CaseFolder,
    history: Annotated[
        Path, typer.Option("--history", help="Recording (.mcap) or table (.csv: time_s, pressure_mmhg, flow_ml_s ...).")
    ],
    at: Annotated[
        Many, typer.Option(help="SENSOR=PLACE of an arterial line or a table's column, if not the inlet: art=outlet_1.")
    ] = None,
    pressure_bias: Bias = "3 mmHg",
    flow_gain: Gain = "5 %",
    png: Annotated[Path | None, typer.Option(help="Picture; CASE/calibration.png if not given.")] = None,
) -> None:
    """Learn the patient's circulation from a recorded history: calibrate CASE --history FILE.

    Outlet resistances, compliances, inflow and its shape, with 95 % intervals, go into CASE/calibration.json: the prior
    that the live filter starts from.
    """
    from surgical_twin.assimilation.beat_model import BeatModel, read_sensor
    from surgical_twin.assimilation.calibration import SensorErrors, calibrate, keep_calibration, physical_intervals
    from surgical_twin.assimilation.calibration_picture import draw_calibration
    from surgical_twin.assimilation.flow_prior import FlowPrior
    from surgical_twin.assimilation.history import read_history
    from surgical_twin.case import Case
    from surgical_twin.registration_inputs import read_branch_tree
    from surgical_twin.session_model import SessionModel

    opened = Case.open(case)
    places = _pairs(at or [])
    errors = SensorErrors(_positive("--pressure-bias", pressure_bias, "mmHg"), _share("--flow-gain", flow_gain))
    recorded = read_history(history, places)
    with err.status("reading the case"):
        model = SessionModel.load(opened)
        tree = read_branch_tree(opened)
    sensors = [read_sensor(f"{one.quantity}@{one.place}", model, tree) for one in recorded.signals]
    beats = BeatModel(model, model.waveform.period)
    prior = FlowPrior.planned(beats.outlets, model.filter.settings)
    with progress_bar() as progress:
        task = progress.add_task("fitting the history", total=1.0)
        found = calibrate(
            beats, prior, recorded, sensors, errors=errors,
            watch=lambda share: progress.update(task, completed=share),
        )  # fmt: skip
        progress.update(task, completed=1.0)
    draw_calibration(found, png or opened.path("calibration.png"))
    path = keep_calibration(opened, beats, found, history)
    table = Table("parameter", "value", "95 % interval", "factor on the plan", title=f"{history.name}: "
                  f"{60.0 / found.period_s:.0f} beats a minute")  # fmt: skip
    for line in physical_intervals(beats, found.posterior)[: found.posterior.factors]:
        value, factor = line["value"], line["factor"]
        table.add_row(
            line["name"], f"{value[0]:.3g} {line['unit']}", f"{value[1]:.3g} to {value[2]:.3g}",
            f"{factor[0]:.2f} [{factor[1]:.2f}, {factor[2]:.2f}]",
        )  # fmt: skip
    out.print(table)
    for one in found.sensors:
        out.print(
            f"{one.sensor.label}: {one.beat.beats} beats; not explained: {one.residual:.2g} {one.sensor.unit}; the "
            f"model's error is taken as {one.discrepancy:.2g}",
            soft_wrap=True,
        )
    for note in found.notes:
        out.print(f"[bold yellow]{note}[/]", soft_wrap=True)
    out.print(f"{path} written", soft_wrap=True)


def identify(
    case: CaseFolder,
    sensor: Annotated[
        Many,
        typer.Option(
            help="pressure@PLACE or flow@PORT; may be given several times. A place is a port, branch_1+25mm, or X,Y,Z "
            "in mm. pressure@inlet, the arterial line, if none is given."
        ),
    ] = None,
    profile: Annotated[
        Many, typer.Option(help='Profile likelihood of a parameter, by its name in the table: "resistance outlet_1".')
    ] = None,
    calibrated: Annotated[
        bool, typer.Option(help="Start from the case's calibration where there is one, not from the plan.")
    ] = True,
    pressure_noise: Annotated[str, typer.Option(help="Standard deviation of one pressure sample.")] = "2 mmHg",
    pressure_bias: Bias = "3 mmHg",
    flow_gain: Gain = "5 %",
    beats: Annotated[int, typer.Option(min=1, help="Beats that are measured.")] = 20,
    heart_rate: Annotated[str | None, typer.Option(help='"75 1/min"; the plan\'s if not given.')] = None,
    png: Annotated[Path | None, typer.Option(help="Picture; CASE/identify.png if not given.")] = None,
    report: Annotated[Path | None, typer.Option("--json", help="Write all figures to this JSON file.")] = None,
) -> None:
    """Say what sensors can tell of the patient, what they cannot tell apart, and what would tell it."""
    from surgical_twin.assimilation.beat_model import BeatModel, Manoeuvre, Sensor, read_sensor
    from surgical_twin.assimilation.calibration import SensorErrors
    from surgical_twin.assimilation.calibration_picture import draw_identifiability
    from surgical_twin.assimilation.flow_prior import FlowPrior
    from surgical_twin.assimilation.identifiability import SensorNoise, Study
    from surgical_twin.case import Case, write_atomically
    from surgical_twin.registration_inputs import read_branch_tree
    from surgical_twin.session_model import SessionModel
    from surgical_twin.units import read_quantity

    opened = Case.open(case)
    noise = SensorNoise(pressure_mmhg=_positive("--pressure-noise", pressure_noise, "mmHg"), beats=beats)
    errors = SensorErrors(_positive("--pressure-bias", pressure_bias, "mmHg"), _share("--flow-gain", flow_gain))
    with err.status("reading the case"):
        model = SessionModel.load(opened)
        tree = read_branch_tree(opened)
    rate = None if heart_rate is None else read_quantity(heart_rate, "1/s", name="--heart-rate")
    if rate is not None and not 0.4 <= rate <= 4.0:
        raise InputError(f'--heart-rate "{heart_rate}" is no heart rate; give 24 to 240 1/min.')
    outlets = tuple(model.reduced.ports.outlets)
    settings = model.filter.settings
    prior = FlowPrior.of_case(opened, outlets, settings) if calibrated else FlowPrior.planned(outlets, settings)
    study = Study(BeatModel(model, model.waveform.period if rate is None else 1.0 / rate), prior, noise, errors)
    plan = [read_sensor(text, model, tree) for text in sensor or ["pressure@inlet"]]
    unknown = [name for name in profile or [] if name not in prior.names]
    if unknown:
        raise InputError(f'There is no parameter "{unknown[0]}"; there are {", ".join(prior.names)}.')
    seen = {(one.quantity, one.where) for one in plan}
    positions = [
        Sensor(quantity, name, port=number)
        for quantity in ("pressure", "flow")
        for number, name in enumerate(model.port_names)
        if (quantity, name) not in seen
    ]
    for name in tree.names:
        text = f"pressure@branch_{name}"
        if ("pressure", f"branch_{name}") not in seen:
            positions.append(read_sensor(text, model, tree))
    manoeuvres = [Manoeuvre("heart a quarter faster", 1.25), Manoeuvre("heart a fifth slower", 0.8)]
    if len(outlets) > 1:
        manoeuvres += [Manoeuvre(f"clamp {name}", clamped=(number,)) for number, name in enumerate(outlets)]
    with progress_bar() as progress:
        task = progress.add_task("asking the reduced model", total=1.0)
        told = study.information(plan)
        advice = study.advise(plan, positions, manoeuvres, lambda share: progress.update(task, completed=share))
        profiles = [study.profile(plan, name) for name in profile or []]
        progress.update(task, completed=1.0)
    named = ", ".join(one.label for one in plan)
    draw_identifiability(told, advice, profiles, named, png or opened.path("identify.png"))
    _say(told, advice, profiles, named)
    if report is not None:
        write_atomically(report, json.dumps(_plain(told, advice, profiles, [one.label for one in plan]), indent=1))
        out.print(f"{report} written", soft_wrap=True)
    out.print(f"{png or opened.path('identify.png')} written", soft_wrap=True)


def _say(told: Information, advice: list[Advice], profiles: list[Profile], named: str) -> None:
    from surgical_twin.assimilation.identifiability import UNSEEN, best_for

    table = Table("parameter", "before", "with these sensors", "data alone, all others known", title=named)
    for number, name in enumerate(told.names):
        bound = told.alone(number)
        table.add_row(
            name, f"{100 * told.prior.deviation[number]:.1f} %", f"{100 * told.deviation[number]:.1f} %",
            "not seen" if bound > 10.0 else f"{100 * bound:.1f} %",
        )  # fmt: skip
    out.print(table)
    left = [one for one in told.directions() if one.kept > UNSEEN]
    if left:
        out.print("[bold]what stays open[/]")
        for one in left[:8]:
            best = best_for(one, advice)
            help_ = "" if best is None or best[1] > UNSEEN else f"; {best[0].what} would leave {100 * best[1]:.0f} %"
            out.print(f"  {one.sentence} {100 * one.kept:.0f} % of it is left{help_}", soft_wrap=True)
    else:
        out.print("These sensors see every combination of parameters.")
    table = Table("what would help", "tells besides", "most for", title="further positions and manoeuvres, best first")
    for kind in ("position", "manoeuvre"):
        for advised in [one for one in advice if one.kind == kind][:5]:
            narrowed = 1.0 - advised.deviation / told.deviation
            most = [k for k in narrowed[: told.prior.factors].argsort()[::-1][:2] if narrowed[k] > 0.05]
            table.add_row(
                advised.what, f"{advised.gain:.2f} nats",
                ", ".join(f"{told.names[k]} ({100 * told.deviation[k]:.0f} to {100 * advised.deviation[k]:.0f} %)"
                          for k in most) or "none by much",
            )  # fmt: skip
        table.add_section()
    out.print(table)
    for curve in profiles:
        ends = [f"{end:.3g}" if 1e-9 < abs(end) < 1e9 else "open" for end in curve.interval]
        out.print(f"profile likelihood of {curve.name}: 95 % from {ends[0]} to {ends[1]}", soft_wrap=True)


def _plain(told: Information, advice: list[Advice], profiles: list[Profile], sensors: list[str]) -> dict[str, Any]:
    def finite(value: float) -> float | None:
        return float(value) if abs(value) < 1e300 else None

    return {
        "sensors": sensors,
        "parameters": [
            {
                "name": name,
                "deviation_before": float(told.prior.deviation[k]),
                "deviation_after": float(told.deviation[k]),
                "deviation_were_others_known": finite(told.alone(k)),
                "information": float(told.fisher[k, k]),
            }
            for k, name in enumerate(told.names)
        ],
        "fisher": told.fisher.tolist(),
        "covariance_after": told.posterior_covariance.tolist(),
        "combinations": [
            {"left": one.kept, "in_words": one.words, "weights": one.weights.tolist()} for one in told.directions()
        ],
        "advice": [
            {"what": one.what, "kind": one.kind, "nats": one.gain, "deviation_after": one.deviation.tolist()}
            for one in advice
        ],
        "profiles": [
            {
                "name": one.name,
                "values": one.values.tolist(),
                "rise": one.rise.tolist(),
                "interval": [finite(end) for end in one.interval],
            }
            for one in profiles
        ],
    }


def _pairs(texts: list[str]) -> dict[str, str]:
    found = {}
    for text in texts:
        name, mark, place = text.partition("=")
        if not (name and mark and place):
            raise InputError(f'--at "{text}" is not SENSOR=PLACE, as in art=outlet_1.')
        found[name.strip()] = place.strip()
    return found


def _positive(option: str, text: str, unit: str) -> float:
    from surgical_twin.units import read_quantity

    value = read_quantity(text, unit, name=option)
    if value <= 0.0:
        raise InputError(f'{option} "{text}" must be positive.')
    return value


def _share(option: str, text: str) -> float:
    try:
        value = float(text.strip().removesuffix("%")) / (100.0 if text.strip().endswith("%") else 1.0)
    except ValueError:
        value = -1.0
    if not 0.0 <= value < 1.0:
        raise InputError(f'{option} "{text}" is no share; write it as "5 %".')
    return value
