"""A centerline that a person brings: from VMTK, SimVascular or 3D Slicer, followed where it goes.

Its lines may each run from the inlet to an outlet, as VMTK writes them, with shared parts once to a line, or from
junction to junction. What a line shares with those before it is found by distance, and the rest becomes a branch. The
geometry is left as it is but for even spacing; radii are measured in the lumen, not taken from the file.
"""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyvista as pv
import SimpleITK as sitk
from scipy.spatial import cKDTree

from meshes.centerline import Centerline, Line
from meshes.errors import InputError
from meshes.grid import Array, Grid
from meshes.level_set import wall_surface
from meshes.lines import resampled_line
from meshes.lumen_graph import CAP_DEPTH
from meshes.surfaces import MM_PER, Unit

SHARED_RADII = 0.35
"""Points of a line nearer than this many radii to a line before it are the same vessel's."""

LEAST_INSIDE = 0.9
"""At least this part of the centerline has to lie in the lumen."""

SPUR_RADII = 1.0
"""What a line has of its own has to be longer than this many radii."""


def read_own_centerline(
    path: Path,
    level_set: sitk.Image,
    *,
    inlet_near: tuple[float, float, float] | None = None,
    unit: Unit | None = None,
) -> Centerline:
    """Read a centerline and fit it into a lumen.

    Args:
        path: VTP or VTK with polylines, or a curve of 3D Slicer (``.mrk.json``); mm, LPS or RAS, whichever lies in the
            lumen.
        level_set: signed distance to the lumen's wall, mm, negative inside.
        inlet_near: the end nearest to this point (mm, LPS) is the inlet; where None, the end at which most lines begin,
            and of two such the wider.
        unit: of the file's lengths; mm where None.

    Raises:
        InputError: it cannot be read, holds no line of several points, or does not lie in the lumen.
    """
    lines = _slicer_curves(path) if path.name.lower().endswith(".json") else _poly_lines(path)
    lines = [line for line in lines if len(line) > 1 and np.linalg.norm(np.diff(line, axis=0), axis=1).sum() > 0]
    if not lines:
        raise InputError(f"{path} holds no line of two points or more; give a centerline of polylines.")
    field = Grid.of(level_set)
    lines, frame, inside = _placed([line * MM_PER[unit or "mm"] for line in lines], field, path)
    step = 0.75 * float(field.spacing.max())
    lines = [resampled_line(line, step) for line in lines]
    wall = cKDTree(np.asarray(wall_surface(field).points, dtype=float))
    chains, parents = _chains(_from_inlet(lines, wall, inlet_near), wall, step)
    chains = [_without_caps(chain, wall, number == 0) for number, chain in enumerate(chains)]
    return _tree(chains, parents, wall, (
        f"The centerline is the one given ({len(lines)} lines, {frame}, {100 * inside:.0f} % of it in the "
        "lumen); none is "
        f"looked for.",
    ))  # fmt: skip


def _poly_lines(path: Path) -> list[Array]:
    if not path.is_file():
        raise InputError(f"{path} does not exist; give a centerline (VTP, VTK, or .mrk.json of 3D Slicer).")
    try:
        data = pv.read(path)
    except Exception as error:  # VTK's readers raise errors of many kinds
        raise InputError(f"{path} cannot be read as a centerline ({error}).") from error
    if not isinstance(data, pv.PolyData) or len(data.lines) == 0:
        raise InputError(f"{path} holds no lines; give a centerline of polylines.")
    points, cells, found, place = np.asarray(data.points, dtype=float), np.asarray(data.lines), [], 0
    while place < len(cells):
        count = int(cells[place])
        found.append(cells[place + 1 : place + 1 + count])
        place += count + 1
    return [points[ids] for ids in _joined(found)]


