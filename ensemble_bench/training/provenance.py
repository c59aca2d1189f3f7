"""The code that trained a model: versions of packages, and the commit of the source tree."""

import platform
import subprocess
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from ensemble_bench.registry import plugins

PACKAGES = ("torch", "numpy", "ensemble-bench")


def versions() -> dict[str, str]:
    """Versions of Python, of PACKAGES and of the installed plugins, and the processor's kernels: what decides results.

    The kernels are those that PyTorch has chosen for the processor's instruction sets, such as AVX2 or AVX512.
    """
    known = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            known[package.replace("-", "_")] = version(package)
        except PackageNotFoundError:
            known[package.replace("-", "_")] = "unknown"
    known["kernels"] = torch.backends.cpu.get_cpu_capability()
    return known | {package.replace("-", "_"): added for package, added in plugins.versions().items()}


def changed(before: Mapping[str, str] | None, now: Mapping[str, str]) -> str:
    """What `before` has other than `now`, in words: "torch 2.10.0, kernels AVX2"; None: nobody wrote it down."""
    if before is None:
        return "versions that are not known"
    names = [name for name in {**now, **before} if before.get(name) != now.get(name)]
    return ", ".join(f"{name} {before.get(name, 'unknown')}" for name in names)


def commit() -> str | None:
    """Commit of the source tree, with "-dirty" after it if files differ from it; None for an installed package."""
    here = Path(__file__).resolve()

    def git(*arguments: str) -> str:
        # Asking must not write: an index that a full disk cuts short would lock the user's repository.
        command = ["git", "--no-optional-locks", "-C", str(here.parent), *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True, timeout=10).stdout.strip()

    try:
        # An installed copy may lie inside another project's repository, whose commit is not ours.
        git("ls-files", "--error-unmatch", here.name)
        return git("rev-parse", "HEAD") + ("-dirty" if git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.SubprocessError):
        return None
