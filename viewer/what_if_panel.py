"""What-if questions from the display to a running twin, and its answers as rows to read."""

from __future__ import annotations

from typing import Any

import msgspec

from streams.command_channel import CommandClient, Intervention, WhatIf
from streams.errors import InputError as StreamsInputError
from streams.messages import Estimate
from streams.security import ClientSecurity
from viewer.lettering import format_estimate

KINDS = ("stent", "clamp", "device", "drug", "svr", "resistance", "inflow", "heart-rate", "blood-loss")
"""As the options of the command ``what-if``."""

LONGEST_S = 60.0

Row = list[str]


class WhatIfPanel:
    """Asks over the twin's command channel; never raises, since a display must go on.

    Args:
        endpoint: of the command channel.
        security: keys, where the twin wants them.
    """

    def __init__(self, endpoint: str, *, security: ClientSecurity | None = None) -> None:
        self._endpoint, self._security = endpoint, security

    def ask(self, kind: str, value: str) -> list[Row]:
        """Quantity, before, after and change, each with its 95 % interval; or one row with what went wrong."""
        try:
            # A client of its own for each question: they come from a thread, and sockets are not shared among those.
            client = CommandClient(self._endpoint, security=self._security)
            try:
                wish = WhatIf(interventions=(Intervention(kind=kind, value=value),))
                reply = client.ask(wish, timeout_s=LONGEST_S)
            finally:
                client.close()
        except (StreamsInputError, ValueError) as error:
            return [["not answered", str(error), "", ""]]
        if not reply.ok:
            return [["not answered", reply.reason, "", ""]]
        return answer_rows(reply.result)


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


def _cell(values: Any) -> str:
    try:
        estimate = msgspec.convert(values, Estimate)
    except msgspec.ValidationError:
        return "–"
    value, interval = format_estimate(estimate)
    return f"{value} [{interval}]"
