"""Reports on a plan and a procedure: a table on the terminal, ``report.json``, and ``report.html`` with pictures."""

import base64
import html
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from surgical_twin.case import Case, write_atomically
from surgical_twin.replay import ReplayReport
from surgical_twin.scoring import Score


@dataclass(frozen=True)
class Figure:
    """One measured figure; ``goal`` reads "<= 4", ">= 0.96", "in 0.93 0.97" or "== 0", or is empty where there is
    none."""

    value: float | None
    unit: str
    goal: str = ""
    why: str = ""
    """Why there is no value."""

    @property
    def reached(self) -> bool | None:
        """Whether the goal is reached; None where there is no goal."""
        if not self.goal:
            return None
        if self.value is None:
            return False
        relation, *numbers = self.goal.split()
        bounds = [float(number) for number in numbers]
        match relation:
            case "<=":
                return self.value <= bounds[0]
            case ">=":
                return self.value >= bounds[0]
            case "==":
                return self.value == bounds[0]
            case "in":
                return bounds[0] <= self.value <= bounds[1]
        raise ValueError(f"A goal cannot read {self.goal!r}.")

    def as_json(self) -> dict[str, Any]:
        """The shape that every benchmark of the project prints."""
        fields: dict[str, Any] = {"value": self.value, "unit": self.unit}
        if self.goal:
            fields["goal"] = self.goal
        if self.value is None:
            fields["why"] = self.why
        return fields


def case_figures(case: Case) -> dict[str, Figure]:
    """What a plan measured of itself: its mesh, its 3D runs, its reduced model."""
    mesh, reduced = case.step("mesh")["figures"], case.step("reduced")["figures"]
    figures = {
        "tetrahedra": Figure(mesh["tetrahedra"], ""),
        "mesh_min_scaled_jacobian": Figure(mesh["min_scaled_jacobian"], ""),
        "mesh_mean_scaled_jacobian": Figure(mesh["mean_scaled_jacobian"], ""),
        "lumen_radius_over_healthy_at_stenosis": Figure(mesh["narrowing"], "ratio"),
    }
    for name, value in case.step("runs")["figures"]["training_1"].items():
        if isinstance(value, int | float):
            figures[f"solve_{name}"] = Figure(value, "")
    for name in ("port_pressure_rms", "port_flow_rms", "pressure_error", "velocity_error"):
        figures[f"reduced_{name}"] = Figure(100 * reduced[name], "% of range")
    return figures


def procedure_figures(score: Score, replay: ReplayReport) -> dict[str, Figure]:
    """How well the twin did in a procedure on a simulated patient, with the goals it has to reach."""
    figures = {
        "fre": Figure(score.fre_mm, "mm"),
        "tre_predicted": Figure(score.predicted_tre_mm, "mm"),
        "tre_true": Figure(score.true_tre_mm, "mm", "<= 2"),
        "tip_pressure_error_before": Figure(score.before.rms, "mmHg RMS"),
        "tip_pressure_error_after": Figure(score.after.rms, "mmHg RMS", "<= 3"),
        "tip_pressure_coverage_before": Figure(100 * score.before.coverage, "% in 95 % interval"),
        "tip_pressure_coverage_after": Figure(100 * score.after.coverage, "% in 95 % interval", ">= 90"),
        "tip_pressure_interval_after": Figure(score.after.mean_width, "mmHg, mean width of the 95 % interval"),
        "ahead_predicted": Figure(score.ahead.predicted_mmhg, "mmHg"),
        "ahead_lower": Figure(score.ahead.lower_mmhg, "mmHg"),
        "ahead_upper": Figure(score.ahead.upper_mmhg, "mmHg"),
        "ahead_measured": Figure(score.ahead.measured_mmhg, "mmHg"),
        "ahead_truth": Figure(score.ahead.truth_mmhg, "mmHg"),
        "ahead_inside_interval": Figure(float(score.ahead.inside), "", "== 1"),
        "messages_received": Figure(score.counters.get("received", 0), ""),
        "messages_lost": Figure(score.counters.get("lost", 0), ""),
        "replayed_states": Figure(replay.states, ""),
        "replay_identical": Figure(float(replay.identical), "", "== 1"),
    }
    for name, (truth, value, lower, upper) in score.parameter_errors.items():
        figures[f"truth.{name}"] = Figure(truth, "x plan")
        figures[f"estimate.{name}"] = Figure(value, "x plan")
        figures[f"inside.{name}"] = Figure(float(lower <= truth <= upper), "")
    return figures


