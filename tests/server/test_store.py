"""Tokens, submissions and names in SQLite."""

import hashlib
import os
import re
import stat
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from ensemble_bench.errors import InvalidValueError, UnknownNameError
from ensemble_bench.server.settings import ServiceSettings
from ensemble_bench.server.store import Store


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "service.sqlite")


def test_a_token_is_kept_as_its_hash_alone(store: Store) -> None:
    token = store.create_token("alice")
    assert re.fullmatch(r"eb_[A-Za-z0-9_-]{43}", token)
    found = store.find_token(token)
    assert found is not None
    assert (found.owner, found.revoked) == ("alice", None)
    held = b"".join(path.read_bytes() for path in store.path.parent.iterdir())
    assert hashlib.sha256(token.encode()).hexdigest().encode() in held
    assert token.encode() not in held
    assert token.removeprefix("eb_").encode() not in held


def test_another_token_is_nobodys(store: Store) -> None:
    token = store.create_token("alice")
    for wrong in ("", "eb_", token[:-1], f"{token}a", token.lower(), "' OR 1=1 --", "\udcff"):
        assert store.find_token(wrong) is None


def test_revoking(store: Store) -> None:
    old = store.create_token("alice")
    with pytest.raises(InvalidValueError, match="has a token"):
        store.create_token("alice")
    store.revoke_token("alice")
    found = store.find_token(old)
    assert found is not None
    assert found.revoked is not None
    with pytest.raises(UnknownNameError, match="'alice'"):
        store.revoke_token("alice")
    new = store.create_token("alice")
    assert [(token.owner, token.revoked is None) for token in store.tokens()] == [("alice", False), ("alice", True)]
    assert new != old


@pytest.mark.parametrize("name", ["", " ", "-x", "a b", "a/b", "<b>", "a\n", "x" * 81])
def test_token_names_are_plain(store: Store, name: str) -> None:
    with pytest.raises(InvalidValueError, match="expected"):
        store.create_token(name)
    assert not store.tokens()


def test_the_queue_is_in_the_order_of_arrival(store: Store) -> None:
    for identifier in "cab":
        store.add(identifier, owner="alice", name=f"model-{identifier}", weights_hash="w")
    first = store.take()
    assert first is not None
    assert (first.id, first.status, first.name) == ("c", "verifying", "model-c")
    store.finish("c", "not reproduced", ["one", "two"])
    done = store.get("c")
    assert done is not None
    assert (done.status, done.reasons) == ("not reproduced", ("one", "two"))
    assert store.pending() == {"a", "b"}
    assert [taken.id for taken in iter(store.take, None)] == ["a", "b"]
    store.requeue(crashes=1)
    assert [taken.id for taken in iter(store.take, None)] == ["a", "b"]
    store.requeue(crashes=1)
    store.add("d", owner="alice", name="n", weights_hash="w")
    assert [submission.id for submission in store.crashed(2)] == ["a", "b"]
    assert store.crashed(3) == []
    assert store.get("e") is None


def test_many_takers_take_each_once(store: Store) -> None:
    for i in range(60):
        store.add(str(i), owner="alice", name="n", weights_hash="w")
    gate = threading.Barrier(6)

    def taker(_: int) -> list[str]:
        gate.wait()
        return [taken.id for taken in iter(store.take, None)]

    with ThreadPoolExecutor(6) as pool:
        taken = [identifier for found in pool.map(taker, range(6)) for identifier in found]
    assert Counter(taken) == Counter(map(str, range(60)))


def test_a_name_has_one_owner(store: Store) -> None:
    assert store.owner_of("m") is None
    store.give_name("m", "alice")
    store.give_name("m", "bob")
    assert store.owner_of("m") == "alice"


@pytest.mark.skipif(os.name != "posix", reason="permissions of POSIX")
@pytest.mark.parametrize("there", [False, True], ids=["new", "from before"])
def test_only_its_user_reads_it(tmp_path: Path, there: bool) -> None:
    data = tmp_path / "service"
    before = os.umask(0)
    try:
        if there:
            data.mkdir(mode=0o777)
            for name in ("service.sqlite", "service.sqlite-wal"):
                (data / name).touch(mode=0o666)
        settings = ServiceSettings(data=data)
        settings.make_folders()
        store = Store(settings.store)
        store.create_token("alice")
        with store._connected() as connection:  # while SQLite's own files are there
            connection.execute("SELECT * FROM tokens").fetchall()
            files = {path.name: stat.S_IMODE(path.stat().st_mode) for path in data.iterdir() if path.is_file()}
    finally:
        os.umask(before)
    assert stat.S_IMODE(data.stat().st_mode) == 0o700
    assert {"service.sqlite", "service.sqlite-wal", "service.sqlite-shm"} <= files.keys()
    assert set(files.values()) == {0o600}
