"""The memory of the child process that reads foreign files."""

from __future__ import annotations

import resource
import sys
from pathlib import Path

MEMORY = 2 << 30  # bytes of address space beyond what its libraries take


def limit() -> None:
    """Bound the calling process to MEMORY more than it has now; called again when another library is there."""
    if sys.platform == "linux":
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        most = pages * resource.getpagesize() + MEMORY
        resource.setrlimit(resource.RLIMIT_AS, (most, resource.getrlimit(resource.RLIMIT_AS)[1]))
