r"""Where in the vessel tree a tracked tip is: a hidden Markov model over the tree's stations.

Between two fixes the tip moves along the vessel by a normally distributed distance whose deviation grows with time; a
fix z fits station k with the density

    exp(-1/2 [ (t_k . d)^2 / s_a^2 + |d - t_k (t_k . d)|^2 / s_l^2 ]) / (s_a s_l^2),    d = z - c_k,

s_a the axial and s_l^2 = (f R_k)^2 + noise^2 the lateral deviation: a catheter lies anywhere in the lumen of radius
R_k, more often near its middle than at its wall. The forward recursion gives each station's probability, their sums per
branch the branch's. Only stations within reach carry probability, so a step costs microseconds.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from registration.lumen.branch_tree import BranchTree
from registration.lumen.matching_kernel import fitted, moved_on
from registration.rigid import Array

LATERAL = 0.4
"""Standard deviation of a catheter's distance from the centerline, per direction, in radii."""

FORGOTTEN = 1e-7
"""Stations of less probability are dropped."""

LOST = 3.0 * math.log(FORGOTTEN)
"""Log density at which no station within reach explains a fix: the catheter was exchanged, or lost for long."""


@dataclass(frozen=True)
class Belief:
    """Stations (k,) at which the tip may be, with the probability (k,) of each."""

    stations: NDArray[np.intp]
    weight: Array

    def by_branch(self, tree: BranchTree) -> Array:
        """Probability of each of the tree's branches."""
        return np.bincount(tree.branch[self.stations], weights=self.weight, minlength=len(tree.names))


def match(
    tree: BranchTree, belief: Belief | None, tip: Array, *, moved_mm: float, noise_mm: float, doubt_mm2: float
) -> Belief:
    """The belief after one more fix.

    Args:
        tree: the vessel.
        belief: before it; None where the tip may be anywhere.
        tip: (3,) where the tracker sees it, mm.
        moved_mm: standard deviation of the way that it may have gone since the last fix.
        noise_mm: standard deviation of a fix per direction.
        doubt_mm2: variance of the registration at the tip, per direction.
    """
    if belief is None:
        active = np.arange(len(tree.points))
        prior = np.full(len(active), 1.0 / len(active))
    else:
        # Half a millimeter of the station raster, and what the catheter may have moved.
        sigma = math.hypot(moved_mm, 1.0)
        active, prior = moved_on(tree.distances, belief.stations, belief.weight, sigma, 4.5 * sigma + 2.0)
    log = fitted(
        tree.points, tree.tangents, tree.radii, active, prior, tip, LATERAL, float(noise_mm) ** 2, float(doubt_mm2)
    )
    best = log.max()
    if belief is not None and best < LOST:
        return match(tree, None, tip, moved_mm=0.0, noise_mm=noise_mm, doubt_mm2=doubt_mm2)
    weight = np.exp(log - best)
    weight /= weight.sum()
    keep = weight > FORGOTTEN
    weight = weight[keep]
    return Belief(active[keep], weight / weight.sum())
