"""Registrations in a case: limits from its manifest, a result file, a picture, and the one-line verdict.

Limits stand in ``case.toml``, in the patient's own terms, and may be changed there by hand::

    [registration.landmarks]
    check_mm = 2.0      # up to here all is well
    fail_mm = 5.0       # above, the registration is not to be used
"""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from registration.verdict import Limits, Verdict
from surgical_twin.case import Case, write_atomically
from surgical_twin.errors import InputError

FOLDER = "registration"

DEFAULT_LIMITS = {
    "landmarks": Limits(2.0, 5.0),
    "surface": Limits(2.0, 5.0),
    "lumen": Limits(2.0, 5.0),
    "pivot": Limits(0.5, 1.5),
}
"""Largest 95 % error in mm: to check, to fail; 5 mm is what endovascular aortic repair accepts."""


def limits_of(case: Case | None, name: str) -> Limits:
    """The case's limits for one kind of registration, or the defaults.

    Raises:
        InputError: limits in the case that are no numbers, or in the wrong order.
    """
    default = DEFAULT_LIMITS.get(name, Limits(2.0, 5.0))
    if case is None:
        return default
    table = case.manifest.get("registration", {}).get(name, {})
    try:
        return Limits(float(table.get("check_mm", default.check)), float(table.get("fail_mm", default.fail)))
    except (TypeError, ValueError) as error:
        raise InputError(f"{case.folder}/case.toml: limits of registration.{name} cannot be used ({error}).") from error


def keep_result(
    case: Case, name: str, verdict: Verdict, figures: Mapping[str, Any], draw: Callable[[Any], None] | None = None
) -> tuple[Path, Path | None]:
    """Write ``registration/NAME.json`` and ``NAME.png`` into the case, each whole or not at all.

    Args:
        case: where to.
        name: of the registration.
        verdict: its judgement.
        figures: plain numbers, lists and arrays that say what was found.
        draw: draws on a matplotlib figure; no picture if not given.
    """
    folder = case.folder / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.json"
    content = {"registration": name, "verdict": verdict.level, "reason": verdict.reason, **figures}
    write_atomically(path, json.dumps(content, indent=1, default=_plain))
    picture = None
    if draw is not None:
        import matplotlib

        matplotlib.use("Agg")
        import matplotlib.pyplot as plt

        figure = plt.figure(figsize=(9, 4.5), dpi=120)
        draw(figure)
        figure.suptitle(str(verdict), fontsize=9, wrap=True)
        picture = folder / f"{name}.png"
        temporary = folder / f".{name}.part.png"
        figure.savefig(temporary)
        plt.close(figure)
        temporary.replace(picture)
    return path, picture


def draw_points(source: np.ndarray, target: np.ndarray, names: tuple[str, ...] = ()) -> Callable[[Any], None]:
    """Mapped source points and target points seen along the three axes, with lines from each to its partner."""

    def draw(figure: Any) -> None:
        for k, (a, b) in enumerate(((0, 1), (0, 2), (1, 2))):
            axes = figure.add_subplot(1, 3, k + 1)
            axes.scatter(target[:, a], target[:, b], s=14, label="target", color="tab:blue")
            axes.scatter(source[:, a], source[:, b], s=10, label="mapped", color="tab:red", marker="x")
            if len(source) == len(target):
                axes.plot(
                    np.stack([source[:, a], target[:, a]]), np.stack([source[:, b], target[:, b]]), color="0.5", lw=0.7
                )
            for name, point in zip(names, target, strict=False):
                axes.annotate(name, (point[a], point[b]), fontsize=7)
            axes.set_xlabel(f"{'xyz'[a]} [mm]")
            axes.set_ylabel(f"{'xyz'[b]} [mm]")
            axes.set_aspect("equal", adjustable="datalim")
        axes.legend(fontsize=7)

    return draw


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"{type(value).__name__} cannot be written as JSON")
