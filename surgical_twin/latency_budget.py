"""How old what is shown is on this machine, and how much more delay and load the session can bear.

The messages of a recording, or those of a standard load, are folded by the session of the case here and now, and the
time of each step is taken. With the times at which the messages arrived this is a queue (`streams.queueing`), and how
old a pose is when it is shown is the time from its arrival until the next state after it is out. What the network takes
before that is not known here: it is what is left of the limit.
"""

import time
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from streams.events import Event, event_from_frame
from streams.messages import FlowSample, Message, PressureSamples, SessionStart, Tick, ToolPose
from streams.queueing import Traffic, largest_load, mean_waits, waits
from streams.wire import pack
from surgical_twin.errors import InputError
from surgical_twin.session import Session
from surgical_twin.session_state import SessionState
from surgical_twin.tick_rates import POSE_TICK_NS, TICK_NS

Array = NDArray[np.float64]

FIRST = (ToolPose, Tick)
"""What goes before all else: poses, and the states that show them."""

SHARE = 0.99
FACTORS = (1.0, 2.0, 4.0, 8.0)


@dataclass(frozen=True)
class Stage:
    """Time that messages of a kind spend in a stage, ms."""

    name: str
    count: int
    median: float
    p99: float


@dataclass(frozen=True)
class LoadPoint:
    """What happens when messages come so many times as fast."""

    factor: float
    utilization: float
    pose_shown_p99_ms: float
    observation_taken_p99_ms: float


@dataclass(frozen=True)
class LatencyBudget:
    """What a session on a case bears.

    Attributes:
        seconds: of messages that were looked at.
        stages: what each kind takes in the session, and how long poses and observations wait.
        utilization: share of one core that the session works.
        mean_wait_ms: mean wait of what goes first and of the rest, from the measured arrivals.
        mean_wait_at_random_ms: the same by Cobham's formula, for arrivals at random.
        load: what more messages would do.
        bearable_load: by how much faster messages may come until a pose is too old when it is shown.
        network_ms: delay that the network may have, of which the limit for a pose is left.
    """

    seconds: float
    stages: tuple[Stage, ...]
    utilization: float
    mean_wait_ms: tuple[float, float]
    mean_wait_at_random_ms: tuple[float, float]
    load: tuple[LoadPoint, ...]
    bearable_load: float
    network_ms: float
    oldest_ms: float


def events_of(messages: Iterable[Message], seed: int, case_hash: str) -> list[Event]:
    """The events that a session would have of messages that arrive when they were measured, with its own ticks."""
    events: list[Event] = []

    def add(message: Message) -> None:
        events.append(event_from_frame(len(events), message.source_time_ns, pack(message)))

    tick = last_ns = 0
    for message in messages:
        now = message.source_time_ns
        if not events:
            start = SessionStart(
                stream="session/start", sequence=0, source_time_ns=now, case_hash=case_hash, seed=seed, settings={}
            )
            add(start)
            last_ns = now
        while now - last_ns >= TICK_NS:
            last_ns += TICK_NS
            add(Tick(stream="session/clock", sequence=tick, source_time_ns=last_ns))
            tick += 1
        add(message)
        if isinstance(message, ToolPose) and now - last_ns >= POSE_TICK_NS:
            last_ns = now
            add(Tick(stream="session/clock", sequence=tick, source_time_ns=now))
            tick += 1
    return events


def measured(session: Session, events: Iterable[Event]) -> tuple[list[Event], Array]:
    """Fold events and time it: the events without those of the session's start, and (n,) s of each."""
    state = SessionState()
    kept: list[Event] = []
    took: list[float] = []
    for event in events:
        begin = time.perf_counter()
        state, outputs = session.step(state, event)
        for output in outputs:
            pack(output)
        spent = time.perf_counter() - begin
        if not isinstance(event.message, SessionStart):
            kept.append(event)
            took.append(spent)
    return kept, np.array(took)


