import numpy as np
import pytest
from scipy import sparse
from scipy.interpolate import LinearNDInterpolator
from scipy.sparse.linalg import spsolve
from scipy.spatial import Delaunay
from scipy.spatial.transform import Rotation

from registration.absolute_orientation import fit_points
from registration.elastic import ElasticBody
from registration.errors import InputError
from registration.rigid import apply_to_points

SIZE = np.array([140.0, 110.0, 90.0])


def box(spacing=10.0, seed=0):
    """Nodes and tetrahedra of a block of tissue."""
    rng = np.random.default_rng(seed)
    axes = [np.linspace(0, s, round(s / spacing) + 1) for s in SIZE]
    nodes = np.array(np.meshgrid(*axes, indexing="ij")).reshape(3, -1).T
    inside = ((nodes > 1) & (nodes < SIZE - 1)).all(axis=1)
    nodes = nodes + inside[:, None] * rng.uniform(-0.15, 0.15, nodes.shape) * spacing
    tetrahedra = Delaunay(nodes).simplices
    corners = nodes[tetrahedra]
    volume = np.abs(np.linalg.det(corners[:, 1:] - corners[:, :1])) / 6
    return nodes, tetrahedra[volume > 1e-3 * spacing**3]


@pytest.fixture(scope="module")
def body():
    return ElasticBody(*box())


def face_points(rng, count):
    """Places on the upper face and two sides, as a camera or a pointer sees them."""
    p = rng.uniform(0, 1, (count, 3)) * SIZE
    side = rng.integers(0, 3, count)
    p[side == 0, 2], p[side == 1, 0], p[side == 2, 1] = SIZE[2], SIZE[0], 0.0
    return p


def test_a_uniform_stretch_is_reproduced_inside(body):
    rng = np.random.default_rng(1)
    points = np.concatenate([face_points(rng, 80), SIZE - face_points(rng, 80)])  # all six faces
    stretch = np.diag([0.03, -0.0135, -0.0135])  # uniaxial: Poisson's ratio 0.45
    body.prepare(points)
    warp = body.register(points @ stretch, noise_mm=0.02)
    inside = rng.uniform(0.1, 0.9, (40, 3)) * SIZE
    np.testing.assert_allclose(warp(inside) - inside, inside @ stretch, atol=0.4)
    assert warp.verdict.level == "pass"


@pytest.mark.parametrize("seed", [0, 1])
def test_a_rigid_motion_bends_nothing(body, seed):
    rng = np.random.default_rng(seed)
    points = face_points(rng, 30)
    turn = Rotation.from_rotvec(rng.normal(size=3) * 0.01).as_matrix()
    body.prepare(points)
    warp = body.register(points @ turn.T - points + (4.0, -2.0, 3.0), noise_mm=0.05)
    inside = rng.uniform(0.1, 0.9, (40, 3)) * SIZE
    np.testing.assert_allclose(warp(inside), inside @ turn.T + (4.0, -2.0, 3.0), atol=0.1)
    assert warp.smallest_volume == pytest.approx(1.0, abs=0.01)


def sag(points):
    """A sag of 10 mm at the middle of the upper face, smooth and nearly without change of volume."""
    x, y, z = (points / SIZE).T
    down = -10.0 * np.sin(np.pi * x) * np.sin(np.pi * y) * z**1.5
    along = 2.0 * np.cos(np.pi * x) * np.sin(np.pi * y) * z
    return np.column_stack([along, 0.5 * along, down])


BASE = np.array([(x, y, 0.0) for x in np.linspace(5, 135, 6) for y in np.linspace(5, 105, 5)])


def top_points(rng, count):
    """Places on the exposed upper face."""
    return rng.uniform(0, 1, (count, 3)) * SIZE * (1, 1, 0) + (0, 0, SIZE[2])


def stiffness(nodes, tetrahedra, poisson):
    """Of linear tetrahedra with a shear modulus of 1, assembled here: the truth owes nothing to what is tested."""
    edges = nodes[tetrahedra[:, 1:]] - nodes[tetrahedra[:, :1]]
    volume = np.abs(np.linalg.det(edges)) / 6
    slopes = np.linalg.inv(edges)  # (k, 3, 3): column j the gradient of corner j + 1
    slopes = np.concatenate([-slopes.sum(axis=2, keepdims=True), slopes], axis=2)
    ratio = 2 * poisson / (1 - 2 * poisson)
    dots = np.einsum("kia,kib->kab", slopes, slopes)
    blocks = np.einsum("kab,ij->kaibj", dots, np.eye(3)) + np.einsum("kja,kib->kaibj", slopes, slopes)
    blocks = (blocks + ratio * np.einsum("kia,kjb->kaibj", slopes, slopes)) * volume[:, None, None, None, None]
    index = (3 * tetrahedra[:, :, None] + np.arange(3)).reshape(len(tetrahedra), 12)
    rows, columns = np.repeat(index, 12, axis=1).ravel(), np.tile(index, (1, 12)).ravel()
    return sparse.coo_matrix((blocks.ravel(), (rows, columns)), shape=(3 * len(nodes),) * 2).tocsc()


