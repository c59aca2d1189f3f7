"""What is fuzzed: the readers of every file that somebody else may have written, and valid files to begin from.

In a seed "@self", "@check" and the like stand for hashes and checksums; `Target.write` puts the true ones in their
place, so that what was changed around them is read and not only refused.
"""

import functools
import hashlib
import io
import json
import os
import sys
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest import mock

TESTS = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(TESTS))

import numpy as np  # noqa: E402
import pyarrow as pa  # noqa: E402
import pyarrow.parquet as pq  # noqa: E402
import safetensors.torch  # noqa: E402
import torch  # noqa: E402
from mutating import Parts  # noqa: E402
from PIL import Image  # noqa: E402
from small_models import ARCHITECTURE, perceptron  # noqa: E402
from synthetic_runs import make_record, write  # noqa: E402

from ensemble_bench import data  # noqa: E402
from ensemble_bench.attacks import get  # noqa: E402
from ensemble_bench.attacks.blackbox.blackbox_set import load_blackbox, save_blackbox  # noqa: E402
from ensemble_bench.attacks.engine import Budget  # noqa: E402
from ensemble_bench.errors import (  # noqa: E402
    AttackError,
    BundleError,
    CheckpointError,
    DataError,
    EnsembleBenchError,
    InvalidValueError,
    RecordError,
)
from ensemble_bench.evaluation.job import Job  # noqa: E402
from ensemble_bench.evaluation.journal import Journal, fallen_in  # noqa: E402
from ensemble_bench.evaluation.scoring import score  # noqa: E402
from ensemble_bench.evaluation.trust import probe, recapture  # noqa: E402
from ensemble_bench.files import sha256_bytes  # noqa: E402
from ensemble_bench.leaderboard.board import leaderboard_csv  # noqa: E402
from ensemble_bench.leaderboard.gallery import Gallery, Picture, as_png, read_gallery, write_gallery  # noqa: E402
from ensemble_bench.leaderboard.model_info import read as read_model_info  # noqa: E402
from ensemble_bench.leaderboard.model_info import read_corruptions  # noqa: E402
from ensemble_bench.leaderboard.model_info import to_json as model_info_json  # noqa: E402
from ensemble_bench.leaderboard.rules import Rules, read_rules, write_rules  # noqa: E402
from ensemble_bench.leaderboard.verified import Verdict, Verified, read_verified  # noqa: E402
from ensemble_bench.models import checkpoint, state_dict  # noqa: E402
from ensemble_bench.models.build import build, skeleton  # noqa: E402
from ensemble_bench.models.folded import twin_of  # noqa: E402
from ensemble_bench.records import (  # noqa: E402
    NamedWarning,
    Record,
    Threat,
    identify,
    opened,
    read_record,
    read_samples,
    samples_to_parquet,
    to_json,
)
from ensemble_bench.records.classes import class_scores, confusion  # noqa: E402
from ensemble_bench.records.recapture import Alone, Recapture  # noqa: E402
from ensemble_bench.records.record import Randomised, SavedImages, Search, StageResult  # noqa: E402
from ensemble_bench.records.training import described  # noqa: E402
from ensemble_bench.reports.training_curves import read_curves  # noqa: E402
from ensemble_bench.submissions.bundling import bundle  # noqa: E402
from ensemble_bench.submissions.format.archive import FILES, pack  # noqa: E402
from ensemble_bench.submissions.format.bundle import unpack  # noqa: E402
from ensemble_bench.submissions.format.claims import outcomes_of, parse  # noqa: E402
from ensemble_bench.submissions.format.limits import Limits  # noqa: E402
from ensemble_bench.submissions.format.untrusted import parse_json  # noqa: E402
from ensemble_bench.submissions.price import batch_in, check_price  # noqa: E402
from ensemble_bench.threat import ThreatModel  # noqa: E402
from ensemble_bench.training import provenance, rundir, state, step_log  # noqa: E402
from ensemble_bench.training.optimizer import sgd  # noqa: E402
from ensemble_bench.training.presets import PRESETS  # noqa: E402