def latency_budget(events: list[Event], service: Array, oldest_ms: float) -> LatencyBudget:
    """What the measured times say.

    Args:
        events: in the session's order.
        service: (n,) s that each took.
        oldest_ms: a pose that is older than this when it is shown is too old.

    Raises:
        InputError: there are too few poses, states or observations to say anything.
    """
    kinds = np.array([type(event.message).__name__ for event in events])
    shown, observed = kinds == ToolPose.__name__, np.isin(kinds, [PressureSamples.__name__, FlowSample.__name__])
    ticks = kinds == Tick.__name__
    if min(shown.sum(), observed.sum(), ticks.sum()) < 100:
        raise InputError(
            "There are fewer than 100 poses, observations or states in it, which is too few to tell the 99th "
            "percentile; take a longer procedure."
        )
    arrival = np.array([event.receive_time_ns for event in events], dtype=float) * 1e-9
    # The clock's own events are numbered where they were taken, a little after what had arrived before them.
    arrival = np.maximum.accumulate(arrival)
    traffic = Traffic(arrival, service, np.where(np.isin(kinds, [kind.__name__ for kind in FIRST]), 0, 1))
    waited = waits(traffic)

    def pose_age(traffic: Traffic, waited: Array) -> Array:
        done = traffic.arrival + waited + traffic.service
        out = np.sort(done[ticks])
        own = done[shown]
        place = np.minimum(np.searchsorted(out, own), len(out) - 1)
        found: Array = np.maximum(out[place], own) - traffic.arrival[shown]
        return found

    def taken(traffic: Traffic, waited: Array) -> Array:
        found: Array = (waited + traffic.service)[observed]
        return found

    def bears(traffic: Traffic, waited: Array) -> bool:
        age, late = pose_age(traffic, waited), taken(traffic, waited)
        return bool(max(np.quantile(age, SHARE), np.quantile(late, SHARE)) <= oldest_ms * 1e-3)

    load = []
    for factor in FACTORS:
        faster = traffic.scaled(factor)
        then = waits(faster)
        load.append(
            LoadPoint(
                factor,
                faster.utilization,
                float(np.quantile(pose_age(faster, then), SHARE)) * 1e3,
                float(np.quantile(taken(faster, then), SHARE)) * 1e3,
            )
        )
    by_kind = defaultdict(list)
    for kind, spent in zip(kinds, service, strict=True):
        by_kind[str(kind)].append(spent)
    stages = [_stage(f"step: {kind}", np.array(spent)) for kind, spent in sorted(by_kind.items())]
    stages += [
        _stage("wait: poses and states", waited[traffic.of_rank(0)]),
        _stage("wait: all else", waited[traffic.of_rank(1)]),
        _stage("pose: arrival to shown", pose_age(traffic, waited)),
        _stage("observation: arrival to taken", taken(traffic, waited)),
    ]
    span = float(arrival[-1] - arrival[0])
    ranks = [traffic.of_rank(rank) for rank in (0, 1)]
    theory = mean_waits(
        [mask.sum() / span for mask in ranks],
        [service[mask].mean() for mask in ranks],
        [(service[mask] ** 2).mean() for mask in ranks],
    )
    return LatencyBudget(
        seconds=span,
        stages=tuple(stages),
        utilization=traffic.utilization,
        mean_wait_ms=(float(waited[ranks[0]].mean()) * 1e3, float(waited[ranks[1]].mean()) * 1e3),
        mean_wait_at_random_ms=(float(theory[0]) * 1e3, float(theory[1]) * 1e3),
        load=tuple(load),
        bearable_load=largest_load(traffic, bears),
        network_ms=oldest_ms - load[0].pose_shown_p99_ms,
        oldest_ms=oldest_ms,
    )


def _stage(name: str, seconds: Array) -> Stage:
    return Stage(name, len(seconds), float(np.median(seconds)) * 1e3, float(np.quantile(seconds, SHARE)) * 1e3)
