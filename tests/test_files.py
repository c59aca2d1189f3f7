import hashlib
import os
from pathlib import Path

import pytest

from ensemble_bench.files import sha256_bytes, sha256_file, write_atomic


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
