"""Lab Streaming Layer to the twin: each chosen stream of the laboratory as signals, numbers or notes.

The library `pylsl` speaks the protocol; it is an extra. LSL is plain text and finds streams by multicast: whom it
finds is whom the network holds. Clocks are compared by the library; what remains of an offset the twin's intake finds.
"""

import logging
import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from streams.errors import InputError
from streams.messages import ENDED, Message
from streams.monitor_signals import MonitorSignals
from streams.session_clock import now_ns
from streams.sockets import Publisher

log = logging.getLogger(__name__)

LOOP_S = 0.01
SEARCH_S = 0.5
MOST_AT_ONCE = 4096
CORRECTED_NS = 5_000_000_000
"""How often the offset of a source's clock is asked for."""


@dataclass
class _Source:
    inlet: Any
    device: str
    channels: list[tuple[str, str]]
    """name and unit of each"""
    period_ns: int
    """0 where the samples have no rhythm"""
    words: bool
    correction_s: float = 0.0
    corrected_ns: int = 0


class LslBridge:
    """Passes streams on, from when each appears.

    Attributes:
        counts: what was passed on and what was not.
    """

    def __init__(self, names: Sequence[str], devices: Publisher, *, ports: Mapping[str, str] | None = None) -> None:
        """Get ready.

        Args:
            names: the streams to take; each is waited for.
            devices: to the twin.
            ports: of pressure channels by name, the port of the case at which they measure.

        Raises:
            InputError: the library is not there, or no stream is named.
        """
        try:
            import pylsl
        except (ImportError, RuntimeError) as error:
            raise InputError(
                "the bridge to Lab Streaming Layer needs the package pylsl; install it with: "
                "pip install 'surgical-twin[lsl]'"
            ) from error
        if not names:
            raise InputError("the bridge to Lab Streaming Layer needs the names of streams, with --stream.")
        self._lsl: Any = pylsl
        self._devices = devices
        self._waited = list(dict.fromkeys(names))
        self._sources: list[_Source] = []
        self._signals = MonitorSignals("lsl", ports or {})
        self._stop = threading.Event()

    @property
    def counts(self) -> Counter[str]:
        """What was done so far."""
        return self._signals.counts

    def stop(self) -> None:
        """End `run` from another thread or a signal handler."""
        self._stop.set()

    def run(self, say: Callable[[Counter[str]], None] | None = None) -> Counter[str]:
        """Pass on until `stop` is called; returns what was done."""
        searcher = threading.Thread(target=self._search, name="lsl search", daemon=True)
        searcher.start()
        told = 0
        while not self._stop.wait(LOOP_S):
            for source in list(self._sources):
                self._pull(source)
            now = now_ns()
            self._send(self._signals.heartbeats(now))
            if say is not None and now - told > 500_000_000:
                told = now
                say(self.counts)
        searcher.join()
        self._send(self._signals.heartbeats(now_ns(), ENDED))
        for source in self._sources:
            source.inlet.close_stream()
        return self.counts

    def _search(self) -> None:
        """Wait for the streams that have not been found yet; searching takes its time, and nothing waits for it."""
        while self._waited and not self._stop.is_set():
            for name in list(self._waited):
                try:
                    found = self._lsl.resolve_byprop("name", name, minimum=1, timeout=SEARCH_S)
                    if not found:
                        continue
                    source = self._opened(found[0])
                except RuntimeError as error:  # it has gone again
                    log.debug("the stream %s cannot be opened: %s", name, error)
                    self.counts["failed to open"] += 1
                    continue
                self._waited.remove(name)
                self._sources.append(source)
                self.counts["streams found"] += 1

    def _opened(self, found: Any) -> _Source:
        inlet = self._lsl.StreamInlet(found, max_buflen=60, recover=True)
        info = inlet.info(timeout=5.0)
        rate = float(info.nominal_srate())
        described, channel = [], info.desc().child("channels").child("channel")
        for number in range(info.channel_count()):
            label = "" if channel.empty() else channel.child_value("label")
            unit = "" if channel.empty() else channel.child_value("unit")
            described.append((label or (info.name() if info.channel_count() == 1 else f"{info.name()}_{number}"), unit))
            channel = channel.next_sibling("channel") if not channel.empty() else channel
        words = info.channel_format() == self._lsl.cf_string
        source = _Source(inlet, info.name(), described, round(1e9 / rate) if rate > 0 else 0, words)
        self._correct(source, timeout_s=5.0)  # the first takes the library some round trips, later ones none
        return source

    def _correct(self, source: _Source, *, timeout_s: float) -> None:
        source.corrected_ns = now_ns()
        try:
            source.correction_s = float(source.inlet.time_correction(timeout=timeout_s))
        except RuntimeError:  # the library's TimeoutError and LostError are of this kind
            self.counts["clock not known"] += 1

    def _pull(self, source: _Source) -> None:
        try:
            samples, stamps = source.inlet.pull_chunk(timeout=0.0, max_samples=MOST_AT_ONCE)
        except RuntimeError:
            self.counts["failed to pull"] += 1
            return
        if not stamps:
            return
        now, here = now_ns(), self._lsl.local_clock()
        if now - source.corrected_ns > CORRECTED_NS:
            self._correct(source, timeout_s=0.1)
        times = [now - round((here - stamp - source.correction_s) * 1e9) for stamp in stamps]
        if source.words or not source.period_ns:
            for sample, time_ns in zip(samples, times, strict=True):
                for (name, unit), value in zip(source.channels, sample, strict=True):
                    made = (
                        self._signals.text(source.device, name, str(value), time_ns=time_ns)
                        if source.words
                        else self._signals.number(source.device, name, name, unit, time_ns=time_ns, value=float(value))
                    )
                    self._send(made)
            return
        for begin, end in _runs(times, source.period_ns):
            for number, (name, unit) in enumerate(source.channels):
                values = [float(sample[number]) for sample in samples[begin:end]]
                self._send(
                    self._signals.samples(
                        source.device, name, name, unit, period_ns=source.period_ns, time_ns=times[begin], values=values
                    )
                )

    def _send(self, messages: list[Message]) -> None:
        for message in messages:
            self._devices.send(message)


def _runs(times_ns: Sequence[int], period_ns: int) -> list[tuple[int, int]]:
    """Begin and end of the samples that follow one another without a gap of a period or more."""
    edges = [0]
    for number in range(1, len(times_ns)):
        if abs(times_ns[number] - times_ns[number - 1] - period_ns) > period_ns:
            edges.append(number)
    edges.append(len(times_ns))
    return list(pairwise(edges))