SMALL = replace(ARCHITECTURE, width=1 / 16)
GATED = replace(SMALL, members=2, gated=True)
META = {
    "recipe": "singleadv",
    "preset": "tiny",
    "dataset": "digits",
    "seed": 0,
    "seeds": [0],
    "checkpoint": "best",
    "threat": {"norm": "linf", "eps": 8 / 255},
}
EVALUATION = "an evaluation"
# Where the journal keeps the images that its first attack broke.
IMAGES_FILE = f"journal-images/{hashlib.sha256(f'{EVALUATION} ifgsm1'.encode()).hexdigest()[:16]}-block0.safetensors"
LIMITS = Limits(max_bytes=2**22, max_unpacked_bytes=2**22, max_text_bytes=2**20)


@dataclass(frozen=True, kw_only=True)
class Target:
    """A reader: its files by name with their kinds (see mutating.py), valid ones, and what it may raise."""

    name: str
    files: Mapping[str, str]
    seeds: Callable[[], list[Parts]]
    read: Callable[[Path], object]
    errors: tuple[type[EnsembleBenchError], ...]
    seal: Callable[[Parts], Parts] = lambda parts: parts
    quick: int = 100
    """Mutants in the tests."""

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kind of every part."""
        return tuple(self.files.values())

    def write(self, parts: Parts, folder: Path) -> None:
        """Put the parts into a folder as the files that are read."""
        for name, part in zip(self.files, self.seal(parts), strict=True):
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(part)


@functools.cache
def digits() -> data.ImageSet:
    """Test images."""
    return data.open_source("digits").split("test")


def each(*readers: Callable[[], object]) -> None:
    """Call all readers; the first error is raised once the others were called too."""
    first: EnsembleBenchError | None = None
    for reader in readers:
        try:
            reader()
        except EnsembleBenchError as error:
            first = first or error
    if first is not None:
        raise first


# ── true hashes for markers ──


def put(text: bytes, marker: str, value: str) -> bytes:
    """The text with a value for the marker, if it is there."""
    return text.replace(f'"@{marker}"'.encode(), json.dumps(value).encode())


def self_sealed(text: bytes) -> bytes:
    """JSON whose "@self" is the hash of its other values."""
    try:
        values = json.loads(text)
        del values["self_hash"]
        return put(text, "self", f"sha256:{identify(values)}")
    except (ValueError, TypeError, KeyError, IndexError, RecursionError):
        return text


def marked(text: bytes | str, **markers: str) -> bytes:
    """JSON with markers in place of these keys' values."""
    return json.dumps(json.loads(text) | {key: f"@{marker}" for key, marker in markers.items()}).encode()


def header_of(weights: bytes) -> tuple[bytes, bytes]:
    """The header of a safetensors file, and the rest."""
    length = int.from_bytes(weights[:8], "little")
    return weights[8 : 8 + length], weights[8 + length :]


def with_header(header: bytes, body: bytes) -> bytes:
    return len(header).to_bytes(8, "little") + header + body


# ── bundles ──


@functools.cache
def scratch() -> "tempfile.TemporaryDirectory[str]":
    return tempfile.TemporaryDirectory()


@functools.cache
def bundles() -> list[dict[str, bytes]]:
    """The files of two bundles: of one network, and of a gated ensemble with two claims."""
    found = []
    for name, architecture, suites in (("one", SMALL, ("ifgsm5",)), ("two", GATED, ("ifgsm5+margin10", "strongest"))):
        run = Path(scratch().name) / name
        checkpoint.save(run / "best.safetensors", build(architecture).eval(), architecture, META)
        told = checkpoint.read_info(run)
        for suite in suites:
            record, samples = make_record(
                [True] * 7 + [False],
                {"ifgsm5": [True, True, False, True] * 2, "blackbox": [None, None, True, False] * 2},
                weights_hash=told.weights_hash,
                architecture=architecture.as_dict(),
                suite=suite,
            )
            write(record, samples, run)
        folder = bundle(run, out=Path(scratch().name) / f"{name}-bundle")
        found.append({file: (folder / file).read_bytes() for file in FILES})
    return found


