"""How much wider the prior of a drop becomes, against what meshes of a stenosis were measured to be off."""

import pytest

from surgical_twin.assimilation.mesh_losses import drop_deviation, excess_share


@pytest.mark.parametrize(("edges", "excess"), [(5.1, 0.41), (6.4, 0.19), (9.2, 0.086), (13.7, 0.04)])
def test_the_share_is_what_this_solvers_drop_is_too_large_by_against_the_one_it_tends_to(edges, excess):
    assert excess_share(edges) == pytest.approx(excess, rel=0.27)


def test_a_fine_mesh_of_a_wide_throat_adds_next_to_nothing_and_a_hidden_throat_much():
    fine = drop_deviation(edges_across=20.0, diameter_mm=4.0, voxel_mm=0.6)
    coarse = drop_deviation(edges_across=5.0, diameter_mm=4.0, voxel_mm=0.6)
    hidden = drop_deviation(edges_across=5.0, diameter_mm=0.9, voxel_mm=0.6)
    assert fine < 0.03 < 0.2 < coarse < hidden
    # Of a throat seen as 0.9 mm that may be 0.72 as well, the drop may be larger by more than the fourth power of that.
    assert hidden > 4.0 * 0.18 / 0.9
