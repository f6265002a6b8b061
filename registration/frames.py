r"""Named coordinate frames joined by transforms, each with its error and its time.

Frames form a tree: an edge is ``target_from_source`` with a 6x6 covariance in the convention of
`registration.rigid` (left perturbation, in the edge's target frame about its origin, rotation before
translation). Along a chain the errors are taken as independent and compose as

    S_ac = S_ab + Ad(T_ab) S_bc Ad(T_ab)^T,        S_ba = Ad(T_ab^-1) S_ab Ad(T_ab^-1)^T.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import ArrayLike

from registration.errors import InputError
from registration.rigid import Array, adjoint, check_rigid, invert

_STILL = np.hstack([np.zeros((3, 3)), np.eye(3)])
"""[-y^, I] at the origin."""


@dataclass(frozen=True)
class FramePose:
    """A transform between two frames with its error; mm and radians.

    Attributes:
        matrix: (4, 4) target_from_source.
        covariance: (6, 6) of the left perturbation about the target's origin.
        time_ns: time of the oldest stamped edge used, or None if no edge carried a time.
    """

    matrix: Array
    covariance: Array
    time_ns: int | None = None

    def transform_point(self, point: ArrayLike, covariance: ArrayLike | None = None) -> tuple[Array, Array]:
        """Map a point (3,) and its covariance (3, 3) in the source frame to the target frame.

        Returns the point and its covariance there, the pose's own error included:
        S_y = J S J^T + R S_x R^T with J = [-y^, I].
        """
        rotation = self.matrix[:3, :3]
        moved = rotation.dot(np.asarray(point, dtype=np.float64)) + self.matrix[:3, 3]
        x, y, z = moved.tolist()
        jacobian = _STILL.copy()
        jacobian[0, 1], jacobian[0, 2] = z, -y
        jacobian[1, 0], jacobian[1, 2] = -z, x
        jacobian[2, 0], jacobian[2, 1] = y, -x
        total = jacobian.dot(self.covariance).dot(jacobian.T)
        if covariance is not None:
            total = total + rotation @ np.asarray(covariance, dtype=np.float64) @ rotation.T
        return moved, total


class _Edge:
    """One stored transform; its other direction and its adjoints are made when a chain first needs them."""

    def __init__(self, pose: FramePose, given: Array | None) -> None:
        self.pose = pose
        self.given = given
        """The covariance as it was given: one that comes again need not be checked again."""
        self._backward: tuple[Array, Array] | None = None
        self._adjoints: dict[bool, Array] = {}

    def link(self, forward: bool) -> tuple[Array, Array]:
        """Matrix and covariance in one direction."""
        if forward:
            return self.pose.matrix, self.pose.covariance
        if self._backward is None:
            ad = self.adjoint(False)
            self._backward = invert(self.pose.matrix), ad @ self.pose.covariance @ ad.T
        return self._backward

    def adjoint(self, forward: bool) -> Array:
        """The adjoint of the matrix in one direction."""
        known = self._adjoints.get(forward)
        if known is None:
            known = self._adjoints[forward] = adjoint(self.pose.matrix if forward else invert(self.pose.matrix))
        return known


@dataclass
class _Composed:
    """What the edges of a chain up to one of them make together; the adjoint where another edge follows."""

    edge: _Edge
    matrix: Array
    covariance: Array
    adjoint: Array | None


class FrameGraph:
    """A tree of frames. `set` stores or replaces an edge, `get` composes the chain between any two frames."""

    def __init__(self) -> None:
        self._edges: dict[tuple[str, str], _Edge] = {}
        self._neighbors: dict[str, list[str]] = {}
        self._paths: dict[tuple[str, str], tuple[tuple[tuple[str, str], bool], ...]] = {}
        self._composed: dict[tuple[str, str], list[_Composed]] = {}
        """Per chain; valid as far as its edges are still the same."""

    @property
    def frames(self) -> tuple[str, ...]:
        """Names of all frames, in the order they were first mentioned."""
        return tuple(self._neighbors)

    def set(
        self,
        target: str,
        source: str,
        matrix: ArrayLike,
        covariance: ArrayLike | None = None,
        time_ns: int | None = None,
    ) -> None:
        """Store ``target_from_source``; a later call for the same two frames, either way round, replaces it.

        Args:
            target: frame the transform maps into.
            source: frame the transform maps from.
            matrix: rigid (4, 4), mm.
            covariance: (6, 6) as described for the module; None means the transform is exact by definition.
            time_ns: when it was measured; None for one that does not age, such as a registration or a
                calibration.

        Raises:
            InputError: a matrix that is not rigid, a covariance that is not one, or an edge that would close
                a loop (two different ways between the same frames would disagree).
        """
        name = f"{target}_from_{source}"
        if target == source:
            raise InputError(f"frame {target!r} cannot be joined to itself; name two different frames.")
        checked = check_rigid(matrix, name)
        known = self._edges.get((target, source))
        given = None if covariance is None else np.array(covariance, dtype=np.float64)
        if given is None:
            error = np.zeros((6, 6))
        elif known is not None and known.given is not None and known.given.tobytes() == given.tobytes():
            error = known.pose.covariance
        else:
            error = _check_covariance(given, name)
        reverse = (source, target) in self._edges
        if known is None and not reverse:
            if self._path(target, source) is not None:
                raise InputError(
                    f"{name} would close a loop: these frames are already joined through others; "
                    "replace one of those transforms instead."
                )
            self._neighbors.setdefault(target, []).append(source)
            self._neighbors.setdefault(source, []).append(target)
            self._paths.clear()
            self._composed.clear()
        elif reverse:
            del self._edges[(source, target)]
            self._paths.clear()
            self._composed.clear()
        self._edges[(target, source)] = _Edge(FramePose(checked, error, time_ns), given)

    def get(self, target: str, source: str) -> FramePose:
        """The transform from `source` to `target` with its composed covariance.

        Raises:
            InputError: an unknown frame, or two frames that nothing joins.
        """
        if target == source:
            self._require(target)
            return FramePose(np.eye(4), np.zeros((6, 6)))
        path = self._path(target, source)
        if path is None:
            self._require(target)
            self._require(source)
            raise InputError(
                f"no chain of transforms joins frame {source!r} to frame {target!r}; "
                f"{target!r} is joined to {self._component(target)}, {source!r} to {self._component(source)}."
            )
        composed = self._composed.setdefault((target, source), [])
        oldest: int | None = None
        for place, (key, forward) in enumerate(path):
            edge = self._edges[key]
            if place >= len(composed) or composed[place].edge is not edge:
                # From here on the chain has changed; a tool's edge, the last one, does so with every pose.
                del composed[place:]
                composed.append(_extended(composed[-1] if place else None, edge, forward, last=place == len(path) - 1))
            time_ns = edge.pose.time_ns
            if time_ns is not None and (oldest is None or time_ns < oldest):
                oldest = time_ns
        return FramePose(composed[-1].matrix, composed[-1].covariance, oldest)

    def transform_point(
        self, target: str, source: str, point: ArrayLike, covariance: ArrayLike | None = None
    ) -> tuple[Array, Array]:
        """A point (3,) of `source`, with its covariance (3, 3), in `target`: the point and its total
        covariance."""
        return self.get(target, source).transform_point(point, covariance)

    def age_ns(self, target: str, source: str, now_ns: int) -> int | None:
        """Age at `now_ns` of the oldest measurement between two frames; None if none of their edges carries a
        time."""
        oldest = self.get(target, source).time_ns
        return None if oldest is None else now_ns - oldest

    def _require(self, frame: str) -> None:
        if frame not in self._neighbors:
            raise InputError(
                f"frame {frame!r} is not known; known frames are {', '.join(self._neighbors) or 'none yet'}."
            )

    def _path(self, target: str, source: str) -> tuple[tuple[tuple[str, str], bool], ...] | None:
        """Edges from target to source, each with whether it is used as stored; None if there is no way."""
        cached = self._paths.get((target, source))
        if cached is not None:
            return cached
        came_from: dict[str, str] = {target: target}
        queue = [target]
        for frame in queue:
            for neighbor in self._neighbors.get(frame, ()):
                if neighbor not in came_from:
                    came_from[neighbor] = frame
                    queue.append(neighbor)
        if source not in came_from or source not in self._neighbors:
            return None
        chain = [source]
        while chain[-1] != target:
            chain.append(came_from[chain[-1]])
        chain.reverse()
        path = tuple(((a, b), True) if (a, b) in self._edges else ((b, a), False) for a, b in pairwise(chain))
        self._paths[(target, source)] = path
        return path

    def _component(self, frame: str) -> str:
        joined = [other for other in self._neighbors if other != frame and self._path(frame, other) is not None]
        return ", ".join(repr(other) for other in joined) or "nothing"


def _extended(before: _Composed | None, edge: _Edge, forward: bool, *, last: bool) -> _Composed:
    matrix, error = edge.link(forward)
    if before is None or before.adjoint is None:
        return _Composed(edge, matrix, error, None if last else edge.adjoint(forward))
    matrix = before.matrix.dot(matrix)
    error = before.covariance + before.adjoint.dot(error).dot(before.adjoint.T)
    # A chain's results are kept and given out again: nobody may change them.
    matrix.setflags(write=False)
    error.setflags(write=False)
    return _Composed(edge, matrix, error, None if last else before.adjoint @ edge.adjoint(forward))


def _check_covariance(covariance: ArrayLike, name: str) -> Array:
    """A symmetric, non-negative 6x6 covariance, or InputError."""
    result = np.array(covariance, dtype=np.float64)
    if result.shape != (6, 6) or not np.isfinite(result).all():
        raise InputError(f"covariance of {name} has shape {result.shape} or is not finite; give a finite 6x6 matrix.")
    diagonal = result.diagonal()
    scale = np.sqrt(np.abs(diagonal))
    # Rotation and translation differ in scale by orders of magnitude: judge the correlation form.
    bound = 1e-6 * scale[:, None] * scale + 1e-300
    if (np.abs(result - result.T) > bound).any() or diagonal.min() < 0.0:
        raise InputError(f"covariance of {name} is not symmetric with a non-negative diagonal; give a covariance.")
    safe = np.where(scale > 0.0, scale, 1.0)
    if np.linalg.eigvalsh(result / (safe[:, None] * safe))[0] < -1e-6:
        raise InputError(f"covariance of {name} has a negative eigenvalue; give a positive semidefinite matrix.")
    return 0.5 * (result + result.T)
