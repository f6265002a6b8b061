"""Registrations in a case: limits from its manifest, a result file, a picture, and the one-line verdict.

Limits stand in ``case.toml``, in the patient's own terms, and may be changed there by hand::

    [registration.landmarks]
    check_mm = 2.0      # up to here all is well
    fail_mm = 5.0       # above, the registration is not to be used
"""

import json
import math
import os
import textwrap
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from registration.verdict import Limits, Verdict
from surgical_twin import __version__
from surgical_twin.case import Case, file_hash
from surgical_twin.errors import InputError

FOLDER = "registration"

DEFAULT_LIMITS = {
    "landmarks": Limits(2.0, 5.0),
    "surface": Limits(2.0, 5.0),
    "lumen": Limits(2.0, 5.0),
    "projection": Limits(2.0, 5.0),
    "angiogram": Limits(2.0, 5.0),
    "elastic": Limits(2.0, 5.0),
    "pivot": Limits(0.5, 1.5),
    "hand-eye": Limits(2.0, 8.0),
    "ultrasound": Limits(1.0, 2.5),
    "em-distortion": Limits(1.0, 3.0),
}
"""Largest 95 % error in mm: to check, to fail; 5 mm is what endovascular aortic repair accepts."""


def limits_of(case: Case, name: str) -> Limits:
    """The case's limits for one kind of registration, or the defaults.

    Raises:
        InputError: limits in the case that are no numbers, or in the wrong order.
    """
    default = DEFAULT_LIMITS.get(name, Limits(2.0, 5.0))
    try:
        table = case.manifest.get("registration", {}).get(name, {})
        return Limits(float(table.get("check_mm", default.check)), float(table.get("fail_mm", default.fail)))
    except (TypeError, ValueError, AttributeError) as error:
        raise InputError(f"{case.folder}/case.toml: limits of registration.{name} cannot be used ({error}).") from error


def keep_result(
    case: Case,
    name: str,
    verdict: Verdict,
    figures: Mapping[str, Any],
    draw: Callable[[Any], None] | None = None,
    *,
    read: Sequence[Path] = (),
    files: Mapping[str, Callable[[Path], object]] | None = None,
) -> tuple[Path, ...]:
    """Write ``registration/NAME.json``, ``NAME.png`` and what else belongs to a result into the case, all or none.

    Args:
        case: where to.
        name: of the registration.
        verdict: its judgement.
        figures: plain numbers, lists and arrays that say what was found; what is not finite is written as null.
        draw: draws on a matplotlib figure; no picture if not given.
        read: the files that it was made from; their hashes are written down.
        files: more files by their names, each with what writes it to a path.

    Returns:
        The files written, the result first.

    Raises:
        InputError: the case cannot be written to.
    """
    folder = case.folder / FOLDER
    content = {
        "registration": name,
        "verdict": verdict.level,
        "reason": verdict.reason,
        **{key: _plain(value) for key, value in figures.items()},
        "software": f"surgical-twin {__version__}",
        "read": {str(path): file_hash(path) for path in read if path.is_file()},
    }
    text = json.dumps(content, indent=1, allow_nan=False)
    writers: dict[str, Callable[[Path], object]] = {f"{name}.json": lambda path: path.write_text(text, "utf-8")}
    if draw is not None:
        writers[f"{name}.png"] = lambda path: _save_picture(path, draw, str(verdict))
    writers |= files or {}
    there = folder.is_dir()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{folder} cannot be written to ({error.strerror}); make it a folder of your own.") from error
    temporary = {folder / file: folder / f".{os.getpid()}.{file}" for file in writers}
    try:
        for part, write in zip(temporary.values(), writers.values(), strict=True):
            write(part)
        for final, part in temporary.items():
            part.replace(final)
    except BaseException as error:
        for part in temporary.values():
            part.unlink(missing_ok=True)
        if not there and not any(folder.iterdir()):
            folder.rmdir()
        if isinstance(error, OSError):
            raise InputError(
                f"{folder} cannot be written to ({error.strerror or error}); free space, or make it writable."
            ) from error
        raise
    return tuple(temporary)


