"""What fuzzing found, each as the smallest input: a traceback, or a line that no person could read, before."""

import io
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import safetensors.torch
import torch
from judging import LONGEST, Fault, judge, keep
from mutating import Parts, join, split
from of_runs import pictures
from target import Target, header_of, with_header
from targets import TARGETS

from ensemble_bench.errors import DataError, EnsembleBenchError, RecordError
from ensemble_bench.records.decoding import decode

Change = Callable[[Any], object]
DEEP: Any = json.loads("[" * 400 + "]" * 400)


def seed(target: str, number: int = 0) -> Parts:
    return TARGETS[target].seeds()[number]


def edited(target: str, part: int, change: Change, number: int = 0) -> Parts:
    """A seed with the JSON of a part changed, its hash true."""
    parts = list(seed(target, number))
    values = json.loads(parts[part])
    change(values)
    parts[part] = json.dumps(values).encode()
    return tuple(parts)


def line(at: int, change: Change, number: int = 0) -> Parts:
    """A journal with a line changed, its checksum true."""
    journal, *others = seed("journal", number)
    lines = journal.splitlines(keepends=True)
    values = json.loads(lines[at])
    change(values)
    lines[at] = json.dumps(values).encode() + b"\n"
    return b"".join(lines), *others


def table(**columns: Any) -> Parts:
    """Samples in which these columns are others, beside their record, which has no hash of them."""
    record, samples = seed("samples", 1)
    found = pq.read_table(pa.BufferReader(samples))
    for name, column in columns.items():
        found = found.set_column(found.column_names.index(name), name, column)
    return record, parquet(found)


def without(name: str) -> bytes:
    return parquet(pq.read_table(pa.BufferReader(seed("samples", 5)[1])).drop_columns([name]))


def parquet(found: pa.Table) -> bytes:
    sink = io.BytesIO()
    pq.write_table(found, sink)
    return sink.getvalue()


def twice(found: pa.Table, name: str) -> bytes:
    return parquet(found.append_column(name, found.column(name)))


def resume(change: Change) -> Parts:
    """A resume point with another progress, its hash true."""
    header, body = header_of(seed("resume")[0])
    values = json.loads(header)
    progress = json.loads(values["__metadata__"]["progress"])
    change(progress)
    values["__metadata__"]["progress"] = json.dumps(progress)
    return (with_header(json.dumps(values).encode(), body),)


def without_metadata() -> bytes:
    """A checkpoint's weights that tell null of themselves."""
    header, body = header_of(seed("checkpoint")[1])
    return with_header(json.dumps(json.loads(header) | {"__metadata__": None}).encode(), body)


def momentum() -> Parts:
    """A resume point whose first momentum has another shape, its hash true."""
    tensors = safetensors.torch.load(seed("resume")[0])
    metadata = json.loads(header_of(seed("resume")[0])[0])["__metadata__"]
    name = min(name for name, value in tensors.items() if name.startswith("momentum.") and value.dim() > 1)
    tensors[name] = tensors[name].flatten()[:1].clone()
    return (safetensors.torch.save(tensors, metadata),)


def weights_as(dtype: torch.dtype) -> Parts:
    """Weights of another project in another type."""
    tensors = safetensors.torch.load(seed("weights")[0])
    return safetensors.torch.save({name: value.to(dtype) for name, value in tensors.items()}), seed("weights")[1]


def images(labels: Any, **metadata: str) -> Parts:
    found = pa.table({"image": pictures(12), "label": labels})
    return (parquet(found.replace_schema_metadata(metadata or None)),)


def npz(**arrays: Any) -> Parts:
    out = io.BytesIO()
    pixels = np.zeros((12, 8, 8, 3), dtype=np.uint8)
    np.savez(out, **({"x": pixels, "y": np.array([0, 1] * 6)} | arrays))
    return (out.getvalue(),)


