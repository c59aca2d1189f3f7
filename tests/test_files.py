import hashlib
import os
from pathlib import Path

import pytest

from ensemble_bench.files import (
    atomic_file,
    clear_leftovers,
    new_folder,
    sha256_bytes,
    sha256_file,
    write_atomic,
)


@pytest.mark.parametrize("data", [b"", b"\x00\xff" * 1000, "µ −\n"])
def test_written_bytes_are_read_back(tmp_path: Path, data: bytes | str) -> None:
    path = tmp_path / "new" / "folder" / "file.json"
    for _ in range(2):
        write_atomic(path, data)
        assert path.read_bytes() == (data.encode() if isinstance(data, str) else data)
    assert os.listdir(path.parent) == ["file.json"]


def test_new_files_have_ordinary_permissions(tmp_path: Path) -> None:
    (tmp_path / "plain").touch()
    write_atomic(tmp_path / "atomic", "x")
    assert (tmp_path / "atomic").stat().st_mode == (tmp_path / "plain").stat().st_mode


@pytest.mark.parametrize("function", ["fsync", "replace"])
@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_failure_keeps_the_old_file_and_leaves_nothing_behind(
    tmp_path: Path, function: str, error: BaseException, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    write_atomic(path, "old")

    def fail(*_args: object) -> None:
        raise error

    monkeypatch.setattr(os, function, fail)
    with pytest.raises(type(error)):
        write_atomic(path, "new")
    monkeypatch.undo()
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["file"]


def test_hash_is_sha256(tmp_path: Path) -> None:
    data = b"abc" * 100_000
    write_atomic(tmp_path / "file", data)
    assert sha256_file(tmp_path / "file") == f"sha256:{hashlib.sha256(data).hexdigest()}" == sha256_bytes(data)
    with pytest.raises(FileNotFoundError):
        sha256_file(tmp_path / "none")


# A folder and a file that a process had half written when it was killed, and ones that somebody is writing.
LEFT = (".file.0123abcd.tmp", ".file.77-0123abcd.tmp", ".other.0123abcd.tmp")


def test_the_next_write_clears_what_a_killed_one_left_of_that_file(tmp_path: Path) -> None:
    for name in LEFT:
        (tmp_path / name).write_bytes(b"half")
    (tmp_path / ".file.89abcdef.tmp").mkdir()
    (tmp_path / ".file.89abcdef.tmp" / "part").touch()
    (tmp_path / ".file.mine.tmp").touch()  # not ours
    write_atomic(tmp_path / "file", "new")
    assert sorted(os.listdir(tmp_path)) == [".file.mine.tmp", ".other.0123abcd.tmp", "file"]
    clear_leftovers(tmp_path)
    assert sorted(os.listdir(tmp_path)) == [".file.mine.tmp", "file"]


def test_what_is_being_written_is_not_cleared(tmp_path: Path) -> None:
    with atomic_file(tmp_path / "file") as file, new_folder(tmp_path / "folder") as folder:
        file.write(b"1")
        (folder / "part").write_bytes(b"2")
        clear_leftovers(tmp_path)
        write_atomic(tmp_path / "file", "meanwhile")
    assert (tmp_path / "file").read_bytes() == b"1"
    assert (tmp_path / "folder" / "part").read_bytes() == b"2"
    assert sorted(os.listdir(tmp_path)) == ["file", "folder"]


def test_an_error_without_a_name_gets_that_of_the_file(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="full") as found, atomic_file(tmp_path / "file"):
        raise OSError(28, "full")
    assert found.value.filename == str(tmp_path / "file")
    assert os.listdir(tmp_path) == []
