"""Where frames wait between the thread that receives and the loop that thinks.

It is bounded by bytes and by frames together; what does not fit is counted, never silently lost. Senders that say too
much are held to their limit here as well. What of it is used, after the loop was held up, is the intake's to say.
"""

import threading
from collections import Counter
from dataclasses import dataclass, field

from streams.rate_limit import TokenBucket
from streams.sockets import Frame

MOST_BYTES = 256_000_000
MOST_FRAMES = 200_000


@dataclass
class Inbox:
    """A queue from one thread to another.

    Attributes:
        counts: overflow, rate_limited: frames that were dropped, by why.
    """

    most_bytes: int = MOST_BYTES
    most_frames: int = MOST_FRAMES
    counts: Counter[str] = field(default_factory=Counter)
    new_bucket: type[TokenBucket] = TokenBucket
    _frames: list[Frame] = field(default_factory=list)
    _bytes: int = 0
    _buckets: dict[str | None, TokenBucket] = field(default_factory=dict)
    _ready: threading.Condition = field(default_factory=threading.Condition)

    def put(self, frames: list[Frame]) -> None:
        """Add what has come; called by the receiving thread."""
        if not frames:
            return
        sizes = [len(frame.data) for frame in frames]
        size = sum(sizes)
        one_sender = len({frame.sender for frame in frames}) == 1
        with self._ready:
            fits = self._bytes + size <= self.most_bytes and len(self._frames) + len(frames) <= self.most_frames
            newest_ns = frames[-1].receive_time_ns
            if fits and one_sender and self._bucket(frames[0].sender).allows(newest_ns, size, len(frames)):
                self._frames += frames
                self._bytes += size
            else:
                self._put_singly(frames, sizes)
            self._ready.notify()

    def _put_singly(self, frames: list[Frame], sizes: list[int]) -> None:
        for frame, size in zip(frames, sizes, strict=True):
            if not self._bucket(frame.sender).allows(frame.receive_time_ns, size):
                self.counts["rate_limited"] += 1
            elif self._bytes + size > self.most_bytes or len(self._frames) >= self.most_frames:
                self.counts["overflow"] += 1
            else:
                self._frames.append(frame)
                self._bytes += size

    def _bucket(self, sender: str | None) -> TokenBucket:
        bucket = self._buckets.get(sender)
        if bucket is None:
            bucket = self._buckets[sender] = self.new_bucket()
        return bucket

    def take(self, wait_s: float = 0.0) -> list[Frame]:
        """Everything that waits, as it came; waits for the first at most this long."""
        with self._ready:
            if not self._frames and wait_s > 0:
                self._ready.wait(wait_s)
            frames, self._frames, self._bytes = self._frames, [], 0
            return frames
