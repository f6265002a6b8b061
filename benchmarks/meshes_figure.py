"""One figure in the shape that every benchmark prints, and results kept so that a long run can be done in pieces."""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent


def figure(value: float | None, goal: str, unit: str, **more: object) -> dict[str, object]:
    """One figure with its goal; more is its ``why`` where it could not be measured."""
    return {"value": None if value is None else round(value, 4), "goal": goal, "unit": unit, **more}


def kept(folder: Path | None, name: str, work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """The result of ``work``: from the folder where it was kept by the same code, or made now and kept there."""
    if folder is None:
        return work()
    file = folder / CODE / f"{name}.json"
    if not file.is_file():
        file.parent.mkdir(parents=True, exist_ok=True)
        found = work()
        part = file.with_suffix(f".{os.getpid()}")
        part.write_text(json.dumps(found))
        part.replace(file)
    return dict(json.loads(file.read_text()))


def _code() -> str:
    """Which code measures, and is measured: a result of another is another result."""
    files = [*(ROOT / "meshes").glob("*.py"), *(ROOT / "surgical_twin").glob("plan*.py"), Path(sys.argv[0])]
    files += [ROOT / "benchmarks" / f"{name}.py" for name in ("analytic_vessels", "meshes_truth", "meshes_peers")]
    digest = hashlib.sha256()
    for file in sorted(files):
        digest.update(file.read_bytes())
    return digest.hexdigest()[:12]


CODE = _code()
