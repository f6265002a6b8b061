"""What would happen if: the command that asks the reduced model."""

import json
import tomllib
from functools import partial
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from surgical_twin.commands.console import CaseFolder, err, out, progress_bar
from surgical_twin.errors import InputError

Many = list[str] | None


def what_if(
    case: CaseFolder,
    clamp: Annotated[Many, typer.Option(help="VESSEL or VESSEL=SHARE of its area: outlet_1, branch_2=70%.")] = None,
    stent: Annotated[
        Many, typer.Option(help="stenosis_N or stenosis_N=RESIDUAL of its diameter: stenosis_1=10%.")
    ] = None,
    device: Annotated[
        Many,
        typer.Option(help='VESSEL=DIAMETER[@FROM-TO mm] of a catheter or sheath: outlet_1=6F, "outlet_1=6F@10-40 mm".'),
    ] = None,
    svr: Annotated[Many, typer.Option(help="Change of all beds' resistance: +20%.")] = None,
    resistance: Annotated[Many, typer.Option(help="VESSEL=CHANGE of one bed's resistance: outlet_1=-30%.")] = None,
    inflow: Annotated[Many, typer.Option(help="Change of the inflow or a flow: -15%, 0.6 L/min.")] = None,
    heart_rate: Annotated[Many, typer.Option(help="Change or a rate: +20%, 90 1/min.")] = None,
    drug: Annotated[Many, typer.Option(help='NAME=DOSE[@TIME]: "phenylephrine=100 ug@60 s".')] = None,
    blood_loss: Annotated[Many, typer.Option(help='Volume: "500 mL".')] = None,
    drugs: Annotated[Path | None, typer.Option(help="TOML file with your own drugs.")] = None,
    alternatives: Annotated[Path | None, typer.Option(help="TOML file with several alternatives to rank.")] = None,
    hold: Annotated[
        str, typer.Option(help="What the inlet keeps: flow, pressure, or auto: flow in the aorta, else pressure.")
    ] = "auto",
    after: Annotated[Path | None, typer.Option("--after", help="Ask the patient that this recording has left.")] = None,
    solve: Annotated[
        bool, typer.Option("--solve", help="Solve the changed situation in 3D as well: minutes; kept in the case.")
    ] = False,
    png: Annotated[Path | None, typer.Option(help="Write before and after side by side.")] = None,
    report: Annotated[Path | None, typer.Option("--json", help="Write all quantities to this JSON file.")] = None,
) -> None:
    """Say what clamping, stenting, a drug or a loss of blood would do to pressure and flow, with 95 % intervals."""
    from surgical_twin.case import Case, write_atomically
    from surgical_twin.prediction.circulation import usual_source
    from surgical_twin.prediction.interventions import Intervention
    from surgical_twin.prediction.pharmacology import read_drugs
    from surgical_twin.prediction.picture import draw_comparison
    from surgical_twin.prediction.reading import Reader
    from surgical_twin.prediction.recompute import recomputable, recompute
    from surgical_twin.prediction.what_if import Comparison, rank

    asked = {
        "clamp": clamp,
        "stent": stent,
        "device": device,
        "svr": svr,
        "resistance": resistance,
        "inflow": inflow,
        "heart-rate": heart_rate,
        "drug": drug,
        "blood-loss": blood_loss,
    }
    if hold not in ("auto", "flow", "pressure"):
        raise InputError(f'--hold "{hold}" is none of auto, flow and pressure.')
    opened = Case.open(case)
    with err.status("asking the reduced model"):
        predictor = _predictor(opened, after)
        source = usual_source(predictor.planned_inflow) if hold == "auto" else hold
        reader = Reader(predictor.situation, read_drugs(drugs), predictor.planned_inflow)

        interventions: dict[str, list[Intervention]] = {}

        def compare(wishes: dict[str, list[str]], name: str = "") -> Comparison:
            chosen = [reader.read(kind, text) for kind, texts in wishes.items() for text in texts]
            if solve:
                recomputable(chosen)
            interventions[name] = chosen
            return predictor.compare(chosen, source=source)

        if alternatives is None:
            compared = {"": compare({kind: texts for kind, texts in asked.items() if texts})}
        else:
            if any(asked.values()):
                raise InputError("Give interventions as options or in --alternatives FILE, not both.")
            compared = {name: compare(wishes, name) for name, wishes in read_alternatives(alternatives).items()}
    for name, comparison in compared.items():
        out.print(_table(name, comparison))
        for note in comparison.notes:
            out.print(f"[bold yellow]{note}[/]")
    if alternatives is not None:
        ranking = Table("rank", "alternative", "utility", title="alternatives, best first")
        for place, (name, utility) in enumerate(rank(compared), start=1):
            ranking.add_row(str(place), name, f"{utility:.3f}")
        out.print(ranking)
    if report is not None:
        write_atomically(report, json.dumps({name: one.as_plain() for name, one in compared.items()}, indent=1))
    for name, comparison in compared.items() if solve else ():
        with progress_bar() as progress:
            task = progress.add_task(f"3D {name}".strip(), total=1.0)
            answer = recompute(opened, comparison.situation, interventions[name], partial(_advance, progress, task))
        out.print(_recomputed_table(name, comparison, answer, predictor.model.port_names))
    if png is not None:
        name, _ = rank(compared)[0]
        draw_comparison(opened, predictor, compared[name], png)
        out.print(f"{png} written", soft_wrap=True)


