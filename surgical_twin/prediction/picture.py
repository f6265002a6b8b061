"""The picture of a comparison: the lumen before and after, and the pressure along the vessel in both."""

from pathlib import Path

import numpy as np

from surgical_twin.case import SURFACE, Case
from surgical_twin.prediction.what_if import Comparison, Predictor
from viewer.actors import pressure_modes
from viewer.case_files import read_surface
from viewer.picture_files import write_png
from viewer.side_by_side import lumen_pair, pressure_profiles


def draw_comparison(case: Case, predictor: Predictor, comparison: Comparison, path: Path) -> None:
    """Write the picture of a comparison as PNG.

    Raises:
        InputError: the case's surface is missing, or the file cannot be written.
    """
    lumen = read_surface(case.require(SURFACE))
    points, modes = np.asarray(lumen.points, dtype=float), pressure_modes(lumen).astype(float)
    before, after = (predictor.field_mmhg(outcome, points, modes) for outcome in (comparison.before, comparison.after))
    pair = lumen_pair(lumen, before, after, titles=("before", "after: " + ", ".join(comparison.interventions)))
    profiles = pressure_profiles(
        predictor.station_distance_mm,
        tuple(predictor.station_estimates(comparison.before)),
        tuple(predictor.station_estimates(comparison.after)),
        size=(pair.shape[1], 360),
    )
    write_png(path, np.concatenate([pair, profiles], axis=0))
