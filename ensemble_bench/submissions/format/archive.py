"""Bundles as files: a folder or a .zip with these files at its top level and nothing else."""

import io
import os
import stat
import struct
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import IO

from ensemble_bench.errors import BundleError
from ensemble_bench.submissions.faults import MACHINE
from ensemble_bench.submissions.format.limits import Limits
from ensemble_bench.submissions.format.untrusted import quoted

CONFIG, WEIGHTS, MODEL_INFO, CLAIMS, CARD = FILES = (
    "config.json",
    "model.safetensors",
    "model_info.json",
    "claims.json",
    "README.md",
)
CHUNK = 2**20
# More than the five of a bundle, so that an error can name the one too many. The directory: names and packers' fields.
MAX_ENTRIES = 32
MAX_DIRECTORY = 8192
EPOCH = (1980, 1, 1, 0, 0, 0)


def extract(path: Path, folder: Path, limits: Limits) -> None:
    """Copy the bundle at `path`, a folder or a .zip, into the new `folder`, within `limits`.

    Names and sizes are checked before anything is read, and counted again while it is. Raises BundleError for anything
    but the five regular FILES, and OSError where the copy cannot be written; the caller then removes what was copied.
    """
    try:
        if path.is_dir():
            _copy_folder(path, folder, limits)
        elif path.is_file():
            _unzip(path, folder, limits)
        else:
            raise BundleError(f"{path}: does not exist, expected a folder or a .zip")
    except OSError as error:
        if error.errno in MACHINE:
            raise
        raise BundleError(f"{path}: cannot be read or unpacked: {error.strerror or error}") from error


def pack(folder: Path, out: IO[bytes]) -> None:
    """Write the FILES of `folder` as a .zip: equal files give equal bytes."""
    with zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as archive:
        for name in FILES:
            with open(folder / name, "rb") as source, archive.open(zipfile.ZipInfo(name, EPOCH), "w") as target:
                while chunk := source.read(CHUNK):
                    target.write(chunk)


def packed(folder: Path) -> bytes:
    """The .zip of `folder`, in memory."""
    out = io.BytesIO()
    pack(folder, out)
    return out.getvalue()


def _copy_folder(path: Path, folder: Path, limits: Limits) -> None:
    sizes: dict[str, int] = {}
    with os.scandir(path) as entries:
        for entry in entries:
            _check_name(entry.name, sizes)
            if not entry.is_file(follow_symlinks=False):
                raise BundleError(f"{entry.name}: not a regular file")
            sizes[entry.name] = entry.stat(follow_symlinks=False).st_size
    _check_sizes(sizes, limits)
    for name, size in sizes.items():
        descriptor = os.open(path / name, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0))
        with open(descriptor, "rb") as source:
            _copy(source, folder / name, size)


def _unzip(path: Path, folder: Path, limits: Limits) -> None:
    if (size := path.stat().st_size) > limits.max_bytes:
        raise BundleError(f"{path.name}: {size} bytes, at most {limits.max_bytes} are taken")
    try:
        with open(path, "rb") as file:
            _check_directory(file, size)
            with zipfile.ZipFile(file) as archive:
                _unzip_entries(archive, folder, limits)
    except (zipfile.BadZipFile, zlib.error, struct.error, EOFError, ValueError, RuntimeError) as error:
        raise BundleError(f"{quoted(path.name)}: damaged or not a .zip: {quoted(str(error), 200)}") from error


def _check_directory(file: IO[bytes], size: int) -> None:
    """Raise unless a .zip ends with a small directory: reading a large one would take memory without bound."""
    head = file.read(4)
    if head[:1] == b"\x80":
        raise BundleError("the bundle is a pickle, which is never loaded; expected a folder or a .zip")
    file.seek(max(0, size - 42))
    tail = file.read()
    end = tail[-22:]
    if head != b"PK\x03\x04" or len(end) < 22 or end[:4] != b"PK\x05\x06":
        raise BundleError("the bundle is not a whole .zip: it must begin with an entry and end with its directory")
    _, disk, first, here, entries, length, start, comment = struct.unpack("<4s4H2LH", end)
    if disk or first or here != entries or comment or tail[:4] == b"PK\x06\x07":
        raise BundleError("the bundle is a .zip of several parts or in 64-bit form, which are not taken")
    if entries > MAX_ENTRIES or length > MAX_DIRECTORY:
        raise BundleError(
            f"the bundle is a .zip of {entries} entries, told in {length} bytes: expected {', '.join(FILES)}, told in "
            f"at most {MAX_DIRECTORY}"
        )
    if start + length + 22 != size:
        raise BundleError("the bundle is a .zip with something before, after or between its entries and its directory")


def _unzip_entries(archive: zipfile.ZipFile, folder: Path, limits: Limits) -> None:
    sizes: dict[str, int] = {}
    entries = archive.infolist()
    for entry in entries:
        name = entry.orig_filename
        _check_name(name, sizes)
        kind = stat.S_IFMT(entry.external_attr >> 16)
        if kind not in (0, stat.S_IFREG):
            raise BundleError(f"{name}: a link or another special file, expected a regular one")
        if entry.flag_bits & 1:
            raise BundleError(f"{name}: encrypted")
        if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise BundleError(f"{name}: compressed in a way that is not taken, expected deflate or none")
        if entry.file_size > limits.max_ratio * max(1, entry.compress_size):
            raise BundleError(f"{name}: unpacks to more than {limits.max_ratio} times its size")
        sizes[name] = entry.file_size
    _check_sizes(sizes, limits)
    for entry in entries:
        # Not by its name: Python from 3.13 on looks that up among second names, which an entry may have, of any other.
        with archive.open(entry) as source:
            _copy(source, folder / entry.orig_filename, entry.file_size)


def _check_name(name: str, known: Mapping[str, int]) -> None:
    if name in known:
        raise BundleError(f"{name}: stands twice")
    if name not in FILES:
        raise BundleError(f"{quoted(name)}: not a file of a bundle, expected {', '.join(FILES)} at the top level")


def _check_sizes(sizes: Mapping[str, int], limits: Limits) -> None:
    if missing := [name for name in FILES if name not in sizes]:
        raise BundleError(f"{', '.join(missing)}: missing")
    for name, size in sizes.items():
        if name != WEIGHTS and size > limits.max_text_bytes:
            raise BundleError(f"{name}: {size} bytes, at most {limits.max_text_bytes} are taken")
    if (total := sum(sizes.values())) > limits.max_unpacked_bytes:
        raise BundleError(f"{WEIGHTS}: unpacks to {total} bytes with the rest, at most {limits.max_unpacked_bytes}")


def _copy(source: IO[bytes], target: Path, size: int) -> None:
    """Copy exactly `size` bytes; raise BundleError, before more is written, if there are more or fewer."""
    with open(target, "xb") as file:
        left = size
        while chunk := source.read(CHUNK):
            left -= len(chunk)
            if left < 0:
                break
            file.write(chunk)
    if left:
        raise BundleError(f"{target.name}: does not hold the {size} bytes that it says")
