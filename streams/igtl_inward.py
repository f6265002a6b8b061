"""What an OpenIGTLink peer says, as the twin's messages: its tools, points, sensors, images, texts.

Every message is passed on as it comes, not only the newest of a device.
"""

import re
from collections import Counter
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from streams import igtl
from streams.igtl import IgtlError, IgtlMessage
from streams.messages import MAX_TEXT, FiducialTouch, Heartbeat, ImageFrame, Message, Note, ToolPose, fault
from streams.rotations import NOT_A_ROTATION, nearest_rotation, quaternion_of
from streams.transducer import PASCAL_PER_MMHG
from streams.translating import samples_message, slug

Array = NDArray[np.float64]


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
                stream, number, at = self._head(f"igtl/{slug(device)}/text", time_ns)
                text = igtl.read_string(content)[:MAX_TEXT]
                return [Note(stream=stream, sequence=number, source_time_ns=at, source=device, text=text)]
            case "SENSOR":
                return self._sensor(device, *igtl.read_sensor(content), time_ns)
            case "STATUS":
                code, name, text = igtl.read_status(content)
                stream, number, at = self._head(f"igtl/{slug(device)}/status", time_ns)
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
        rotation = nearest_rotation(matrix[:3, :3]) if np.isfinite(matrix).all() else None
        if rotation is None:
            return self._pose(name, np.zeros(3), np.array([1.0, 0, 0, 0]), time_ns, False)
        return self._checked_pose(name, matrix[:3, 3], np.array(quaternion_of(rotation)), time_ns, ok)

    def _pose(self, name: str, position: Array, quaternion: Array, time_ns: int, ok: bool) -> Message:
        norm = float(np.linalg.norm(quaternion))
        good = bool(np.isfinite(position).all()) and abs(norm - 1.0) < NOT_A_ROTATION
        if good:
            quaternion = quaternion / norm
        return self._checked_pose(name, position, quaternion, time_ns, ok and good)

    def _checked_pose(self, name: str, position: Array, quaternion: Array, time_ns: int, valid: bool) -> Message:
        stream, number, at = self._head(f"igtl/{slug(name)}", time_ns)
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
        stream, number, at = self._head(f"igtl/{slug(device)}/points", time_ns)
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
        to_mmhg = 1.0 if scale is None else scale / PASCAL_PER_MMHG
        made: list[Message] = []
        for place, value in enumerate(values):
            name = device if len(values) == 1 else f"{device}_{place}"
            stream, number, at = self._head(f"igtl/{slug(name)}/sensor", time_ns)
            made.append(
                samples_message(
                    stream=stream,
                    sequence=number,
                    source_time_ns=at,
                    sensor=name,
                    period_ns=1_000_000,
                    values=(value * to_mmhg,),
                    pressure=scale is not None,
                    unit=f"0x{unit:016x}",
                )
            )
        return made

    def _image(self, device: str, pixels: NDArray[np.generic], spacing: tuple[float, float], time_ns: int) -> Message:
        formats = {("uint8", 2): "mono8", ("uint16", 2): "mono16", ("uint8", 3): "rgb8"}
        pixel_format = formats.get((pixels.dtype.name, pixels.ndim))
        if pixel_format is None or (pixels.ndim == 3 and pixels.shape[2] != 3):
            raise IgtlError("an IMAGE of pixels that are not passed on")
        stream, number, at = self._head(f"igtl/{slug(device)}/image", time_ns)
        return ImageFrame(
            stream=stream,
            sequence=number,
            source_time_ns=at,
            device=device or "igtl",
            width=pixels.shape[1],
            height=pixels.shape[0],
            pixel_format=pixel_format,
            data=memoryview(np.ascontiguousarray(pixels).tobytes()),
            spacing_mm=spacing if min(spacing) > 0 else None,
        )
