"""What a live session did, and how long its messages took."""

from dataclasses import dataclass, field
from typing import Any

from streams.latency import LatencyHistogram


@dataclass
class LiveReport:
    """What a live session did."""

    events: int = 0
    states: int = 0
    counters: dict[str, int] = field(default_factory=dict)
    latency: LatencyHistogram = field(default_factory=LatencyHistogram)
    """Per device message: from its arrival at the socket to the first published state that had taken it."""
    pose: LatencyHistogram = field(default_factory=LatencyHistogram)
    """Of these, poses."""
    observation: LatencyHistogram = field(default_factory=LatencyHistogram)
    """Per pressure and flow message: from its arrival at the socket until the session has taken it."""
    step: LatencyHistogram = field(default_factory=LatencyHistogram)
    """Per event: time in the session."""
    publish: LatencyHistogram = field(default_factory=LatencyHistogram)
    """Per state: time to pack and send it."""
    recording_failure: str | None = None
    recording_head: str | None = None
    """the last head of the recording's chain of hashes"""
    refused_clients: dict[str, int] = field(default_factory=dict)

    def summary(self) -> dict[str, Any]:
        """The report in plain numbers."""
        return {
            "events": self.events,
            "states": self.states,
            "latency_median_ms": self.latency.percentile_ms(50),
            "latency_p99_ms": self.latency.percentile_ms(99),
            "latency_max_ms": self.latency.percentile_ms(100),
            "pose_latency_median_ms": self.pose.percentile_ms(50),
            "pose_latency_p99_ms": self.pose.percentile_ms(99),
            "observation_latency_median_ms": self.observation.percentile_ms(50),
            "observation_latency_p99_ms": self.observation.percentile_ms(99),
            "session_step_median_ms": self.step.percentile_ms(50),
            "session_step_p99_ms": self.step.percentile_ms(99),
            "publish_p99_ms": self.publish.percentile_ms(99),
            "counters": self.counters,
            "refused_clients": self.refused_clients,
            "recording_head": self.recording_head,
        }
