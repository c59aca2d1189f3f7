"""Checks of the metadata and files of installed packages, without an import of them."""

import base64
import csv
import hashlib
import os
import platform
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from ensemble_bench.doctor.finding import Finding

if TYPE_CHECKING:
    from packaging.requirements import Requirement

OURS = "ensemble-bench"
# Packages whose requirements contradict each other, or that are built in pairs.
OTHERS = ("torchvision", "torchattacks", "robustbench", "adversarial-robustness-toolbox", "pyautoattack")


def python_version() -> Iterator[Finding]:
    """Whether this Python is one that the package is made for."""
    from packaging.specifiers import SpecifierSet

    wanted, here = metadata.metadata(OURS)["Requires-Python"] or "", platform.python_version()
    fits = SpecifierSet(wanted).contains(here, prereleases=True)
    mend = "" if fits else f"make an environment with Python {wanted}"
    yield Finding(name="python", status="ok" if fits else "problem", found=here, mend=mend)


def requirements() -> Iterator[Finding]:
    """The requirements of this package that are missing or of another version."""
    unmet = list(_unmet(OURS))
    for requirement, have in unmet:
        found = f"{requirement} is required, " + (f"{have} is installed" if have else "and not installed")
        yield Finding(name=requirement.name, status="problem", found=found, mend=f"pip install '{requirement}'")
    if not unmet:
        yield Finding(name="requirements", status="ok", found=f"all of {OURS} {metadata.version(OURS)} are met")


def other_pins() -> Iterator[Finding]:
    """The requirements of the toolkits that are not met: pip complains, but nothing need fail."""
    for name in OTHERS:
        for requirement, have in _unmet(name):
            found = f"{name} {metadata.version(name)} asks for {requirement}, {have or 'nothing'} is installed"
            mend = f"only if {name} fails: pip install '{requirement}'"
            yield Finding(name=requirement.name, status="note", found=found, mend=mend)


def robustbench_files() -> Iterator[Finding]:
    """Whether the files of robustbench are its own, by hash: torchattacks' wheel carries those of an old release."""
    own = _recorded("robustbench")
    if own is None:  # not installed, which `requirements` reports, or installed without hashes
        return
    version, others = metadata.version("robustbench"), _recorded("torchattacks") or {}
    wrong = {path: actual for path, wanted in own.items() if (actual := _hash(path, wanted)) != wanted}
    foreign = sum(actual is not None and others.get(path) == actual for path, actual in wrong.items())
    missing = sum(actual is None for actual in wrong.values())
    parts = {"from torchattacks": foreign, "missing": missing, "changed": len(wrong) - foreign - missing}
    counts = ", ".join(f"{count} {what}" for what, count in parts.items() if count)
    name = "robustbench's files"
    if not wrong:
        yield Finding(name=name, status="ok", found=f"all {len(own)} are those of robustbench {version}")
    else:
        found = f"{len(wrong)} of {len(own)} are not those of robustbench {version}: {counts}"
        mend = f"pip install --force-reinstall --no-deps robustbench=={version}"
        yield Finding(name=name, status="problem", found=found, mend=mend)


def art_folder() -> Iterator[Finding]:
    """Whether ART can make its folder, without which its import fails."""
    home = Path.home()
    # As ART chooses it.
    folder = (home if os.access(home, os.W_OK) else Path("/tmp")) / ".art"
    yield writable("ART's folder", folder, mend=f"make {folder} a folder that can be written, or set HOME to another")


def writable(name: str, folder: Path, *, mend: str) -> Finding:
    """Whether `folder` can be written, or made; nothing is."""
    there = next(path for path in (folder, *folder.parents) if path.exists())
    if there.is_dir() and os.access(there, os.W_OK | os.X_OK):
        return Finding(name=name, status="ok", found=f"{folder} can be written")
    return Finding(name=name, status="problem", found=f"{folder} cannot be written, because of {there}", mend=mend)


def _unmet(name: str) -> "Iterator[tuple[Requirement, str | None]]":
    """Requirements of an installed package, without its extras, that are not met, and the version that is here."""
    from packaging.requirements import Requirement

    for text in metadata.requires(name) or [] if _version(name) else []:
        requirement = Requirement(text)
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        have = _version(requirement.name)
        if have is None or not requirement.specifier.contains(have, prereleases=True):
            requirement.marker = None
            yield requirement, have


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _recorded(name: str) -> dict[Path, str] | None:
    """Files of an installed package that its RECORD has a hash of ("sha256=…"); None without one."""
    try:
        package = metadata.distribution(name)
    except metadata.PackageNotFoundError:
        return None
    # Distribution.files leaves out those that are missing.
    rows = csv.reader((package.read_text("RECORD") or "").splitlines())
    return {Path(str(package.locate_file(row[0]))): row[1] for row in rows if len(row) > 1 and row[1]} or None


def _hash(path: Path, like: str) -> str | None:
    """Hash of a file as RECORD writes it, by the algorithm of the hash `like`; None for a file that is not there."""
    algorithm = like.partition("=")[0]
    try:
        digest = hashlib.new(algorithm, path.read_bytes()).digest()
    except OSError:
        return None
    return f"{algorithm}={base64.urlsafe_b64encode(digest).decode().rstrip('=')}"
