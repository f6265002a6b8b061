"""Where blood enters and leaves: named, planar openings of the lumen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import SimpleITK as sitk
from scipy import ndimage

from meshes.centerline import RESOLVED_VOXELS, Centerline, Indices
from meshes.errors import InputError
from meshes.grid import Array, Grid
from meshes.lines import arc_of

SECTION_REACH = 3.0
"""A port's section is looked at within this many inscribed radii."""

END_WIDTH = 0.7
"""A vessel is cut where its radius is at least this part of its usual one."""

STEEP_ENOUGH = 0.5
"""A port's plane is looked for farther inward until the wall leans against its normal less than this (cosine)."""

OTHER_ROOM = 0.3
"""A port keeps this part of its radius from the walls of other branches."""

TANGENT_RADII = 1.0
"""The vessel's direction at an end is taken over this many radii."""


@dataclass(frozen=True)
class Port:
    """A planar opening: center (3,) mm, outward unit normal (3,), area mm2 of the real cross-section, and radius mm.

    ``radius`` is that of the circle of the same area. ``tag`` (from 1) marks the port's triangles in a mesh.
    """

    name: str
    role: Literal["inlet", "outlet"]
    tag: int
    center: Array
    normal: Array
    radius: float
    area: float


def find_ports(
    level_set: sitk.Image,
    centerline: Centerline,
    *,
    cut_radii: float = 0.0,
    names: Mapping[str, Sequence[float]] | None = None,
    inlet: str | None = None,
) -> tuple[tuple[Port, ...], Centerline]:
    """A port at each end of a centerline, normal to it: the inlet first, then outlets by falling area.

    A stub too short to be cut outside of the vessel that it leaves gets none and stays blind.

    Args:
        level_set: signed distance to the wall, mm, negative inside.
        centerline: its tree; its ends lie about a radius inside the vessels' ends.
        cut_radii: ports lie at least this many of the vessel's radii inward from its end.
        names: what outlets are called, each with a point (mm, LPS): the outlet nearest to it has that name. The others
            are ``outlet_1`` and so on.
        inlet: the port, by the name that it has where this is None, that is the inlet; the centerline is turned around
            to begin there.

    Returns:
        The ports, and the centerline with their names at its ends.

    Raises:
        InputError: fewer than two ends have a section, two names are meant for one outlet, or no port has the inlet's
            name.
    """
    field = Grid.of(level_set)
    names = names or {}
    ports, named = _ports_at_ends(field, centerline, cut_radii, names)
    if inlet in (None, "inlet"):
        return ports, named
    leaves = {branch.end: branch.index for branch in named.branches if branch.end}
    if inlet not in leaves:
        others = ", ".join(port.name for port in ports)
        raise InputError(f'ports.inlet = "{inlet}" is no port; without it the ports are {others}.')
    names = {name: point for name, point in names.items() if name != inlet}
    return _ports_at_ends(field, centerline.rooted_at(leaves[inlet]), cut_radii, names)


def beyond_ports(centerline: Centerline, ports: Sequence[Port]) -> npt.NDArray[np.bool_]:
    """(n,) which points of a centerline, with the ports' names at its ends, the ports cut off."""
    beyond = np.zeros(len(centerline.points), dtype=bool)
    for port in ports:
        inlet = port.role == "inlet"
        for branch in centerline.branches:
            if branch.end == port.name or (inlet and branch.parent is None):
                ids = branch.point_ids
                nearest = int(np.argmin(np.linalg.norm(centerline.points[ids] - port.center, axis=1)))
                beyond[ids[:nearest] if inlet else ids[nearest + 1 :]] = True
    return beyond


def _ports_at_ends(
    field: Grid, centerline: Centerline, cut_radii: float, names: Mapping[str, Sequence[float]]
) -> tuple[tuple[Port, ...], Centerline]:
    """The ports at a centerline's ends, and the centerline with their names."""
    resolved = RESOLVED_VOXELS * float(field.spacing.max())
    found = []
    for number, (branch, _) in enumerate(centerline.terminals()):
        ids = centerline.branches[branch].point_ids
        ordered = _outside_of_others(centerline, branch, ids if number == 0 else ids[::-1])
        if len(ordered) < 4:
            continue
        ordered = _inward(centerline, ordered, cut_radii)
        ordered = _from_full_width(centerline, ordered, resolved)
        ordered = _from_good_section(field, centerline, ordered)
        center, normal = _end(centerline, ordered)
        # Some lumen has to lie beyond the plane, or it would cut nothing off.
        while len(ordered) > 6 and field.sample(center + float(field.spacing.max()) * normal, outside=1.0)[0] > 0:
            ordered = ordered[1:]
            center, normal = _end(centerline, ordered)
        if field.sample(center + float(field.spacing.max()) * normal, outside=1.0)[0] > 0:
            continue
        area = section_area(field, center, normal, float(centerline.radius[ordered[0]]))
        if area > 0:
            found.append((branch, center, normal, area, number == 0))
    outlets = sorted((end for end in found if not end[4]), key=lambda end: (-end[3], end[0]))
    inlets = [end for end in found if end[4]]
    if not inlets or not outlets:
        raise InputError("The vessel has no inlet and outlet that could be cut; is it longer than wide?")
    called = _called(names, np.array([end[1] for end in outlets]))
    ports, ends = [], {}
    for tag, (branch, center, normal, area, is_inlet) in enumerate([inlets[0], *outlets], start=1):
        name = "inlet" if is_inlet else called.get(tag - 2, f"outlet_{tag - 1}")
        role: Literal["inlet", "outlet"] = "inlet" if is_inlet else "outlet"
        ports.append(Port(name, role, tag, center, normal, float(np.sqrt(area / np.pi)), area))
        if not is_inlet:
            ends[branch] = name
    return tuple(ports), centerline.named(ends)