def packed(method: int, at: bytes, change: Callable[[bytearray, int], object]) -> Parts:
    """An archive of one entry, with bytes of it changed from the first of `at` on."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", method) as archive:
        archive.writestr("x.npy", bytes(100))
        archive.writestr("y.npy", bytes(100))
    data = bytearray(out.getvalue())
    change(data, data.index(at))
    return (bytes(data),)


def put(at: int, value: int) -> Callable[[bytearray, int], object]:
    return lambda data, start: data.__setitem__(start + at, value)


HUB = json.dumps({"info": {"features": {"image": {"_type": "ClassLabel"}}}})
REFUSED: dict[str, tuple[str, Callable[[], Parts], str]] = {
    # Errors that quote what they found: pages of it, several lines, what no terminal takes.
    "a long text": ("record", lambda: edited("record", 0, lambda v: v.update(seconds="x" * 9000)), "seconds: expected"),
    "a long unknown field": ("record", lambda: edited("record", 0, lambda v: v.update({"x" * 9000: 1})), "unknown"),
    "half a pair": (
        "checkpoint",
        lambda: edited("checkpoint", 0, lambda v: v["architecture"].update({"\ud800": 1})),
        "half of a surrogate pair",
    ),
    "line ends of other kinds": (
        "checkpoint",
        lambda: edited("checkpoint", 0, lambda v: v["architecture"].update({"a\u2028b\x1b[2J": 1})),
        r"unknown keys a b\\x1b\[2J",
    ),
    "a long text of what no terminal takes": (
        "record",
        lambda: edited("record", 0, lambda v: v.update({"\x1b" * 9000: 1})),
        r"unknown field '\\x1b",
    ),
    "a long hash": ("board", lambda: edited("board", 1, lambda v: v.update(schema="x" * 9000)), "schema"),
    # JSON
    "a number of 400 digits": ("record", lambda: edited("record", 0, lambda v: v.update(seconds=10**400)), "seconds"),
    "a count beyond 64 bits": ("record", lambda: edited("record", 0, lambda v: v.update(flops=2**63)), "flops"),
    "a number that is infinite": (
        "record",
        lambda: (seed("record", 4)[0].replace(b'"seconds": 1.25', b'"seconds": 1e999', 1),),
        "1e999 is not a number",
    ),
    "a text that no file takes": (
        "record",
        lambda: edited("record", 0, lambda v: v.update(model="\ud800")),
        "half of a surrogate pair",
    ),
    "a deep entry": ("board", lambda: edited("board", 2, lambda v: v.update(link=DEEP)), "nested deeper than 64"),
    "deep settings": (
        "record",
        lambda: edited("record", 0, lambda v: v["attacks"][0]["settings"].update(x=DEEP), 4),
        "nested deeper than 64",
    ),
    # Samples
    "a column twice": (
        "samples",
        lambda: (seed("samples", 1)[0], twice(pq.read_table(pa.BufferReader(seed("samples", 1)[1])), "clean")),
        "not a Parquet file .*clean",
    ),
    "one of two shares": ("samples", lambda: (seed("samples", 5)[0], without("expected_accuracy")), "missing column"),
    "labels of text": ("samples", lambda: table(label=pa.array(list("abcdef"))), "column 'label' is string"),
    "labels that lack": (
        "samples",
        lambda: table(label=pa.array([None] * 6, pa.int64())),
        "column 'label' lacks values",
    ),
    "verdicts in lists": ("samples", lambda: table(ifgsm5=pa.array([[True]] * 6)), "column 'ifgsm5' is list"),
    # Runs
    "versions of no kind": ("run", lambda: edited("run", 0, lambda v: v.update(versions="2")), "run.versions"),
    "later versions of no kind": ("run", lambda: edited("run", 0, lambda v: v.update(later_versions=[5])), "later"),
    "settings of no kind": ("run", lambda: edited("run", 0, lambda v: v.update(settings="x")), "run.settings"),
    "images of no kind": ("run", lambda: edited("run", 0, lambda v: v.update(validation_n=[1])), "run.validation_n"),
    "no images": ("run", lambda: edited("run", 0, lambda v: v.update(validation_n=-1)), "expected a number of images"),
    "a step of 400 digits": (
        "run",
        lambda: (seed("run", 1)[0], seed("run", 1)[1].replace(b"\n2,", b"\n" + b"9" * 400 + b",", 1), b""),
        "row 3 does not hold",
    ),
    # Checkpoints
    "a threat of no kind": (
        "checkpoint",
        lambda: edited("checkpoint", 0, lambda v: v["meta"].update(threat=5)),
        "meta",
    ),
    "seeds of no kind": (
        "checkpoint",
        lambda: edited("checkpoint", 0, lambda v: v["meta"].update(seeds=5)),
        "meta.seeds",
    ),
    "no metadata in the weights": ("checkpoint", lambda: (seed("checkpoint")[0], without_metadata()), "was saved with"),
    # Weights of other projects
    "complex weights": (
        "weights",
        lambda: weights_as(torch.complex64),
        "is torch.complex64, expected torch.float32",
    ),
    # Resume points
    "a deep progress": ("resume", lambda: resume(lambda v: v.update(best={"step": DEEP})), "nested deeper"),
    "a best of no kind": ("resume", lambda: resume(lambda v: v.update(best=5)), "progress.best"),
    "a best without its step": ("resume", lambda: resume(lambda v: v.update(best={})), "progress.best"),
    "a step below zero": ("resume", lambda: resume(lambda v: v.update(step=-1)), "got step -1"),
    "a momentum of another shape": ("resume", momentum, r"momentum\..* is torch.float32 \(1,\)"),
    # Black-box sets
    "a radius of 400 digits": (
        "blackbox",
        lambda: edited("blackbox", 0, lambda v: v["threat"].update(norm="l2", eps=10**400)),
        "threat.eps: expected a number",
    ),
    "a radius beyond every image": (
        "blackbox",
        lambda: edited("blackbox", 0, lambda v: v["threat"].update(norm="l2", eps=2**70)),
        "eps is .* positive number",
    ),
    "networks of no kind": (
        "blackbox",
        lambda: edited("blackbox", 0, lambda v: v["surrogates"][0].pop("accuracy")),
        "surrogates.accuracy",
    ),
    # Data sets of users
    "two columns of images": (
        "parquet",
        lambda: (twice(pq.read_table(pa.BufferReader(seed("parquet")[0])), "image"),),
        "two columns called 'image'",
    ),
    "labels said to be images": ("parquet", lambda: images([0.5] * 12, huggingface=HUB), "one column of labels"),
    "a label of 2^62": ("parquet", lambda: images([0] * 11 + [2**62]), "label 4611686018427387904 in .* out of range"),
    "a label of 2^64 - 1": ("npz", lambda: npz(y=np.array([2**64 - 1] * 12, dtype=np.uint64)), "out of range"),
    "an infinite label": ("npz", lambda: npz(y=np.array([np.inf] * 12)), "label inf in .* out of range"),
    "a column's name in no UTF-8": (
        "parquet",
        lambda: (seed("parquet", 1)[0].replace(b"label", b"\xff\xffbel"),),
        "cannot read .* as parquet",
    ),
    "a single image": ("npz", lambda: npz(x=np.array(1.0)), "images in .* have shape"),
    "a single name of classes": ("npz", lambda: npz(classes=np.array("cat")), "classes has shape"),
    "a damaged deflate": ("npz", lambda: packed(zipfile.ZIP_DEFLATED, b"x.npy", put(5, 0xFF)), "no .npz file"),
    "a damaged LZMA": ("npz", lambda: packed(zipfile.ZIP_LZMA, b"x.npy", put(9, 0xFF)), "no .npz file"),
    "an unknown packing": ("npz", lambda: packed(zipfile.ZIP_STORED, b"PK\x01\x02", put(10, 99)), "no .npz file"),
    "an encrypted entry": ("npz", lambda: packed(zipfile.ZIP_STORED, b"PK\x01\x02", put(8, 1)), "no .npz file"),
}


@pytest.mark.parametrize(("target", "make", "reason"), REFUSED.values(), ids=REFUSED)
def test_it_is_refused_in_one_line(target: str, make: Callable[[], Parts], reason: str, tmp_path: Path) -> None:
    TARGETS[target].write(make(), tmp_path)
    with pytest.raises(EnsembleBenchError, match=reason) as error:
        TARGETS[target].read(tmp_path)
    assert isinstance(error.value, TARGETS[target].errors)
    assert len(str(error.value)) <= LONGEST
    assert str(error.value).isprintable()


DONE_AGAIN: dict[str, Callable[[], Parts]] = {
    "versions of no kind": lambda: line(0, lambda v: v.update(versions=5)),
    "threads below zero": lambda: line(0, lambda v: v.update(threads=-1)),
    "no predictions": lambda: line(1, lambda v: v.pop("prediction")),
    "more predictions than images": lambda: line(1, lambda v: v["prediction"].append(1)),
    "predictions of 2^70": lambda: line(1, lambda v: v.update(prediction=[2**70] * 6)),
    "a look of no kind": lambda: line(2, lambda v: v.update(met="x")),
    "fewer verdicts than images": lambda: line(3, lambda v: v["broken"].pop()),
    "verdicts of no kind": lambda: line(3, lambda v: v.update(broken=[1] * 6)),
    "a class for an image that stood": lambda: line(3, lambda v: v.update(predicted=[1] * 6)),
    "a broken image without a class": lambda: line(4, lambda v: v["broken"].__setitem__(4, True)),
    "images without a hash": lambda: line(3, lambda v: v.pop("images_hash", None)),
    "a probe of other tests": lambda: line(5, lambda v: v.update(standing=[[True]])),
    "a recapture of other images": lambda: line(6, lambda v: v.update(fell=[])),
    "other images": lambda: (*seed("journal")[:2], b"x"),
    "a deep line": lambda: (seed("journal")[0] + b"[" * 5000 + b"]" * 5000 + b"\n", b"", seed("journal")[2]),
}


@pytest.mark.parametrize("make", DONE_AGAIN.values(), ids=DONE_AGAIN)
def test_a_journal_of_another_version_is_done_again(make: Callable[[], Parts], tmp_path: Path) -> None:
    assert judge(TARGETS["journal"], make(), tmp_path) is True


def test_a_deep_line_of_a_log_of_steps_is_left_out(tmp_path: Path) -> None:
    run, curves, steps = seed("run")
    TARGETS["run"].write((run, curves, b"[" * 5000 + b"]" * 5000 + b"\n" + steps), tmp_path)
    TARGETS["run"].read(tmp_path)
    assert (tmp_path / "steps.jsonl").read_bytes() == b"".join(steps.splitlines(keepends=True)[:2])


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.bfloat16, torch.float64])
def test_weights_of_any_real_type_are_read(dtype: torch.dtype, tmp_path: Path) -> None:
    assert judge(TARGETS["weights"], weights_as(dtype), tmp_path) is True


def test_inputs_are_parts_whatever_their_bytes_are() -> None:
    assert split(join((b"", b"ab", b"c")), 3) == (b"", b"ab", b"c")
    assert split(b"", 2) == (b"", b"")
    assert split(b"\xff\xff\xff\xff1", 2) == (b"1", b"")


def outcome_of(read: Callable[[Path], object], folder: Path) -> Fault | bool:
    """What becomes of an input under a reader that may raise RecordError."""
    return judge(Target(name="made", files={"x": "json"}, seeds=list, read=read, errors=(RecordError,)), (b"",), folder)


def raising(error: Exception) -> Callable[[Path], object]:
    def read(_: Path) -> object:
        raise error

    return read


@pytest.mark.parametrize(
    ("read", "kind"),
    [
        (raising(KeyError("x")), "KeyError"),
        (raising(RecursionError()), "RecursionError"),
        (raising(DataError("no data")), "DataError (not documented)"),
        (lambda _: bytes(2**40), "MemoryError"),
    ],
)
def test_what_a_reader_does_not_document_is_a_fault(read: Callable[[Path], object], kind: str, tmp_path: Path) -> None:
    fault = outcome_of(read, tmp_path)
    assert isinstance(fault, Fault)
    assert fault.kind == kind
    assert list(tmp_path.iterdir()) == []


def test_a_fault_is_known_by_the_last_line_of_the_package(tmp_path: Path) -> None:
    found = outcome_of(lambda _: decode(complex, 5, "x"), tmp_path)
    assert isinstance(found, Fault)
    assert found.place.startswith("ensemble_bench/records/decoding.py:")
    assert keep(found, (b"ab",), tmp_path)
    assert not keep(found, (b"a",), tmp_path)  # known, but smaller
    assert [split(path.read_bytes(), 1) for path in tmp_path.glob("*/input")] == [(b"a",)]


def test_what_it_documents_is_none(tmp_path: Path) -> None:
    assert outcome_of(raising(RecordError("broken")), tmp_path) is False
    assert outcome_of(lambda _: 1, tmp_path) is True
