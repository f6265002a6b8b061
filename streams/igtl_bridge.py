"""A bridge to OpenIGTLink programs (3D Slicer, PLUS): their tools and sensors to the twin, the twin's state to them.

Every message of a peer is passed on as it comes, not only the newest. The twin's state goes out at a steady rate; a
peer that does not keep up misses some of it, which is counted, and never holds up the others. OpenIGTLink has neither
encryption nor names: by itself the bridge listens on this machine only.
"""

import errno
import re
import selectors
import socket
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from streams import igtl
from streams.devices import quaternion_of
from streams.errors import InputError, MalformedMessage
from streams.igtl import Decoder, IgtlError, IgtlMessage, OutOfStep
from streams.import_plus import NOT_A_ROTATION
from streams.messages import (
    MAX_NAME,
    MAX_TEXT,
    FiducialTouch,
    Heartbeat,
    ImageFrame,
    Message,
    Note,
    PressureSamples,
    ToolPose,
    TwinState,
    WaveformSamples,
    fault,
)
from streams.session_clock import now_ns
from streams.sockets import Publisher, Subscriber
from streams.wire import unpack

Array = NDArray[np.float64]

DEFAULT_PORT = 18944
PASCAL_PER_MMHG = 133.322387415

OUT_HZ = 30.0
SURFACE_HZ = 2.0
RECONNECT_NS = 1_000_000_000
READ_BYTES = 1 << 18
MOST_WAITING = 4_000_000
"""Bytes kept for a peer that does not keep up; what does not fit is not sent to it."""

MOST_PEERS = 16

RAS_FROM_LPS = np.diag([-1.0, -1.0, 1.0])


@dataclass(frozen=True)
class Surface:
    """The lumen's surface with its pressure modes, for the overlay mesh."""

    points: Array
    """(n, 3) mm, LPS"""
    triangles: NDArray[np.int64]
    """(m, 3)"""
    modes: Array
    """(n, k) mmHg for each coefficient"""


def _slug(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9_.-]+", "_", name)[: MAX_NAME - 20] or "device"


