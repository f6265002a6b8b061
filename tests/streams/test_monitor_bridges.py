"""Bridges to IEEE 11073 SDC and Lab Streaming Layer, against the libraries' own provider and outlets."""

import shutil
import socket
import subprocess
import sys
import threading
import time
from decimal import Decimal

import numpy as np
import pytest
import zmq

from streams.errors import InputError
from streams.messages import Heartbeat, Note, PressureSamples, VitalSign, WaveformSamples
from streams.monitor_signals import MonitorSignals
from streams.sockets import Publisher, Subscriber
from streams.wire import unpack

HEAD = (
    '<msg:GetMdibResponse xmlns:msg="http://standards.ieee.org/downloads/11073/11073-10207-2017/message" '
    'xmlns:pm="http://standards.ieee.org/downloads/11073/11073-10207-2017/participant" '
    'xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance" SequenceId="urn:uuid:11111111-2222-3333-4444-555555555555">'
)
METRIC = (
    '<pm:Metric Handle="{handle}" xsi:type="pm:{kind}" MetricCategory="Msrmt" MetricAvailability="Cont" {more}>'
    '<pm:Type Code="{code}"><pm:ConceptDescription Lang="en-US">{words}</pm:ConceptDescription></pm:Type>'
    '<pm:Unit Code="{unit}"/></pm:Metric>'
)
WAVE = 'Resolution="0.1" SamplePeriod="PT0.004S"'
METRICS = "".join(
    METRIC.format(handle=handle, kind=kind, more=more, code=code, words=words, unit=unit)
    for handle, kind, more, code, words, unit in [
        ("hr", "NumericMetricDescriptor", 'Resolution="1"', "147842", "heart rate", "264864"),
        ("art", "RealTimeSampleArrayMetricDescriptor", WAVE, "150032", "arterial pressure", "266016"),
        ("cvp", "RealTimeSampleArrayMetricDescriptor", WAVE, "150084", "venous pressure", "265987"),
        ("ecg", "RealTimeSampleArrayMetricDescriptor", WAVE, "131328", "ECG lead I", "266418"),
    ]
)
MDIB = (
    f'<?xml version="1.0" encoding="UTF-8"?>{HEAD}'
    '<msg:Mdib SequenceId="urn:uuid:11111111-2222-3333-4444-555555555555"><pm:MdDescription><pm:Mds Handle="mds0">'
    f'<pm:SystemContext Handle="SC"/><pm:Vmd Handle="vmd0"><pm:Channel Handle="ch0">{METRICS}</pm:Channel></pm:Vmd>'
    "</pm:Mds></pm:MdDescription></msg:Mdib></msg:GetMdibResponse>"
)


@pytest.fixture
def heard():
    """Where the twin would listen, and a publisher to it."""

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        at = f"tcp://127.0.0.1:{probe.getsockname()[1]}"
    subscriber, publisher = Subscriber(at), Publisher(at)
    yield subscriber, publisher
    publisher.close()
    subscriber.close()


class Listening:
    """Collects what comes until a condition holds."""

    def __init__(self, subscriber):
        self.subscriber, self.messages = subscriber, []

    def of(self, kind, stream=""):
        return [m for m in self.messages if isinstance(m, kind) and m.stream.endswith(stream)]

    def until(self, condition, say=lambda: None, most=20.0):
        end = time.monotonic() + most
        while not condition():
            assert time.monotonic() < end, [(m.stream, m) for m in self.messages]
            say()
            self.messages += [unpack(frame) for _, frame in self.subscriber.receive(50)]
        return self


def running(bridge):
    thread = threading.Thread(target=bridge.run)
    thread.start()
    return thread


