"""What all tests share: how hypothesis searches.

A developer's run draws new examples each time. Where a result decides over others' work the same examples are drawn
every time, and a slow machine is no failure.
"""

import os

from hypothesis import settings

settings.register_profile("ci", derandomize=True, deadline=None)
if os.environ.get("CI"):
    settings.load_profile("ci")
