"""Which 3D runs the reduced model is trained on: the next one is where the model is least sure of itself.

The runs span the range that a procedure may visit: the heart's output, its rate, and each outlet's resistance. Three
are always made: the planned state and two opposite corners of that range. Then the model is trained on what there is,
and asked about many states that have no run. As often as there are runs it is trained again without one of them; by how
much these models disagree about a state is the estimate of its error there (the jackknife: Efron & Stein, Ann. Stat. 9
(1981) 586-596; choosing by disagreement: Seung, Opper & Sompolinsky, COLT 1992). The next run is made where that is
largest, until it is below the goal everywhere or there are as many runs as allowed.
"""

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.stats import qmc

from surgical_twin.errors import InputError
from surgical_twin.flow.windkessel import Windkessel
from surgical_twin.training import FlowConditions

Array = NDArray[np.float64]

FLOW_RANGE = (0.75, 1.3)
PERIOD_RANGE = (0.85, 1.15)
RESISTANCE_RANGE = (0.77, 1.3)
"""Factors on the planned values; a coordinate of -1 is the first, 0 the plan, 1 the second."""

STALLED = 0.95
"""A round that leaves more than this of the error estimate has taught little: what is left is the flow's own unrest."""

CANDIDATES = 48
_SEED = 20


def factors_at(coordinates: Array) -> tuple[float, float, Array]:
    """Factors on flow, period and each outlet's resistance at coordinates (2 + N,), each in -1 to 1."""

    def factor(bounds: tuple[float, float], x: Array) -> Array:
        low, high = bounds
        return np.where(x < 0.0, low ** np.abs(x), high ** np.abs(x))

    flow, period = factor(FLOW_RANGE, coordinates[:1])[0], factor(PERIOD_RANGE, coordinates[1:2])[0]
    return float(flow), float(period), factor(RESISTANCE_RANGE, coordinates[2:])


def conditions_at(planned: FlowConditions, coordinates: Array) -> FlowConditions:
    """The planned state changed by the factors at coordinates (2 + N,); a run of as many beats."""
    flow, period, resistances = factors_at(coordinates)
    return replace(
        planned,
        mean_flow=planned.mean_flow * flow,
        period=planned.period * period,
        windkessels=_scaled(planned.windkessels, resistances),
        duration=planned.duration * period,
    )


def _scaled(windkessels: dict[str, Windkessel], factors: Array) -> dict[str, Windkessel]:
    return {
        name: replace(
            bed,
            proximal_resistance=bed.proximal_resistance * float(factor),
            distal_resistance=bed.distal_resistance * float(factor),
        )
        for (name, bed), factor in zip(windkessels.items(), factors, strict=True)
    }


def first_coordinates(outlets: int) -> Array:
    """(3, 2 + N) the plan; more flow, a faster heart and resistances shifted between the outlets; and the opposite."""
    shift = np.where(np.arange(outlets) % 2 == 0, -1.0, 1.0)
    corner = np.concatenate([[1.0, -1.0], shift])
    return np.stack([np.zeros(2 + outlets), corner, -corner])


def candidate_coordinates(outlets: int) -> Array:
    """(n, 2 + N) states that may be run next: evenly spread, and half of them corners, where a model extrapolates."""
    spread = 2.0 * qmc.Sobol(2 + outlets, seed=_SEED).random(CANDIDATES // 2 + 8)[: CANDIDATES // 2] - 1.0
    corners = np.random.default_rng(_SEED).choice([-1.0, 1.0], size=(CANDIDATES // 2, 2 + outlets))
    return np.concatenate([spread, corners])


def training_conditions(planned: FlowConditions) -> list[FlowConditions]:
    """The first runs, which span the range."""
    return [conditions_at(planned, one) for one in first_coordinates(len(planned.windkessels))]


def chosen_next(estimates: Array, candidates: Array, done: Array, count: int) -> list[int]:
    """Where the next runs are made: candidates of the largest error estimate, each far from the others and from runs.

    Args:
        estimates: (n,) of the error at each candidate.
        candidates: (n, d) their coordinates.
        done: (r, d) those of the runs there are.
        count: how many to choose.
    """
    chosen: list[int] = []
    taken = list(done)
    for _ in range(min(count, len(candidates))):
        nearest = np.min([np.linalg.norm(candidates - one, axis=1) for one in taken], axis=0)
        # What a run will teach its surroundings is not needed twice: a candidate counts less near a run just chosen.
        worth = estimates * np.minimum(1.0, nearest / np.sqrt(candidates.shape[1]))
        worth[chosen] = -np.inf
        best = int(np.argmax(worth))
        chosen.append(best)
        taken.append(candidates[best])
    return chosen


@dataclass(frozen=True)
class RunRecord:
    """The runs of a design so far: where each lies, and what was estimated before the next was chosen."""

    fingerprint: str
    """of the mesh and the planned circulation that they are for"""
    coordinates: tuple[tuple[float, ...], ...]
    estimates: tuple[float, ...] = ()
    """the largest error estimate of each round, over its goal"""

    @classmethod
    def of(cls, mesh_hash: str, planned: FlowConditions) -> "RunRecord":
        """A design that begins."""
        text = f"{mesh_hash}{planned}{FLOW_RANGE}{PERIOD_RANGE}{RESISTANCE_RANGE}"
        first = first_coordinates(len(planned.windkessels))
        return cls(hashlib.sha256(text.encode()).hexdigest(), tuple(tuple(map(float, one)) for one in first))

    @classmethod
    def read(cls, path: Path) -> "RunRecord | None":
        """What `save` wrote, as an interrupted plan has left it; None where there is nothing.

        Raises:
            InputError: it cannot be read.
        """
        try:
            stored = json.loads(path.read_text(encoding="utf-8"))
            return cls(
                str(stored["fingerprint"]),
                tuple(tuple(float(value) for value in one) for one in stored["coordinates"]),
                tuple(float(value) for value in stored["estimates"]),
            )
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(f"{path} cannot be read ({error}); delete it, and the runs are made anew.") from None

    def with_next(self, coordinates: Sequence[Array], estimate: float) -> "RunRecord":
        """With runs chosen at an error estimate."""
        more = tuple(tuple(float(value) for value in one) for one in coordinates)
        return RunRecord(self.fingerprint, self.coordinates + more, (*self.estimates, float(estimate)))

    def ends(self, most: int) -> bool:
        """Whether no more runs are made: the goals are met, there are as many as allowed, or rounds teach nothing.

        The last is believed of more runs than there are coordinates, which what is linear in each of them takes: before
        that the estimate is of few models and goes up and down.
        """
        count = len(self.coordinates)
        met = bool(self.estimates) and self.estimates[-1] <= 1.0
        last = self.estimates[-3:]
        stalled = len(last) == 3 and min(last[1:]) > STALLED * last[0]
        return met or count >= most or (stalled and count > len(self.coordinates[0]))

    def save(self, path: Path) -> None:
        """Write it as JSON, under a temporary name, renamed."""
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{os.getpid()}.{path.name}")
        content = {
            "fingerprint": self.fingerprint,
            "axes": ["flow", "period", "resistance of each outlet"],
            "coordinates": self.coordinates,
            "estimates": self.estimates,
        }
        temporary.write_text(json.dumps(content, indent=1), encoding="utf-8")
        temporary.replace(path)
