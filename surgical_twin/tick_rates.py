"""How often the twin says its state, which the live loop and the latency budget have in common."""

TICK_NS = 12_500_000
"""Longest time between two published states: at least 80 Hz. It is more than a tracker's period at 120 Hz and some
jitter: a state of the clock's own right before a pose would only hold up the pose's."""

POSE_TICK_NS = 2_500_000
"""A new pose is published at once, unless a state was published so short a time ago."""
