"""A consumer of IEEE 11073 SDC: what a patient monitor measures, to the twin.

The library `sdc11073` speaks the protocol (BICEPS over DPWS); it is an extra. Its threads hand reports over to the
bridge's own loop, which alone uses the socket to the twin. Nothing is ever sent to the monitor but the subscription.
Beyond this machine SDC is TLS with certificates on both sides.
"""

import logging
import queue
import threading
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

from streams.errors import InputError
from streams.messages import ENDED, Message
from streams.monitor_signals import MonitorSignals
from streams.session_clock import now_ns
from streams.sockets import Publisher, is_local

RECONNECT_S = 1.0
LOOP_S = 0.02
MOST_WAITING = 10_000
"""Reports that wait for the loop."""

TIMEOUT_S = 5
VALID = ("Vld", "Vldated", "Ong")
"""Validities of BICEPS of which a value is passed on: valid, validated, the measurement is ongoing."""

UNITS = {
    "266016": "mmHg",
    "266048": "cmH2O",
    "265987": "kPa",
    "265986": "hPa",
    "265984": "Pa",
    "264864": "1/min",
    "264928": "1/min",
    "265216": "L/min",
    "262688": "%",
    "268192": "degC",
    "262656": "",
}
"""Codes of units, MDC_DIM of IEEE 11073-10101; others are passed on as their code."""

log = logging.getLogger(__name__)


