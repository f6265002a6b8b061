"""What a live session answers to commands and questions."""

from collections import deque
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol

from streams.command_channel import (
    AddNote,
    Caller,
    ClockTime,
    EndProcedure,
    Landmarks,
    NotAvailable,
    Register,
    Request,
    StateAt,
    StateNow,
    Streams,
    WhatIf,
)
from streams.intake import Intake
from streams.messages import Note, PatientRegistration, ProcedureEnd, decode, fault
from streams.session_clock import now_ns
from surgical_twin.errors import InputError
from surgical_twin.patient_registration import FIELDS
from surgical_twin.prediction.live_what_if import WhatIfDesk
from surgical_twin.session_model import SessionModel
from surgical_twin.session_state import SessionState

STATES_REMEMBERED = 3000
"""For questions about a time: the last 30 s."""


class Saying(Protocol):
    """Takes what changes the session, as one of its events."""

    def __call__(self, kind: type[Note | PatientRegistration | ProcedureEnd], caller: Caller, **fields: Any) -> None:
        """Say it."""


class AnswerDesk:
    """Answers requests from what the session knows."""

    def __init__(
        self, case: Path, model: SessionModel, intake: Intake, states: Iterable[tuple[int, bytes]], say: Saying
    ) -> None:
        """Open the desk.

        Args:
            case: the case's folder.
            model: the case.
            intake: the session's, for how its streams are.
            states: time and frame of states that were published before.
            say: called for requests that change the session.
        """
        self._fiducials: Mapping[str, Any] = model.fiducials
        self._intake = intake
        self._say = say
        self._what_if = WhatIfDesk(case)
        self._states: deque[tuple[int, bytes]] = deque(states, maxlen=STATES_REMEMBERED)

    def remember(self, time_ns: int, frame: bytes) -> None:
        """Keep a state that was published, for a while."""
        self._states.append((time_ns, frame))

    def close(self) -> None:
        """End what was asked and is not answered yet."""
        self._what_if.close()

    def answer(self, request: Request, caller: Caller, state: SessionState) -> Any:
        """The result of a request.

        Raises:
            NotAvailable: it cannot be had, with the reason.
        """
        match request:
            case ClockTime():
                return now_ns()
            case StateNow() | StateAt():
                time_ns = request.time_ns if isinstance(request, StateAt) else now_ns()
                found = next((frame for at, frame in reversed(self._states) if at <= time_ns), None)
                if found is None:
                    raise NotAvailable("there is no state of that time, or it is too long ago to be remembered")
                return decode(found.partition(b"\0")[2])
            case Landmarks():
                return {
                    "image": {name: point.tolist() for name, point in self._fiducials.items()},
                    "touched": dict(state.touches),
                }
            case Streams():
                silent = self._intake.liveness.silent(now_ns())
                return {
                    name: {
                        "offset_ns": clock.offset_ns,
                        "drift_ppm": clock.drift_ppm,
                        "trusted": clock.trusted,
                        "silent": name in silent,
                    }
                    for name, clock in self._intake.clocks.items()
                }
            case WhatIf():
                wishes = tuple((one.kind, one.value) for one in request.interventions)
                try:
                    return self._what_if.ask(wishes, request.hold, state.ensemble)
                except InputError as error:
                    raise NotAvailable(str(error)) from error
            case Register():
                wanted = {name: getattr(request, name) for name in FIELDS}
                wrong = fault(PatientRegistration(stream="command", sequence=0, source_time_ns=0, **wanted))
                if wrong is not None:
                    raise NotAvailable(wrong)
                self._say(PatientRegistration, caller, **wanted)
            case AddNote():
                self._say(Note, caller, source=caller.name or "command", text=request.text)
            case EndProcedure():
                self._say(ProcedureEnd, caller, reason=request.reason or "ended by command")
        return None
