"""Pressure changes near a point of a made vessel tree, against a nearest-neighbor search by SciPy."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial import cKDTree

from surgical_twin.flow.nearby_pressure import Stations, pressure_changes


def a_tree(rng):
    """A trunk that forks."""
    along = np.linspace(0.0, 40.0, 60)[:, None]
    trunk = along * [0.0, 0.0, 1.0]
    directions = np.array([[0.6, 0.0, 0.8], [-0.6, 0.0, 0.8]])
    points = np.vstack([trunk, *(trunk[-1] + along * one for one in directions)])
    tangents = np.repeat(np.vstack([[0.0, 0.0, 1.0], directions]), 60, axis=0)
    return Stations(points, tangents, rng.normal(size=(180, 4)), rng.normal(size=(180, 4)))


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    scale=st.sampled_from([0.0, 0.1, 2.0, 50.0]),
    off=st.sampled_from([0.0, 1.0, 30.0]),
    reach=st.floats(0.1, 5.0),
)
def test_every_place_counts_by_its_nearest_station_and_by_how_far_it_is_beside_it(seed, scale, off, reach):
    rng = np.random.default_rng(seed)
    stations = a_tree(rng)
    origin = stations.points[rng.integers(180)] + off * rng.normal(size=3)
    moved, coefficients = scale * rng.normal(size=(20, 3)), rng.normal(size=(20, 4))
    places = np.vstack([origin, origin + moved])
    distance, near = cKDTree(stations.points).query(places)
    beside = np.einsum("nj,nj->n", places - stations.points[near], stations.tangents[near])
    modes = stations.modes[near] + np.clip(beside, -reach, reach)[:, None] * stations.slopes[near]
    expected = ((modes[1:] - modes[0]) * coefficients).sum(axis=1)
    found = pressure_changes(stations, origin, moved, coefficients, reach)
    # Where two stations are equally near, as at the fork, either is right.
    second = cKDTree(stations.points).query(places, k=2)[0][:, 1]
    clear = second - distance > 1e-9
    if clear[0]:
        np.testing.assert_allclose(found[clear[1:]], expected[clear[1:]], rtol=1e-9, atol=1e-9)