def _called(names: Mapping[str, Sequence[float]], centers: Array) -> dict[int, str]:
    """The number of the outlet that each name is meant for."""
    found: dict[int, str] = {}
    for name, point in names.items():
        nearest = int(np.argmin(np.linalg.norm(centers - np.array(point, dtype=float), axis=1)))
        if name == "inlet" or nearest in found:
            other = "the inlet" if name == "inlet" else f'"{found[nearest]}"'
            raise InputError(f'The outlet nearest to the point of "{name}" is {other} already; correct ports.names.')
        found[nearest] = name
    return found


def _inward(centerline: Centerline, ordered: Indices, radii: float) -> Indices:
    """Points from an end inward, without the first many radii."""
    if radii <= 0:
        return ordered
    along = arc_of(centerline.points[ordered])
    far = np.flatnonzero(along >= radii * float(np.median(centerline.radius[ordered])))
    return ordered[min(int(far[0]) if len(far) else len(ordered), max(0, len(ordered) - 4)) :]


def _outside_of_others(centerline: Centerline, branch: int, ordered: Indices) -> Indices:
    """Points from an end inward, up to where the branch is within another one: a plane there would cut that one off."""
    others = np.flatnonzero(centerline.branch != branch)
    if len(others) == 0:
        return ordered
    away = np.linalg.norm(centerline.points[ordered][:, None] - centerline.points[others][None], axis=2)
    room = centerline.radius[others][None] + OTHER_ROOM * centerline.radius[ordered][:, None]
    free = np.all(away > room, axis=1)
    return ordered[: len(ordered) if free.all() else int(np.argmin(free))]


def _from_full_width(centerline: Centerline, ordered: Indices, resolved: float) -> Indices:
    """Points from an end inward, without those where the vessel has already thinned out towards its end.

    Where it is thinner than the image resolves it has ended, too.
    """
    radius = centerline.radius[ordered]
    usual = float(np.median(radius))
    full = np.flatnonzero(radius >= min(max(END_WIDTH * usual, resolved), float(radius.max())))
    begin = int(full[0])
    if begin > 0:  # a step further in, so that the plane has something to cut off
        begin = min(begin + 2, len(ordered) - 4)
    return ordered[max(0, begin) :]


def _from_good_section(field: Grid, centerline: Centerline, ordered: Indices) -> Indices:
    """Points from an end inward, beginning where a plane across the vessel meets its wall steeply.

    Where wall and plane meet in a wedge (beside a junction, at a tip), the tetrahedra in the wedge would be slivers.
    """
    slants = []
    for begin in range(max(1, (2 * len(ordered)) // 3)):
        center, normal = _end(centerline, ordered[begin:])
        slants.append(_slant(field, center, normal, float(centerline.radius[ordered[begin]])))
        if slants[-1] <= STEEP_ENOUGH:
            break
    return ordered[int(np.argmin(slants)) :]


def _slant(field: Grid, center: Array, normal: Array, radius: float) -> float:
    """How far a plane is from normal to the wall where they meet: cosine between their normals, the rim's 95 % worst;
    1 where the section is not a closed one."""
    first, second = plane_axes(normal)
    angles = np.linspace(0.0, 2.0 * np.pi, 32, endpoint=False)
    rays = np.cos(angles)[:, None] * first + np.sin(angles)[:, None] * second
    steps = np.linspace(0.0, SECTION_REACH * radius, 48)
    depth = field.sample((center + steps[:, None, None] * rays).reshape(-1, 3), outside=1.0).reshape(len(steps), -1)
    outside = depth > 0
    if outside[0].any() or not outside.any(axis=0).all():
        return 1.0
    rim = center + steps[outside.argmax(axis=0)][:, None] * rays
    slope = field.gradient_at(rim, step=float(field.spacing.max()))
    slope /= np.maximum(np.linalg.norm(slope, axis=1, keepdims=True), 1e-9)
    return float(np.quantile(np.abs(slope @ normal), 0.95))


def _end(centerline: Centerline, ordered: Indices) -> tuple[Array, Array]:
    """Center and outward normal of an end; ``ordered`` runs from it inward."""
    points, radius = centerline.points[ordered], centerline.radius[ordered]
    away = np.linalg.norm(points - points[0], axis=1)
    behind = points[away <= max(TANGENT_RADII * float(radius[0]), float(away[min(3, len(away) - 1)]))]
    direction = points[0] - behind[-1]
    return points[0].copy(), direction / np.linalg.norm(direction)


def plane_axes(normal: Array) -> tuple[Array, Array]:
    """Two unit vectors that span the plane normal to a unit vector."""
    first = np.cross(normal, np.eye(3)[np.argmin(np.abs(normal))])
    first /= np.linalg.norm(first)
    return first, np.cross(normal, first)


def section_area(field: Grid, center: Array, normal: Array, radius: float) -> float:
    """Area [mm2] of the lumen's section through a point, of the part that the point is in; 0 where there is none."""
    reach, count = SECTION_REACH * radius + float(field.spacing.max()), 121
    first, second = plane_axes(normal)
    steps = np.linspace(-reach, reach, count)
    places = center + steps[:, None, None] * first + steps[None, :, None] * second
    values = field.sample(places.reshape(-1, 3), outside=1.0).reshape(count, count)
    parts, _ = ndimage.label(values < 0)
    own = parts[count // 2, count // 2]
    if own == 0:
        return 0.0
    # The share of a cell that is inside follows from the distance at its center, to first order.
    cell = steps[1] - steps[0]
    near = ndimage.binary_dilation(parts == own)
    share = np.clip(0.5 - values / cell, 0.0, 1.0) * near
    return float(share.sum() * cell**2)