@dataclass
class Inward:
    """Makes the twin's messages of a peer's.

    Poses and points stay in the peer's frame, whichever it is: registration finds the image from it.

    Attributes:
        counts: what was passed on, by type, and what was not.
    """

    counts: Counter[str] = field(default_factory=Counter)
    _numbers: Counter[str] = field(default_factory=Counter)

    def convert(self, message: IgtlMessage, received_ns: int) -> list[Message]:
        """The messages that one of a peer's gives; none where it cannot be read, which is counted."""
        try:
            made = self._convert(message, message.time_ns or received_ns)
        except IgtlError:
            self.counts[f"unreadable {message.type}"] += 1
            return []
        if not made:
            self.counts[f"without content {message.type[:12]}"] += 1
        good = []
        for item in made:
            if fault(item) is None:
                good.append(item)
                self.counts[type(item).__name__] += 1
            else:
                self.counts[f"impossible {message.type}"] += 1
        return good

    def _head(self, stream: str, time_ns: int) -> tuple[str, int, int]:
        number = self._numbers[stream]
        self._numbers[stream] += 1
        return stream, number, time_ns

    def _convert(self, message: IgtlMessage, time_ns: int) -> list[Message]:
        device, content = message.device, message.content
        match message.type:
            case "TRANSFORM":
                return [self._matrix(device, igtl.read_transform(content), time_ns, self._is_ok(message))]
            case "TDATA":
                return [self._matrix(name, matrix, time_ns, True) for name, matrix in igtl.read_tdata(content)]
            case "POSITION":
                position, quaternion = igtl.read_position(content)
                return [self._pose(device, position, quaternion, time_ns, self._is_ok(message))]
            case "QTDATA":
                return [self._pose(name, p, q, time_ns, True) for name, p, q in igtl.read_qtdata(content)]
            case "POINT":
                return [self._touch(device, *point, time_ns) for point in igtl.read_points(content)]
            case "STRING":
                stream, number, at = self._head(f"igtl/{_slug(device)}/text", time_ns)
                text = igtl.read_string(content)[:MAX_TEXT]
                return [Note(stream=stream, sequence=number, source_time_ns=at, source=device, text=text)]
            case "SENSOR":
                return self._sensor(device, *igtl.read_sensor(content), time_ns)
            case "STATUS":
                code, name, text = igtl.read_status(content)
                stream, number, at = self._head(f"igtl/{_slug(device)}/status", time_ns)
                said = f"{code} {name} {text}".strip()[:MAX_TEXT]
                return [
                    Heartbeat(stream=stream, sequence=number, source_time_ns=at, device=device or "igtl", status=said)
                ]
            case "IMAGE":
                return [self._image(device, *igtl.read_image(content), time_ns)]
            case _:
                raise IgtlError("a message of a type that is not passed on")

    @staticmethod
    def _is_ok(message: IgtlMessage) -> bool:
        """Whether no status in the metadata says otherwise, as PLUS writes it there."""
        states = [value for key, value in message.metadata.items() if key.endswith("Status")]
        return all(value.strip().upper() in ("OK", "") for value in states)

    def _matrix(self, name: str, matrix: Array, time_ns: int, ok: bool) -> Message:
        finite = bool(np.isfinite(matrix).all()) and bool(matrix[:3, :3].any())
        if finite:
            u, _, vt = np.linalg.svd(matrix[:3, :3])
            rotation = u @ vt
            finite = bool(np.linalg.det(rotation) > 0 and np.abs(matrix[:3, :3] - rotation).max() <= NOT_A_ROTATION)
        if not finite:
            return self._pose(name, np.zeros(3), np.array([1.0, 0, 0, 0]), time_ns, False)
        return self._checked_pose(name, matrix[:3, 3], np.array(quaternion_of(rotation)), time_ns, ok)

    def _pose(self, name: str, position: Array, quaternion: Array, time_ns: int, ok: bool) -> Message:
        norm = float(np.linalg.norm(quaternion))
        good = bool(np.isfinite(position).all()) and abs(norm - 1.0) < NOT_A_ROTATION
        if good:
            quaternion = quaternion / norm
        return self._checked_pose(name, position, quaternion, time_ns, ok and good)

    def _checked_pose(self, name: str, position: Array, quaternion: Array, time_ns: int, valid: bool) -> Message:
        stream, number, at = self._head(f"igtl/{_slug(name)}", time_ns)
        x, y, z = (float(value) for value in position) if valid else (0.0, 0.0, 0.0)
        qw, qx, qy, qz = (float(value) for value in quaternion) if valid else (1.0, 0.0, 0.0, 0.0)
        # PLUS names its transforms StylusToTracker; the tool is what is before the "To".
        tool = re.split(r"To(?=[A-Z])", name, maxsplit=1)[0] or name or "tool"
        return ToolPose(
            stream=stream,
            sequence=number,
            source_time_ns=at,
            tool=tool,
            position=(x, y, z),
            quaternion=(qw, qx, qy, qz),
            valid=valid,
        )

    def _touch(self, device: str, name: str, position: Array, owner: str, time_ns: int) -> Message:
        stream, number, at = self._head(f"igtl/{_slug(device)}/points", time_ns)
        x, y, z = (float(value) for value in position)
        return FiducialTouch(
            stream=stream,
            sequence=number,
            source_time_ns=at,
            fiducial=name,
            tool=owner or device or "pointer",
            position=(x, y, z),
        )

    def _sensor(self, device: str, values: list[float], unit: int, time_ns: int) -> list[Message]:
        """One message for each channel: a pressure where the unit is one, a waveform of one sample else."""
        scale = igtl.pascals(unit)
        made: list[Message] = []
        for place, value in enumerate(values):
            name = device if len(values) == 1 else f"{device}_{place}"
            stream, number, at = self._head(f"igtl/{_slug(name)}/sensor", time_ns)
            if scale is not None:
                made.append(
                    PressureSamples(
                        stream=stream,
                        sequence=number,
                        source_time_ns=at,
                        sensor=name,
                        tool=None,
                        sample_period_ns=1_000_000,
                        values_mmhg=(value * scale / PASCAL_PER_MMHG,),
                    )
                )
            else:
                made.append(
                    WaveformSamples(
                        stream=stream,
                        sequence=number,
                        source_time_ns=at,
                        sensor=name,
                        quantity=name,
                        unit=f"0x{unit:016x}",
                        sample_period_ns=1_000_000,
                        values=(value,),
                    )
                )
        return made

    def _image(self, device: str, pixels: NDArray[np.generic], spacing: tuple[float, float], time_ns: int) -> Message:
        formats = {("uint8", 2): "mono8", ("uint16", 2): "mono16", ("uint8", 3): "rgb8"}
        pixel_format = formats.get((pixels.dtype.name, pixels.ndim))
        if pixel_format is None or (pixels.ndim == 3 and pixels.shape[2] != 3):
            raise IgtlError("an IMAGE of pixels that are not passed on")
        stream, number, at = self._head(f"igtl/{_slug(device)}/image", time_ns)
        return ImageFrame(
            stream=stream,
            sequence=number,
            source_time_ns=at,
            device=device or "igtl",
            width=pixels.shape[1],
            height=pixels.shape[0],
            pixel_format=pixel_format,
            data=np.ascontiguousarray(pixels).tobytes(),
            spacing_mm=spacing if min(spacing) > 0 else None,
        )


