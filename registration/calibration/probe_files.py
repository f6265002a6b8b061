"""An N-wire phantom and the dots that its images show, from tables."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from registration.calibration.ultrasound import NWire
from registration.errors import InputError
from registration.rigid import Array
from registration.tables import read_rows


def read_wires(path: Path) -> list[NWire]:
    """The phantom's Ns from a table of wires: three lines per N - left, diagonal, right - of both ends x,y,z,x,y,z, mm.

    Raises:
        InputError: the table cannot be read, or holds no whole N.
    """
    table = read_rows(path, (6,), "a wire's front x,y,z and back x,y,z in mm, six numbers")
    if len(table) % 3 or not np.isfinite(table).all():
        raise InputError(f"{path} holds {len(table)} wires; give three finite ones - left, diagonal, right - per N.")
    ends = table.reshape(-1, 3, 2, 3)
    return [NWire(*n) for n in ends]


def read_dots(path: Path, wires: int, images: int) -> tuple[Array, np.ndarray]:
    """Dots (k, Ns, 3, 2) in pixels from a table of image,wire,u,v, and which images (k,) show every wire.

    Args:
        path: the table; images count from 1 in the order of the poses, wires from 1 in that of the phantom's table.
        wires: how many wires the phantom has.
        images: how many poses there are.

    Raises:
        InputError: the table cannot be read, or names an image or a wire that is not there.
    """
    table = read_rows(path, (4,), "image, wire and the pixel u, v, four numbers", ("image", "wire", "u", "v"))
    image, wire = table[:, 0].astype(int) - 1, table[:, 1].astype(int) - 1
    for what, index, count in (("image", image, images), ("wire", wire, wires)):
        wrong = np.flatnonzero((index < 0) | (index >= count))
        if len(wrong):
            raise InputError(f"{path} names {what} {index[wrong[0]] + 1} of {count}; count from 1.")
    dots = np.full((images, wires, 2), np.nan)
    dots[image, wire] = table[:, 2:]
    whole = np.flatnonzero(np.isfinite(dots).all(axis=(1, 2)))
    if not len(whole):
        raise InputError(f"{path} has no image that shows all {wires} wires; mark every dot.")
    return dots[whole].reshape(len(whole), wires // 3, 3, 2), whole
