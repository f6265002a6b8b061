"""Mmg in a process of its own.

Given a mesh that it cannot handle, Mmg may end the process that it runs in, or not return. Neither may end a plan: it
runs in a child, with a time limit, and every failure becomes a ``RuntimeError``.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

import mmgpy
import numpy as np
import numpy.typing as npt

from meshes.clipping import Index
from meshes.grid import Array

SECONDS_PER_PASS = 300.0
"""A pass that takes longer than this does not come back; 300,000 tetrahedra take about 40 s."""

_OPTIONS = ("hmin", "hmax", "hausd", "hgrad")


def remesh(
    points: Array,
    tetrahedra: Index,
    triangles: Index,
    references: npt.NDArray[np.int64],
    size: Array,
    *,
    hmin: float,
    hmax: float,
    hausd: float,
    hgrad: float,
) -> tuple[Array, Index, Index, npt.NDArray[np.int64]]:
    """Adapt a mesh to the edge lengths ``size`` (n,) at its nodes.

    Lines between triangles of different references (k,) are kept as ridges; no other ridges are looked for.

    Returns:
        Points, tetrahedra, triangles and the triangles' references.

    Raises:
        RuntimeError: Mmg failed, ended its process, or did not come back.
    """
    with tempfile.TemporaryDirectory(prefix="remesh_") as folder:
        given, made = Path(folder, "given.npz"), Path(folder, "made.npz")
        options = np.array([hmin, hmax, hausd, hgrad])
        np.savez(
            given,
            points=points,
            tetrahedra=tetrahedra,
            triangles=triangles,
            references=references,
            size=size,
            options=options,
        )
        command = [sys.executable, "-m", "meshes.remeshing", str(given), str(made)]
        root = str(Path(__file__).resolve().parents[1])
        try:
            done = subprocess.run(command, cwd=root, capture_output=True, timeout=SECONDS_PER_PASS, check=False)
        except subprocess.TimeoutExpired:
            raise RuntimeError(f"Mmg did not come back within {SECONDS_PER_PASS:g} s") from None
        if done.returncode != 0 or not made.is_file():
            raise RuntimeError(f"Mmg failed (exit code {done.returncode})")
        with np.load(made) as result:
            return result["points"], result["tetrahedra"], result["triangles"], result["references"]


def _child(given: Path, made: Path) -> None:
    """What the child does: read, remesh, write."""
    with np.load(given) as arrays:
        mesh = mmgpy.MmgMesh3D()
        mesh.set_mesh_size(
            vertices=len(arrays["points"]), tetrahedra=len(arrays["tetrahedra"]), triangles=len(arrays["triangles"])
        )
        mesh.set_vertices(arrays["points"])
        mesh.set_tetrahedra(arrays["tetrahedra"].astype(np.int32))
        mesh.set_triangles(arrays["triangles"].astype(np.int32), arrays["references"].astype(np.int64))
        mesh.set_field("metric", arrays["size"].reshape(-1, 1))
        options = dict(zip(_OPTIONS, arrays["options"].tolist(), strict=True))
    mesh.remesh(**options, angle=0, verbose=-1)
    triangles, references = mesh.get_triangles_with_refs()
    np.savez(
        made,
        points=np.asarray(mesh.get_vertices(), dtype=float),
        tetrahedra=np.asarray(mesh.get_tetrahedra(), dtype=np.int64),
        triangles=np.asarray(triangles, dtype=np.int64),
        references=np.asarray(references, dtype=np.int64),
    )


if __name__ == "__main__":
    _child(Path(sys.argv[1]), Path(sys.argv[2]))