def _joined(cells: list[np.typing.NDArray[np.int64]]) -> list[np.typing.NDArray[np.int64]]:
    """Lines of two points each (as SimVascular writes) joined at points that belong to two of them."""
    if not cells or max(len(ids) for ids in cells) > 2:
        return cells
    links: dict[int, list[int]] = {}
    for a, b in ((int(ids[0]), int(ids[-1])) for ids in cells if len(ids) == 2):
        links.setdefault(a, []).append(b)
        links.setdefault(b, []).append(a)
    used: set[tuple[int, int]] = set()
    chains = []
    for begin in sorted(links, key=lambda point: len(links[point]) == 2):
        for following in links[begin]:
            if (begin, following) in used or len(links[begin]) == 2:
                continue
            chain = [begin, following]
            while len(links[chain[-1]]) == 2 and chain[-1] != begin:
                chain.append(next(point for point in links[chain[-1]] if point != chain[-2]))
            for a, b in pairwise(chain):
                used |= {(a, b), (b, a)}
            chains.append(np.array(chain, dtype=np.int64))
    return chains


def _slicer_curves(path: Path) -> list[Array]:
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
        lines = []
        for markup in stored["markups"]:
            points = np.array([point["position"] for point in markup["controlPoints"]], dtype=float).reshape(-1, 3)
            flip = [-1.0, -1.0, 1.0] if markup.get("coordinateSystem", "LPS") in ("RAS", "0") else [1.0, 1.0, 1.0]
            lines.append(points * flip)
        return lines
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}); check the path.") from error
    except (KeyError, ValueError, TypeError) as error:
        raise InputError(f"{path} is no curve of 3D Slicer ({error}); save the centerline again.") from error


def _placed(lines: list[Array], field: Grid, path: Path) -> tuple[list[Array], str, float]:
    """The lines in LPS, the frame that they were in, and which part of them is in the lumen."""
    everything = np.concatenate(lines)
    if not np.isfinite(everything).all():
        raise InputError(f"{path} has points that are not finite; save the centerline again.")
    shares = {
        frame: float((field.sample(everything * flip, outside=1.0) < 0).mean())
        for frame, flip in (("LPS", [1.0, 1.0, 1.0]), ("RAS", [-1.0, -1.0, 1.0]))
    }
    frame = max(shares, key=lambda name: (shares[name], name == "LPS"))
    if shares[frame] < LEAST_INSIDE:
        raise InputError(
            f"{path} does not lie in the lumen: {100 * shares['LPS']:.0f} % of its points are inside in LPS, "
            f"{100 * shares['RAS']:.0f} % in RAS; is it of this patient, and in mm?"
        )
    flip = np.array([1.0, 1.0, 1.0] if frame == "LPS" else [-1.0, -1.0, 1.0])
    return [line * flip for line in lines], frame, shares[frame]


