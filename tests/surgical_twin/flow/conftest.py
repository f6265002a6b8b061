"""A straight tube, meshed in rings and layers."""

import numpy as np
import pytest
from scipy.spatial import Delaunay

from meshes.clipping import boundary, oriented
from surgical_twin.flow.domain import FlowDomain, FlowPort


def tube_mesh(radius, length, rings, layers):
    """Points, tetrahedra, triangles and tags (0 wall, 1 at z = 0, 2 at the other end) of a tube along z."""
    section = [(0.0, 0.0)]
    for ring in range(1, rings + 1):
        angle = 2 * np.pi * (np.arange(6 * ring) + 0.5 * (ring % 2)) / (6 * ring)
        section += list(zip(radius * ring / rings * np.cos(angle), radius * ring / rings * np.sin(angle), strict=True))
    flat = np.array(section)
    triangles = np.sort(Delaunay(flat).simplices, axis=1)
    edges = flat[triangles[:, 1:]] - flat[triangles[:, :1]]
    triangles = triangles[np.abs(np.linalg.det(edges)) > 1e-6 * radius**2]
    count = len(flat)
    heights = np.linspace(0, length, layers + 1)
    points = np.concatenate([np.column_stack([flat, np.full(count, z)]) for z in heights])
    low = (triangles[None] + count * np.arange(layers)[:, None, None]).reshape(-1, 3)
    high = low + count
    # A prism as three tetrahedra whose diagonals run from the smaller node number: neighbors agree.
    cells = np.concatenate(
        [
            np.column_stack([low, high[:, 2]]),
            np.column_stack([low[:, :2], high[:, 1:]]),
            np.column_stack([low[:, 0], high]),
        ]
    )
    cells = oriented(points, cells)
    outer = boundary(cells)
    z = points[outer][:, :, 2]
    tags = np.zeros(len(outer), dtype=np.int32)
    tags[(z < 1e-9).all(axis=1)] = 1
    tags[(z > length - 1e-9).all(axis=1)] = 2
    return points, cells, outer, tags


def tube_ports(radius, length):
    area = np.pi * radius**2
    return [
        FlowPort("inlet", "inlet", 1, np.zeros(3), np.array([0.0, 0.0, -1.0]), radius, area),
        FlowPort("outlet_1", "outlet", 2, np.array([0.0, 0.0, length]), np.array([0.0, 0.0, 1.0]), radius, area),
    ]


@pytest.fixture(scope="session")
def tube():
    def make(radius=3e-3, length=20e-3, rings=4, layers=12):
        return FlowDomain.build(*tube_mesh(radius, length, rings, layers), tube_ports(radius, length))

    return make


@pytest.fixture(scope="session")
def tube_parts():
    return tube_mesh, tube_ports