class SdcBridge:
    """Connects to one device, and again when it is lost, and passes its metrics on.

    Attributes:
        counts: what was passed on, what was not, and connections made and lost.
    """

    def __init__(
        self,
        address: str,
        devices: Publisher,
        *,
        tls: Path | None = None,
        insecure: bool = False,
        ports: Mapping[str, str] | None = None,
    ) -> None:
        """Get ready; nothing is connected before `run`.

        Args:
            address: of the device: http(s)://HOST:PORT/PATH.
            devices: to the twin.
            tls: folder with cacert.pem, usercert.pem and userkey.pem; None for plain text.
            insecure: plain text beyond this machine is wanted.
            ports: of pressure signals by their handle, the port of the case at which they measure.

        Raises:
            InputError: the library is not there, the address is none or beyond this machine and plain, or the
                certificates cannot be read.
        """
        parts = urlparse(address)
        if parts.scheme not in ("http", "https") or not parts.hostname or not parts.path.strip("/"):
            raise InputError(
                f'"{address}" is no address of an SDC device; write http://HOST:PORT/PATH as the device shows it.'
            )
        if (parts.scheme == "https") != (tls is not None):
            raise InputError(f"{address}: https needs certificates with --tls, and http takes none.")
        if tls is None and not insecure and not is_local(f"tcp://{parts.hostname}:{parts.port or 80}"):
            raise InputError(
                f"{address} reaches beyond this machine and is plain text that anyone may read and forge; use https "
                "with --tls, or allow it with --insecure."
            )
        try:
            import sdc11073  # noqa: F401
        except ImportError as error:
            raise InputError(
                "the bridge to SDC needs the package sdc11073; install it with: pip install 'surgical-twin[sdc]'"
            ) from error
        self._address, self._devices = address, devices
        self._tls = None if tls is None else _certificates(tls)
        self._signals = MonitorSignals("sdc", ports or {})
        self._reports: queue.Queue[tuple[str, Mapping[str, Any]]] = queue.Queue(MOST_WAITING)
        self._stop = threading.Event()
        self._device = parts.hostname

    @property
    def counts(self) -> Counter[str]:
        """What was done so far."""
        return self._signals.counts

    def stop(self) -> None:
        """End `run` from another thread or a signal handler."""
        self._stop.set()

    def run(self, say: Callable[[Counter[str]], None] | None = None) -> Counter[str]:
        """Pass on until `stop` is called; returns what was done."""
        while not self._stop.is_set():
            try:
                consumer, mdib = self._connected()
            except Exception as error:  # the library raises of many kinds where a device does not answer as it should
                log.debug("no connection to %s: %s", self._address, error)
                self.counts["failed to connect"] += 1
                self._stop.wait(RECONNECT_S)
                continue
            self.counts["connections"] += 1
            try:
                self._pass_on(consumer, mdib, say)
            finally:
                try:
                    consumer.stop_all(unsubscribe=consumer.is_connected)
                except Exception as error:  # of a device that is gone
                    log.debug("leaving %s: %s", self._address, error)
        self._send(self._signals.heartbeats(now_ns(), ENDED))
        return self.counts

    def _connected(self) -> tuple[Any, Any]:
        from sdc11073 import observableproperties
        from sdc11073.consumer.consumerimpl import SdcConsumer
        from sdc11073.definitions_sdc import SdcV1Definitions
        from sdc11073.mdib.consumermdib import ConsumerMdib

        consumer = SdcConsumer(
            self._address,
            SdcV1Definitions,
            self._tls,
            socket_timeout=TIMEOUT_S,
            force_ssl_connect=self._tls is not None,
        )
        try:
            consumer.start_all()
            mdib = ConsumerMdib(consumer)
            observableproperties.bind(mdib, metrics_by_handle=self._take_metrics, waveform_by_handle=self._take_waves)
            mdib.init_mdib()
            self._device = _friendly_name(consumer) or self._device
        except BaseException:
            consumer.stop_all(unsubscribe=False)
            raise
        # What the device knew before is news to the twin.
        self._take_metrics(
            {
                state.DescriptorHandle: state
                for state in mdib.states.objects
                if getattr(state, "MetricValue", None) is not None and not state.is_realtime_sample_array_metric_state
            }
        )
        return consumer, mdib

    def _take_metrics(self, states: Mapping[str, Any]) -> None:
        self._take("metrics", states)

    def _take_waves(self, states: Mapping[str, Any]) -> None:
        self._take("waves", states)

    def _take(self, kind: str, states: Mapping[str, Any]) -> None:
        """Of the library's threads: leave a report to the loop."""
        if not states:
            return
        try:
            self._reports.put_nowait((kind, dict(states)))
        except queue.Full:
            self.counts["reports left out: too many"] += 1

    def _pass_on(self, consumer: Any, mdib: Any, say: Callable[[Counter[str]], None] | None) -> None:
        told = 0
        while not self._stop.is_set():
            try:
                kind, states = self._reports.get(timeout=LOOP_S)
            except queue.Empty:
                if not consumer.is_connected:
                    self.counts["connections lost"] += 1
                    return
            else:
                for handle, state in states.items():
                    self._send(self._converted(kind, mdib.descriptions.handle.get_one(handle, allow_none=True), state))
            now = now_ns()
            self._send(self._signals.heartbeats(now))
            if say is not None and now - told > 500_000_000:
                told = now
                say(self.counts)

    def _converted(self, kind: str, descriptor: Any, state: Any) -> list[Message]:
        """The messages of a metric's state."""
        value = state.MetricValue
        if descriptor is None or value is None:
            self.counts["without a value"] += 1
            return []
        validity = value.MetricQuality.Validity.value
        if validity not in VALID:
            self.counts[f"not valid ({validity})"] += 1
            return []
        name, quantity, unit = (
            descriptor.Handle,
            _words(descriptor),
            UNITS.get(descriptor.Unit.Code, descriptor.Unit.Code),
        )
        measured = value.DeterminationTime
        time_ns = now_ns() if measured is None else 1000 * round(float(measured) * 1e6)
        if kind == "waves":
            samples = [float(sample) for sample in value.Samples or ()]
            period_ns = round(float(descriptor.SamplePeriod) * 1e9)
            return self._signals.samples(
                self._device, name, quantity, unit, period_ns=period_ns, time_ns=time_ns, values=samples
            )
        if not hasattr(value, "Value") or value.Value is None:
            self.counts["without a value"] += 1
            return []
        if isinstance(value.Value, str):
            return self._signals.text(self._device, name, f"{quantity}: {value.Value}", time_ns=time_ns)
        return self._signals.number(self._device, name, quantity, unit, time_ns=time_ns, value=float(value.Value))

    def _send(self, messages: list[Message]) -> None:
        for message in messages:
            self._devices.send(message)


def _friendly_name(consumer: Any) -> str:
    """What the device calls itself; empty where it does not."""
    section = getattr(consumer.host_description, "this_device", None)
    device = getattr(section, "MetadataSection", section)
    names = getattr(device, "FriendlyName", None) or []
    return next((str(one.text) for one in names if one.text), "")


def _words(descriptor: Any) -> str:
    """What a metric is of: its description in words, else its code, else its handle."""
    coded = descriptor.Type
    if coded is None:
        return str(descriptor.Handle)
    described = [one.text for one in coded.ConceptDescription if one.text]
    return str(described[0] if described else coded.SymbolicCodeName or coded.Code)


def _certificates(folder: Path) -> Any:
    import ssl

    from sdc11073.certloader import mk_ssl_contexts_from_folder

    try:
        return mk_ssl_contexts_from_folder(folder)
    except (OSError, ssl.SSLError) as error:
        raise InputError(
            f"{folder} does not hold certificates that can be read ({error}); it needs cacert.pem, usercert.pem and "
            "userkey.pem."
        ) from error