def sagged(rng, spacing=8.0):
    """Where tissue that sagged has its points, targets inside it (300, 3), and where they are then.

    A finer body of another Poisson's ratio, its base fast, its upper face displaced as a whole, its sides free.
    """
    nodes, tetrahedra = box(spacing, seed=5)
    matrix = stiffness(nodes, tetrahedra, 0.40)
    top, base = nodes[:, 2] > SIZE[2] - 1e-6, nodes[:, 2] < 1e-6
    moved = np.where(top[:, None], sag(nodes), 0.0).ravel()
    given = np.repeat(top | base, 3)
    load = -(matrix[~given][:, given] @ moved[given])
    moved[~given] = spsolve(matrix[~given][:, ~given].tocsc(), load)
    inside = LinearNDInterpolator(nodes, moved.reshape(-1, 3))
    targets = rng.uniform(0.15, 0.85, (300, 3)) * SIZE

    def tissue(points):
        return points + inside(np.clip(points, 1e-6, SIZE - 1e-6))

    return tissue, targets, tissue(targets)


@pytest.mark.parametrize("where", [top_points, face_points])
def test_a_deformation_of_ten_millimeters_is_mostly_removed_by_fifty_points(body, where):
    rng = np.random.default_rng(2)
    tissue, targets, truth = sagged(rng, spacing=9.0)
    points = where(rng, 50)
    measured = tissue(points) - points + rng.normal(size=points.shape) * 0.3
    rigid = apply_to_points(fit_points(points[None], points[None] + measured)[0], targets)
    body.prepare(points, support=BASE)
    warp = body.register(measured, noise_mm=0.3)
    before, after = (np.linalg.norm(p - truth, axis=1) for p in (rigid, warp(targets)))
    assert after.mean() < 0.4 * before.mean()
    assert warp.verdict.level == "pass"
    # The error is about as large as it is said to be.
    said = np.sqrt(np.trace(warp.covariance(targets[:60]), axis1=1, axis2=2))
    assert 0.5 < np.sqrt(np.mean(after[:60] ** 2)) / np.sqrt(np.mean(said**2)) < 2.0


def test_far_from_all_points_a_body_is_known_less(body):
    body.prepare(top_points(np.random.default_rng(6), 50))
    warp = body.register(np.zeros((50, 3)), noise_mm=0.3)
    under = np.array([[70.0, 55.0, 85.0], [70.0, 55.0, 45.0], [70.0, 55.0, 5.0]])
    said = np.trace(warp.covariance(under), axis1=1, axis2=2)
    assert (np.diff(said) > 0.0).all()
    # No deformation was seen: next to none is thought possible.
    assert said[-1] < 1.0


def test_distances_along_normals_alone_move_a_body_that_slid(body):
    rng = np.random.default_rng(3)
    points = face_points(rng, 80)
    normals = np.where(
        points[:, 2:] == SIZE[2], (0, 0, 1.0), np.where(points[:, :1] == SIZE[0], (1.0, 0, 0), (0, -1.0, 0))
    )
    body.prepare(points, normals)
    warp = body.register(np.sum(sag(points) * normals, axis=1), noise_mm=0.2)
    top = np.array([[70.0, 55.0, 85.0]])
    assert (warp(top) - top)[0, 2] == pytest.approx(sag(top)[0, 2], abs=2.0)
    assert warp.residuals_mm.shape == (80,)


def test_turning_the_body_turns_the_warp(body):
    rng = np.random.default_rng(4)
    turn, points = Rotation.random(rng=rng).as_matrix(), face_points(rng, 20)
    nodes, tetrahedra = box()
    other = ElasticBody(nodes @ turn.T, tetrahedra)
    body.prepare(points)
    other.prepare(points @ turn.T)
    a, b = body.register(sag(points)), other.register(sag(points) @ turn.T)
    np.testing.assert_allclose(a.displacements @ turn.T, b.displacements, atol=0.02)


def test_bodies_and_points_that_cannot_be_are_refused(body):
    nodes, tetrahedra = box()
    with pytest.raises(InputError, match="names a node"):
        ElasticBody(nodes, tetrahedra + len(nodes))
    with pytest.raises(InputError, match="Poisson"):
        ElasticBody(nodes, tetrahedra, poisson=0.5)
    with pytest.raises(InputError, match="no volume"):
        ElasticBody(nodes, np.vstack([tetrahedra, [0, 1, 2, 3]]))
    with pytest.raises(InputError, match="no tetrahedron uses"):
        ElasticBody(np.vstack([nodes, [500.0, 0, 0]]), tetrahedra)
    with pytest.raises(InputError, match="3 surface points"):
        body.prepare(nodes[:3])
    body.prepare(nodes[:10])
    with pytest.raises(InputError, match="not finite"):
        body.register(np.full((10, 3), np.nan))
