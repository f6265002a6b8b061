"""Particles against paths known in closed form, and a wall that moves as its series says."""

import numpy as np
import pytest
import pyvista as pv

from viewer.case_files import read_case
from viewer.errors import InputError
from viewer.motion import Motion, read_motion, write_motion
from viewer.particles import LIFE_S, Particles, TetrahedronWalk
from viewer.quantities import VELOCITY
from viewer.scene import Scene


@pytest.fixture(scope="module")
def box():
    """Tetrahedra that fill a box of 40 x 40 x 60 mm around the origin."""
    grid = pv.ImageData(dimensions=(9, 9, 13), spacing=(5.0, 5.0, 5.0), origin=(-20.0, -20.0, -30.0))
    cells = grid.cast_to_unstructured_grid().delaunay_3d()
    return pv.UnstructuredGrid(cells.cells, cells.celltypes, cells.points)


def test_a_walk_finds_the_tetrahedron_that_holds_each_point(box):
    cells = np.asarray(box.cells).reshape(-1, 5)[:, 1:]
    walk = TetrahedronWalk(np.asarray(box.points, dtype=float), cells)
    rng = np.random.default_rng(0)
    where = rng.uniform((-19, -19, -29), (19, 19, 29), (300, 3))
    held = np.array([box.find_containing_cell(point) for point in where])
    # From a neighbor of where they are, and from there with a step.
    near = where + rng.normal(0.0, 2.0, where.shape)
    begin = np.array([box.find_containing_cell(np.clip(p, (-19, -19, -29), (19, 19, 29))) for p in near])
    found, weights = walk.follow(where, begin)
    assert (found >= 0).mean() > 0.99
    inside = found >= 0
    back = np.einsum("ki,kij->kj", weights[inside], np.asarray(box.points)[cells[found[inside]]])
    np.testing.assert_allclose(back, where[inside], atol=1e-6)
    assert (weights[inside] > -1e-9).all()
    assert (found[inside] == held[inside]).mean() > 0.95  # points on a face may be in either
    gone, _ = walk.follow(where + (100.0, 0.0, 0.0), held)
    assert (gone == -1).all()


def test_particles_go_around_as_a_turning_body_does_and_never_drift_off(box):
    """u = omega x r: after a time t a particle has turned by omega t at its own distance from the axis."""
    particles = Particles(box, 400)
    omega = 8.0
    r = np.asarray(box.points, dtype=float)
    velocity = (1e-3 * omega * np.column_stack([-r[:, 1], r[:, 0], 0.0 * r[:, 0]])).astype(np.float32)
    start = particles.places.copy()
    ages = LIFE_S * ((np.arange(len(start)) * 0.7548776662466927) % 1.0)
    radius = np.hypot(*start[:, :2].T)
    kept = (radius < 17.0) & (ages < LIFE_S - 0.5)  # not out through a side, not begun anew
    for number in range(21):
        particles.show(velocity, 10.0 + 0.02 * number)
    turned = omega * 0.4
    c, s = np.cos(turned), np.sin(turned)
    wanted = np.column_stack([c * start[:, 0] - s * start[:, 1], s * start[:, 0] + c * start[:, 1], start[:, 2]])
    off = np.linalg.norm(particles.places - wanted, axis=1)[kept]
    assert kept.sum() > 100
    # The midpoint rule turns by omega h (1 - (omega h)^2 / 6) a step: 0.1 % of the way here.
    assert off.max() < 0.002 * turned * 17.0 + 0.01


def test_a_velocity_that_grows_between_two_states_is_taken_as_growing(box):
    """u = a t along z, told at 0 and T alone: the way is a T^2 / 2, which neither end's velocity alone gives."""
    particles = Particles(box, 300)
    start = particles.places.copy()
    still = np.zeros((box.n_points, 3), dtype=np.float32)
    fast = still.copy()
    fast[:, 2] = 0.1
    particles.show(still, 0.0)
    particles.show(fast, 0.2)
    gone = particles.places[:, 2] - start[:, 2]
    ages = LIFE_S * ((np.arange(len(start)) * 0.7548776662466927) % 1.0)
    kept = (start[:, 2] < 15.0) & (ages < LIFE_S - 0.3)
    np.testing.assert_allclose(gone[kept], 1e3 * 0.1 * 0.2 / 2, atol=1e-3)


def test_equal_states_give_equal_particles_and_jumps_do_not_throw_them(box):
    rng = np.random.default_rng(1)
    fields = [rng.normal(0.0, 0.2, (box.n_points, 3)).astype(np.float32) for _ in range(6)]
    one, two = Particles(box, 200), Particles(box, 200)
    for number, field in enumerate(fields):
        for particles in (one, two):
            particles.show(field, 0.03 * number)
    np.testing.assert_array_equal(one.places, two.places)
    low, high = np.array(box.bounds).reshape(3, 2).T
    assert (one.places >= low - 1e-6).all()
    assert (one.places <= high + 1e-6).all()
    before = one.places.copy()
    one.show(fields[0], 500.0)  # a jump in a replay
    np.testing.assert_array_equal(one.places, before)
    with pytest.raises(InputError, match="finite velocity"):
        one.show(np.full((box.n_points, 3), np.nan, dtype=np.float32), 500.1)
    with pytest.raises(InputError, match="at every vertex"):
        one.show(fields[0][:5], 500.1)


