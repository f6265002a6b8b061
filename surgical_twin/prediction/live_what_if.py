"""What-if questions during a procedure, answered by a process of its own.

A question takes seconds of computing, and the session has milliseconds: the process is started with the first question
(reading the case takes it some seconds then), gives way to everything else on the machine, and answers one question
after another, each for the ensemble as it was when the question came.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Any

from surgical_twin.assimilation.flow_filter import FilterState
from surgical_twin.errors import InputError

log = logging.getLogger(__name__)

MOST_WAITING = 4
"""Questions that wait for their answers at most."""

LONGEST_S = 120.0
"""A question that takes longer is given up, and the process with it."""

NICENESS = 10

AUTO = "auto"
HOLDS = (AUTO, "flow", "pressure")

Wishes = tuple[tuple[str, str], ...]
"""Kind and value of each intervention, as the options of the command what-if."""


class WhatIfDesk:
    """Takes questions and has them answered, without ever making the caller wait."""

    def __init__(self, case: Path) -> None:
        """Open the desk; nothing runs before the first question.

        Args:
            case: the case's folder.
        """
        self._case = case
        self._waiting: list[Future[dict[str, Any]]] = []
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="what-if")
        self._process: SpawnProcess | None = None
        self._connection: Connection | None = None
        self._closed = False

    def ask(self, wishes: Wishes, hold: str, ensemble: FilterState | None) -> Future[dict[str, Any]]:
        """Ask what interventions would do; the future has what `Comparison.as_plain` gives, or raises `InputError`.

        Args:
            wishes: the interventions.
            hold: what the inlet keeps: flow, pressure or auto.
            ensemble: the patients that the procedure so far leaves possible; None for those of the plan.

        Raises:
            InputError: too many questions wait already, or ``hold`` is none of these.
        """
        if hold not in HOLDS:
            raise InputError(f'hold "{hold[:50]}" is none of {", ".join(HOLDS)}.')
        self._waiting = [future for future in self._waiting if not future.done()]
        if len(self._waiting) >= MOST_WAITING:
            raise InputError(f"{MOST_WAITING} what-if questions wait already; ask again when they are answered.")
        future = self._thread.submit(partial(self._answer, wishes, hold, ensemble))
        self._waiting.append(future)
        return future

    def close(self) -> None:
        """End the process; what has not been answered is not."""
        self._closed = True
        self._thread.shutdown(wait=False, cancel_futures=True)
        self._end_process()
        self._thread.shutdown()

    def _answer(self, wishes: Wishes, hold: str, ensemble: FilterState | None) -> dict[str, Any]:
        """In the thread: hand the question to the process and wait for its answer."""
        if not self._case.is_dir():
            raise InputError(f"What-if questions need the case's folder, and there is none at {self._case}.")
        try:
            connection = self._connected()
            connection.send((wishes, hold, ensemble))
            if not connection.poll(LONGEST_S):
                raise TimeoutError
            answer, refusal = connection.recv()
        except (OSError, EOFError) as error:
            self._end_process()
            if not self._closed:
                log.exception("a what-if question could not be answered")
            why = f"took more than {LONGEST_S:g} s" if isinstance(error, TimeoutError) else "ended its process"
            raise InputError(f"The question {why} and was given up.") from error
        if refusal is not None:
            raise InputError(refusal)
        return dict(answer)

    def _connected(self) -> Connection:
        if self._closed:
            raise EOFError
        if self._connection is None or self._process is None or not self._process.is_alive():
            self._end_process()
            context = multiprocessing.get_context("spawn")
            self._connection, theirs = context.Pipe()
            self._process = context.Process(target=_serve, args=(theirs, self._case), name="what-if", daemon=True)
            self._process.start()
            theirs.close()
        return self._connection

    def _end_process(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.join()
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()


def _serve(connection: Connection, case: Path) -> None:
    """In the process: answer until the other end is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a Ctrl-C is for the session, which ends this process
    os.nice(NICENESS)
    answer = None
    while True:
        try:
            wishes, hold, ensemble = connection.recv()
        except (EOFError, OSError):
            return
        try:
            answer = answer or _opened(case)
            connection.send((answer(wishes, hold, ensemble), None))
        except ValueError as error:
            connection.send((None, str(error)))
        except Exception as error:
            log.exception("a what-if question failed")
            connection.send((None, f"The question could not be computed ({type(error).__name__}: {error})."))


def _opened(case: Path) -> Any:
    """Reads the case; gives what answers questions on it."""
    from surgical_twin.case import Case
    from surgical_twin.prediction.circulation import usual_source
    from surgical_twin.prediction.pharmacology import read_drugs
    from surgical_twin.prediction.reading import Reader
    from surgical_twin.prediction.what_if import Predictor
    from surgical_twin.session_model import SessionModel

    opened = Case.open(case)
    model = SessionModel.load(opened)

    def answer(wishes: Wishes, hold: str, ensemble: FilterState | None) -> dict[str, object]:
        predictor = Predictor(opened, model, ensemble)
        source = usual_source(predictor.planned_inflow) if hold == AUTO else hold
        reader = Reader(predictor.situation, read_drugs(), predictor.planned_inflow)
        return predictor.compare([reader.read(*wish) for wish in wishes], source=source).as_plain()  # type: ignore[arg-type]

    return answer
