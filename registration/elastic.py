r"""Tissue that moved: a linear-elastic body driven by a few surface points, and what lies inside it moved along.

Equilibrium of a homogeneous isotropic body that nothing loads inside, only unknown tractions f at its surface,

    -div sigma(u) = 0,     sigma n = f,     sigma = lambda tr(eps) I + 2 mu eps,     eps = sym grad u,

its displacement u measured at m surface points only (of a surface that slid, along the normal alone),

    d_j = P_j B_j u + noise,     u = K^+ f + rigid motion,     f ~ N(0, a W),

B_j the interpolation at the j-th point, P_j the identity or the normal, K^+ the stiffness matrix's inverse for loads in
balance, W the mass matrix of the surface. So what is not measured follows the least tractions that explain what is.
(The least elastic *energy* would not do: in it a displacement at a point costs nothing, and on finer and finer meshes
the body would follow each point in a dent of its own, and be rigid else.) The size a of the tractions is the likeliest
given the displacements, which takes the place of a stiffness; Young's modulus has no say in a problem without known
forces, Poisson's ratio has. With the factorized K the few points enter through the m x m matrix P B K^+ W K^+ B^T P^T,
so that after the setup each new set of displacements costs a few small dense solves and one product; its posterior
covariance at any point comes with it. Assembled with DOLFINx, factorized with SciPy's SuperLU.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import sparse
from scipy.sparse.linalg import splu
from scipy.spatial import KDTree

from registration.errors import InputError
from registration.rigid import Array, check_points
from registration.verdict import Verdict

POISSON = 0.45
"""Soft tissue is nearly incompressible; at 0.49 linear tetrahedra lock."""

MOST_NODES = 60_000

OFF_MM = 10.0
"""What is measured on a body may lie so far off its mesh."""

RIGID_MM = 100.0
"""Standard deviation of the rigid part of a motion, per direction: next to unknown."""

SPREADS_MM2 = np.logspace(-2.0, 4.0, 25)
"""Mean variances of the measured displacements, without their rigid part, among which the likeliest is taken."""


@dataclass(frozen=True)
class ElasticWarp:
    """Displacement of a body; result of `ElasticBody.register`.

    Attributes:
        displacements: (n, 3) of the mesh's nodes, mm.
        residuals_mm: (m,) distance that the surface points still miss.
        largest_mm: longest displacement.
        smallest_volume: smallest ratio of a tetrahedron's volume after to before.
        verdict: whether to use it.
    """

    displacements: Array
    residuals_mm: Array
    largest_mm: float
    smallest_volume: float
    verdict: Verdict
    _body: ElasticBody
    _prior: _Prior
    _gain: Array
    """(m, m) inverse of the covariance of what was measured"""
    _size: float
    """of the tractions"""

    def __call__(self, points: ArrayLike) -> Array:
        """Points (k, 3) - a lumen surface, a centerline, a target - moved along with the body."""
        p = check_points(points)
        return p + np.asarray((self._body.interpolation(p) @ self.displacements.ravel()).reshape(-1, 3))

    def covariance(self, points: ArrayLike) -> Array:
        """Covariance (k, 3, 3) in mm^2 of where points (k, 3) are then, as far as the model holds: what few and noisy
        surface points leave open. A solve for each point; give those that count."""
        rows = self._body.interpolation(check_points(points))
        answer, rigid = self._body.answer(rows)
        spread = self._size * (self._body.traction @ answer)
        cross = spread.T @ self._prior.answer + RIGID_MM**2 * rigid @ self._prior.rigid.T
        whole = spread.T @ answer + RIGID_MM**2 * rigid @ rigid.T - cross @ self._gain @ cross.T
        blocks = whole.reshape(len(whole) // 3, 3, -1, 3)
        return np.asarray(np.einsum("kikj->kij", blocks))


@dataclass(frozen=True)
class _Prior:
    """What a set of measured places can show before anything is measured.

    Attributes:
        rows: (m, 3n) displacements there from those of the nodes.
        answer: (3n, m) displacements of the nodes under balanced unit loads there.
        rigid: (m, 6) displacements there in the rigid motions.
        follow: (3n, m) displacements of the nodes that go with those there, by tractions of size 1.
        compliance: (m, m) the same there.
    """

    rows: sparse.csr_matrix
    answer: Array
    rigid: Array
    follow: Array
    compliance: Array


class ElasticBody:
    """A tetrahedral mesh of tissue with its stiffness factorized once."""

    def __init__(self, nodes: ArrayLike, tetrahedra: ArrayLike, *, poisson: float = POISSON) -> None:
        """Assemble and factorize.

        Args:
            nodes: (n, 3) in mm.
            tetrahedra: (k, 4) indices.
            poisson: ratio, 0 to 0.49.

        Raises:
            InputError: indices, volumes or a Poisson's ratio that cannot be; a mesh too large to factorize.
        """
        self.nodes = check_points(nodes, "mesh nodes")
        self.tetrahedra = np.asarray(tetrahedra, dtype=np.int64)
        if self.tetrahedra.ndim != 2 or self.tetrahedra.shape[1] != 4 or not len(self.tetrahedra):
            raise InputError(f"tetrahedra have shape {self.tetrahedra.shape}; give four node indices per tetrahedron.")
        if self.tetrahedra.min() < 0 or self.tetrahedra.max() >= len(self.nodes):
            raise InputError("a tetrahedron names a node that the mesh does not have; write the mesh again.")
        if not 0.0 <= poisson < 0.495:
            raise InputError(f"Poisson's ratio {poisson:g} must lie between 0 and 0.49.")
        if len(self.nodes) > MOST_NODES:
            raise InputError(f"a mesh of {len(self.nodes)} nodes is too fine to factorize; {MOST_NODES} are enough.")
        self._volumes = _volumes(self.nodes, self.tetrahedra)
        if np.abs(self._volumes).min() <= 1e-12 * np.abs(self._volumes).max():
            raise InputError(f"tetrahedron {int(np.argmin(np.abs(self._volumes)))} has no volume; mesh the body again.")
        stiffness, mass = _assemble(self.nodes, self.tetrahedra, poisson)
        # Rigid motion costs next to nothing, but something: the matrix stays regular, and its answers lose that part.
        self._soft = 1e-4 * float(stiffness.diagonal().mean() / mass.diagonal().mean())
        self._factor = splu((stiffness + self._soft * mass).tocsc())
        self.traction = _surface_mass(self.nodes, self.tetrahedra)
        motions = _rigid_motions(self.nodes)
        root = np.linalg.cholesky(motions.T @ (mass @ motions))
        self._motions = motions @ np.linalg.inv(root).T
        self._volume = float(mass.sum()) / 3.0
        self._middles = KDTree(self.nodes[self.tetrahedra].mean(axis=1))
        self._inverse = np.linalg.inv(np.swapaxes(_edges(self.nodes, self.tetrahedra), 1, 2))
        self._count = self._measured = 0
        self._prior: _Prior | None = None

    def answer(self, rows: sparse.csr_matrix) -> tuple[Array, Array]:
        """(3n, m) displacements of the nodes under unit loads at rows (m, 3n), rigid body forces balancing them, and
        (m, 6) what the rigid motions - one mm, averaged over the body - are there."""
        rigid = rows @ self._motions
        return self._balanced(np.ascontiguousarray(rows.T.toarray()), rigid.T), rigid * np.sqrt(self._volume)

    def _balanced(self, loads: Array, rigid: Array) -> Array:
        # The stiffness lets rigid motions through, so what they hold of the answer is known, and taken out.
        return np.asarray(self._factor.solve(loads) - self._motions @ rigid / self._soft)

    def interpolation(self, points: Array) -> sparse.csr_matrix:
        """(3k, 3n): displacements at points (k, 3) from those of the nodes; a point outside takes its nearest
        tetrahedron's, cut to its corners."""
        near = self._middles.query(points, k=min(24, len(self.tetrahedra)))[1].reshape(len(points), -1)
        offset = points[:, None] - self.nodes[self.tetrahedra[near, 0]]
        local = np.einsum("kcij,kcj->kci", self._inverse[near], offset)
        weights = np.concatenate([1.0 - local.sum(axis=2, keepdims=True), local], axis=2)
        best = np.argmax(weights.min(axis=2), axis=1)
        rows = np.arange(len(points))
        chosen = np.clip(weights[rows, best], 0.0, None)
        chosen /= chosen.sum(axis=1, keepdims=True)
        corners = self.tetrahedra[near[rows, best]]
        i = (3 * rows[:, None, None] + np.arange(3)).repeat(4, axis=1)
        j = 3 * corners[:, :, None] + np.arange(3)
        values = np.repeat(chosen[:, :, None], 3, axis=2)
        shape = (3 * len(points), 3 * len(self.nodes))
        return sparse.csr_matrix((values.ravel(), (i.ravel(), j.ravel())), shape=shape)

    @property
    def diagonal(self) -> float:
        """Of the body's bounding box, mm."""
        return float(np.linalg.norm(np.ptp(self.nodes, axis=0)))

    def outside(self, points: ArrayLike) -> NDArray[np.bool_]:
        """Which of points (k, 3) lie so far from the body that they are hardly of it: `OFF_MM`, or a tenth of its
        diagonal."""
        p = check_points(points)
        inside = (self.interpolation(p) @ self.nodes.ravel()).reshape(-1, 3)
        return np.asarray(np.linalg.norm(p - inside, axis=1) > max(OFF_MM, 0.1 * self.diagonal))

    def prepare(self, points: ArrayLike, normals: ArrayLike | None = None, *, support: ArrayLike | None = None) -> None:
        """Compute the body's compliance at surface points (m, 3): the slow part, once per set of points.

        Args:
            points: where displacements will be measured, mm.
            normals: (m, 3); with them only the distance along each normal is measured, as of a surface that slid.
            support: (k, 3) places at which the body is held - skull base, ligaments, spine - and does not move.

        Raises:
            InputError: fewer than four points, or points that do not lie on the body.
        """
        p = check_points(points, "surface points")
        if len(p) < 4:
            raise InputError(f"{len(p)} surface points cannot drive a body; give at least 4, better 30.")
        for which, given in (("surface points", p), ("support points", support)):
            if given is not None and (off := self.outside(given)).mean() >= 0.5:
                raise InputError(
                    f"{off.sum()} of {len(off)} {which} lie far from the body, which is {self.diagonal:.3g} mm across; "
                    "give both in one frame, in mm."
                )
        rows = self.interpolation(p)
        if normals is not None:
            n = check_points(normals, "surface normals")
            if n.shape != p.shape:
                raise InputError(f"{len(n)} normals for {len(p)} surface points; give one per point.")
            n = n / np.linalg.norm(n, axis=1, keepdims=True)
            i = np.repeat(np.arange(len(p)), 3)
            rows = sparse.csr_matrix((n.ravel(), (i, np.arange(3 * len(p)))), shape=(len(p), 3 * len(p))) @ rows
        self._count, measured = len(p), rows.shape[0]
        if support is not None:
            rows = sparse.vstack([rows, self.interpolation(check_points(support, "support points"))]).tocsr()
        self._measured = measured
        answer, rigid = self.answer(rows)
        loads = self.traction @ answer
        follow = self._balanced(loads, self._motions.T @ loads)
        self._prior = _Prior(rows, answer, rigid, follow, answer.T @ loads)

    def register(self, displacements: ArrayLike, *, noise_mm: float = 0.5) -> ElasticWarp:
        """Move the body so that the prepared points move by `displacements`: (m, 3), or (m,) along the normals.

        Args:
            displacements: measured at the prepared points, mm.
            noise_mm: standard deviation of a measured displacement per direction.

        Raises:
            InputError: no prepared points, displacements of another count or not finite, or a noise that is not a
                positive length.
        """
        prior = self._prior
        if prior is None:
            raise InputError("no surface points are prepared; call prepare first.")
        if not (math.isfinite(noise_mm) and noise_mm > 0.0):
            raise InputError(f"noise of {noise_mm:g} mm is not a positive length.")
        d = np.asarray(displacements, dtype=np.float64).ravel()
        if d.shape != (self._measured,) or not np.isfinite(d).all():
            raise InputError(
                f"{d.size} displacement values for {self._measured} measured ones, or values that are not finite."
            )
        wanted = np.concatenate([d, np.zeros(prior.rows.shape[0] - len(d))])
        size, gain = _likeliest(prior, wanted, noise_mm)
        loads = gain @ wanted
        rigid = RIGID_MM**2 * np.sqrt(self._volume) * self._motions @ (prior.rigid.T @ loads)
        moved = size * (prior.follow @ loads) + rigid
        field = moved.reshape(-1, 3)
        misses = (prior.rows @ moved)[: len(d)] - d
        per_point = np.linalg.norm(misses.reshape(self._count, -1), axis=1)
        ratio = float((_volumes(self.nodes + field, self.tetrahedra) / self._volumes).min())
        largest = float(np.linalg.norm(field, axis=1).max())
        rms = float(np.sqrt(np.mean(per_point**2)))
        shown = f"displaced by up to {largest:.1f} mm, surface points missed by {rms:.2f} mm RMS"
        if ratio <= 0.0:
            verdict = Verdict("fail", f"{shown}: the body folds over itself; check the surface points")
        elif largest > 0.5 * self.diagonal:
            # Tissue shifts and bends; what is half its own size away was measured in another frame.
            verdict = Verdict(
                "fail", f"{shown}, of a body {self.diagonal:.0f} mm across: were both sets measured in one frame?"
            )
        elif rms > 3.0 * max(noise_mm, 0.5):
            verdict = Verdict("check", f"{shown}: more than their noise; check the points' pairing")
        elif ratio < 0.3:
            verdict = Verdict("check", f"{shown}: a tetrahedron shrinks to {100 * ratio:.0f} %")
        else:
            verdict = Verdict("pass", shown)
        return ElasticWarp(field, per_point, largest, ratio, verdict, self, prior, gain, size)


