"""How good a mesh is."""

from dataclasses import dataclass

import numpy as np

from meshes.clipping import volumes
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


def mesh_quality(mesh: LumenMesh) -> MeshQuality:
    """Measure a mesh."""
    jacobians = scaled_jacobians(mesh.points, mesh.tetrahedra)
    flatness = 0.0
    for port in mesh.ports:
        nodes = np.unique(mesh.triangles[mesh.triangle_tags == port.tag])
        if len(nodes):
            flatness = max(flatness, float(np.abs((mesh.points[nodes] - port.center) @ port.normal).max()))
    edges = np.sort(mesh.triangles[:, [[0, 1], [1, 2], [2, 0]]].reshape(-1, 2), axis=1)
    _, counts = np.unique(edges, axis=0, return_counts=True)
    return MeshQuality(
        tetrahedra=len(mesh.tetrahedra),
        points=len(mesh.points),
        min_scaled_jacobian=float(jacobians.min()),
        mean_scaled_jacobian=float(jacobians.mean()),
        min_dihedral_deg=float(np.degrees(_smallest_dihedral(mesh))),
        volume_ml=float(volumes(mesh.points, mesh.tetrahedra).sum()) / 1000.0,
        watertight=bool((counts == 2).all()),
        port_flatness_mm=flatness,
    )


def _smallest_dihedral(mesh: LumenMesh) -> float:
    """Smallest angle between two faces of any tetrahedron [rad]."""
    corners = mesh.points[mesh.tetrahedra]
    faces = np.array([[1, 2, 3], [0, 3, 2], [0, 1, 3], [0, 2, 1]])
    a, b, c = (corners[:, faces[:, i]] for i in range(3))
    normals = np.cross(b - a, c - a)
    normals /= np.linalg.norm(normals, axis=2, keepdims=True)
    cosines = np.einsum("mid,mjd->mij", normals, normals)
    upper = np.triu_indices(4, 1)
    return float(np.pi - np.arccos(np.clip(cosines[:, upper[0], upper[1]], -1, 1)).max())
