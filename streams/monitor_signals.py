"""What bridges to monitors and to Lab Streaming Layer share: signals and numbers of other programs as messages.

A signal in a unit of pressure becomes PressureSamples in mmHg, any other WaveformSamples; a single number a VitalSign.
Each stream is numbered here, and a heartbeat names them all.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import msgspec

from streams.messages import (
    ENDED,
    MAX_SAMPLES,
    MAX_STREAMS,
    MAX_TEXT,
    Heartbeat,
    Message,
    Note,
    PressureSamples,
    VitalSign,
    fault,
)
from streams.translating import samples_message, slug

HEARTBEAT_NS = 1_000_000_000

MMHG_PER = {
    "mmhg": 1.0,
    "mm[hg]": 1.0,  # UCUM
    "torr": 1.0,
    "pa": 1 / 133.322387415,
    "hpa": 100 / 133.322387415,
    "mbar": 100 / 133.322387415,
    "kpa": 1000 / 133.322387415,
    "cmh2o": 98.0665 / 133.322387415,
    "cm[h2o]": 98.0665 / 133.322387415,
}
"""Units of pressure, in lower case, as mmHg."""


@dataclass
class MonitorSignals:
    """Makes messages of what a device of another protocol says.

    Attributes:
        protocol: the beginning of its streams' names.
        ports: of pressure signals by name, the port of the case at which they measure.
        counts: what was passed on and what was not.
    """

    protocol: str
    ports: Mapping[str, str] = field(default_factory=dict)
    counts: Counter[str] = field(default_factory=Counter)
    _numbers: Counter[str] = field(default_factory=Counter)
    _streams: dict[str, set[str]] = field(default_factory=dict)
    """by device"""
    _beaten_ns: int = 0

    def samples(
        self,
        device: str,
        name: str,
        quantity: str,
        unit: str,
        *,
        period_ns: int,
        time_ns: int,
        values: Sequence[float],
    ) -> list[Message]:
        """Consecutive samples of a signal.

        Args:
            device: who says it.
            name: of the signal.
            quantity: what it is of, in words.
            unit: of its values.
            period_ns: from one sample to the next.
            time_ns: when the first was taken.
            values: what was measured; where one is not finite none of them is passed on.
        """
        scale = MMHG_PER.get(unit.replace(" ", "").lower())
        made: list[Message] = []
        for begin in range(0, len(values), MAX_SAMPLES):
            part = values[begin : begin + MAX_SAMPLES]
            stream = self._stream(device, name)
            message = samples_message(
                stream=stream,
                sequence=self._number(stream),
                source_time_ns=time_ns + begin * period_ns,
                sensor=name,
                period_ns=period_ns,
                values=tuple(float(value) * (1.0 if scale is None else scale) for value in part),
                pressure=scale is not None,
                quantity=quantity,
                unit=unit,
            )
            if isinstance(message, PressureSamples) and name in self.ports:
                message = msgspec.structs.replace(message, port=self.ports[name])
            made += self._checked(message)
        return made

    def number(self, device: str, name: str, quantity: str, unit: str, *, time_ns: int, value: float) -> list[Message]:
        """A single number, such as a heart rate."""
        if not math.isfinite(value):
            self.counts["not a number"] += 1
            return []
        stream = self._stream(device, name)
        return self._checked(
            VitalSign(
                stream=stream,
                sequence=self._number(stream),
                source_time_ns=time_ns,
                device=device,
                quantity=quantity,
                value=value,
                unit=unit,
            )
        )

    def text(self, device: str, name: str, text: str, *, time_ns: int) -> list[Message]:
        """Words, such as a marker."""
        stream = self._stream(device, name)
        return self._checked(
            Note(
                stream=stream,
                sequence=self._number(stream),
                source_time_ns=time_ns,
                source=device,
                text=text[:MAX_TEXT],
            )
        )

    def heartbeats(self, now_ns: int, status: str = "connected") -> list[Message]:
        """A heartbeat of each device, where one is due; with the status ENDED at once."""
        if status != ENDED and now_ns - self._beaten_ns < HEARTBEAT_NS:
            return []
        self._beaten_ns = now_ns
        made: list[Message] = []
        for device, streams in self._streams.items():
            stream = f"{self.protocol}/{slug(device)}/heartbeat"
            made.append(
                Heartbeat(
                    stream=stream,
                    sequence=self._number(stream),
                    source_time_ns=now_ns,
                    device=device,
                    status=status,
                    streams=tuple(sorted(streams))[:MAX_STREAMS],
                )
            )
        return made

    def _stream(self, device: str, name: str) -> str:
        stream = f"{self.protocol}/{slug(device)[:80]}/{slug(name)[:80]}"
        self._streams.setdefault(device, set()).add(stream)
        return stream

    def _number(self, stream: str) -> int:
        self._numbers[stream] += 1
        return self._numbers[stream] - 1

    def _checked(self, message: Message) -> list[Message]:
        if fault(message) is not None:
            self.counts[f"impossible {type(message).__name__}"] += 1
            return []
        self.counts[type(message).__name__] += 1
        return [message]
