"""The verification and validation report: what every benchmark measured, against its goal.

    python tools/validation.py keep OUTPUT --note "two idle cores"    # a benchmark's output, into benchmarks/figures
    python tools/validation.py page                                   # docs/validation.md from what is kept

A benchmark's last line is one JSON object of figures; `keep` stores it with the day and what ran beside it. A figure
that a part of a benchmark measured replaces that figure alone, so that parts may be run one at a time.
"""

from __future__ import annotations

import argparse
import ast
import datetime
import json
import sys
from pathlib import Path
from typing import Any

from surgical_twin.case import write_atomically
from surgical_twin.errors import InputError
from surgical_twin.report import Figure

ROOT = Path(__file__).resolve().parents[1]
BENCHMARKS = ROOT / "benchmarks"
KEPT = BENCHMARKS / "figures"
PAGE = ROOT / "docs" / "validation.md"

NO_GOALS = (">= 0", "> 0")
"""What a figure that is only told of carries as its goal: any number reaches it."""

INTRODUCTION = """\
# Verification and validation report

What the benchmarks in `benchmarks/` measured, each figure against its goal. A goal was set before it was measured and
is never moved; one that is missed stands here as missed. Truth comes from outside the code under test: analytic
solutions, published values, other implementations, recordings, finer 3D runs. What each method assumes is in
[methods](methods.md).

A time is told as a ratio against a peer that ran beside it, or as processor time. This page is written by
`tools/validation.py` from `benchmarks/figures/`; to measure again, run the benchmark and keep its output:

```
.venv/bin/python benchmarks/meshes_accuracy.py | tee measured.txt
.venv/bin/python tools/validation.py keep measured.txt --note "two cores, nothing beside it"
.venv/bin/python tools/validation.py page
```
"""


def last_json(text: str) -> dict[str, Any]:
    """The figures that a benchmark printed as its last line.

    Raises:
        InputError: the last line is no such object.
    """
    lines = [line for line in text.splitlines() if line.strip()]
    try:
        found = json.loads(lines[-1])
        if not isinstance(found["benchmark"], str) or not isinstance(found["figures"], dict):
            raise TypeError("benchmark is a name and figures a table")
    except (IndexError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f'The last line is not {{"benchmark": NAME, "figures": {{...}}}} ({error}); give all that was printed.'
        ) from error
    if not (BENCHMARKS / f"{found['benchmark']}.py").is_file():
        raise InputError(f"There is no benchmarks/{found['benchmark']}.py.")
    return dict(found)


def keep(output: str, note: str, day: str) -> Path:
    """Store what a benchmark printed; figures that it did not measure this time stay what they were."""
    printed = last_json(output)
    path = KEPT / f"{printed['benchmark']}.json"
    kept = json.loads(path.read_text(encoding="utf-8"))["figures"] if path.is_file() else {}
    for name, one in printed["figures"].items():
        if one.get("value") is not None or name not in kept:
            kept[name] = {**one, "day": day, "note": note}
    KEPT.mkdir(exist_ok=True)
    stored = {"benchmark": printed["benchmark"], "figures": kept}
    write_atomically(path, json.dumps(stored, indent=1, sort_keys=True) + "\n")
    return path


def verdict(one: dict[str, Any]) -> str:
    """In words: reached, missed, not measured, or nothing where there is no goal."""
    if one.get("value") is None:
        return "not measured"
    goal = one.get("goal", "")
    if goal in NO_GOALS or goal.partition(" ")[0] not in ("<=", ">=", "==", "in"):
        return ""
    return "reached" if Figure(float(one["value"]), "", goal).reached else "**missed**"


def claim(name: str) -> str:
    """The first paragraph of a benchmark's docstring."""
    source = (BENCHMARKS / f"{name}.py").read_text(encoding="utf-8")
    said = (ast.get_docstring(ast.parse(source)) or "").partition("\n\n")[0]
    return " ".join(said.split())


def _number(value: Any) -> str:
    return "-" if value is None else str(value) if isinstance(value, bool) else f"{float(value):.4g}"


def section(kept: dict[str, Any]) -> str:
    """One benchmark's table."""
    lines = [
        f"## {kept['benchmark']}",
        "",
        claim(kept["benchmark"]),
        "",
        "| figure | value | goal | |",
        "|---|---|---|---|",
    ]
    conditions: dict[str, list[str]] = {}
    for name, one in sorted(kept["figures"].items()):
        goal = one.get("goal", "")
        if goal.startswith("in "):
            goal = goal.removeprefix("in ").replace(" ", " to ")
        unit = f" {one['unit']}" if one.get("unit") and one.get("value") is not None else ""
        words = verdict(one) + (f": {one['why']}" if one.get("value") is None and one.get("why") else "")
        lines.append(f"| {name.replace('_', ' ')} | {_number(one.get('value'))}{unit} | {goal} | {words} |")
        conditions.setdefault(f"{one['day']}, {one['note']}", []).append(name)
    lines += ["", "Measured: " + "; ".join(sorted(conditions)) + ".", ""]
    return "\n".join(lines)


def page() -> str:
    """The whole report."""
    every = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(KEPT.glob("*.json"))]
    verdicts = [verdict(one) for kept in every for one in kept["figures"].values()]
    unmeasured = sorted(
        path.stem for path in BENCHMARKS.glob("*.py")
        if '"benchmark"' in path.read_text(encoding="utf-8") and not (KEPT / path.with_suffix(".json").name).is_file()
    )  # fmt: skip
    reached, missed, open_ = (verdicts.count(words) for words in ("reached", "**missed**", "not measured"))
    summary = (
        f"Of {len(verdicts)} figures {reached} reach their goal, {missed} miss it, {open_} are not measured, and "
        f"{verdicts.count('')} have none."
    )
    if unmeasured:
        summary += " Nothing is kept yet of " + ", ".join(f"`{name}`" for name in unmeasured) + "."
    return "\n".join([INTRODUCTION, summary, "", *(section(kept) for kept in every)]).rstrip() + "\n"


def main() -> int:
    """Keep figures, or write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    keeping = commands.add_parser("keep", help="store a benchmark's output")
    keeping.add_argument("output", type=Path)
    keeping.add_argument("--note", required=True, help="what the machine was, and what ran beside it")
    commands.add_parser("page", help="write docs/validation.md")
    options = parser.parse_args()
    try:
        if options.command == "keep":
            keep(options.output.read_text(encoding="utf-8"), options.note, datetime.date.today().isoformat())
        else:
            write_atomically(PAGE, page())
    except (InputError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
