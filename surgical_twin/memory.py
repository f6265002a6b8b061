"""Peak memory of this process and everything it started, sampled from /proc (Linux)."""

import os
import threading
from pathlib import Path

SAMPLE_S = 0.5


class PeakMemory:
    """Samples the resident memory of the process tree while it is entered; shared pages count for each process."""

    def __init__(self) -> None:
        self.peak_gb: float | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._sample, name="peak memory", daemon=True)

    def __enter__(self) -> "PeakMemory":
        """Begin sampling."""
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """End sampling; ``peak_gb`` stays None where there is no /proc."""
        self._stop.set()
        self._thread.join()

    def _sample(self) -> None:
        while not self._stop.wait(SAMPLE_S):
            total = tree_memory_bytes(os.getpid())
            if total:
                self.peak_gb = max(self.peak_gb or 0.0, total / 1e9)


def tree_memory_bytes(root: int) -> int:
    """Resident memory of a process and its descendants; 0 where /proc does not tell."""
    parents: dict[int, int] = {}
    resident: dict[int, int] = {}
    page = os.sysconf("SC_PAGE_SIZE")
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            # The command's name is in parentheses and may hold spaces: the fields begin after the last one.
            fields = (entry / "stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        except OSError:
            continue  # it ended meanwhile
        parents[int(entry.name)] = int(fields[1])
        resident[int(entry.name)] = int(fields[21]) * page
    tree, grew = {root}, True
    while grew:
        children = {pid for pid, parent in parents.items() if parent in tree} - tree
        tree |= children
        grew = bool(children)
    return sum(resident.get(pid, 0) for pid in tree)
