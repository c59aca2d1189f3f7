"""Bundles of strangers: whatever is wrong with one is named, and nothing of it stays."""

import json
import pickle
import stat
import struct
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sample_bundles import Files, bytes_of, edited, files_of, honest, tree, with_header, zipped

from ensemble_bench.errors import BundleError, InvalidValueError
from ensemble_bench.records.statistics import wilson
from ensemble_bench.submissions import format as bundle_format
from ensemble_bench.submissions.format.archive import FILES, packed
from ensemble_bench.submissions.format.bundle import unpack
from ensemble_bench.submissions.format.limits import Limits

LIMITS = Limits(max_bytes=2**22, max_unpacked_bytes=2**22, max_text_bytes=2**20)


def config(change: Callable[[Any], Any]) -> Callable[[Files], Files]:
    return lambda files: edited(files, "config.json", change)


def info(**changes: Any) -> Callable[[Files], Files]:
    return lambda files: edited(files, "model_info.json", lambda values: values.update(changes))


def claims(change: Callable[[Any], Any]) -> Callable[[Files], Files]:
    return lambda files: edited(files, "claims.json", change)


def claim(**changes: Any) -> Callable[[Files], Files]:
    return claims(lambda values: values["claims"][0].update(changes))


def header(change: Callable[[dict[str, Any]], Any]) -> Callable[[Files], Files]:
    return lambda files: with_header(files, change)


def raw(name: str, content: bytes) -> Callable[[Files], Files]:
    return lambda files: files | {name: content}


def weights(change: Callable[[bytes], bytes]) -> Callable[[Files], Files]:
    return lambda files: files | {"model.safetensors": change(files["model.safetensors"])}


def without(name: str) -> Callable[[Files], Files]:
    return lambda files: {key: value for key, value in files.items() if key != name}


def scored(part: str, count: int, n: int) -> Callable[[Files], Files]:
    """A claim whose figures fit each other."""
    low, high = wilson(min(count, n), n)
    key = {"clean": "correct", "robust": "robust"}[part]
    return claim(**{part: {key: count, "n": n, "accuracy": count / n, "ci_low": low, "ci_high": high}})


