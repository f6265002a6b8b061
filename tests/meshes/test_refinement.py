"""A stenosis keeps its edges across, however few tetrahedra are allowed; and how many it has is counted right."""

import numpy as np
import pytest

from meshes.centerline import Centerline, Line
from meshes.clipping import lattice, oriented
from meshes.ports import find_ports
from meshes.quality import mesh_quality
from meshes.refinement import at_stenosis, edges_across, edges_at_stenosis
from meshes.sections import cross_sections
from meshes.stenosis import Stenosis, find_stenoses
from meshes.tetrahedra import mesh_lumen
from meshes.tracing import extract_centerline


def test_edges_across_are_counted_as_in_a_block_of_cubes():
    """Cubes of 1 mm in six tetrahedra each: three edges of 1, two of sqrt(2) and one of sqrt(3) mm."""
    points, tetrahedra = lattice([11, 11, 11], np.ones((10, 10, 10), dtype=bool))
    tetrahedra = oriented(points.astype(float), tetrahedra)
    mean = (3 + 2 * np.sqrt(2) + np.sqrt(3)) / 6
    found = edges_across(points.astype(float), tetrahedra, np.array([5.0, 5.0, 4.5]), np.array([0.0, 0.0, 1.0]), 30.0)
    assert found == pytest.approx(np.sqrt(4 * 100 / np.pi) / mean, rel=0.01)
    # A block beside it is another vessel.
    apart = np.concatenate([points, points + [40, 0, 0]]).astype(float)
    both = np.concatenate([tetrahedra, tetrahedra + len(points)])
    again = edges_across(apart, both, np.array([5.0, 5.0, 4.5]), np.array([0.0, 0.0, 1.0]), 100.0)
    assert again == pytest.approx(found)
    assert edges_across(apart, both, np.array([25.0, 5.0, 4.5]), np.array([0.0, 0.0, 1.0]), 3.0) == 0.0


@pytest.fixture(scope="module")
def narrowed(analytic):
    """A vessel 8 mm wide and 80 mm long with a throat of 2.4 mm, on voxels of 0.8 mm; how wide it is, by z."""
    grid_points, image_of, _ = analytic
    shape, spacing = (20, 20, 110), np.full(3, 0.8)
    points = grid_points(shape, spacing)

    def radius(z):
        return 4.0 - 2.8 * np.exp(-(((z - 40.0) / 4.0) ** 2))

    away = np.linalg.norm(points[..., :2] - 7.6, axis=-1) - radius(points[..., 2])
    ends = np.maximum(3.0 - points[..., 2], points[..., 2] - 83.0)
    level_set = image_of(np.maximum(away, ends), shape, spacing)
    ports, centerline = find_ports(level_set, extract_centerline(level_set))
    return level_set, ports, centerline


def test_a_throat_keeps_its_edges_and_the_rest_of_the_vessel_pays(narrowed):
    level_set, ports, centerline = narrowed
    sections = cross_sections(level_set, centerline)
    (stenosis,) = find_stenoses(centerline, sections)
    assert stenosis.diameter == pytest.approx(2.4, rel=0.1)
    finer = [at_stenosis(stenosis, centerline, sections.radius, 9.0)]
    mesh = mesh_lumen(level_set, ports, edges_across=9.0, max_tetrahedra=16_000, finer=finer)
    plain = mesh_lumen(level_set, ports, edges_across=9.0, max_tetrahedra=16_000)
    assert len(mesh.tetrahedra) <= 16_000
    assert edges_at_stenosis(mesh, stenosis, centerline, sections.radius) >= 8.0
    assert edges_at_stenosis(plain, stenosis, centerline, sections.radius) < 6.0

    def at(distance, some):
        """Edges across at so many mm from the throat, along the flow."""
        arc = centerline.arc_length - stenosis.arc_length
        place = int(np.argmin(np.abs(arc - distance)))
        return edges_across(
            some.points, some.tetrahedra, centerline.points[place], centerline.tangents()[place], 8.0
        )  # fmt: skip

    # The jet, which is narrower than the vessel, is resolved behind the throat, and less far in front of it.
    assert at(6.0, mesh) > 1.2 * at(-6.0, mesh)
    assert at(20.0, mesh) < at(20.0, plain)
    quality = mesh_quality(mesh)
    assert quality.min_dihedral_deg > 8
    assert quality.mean_scaled_jacobian > 0.6


def test_the_jet_goes_on_in_the_branches_behind():
    """Two branches behind a trunk whose throat is near its end: points of both are among the finer ones."""
    trunk = np.column_stack([np.zeros(41), np.zeros(41), np.arange(41.0)])
    step = np.arange(31.0)[:, None]
    left, right = trunk[-1] + step * [0.6, 0.0, 0.8], trunk[-1] + step * [-0.6, 0.0, 0.8]
    radius = 3.0 - 2.0 * np.exp(-(((np.arange(41.0) - 32.0) / 2.0) ** 2))
    lines = [Line(trunk, radius, None), Line(left, np.full(31, 2.0), 0), Line(right, np.full(31, 2.0), 0)]
    centerline = Centerline.of_lines(lines)
    stenosis = Stenosis(0, 32, trunk[32], 32.0, 29.0, 6.0, 2.0, 6.0)
    finer = at_stenosis(stenosis, centerline, centerline.radius, 8.0)
    assert finer.edge.min() == pytest.approx(2.0 / 8.0)
    for end in (left, right):
        away = np.linalg.norm(finer.points[:, None] - end, axis=2).min(axis=0)
        # 3 healthy diameters of 6 mm behind the throat's end at 33 mm.
        assert (away[:10] < 1e-9).all()
        assert (away[14:] > 0.5).all()
    # Longer with the way behind the throat.
    on_left = np.flatnonzero(finer.points[:, 0] > 0.5)
    assert (np.diff(finer.edge[on_left]) > 0).all()