def read_bundle(folder: Path) -> None:
    """What the service does with an upload, up to its price; nothing stays of a bad one."""
    try:
        found = unpack(folder / "upload.zip", folder / "upload", limits=LIMITS)
    except BundleError:
        assert [path.name for path in folder.iterdir()] == ["upload.zip"]
        raise
    check_price(found, 1e30, rules=Rules())
    batch_in(2**30, checkpoint.Architecture.from_dict(found.config["architecture"]), most=256)


def zipped(parts: Parts) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, part in zip(FILES, parts, strict=True):
            archive.writestr(name, part)
    return out.getvalue()


def packed() -> list[Parts]:
    seeds = []
    for files in bundles():
        with tempfile.TemporaryDirectory() as folder:
            for name, content in files.items():
                (Path(folder) / name).write_bytes(content)
            out = io.BytesIO()
            pack(Path(folder), out)
        seeds.append((out.getvalue(),))
    return seeds


@dataclass(frozen=True, kw_only=True)
class Packed(Target):
    """A bundle's files, in a .zip without a fault of its own."""

    def write(self, parts: Parts, folder: Path) -> None:
        (folder / "upload.zip").write_bytes(zipped(parts))


def read_claims(folder: Path) -> None:
    found = parse(parse_json((folder / "claims.json").read_bytes(), "claims.json"), LIMITS)
    assert parse(found.as_dict(), LIMITS) == found


# ── records and samples ──


@functools.cache
def records() -> list[tuple[Record, bytes]]:
    """Records with all that a record may hold, and their samples."""
    attacks = {"ifgsm5": [True, True, False, True, False, False], "blackbox": [None, True, True, False, None, True]}
    plain, samples = make_record([True] * 5 + [False], attacks, training={"steps": 5, "eps": 0.1, "changes": {}})
    stages = (StageResult(name="ifgsm5/a", attacked=6, broken=3, seconds=0.5, passes=7),)
    first = replace(plain.attacks[0], stages=stages, curve=(1.0, 0.5), settings={"steps": 5, "stages": [{"steps": 2}]})
    found = Recapture(
        survivors=2,
        broken=1,
        fell=1,
        alone=(Alone(name="ifgsm5", broken=1, passes=9, whole=1),),
        hidden=1.0,
        low=0.5,
        high=2.0,
        seconds=1.0,
    )
    full = replace(
        plain,
        attacks=(first, plain.attacks[1]),
        warnings=(NamedWarning(name="no-plateau", message="it still fell"),),
        search=Search(precision="bf16", folded=True, compiled=False),
        images=SavedImages(format="png", hash="sha256:" + "0" * 64, broken=3, confirmed=3, rounded=2),
        recapture=found if plain.robust.robust >= 2 else None,
        view="member1",
        cascade=True,
    )
    drawn = replace(plain, randomised=Randomised(draws=64, gradient_draws=8), training=None)
    shares = samples.assign(expected_accuracy=plain.robust.accuracy, expected_clean_accuracy=plain.clean.accuracy)
    carried = replace(
        plain, attacks=(replace(plain.attacks[0], name="smaller-eps", settings={"eps": 0.01}), plain.attacks[1])
    )
    renamed = samples.rename(columns={c: c.replace("ifgsm5", "smaller-eps") for c in samples})
    renamed["broken_by"] = renamed["broken_by"].replace("ifgsm5", "smaller-eps")
    told = samples.assign(adversarial_prediction=[None, None, 3, 4, 5, None])
    return [
        (plain, samples_to_parquet(samples)),
        (full, samples_to_parquet(told)),
        (drawn, samples_to_parquet(shares)),
        (carried, samples_to_parquet(renamed)),
    ]


def record_seeds() -> list[Parts]:
    hashed = [replace(record, samples_hash=sha256_bytes(samples)) for record, samples in records()]
    return [(marked(to_json(record), self_hash="self"),) for record in hashed] + [(to_json(records()[1][0]).encode(),)]


