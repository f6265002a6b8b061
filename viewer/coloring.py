"""Which quantities a case's lumen may be colored by, the one that is chosen, and its values."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from viewer.errors import InputError
from viewer.history import History
from viewer.quantities import FFR, PRESSURE, Field, Quantity, quantity_named

if TYPE_CHECKING:
    from streams.messages import TwinState


class Coloring:
    """Pressure and its ratio to the inlet's, which every state tells, and what else a case has.

    Args:
        modes: (points, K) pressure modes of the lumen.
        history: for means over a beat.
        limits: of the pressure's color scale, mmHg.
        fields: a further quantity's key to its values at a state's time.
        quantities: what is to be known of these beyond `viewer.quantities`, such as their scale in this case.
    """

    def __init__(
        self,
        modes: NDArray[np.float32],
        history: History,
        limits: tuple[float, float],
        fields: Mapping[str, Field],
        quantities: Iterable[Quantity],
    ) -> None:
        self._modes, self._history = modes, history
        self._fields: dict[str, Field] = {PRESSURE.key: self._pressure, FFR.key: self._ratio, **fields}
        self._quantities = {key: quantity_named(key) for key in self._fields} | {q.key: q for q in quantities}
        self._quantities[PRESSURE.key] = PRESSURE.within(limits)
        self.quantity = self._quantities[PRESSURE.key]

    @property
    def quantities(self) -> tuple[Quantity, ...]:
        """What the lumen may be colored by."""
        return tuple(self._quantities.values())

    @property
    def field(self) -> Field:
        """From a state to the chosen quantity's value at each point of the lumen."""
        return self._fields[self.quantity.key]

    def choose(self, key: str) -> None:
        """Color by another quantity.

        Raises:
            InputError: this case cannot show it.
        """
        if key not in self._quantities:
            raise InputError(f'this case cannot be colored by "{key}"; choose from {", ".join(self._quantities)}.')
        self.quantity = self._quantities[key]

    def _pressure(self, state: TwinState) -> NDArray[np.float32] | None:
        if not state.field_coefficients:
            return None
        return np.asarray(self._modes @ np.array(state.field_coefficients, dtype=np.float32))

    def _ratio(self, state: TwinState) -> NDArray[np.float32] | None:
        """Mean pressure of the last beat over the inlet's: FFR in hyperemia, Pd/Pa at rest."""
        means = self._history.beat
        if means is None or not means.inlet_mmhg > 1.0 or len(means.coefficients) != self._modes.shape[1]:
            return None
        return np.asarray(self._modes @ means.coefficients.astype(np.float32) / np.float32(means.inlet_mmhg))
