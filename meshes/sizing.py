"""How long the edges of a lumen's mesh are to be: by the vessel's radius at each place, and within a number of
tetrahedra.

The radius is that of the largest ball in the lumen at the nearest place of its middle. The signed distance at a voxel
is too small for it by as much as the voxel lies beside the middle, a third of the radius of a thin vessel; so the
middle is sought between voxels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import ndimage
from scipy.spatial import cKDTree

from meshes.clipping import Index, renumbered, volumes
from meshes.grid import Array, Grid
from meshes.level_set import wall_surface

SMALLEST_EDGE_SHARE = 0.35
"""Edges are at least this part of the widest edge allowed: thin branches are not resolved at any price."""

REFINEMENT_GROWTH = 0.3
"""Beyond a refined place edges grow by this much per mm."""

FEWEST_ACROSS = 3.0
"""However few tetrahedra are allowed, a vessel keeps this many edges across: fewer would close it."""

THIN_SHARE = 0.2
"""Vessels thinner than this part of the widest count as this wide for `FEWEST_ACROSS`: they carry little flow."""

TETRAHEDRON = 8.5
"""A regular tetrahedron of edge h has the volume h^3 / 8.5."""

SHORTER_EDGES = 1.85
"""Mmg makes this many times the tetrahedra that its edge lengths would fill the volume with."""

SHARED = 1.36
"""Finer places get edges this much longer together before the lesser ones pay for the others."""

GIVEN_UP = 4.0
"""With edges so many times as long as asked for a lesser place is no finer than what is around it."""

COARSEST = 30.0
_SAMPLE = 30_000


@dataclass(frozen=True)
class Refinement:
    """Places that are meshed finer: within ``reach`` (n,) mm of ``points`` (n, 3) edges of ``edge`` (n,) mm.

    The nearest of the points counts; beyond its reach edges grow.
    """

    points: Array
    reach: Array
    edge: Array
    first: bool = True
    """whether it is kept before what is finer elsewhere, where tetrahedra are scarce"""


@dataclass(frozen=True)
class Sizes:
    """How long edges are to be."""

    radius: Grid
    """the vessel's radius [mm] at each place; see `local_radius`"""
    widest: float
    """the widest edge [mm] where they follow the radius and none is made longer"""
    edge_length: float | None
    edges_across: float
    finer: tuple[Refinement, ...]

    @classmethod
    def of(
        cls,
        radius: Grid,
        points: Array,
        *,
        edge_length: float | None,
        edges_across: float,
        finer: Sequence[Refinement],
    ) -> Sizes:
        """Sizes for a lumen with nodes ``points`` (n, 3); see `meshes.tetrahedra.mesh_lumen`."""
        widest = 2.0 * float(np.quantile(radius.sample(points), 0.95)) / edges_across
        return cls(radius, widest, edge_length, edges_across, tuple(finer))

    def at(self, places: Array, coarser: float) -> Array:
        """(n,) mm at places (n, 3), where edges are ``coarser`` times as long as asked for."""
        diameter = 2.0 * self.radius.sample(places)
        if self.edge_length is not None:
            size = np.full(len(places), self.edge_length * coarser)
        else:
            size = np.maximum(diameter / self.edges_across, SMALLEST_EDGE_SHARE * self.widest) * coarser
            size = np.minimum(size, np.maximum(diameter, THIN_SHARE * diameter.max()) / FEWEST_ACROSS)
        for place in self.finer:
            longer = self._longer(coarser, place.first)
            away, nearest = cKDTree(place.points).query(places)
            growth = REFINEMENT_GROWTH * np.maximum(away - place.reach[nearest], 0.0)
            size = np.minimum(size, longer * place.edge[nearest] + growth)
        return size

    def _longer(self, coarser: float, first: bool) -> float:
        """How many times as long edges are at a finer place, where those elsewhere are ``coarser`` times as long.

        What is asked for at a stenosis decides on the pressure behind it: the rest of the vessels pays first, down to
        `FEWEST_ACROSS`; then all finer places alike, by `SHARED`; then those that are not the first to be kept, until
        nothing is finer there any more; and the others at last.
        """
        spared = 1.0 if self.edge_length is not None else max(self.edges_across / FEWEST_ACROSS, 1.0)
        longer = max(coarser / spared, 1.0)
        if not first or longer < SHARED:
            return longer
        return max(SHARED, longer * SHARED / GIVEN_UP)

    def expected(self, points: Array, tetrahedra: Index, coarser: float) -> float:
        """How many tetrahedra edges of these lengths take in a lumen that is meshed somehow already."""
        size = self.at(points, coarser)[tetrahedra].mean(axis=1)
        return SHORTER_EDGES * TETRAHEDRON * float((np.abs(volumes(points, tetrahedra)) / size**3).sum())

    def coarsening(self, points: Array, tetrahedra: Index, count: float) -> float:
        """How many times as long edges have to be for so many tetrahedra at most; 1 where they are few enough.

        Where no length is long enough, because each vessel keeps `FEWEST_ACROSS`, `COARSEST`.
        """
        # Sizes vary slowly: a part of the tetrahedra says what all of them would.
        step = max(1, len(tetrahedra) // _SAMPLE)
        used, tetrahedra = renumbered(tetrahedra[::step], len(points))
        points, count = points[used], count / step
        if self.expected(points, tetrahedra, 1.0) <= count:
            return 1.0
        if self.expected(points, tetrahedra, COARSEST) > count:
            return COARSEST
        low, high = 1.0, COARSEST
        for _ in range(9):
            middle = float(np.sqrt(low * high))
            low, high = (middle, high) if self.expected(points, tetrahedra, middle) > count else (low, middle)
        return high

    def notes(self, count: int, most: int, coarser: float, wanted: float) -> tuple[str, ...]:
        """What a user has to know of a mesh of ``count`` tetrahedra where ``most`` were allowed, in sentences.

        ``wanted`` is how many edges as long as asked for would take.
        """
        if count > most:
            return (
                f"The mesh has {count} tetrahedra where mesh.max_tetrahedra allows {most}: with fewer than "
                f"{FEWEST_ACROSS:g} edges across, its thin vessels would be closed; allow {_rounded_up(count)}, or "
                "keep fewer vessels with ports.most.",
            )
        if coarser < 1.05 or self.edge_length is not None:
            return ()
        across = max(self.edges_across / coarser, FEWEST_ACROSS)
        return (
            f"Within mesh.max_tetrahedra = {most} vessels have some {across:.1f} edges across where "
            f"mesh.edges_across = {self.edges_across:g} is asked for; that would take about {_rounded_up(wanted)} "
            "tetrahedra.",
        )


def _rounded_up(count: float) -> int:
    """The next number of two digits and noughts."""
    unit = 10 ** max(int(np.log10(count)) - 1, 0)
    return int(np.ceil(count / unit)) * unit


def local_radius(field: Grid) -> Grid:
    """At every voxel near the lumen the inscribed radius [mm] of the vessel there.

    Args:
        field: signed distance to the wall, mm, negative inside.
    """
    depth = -field.values.astype(np.float64)
    gz, gy, gx = np.gradient(depth, *field.spacing[::-1])
    step = float(field.spacing.max())
    ridge = (depth > 0.5 * step) & (gx**2 + gy**2 + gz**2 < 0.6)
    if not ridge.any():
        ridge = depth > 0.5 * depth.max()
    middle = field.positions_of(np.flatnonzero(ridge))
    for _ in range(2):
        # Beside the ridge of a distance by d, its central difference over steps longer than d has the slope -d / step.
        middle = middle - step * field.gradient_at(middle, step=step)
    # To the wall itself: interpolating the distance's peak between voxels would cut it off.
    wall = cKDTree(np.asarray(wall_surface(field).points, dtype=float))
    widths = np.maximum(wall.query(middle)[0], depth[ridge])
    near = depth > -3 * step
    _, nearest = cKDTree(middle).query(field.positions_of(np.flatnonzero(near)), workers=-1)
    radius = np.zeros(depth.shape)
    radius[near] = widths[nearest]
    radius[~near] = float(np.median(radius[near]))
    return field.like(ndimage.gaussian_filter(radius, 1.0).astype(np.float32))