def first_tensor(about: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = about[next(key for key in about if about[key].get("data_offsets", [1])[0] == 0)]
    return found


def nan_at_end(data: bytes) -> bytes:
    """The last float32 of the last float tensor as NaN."""
    length = int.from_bytes(data[:8], "little")
    tensors = json.loads(data[8 : 8 + length])
    ends = [t["data_offsets"][1] for t in tensors.values() if t.get("dtype") == "F32"]
    at = 8 + length + max(ends) - 4
    return data[:at] + struct.pack("<f", float("nan")) + data[at + 4 :]


SPOILED: dict[str, tuple[Callable[[Files], Files], str]] = {
    # names and files
    "no config": (without("config.json"), "config.json: missing"),
    "no weights": (without("model.safetensors"), "model.safetensors: missing"),
    "no claims": (without("claims.json"), "claims.json: missing"),
    "no model_info": (without("model_info.json"), "model_info.json: missing"),
    "no card": (without("README.md"), "README.md: missing"),
    "a pickle too": (raw("model.pkl", pickle.dumps({})), "'model.pkl': not a file of a bundle"),
    "code too": (raw("setup.py", b"import os"), "'setup.py': not a file"),
    "climbs out": (raw("../../evil", b"x"), r"'\.\./\.\./evil': not a file"),
    "climbs out by backslashes": (raw("..\\evil", b"x"), "evil': not a file"),
    "absolute": (raw("/etc/cron.d/evil", b"x"), "'/etc/cron.d/evil': not a file"),
    "drive letter": (raw("C:\\evil", b"x"), "evil': not a file"),
    "nested": (raw("sub/config.json", b"{}"), "'sub/config.json': not a file"),
    "directory": (raw("sub/", b""), "'sub/': not a file"),
    "same name in capitals": (lambda f: {**without("config.json")(f), "Config.json": b"{}"}, "'Config.json'"),
    "large text": (raw("README.md", b"x" * 1_200_000), "README.md: 1200000 bytes"),
    # JSON
    "not JSON": (raw("config.json", b"{"), "config.json: not JSON"),
    "not UTF-8": (raw("claims.json", b'{"name": "\xff"}'), "claims.json: not UTF-8"),
    "deep": (raw("config.json", b"[" * 500 + b"]" * 500), "config.json: nested deeper"),
    "deeper than Python": (raw("config.json", b"[" * 30_000 + b"]" * 30_000), "config.json: nested deeper"),
    "key twice": (raw("claims.json", b'{"name": 1, "name": 2}'), "claims.json.*'name' stands twice"),
    "NaN": (raw("claims.json", b'{"schema": NaN}'), "claims.json.*NaN"),
    "infinite": (raw("config.json", b"[1e999]"), "config.json: holds a number beyond"),
    "a number of 5000 digits": (raw("claims.json", b"9" * 5000), "claims.json: not JSON"),
    "card of control characters": (raw("README.md", b"# \x1b[2Jcleared"), r"README.md: holds U\+001B"),
    # config
    "config of another kind": (raw("config.json", b"[]"), "config.json: expected the keys"),
    "another schema": (config(lambda c: c.update(schema=2)), "schema is '2'"),
    "10^9 classes": (config(lambda c: c["architecture"].update(classes=10**9)), "architecture.classes is '1000000000'"),
    "65 members": (config(lambda c: c["architecture"].update(members=65)), "architecture.members is '65'"),
    "true members": (config(lambda c: c["architecture"].update(members=True)), "architecture.members is 'True'"),
    "no hash": (config(lambda c: c.update(weights_hash="md5:0")), "weights_hash"),
    "foreign preset": (config(lambda c: c["meta"].update(preset="../../etc")), "unknown preset"),
    "foreign checkpoint": (config(lambda c: c["meta"].update(checkpoint="../x")), "meta.checkpoint is '../x'"),
    "threat of no kind": (config(lambda c: c["meta"].update(threat=[8])), "meta.threat"),
    "seeds of no kind": (config(lambda c: c["meta"].update(seeds=["a"])), r"meta.seeds\[0\]"),
    "script in the recipe": (config(lambda c: c["meta"].update(recipe="<script>")), "'<script>' holds '<'"),
    # model_info
    "script in the authors": (info(authors="<img src=x onerror=alert(1)>"), "model_info.json: '<img"),
    "right-to-left name": (info(name="safe‮gpj"), r"model_info.json.*U\+202E"),
    "line end in the venue": (info(venue="a\nb"), r"model_info.json.*U\+000A"),
    "a very long footnote": (info(footnote="x" * 5000), "model_info.json: a text of 5000"),
    "link that runs": (info(link="javascript:alert(1)"), "model_info.json: link"),
    "accuracy of no kind": (info(clean_acc="all"), "model_info.json.*clean_acc"),
    "info with more keys": (info(more="x"), "model_info.json.*'more'"),
    # claims
    "script in the name": (claims(lambda c: c.update(name="<script>alert(1)</script>")), "claims.json.*'<script>"),
    "name that climbs": (claims(lambda c: c.update(name="../../evil")), "name is '../../evil'"),
    "empty name": (claims(lambda c: c.update(name="")), "name is ''"),
    "hidden name": (claims(lambda c: c.update(name=".git")), "name is '.git'"),
    "long name": (claims(lambda c: c.update(name="x" * 81)), "name is"),
    "control character in the name": (claims(lambda c: c.update(name="a\x00b")), r"U\+0000"),
    "no claim": (claims(lambda c: c.update(claims=[])), "0 claims"),
    "1000 claims": (claims(lambda c: c.update(claims=c["claims"] * 1000)), "1000 claims"),
    "claim twice": (claims(lambda c: c.update(claims=c["claims"] * 2)), "same suite, n and seed"),
    "claims of two models": (
        claims(lambda c: c["claims"].append({**c["claims"][0], "seed": 1, "weights_hash": "sha256:" + "0" * 64})),
        "weights_hash differs",
    ),
    "claim lacks a field": (claims(lambda c: c["claims"][0].pop("suite")), "missing field 'suite'"),
    "unknown suite": (claim(suite="super"), "unknown suite 'super'"),
    "unknown data set": (claim(dataset="mnist"), "unknown data set 'mnist'"),
    "suite with full-width digits": (claim(suite="ifgsm５"), "unknown suite"),
    "suite with a leading zero": (claim(suite="ifgsm05"), "unknown suite"),
    "suite with a hyphen more": (claim(suite="ifgsm-5"), "it is called ifgsm5"),
    "suite that names a part twice": (claim(suite="ifgsm5+ifgsm5"), "twice"),
    **{
        f"name {name}": (claims(lambda c, name=name: c.update(name=name)), "some systems keep that name")
        for name in ("CON", "nul", "Aux.txt", "com1.tar.gz", "LPT9", "trailing.", "COM0")
    },
    "data name": (claim(data_name="NUL"), "some systems keep that name"),
    "endless suite": (claim(suite="pgd999999999"), "takes 999999999 steps"),
    "toolkit's attack": (claim(suite="torchattacks:PGD(steps=99999999)"), "toolkit's attacks are not claimed"),
    "a hundred attacks": (claim(suite="+".join(f"pgd{i}" for i in range(1, 30))), "longer than 16"),
    "training images": (claim(split="train"), "split is 'train'"),
    "no image": (claim(n=0), "n is 0"),
    "negative n": (claim(n=-60), "n is -60"),
    "10^9 images": (claim(n=10**9), "n is 1000000000"),
    "n of another score": (claim(n=59), "n is 59, its scores are of 60 and 60"),
    "negative seed": (claim(seed=-1), "seed is -1"),
    "eps of 400 digits": (claim(eps=10**400), "holds a number beyond"),
    "no threat model": (claim(norm="l0"), "norm 'l0'"),
    "eps of nothing": (claim(eps=0), "eps 0"),
    "id of no kind": (claim(id="../x"), "id is '../x'"),
    "commit of no kind": (claim(commit="HEAD"), "commit is 'HEAD'"),
    "more right than there are": (scored("clean", 61, 60), "clean: 61 images, expected 0 to 60"),
    "more robust than right": (scored("robust", 60, 60), "robust: 60 images, expected 0 to 59"),
    "negative count": (claim(robust={"robust": -1, "n": 60, "accuracy": 0.0, "ci_low": 0.0,
                       "ci_high": 0.1}), "robust: -1 images"),
    "accuracy of another count": (
        claims(lambda c: c["claims"][0]["robust"].update(accuracy=0.9)), r"robust.accuracy is 0.9"),
    "interval of another count": (
        claims(lambda c: c["claims"][0]["robust"].update(ci_high=1.0)), r"robust.ci_high is 1"),
    # weights
    "weights are a pickle": (raw("model.safetensors", pickle.dumps([0] * 9)), "model.safetensors: a pickle"),
    "weights are a .pt": (lambda f: raw("model.safetensors", bytes_of(
        lambda z: z.writestr("archive/data.pkl", pickle.dumps({}))))(f), "model.safetensors: a pickle"),
    "empty weights": (raw("model.safetensors", b""), "model.safetensors: not safetensors, or truncated"),
    "header beyond the file": (weights(lambda d: (2**40).to_bytes(8, "little") + d[8:]), "takes 1099511627776"),
    "header not JSON": (weights(lambda d: d[:8] + b"!" * 20 + d[28:]), "model.safetensors's header: not JSON"),
    "truncated": (weights(lambda d: d[:-4]), "truncated or padded"),
    "padded": (weights(lambda d: d + b"code"), "truncated or padded"),
    "NaN weights": (weights(nan_at_end), "NaN, infinite or missing weights"),
    "tensors overlap": (header(lambda h: [t.update(first_tensor(h)) for t in h.values() if t.get("dtype") == "F32"]),
        "begins at byte 0"),
    "shape of another size": (header(lambda h: first_tensor(h).update(shape=[2**40])), "does not take"),
    "negative shape": (header(lambda h: first_tensor(h).update(shape=[-1, -1])), "shape is"),
    "foreign type": (header(lambda h: first_tensor(h).update(dtype="object")), "dtype is 'object'"),
    "tensor of no kind": (header(lambda h: h.update(x=1)), "'x': expected dtype"),
}  # fmt: skip


@pytest.mark.parametrize(("spoil", "reason"), SPOILED.values(), ids=SPOILED)
def test_what_is_wrong_is_named_and_nothing_stays(spoil: Callable[[Files], Files], reason: str, tmp_path: Path) -> None:
    path = zipped(spoil(files_of(honest())), tmp_path / "bad.zip")
    before = tree(tmp_path)
    with pytest.raises(BundleError, match=reason) as error:
        unpack(path, tmp_path / "out", limits=LIMITS)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 600
    assert str(error.value).isprintable()
    assert tree(tmp_path) == before


def entry(name: str = "config.json", **fields: Any) -> zipfile.ZipInfo:
    made = zipfile.ZipInfo(name)
    for key, value in fields.items():
        setattr(made, key, value)
    return made


def honest_zip(last: Callable[[zipfile.ZipFile, Files], None]) -> bytes:
    """A .zip of all files but the config, which `last` adds."""
    files = files_of(honest())

    def build(archive: zipfile.ZipFile) -> None:
        for name, content in files.items():
            if name != "config.json":
                archive.writestr(name, content)
        last(archive, files)

    return bytes_of(build)


def link(archive: zipfile.ZipFile, _: Files) -> None:
    archive.writestr(entry(create_system=3, external_attr=(stat.S_IFLNK | 0o777) << 16), "/etc/passwd")


def twice(archive: zipfile.ZipFile, files: Files) -> None:
    archive.writestr("config.json", files["config.json"])
    archive.writestr("config.json", files["config.json"])


def flagged(data: bytes) -> bytes:
    """The first entry of the directory marked as encrypted."""
    at = data.index(b"PK\x01\x02") + 8
    return data[:at] + b"\x01" + data[at + 1 :]


def longer(data: bytes) -> bytes:
    """The first entry of the directory said to unpack to one byte more."""
    at = data.index(b"PK\x01\x02") + 24
    size = int.from_bytes(data[at : at + 4], "little") + 1
    return data[:at] + size.to_bytes(4, "little") + data[at + 4 :]


def renamed(archive: zipfile.ZipFile, second: dict[str, str]) -> None:
    """Every file, some with a second name, in Unicode, as packers add it."""
    for name, content in files_of(honest()).items():
        told = struct.pack("<BL", 1, zlib.crc32(name.encode())) + second.get(name, "").encode()
        extra = struct.pack("<HH", 0x7075, len(told)) + told if name in second else b""
        archive.writestr(entry(name, extra=extra), content)


def many(archive: zipfile.ZipFile) -> None:
    for index in range(5000):
        archive.writestr(str(index), b"")


ARCHIVES: dict[str, tuple[Callable[[], bytes], str]] = {
    "not a zip": (lambda: b"hello" * 100, "not a whole .zip"),
    "empty": (lambda: b"", "not a whole .zip"),
    "a pickle": (lambda: pickle.dumps(list(range(100))), "is a pickle"),
    "cut short": (lambda: honest().read_bytes()[:-100], "not a whole .zip"),
    "something behind": (lambda: honest().read_bytes() + b"x" * 30, "not a whole .zip"),
    "something before": (lambda: b"PK\x03\x04" + honest().read_bytes(), "something before"),
    "a byte flipped": (lambda: honest().read_bytes().replace(b'"schema": 1', b'"schema": 7', 1), "damaged"),
    "5000 entries": (lambda: bytes_of(many), "5000 entries"),
    "a large directory": (
        lambda: honest_zip(lambda a, f: a.writestr(entry(comment=b"x" * 9000), f["config.json"])),
        "5 entries, told in 9[0-9]{3} bytes",
    ),
    "a link": (lambda: honest_zip(link), "config.json: a link"),
    "a name twice": (lambda: honest_zip(twice), "config.json: stands twice"),
    "encrypted": (lambda: flagged(honest().read_bytes()), "encrypted"),
    "bzip2": (
        lambda: honest_zip(lambda a, f: a.writestr("config.json", f["config.json"], zipfile.ZIP_BZIP2)),
        "config.json: compressed in a way",
    ),
    "a size that is not true": (lambda: longer(honest().read_bytes()), "damaged|does not hold|more"),
    "too large as it is": (lambda: honest().read_bytes() + bytes(2**22), "at most 4194304 are taken"),
}


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize(("make", "reason"), ARCHIVES.values(), ids=ARCHIVES)
def test_bad_archives(make: Callable[[], bytes], reason: str, tmp_path: Path) -> None:
    path = tmp_path / "bad.zip"
    path.write_bytes(make())
    before = tree(tmp_path)
    with pytest.raises(BundleError, match=reason):
        unpack(path, tmp_path / "out", limits=LIMITS)
    assert tree(tmp_path) == before


@pytest.mark.parametrize(
    "second",
    [{"config.json": "other.json"}, {"config.json": "claims.json", "claims.json": "config.json"}],
    ids=["another", "swapped"],
)
def test_second_names_in_an_archive_decide_nothing(
    second: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Python reads them from 3.13 on, and finds an entry by its second name alone."""
    path, files = tmp_path / "x.zip", files_of(honest())
    path.write_bytes(bytes_of(lambda archive: renamed(archive, second)))
    monkeypatch.setattr(zipfile.ZipFile, "getinfo", lambda *_: pytest.fail("an entry was looked up by its name"))
    found = unpack(path, tmp_path / "out")
    assert {name: (found.folder / name).read_bytes() for name in FILES} == files


def test_folders_are_checked_as_archives_are(tmp_path: Path) -> None:
    folder = tmp_path / "bundle"
    unpack(honest(), folder)
    assert sorted(path.name for path in folder.iterdir()) == sorted(FILES)
    (folder / "README.md").unlink()
    (folder / "README.md").symlink_to("/etc/passwd")
    before = tree(tmp_path)
    with pytest.raises(BundleError, match=r"README.md: not a regular file"):
        unpack(folder, tmp_path / "out")
    (folder / "README.md").unlink()
    (folder / "README.md").mkdir()
    with pytest.raises(BundleError, match=r"README.md: not a regular file"):
        unpack(folder, tmp_path / "out")
    (folder / "README.md").rmdir()
    (folder / "README.md").write_text("# card")
    (folder / "more.txt").write_text("x")
    with pytest.raises(BundleError, match=r"'more.txt': not a file of a bundle"):
        unpack(folder, tmp_path / "out")
    (folder / "more.txt").unlink()
    assert set(tree(tmp_path)) == set(before)
    assert unpack(folder, tmp_path / "out").card == "# card"


def test_an_honest_bundle_is_the_same_packed_again(tmp_path: Path) -> None:
    found = unpack(honest(), tmp_path / "out")
    assert packed(found.folder) == honest().read_bytes()
    assert {name: (found.folder / name).read_bytes() for name in FILES} == files_of(honest())
    (claimed,) = found.claims
    assert (found.name, claimed.suite, claimed.n) == ("mine", "ifgsm5+margin10", 60)
    assert unpack(found.folder, tmp_path / "again").claims == found.claims


def test_a_folder_that_holds_something_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("x")
    before = tree(tmp_path)
    with pytest.raises(BundleError, match="not an empty folder"):
        unpack(honest(), tmp_path / "out")
    assert tree(tmp_path) == before


def test_a_bomb_is_refused_by_what_its_directory_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with zipfile.ZipFile(tmp_path / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for name in FILES:
            archive.writestr(name, bytes(2**24) if name == "model.safetensors" else b"{}")
    monkeypatch.setattr(zipfile.ZipFile, "open", lambda *_: pytest.fail("something was unpacked"))
    with pytest.raises(BundleError, match=r"model.safetensors: unpacks to more than 200 times"):
        unpack(tmp_path / "bomb.zip", tmp_path / "out")
    with pytest.raises(BundleError, match=r"model.safetensors: unpacks to 16777224 bytes"):
        unpack(tmp_path / "bomb.zip", tmp_path / "out", limits=Limits(max_ratio=10**6, max_unpacked_bytes=2**20))
    assert [path.name for path in tmp_path.iterdir()] == ["bomb.zip"]


def test_every_limit_is_a_positive_integer() -> None:
    for bad in (0, -1, 1.5, True, "9"):
        with pytest.raises(InvalidValueError, match="max_bytes is"):
            Limits(max_bytes=bad)  # type: ignore[arg-type]


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_no_byte_that_is_flipped_raises_anything_else(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("flipped")
    content = bytearray(honest().read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    (folder / "x.zip").write_bytes(content)
    try:
        unpack(folder / "x.zip", folder / "out")
    except BundleError:
        assert [path.name for path in folder.iterdir()] == ["x.zip"]


def test_torch_is_not_needed_for_weights(tmp_path: Path) -> None:
    """What we say of a file of torch's own is what torch says of it."""
    files = with_header(files_of(honest()), lambda h: h.pop("__metadata__"))
    found = unpack(zipped(files, tmp_path / "x.zip"), tmp_path / "out")
    from safetensors.torch import load_file

    assert all(torch.isfinite(value).all() for value in load_file(found.weights).values())


def test_the_format_is_imported_without_torch() -> None:
    folder = Path(bundle_format.__file__).parent
    modules = [f"{bundle_format.__name__}.{path.stem}" for path in folder.glob("*.py") if path.stem != "__init__"]
    code = f"import sys, {', '.join(modules)}; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
