"""How wrong a pressure sample may be as a witness of the model's pressure at the tip, and when it is not believed.

The variance of (sample - model) is the sum of what the sensor, the tip's place and the reduced model contribute:

    R = sigma_sensor^2 / n  +  g^T Sigma_tip g * k_tip  +  sigma_model^2 * k_model,

with n averaged samples, the pressure gradient g and the tip's covariance Sigma_tip. The last two errors do not
change from one sample to the next: a registration error stays for the whole procedure, a model error repeats
with every beat. Taking each sample as new evidence would count them down like noise and make the filter
overconfident, so each is multiplied by the number k of samples that share one error, its correlation time
over the sampling interval (the usual thinning of correlated observations, written as inflation of R; see
Stewart, Dance & Nichols 2008, doi:10.1002/fld.1636).
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


@dataclass(frozen=True)
class ObservationError:
    """The parts of an observation's error variance, each already in the observation's unit squared."""

    sensor: float
    place: float
    model: float

    @property
    def single(self) -> float:
        """Variance of one sample's difference from the model: what an innovation is judged by."""
        return self.sensor + self.place + self.model

    def as_evidence(self, *, interval_s: float, place_correlation_s: float, model_correlation_s: float) -> float:
        """Variance that gives one sample its due weight among all that share its errors."""
        return (
            self.sensor
            + self.place * max(1.0, place_correlation_s / interval_s)
            + self.model * max(1.0, model_correlation_s / interval_s)
        )


def place_variance(gradient: Array, covariance: Array) -> float:
    """Variance of a field's value from not knowing the place exactly, to first order: g^T Sigma g.

    Args:
        gradient: (3,) the field's gradient [unit/mm].
        covariance: (3, 3) the place's covariance [mm^2].
    """
    return float(gradient @ covariance @ gradient)