def latency_figures(live: Mapping[str, Any]) -> dict[str, Figure]:
    """From a message's arrival at the socket to the first published state that had taken it, as ``live`` reports."""
    return {
        "latency_median": Figure(live["latency_median_ms"], "ms", why="no message arrived"),
        "latency_p99": Figure(live["latency_p99_ms"], "ms", "<= 20", why="no message arrived"),
    }


def write_report(
    title: str, figures: Mapping[str, Figure], pictures: Mapping[str, Path], folder: Path, console: Console
) -> int:
    """Print the table and write ``report.json`` and ``report.html``.

    Args:
        title: what was reported on; the benchmark's name in the JSON.
        figures: in the order of the report.
        pictures: caption to file, in the order of the report.
        folder: where both are written.
        console: where the table is printed.

    Returns:
        0, or 1 where a goal was missed.
    """
    content = {"benchmark": title, "figures": {name: figure.as_json() for name, figure in figures.items()}}
    write_atomically(folder / "report.json", json.dumps(content, indent=1))
    write_atomically(folder / "report.html", _page(title, figures, pictures))
    table = Table("figure", "value", "unit", "goal", "", title=title)
    for name, figure in figures.items():
        mark = {None: "", True: "[green]reached[/]", False: "[bold red]MISSED[/]"}[figure.reached]
        table.add_row(name.replace("_", " "), _number(figure.value), figure.unit, figure.goal, mark)
    console.print(table)
    console.print(f"Report with pictures: {folder / 'report.html'}", soft_wrap=True)
    return 1 if any(figure.reached is False for figure in figures.values()) else 0


def _number(value: float | None) -> str:
    if value is None:
        return "not measured"
    return f"{value:.0f}" if float(value).is_integer() else f"{value:.4g}"


_STYLE = """
body { background: #14171c; color: #e6e6e6; font: 16px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 72rem;
padding: 0 1rem }
h1, h2 { font-weight: 600 } table { border-collapse: collapse } td, th { padding: .25rem 1rem; text-align: left;
border-bottom: 1px solid #333 }
td.number { text-align: right; font-variant-numeric: tabular-nums } .reached { color: #7fd1ae } .missed { color:
#ffb000; font-weight: 700 }
img { max-width: 100%; border: 1px solid #333 } figure { margin: 2rem 0 } figcaption { color: #aaa }
"""


def _page(title: str, figures: Mapping[str, Figure], pictures: Mapping[str, Path]) -> str:
    """The HTML report with its pictures inside, so that it is one file."""
    rows = []
    for name, figure in figures.items():
        mark = {None: "", True: '<span class="reached">reached</span>', False: '<span class="missed">missed</span>'}
        rows.append(
            f'<tr><td>{html.escape(name.replace("_", " "))}</td><td class="number">{_number(figure.value)}</td>'
            f"<td>{html.escape(figure.unit)}</td><td>{html.escape(figure.goal)}</td><td>{mark[figure.reached]}</td></tr>"
        )
    shown = []
    for caption, path in pictures.items():
        data = base64.b64encode(path.read_bytes()).decode()
        text = html.escape(caption)
        shown.append(
            f'<figure><img alt="{text}" src="data:image/png;base64,{data}"><figcaption>{text}</figcaption></figure>'
        )
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>surgical-twin: {html.escape(title)}</title>'
        f"<style>{_STYLE}</style>"
        f"<h1>surgical-twin: {html.escape(title)}</h1>"
        "<p>A procedure on a simulated patient. Research software; no medical device.</p>"
        f"{''.join(shown)}<h2>Figures</h2><table><tr><th>figure</th><th>value</th><th>unit</th><th>goal</th><th></th></tr>"
        f"{''.join(rows)}</table></html>"
    )
