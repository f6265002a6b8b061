"""The session's clock: nanoseconds since the Unix epoch that only go forward.

The machine's clock may be set during a procedure, by a person or by NTP. This one takes the time of day once and then
counts with the monotonic clock, whose pace NTP keeps right and which nobody sets.
"""

import time

EPOCH_NS = time.time_ns() - time.monotonic_ns()
"""What the monotonic clock lacks."""


def now_ns() -> int:
    """The present, ns since the Unix epoch; never less than before."""
    return time.monotonic_ns() + EPOCH_NS