def read_the_record(folder: Path) -> None:
    """Read a record, write it again and put it into a board's table."""
    record = read_record(folder)
    assert Record.from_dict(opened(to_json(record))) == record
    leaderboard_csv([described(record)])


def sample_seeds() -> list[Parts]:
    """Records beside their samples, with the hash of these and, as versions before, without."""
    found: list[Parts] = []
    for record, samples in records():
        table = pq.read_table(pa.BufferReader(samples))
        sink = io.BytesIO()
        pq.write_table(table, sink, compression="none", use_dictionary=False)
        hashed = json.loads(to_json(record)) | {"samples_hash": "@samples", "self_hash": "@self"}
        found.append((json.dumps(hashed).encode(), samples))
        found.append((to_json(record).encode(), sink.getvalue()))
    return found


def samples_sealed(parts: Parts) -> Parts:
    record, samples = parts
    return self_sealed(put(record, "samples", sha256_bytes(samples))), samples


def read_the_samples(folder: Path) -> None:
    """Read samples beside their record, and alone; make of them what tables and claims do."""

    def beside() -> None:
        record = read_record(folder)
        samples = read_samples(folder)
        outcomes_of(record)
        class_scores(samples)
        confusion(samples, attacked=True)

    def alone() -> None:
        (folder / "alone").mkdir()
        (folder / "alone" / "samples.parquet").write_bytes((folder / "samples.parquet").read_bytes())
        read_samples(folder / "alone")

    each(beside, alone)


# ── checkpoints, resume points and other weights ──


def checkpoint_seeds() -> list[Parts]:
    found: list[Parts] = []
    for architecture in (SMALL, GATED):
        path = Path(scratch().name) / f"{architecture.members}.safetensors"
        for half in (False, True):
            checkpoint.save(path, build(architecture).eval(), architecture, META, half=half)
            header, body = header_of(path.read_bytes())
            values = json.loads(header)
            values["__metadata__"]["architecture"] = "@architecture"
            about = marked(path.with_suffix(".json").read_bytes(), self_hash="self", weights_hash="weights")
            found.append((about, with_header(json.dumps(values).encode(), body)))
    return found


def checkpoint_sealed(parts: Parts) -> Parts:
    about, weights = parts
    header, body = header_of(weights)
    try:
        told = json.dumps(json.loads(about)["architecture"], sort_keys=True)
        if len(header) + 8 <= len(weights):
            weights = with_header(put(header, "architecture", told), body)
    except (ValueError, TypeError, KeyError, RecursionError):
        pass
    return self_sealed(put(about, "weights", sha256_bytes(weights))), weights


@functools.cache
def trained_a_little() -> Any:
    """A tiny network, and its optimizer after a step."""
    model = build(SMALL).train()
    optimizer = sgd(model, PRESETS["tiny"].on("digits"))
    x, y = digits().batch(slice(4))
    torch.nn.functional.cross_entropy(model(x), y).backward()
    optimizer.step()
    return model, optimizer


def resume_seeds() -> list[Parts]:
    path = Path(scratch().name) / "resume.safetensors"
    model, optimizer = trained_a_little()
    reached = state.TrainingState(step=3, best={"step": 2, "ifgsm5": 0.5}, loss_sum=1.5, loss_n=1)
    state.save(path, model, optimizer, reached, model)
    header, body = header_of(path.read_bytes())
    values = json.loads(header)
    values["__metadata__"]["self_hash"] = "@resume"
    return [(with_header(json.dumps(values).encode(), body),)]


def resume_sealed(parts: Parts) -> Parts:
    (weights,) = parts
    header, body = header_of(weights)
    try:
        progress = json.loads(header)["__metadata__"]["progress"]
        told = state._hash(progress, safetensors.torch.load(weights))
        if len(header) + 8 <= len(weights):
            weights = with_header(put(header, "resume", told), body)
    except Exception:  # what cannot be read has no hash
        pass
    return (weights,)