def _from_inlet(lines: list[Array], wall: cKDTree, near: tuple[float, float, float] | None) -> list[Array]:
    """The lines in an order and direction such that each begins where one before it passes; the inlet first."""
    ends = np.array([end for line in lines for end in (line[0], line[-1])])
    if near is not None:
        inlet = ends[int(np.argmin(np.linalg.norm(ends - np.array(near), axis=1)))]
    else:
        # At the very end a line may touch the cap: the vessel is as wide as along the quarter behind.
        quarters = [part for line in lines for part in (line[: len(line) // 4 + 1], line[-(len(line) // 4 + 1) :])]
        radius = np.array([float(np.median(wall.query(part)[0])) for part in quarters])
        apart = np.linalg.norm(ends[:, None] - ends[None], axis=2)
        begins = (apart[:, ::2] < radius[:, None]).sum(axis=1)
        alone = (apart < radius[:, None]).sum(axis=1)
        # Lines from an inlet all begin there; lines between junctions end alone, and the widest end is the inlet.
        together = (begins == len(lines)) & _run_alike(lines, float(radius.max()))
        free = together if together.any() else alone == 1
        inlet = ends[int(np.argmax(np.where(free, radius, -1.0)))]
    waiting, ordered = list(lines), []
    reached = inlet[None]
    while waiting:
        tree = cKDTree(reached)
        away = [(min(tree.query(line[0])[0], tree.query(line[-1])[0]), number) for number, line in enumerate(waiting)]
        line = waiting.pop(min(away)[1])
        line = line if tree.query(line[0])[0] <= tree.query(line[-1])[0] else line[::-1]
        ordered.append(line)
        reached = np.concatenate([reached, line])
    return ordered


def _run_alike(lines: list[Array], reach: float) -> bool:
    """Whether lines set out in the same direction, as those that share a trunk do, and not those from a junction."""
    headings = []
    for line in lines:
        away = np.linalg.norm(line - line[0], axis=1)
        far = np.flatnonzero(away >= reach)
        heading = line[int(far[0]) if len(far) else len(line) - 1] - line[0]
        headings.append(heading / max(float(np.linalg.norm(heading)), 1e-12))
    cosines = np.array(headings) @ np.array(headings).T
    return bool(cosines.min() > 0.5)


def _chains(lines: list[Array], wall: cKDTree, step: float) -> tuple[list[Array], list[tuple[int, int] | None]]:
    """What each line has of its own, and where it leaves which: (number of the chain, its point)."""
    chains, leaves = [lines[0]], [None]  # type: list[Array], list[tuple[int, int] | None]
    for line in lines[1:]:
        points = np.concatenate(chains)
        owner = np.concatenate([np.full(len(chain), number) for number, chain in enumerate(chains)])
        place = np.concatenate([np.arange(len(chain)) for chain in chains])
        away, nearest = cKDTree(points).query(line)
        radius = wall.query(line)[0]
        shared = away < np.maximum(SHARED_RADII * radius, step)
        last = int(np.flatnonzero(shared)[-1]) if shared.any() else 0
        own = line[last:]
        length = float(np.linalg.norm(np.diff(own, axis=0), axis=1).sum()) if len(own) > 1 else 0.0
        if len(own) < 3 or length < SPUR_RADII * float(np.median(radius[last:])):
            continue
        at = int(nearest[last])
        chains.append(np.concatenate([points[at][None], own[1:]]))
        leaves.append((int(owner[at]), int(place[at])))
    return chains, leaves


def _without_caps(chain: Array, wall: cKDTree, from_start: bool) -> Array:
    """A chain without the points at its free ends whose distance to the wall is that to the vessel's cap.

    The inlet's end keeps its number of points: where other chains leave is counted from it.
    """
    radius = wall.query(chain)[0]
    longest = len(chain) // 4

    def cap(widths: Array) -> int:
        behind = float(np.median(widths[: 2 * longest + 1]))
        full = np.flatnonzero(widths >= CAP_DEPTH * behind)
        return min(int(full[0]) if len(full) else 0, longest)

    chain = chain[: len(chain) - cap(radius[::-1])]
    if from_start and cap(radius):
        # The points are drawn together beyond the cap.
        first = cap(radius)
        count = len(chain)
        places = np.interp(np.arange(count), [0, 2 * first, count - 1], [first, 2 * first, count - 1])
        chain = np.column_stack([np.interp(places, np.arange(count), chain[:, axis]) for axis in range(3)])
    return chain


def _tree(
    chains: list[Array], leaves: list[tuple[int, int] | None], wall: cKDTree, notes: tuple[str, ...]
) -> Centerline:
    """Branches between junctions."""
    lines: list[Line] = []
    # Of every chain its parts, as (first point, branch): so that a leaving chain finds its parent.
    parts: dict[int, list[tuple[int, int]]] = {}
    for number, (chain, leave) in enumerate(zip(chains, leaves, strict=True)):
        cuts = sorted({other[1] for other in leaves if other is not None and other[0] == number})
        cuts = [cut for cut in cuts if 1 < cut < len(chain) - 2]
        parent = None
        if leave is not None:
            before = [entry for entry in parts[leave[0]] if entry[0] < leave[1] or entry[0] == 0]
            parent = max(before, default=(0, 0))[1]
        parts[number] = []
        for begin, end in zip([0, *cuts], [*cuts, len(chain) - 1], strict=True):
            line = chain[begin : end + 1]
            parts[number].append((begin, len(lines)))
            lines.append(Line(line, wall.query(line)[0], parent))
            parent = len(lines) - 1
    return Centerline.of_lines(lines, notes)