class Monitor:
    """The library's own provider of a monitor."""

    def __init__(self, discovery, ssl=None):
        from sdc11073.mdib import ProviderMdib
        from sdc11073.provider import SdcProvider
        from sdc11073.xml_types.dpws_types import ThisDeviceType, ThisModelType

        self.mdib = ProviderMdib.from_string(MDIB.encode())
        self.provider = SdcProvider(
            ws_discovery=discovery,
            this_model=ThisModelType(manufacturer="m", model_name="n"),
            this_device=ThisDeviceType(friendly_name="Monitor 7", firmware_version="1", serial_number="1"),
            device_mdib_container=self.mdib,
            ssl_context_container=ssl,
        )
        self.provider.start_all(start_rtsample_loop=False)
        self.address = self.provider.get_xaddrs()[0]

    def say(self, transaction, handle, validity="Vld", **values):
        from sdc11073.xml_types import pm_types

        with getattr(self.mdib, f"{transaction}_state_transaction")() as changed:
            state = changed.get_state(handle)
            if state.MetricValue is None:
                state.mk_metric_value()
            state.ActivationState = pm_types.ComponentActivation.ON
            state.MetricValue.MetricQuality.Validity = pm_types.MeasurementValidity(validity)
            for name, value in values.items():
                setattr(state.MetricValue, name, value)

    def number(self, value, time_s, validity="Vld"):
        self.say("metric", "hr", validity, Value=Decimal(value), DeterminationTime=time_s)

    def wave(self, handle, samples, time_s, validity="Vld"):
        values = [Decimal(str(sample)) for sample in samples]
        self.say("rt_sample", handle, validity, Samples=values, DeterminationTime=time_s)


@pytest.fixture
def monitor():
    pytest.importorskip("sdc11073", reason="sdc11073 is not installed (the extra sdc)")
    from sdc11073.wsdiscovery import WSDiscovery

    discovery = WSDiscovery("127.0.0.1")
    discovery.start()
    made = Monitor(discovery)
    yield made
    made.provider.stop_all()
    discovery.stop()


def test_a_monitor_is_heard_through_sdc_as_its_own_library_provides_it(monitor, heard):
    from streams.sdc_bridge import SdcBridge

    monitor.number(61, 1_700_000_000.0)  # known before anyone listened
    bridge = SdcBridge(monitor.address, heard[1], ports={"art": "inlet"})
    thread = running(bridge)
    listening = Listening(heard[0])
    listening.until(lambda: listening.of(VitalSign) and listening.of(Heartbeat))
    monitor.number(72, 1_700_000_001.0)
    monitor.number(10, 1_700_000_001.5, validity="Inv")
    monitor.wave("art", [80.5, 81.0, 79.5], 1_700_000_002.0)
    monitor.wave("cvp", [1.0], 1_700_000_002.0)
    monitor.wave("art", [300.0], 1_700_000_003.0, validity="Calib")
    monitor.wave("ecg", [0.1, 0.2], 1_700_000_004.0)
    listening.until(lambda: listening.of(WaveformSamples))
    bridge.stop()
    thread.join()
    listening.until(lambda: any(beat.status == "ended" for beat in listening.of(Heartbeat)))
    assert [sign.value for sign in listening.of(VitalSign)] == [61.0, 72.0]
    rate = listening.of(VitalSign)[-1]
    assert (rate.device, rate.quantity, rate.unit) == ("Monitor 7", "heart rate", "1/min")
    assert abs(rate.source_time_ns - time.time_ns()) < 20e9  # the provider stamps its numbers itself
    (art,) = listening.of(PressureSamples, "/art")
    assert (art.values_mmhg, art.sample_period_ns, art.port) == ((80.5, 81.0, 79.5), 4_000_000, "inlet")
    assert art.source_time_ns == 1_700_000_002_000_000_000
    (cvp,) = listening.of(PressureSamples, "/cvp")
    assert cvp.values_mmhg[0] == pytest.approx(7.50062, abs=1e-4)  # 1 kPa
    assert cvp.port is None
    (ecg,) = listening.of(WaveformSamples)
    assert (ecg.quantity, ecg.values, ecg.unit) == ("ECG lead I", (0.1, 0.2), "266418")
    assert set(listening.of(Heartbeat)[-1].streams) == {f"sdc/Monitor_7/{name}" for name in ("art", "cvp", "ecg", "hr")}
    assert (bridge.counts["not valid (Inv)"], bridge.counts["not valid (Calib)"]) == (1, 1)


