"""Which code trained a model: versions, and the commit if it runs from a source tree."""

import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from ensemble_bench.registry import plugins

PACKAGES = ("torch", "numpy", "ensemble-bench")


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that decide results: all that add names of theirs count too."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package.replace("-", "_")] = version(package)
        except PackageNotFoundError:
            found[package.replace("-", "_")] = "unknown"
    return found | {package.replace("-", "_"): added for package, added in plugins.versions().items()}


def commit() -> str | None:
    """Commit of the source tree that this package runs from, with "-dirty" if it was edited; None if installed."""
    here = Path(__file__).resolve()

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(here.parent), *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True, timeout=10).stdout.strip()

    try:
        # An installed copy may lie inside somebody else's repository: that one's commit says nothing.
        git("ls-files", "--error-unmatch", here.name)
        return git("describe", "--always", "--abbrev=40", "--exclude=*", "--dirty")
    except (OSError, subprocess.SubprocessError):
        return None
