"""The centerline of a vessel tree: branches with their points, radii and lengths."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from meshes.errors import InputError
from meshes.grid import Array
from meshes.lines import arc_of, tangents_of

Indices = npt.NDArray[np.int64]

RESOLVED_VOXELS = 0.9
"""A branch whose radius is less than this many voxels is not resolved by the image."""


@dataclass(frozen=True)
class Branch:
    """A way between two ends or junctions."""

    index: int
    point_ids: Indices
    """in the order from the inlet on; the first is the junction with the parent"""
    parent: int | None
    end: str | None = None
    """the port's name where it ends in one"""
    closes_loop: bool = False
    """whether it ends where it meets another branch, halfway around a loop, and not at an end of the lumen"""


@dataclass(frozen=True)
class Line:
    """What a branch is made of: points (n, 3) mm, LPS, their radii (n,) mm, and as in `Branch`."""

    points: Array
    radius: Array
    parent: int | None
    end: str | None = None
    closes_loop: bool = False


@dataclass(frozen=True)
class Centerline:
    """A tree of branches, from the inlet on; positions mm, LPS.

    Attributes:
        points: (n, 3).
        radius: (n,) of the inscribed sphere.
        branch: (n,) which branch a point belongs to; a junction's point is repeated in each of its branches.
        arc_length: (n,) mm from the branch's start.
        branches: by index.
        notes: what was decided, one sentence each.
    """

    points: Array
    radius: Array
    branch: Indices
    arc_length: Array
    branches: tuple[Branch, ...]
    notes: tuple[str, ...] = ()

    @classmethod
    def of_lines(cls, lines: Sequence[Line], notes: Sequence[str] = ()) -> "Centerline":
        """The tree of lines in an order in which each comes after its parent."""
        counts = [len(line.points) for line in lines]
        last = np.cumsum(counts)
        branches = [
            Branch(number, np.arange(end - count, end), line.parent, line.end, line.closes_loop)
            for number, (line, count, end) in enumerate(zip(lines, counts, last.tolist(), strict=True))
        ]
        return cls(
            points=np.concatenate([line.points for line in lines]),
            radius=np.concatenate([line.radius for line in lines]),
            branch=np.repeat(np.arange(len(lines)), counts),
            arc_length=np.concatenate([arc_of(line.points) for line in lines]),
            branches=tuple(branches),
            notes=tuple(notes),
        )

    def path_to(self, end: str) -> Indices:
        """Ids of the points from the inlet to a port, each place once.

        Raises:
            InputError: no branch ends there.
        """
        found = [branch for branch in self.branches if branch.end == end]
        if not found:
            names = ", ".join(branch.end for branch in self.branches if branch.end)
            raise InputError(f"The centerline has no end {end}; it has {names}.")
        chain = [found[0]]
        while chain[0].parent is not None:
            chain.insert(0, self.branches[chain[0].parent])
        parts = [chain[0].point_ids, *(branch.point_ids[1:] for branch in chain[1:])]
        return np.concatenate(parts)

    def tangents(self) -> Array:
        """(n, 3) unit vectors along the branches, away from the inlet."""
        tangents = np.zeros_like(self.points)
        for branch in self.branches:
            tangents[branch.point_ids] = tangents_of(self.points[branch.point_ids])
        return tangents

    def terminals(self) -> list[tuple[int, int]]:
        """Of each end of the tree: its branch, and the id of its outermost point; the inlet first."""
        parents = {branch.parent for branch in self.branches}
        ends = [
            (branch.index, int(branch.point_ids[-1]))
            for branch in self.branches
            if branch.index not in parents and not branch.closes_loop
        ]
        return [(0, int(self.branches[0].point_ids[0])), *ends]

    def rooted_at(self, leaf: int) -> "Centerline":
        """The same tree with the end of its outermost branch ``leaf`` as the inlet.

        The branches from there to the old inlet run the other way. What left one of them at the end that is now its
        beginning leaves the branch before it.
        """
        chain = [leaf]
        while (above := self.branches[chain[-1]].parent) is not None:
            chain.append(above)
        parent = {branch.index: branch.parent for branch in self.branches}
        for before, turned in pairwise(chain):
            parent |= {b.index: before for b in self.branches if b.parent == turned and b.index != before}
            parent[turned] = before
        parent[leaf] = None
        order = [leaf]
        for index in order:
            order += [child for child in parent if parent[child] == index]
        lines = []
        for index in order:
            branch, above = self.branches[index], parent[index]
            ids = branch.point_ids[::-1] if index in chain else branch.point_ids
            end = None if index in chain else branch.end
            lines.append(
                Line(
                    self.points[ids], self.radius[ids], None if above is None else order.index(above), end,
                    branch.closes_loop,
                )
            )  # fmt: skip
        return Centerline.of_lines(lines, self.notes)

    def named(self, ends: dict[int, str]) -> "Centerline":
        """The same tree with the ports' names at the ends of branches."""
        branches = tuple(replace(branch, end=ends.get(branch.index, branch.end)) for branch in self.branches)
        return replace(self, branches=branches)
