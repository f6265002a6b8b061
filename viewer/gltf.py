"""Export for augmented reality: a binary glTF 2.0 file (GLB) that headsets, phones and browsers open.

glTF is in metres, right-handed, y up, and a model faces +z. A patient in LPS (x left, y back, z head) who
stands facing the viewer is therefore

    (x, y, z)_glTF = 0.001 * (x, z, -y)_LPS,

a rotation by -90 degrees about x and the change from mm. Vertex colors are *linear* light in glTF, so the
sRGB colors of the pressure map are converted; the file says in ``asset.extras`` which color range and origin
it was made with. Pressure itself is the vertex attribute ``_PRESSURE`` [mmHg] (a leading underscore marks
attributes of an application's own). Over the beat the colors are morph targets, one a phase, of which the animation
blends two neighbors at a time; a viewer that knows no morphed colors shows the mean.
"""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyvista as pv
from numpy.typing import ArrayLike, NDArray

from viewer import colors
from viewer.errors import InputError

GLTF_FROM_LPS = np.array(
    [[0.001, 0.0, 0.0, 0.0], [0.0, 0.0, 0.001, 0.0], [0.0, -0.001, 0.0, 0.0], [0.0, 0.0, 0.0, 1.0]]
)
"""Metres, y up, from mm LPS."""

_FLOAT, _UINT32 = 5126, 5125
_VERTICES, _INDICES = 34962, 34963


@dataclass(frozen=True)
class Structure:
    """One named thing in the file.

    Attributes:
        name: the node's name, unique within the file.
        mesh: surface in mm LPS.
        scalars: (points,) values in mmHg to color by; None for one color.
        color: #rrggbb used where there are no scalars.
        opacity: below 1 the structure is blended.
        cycle: (phases, points) values in mmHg at evenly spaced times of the beat; None stands still. `scalars` is
            then what is shown where nothing moves.
    """

    name: str
    mesh: pv.PolyData
    scalars: ArrayLike | None = None
    color: str = colors.ANATOMY
    opacity: float = 1.0
    cycle: ArrayLike | None = None


def check_export(path: Path | str, suffix: str, structures: Sequence[Structure]) -> Path:
    """Where a model is written to.

    Raises:
        InputError: another suffix, no such folder, nothing to write, or a name used twice.
    """
    path = Path(path)
    if path.suffix.lower() != suffix:
        raise InputError(f"{path.name} must end in {suffix}.")
    if not path.parent.is_dir():
        raise InputError(f"folder {path.parent} does not exist; make it before writing {path.name} there.")
    if not structures:
        raise InputError("no structure to export; give at least the lumen.")
    names = [structure.name for structure in structures]
    if len(set(names)) != len(names):
        raise InputError(f"structures {', '.join(names)} hold a name twice; name each one differently.")
    return path


