"""What is believed of the patient's circulation before the procedure: mean and covariance of its parameters.

The parameters are the columns of the live filter's ensemble: natural logarithms of the factors on the plan's outlet
resistances, compliances, inflow and pressure drop, then the Fourier coefficients by which the inflow's shape differs
from the planned one, as shares of its mean:

    Q(phase) = factor * (planned(phase) + mean * sum_k (a_k cos 2 pi k phase + b_k sin 2 pi k phase)).

Without a calibration the plan's own spread is the prior. A calibration from history (`calibration`) stores a narrower
one in the case, as ``calibration.json``.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from surgical_twin.assimilation.flow_filter import FilterSettings
from surgical_twin.case import Case
from surgical_twin.errors import InputError

Array = NDArray[np.float64]

CALIBRATION = "calibration.json"
FORMAT = 1
HARMONICS = 5
SHAPE_DEVIATION = 0.06
"""Of each harmonic's coefficients, as a share of the mean flow."""


@dataclass(frozen=True)
class FlowPrior:
    """A Gaussian over the parameters, in the order of `names`.

    Raises `InputError` where shapes do not match or the covariance is none.
    """

    outlets: tuple[str, ...]
    mean: Array
    """(k,)"""
    covariance: Array
    """(k, k)"""

    def __post_init__(self) -> None:
        k = len(self.mean)
        if (k - self.factors) % 2 or k < self.factors:
            raise InputError(
                f"A prior of {len(self.outlets)} outlets has {self.factors} factors and pairs of shape coefficients; "
                f"got {k} parameters."
            )
        if self.mean.shape != (k,) or self.covariance.shape != (k, k):
            raise InputError(
                f"The prior of {len(self.outlets)} outlets has {k} parameters; got a mean of {self.mean.shape} and a "
                f"covariance of {self.covariance.shape}."
            )
        if not np.isfinite(self.covariance).all() or np.linalg.eigvalsh(self.covariance)[0] < -1e-9:
            raise InputError("The prior's covariance is none: it has a negative variance.")

    @property
    def names(self) -> tuple[str, ...]:
        """What each column is, in words."""
        return parameter_names(self.outlets, (len(self.mean) - self.factors) // 2)

    @property
    def factors(self) -> int:
        """How many of the columns are logarithms of factors: the live filter's ``log_factors``."""
        return 2 * len(self.outlets) + 2

    @property
    def deviation(self) -> Array:
        """(k,)"""
        return np.asarray(np.sqrt(np.diag(self.covariance)))

    @property
    def root(self) -> Array:
        """(k, k) A with A A' = covariance; draws (m, k) of unit variance become ``mean + draws @ A.T``."""
        values, vectors = np.linalg.eigh(self.covariance)
        return np.asarray(vectors * np.sqrt(np.maximum(values, 0.0)))

    def with_harmonics(self, count: int, deviation: float = SHAPE_DEVIATION) -> FlowPrior:
        """The same for a filter whose inflow has another number of harmonics: the last ones are left out, or join
        with a deviation of their own, uncorrelated."""
        size = self.factors + 2 * count
        kept = min(size, len(self.mean))
        mean, covariance = np.zeros(size), np.eye(size) * deviation**2
        mean[:kept], covariance[:kept, :kept] = self.mean[:kept], self.covariance[:kept, :kept]
        return FlowPrior(self.outlets, mean, covariance)

    @classmethod
    def planned(cls, outlets: Sequence[str], settings: FilterSettings | None = None) -> FlowPrior:
        """What the plan alone says, with the live filter's spreads."""
        chosen = settings or FilterSettings()
        count = len(outlets)
        deviation = np.concatenate(
            [
                np.full(count, chosen.resistance_deviation),
                np.full(count, chosen.compliance_deviation),
                [chosen.inflow_deviation, chosen.drop_deviation],
                np.full(2 * HARMONICS, SHAPE_DEVIATION),
            ]
        )
        return cls(tuple(outlets), np.zeros(len(deviation)), np.diag(deviation**2))

    @classmethod
    def of_case(cls, case: Case, outlets: Sequence[str], settings: FilterSettings | None = None) -> FlowPrior:
        """What the case's calibration has left, else `planned`.

        Raises:
            InputError: the calibration cannot be read, or is of another plan.
        """
        path = case.path(CALIBRATION)
        if not path.is_file():
            return cls.planned(outlets, settings)
        try:
            stored = json.loads(path.read_text(encoding="utf-8"))
            if stored["format"] != FORMAT:
                raise InputError(f"it has the format {stored['format']}, and this software reads {FORMAT}")
            prior = cls(
                tuple(stored["outlets"]),
                np.array(stored["prior"]["mean"], dtype=float),
                np.array(stored["prior"]["covariance"], dtype=float),
            )
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(f"{path} cannot be used ({error}); calibrate the case again, or delete it.") from error
        if prior.outlets != tuple(outlets) or stored.get("plan") != plan_identity(case):
            raise InputError(f"{path} belongs to another plan of this case; calibrate it again, or delete the file.")
        return prior


def plan_identity(case: Case) -> dict[str, object]:
    """What a calibration's factors are relative to: the planned circulation."""
    flow = case.manifest["flow"]
    return {name: flow[name] for name in ("windkessels", "waveform", "mean_flow_m3_s", "period_s")}


def parameter_names(outlets: Sequence[str], harmonics: int = HARMONICS) -> tuple[str, ...]:
    """In the order of the columns."""
    shape = [f"inflow shape {part}{k}" for k in range(1, harmonics + 1) for part in ("cos", "sin")]
    return (
        *(f"resistance {name}" for name in outlets),
        *(f"compliance {name}" for name in outlets),
        "inflow",
        "pressure drop",
        *shape,
    )
