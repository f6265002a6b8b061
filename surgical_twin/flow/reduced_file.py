"""The reduced model's file: one ``.npz`` with its constants, modes and errors, tied to its mesh by a hash."""

from __future__ import annotations

import hashlib
import json
import os
import zipfile
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from surgical_twin.errors import InputError
from surgical_twin.flow.amplitude_fit import KernelTerm
from surgical_twin.flow.error_model import ErrorModel
from surgical_twin.flow.field_decoder import FieldDecoder, ModalMap
from surgical_twin.flow.port_model import PortModel
from surgical_twin.flow.reduced import ReducedModel

Array = NDArray[np.float64]
Indices = NDArray[np.int64]

_FORMAT = "surgical-twin reduced flow model 1"
_HASH_RESOLUTION = 1e-7  # m

_PORT_ARRAYS = (
    "resistance",
    "inertance",
    "segments",
    "loss",
    "junction_loss",
    "recovery",
    "memory",
    "time_constants",
)
_ERROR_ARRAYS = (
    "range_lower",
    "range_upper",
    "port_pressure_error",
    "port_flow_error",
    "pressure_error_bias",
    "pressure_error_std",
)


def write_model(model: ReducedModel, path: Path) -> None:
    """See `ReducedModel.save`."""
    arrays: dict[str, Any] = {
        "format": np.array(_FORMAT),
        "mesh": np.array(mesh_hash(model.decoder.points, model.decoder.tetrahedra)),
        "names": np.array([model.inlet, *model.ports.outlets]),
        "held_out": np.array(json.dumps(list(model.held_out))),
        "estimated": np.array(model.estimated),
        "pressure_modes": model.decoder.pressure_part.modes,
        "pressure_map": model.decoder.pressure_part.map,
        "velocity_modes": model.decoder.velocity_part.modes,
        "velocity_map": model.decoder.velocity_part.map,
    }
    for name, part in (("velocity", model.decoder.velocity_part), ("wall_shear", model.decoder.wall_shear_part)):
        if part is not None and part.kernel is not None:
            arrays |= {f"{name}_kernel_{key}": values for key, values in vars(part.kernel).items()}
    if model.errors is not None:
        arrays |= {f"errors_{name}": values for name, values in vars(model.errors).items()}
    if model.decoder.wall_shear_part is not None:
        arrays |= {
            "wall_shear_modes": model.decoder.wall_shear_part.modes,
            "wall_shear_map": model.decoder.wall_shear_part.map,
            "wall_nodes": model.decoder.wall_nodes,
            "wall_areas": model.decoder.wall_areas,
        }
    arrays |= {name: getattr(model.ports, name) for name in _PORT_ARRAYS}
    arrays |= {name: getattr(model, name) for name in _ERROR_ARRAYS}
    temporary = path.with_name(f".{os.getpid()}.{path.name}")
    try:
        with temporary.open("wb") as stream:
            np.savez_compressed(stream, **arrays)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def read_model(path: Path, points: Array, tetrahedra: Indices) -> ReducedModel:
    """See `ReducedModel.load`."""
    try:
        with np.load(path, allow_pickle=False) as stored:
            data = {name: stored[name] for name in stored.files}
    except FileNotFoundError:
        raise InputError(f"There is no reduced model at {path}; plan the case first.") from None
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise InputError(f"{path} is not a readable reduced model ({error}); plan the case again.") from None
    if str(data.get("format")) != _FORMAT:
        raise InputError(f"{path} is not a reduced model of this version; plan the case again.")
    if str(data["mesh"]) != mesh_hash(points, tetrahedra):
        raise InputError(f"{path} was trained on another mesh than the case's; plan the case again.")
    inlet, *outlets = (str(name) for name in data["names"])
    return ReducedModel(
        ports=PortModel(tuple(outlets), **{name: data[name] for name in _PORT_ARRAYS}),
        decoder=FieldDecoder(
            points=np.asarray(points, dtype=float),
            tetrahedra=np.asarray(tetrahedra, dtype=np.int64),
            outlets=tuple(outlets),
            pressure_part=ModalMap(data["pressure_modes"], data["pressure_map"]),
            velocity_part=_stored_part(data, "velocity"),
            wall_shear_part=_stored_part(data, "wall_shear") if "wall_shear_modes" in data else None,
            **{name: data[name] for name in ("wall_nodes", "wall_areas") if name in data},
        ),
        inlet=inlet,
        held_out=tuple(json.loads(str(data["held_out"]))),
        estimated=bool(data.get("estimated", False)),
        errors=ErrorModel(*(data[f"errors_{one.name}"] for one in fields(ErrorModel)))
        if "errors_covariance" in data
        else None,
        **{name: data[name] for name in _ERROR_ARRAYS},
    )


def _stored_part(data: dict[str, Any], name: str) -> ModalMap:
    """A field's modes and map from a file's arrays."""
    kernel = None
    if f"{name}_kernel_weights" in data:
        kernel = KernelTerm(*(data[f"{name}_kernel_{key}"] for key in ("projection", "centers", "weights")))
    return ModalMap(data[f"{name}_modes"], data[f"{name}_map"], kernel)


def mesh_hash(points: Array, tetrahedra: Indices) -> str:
    """SHA-256 of a mesh: its points (m) to a tenth of a micrometer, and its cells, in their order."""
    digest = hashlib.sha256()
    rounded = np.round(np.asarray(points, dtype=float) / _HASH_RESOLUTION).astype("<i8")
    digest.update(np.ascontiguousarray(rounded).tobytes())
    digest.update(np.ascontiguousarray(tetrahedra, dtype="<i8").tobytes())
    return digest.hexdigest()
