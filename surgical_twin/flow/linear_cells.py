"""The cells' part of a step on linear elements, compiled (`linear_cells.c`): one pass over the cells for each of

- the subscales' time tau and the projection pi(c.grad u), with the largest CFL number;
- the momentum equation: its matrix straight into the entries that the linear solver keeps, and its right-hand side;
- the pressure's subscales.

The equations are those of `momentum` and `projection`. On linear elements gradients are constant in cells and the
integrals are products of corner values: some four hundred operations a cell, where arrays of all cells' intermediate
results (or a loop over quadrature points) take several times as long, being written to memory and read again.
"""

import ctypes
from pathlib import Path
from typing import Any

import numpy as np
from mpi4py import MPI
from numpy.typing import NDArray

from surgical_twin.flow.assembly import TransportPattern
from surgical_twin.flow.bdf import Bdf2
from surgical_twin.flow.compiled import library
from surgical_twin.flow.domain import FlowDomain
from surgical_twin.flow.rheology import CarreauYasuda, Newtonian

Array = NDArray[np.float64]
Indices = NDArray[np.int64]

_SOURCE = Path(__file__).with_name("linear_cells.c")


LANES = 4
"""Cells in a block, as in the source."""


class _Cells(ctypes.Structure):
    _fields_ = [(name, ctypes.c_void_p) for name in ("nodes", "gradients", "volumes", "size")]


class _Past(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_void_p) for name in ("now", "before")),
        *((name, ctypes.c_double) for name in ("ahead", "known_now", "known_before")),
    ]


def _at(array: NDArray[Any]) -> ctypes.c_void_p:
    return ctypes.c_void_p(array.ctypes.data)


def _blocks(values: NDArray[Any], filler: float) -> NDArray[Any]:
    """Values of cells (m, ...) in blocks (m / LANES, ..., LANES), the last one filled up."""
    lacking = -len(values) % LANES
    rest = np.full((lacking, *values.shape[1:]), filler, dtype=values.dtype)
    whole = np.concatenate([values, rest]).reshape(-1, LANES, *values.shape[1:])
    return np.ascontiguousarray(np.moveaxis(whole, 1, -1))


