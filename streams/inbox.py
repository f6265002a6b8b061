"""Where frames wait between the thread that receives and the loop that thinks: bounded, with a policy for each stream.

A loop that is held up finds on its return what waited. Of streams whose newest message makes the older ones useless
(poses, images) all but the last few are marked superseded: they are recorded and counted, and not used. Of all
others (pressure: every sample counts) everything is kept. The bound is on bytes and on frames together; what does
not fit is counted, never silently lost. Senders that say too much are held to their limit here as well.
"""

import threading
from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import dataclass, field

from streams.messages import MAX_STREAMS, ImageFrame, ToolPose
from streams.rate_limit import TokenBucket
from streams.sockets import Frame

MOST_BYTES = 256_000_000
MOST_FRAMES = 200_000

NEWEST_OF: Mapping[type, int] = {ToolPose: 64, ImageFrame: 2}
"""How many of these may wait; older ones are superseded. Everything else is kept."""


@dataclass
class Inbox:
    """A queue from one thread to another.

    Attributes:
        counts: overflow, rate_limited: frames that were dropped, by why.
    """

    most_bytes: int = MOST_BYTES
    most_frames: int = MOST_FRAMES
    counts: Counter[str] = field(default_factory=Counter)
    policies: dict[bytes, int] = field(default_factory=dict)
    """by topic: how many may wait; learned from the first message of each"""
    new_bucket: type[TokenBucket] = TokenBucket
    _frames: deque[Frame] = field(default_factory=deque)
    _bytes: int = 0
    _buckets: dict[str | None, TokenBucket] = field(default_factory=dict)
    _ready: threading.Condition = field(default_factory=threading.Condition)

    def put(self, frames: list[Frame]) -> None:
        """Add what has come; called by the receiving thread."""
        with self._ready:
            for frame in frames:
                size = len(frame.data)
                bucket = self._buckets.get(frame.sender)
                if bucket is None:
                    bucket = self._buckets[frame.sender] = self.new_bucket()
                if not bucket.allows(frame.receive_time_ns, size):
                    self.counts["rate_limited"] += 1
                elif self._bytes + size > self.most_bytes or len(self._frames) >= self.most_frames:
                    self.counts["overflow"] += 1
                else:
                    self._frames.append(frame)
                    self._bytes += size
            self._ready.notify()

    def learn(self, topic: str, kind: type) -> None:
        """Remember the policy of a stream by the type of its messages."""
        keep = NEWEST_OF.get(kind)
        if keep is not None and len(self.policies) < MAX_STREAMS:
            self.policies[topic.encode()] = keep

    def take(self, wait_s: float = 0.0) -> list[tuple[Frame, bool]]:
        """Everything that waits, each with whether it is superseded; waits for the first at most this long."""
        with self._ready:
            if not self._frames and wait_s > 0:
                self._ready.wait(wait_s)
            if not self._frames:
                return []
            frames, self._frames, self._bytes = self._frames, deque(), 0
        if len(frames) <= min(NEWEST_OF.values()):
            return [(frame, False) for frame in frames]
        waiting: Counter[bytes] = Counter()
        marked: list[tuple[Frame, bool]] = []
        for frame in reversed(frames):
            topic = frame.data[: frame.data.find(b"\0")]
            keep = self.policies.get(topic)
            waiting[topic] += keep is not None
            marked.append((frame, keep is not None and waiting[topic] > keep))
        marked.reverse()
        return marked
