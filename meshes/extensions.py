"""Flow extensions: straight continuations of a lumen beyond its ports, so that flow is developed where it matters."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import SimpleITK as sitk
from scipy import ndimage

from meshes.grid import Grid
from meshes.ports import SECTION_REACH, Port, plane_axes

BEYOND_RADII = 1.5
"""An extension goes on behind the port's new place by this many radii, for the port's plane to cut."""


def extended(level_set: sitk.Image, ports: Sequence[Port], radii: float) -> tuple[sitk.Image, tuple[Port, ...]]:
    """The lumen with every port moved outward along its normal, the port's section led on unchanged.

    Args:
        level_set: signed distance to the wall, mm, negative inside.
        ports: of the lumen.
        radii: length of each extension in the port's radii.

    Returns:
        The level set on a larger grid, and the ports at the extensions' ends. The centerline stays that of the vessel.
    """
    field = Grid.of(level_set)
    step = float(field.spacing.max())
    ends = np.array([port.center + (radii + BEYOND_RADII) * port.radius * port.normal for port in ports])
    reach = max(port.radius for port in ports) * 2.0 + 4 * step
    index = np.concatenate([field.to_index(ends - reach), field.to_index(ends + reach), [[0, 0, 0]], [field.size - 1]])
    low = np.minimum(np.floor(index.min(axis=0)).astype(int), 0)
    high = np.maximum(np.ceil(index.max(axis=0)).astype(int) + 1, field.size)
    width = [(int(a), int(b)) for a, b in zip(-low[::-1], (high - field.size)[::-1], strict=True)]
    values = np.pad(field.values, width, constant_values=float(field.values.max()))
    wide = Grid(values, field.to_position(low)[0], field.spacing, field.direction)
    sections = [_section(field, port) for port in ports]
    for port in ports:
        _take_end_off(wide, port, step)
    for port, section in zip(ports, sections, strict=True):
        _lead_on(wide, port, section, radii, step)
    moved = tuple(replace(port, center=port.center + radii * port.radius * port.normal) for port in ports)
    return wide.image(), moved


def _section(field: Grid, port: Port) -> Grid:
    """The distance to the wall in a port's plane, of the section that the port is in, as a field of one layer."""
    first, second = plane_axes(port.normal)
    step = 0.5 * float(field.spacing.min())
    count = 2 * int(np.ceil((SECTION_REACH * port.radius + 4 * field.spacing.max()) / step)) + 1
    corner = port.center - step * (count // 2) * (first + second)
    plane = Grid(np.zeros((1, count, count)), corner, np.full(3, step), np.stack([first, second, port.normal], axis=1))
    values = field.sample(plane.positions_of(np.arange(count * count)), outside=float(field.values.max()))
    values = values.reshape(count, count)
    parts, _ = ndimage.label(values < 0)
    own = parts[count // 2, count // 2]
    return plane.like(np.where((parts == own) & (own > 0) | (values >= 0), values, -values)[None])


def _take_end_off(wide: Grid, port: Port, step: float) -> None:
    """Take off what the vessel has beyond the port's plane."""
    near = _near(wide, port, 4.0 * port.radius + 4 * step)
    flat = np.flatnonzero(near.ravel())
    offset = wide.positions_of(flat) - port.center
    beyond = np.zeros(wide.values.shape, dtype=bool)
    height = offset @ port.normal
    beyond.ravel()[flat[(height > 0) & (np.linalg.norm(offset, axis=1) < 4.0 * port.radius + 4 * step)]] = True
    parts, _ = ndimage.label(beyond & (wide.values < 0))
    touched = np.unique(parts.ravel()[flat[(height < 1.5 * step) & (np.linalg.norm(offset, axis=1) < 2 * port.radius)]])
    end = np.isin(parts, touched[touched > 0])
    around = ndimage.binary_dilation(end, iterations=3) & beyond
    wide.values[around] = np.maximum(np.abs(wide.values[around]), step)


def _lead_on(wide: Grid, port: Port, section: Grid, radii: float, step: float) -> None:
    """Put the extension in: the section's distance, constant along the normal."""
    last = (radii + BEYOND_RADII) * port.radius
    near = _near(wide, port, last + 2.0 * port.radius + 4 * step)
    flat = np.flatnonzero(near.ravel())
    positions = wide.positions_of(flat)
    height = (positions - port.center) @ port.normal
    chosen = (height > 0) & (height < last + 3 * step)
    flat, positions, height = flat[chosen], positions[chosen], height[chosen]
    depth = section.sample(positions - height[:, None] * port.normal)
    depth = np.maximum(depth, height - last).astype(np.float32)
    wide.values.ravel()[flat] = np.minimum(wide.values.ravel()[flat], depth)


def _near(wide: Grid, port: Port, reach: float) -> np.typing.NDArray[np.bool_]:
    """The block of voxels around a port."""
    corners = wide.to_index(
        port.center + reach * np.array([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)])
    )
    low = np.clip(np.floor(corners.min(axis=0)).astype(int), 0, wide.size)
    high = np.clip(np.ceil(corners.max(axis=0)).astype(int) + 1, 0, wide.size)
    near = np.zeros(wide.values.shape, dtype=bool)
    near[low[2] : high[2], low[1] : high[1], low[0] : high[0]] = True
    return near