def outward(state: TwinState, *, ras: bool, surface: Surface | None = None) -> list[IgtlMessage]:
    """What the twin's state is to a peer: tip, pressures with their intervals, flags, and the overlay mesh.

    Pressures are SENSORs of value, lower and upper end of the 95 % interval, in pascal. The tip is a TRANSFORM only
    while it is known.

    Args:
        state: the twin's.
        ras: turn positions to RAS, as 3D Slicer has them.
        surface: send the overlay mesh as well.
    """
    time_ns = state.source_time_ns
    turn = RAS_FROM_LPS if ras else np.eye(3)
    messages = []

    def say(kind: str, device: str, content: bytes) -> None:
        messages.append(IgtlMessage(kind, device, time_ns, content))

    if state.tip is not None and state.tip_valid:
        matrix = np.eye(4)
        matrix[:3, 3] = turn @ np.array(state.tip)
        say("TRANSFORM", "TipToImage", igtl.transform_content(matrix))
    unit = igtl.pressure_unit()
    named = {"TipPressure": state.tip_pressure_mmhg}
    named |= {f"Pressure_{port}": value for port, value in state.port_pressure_mmhg.items()}
    for device, value in named.items():
        if value is not None:
            triple = [part * PASCAL_PER_MMHG for part in (value.value, value.lower, value.upper)]
            say("SENSOR", device, igtl.sensor_content(triple, unit))
    trusted = not state.flags
    code, name = (igtl.STATUS_OK, "OK") if trusted else (igtl.STATUS_NOT_READY, "NOT_TRUSTED")
    say("STATUS", "Twin", igtl.status_content(code, name, ", ".join(state.flags)))
    say("STRING", "TwinFlags", igtl.string_content(", ".join(state.flags)))
    if surface is not None and len(state.field_coefficients) == surface.modes.shape[1]:
        pressure = surface.modes @ np.array(state.field_coefficients)
        say(
            "POLYDATA",
            "Overlay",
            igtl.polydata_content(surface.points @ turn.T, surface.triangles, pressure, "pressure_mmHg"),
        )
    return messages


@dataclass
class _Peer:
    socket: socket.socket
    name: str
    decoder: Decoder = field(default_factory=Decoder)
    waiting: bytearray = field(default_factory=bytearray)


