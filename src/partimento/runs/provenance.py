"""What a run was made with: versions of the program and of what it stands on. No host names, no user names."""

from __future__ import annotations

import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

import partimento

PACKAGES = ("torch", "numpy", "safetensors", "soundfile", "soxr", "pyarrow", "pydantic")


def provenance() -> dict[str, Any]:
    """{"partimento", "commit", "python", "platform", "packages"}; `commit` is None outside a git checkout."""
    return {
        "partimento": partimento.__version__,
        "commit": git_commit(),
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "packages": {name: version for name in PACKAGES if (version := _version(name)) is not None},
    }


def git_commit() -> str | None:
    """The commit of the checkout that this package runs from, with `+changes` if files differ from it.

    None if the package is installed elsewhere, even when that place lies inside some other repository.
    """
    package = Path(partimento.__file__).parent
    if _git(package, "ls-files", "--error-unmatch", "__init__.py") is None:
        return None
    commit = _git(package, "rev-parse", "HEAD")
    changed = _git(package, "status", "--porcelain", "--untracked-files=no", ".")
    return f"{commit}+changes" if commit and changed else commit


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):  # git is not installed, or hangs on a network disk
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
