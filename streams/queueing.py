"""How long messages wait for a server that takes them one at a time, and how much more of them it could bear.

The server is a session: one event after another, poses before all others, never breaking off what it has begun. With
measured arrivals and measured times of service the waiting times are those of a simulated queue (for a single class
the recursion of Lindley, 1952: W' = max(0, W + S - T)). Beside it stand the formulae for arrivals at random, which need
only rates and moments: Pollaczek and Khinchine's mean wait of a single class

    W = lambda E[S^2] / (2 (1 - rho))

and Cobham's (1954) for classes with priorities, 0 the first, none of which interrupts another:

    W_k = W_0 / ((1 - sigma_(k-1)) (1 - sigma_k)),   W_0 = sum_j lambda_j E[S_j^2] / 2,   sigma_k = sum_(j<=k) rho_j.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Traffic:
    """Messages of a session, in the order of their arrival.

    Attributes:
        arrival: (n,) s.
        service: (n,) s that the server needs for each.
        rank: (n,) 0 goes first.
    """

    arrival: Array
    service: Array
    rank: NDArray[np.intp]

    @property
    def utilization(self) -> float:
        """Share of its time that the server works, rho."""
        span = float(self.arrival[-1] - self.arrival[0]) if len(self.arrival) > 1 else 0.0
        return float(self.service.sum()) / span if span > 0 else 0.0

    def scaled(self, factor: float) -> "Traffic":
        """The same messages coming so many times as fast."""
        begin = self.arrival[0] if len(self.arrival) else 0.0
        return Traffic(begin + (self.arrival - begin) / factor, self.service, self.rank)

    def of_rank(self, rank: int) -> NDArray[np.bool_]:
        """(n,) which messages are of a rank."""
        found: NDArray[np.bool_] = self.rank == rank
        return found


def waits(traffic: Traffic) -> Array:
    """(n,) how long each message waits until the server begins with it, s.

    Within a rank the first to come is the first to be served.
    """
    arrival, service = traffic.arrival.tolist(), traffic.service.tolist()
    ranks = sorted(set(traffic.rank.tolist()))
    queues = [np.flatnonzero(traffic.rank == rank).tolist() for rank in ranks]
    heads = [0] * len(queues)
    waited = np.zeros(len(arrival))
    now = arrival[0] if arrival else 0.0
    for _ in range(len(arrival)):
        chosen = -1
        nearest = float("inf")
        for number, queue in enumerate(queues):
            if heads[number] == len(queue):
                continue
            came = arrival[queue[heads[number]]]
            if came <= now:
                chosen = number
                break
            if came < nearest:
                nearest, idle_next = came, number
        if chosen < 0:
            chosen, now = idle_next, nearest
        message = queues[chosen][heads[chosen]]
        heads[chosen] += 1
        waited[message] = now - arrival[message]
        now += service[message]
    return waited


def mean_waits(rates: Sequence[float], mean_service: Sequence[float], mean_square_service: Sequence[float]) -> Array:
    """(k,) mean wait of each class where messages come at random, s; infinite where the server cannot keep up.

    Args:
        rates: (k,) messages a second, the class that goes first at the beginning.
        mean_service: (k,) s.
        mean_square_service: (k,) s^2.
    """
    rate, mean, square = (np.asarray(values, dtype=float) for values in (rates, mean_service, mean_square_service))
    residual = float(rate @ square) / 2.0
    load = np.concatenate([[0.0], np.cumsum(rate * mean)])
    room = np.maximum(1.0 - load, 0.0)
    with np.errstate(divide="ignore"):
        found: Array = residual / (room[:-1] * room[1:])
    return found


def largest_load(traffic: Traffic, bears: Callable[[Traffic, Array], bool], *, most: float = 100.0) -> float:
    """By how much faster messages may come before the server no longer bears it.

    Args:
        traffic: as it is now.
        bears: whether a traffic with its waits (n,) [s] is still borne; where one is, all slower ones are.
        most: factors beyond this are not looked for.

    Returns:
        The largest factor, to 2 %; below 1 where it is too much already.
    """
    low, high = 0.01, most

    def at(factor: float) -> bool:
        faster = traffic.scaled(factor)
        return bears(faster, waits(faster))

    if at(high):
        return high
    while high / low > 1.02:
        middle = float(np.sqrt(low * high))
        low, high = (middle, high) if at(middle) else (low, middle)
    return low