class IgtlBridge:
    """The bridge at work: one thread, any number of peers.

    Attributes:
        counts: peers, messages passed on and not, what peers missed.
    """

    def __init__(
        self,
        *,
        devices: Publisher,
        states: Subscriber | None,
        listen: tuple[str, int] | None = None,
        connect: tuple[str, int] | None = None,
        ras: bool = True,
        surface: Surface | None = None,
    ) -> None:
        """Open the sockets.

        Args:
            devices: to the twin.
            states: from the twin; None where nothing is sent back.
            listen: host and port to wait for peers at.
            connect: host and port of a peer, to which the connection is made again when it is lost.
            ras: positions are sent to peers in RAS.
            surface: for the overlay mesh.

        Raises:
            InputError: the address to listen at cannot be used.
        """
        self.counts: Counter[str] = Counter()
        self._devices, self._states = devices, states
        self._connect, self._surface, self._ras = connect, surface, ras
        self._inward = Inward()
        self._selector = selectors.DefaultSelector()
        self._peers: list[_Peer] = []
        self._stop = threading.Event()
        self._tried_ns = self._sent_ns = self._drawn_ns = 0
        self._server: socket.socket | None = None
        self._newest: TwinState | None = None
        if listen is not None:
            try:
                self._server = socket.create_server(listen, reuse_port=False)
            except OSError as error:
                self._selector.close()
                raise InputError(
                    f"{listen[0]}:{listen[1]} cannot be listened at ({error.strerror}); choose another port."
                ) from error
            self._server.setblocking(False)
            self._selector.register(self._server, selectors.EVENT_READ, None)

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self._server.getsockname()[1]) if self._server is not None else 0

    def stop(self) -> None:
        """End `run` from another thread or a signal handler."""
        self._stop.set()

    def run(self, say: Callable[[Counter[str]], None] | None = None) -> Counter[str]:
        """Pass messages on until `stop` is called; returns what was done."""
        told = 0
        try:
            while not self._stop.is_set():
                self._reconnect()
                for key, events in self._selector.select(timeout=0.005):
                    if key.data is None:
                        self._accept()
                    elif events & selectors.EVENT_READ:
                        self._read(key.data)
                    if key.data in self._peers and events & selectors.EVENT_WRITE:
                        self._write(key.data)
                self._send_state()
                if say is not None and now_ns() - told > 500_000_000:
                    told = now_ns()
                    say(self.counts + self._inward.counts)
        finally:
            self.close()
        return self.counts + self._inward.counts

    def close(self) -> None:
        """Close all connections."""
        for peer in list(self._peers):
            self._drop(peer, "")
        if self._server is not None:
            self._server.close()
            self._server = None
        self._selector.close()

    def _reconnect(self) -> None:
        if self._connect is None or self._peers or now_ns() - self._tried_ns < RECONNECT_NS:
            return
        self._tried_ns = now_ns()
        try:
            connection = socket.create_connection(self._connect, timeout=1.0)
        except OSError:
            self.counts["failed to connect"] += 1
            return
        self._add(connection, f"{self._connect[0]}:{self._connect[1]}")

    def _accept(self) -> None:
        assert self._server is not None
        try:
            connection, address = self._server.accept()
        except OSError:
            return
        if len(self._peers) >= MOST_PEERS:
            connection.close()
            self.counts["peers refused: too many"] += 1
            return
        self._add(connection, f"{address[0]}:{address[1]}")

    def _add(self, connection: socket.socket, name: str) -> None:
        connection.setblocking(False)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        peer = _Peer(connection, name)
        self._peers.append(peer)
        self._selector.register(connection, selectors.EVENT_READ, peer)
        self.counts["peers"] += 1

    def _drop(self, peer: _Peer, why: str) -> None:
        if why:
            self.counts[why] += 1
        for what, count in peer.decoder.bad.items():
            self.counts[f"bad {what}"] += count
        self._peers.remove(peer)
        self._selector.unregister(peer.socket)
        peer.socket.close()

    def _read(self, peer: _Peer) -> None:
        try:
            data = peer.socket.recv(READ_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._drop(peer, "peers gone")
            return
        received = now_ns()
        try:
            messages = peer.decoder.feed(data)
        except OutOfStep:
            self._drop(peer, "peers that speak something else")
            return
        for message in messages:
            self.counts["received"] += 1
            for made in self._inward.convert(message, received):
                self._devices.send(made)

    def _send_state(self) -> None:
        if self._states is None:
            return
        for _, frame in self._states.receive()[-1:]:
            try:
                state = unpack(frame)
            except MalformedMessage:
                self.counts["unreadable states"] += 1
                continue
            if isinstance(state, TwinState):
                self._newest = state
        now = now_ns()
        if self._newest is None or not self._peers or now - self._sent_ns < 1e9 / OUT_HZ:
            return
        draw = self._surface is not None and now - self._drawn_ns >= 1e9 / SURFACE_HZ
        messages = outward(self._newest, ras=self._ras, surface=self._surface if draw else None)
        self._sent_ns, self._newest = now, None
        self._drawn_ns = now if draw else self._drawn_ns
        data = b"".join(igtl.pack(message) for message in messages)
        self.counts["states sent"] += 1
        for peer in list(self._peers):
            if len(peer.waiting) + len(data) > MOST_WAITING:
                self.counts["states missed by a peer"] += 1
                continue
            peer.waiting += data
            self._write(peer)

    def _write(self, peer: _Peer) -> None:
        try:
            sent = peer.socket.send(peer.waiting)
            del peer.waiting[:sent]
        except BlockingIOError:
            pass
        except OSError as error:
            gone = error.errno in (errno.EPIPE, errno.ECONNRESET)
            self._drop(peer, "peers gone" if gone else "peers failed")
            return
        events = selectors.EVENT_READ | (selectors.EVENT_WRITE if peer.waiting else 0)
        self._selector.modify(peer.socket, events, peer)