def test_a_monitor_that_is_not_there_is_waited_for_and_one_that_leaves_ends_nothing(monitor, heard):
    from streams.sdc_bridge import SdcBridge

    bridge = SdcBridge("http://127.0.0.1:9/none", heard[1])
    thread = running(bridge)
    end = time.monotonic() + 20
    while not bridge.counts["failed to connect"] and time.monotonic() < end:
        time.sleep(0.05)
    bridge.stop()
    thread.join()
    assert bridge.counts["failed to connect"]
    bridge = SdcBridge(monitor.address, heard[1])
    thread = running(bridge)
    while not bridge.counts["connections"] and time.monotonic() < end:
        time.sleep(0.05)
    monitor.provider.stop_all()
    end = time.monotonic() + 20
    while not bridge.counts["failed to connect"] and time.monotonic() < end:
        time.sleep(0.05)
    assert thread.is_alive()
    bridge.stop()
    thread.join()
    assert bridge.counts["connections lost"] == 1


def test_the_command_passes_a_monitor_on(monitor, heard):
    where = heard[0]._socket.getsockopt_string(zmq.LAST_ENDPOINT)
    command = [sys.executable, "-m", "surgical_twin", "bridge", "sdc", "--connect", monitor.address, "--devices", where,
               "--port", "art=inlet"]  # fmt: skip
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as bridge:
        listening = Listening(heard[0])
        listening.until(
            lambda: listening.of(PressureSamples), lambda: monitor.wave("art", [90.0], time.time()), most=60.0
        )
        bridge.terminate()
        output, error = bridge.communicate(timeout=20)
    assert bridge.returncode == 0, error
    assert listening.of(PressureSamples)[0].port == "inlet"
    assert "connections: 1" in output


@pytest.mark.parametrize(
    ("address", "tls", "says"),
    [
        ("127.0.0.1:5000", False, "is no address of an SDC device"),
        ("http://127.0.0.1:5000", False, "is no address of an SDC device"),
        ("http://192.0.2.1:5000/abc", False, "plain text"),
        ("https://192.0.2.1:5000/abc", False, "needs certificates"),
        ("http://127.0.0.1:5000/abc", True, "takes none"),
        ("https://127.0.0.1:5000/abc", True, "does not hold certificates that"),
    ],
)
def test_what_is_no_address_or_would_be_plain_text_is_refused(address, tls, says, tmp_path):
    from streams.sdc_bridge import SdcBridge

    if "certificates that" in says:
        pytest.importorskip("sdc11073", reason="sdc11073 is not installed (the extra sdc)")
    with pytest.raises(InputError, match=says):
        SdcBridge(address, None, tls=tmp_path if tls else None)


def certificates(folder):
    """A certificate authority of our own, and a certificate of it for both sides."""
    subject = ["-subj", "/CN=127.0.0.1"]
    new = ["openssl", "req", "-newkey", "rsa:2048", "-nodes"]
    for command in (
        [*new, "-x509", "-days", "2", "-keyout", "ca.key", "-out", "cacert.pem", "-subj", "/CN=ca"],
        [*new, "-keyout", "userkey.pem", "-out", "user.csr", *subject],
        ["openssl", "x509", "-req", "-days", "2", "-in", "user.csr", "-CA", "cacert.pem", "-CAkey", "ca.key",
         "-CAcreateserial", "-out", "usercert.pem"],
    ):  # fmt: skip
        subprocess.run(command, cwd=folder, check=True, capture_output=True)


def test_tls_lets_in_whom_the_certificates_know_and_nobody_else(heard, tmp_path):
    pytest.importorskip("sdc11073", reason="sdc11073 is not installed (the extra sdc)")
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    from sdc11073.certloader import mk_ssl_contexts_from_folder
    from sdc11073.wsdiscovery import WSDiscovery

    from streams.sdc_bridge import SdcBridge

    (tmp_path / "ours").mkdir()
    (tmp_path / "theirs").mkdir()
    certificates(tmp_path / "ours")
    certificates(tmp_path / "theirs")
    discovery = WSDiscovery("127.0.0.1")
    discovery.start()
    made = Monitor(discovery, mk_ssl_contexts_from_folder(tmp_path / "ours"))
    assert made.address.startswith("https")
    stranger = SdcBridge(made.address, heard[1], tls=tmp_path / "theirs")
    thread = running(stranger)
    end = time.monotonic() + 20
    while not stranger.counts["failed to connect"] and time.monotonic() < end:
        time.sleep(0.05)
    stranger.stop()
    thread.join()
    assert (stranger.counts["failed to connect"] > 0, stranger.counts["connections"]) == (True, 0)
    bridge = SdcBridge(made.address, heard[1], tls=tmp_path / "ours")
    thread = running(bridge)
    listening = Listening(heard[0])
    listening.until(lambda: listening.of(PressureSamples), lambda: made.wave("art", [90.0], time.time()))
    bridge.stop()
    thread.join()
    made.provider.stop_all()
    discovery.stop()
    assert listening.of(PressureSamples)[0].values_mmhg == (90.0,)