def _save_picture(path: Path, draw: Callable[[Any], None], title: str) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure = plt.figure(figsize=(9, 4.5), dpi=120)
    try:
        draw(figure)
        figure.suptitle("\n".join(textwrap.wrap(title, 120)), fontsize=9)
        figure.savefig(path)
    finally:
        plt.close(figure)


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


def draw_pictures(rows: Sequence[Sequence[tuple[str, np.ndarray]]]) -> Callable[[Any], None]:
    """Gray pictures with their titles, in rows."""

    def draw(figure: Any) -> None:
        columns = max(len(row) for row in rows)
        for i, row in enumerate(rows):
            for j, (title, picture) in enumerate(row):
                axes = figure.add_subplot(len(rows), columns, i * columns + j + 1)
                axes.imshow(picture, cmap="gray")
                axes.set_title(title, fontsize=8)
                axes.set_axis_off()

    return draw


def draw_projected(
    pictures: Sequence[np.ndarray], lines: Sequence[np.ndarray], projected: Sequence[np.ndarray]
) -> Callable[[Any], None]:
    """X-ray pictures with the vessels' middle lines found in them, and points (n, 2) projected onto them."""

    def draw(figure: Any) -> None:
        for k, (picture, line, points) in enumerate(zip(pictures, lines, projected, strict=True)):
            axes = figure.add_subplot(1, len(pictures), k + 1)
            axes.imshow(picture, cmap="gray_r")
            rows, columns = np.nonzero(line)
            axes.plot(columns, rows, ".", markersize=1.5, color="tab:cyan", label="vessels seen")
            axes.plot(*np.asarray(points).T, ".", markersize=1.5, color="tab:red", label="centerline")
            axes.set_xlim(-0.5, picture.shape[1] - 0.5)
            axes.set_ylim(picture.shape[0] - 0.5, -0.5)
            axes.set_axis_off()
        axes.legend(fontsize=7, markerscale=5)

    return draw


def draw_curves(
    curves: Mapping[str, tuple[np.ndarray, np.ndarray]], across: str, up: str, *, dots: bool = False
) -> Callable[[Any], None]:
    """Curves by their names, in one pair of axes."""

    def draw(figure: Any) -> None:
        axes = figure.add_subplot(1, 1, 1)
        for label, (x, y) in curves.items():
            axes.plot(x, y, "o" if dots else "-", label=label, markersize=3, linewidth=0.9)
        axes.set_xlabel(across)
        axes.set_ylabel(up)
        if len(curves) > 1:
            axes.legend(fontsize=7)

    return draw


def standardized(values: np.ndarray) -> np.ndarray:
    """Values about their median in units of their spread, so that signals of different units share an axis."""
    middle = np.nanmedian(values)
    return np.asarray((values - middle) / max(float(np.nanpercentile(np.abs(values - middle), 95)), 1e-12))


def draw_misses(seen: np.ndarray, misses: np.ndarray, size: tuple[int, int]) -> Callable[[Any], None]:
    """Where in an image points were seen, and by how much they were missed, the arrows a hundred times too long."""

    def draw(figure: Any) -> None:
        axes = figure.add_subplot(1, 1, 1)
        axes.quiver(*seen.T, *misses.T, angles="xy", scale_units="xy", scale=0.01, width=0.0015, color="tab:red")
        axes.plot(*seen.T, ".", markersize=2)
        axes.set_xlim(0, size[0])
        axes.set_ylim(size[1], 0)
        axes.set_aspect("equal")
        axes.set_xlabel("u [px]; arrows: misses x 100")
        axes.set_ylabel("v [px]")

    return draw


def _plain(value: Any) -> Any:
    """What JSON can hold: lists for arrays, null for what is not finite."""
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    if isinstance(value, Mapping):
        return {str(key): _plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