def _predictor(case: "Case", recording: Path | None) -> "Predictor":  # type: ignore[name-defined]  # noqa: F821
    from surgical_twin.prediction.what_if import Predictor
    from surgical_twin.replay import open_recording
    from surgical_twin.scoring import fold
    from surgical_twin.session_model import SessionModel

    if recording is None:
        return Predictor(case, SessionModel.load(case))
    opened, model = open_recording(recording, case.folder)
    state, _ = fold(model, opened.events)
    if state.ensemble is None:
        raise InputError(f"{recording} holds no session that had started; leave --after out to ask the plan.")
    return Predictor(case, model, state.ensemble)


def read_alternatives(path: Path) -> dict[str, dict[str, list[str]]]:
    """Read a TOML file with one table an alternative, the options as its keys: ``[stent] stent = ["stenosis_1"]``.

    Raises:
        InputError: the file cannot be read or holds something else.
    """
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}); check the path.") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is no valid TOML: {error}; mend that line.") from error
    found: dict[str, dict[str, list[str]]] = {}
    for name, wishes in content.items():
        if not isinstance(wishes, dict) or not wishes:
            raise InputError(f'{path}: "{name}" is no alternative; write a table with interventions, as [{name}].')
        found[name] = {}
        for kind, texts in wishes.items():
            values = texts if isinstance(texts, list) else [texts]
            if not all(isinstance(value, str) for value in values):
                raise InputError(f'{path}: "{name}.{kind}" must be a text or a list of texts.')
            found[name][kind] = values
    if not found:
        raise InputError(f"{path} names no alternative.")
    return found


def _table(name: str, comparison: "Comparison") -> Table:  # type: ignore[name-defined]  # noqa: F821
    title = ", ".join(comparison.interventions) + f" (the inlet keeps its {comparison.source})"
    table = Table("quantity", "before", "after", "change", title=f"{name}: {title}" if name else title)
    for quantity, values in comparison.quantities.items():
        table.add_row(quantity, *(_interval(one) for one in (values.before, values.after, values.change)))
    return table


def _advance(progress: "Progress", task: "TaskID", share: float) -> None:  # type: ignore[name-defined]  # noqa: F821
    progress.update(task, completed=share)


def _recomputed_table(
    name: str,
    comparison: "Comparison",  # type: ignore[name-defined]  # noqa: F821
    answer: "Recomputed",  # type: ignore[name-defined]  # noqa: F821
    ports: tuple[str, ...],
) -> Table:
    title = "what 3D says of the mean patient, beside the estimate"
    table = Table("quantity", "estimate", "3D", "inside", title=f"{name}: {title}" if name else title)
    for index, port in enumerate(ports):
        for label, value in (
            (f"mean pressure {port} [mmHg]", answer.mean_pressure_mmhg[index]),
            (f"mean flow {port} [mL/min]", answer.mean_flow_ml_min[index]),
        ):
            said = comparison.quantities[label].after
            inside = "yes" if said.lower <= value <= said.upper else "[bold red]no[/]"
            table.add_row(label, _interval(said), f"{value:.1f}", inside)
    return table


def _interval(estimate: "Estimate") -> str:  # type: ignore[name-defined]  # noqa: F821
    half = 0.5 * (estimate.upper - estimate.lower)
    digits = 0 if half >= 20 else 1 if half >= 0.2 else 3
    return f"{estimate.value:.{digits}f} [{estimate.lower:.{digits}f}, {estimate.upper:.{digits}f}]"