@pytest.fixture
def lsl():
    try:
        import pylsl
    except (ImportError, RuntimeError):
        pytest.skip("pylsl is not installed (the extra lsl)")
    return pylsl


def outlet(lsl, name, channels, rate, kind):
    info = lsl.StreamInfo(name, "test", len(channels), rate, kind, f"{name}-source")
    described = info.desc().append_child("channels")
    for label, unit in channels:
        channel = described.append_child("channel")
        channel.append_child_value("label", label)
        channel.append_child_value("unit", unit)
    return lsl.StreamOutlet(info)


def test_streams_of_a_laboratory_are_heard_as_the_library_sends_them(lsl, heard):
    from streams.lsl_bridge import LslBridge

    unique = f"twin{time.monotonic_ns()}"
    pressures = outlet(lsl, f"{unique}P", [("ART", "kPa"), ("ECG", "mV")], 250.0, lsl.cf_float32)
    numbers = outlet(lsl, f"{unique}N", [("SpO2", "%")], lsl.IRREGULAR_RATE, lsl.cf_double64)
    markers = outlet(lsl, f"{unique}M", [("mark", "")], lsl.IRREGULAR_RATE, lsl.cf_string)
    bridge = LslBridge([f"{unique}{which}" for which in "PNM"], heard[1], ports={"ART": "inlet"})
    thread = running(bridge)
    listening = Listening(heard[0])
    sent = 0

    def say():
        nonlocal sent
        pressures.push_chunk([[10.0 + (sent + k) % 3, 0.5] for k in range(5)])
        numbers.push_sample([97.0])
        markers.push_sample(["incision"])
        sent += 5
        time.sleep(0.02)

    kinds = (PressureSamples, WaveformSamples, VitalSign, Note)
    listening.until(lambda: all(len(listening.of(kind)) > 3 for kind in kinds), say)
    begun = time.time_ns()
    bridge.stop()
    thread.join()
    pressure = listening.of(PressureSamples)[-1]
    assert pressure.port == "inlet"
    assert pressure.sample_period_ns == 4_000_000
    values = np.concatenate([message.values_mmhg for message in listening.of(PressureSamples)])
    assert set(np.round(values * 0.133322387, 3)) == {10.0, 11.0, 12.0}
    steps = np.diff(np.round(values * 0.133322387)) % 3
    assert set(steps) == {1.0}  # none is missing and none comes twice
    assert abs(pressure.source_time_ns - begun) < 2e9
    assert listening.of(WaveformSamples)[-1].unit == "mV"
    assert (listening.of(VitalSign)[-1].value, listening.of(VitalSign)[-1].unit) == (97.0, "%")
    assert listening.of(Note)[-1].text == "incision"


def test_what_is_not_finite_is_counted_and_not_passed_on():
    signals = MonitorSignals("sdc")
    assert signals.number("d", "hr", "heart rate", "1/min", time_ns=1, value=float("nan")) == []
    assert signals.samples("d", "p", "p", "mmHg", period_ns=1000, time_ns=1, values=[1.0, float("inf")]) == []
    assert signals.samples("d", "p", "p", "mmHg", period_ns=1000, time_ns=1, values=[]) == []
    (first, second) = signals.samples("d", "p", "p", "mmHg", period_ns=1000, time_ns=1, values=[1.0] * 5000)
    assert (len(first.values_mmhg), len(second.values_mmhg), second.source_time_ns) == (4096, 904, 4_096_001)
    assert signals.counts == {"not a number": 1, "impossible PressureSamples": 1, "PressureSamples": 2}