def _likeliest(prior: _Prior, wanted: Array, noise_mm: float) -> tuple[float, Array]:
    """The size of the tractions under which the displacements are likeliest, and the inverse (m, m) of the covariance
    that they have then."""
    sure = RIGID_MM**2 * prior.rigid @ prior.rigid.T + noise_mm**2 * np.eye(len(wanted))
    best, size = -np.inf, 0.0
    for trial in SPREADS_MM2 * len(wanted) / np.trace(prior.compliance):
        root = np.linalg.cholesky(sure + trial * prior.compliance)
        whitened = np.linalg.solve(root, wanted)
        likelihood = -0.5 * float(whitened @ whitened) - float(np.log(np.diag(root)).sum())
        if likelihood > best:
            best, size = likelihood, float(trial)
    return size, np.linalg.inv(sure + size * prior.compliance)


def _rigid_motions(nodes: Array) -> Array:
    """(3n, 6): three shifts and three turns about the middle."""
    arms = nodes - nodes.mean(axis=0)
    shifts = np.tile(np.eye(3), (len(nodes), 1))
    turns = np.stack([np.cross(axis, arms).ravel() for axis in np.eye(3)], axis=1)
    return np.hstack([shifts, turns])


def _surface_mass(nodes: Array, tetrahedra: NDArray[np.int64]) -> sparse.csr_matrix:
    """(3n, 3n), diagonal: the part of the body's surface that belongs to each node, mm^2."""
    faces = tetrahedra[:, [[0, 1, 2], [0, 1, 3], [0, 2, 3], [1, 2, 3]]].reshape(-1, 3)
    _, first, count = np.unique(np.sort(faces, axis=1), axis=0, return_index=True, return_counts=True)
    outer = faces[first[count == 1]]
    a, b, c = (nodes[outer[:, k]] for k in range(3))
    areas = 0.5 * np.linalg.norm(np.cross(b - a, c - a), axis=1)
    per_node = np.bincount(outer.ravel(), weights=np.repeat(areas / 3.0, 3), minlength=len(nodes))
    return sparse.diags(np.repeat(per_node, 3)).tocsr()