def read_resume(folder: Path) -> None:
    """Go on from a resume point, as the trainer does with what it holds, and write the next one."""
    model = skeleton(SMALL)
    average = skeleton(SMALL)
    optimizer = sgd(model, PRESETS["tiny"].on("digits"))
    reached = state.load(folder / "resume.safetensors", model, optimizer, average)
    reached.took_step(torch.tensor(0.5))
    assert reached.step > 0
    reached.take_loss()
    assert reached.seconds >= 0
    assert reached.best is None or (reached.best["ifgsm5"] <= 1 and reached.best["step"] >= 0)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    state.save(folder / "next.safetensors", model, optimizer, reached, average)


def weights_seeds() -> list[Parts]:
    return [(safetensors.torch.save(perceptron(0).state_dict()),)]


def read_weights(folder: Path) -> None:
    path = folder / "theirs.safetensors"
    state_dict.fill(perceptron(1), state_dict.read(path), path)


# ── black-box sets ──


def blackbox_seeds() -> list[Parts]:
    path = Path(scratch().name) / "set.safetensors"
    x, y = digits().batch(slice(3))
    about = {"keep_rate": 0.5, "considered": 6, "surrogates": [{"backbone": "small_cnn", "accuracy": 0.9}]}
    about |= {"data_hash": "sha256:" + "0" * 64, "threat": {"norm": "linf", "eps": 0.1}, "seed": 0}
    save_blackbox(path, ids=torch.arange(3), x_adv=x, labels=y, info=about)
    return [(marked(path.with_suffix(".json").read_bytes(), self_hash="self", hash="images"), path.read_bytes())]


def blackbox_sealed(parts: Parts) -> Parts:
    about, images = parts
    return self_sealed(put(about, "images", sha256_bytes(images))), images


def read_blackbox(folder: Path) -> None:
    """Attack with a black-box set."""
    path = folder / "set.safetensors"
    found = load_blackbox(path)
    assert str(found.threat)
    x, y = digits().batch(slice(5))
    get("blackbox", path=path).run(perceptron(0), x, y, found.threat, ids=torch.arange(5))


# ── runs ──


def run_seeds() -> list[Parts]:
    """The run.json, curves.csv and steps.jsonl of a run that goes on, with checksums and as they were before these."""
    out = Path(scratch().name) / "run"
    with mock.patch.object(rundir, "commit", return_value=None):
        rundir.claim(out, plan(), device="cpu", resume=False, validation_n=144)
    about = json.loads((out / "run.json").read_text())
    names = "step,epoch,clean,fgsm,ifgsm5,ifgsm7,pgd5,pgd20,loss,lr,seconds"
    rows = [f"{step},{step / 9},0.75,0.5,0.5,0.5,0.5,{0.5 / step},1.25,0.1,3.5" for step in (1, 2, 3)]
    curves = "\n".join([f"{names},check", *(f"{row},@check" for row in rows), ""])
    before = "\n".join([names, *rows, ""])
    steps = "".join(json.dumps({"step": step, "loss": 0.5, "lr": 0.1}) + "\n" for step in (1, 2, 3))
    sealed = json.dumps(about | {"self_hash": "@self", "later_versions": [about["versions"]]})
    del about["self_hash"]
    return [tuple(map(str.encode, p)) for p in ((sealed, curves, steps), (json.dumps(about), before, steps))]


def plan() -> dict[str, Any]:
    return {
        "recipe": "singleadv",
        "preset": "tiny",
        "dataset": "digits",
        "data_name": "digits",
        "seeds": [0],
        "steps": 30,
        "threat": {"norm": "linf", "eps": 0.1},
        "settings": {"evaluate_n": 144},
        "changes": {},
        "architecture": SMALL.as_dict(),
    }


def run_sealed(parts: Parts) -> Parts:
    about, curves, steps = parts
    lines = curves.split(b"\n")
    for at, line in enumerate(lines):
        if line.endswith(b",@check"):
            row = line.removesuffix(b",@check")
            lines[at] = row + f",{zlib.crc32(row):08x}".encode()
    return self_sealed(about), b"\n".join(lines), steps