class LinearCells:
    """The cells of a domain under linear elements, in an order of their own that keeps neighbors together.

    With several processes each goes over its share of the cells and they add up; for the matrix, over those that touch
    its rows.
    """

    def __init__(
        self,
        domain: FlowDomain,
        pattern: TransportPattern,
        density: float,
        rheology: Newtonian | CarreauYasuda,
        lag_cfl: float,
        comm: MPI.Comm,
        *,
        lumped: bool = False,
    ) -> None:
        """Lay out the cells.

        Args:
            domain: where.
            pattern: entries of the velocity's matrix.
            density: kg/m^3.
            rheology: of the blood.
            lag_cfl: from this CFL number of a cell on the subscales' projection is extrapolated less.
            comm: processes that share the work.
            lumped: whether each node has the mass around it to itself.

        Raises:
            InputError: there is no C compiler.
        """
        self._library = library(_SOURCE, f"DIM={domain.dimension}", f"LUMPED={int(lumped)}")
        self._library.subscales.restype = ctypes.c_double
        self._pattern, self._density, self._rheology, self._lag, self._comm = pattern, density, rheology, lag_cfl, comm
        self._order = order = np.argsort(pattern.number[domain.tetrahedra].max(axis=1), kind="stable")
        self._size = len(order)
        blocks = -(-len(order) // LANES)
        self._arrays = (
            _blocks(domain.tetrahedra[order].astype(np.int32), 0),
            _blocks(domain.gradients[order], 0.0),
            _blocks(domain.volumes[order], 0.0),  # what is added to fill the last block has no volume
            _blocks(domain.element_length[order], 1.0),
        )
        self._cells = _Cells(*(array.ctypes.data for array in self._arrays))
        place = np.empty(len(order), dtype=np.int64)
        place[order] = np.arange(len(order))
        kept = place[pattern.cells]
        corners = domain.tetrahedra.shape[1]
        positions = np.full((blocks * LANES, corners, corners), pattern.entries, dtype=np.int32)
        positions[kept] = pattern.positions.reshape(-1, corners, corners)
        self._kept = np.unique(kept // LANES)
        self._positions = positions.reshape(blocks, LANES, corners, corners)[self._kept]
        bounds = np.linspace(0, blocks, comm.size + 1).astype(np.int64)
        self._begin, self._end = (ctypes.c_int64(int(bounds[comm.rank + side])) for side in (0, 1))
        self._count = ctypes.c_int64(blocks)
        shares = np.repeat(domain.volumes / corners, corners)
        self._volume = np.bincount(domain.tetrahedra.ravel(), weights=shares, minlength=len(domain.points))
        self._tau = np.zeros(blocks * LANES)
        self._viscosity = np.full(blocks * LANES, rheology.high_shear_viscosity)

    def _past(self, now: Array, before: Array, bdf: Bdf2) -> tuple[_Past, tuple[Array, Array]]:
        """What the compiled code reads of the last two velocities; the second part keeps it alive."""
        kept = np.ascontiguousarray(now, dtype=float), np.ascontiguousarray(before, dtype=float)
        return _Past(kept[0].ctypes.data, kept[1].ctypes.data, bdf.ratio, bdf.rates[1], bdf.rates[2]), kept

    def _sum(self, values: Array) -> None:
        """Add up what each process has."""
        if self._comm.size > 1:
            self._comm.Allreduce(MPI.IN_PLACE, values, MPI.SUM)

    def crossing(self, velocity: Array) -> tuple[float, int]:
        """The largest number of cells that blood of a velocity (n, d) crosses in a second, and the cell where it is."""
        velocity = np.ascontiguousarray(velocity, dtype=float)
        rates = np.empty(len(self._tau))
        self._library.crossing(ctypes.byref(self._cells), self._count, _at(velocity), _at(rates))
        cell = int(np.argmax(rates[: self._size]))
        return float(rates[cell]), int(self._order[cell])

    def equation(self, now: Array, before: Array, pressure: Array, bdf: Bdf2) -> tuple[Array, Array, float]:
        """The momentum equation of a step, without the open ports' part.

        Args:
            now: (n, d) velocity at the step's beginning.
            before: (n, d) a step earlier.
            pressure: (n,) whose gradient drives it, Pa.
            bdf: the step.

        Returns:
            The matrix's values (entries + 1,); the load (n, d), whole in the rows of this process; the largest CFL
            number.
        """
        past, _kept = self._past(now, before, bdf)
        cells, lib = ctypes.byref(self._cells), self._library
        if not isinstance(self._rheology, Newtonian):
            rates = np.empty(len(self._tau))
            lib.shear_rates(cells, self._count, ctypes.byref(past), _at(rates))
            self._viscosity = self._rheology.at(rates)
        kinematic = self._viscosity / self._density
        if self._comm.size > 1:
            self._tau[:] = 0.0
        projected = np.zeros_like(_kept[0])
        rate = lib.subscales(
            cells, self._begin, self._end, ctypes.byref(past), ctypes.c_double(bdf.length), ctypes.c_double(self._lag),
            _at(kinematic), _at(self._tau), _at(projected),
        )  # fmt: skip
        self._sum(projected)
        if self._comm.size > 1:
            self._sum(self._tau)
            rate = self._comm.allreduce(rate, MPI.MAX)
        projected /= self._volume[:, None]
        values, load = np.zeros(self._pattern.entries + 1), np.zeros_like(projected)
        driving = np.ascontiguousarray(pressure, dtype=float)
        lib.momentum(
            cells, _at(self._kept), ctypes.c_int64(len(self._kept)), _at(self._positions), ctypes.byref(past),
            ctypes.c_double(self._density), ctypes.c_double(bdf.rates[0]),
            ctypes.c_double(self._rheology.high_shear_viscosity), _at(self._viscosity), _at(self._tau), _at(projected),
            _at(driving), _at(values), _at(load),
        )  # fmt: skip
        return values, load, float(rate) * bdf.length

    def no_subscale(self) -> Array:
        """The pressure's subscales of a flow at rest, m/s: (blocks, d, LANES)."""
        return np.zeros((len(self._arrays[0]), *self._arrays[1].shape[2:]))

    def pressure_subscale(self, pressure: Array, now: Array, length: float, direct: float = 0.0) -> tuple[Array, Array]:
        """The pressure's subscales w at the end of a step, and (n,) (w, grad q), m^3/s.

        Args:
            pressure: (n,) Pa.
            now: w at the step's beginning.
            length: of the step, s. The time tau is that of the last `equation`.
            direct: share of what is without memory, see `projection`.
        """
        cells, lib = ctypes.byref(self._cells), self._library
        pressure = np.ascontiguousarray(pressure, dtype=float)
        projected = np.zeros((len(pressure), self._arrays[1].shape[2]))
        lib.pressure_slopes(cells, self._begin, self._end, _at(pressure), _at(projected))
        self._sum(projected)
        projected /= self._volume[:, None]
        tested, later = np.zeros(len(pressure)), np.zeros_like(now)
        lib.pressure_subscales(
            cells, self._begin, self._end, _at(pressure), _at(projected), _at(self._tau),
            ctypes.c_double(self._density), ctypes.c_double(1.0 / length), ctypes.c_double(direct), _at(now),
            _at(later), _at(tested),
        )  # fmt: skip
        self._sum(tested)
        self._sum(later)
        return later, tested