def write_glb(
    path: Path | str,
    structures: Sequence[Structure],
    *,
    limits: tuple[float, float] = (60.0, 140.0),
    origin: Sequence[float] = (0.0, 0.0, 0.0),
    anchors: Mapping[str, Sequence[float]] | None = None,
    period_s: float = 1.0,
) -> None:
    """Write structures to a GLB file, one node each; the file appears complete or not at all.

    Args:
        path: where to, ending in .glb.
        structures: what to write; the order is the order in which blended ones are drawn.
        limits: fixed range of the pressure map in mmHg.
        origin: point in mm LPS that becomes the file's origin, e.g. the lumen's center so that a phone shows
            it before the user; (0, 0, 0) keeps patient coordinates. Told in ``asset.extras``.
        anchors: name and place in mm LPS of points to register by, such as fiducials: an empty node
            ``anchor NAME`` each.
        period_s: duration of the beat, for structures with a `Structure.cycle`.

    Raises:
        InputError: nothing to write, a name used twice, an empty mesh, scalars of another length, or another
            suffix.
    """
    path = check_export(path, ".glb", structures)
    limits = colors.check_limits(limits)
    start = np.asarray(origin, dtype=np.float64).reshape(3)

    store = _Buffer()
    nodes: list[dict[str, Any]] = []
    meshes: list[dict[str, Any]] = []
    materials: list[dict[str, Any]] = []
    samplers: list[dict[str, Any]] = []
    channels: list[dict[str, Any]] = []
    for index, structure in enumerate(structures):
        points, normals, triangles = geometry(structure, start)
        attributes = {
            "POSITION": store.add(points.astype(np.float32), "VEC3", _VERTICES, bounds=True),
            "NORMAL": store.add(normals.astype(np.float32), "VEC3", _VERTICES),
            "COLOR_0": store.add(_colors(structure, len(points), limits), "VEC4", _VERTICES),
        }
        if structure.scalars is not None:
            values = np.asarray(structure.scalars, dtype=np.float32)
            attributes["_PRESSURE"] = store.add(values, "SCALAR", _VERTICES)
        indices = store.add(triangles.astype(np.uint32).reshape(-1), "SCALAR", _INDICES)
        primitive: dict[str, Any] = {"attributes": attributes, "indices": indices, "material": index, "mode": 4}
        mesh: dict[str, Any] = {"name": structure.name, "primitives": [primitive]}
        if structure.cycle is not None:
            primitive["targets"] = _phase_colors(store, structure, len(points), limits)
            mesh["weights"] = [0.0] * len(primitive["targets"])
            channels.append({"sampler": len(samplers), "target": {"node": index, "path": "weights"}})
            samplers.append(_beat(store, len(primitive["targets"]), period_s))
        meshes.append(mesh)
        materials.append(_material(structure))
        nodes.append({"name": structure.name, "mesh": index})
    for name, place in (anchors or {}).items():
        point = GLTF_FROM_LPS[:3, :3] @ (np.asarray(place, dtype=np.float64).reshape(3) - start)
        if not np.isfinite(point).all():
            raise InputError(f"anchor {name} is not finite; leave it out or measure it again.")
        nodes.append({"name": f"anchor {name}", "translation": [float(x) for x in point]})
    document: dict[str, Any] = {
        "asset": {
            "version": "2.0",
            "generator": "surgical-twin",
            "extras": {
                "units": "m",
                "gltf_from_lps": GLTF_FROM_LPS.tolist(),
                "origin_lps_mm": start.tolist(),
                "pressure_range_mmhg": list(limits),
            },
        },
        "scene": 0,
        "scenes": [{"name": "surgical twin", "nodes": list(range(len(nodes)))}],
        "nodes": nodes,
        "meshes": meshes,
        "materials": materials,
        "accessors": store.accessors,
        "bufferViews": store.views,
        "buffers": [{"byteLength": len(store.data)}],
    }
    if channels:
        document["animations"] = [{"name": "heart beat", "channels": channels, "samplers": samplers}]
    _write(path, document, bytes(store.data))


def _phase_colors(
    store: _Buffer, structure: Structure, count: int, limits: tuple[float, float]
) -> list[dict[str, int]]:
    """Morph targets: what each phase's linear color differs from the base's."""
    phases = np.asarray(structure.cycle, dtype=np.float64)
    if structure.scalars is None or phases.ndim != 2 or phases.shape[1] != count or len(phases) < 2:
        raise InputError(
            f"structure {structure.name} has {count} points but a cycle of shape {phases.shape}; give (phases, points) "
            "with two phases or more, and scalars."
        )
    base = _colors(structure, count, limits)
    targets = []
    for values in phases:
        change = np.zeros_like(base)
        change[:, :3] = colors.linear_from_srgb(colors.pressure_colors(values, limits)) - base[:, :3]
        targets.append({"COLOR_0": store.add(change, "VEC4", _VERTICES)})
    return targets


def _beat(store: _Buffer, phases: int, period_s: float) -> dict[str, Any]:
    """A sampler that goes through the phases and back to the first, each alone at its own time."""
    if not 0.0 < period_s < 60.0:
        raise InputError(f"a beat of {period_s:g} s is none; give its duration in seconds.")
    times = np.linspace(0.0, period_s, phases + 1).astype(np.float32)
    weights = np.vstack([np.eye(phases), np.eye(phases)[:1]]).astype(np.float32).reshape(-1)
    return {
        "input": store.add(times, "SCALAR", None, bounds=True),
        "output": store.add(weights, "SCALAR", None),
        "interpolation": "LINEAR",
    }


