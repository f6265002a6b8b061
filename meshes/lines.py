"""Polylines: (n, 3) points, mm."""

import numpy as np

from meshes.grid import Array


def arc_of(line: Array) -> Array:
    """(n,) length [mm] along a line from its first point."""
    return np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(line, axis=0), axis=1))])


def resampled_line(line: Array, step: float) -> Array:
    """The same line with points evenly about ``step`` mm apart."""
    arc = arc_of(line)
    count = max(3, round(arc[-1] / step) + 1)
    wanted = np.linspace(0.0, arc[-1], count)
    return np.column_stack([np.interp(wanted, arc, line[:, axis]) for axis in range(3)])


def tangents_of(line: Array) -> Array:
    """(n, 3) unit tangents of a line."""
    slope = np.gradient(line, axis=0)
    tangents: Array = slope / np.maximum(np.linalg.norm(slope, axis=1, keepdims=True), 1e-12)
    return tangents