versions = functools.cache(provenance.versions)


def read_run(folder: Path) -> None:
    """Go on with a run, and read its curves."""
    # Asking git and the installed packages takes longer than all else.
    with mock.patch.multiple(rundir, commit=lambda: None, versions=versions):
        each(
            lambda: rundir.crossed_commits(folder),
            lambda: rundir.crossed_versions(folder),
            lambda: rundir.threads_of(folder),
            lambda: rundir.claim(folder, plan(), device="cpu", resume=True),
            lambda: read_curves(folder),
            lambda: step_log._forget(folder / step_log.STEPS, after=2),
        )


# ── the journal ──


@functools.cache
def job() -> Job:
    """Two attacks, the second on half of what stands, on six digits."""
    model, images = perceptron(0).eval(), digits().first(6)
    threat = ThreatModel(eps=0.1)
    return Job(
        label="mine",
        model=model,
        twin=twin_of(model, images.batch(slice(1))[0]),
        images=images,
        threat=threat,
        attacks=(get("ifgsm1"), get("margin5")),
        cascade=True,
        one_in={"margin5": 2},
        budget=Budget(batch_size=8),
    )


def probed(_: Job, tests: Sequence[Any]) -> dict[str, Any]:
    return {"standing": [[True] * len(test.rows) for test in tests], "passes": 1}


def recaptured(_job: Job, _attack: object, rows: Sequence[int]) -> dict[str, Any]:
    return {"fell": [index == 0 for index in range(len(rows))], "passes": 1, "seconds": 0.5}


def scored(path: Path) -> None:
    """Score the job with what a journal holds; the images that fell have to be in it."""
    journal = Journal(path, EVALUATION, threads=1, images=True, versions={"torch": "2"})
    journal.other_versions()
    scores = score(job(), journal)
    # What is read counts; what is done where there is nothing to read takes long.
    with mock.patch.object(probe, "_run", probed), mock.patch.object(recapture, "_alone", recaptured):
        probe.probe(job(), scores, journal)
        recapture.recapture(job(), scores, journal, members=())
    for stage in dict.fromkeys(name for name in scores.fell_at if name is not None):
        entry = journal.get(stage, 0)
        assert entry is not None
        x_adv = job().images.batch(slice(None))[0].clone()
        x_adv[fallen_in(entry)] = torch.from_numpy(journal.images(stage, 0)).to(x_adv)
    samples_to_parquet(scores.samples)


def journal_seeds() -> list[Parts]:
    path = Path(scratch().name) / "journal.jsonl"
    scored(path)
    lines = [json.loads(line) for line in path.read_bytes().splitlines()]
    images = path.parent / IMAGES_FILE
    marked_lines = [
        line | {"check": "@check"} | ({"images_hash": "@images"} if "images_hash" in line else {}) for line in lines
    ]
    text = "".join(json.dumps(line) + "\n" for line in marked_lines).encode()
    before = "".join(
        json.dumps({k: v for k, v in line.items() if k not in ("check", "images_hash")}) + "\n" for line in lines
    )
    return [(text, b"", images.read_bytes()), (before.encode(), b"", images.read_bytes())]


@functools.cache
def images_hash() -> str:
    """Hash of the images that were written: of others it does not hold."""
    return sha256_bytes(journal_seeds()[0][2])


def journal_sealed(parts: Parts) -> Parts:
    lines, block, images = parts
    sealed = []
    for content in (lines, block):
        found = []
        for line in put(content, "images", images_hash()).splitlines(keepends=True):
            try:
                values = json.loads(line)
                if isinstance(values, dict) and values.get("check") == "@check":
                    del values["check"]
                    text = json.dumps(values, separators=(",", ":"))
                    line = f'{text[:-1]},"check":"{zlib.crc32(text.encode()):08x}"}}\n'.encode()
            except (ValueError, RecursionError):
                pass
            found.append(line)
        sealed.append(b"".join(found))
    return sealed[0], sealed[1], images