def _edges(nodes: Array, tetrahedra: NDArray[np.int64]) -> Array:
    corners = nodes[tetrahedra]
    return np.asarray(corners[:, 1:] - corners[:, :1])


def _volumes(nodes: Array, tetrahedra: NDArray[np.int64]) -> Array:
    return np.asarray(np.linalg.det(_edges(nodes, tetrahedra)) / 6.0)


def _assemble(
    nodes: Array, tetrahedra: NDArray[np.int64], poisson: float
) -> tuple[sparse.csr_matrix, sparse.csr_matrix]:
    """Stiffness for a shear modulus of 1 and mass, (3n, 3n), in the order of the given nodes."""
    import dolfinx_solver  # noqa: F401  # isort: skip  (finds the libraries; must come before dolfinx)

    import basix.ufl
    import ufl
    from dolfinx import fem, mesh
    from mpi4py import MPI

    domain = mesh.create_mesh(
        MPI.COMM_SELF, tetrahedra, basix.ufl.element("Lagrange", "tetrahedron", 1, shape=(3,)), nodes
    )
    space = fem.functionspace(domain, ("Lagrange", 1, (3,)))
    u, v = ufl.TrialFunction(space), ufl.TestFunction(space)
    ratio = 2.0 * poisson / (1.0 - 2.0 * poisson)  # lambda / mu

    def strain(w: ufl.core.expr.Expr) -> ufl.core.expr.Expr:
        return ufl.sym(ufl.grad(w))

    energy = 2.0 * ufl.inner(strain(u), strain(v)) + ratio * ufl.div(u) * ufl.div(v)
    matrices = []
    for form in (energy * ufl.dx, ufl.inner(u, v) * ufl.dx):
        assembled = fem.assemble_matrix(fem.form(form))
        assembled.scatter_reverse()
        matrices.append(assembled.to_scipy())
    # DOLFINx renumbers: find each of its nodes among ours.
    distance, ours = KDTree(nodes).query(space.tabulate_dof_coordinates())
    if distance.max() > 1e-9 * max(1.0, float(np.abs(nodes).max())) or len(np.unique(ours)) != len(nodes):
        raise InputError("the mesh has nodes that no tetrahedron uses, or two in one place; clean it.")
    order = np.empty(len(nodes), dtype=np.int64)
    order[ours] = np.arange(len(nodes))
    index = (3 * order[:, None] + np.arange(3)).ravel()
    stiffness, mass = (sparse.csr_matrix(m)[index][:, index] for m in matrices)
    return stiffness, mass
