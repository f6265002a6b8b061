"""Other names for a planned case's ports, in every file that holds them, without solving anything again."""

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyvista as pv

from meshes.files import read_centerline, read_lumen_mesh, write_centerline, write_lumen_mesh
from surgical_twin.case import BRANCHES, CENTERLINE, MESH, REDUCED, SURFACE, Case, file_hash, read_table, write_table
from surgical_twin.errors import InputError

NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,39}")
"""What a port may be called: a word that a command line takes as it stands."""

RUNS = "runs/*.npz"


def rename_port(case: Case, old: str, new: str) -> None:
    """Call a port otherwise from now on: in mesh, centerline, surface, tables, flow model, 3D runs and manifest.

    What the manifest knows of these files is brought up to date, so that no step is done again for a name. A
    recording that was made before belongs to the case with its old names.

    Raises:
        InputError: no such port, a name that is taken or cannot be one, or a plan that is not finished.
    """
    if not case.step("reduced"):
        raise InputError(f"The planning of {case.folder} is not finished; name its ports when it is.")
    names = [port.name for port in read_lumen_mesh(case.require(MESH)).ports]
    if old not in names:
        raise InputError(f"The case has no port {old}; its ports are {', '.join(names)}.")
    if not NAME.fullmatch(new):
        raise InputError(f'"{new}" cannot name a port; take letters, digits, _ and -, a letter first, 40 at most.')
    if new == old:
        return
    if new in names or new.startswith("branch_"):
        raise InputError(f'The name "{new}" is taken; give the port another.')
    rewritten: dict[str, Callable[[Path, Path, str, str], None]] = {
        MESH: _mesh,
        CENTERLINE: _centerline,
        SURFACE: _surface,
        BRANCHES: _branches,
        REDUCED: _arrays,
    }
    for path in sorted(case.folder.glob(RUNS)):
        if not path.name.endswith(".checkpoint.npz"):
            rewritten[path.relative_to(case.folder).as_posix()] = _arrays
    before = {name: file_hash(case.require(name)) for name in rewritten}
    # All new files are there before the first takes its place: what cannot be written leaves the case as it was.
    made: dict[str, Path] = {}
    try:
        for name, write in rewritten.items():
            path = case.path(name)
            made[name] = path.with_name(f".renamed.{path.name}")
            write(path, made[name], old, new)
        for name, temporary in made.items():
            temporary.replace(case.path(name))
    finally:
        for temporary in made.values():
            temporary.unlink(missing_ok=True)
    after = {known: file_hash(case.path(name)) for name, known in before.items()}
    case.manifest = _renamed(case.manifest, old, new, after)
    case.save()


def _renamed(value: Any, old: str, new: str, hashes: dict[str, str]) -> Any:
    """The manifest with a port's new name as key, as value and inside of settings, and with new hashes."""
    if isinstance(value, dict):
        return {new if key == old else key: _renamed(one, old, new, hashes) for key, one in value.items()}
    if isinstance(value, list):
        return [_renamed(one, old, new, hashes) for one in value]
    if isinstance(value, str):
        # Settings hold the circulation as text, where names stand in quotes.
        return new if value == old else hashes.get(value, value.replace(f"'{old}'", f"'{new}'"))
    return value


def _mesh(path: Path, target: Path, old: str, new: str) -> None:
    mesh = read_lumen_mesh(path)
    ports = tuple(replace(port, name=new) if port.name == old else port for port in mesh.ports)
    write_lumen_mesh(replace(mesh, ports=ports), target)


def _centerline(path: Path, target: Path, old: str, new: str) -> None:
    stored = pv.read(path)
    centerline = read_centerline(path)
    branches = tuple(replace(one, end=new) if one.end == old else one for one in centerline.branches)
    write_centerline(replace(centerline, branches=branches), target)
    written = pv.read(target)
    for name in stored.point_data:  # what was measured in its sections stays
        written.point_data[name] = stored.point_data[name]
    written.save(target)


def _surface(path: Path, target: Path, old: str, new: str) -> None:
    surface = pv.read(path)
    names = [str(name) for name in np.atleast_1d(surface.field_data["PortNames"])]
    surface.field_data["PortNames"] = [new if name == old else name for name in names]
    surface.save(target)


def _branches(path: Path, target: Path, old: str, new: str) -> None:
    rows = read_table(path)
    if not rows:
        target.write_bytes(path.read_bytes())
        return
    table = [[new if key == "port" and text == old else text for key, text in row.items()] for row in rows]
    write_table(target, list(rows[0]), table)


def _arrays(path: Path, target: Path, old: str, new: str) -> None:
    """A reduced model or a 3D run: names as an array of texts, beds and figures as JSON."""
    # Not through their own readers: these need the solver's libraries, which the display does without.
    with np.load(path, allow_pickle=False) as stored:
        arrays = {name: stored[name] for name in stored.files}
    for name in ("names", "port_names"):
        if name in arrays:
            arrays[name] = np.array([new if text == old else text for text in arrays[name].tolist()])
    for name in ("held_out", "windkessels"):
        if name in arrays:
            arrays[name] = np.array(json.dumps(_renamed(json.loads(str(arrays[name])), old, new, {})))
    with target.open("wb") as stream:
        np.savez_compressed(stream, **arrays)
