"""What-if questions from the display to a running twin, and its answers as rows to read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from streams.command_channel import CommandClient, Intervention, WhatIf
from streams.errors import InputError as StreamsInputError
from streams.messages import Estimate
from streams.security import ClientSecurity
from viewer.before_after import draw_before_after
from viewer.lettering import format_estimate

KINDS = ("stent", "clamp", "device", "drug", "svr", "resistance", "inflow", "heart-rate", "blood-loss")
"""As the options of the command ``what-if``."""

LONGEST_S = 60.0

Row = list[str]


@dataclass(frozen=True)
class Answer:
    """An answer to be shown.

    Attributes:
        rows: quantity, before, after and change, each with its 95 % interval.
        picture: before beside after (height, width, 3); None where there is none.
    """

    rows: list[Row]
    picture: NDArray[np.uint8] | None = None


class WhatIfPanel:
    """Asks over the twin's command channel; never raises, since a display must go on.

    Args:
        endpoint: of the command channel.
        security: keys, where the twin wants them.
    """

    def __init__(self, endpoint: str, *, security: ClientSecurity | None = None) -> None:
        self._endpoint, self._security = endpoint, security

    def ask(self, kind: str, value: str) -> Answer:
        """Rows and a picture of what would happen; or one row with what went wrong."""
        try:
            # A client of its own for each question: they come from a thread, and sockets are not shared among those.
            client = CommandClient(self._endpoint, security=self._security)
            try:
                wish = WhatIf(interventions=(Intervention(kind=kind, value=value),))
                reply = client.ask(wish, timeout_s=LONGEST_S)
            finally:
                client.close()
        except (StreamsInputError, ValueError) as error:
            return Answer([["not answered", str(error), "", ""]])
        if not reply.ok:
            return Answer([["not answered", reply.reason, "", ""]])
        return Answer(answer_rows(reply.result), answer_picture(reply.result))


def answer_rows(answer: Any) -> list[Row]:
    """An answer in plain values as rows; what is not understood is said, not hidden."""
    quantities = answer.get("quantities") if isinstance(answer, dict) else None
    if not isinstance(quantities, dict) or not quantities:
        return [["not understood", str(answer)[:200], "", ""]]
    rows = []
    for name, values in quantities.items():
        rows.append([str(name).replace("_", " "), *(_cell(values.get(part)) for part in ("before", "after", "change"))])
    rows += [["note", str(note), "", ""] for note in answer.get("notes", ())]
    return rows


def answer_picture(answer: Any) -> NDArray[np.uint8] | None:
    """Before beside after; None where the answer holds no such pairs."""
    quantities = answer.get("quantities") if isinstance(answer, dict) else None
    return draw_before_after(quantities) if isinstance(quantities, dict) else None


def _cell(values: Any) -> str:
    try:
        estimate = msgspec.convert(values, Estimate)
    except msgspec.ValidationError:
        return "–"
    value, interval = format_estimate(estimate)
    return f"{value} [{interval}]"
