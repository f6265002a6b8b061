"""How good a mesh is."""

from dataclasses import dataclass

import numpy as np

from meshes.clipping import Index, row_keys, volumes
from meshes.grid import Array
from meshes.mending import scaled_jacobians
from meshes.tetrahedra import LumenMesh


@dataclass(frozen=True)
class MeshQuality:
    """Figures of a lumen mesh."""

    tetrahedra: int
    points: int
    min_scaled_jacobian: float
    mean_scaled_jacobian: float
    min_dihedral_deg: float
    volume_ml: float
    watertight: bool
    """Every edge of the boundary belongs to two of its triangles."""
    port_flatness_mm: float
    """Largest distance of a port's node from its plane."""
    handles: int
    """Loops of vessels: handles of the boundary, from Euler's number, V - E + F = 2 - 2 handles."""


def mesh_quality(mesh: LumenMesh) -> MeshQuality:
    """Measure a mesh."""
    jacobians = scaled_jacobians(mesh.points, mesh.tetrahedra)
    flatness = 0.0
    for port in mesh.ports:
        nodes = np.unique(mesh.triangles[mesh.triangle_tags == port.tag])
        if len(nodes):
            flatness = max(flatness, float(np.abs((mesh.points[nodes] - port.center) @ port.normal).max()))
    edges = np.sort(mesh.triangles[:, [[0, 1], [1, 2], [2, 0]]].reshape(-1, 2), axis=1)
    _, counts = np.unique(row_keys(edges), return_counts=True)
    return MeshQuality(
        tetrahedra=len(mesh.tetrahedra),
        points=len(mesh.points),
        min_scaled_jacobian=float(jacobians.min()),
        mean_scaled_jacobian=float(jacobians.mean()),
        min_dihedral_deg=float(np.degrees(smallest_dihedrals(mesh.points, mesh.tetrahedra).min())),
        volume_ml=float(volumes(mesh.points, mesh.tetrahedra).sum()) / 1000.0,
        watertight=bool((counts == 2).all()),
        port_flatness_mm=flatness,
        handles=round(1 - (len(np.unique(mesh.triangles)) - len(counts) + len(mesh.triangles)) / 2),
    )


def smallest_dihedrals(points: Array, tetrahedra: Index) -> Array:
    """(m,) smallest angle between two faces of each tetrahedron [rad]."""
    corners = points[tetrahedra]
    faces = np.array([[1, 2, 3], [0, 3, 2], [0, 1, 3], [0, 2, 1]])
    a, b, c = (corners[:, faces[:, i]] for i in range(3))
    normals = np.cross(b - a, c - a)
    normals /= np.maximum(np.linalg.norm(normals, axis=2, keepdims=True), 1e-300)
    cosines = np.einsum("mid,mjd->mij", normals, normals)
    upper = np.triu_indices(4, 1)
    return np.asarray(np.pi - np.arccos(np.clip(cosines[:, upper[0], upper[1]], -1, 1)).max(axis=1))