# ── boards ──


def board_seeds() -> list[Parts]:
    folder = Path(scratch().name) / "board"
    rules = write_rules(Rules(n=100), folder).read_bytes()
    verdict = Verdict(
        record="a" * 64,
        suite="paper",
        n=8,
        images=360,
        seed=0,
        precision="float32",
        status="verified",
        by="us",
        date="2026-01-01",
        differing=0,
        compared=8,
        allowed=1,
    )
    flags = (NamedWarning(name="fits-test", message="better than chance"),)
    verified = Verified(weights_hash="sha256:0", verdicts=(verdict,), flags=flags, versions={"torch": "2"})
    earlier = {"status": "verified", "date": "2026", "weights_hash": "sha256:0"}
    pixels = as_png(np.zeros((2, 2, 3), dtype=np.uint8))
    picture = Picture(
        id=1,
        label="1",
        prediction="2",
        broken_by="pgd5",
        clean=pixels,
        adversarial=pixels,
        difference=pixels,
    )
    gallery = Gallery(
        weights_hash="a",
        data_hash="b",
        threat=Threat(norm="linf", eps=0.1),
        suite="paper",
        amplified=10.0,
        shrunk=1,
        pictures=(picture,),
    )
    write_gallery(gallery, folder / "gallery.json")
    shown = marked((folder / "gallery.json").read_bytes(), self_hash="self")
    entry = bundles()[0]["model_info.json"]
    entry = json.dumps(json.loads(entry) | {"autoattack_acc": "50.00"}).encode()
    corruptions = b",fog,fog,snow\n,1,2,1\nStandard,0.5,0.4,0.3\n"
    return [(rules, json.dumps(told).encode(), entry, shown, corruptions) for told in (verified.as_dict(), earlier)]


def read_board(folder: Path) -> None:
    def rules() -> None:
        read_rules(folder / "board.json").allowed(100)

    each(
        rules,
        lambda: read_verified(folder / "verified.json"),
        lambda: (lambda info: (info.clean, info.best_known, info.radius, model_info_json(info)))(
            read_model_info(folder / "entry.json")
        ),
        lambda: read_gallery(folder / "gallery.json"),
        lambda: read_corruptions(folder / "corruptions.csv"),
    )


# ── data sets of users ──


