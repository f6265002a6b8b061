"""One message, one frame: the stream's name, a zero byte, MessagePack.

The name comes first so that ZeroMQ can filter by it. A single frame, because options that keep only the newest
message drop parts of several.
"""

from streams.errors import MalformedMessage
from streams.messages import Message, decode, encode

MAX_FRAME_BYTES = 8_000_000
"""Longer frames are refused by the sockets; an image of 2048 x 2048 pixels at 8 bits fits."""


def pack(message: Message) -> bytes:
    """The frame of a message."""
    return message.stream.encode("ascii") + b"\0" + encode(message)


def topic(frame: bytes) -> str:
    """The stream that a frame says it belongs to, as far as it can be read."""
    return frame.partition(b"\0")[0][:100].decode("ascii", errors="replace")


def unpack(frame: bytes) -> Message:
    """The message of a frame.

    Raises:
        MalformedMessage: it holds none, or its name is not that of the message's stream.
    """
    end = frame.find(b"\0")
    if end < 0:
        raise MalformedMessage("the frame has no zero byte after the stream's name")
    message = decode(memoryview(frame)[end + 1 :])
    if frame[:end] != message.stream.encode("ascii"):
        raise MalformedMessage(f"the frame's name {topic(frame)!r} is not that of the message's stream")
    return message