class _Buffer:
    """The binary chunk, with the views and accessors that describe it."""

    def __init__(self) -> None:
        self.data = bytearray()
        self.views: list[dict[str, Any]] = []
        self.accessors: list[dict[str, Any]] = []

    def add(self, array: NDArray[Any], kind: str, target: int | None, *, bounds: bool = False) -> int:
        """Append an array (float32 or uint32) and return its accessor's index; `target` None is no vertex data."""
        payload = np.ascontiguousarray(array).astype(array.dtype.newbyteorder("<")).tobytes()
        view = {"buffer": 0, "byteOffset": len(self.data), "byteLength": len(payload)}
        self.views.append(view if target is None else view | {"target": target})
        self.data += payload  # all components are four bytes wide, so every view stays aligned
        accessor: dict[str, Any] = {
            "bufferView": len(self.views) - 1,
            "componentType": _FLOAT if array.dtype == np.float32 else _UINT32,
            "count": len(array),
            "type": kind,
        }
        if bounds:
            # The exact float32 values: a validator compares them with the data.
            accessor["min"] = [float(x) for x in np.atleast_1d(array.min(axis=0))]
            accessor["max"] = [float(x) for x in np.atleast_1d(array.max(axis=0))]
        self.accessors.append(accessor)
        return len(self.accessors) - 1


def geometry(
    structure: Structure, origin: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.int64]]:
    """Points in metres y up, unit normals, and triangles (k, 3)."""
    mesh = structure.mesh
    if mesh.n_points == 0 or mesh.n_cells == 0:
        raise InputError(f"structure {structure.name} is empty; leave it out or give its surface.")
    if not 0.0 < structure.opacity <= 1.0:
        raise InputError(f"structure {structure.name} has opacity {structure.opacity:g}; give more than 0, up to 1.")
    surface = mesh if mesh.is_all_triangles else mesh.triangulate()
    plain = pv.PolyData(np.asarray(surface.points, dtype=np.float64), surface.faces)
    if not np.isfinite(plain.points).all():
        raise InputError(f"structure {structure.name} holds points that are not finite; repair its surface.")
    plain = plain.compute_normals(
        cell_normals=False,
        split_vertices=False,
        consistent_normals=True,
        auto_orient_normals=mesh.n_open_edges == 0,
    )
    normals = np.asarray(plain.point_data["Normals"], dtype=np.float64)
    length = np.linalg.norm(normals, axis=1, keepdims=True)
    normals = np.where(length > 1e-6, normals / np.where(length > 1e-6, length, 1.0), (0.0, 0.0, 1.0))
    turn = GLTF_FROM_LPS[:3, :3]
    return (np.asarray(plain.points) - origin) @ turn.T, normals @ (turn.T * 1000.0), plain.regular_faces


def _colors(structure: Structure, count: int, limits: tuple[float, float]) -> NDArray[np.float32]:
    """Linear RGBA (points, 4)."""
    result = np.empty((count, 4), dtype=np.float32)
    result[:, 3] = structure.opacity
    if structure.scalars is None:
        result[:, :3] = colors.linear_from_srgb(np.array(colors.rgb(structure.color)) / 255.0)
        return result
    values = np.asarray(structure.scalars, dtype=np.float64)
    if values.shape != (count,):
        raise InputError(f"structure {structure.name} has {count} points but scalars of shape {values.shape}.")
    result[:, :3] = colors.linear_from_srgb(colors.pressure_colors(values, limits))
    return result


def _material(structure: Structure) -> dict[str, Any]:
    material: dict[str, Any] = {
        "name": structure.name,
        "pbrMetallicRoughness": {
            # White, because COLOR_0 is multiplied with it: any other value would tint the pressure colors.
            "baseColorFactor": [1.0, 1.0, 1.0, 1.0],
            "metallicFactor": 0.0,
            "roughnessFactor": 0.6,
        },
        "doubleSided": True,
        "alphaMode": "OPAQUE",
    }
    if structure.opacity < 1.0:
        material["alphaMode"] = "BLEND"
    return material


def _write(path: Path, document: dict[str, Any], binary: bytes) -> None:
    """The GLB container: 12-byte header, JSON chunk padded with spaces, binary chunk padded with zeros."""
    text = json.dumps(document, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 4)
    binary += b"\0" * (-len(binary) % 4)
    total = 12 + 8 + len(text) + 8 + len(binary)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(struct.pack("<4sII", b"glTF", 2, total))
            file.write(struct.pack("<I4s", len(text), b"JSON") + text)
            file.write(struct.pack("<I4s", len(binary), b"BIN\0") + binary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