def pictures(n: int) -> list[bytes]:
    found = []
    for index in range(n):
        out = io.BytesIO()
        pixels = np.random.default_rng(index).integers(0, 256, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(out, format="PNG" if index % 2 else "JPEG")
        found.append(out.getvalue())
    return found


def parquet_seeds() -> list[Parts]:
    images = [{"bytes": content, "path": None} for content in pictures(12)]
    features = {"info": {"features": {"label": {"_type": "ClassLabel", "names": ["a", "b"]}}}}
    table = pa.table({"image": images, "label": [0, 1] * 6})
    hub = table.replace_schema_metadata({"huggingface": json.dumps(features)})
    words = pa.table({"image": pictures(12), "label": ["cat", "dog"] * 6})
    found: list[Parts] = []
    for one in (hub, words):
        sink = io.BytesIO()
        pq.write_table(one, sink, compression="none")
        found.append((sink.getvalue(),))
    return found


def npz_seeds() -> list[Parts]:
    found: list[Parts] = []
    pixels = np.random.default_rng(0).integers(0, 256, (12, 8, 8, 3), dtype=np.uint8)
    labels = np.array([0, 1] * 6)
    for arrays in (
        {"x": pixels, "y": labels},
        {
            "x_train": pixels / 255,
            "y_train": labels,
            "x_test": pixels,
            "y_test": labels,
            "classes": np.array(["a", "b"]),
        },
    ):
        out = io.BytesIO()
        np.savez(out, **arrays)
        found.append((out.getvalue(),))
    return found


def reading_data(name: str) -> Callable[[Path], None]:
    def read(folder: Path) -> None:
        before = os.environ.get("ENSEMBLE_BENCH_CACHE")
        os.environ["ENSEMBLE_BENCH_CACHE"] = str(folder / "cache")
        try:
            source = data.open_source(name.format(folder=folder))
            source.split("test").batch(slice(2))
        finally:
            if before is None:
                del os.environ["ENSEMBLE_BENCH_CACHE"]
            else:
                os.environ["ENSEMBLE_BENCH_CACHE"] = before

    return read


def _targets() -> Iterator[Target]:
    texts = dict(zip(FILES, ("json", "safetensors", "json", "json", "bytes"), strict=True))
    yield Packed(
        name="bundle",
        files=texts,
        seeds=lambda: [tuple(files[name] for name in FILES) for files in bundles()],
        read=read_bundle,
        errors=(BundleError,),
    )
    yield Target(name="zip", files={"upload.zip": "zip"}, seeds=packed, read=read_bundle, errors=(BundleError,))
    yield Target(
        name="claims",
        files={"claims.json": "json"},
        seeds=lambda: [(files["claims.json"],) for files in bundles()],
        read=read_claims,
        errors=(BundleError,),
    )
    yield Target(
        name="record",
        files={"record.json": "json"},
        seeds=record_seeds,
        read=read_the_record,
        errors=(RecordError,),
        seal=lambda parts: (self_sealed(parts[0]),),
    )
    yield Target(
        name="samples",
        files={"record.json": "json", "samples.parquet": "parquet"},
        seeds=sample_seeds,
        read=read_the_samples,
        errors=(RecordError,),
        seal=samples_sealed,
    )
    yield Target(
        name="journal",
        files={"journal.jsonl": "lines", "journal-block0.jsonl": "lines", IMAGES_FILE: "safetensors"},
        seeds=journal_seeds,
        read=lambda folder: scored(folder / "journal.jsonl"),
        errors=(),
        seal=journal_sealed,
    )
    yield Target(
        name="checkpoint",
        files={"best.json": "json", "best.safetensors": "safetensors"},
        seeds=checkpoint_seeds,
        read=lambda folder: checkpoint.load(folder / "best.safetensors"),
        errors=(CheckpointError,),
        seal=checkpoint_sealed,
    )
    yield Target(
        name="resume",
        files={"resume.safetensors": "safetensors"},
        seeds=resume_seeds,
        read=read_resume,
        errors=(CheckpointError,),
        seal=resume_sealed,
    )
    yield Target(
        name="weights",
        files={"theirs.safetensors": "safetensors"},
        seeds=weights_seeds,
        read=read_weights,
        errors=(CheckpointError,),
    )
    yield Target(
        name="blackbox",
        files={"set.json": "json", "set.safetensors": "safetensors"},
        seeds=blackbox_seeds,
        read=read_blackbox,
        errors=(DataError, InvalidValueError, AttackError),
        seal=blackbox_sealed,
    )
    yield Target(
        name="run",
        files={"run.json": "json", "curves.csv": "csv", "steps.jsonl": "lines"},
        seeds=run_seeds,
        read=read_run,
        errors=(CheckpointError, RecordError, InvalidValueError),
        seal=run_sealed,
    )
    yield Target(
        name="board",
        files={
            "board.json": "json",
            "verified.json": "json",
            "entry.json": "json",
            "gallery.json": "json",
            "corruptions.csv": "csv",
        },
        seeds=board_seeds,
        read=read_board,
        errors=(RecordError,),
        seal=lambda parts: (*parts[:3], self_sealed(parts[3]), parts[4]),
    )
    yield Target(
        name="parquet",
        files={"mine.parquet": "parquet"},
        seeds=parquet_seeds,
        read=reading_data("parquet:{folder}/mine.parquet"),
        errors=(DataError,),
    )
    yield Target(
        name="npz",
        files={"mine.npz": "zip"},
        seeds=npz_seeds,
        read=reading_data("npz:{folder}/mine.npz"),
        errors=(DataError,),
    )


TARGETS: Mapping[str, Target] = {
    target.name: replace(target, seeds=functools.cache(target.seeds)) for target in _targets()
}
