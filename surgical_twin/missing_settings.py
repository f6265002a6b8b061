"""What a case says of the measurements that its sensors lose because of their value.

```toml
[missing.catheter_pressure]     # the sensor's name
above = "180 mmHg"
share = 0.9                     # of what is beyond
usual = 0.05                    # of all else
```
"""

from __future__ import annotations

import math
from typing import Any

import msgspec

from surgical_twin.assimilation.missing import Missingness
from surgical_twin.case import MANIFEST, MISSING, Case
from surgical_twin.errors import InputError
from surgical_twin.units import read_quantity


class _SensorMissing(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    above: str | None = None
    below: str | None = None
    share: float = 1.0
    usual: float = 0.05


def read_missingness(case: Case) -> dict[str, Missingness]:
    """By pressure sensor: what it loses; pressures in mmHg. Empty where the case says nothing of it.

    Raises:
        InputError: the table cannot be read, a share is none, or the limits are in the wrong order.
    """
    table: Any = case.manifest.get(MISSING, {})
    where = f"{case.path(MANIFEST)}: {MISSING}"
    if not isinstance(table, dict):
        raise InputError(f"{where} is {table!r}; it must be a table with one table for each sensor.")
    return {name: _read(f"{where}.{name}", value) for name, value in table.items()}


def _read(where: str, value: Any) -> Missingness:
    try:
        said = msgspec.convert(value, _SensorMissing)
    except msgspec.ValidationError as error:
        raise InputError(f"{where}: {error}; give above, below, share and usual.") from error
    for name, share in (("share", said.share), ("usual", said.usual)):
        if not 0.0 < share <= 1.0:
            raise InputError(f"{where}.{name} = {share} is no share; write a number above 0, up to 1.")
    limits = [-math.inf, math.inf]
    for number, (name, text) in enumerate((("below", said.below), ("above", said.above))):
        if text is not None:
            limits[number] = read_quantity(text, "mmHg", name=f"{where}.{name}")
    if all(map(math.isinf, limits)):
        raise InputError(f'{where} has no limit; give above or below, as in above = "180 mmHg".')
    if not limits[0] < limits[1]:
        raise InputError(f"{where}: below = {limits[0]:g} mmHg is not less than above = {limits[1]:g} mmHg.")
    return Missingness(limits[0], limits[1], said.share, said.usual)