def test_the_scene_shows_particles_or_streamlines(lumen, box, state):
    velocity = np.zeros((box.n_points, 3), dtype=np.float32)
    velocity[:, 2] = -0.3
    scene = Scene(lumen, grid=box, fields={VELOCITY.key: lambda _: velocity}, size=(500, 400))
    scene.color_by(VELOCITY.key)
    scene.update(state(model_time_ns=0))
    lines = scene.render()
    scene.show_particles(True)
    scene.update(state(model_time_ns=100_000_000))
    first = scene.render()
    scene.update(state(model_time_ns=200_000_000))
    second = scene.render()
    assert (first != lines).any()
    assert (first != second).any()
    scene.update(state(model_time_ns=300_000_000, flags=("pressure_stale",)))
    assert not scene._view._particles.actor.GetVisibility()  # what is not to be trusted does not flow
    scene.show_particles(False)
    scene.update(state(model_time_ns=400_000_000))
    assert scene.as_particles is False
    scene.close()


def widening(lumen, count=8):
    """A wall that is wider by 10 % in the middle of the beat."""
    points = np.asarray(lumen.points, dtype=np.float64)
    phases = 0.05 * (1.0 - np.cos(2.0 * np.pi * np.arange(count) / count))
    moved = np.array([points * (1.0 + share) for share in phases], dtype=np.float32)
    return Motion(np.arange(count) * 0.8 / count, moved, 0.8)


def test_a_moving_wall_is_written_read_and_goes_with_the_heart(case, lumen, state):
    motion = widening(lumen)
    write_motion(case, lumen, motion, count=8)
    found = read_motion(case / "motion.pvd", lumen)
    assert found.period_s == pytest.approx(0.8)
    for share in (0.0, 0.3, 0.5, 0.97):
        np.testing.assert_allclose(found.at(share), motion.at(share), atol=2e-3)
    series = pv.PVDReader(str(case / "motion.pvd"))  # as ParaView opens it
    assert len(series.time_values) == 8
    assert "motion" in read_case(case)[1]
    scene = Scene.from_case(case, size=(500, 400))
    rest = np.asarray(scene._lumen.mesh.points).copy()

    def beat(seconds):
        """R-waves at 0, 0.8, 1.6 ... s."""
        age = round((seconds % 0.8) * 1e9)
        scene.update(state(source_time_ns=round(seconds * 1e9), age_ns={"trigger/r_wave": age}))
        return np.asarray(scene._lumen.mesh.points)

    np.testing.assert_array_equal(beat(0.4), rest)  # before two beats nobody knows how long one is
    for seconds in np.arange(0.5, 2.0, 0.1):
        beat(seconds)
    np.testing.assert_allclose(beat(2.0), 1.1 * rest, atol=0.02)  # half of the beat
    wide = scene.render()
    normals = np.asarray(scene._lumen.mesh.point_data.active_normals)
    outward = np.asarray(pv.PolyData(rest, scene._lumen.mesh.faces).compute_normals(
        cell_normals=False, split_vertices=False, auto_orient_normals=True).point_data.active_normals)  # fmt: skip
    assert ((normals * outward).sum(axis=1) > 0.95).mean() > 0.99
    np.testing.assert_allclose(beat(2.4), rest, atol=0.02)
    assert (scene.render() != wide).any()
    scene.close()


def test_a_series_that_cannot_be_of_this_vessel_is_refused_in_words(case, lumen):
    write_motion(case, lumen, widening(lumen), count=4)
    path = case / "motion.pvd"
    text = path.read_text()
    pv.Sphere().save(case / "motion" / "surface_002.vtp")
    with pytest.raises(InputError, match="does not have the"):
        read_motion(path, lumen)
    (case / "motion" / "surface_002.vtp").unlink()
    with pytest.raises(InputError, match="not in the case"):
        read_motion(path, lumen)
    path.write_text(text.replace("motion/surface_002.vtp", "../../surface.vtp"))
    with pytest.raises(InputError, match="not in the case"):
        read_motion(path, lumen)
    path.write_text('<!DOCTYPE x [<!ENTITY a "b">]>' + text)
    with pytest.raises(InputError, match="no collection"):
        read_motion(path, lumen)
    path.write_text("nothing of the kind")
    with pytest.raises(InputError, match="no collection"):
        read_motion(path, lumen)
    with pytest.raises(InputError, match="rise"):
        Motion(np.array([0.0, 0.0]), np.zeros((2, 3, 3), dtype=np.float32))
    far = widening(lumen)
    metres = Motion(np.array([0.0, 0.4]), np.array([1e3 * far.at(0.0), 1e3 * far.at(0.5)]), 0.8)
    write_motion(case, lumen, metres, count=2)
    with pytest.raises(InputError, match="more than 60 mm"):
        read_motion(path, lumen)
