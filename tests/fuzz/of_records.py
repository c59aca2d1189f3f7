"""Targets: records, their samples, and the journal of an evaluation that goes on."""

import functools
import hashlib
import io
import json
import zlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from mutating import Parts
from small_models import perceptron
from synthetic_runs import make_record
from target import Target, digits, each, marked, put, scratch, self_sealed

from ensemble_bench.attacks import get
from ensemble_bench.attacks.engine import Budget
from ensemble_bench.errors import RecordError
from ensemble_bench.evaluation.job import Job
from ensemble_bench.evaluation.journal import Journal, fallen_in
from ensemble_bench.evaluation.scoring import score
from ensemble_bench.evaluation.trust import probe, recapture
from ensemble_bench.files import sha256_bytes
from ensemble_bench.leaderboard.board import leaderboard_csv, write_leaderboard
from ensemble_bench.leaderboard.site import build
from ensemble_bench.models.folded import twin_of
from ensemble_bench.records import NamedWarning, Record, opened, read_record, read_samples, samples_to_parquet, to_json
from ensemble_bench.records.classes import class_scores, confusion
from ensemble_bench.records.recapture import Alone, Recapture
from ensemble_bench.records.record import Randomised, SavedImages, Search, StageResult
from ensemble_bench.records.training import described
from ensemble_bench.registry import suite_of
from ensemble_bench.reports.parts import FIGURES, WHOLE
from ensemble_bench.reports.report import write_report
from ensemble_bench.submissions.format.claims import outcomes_of
from ensemble_bench.threat import ThreatModel

EVALUATION = "an evaluation"


# Where the journal keeps the images that its first attack broke.
IMAGES_FILE = f"journal-images/{hashlib.sha256(f'{EVALUATION} ifgsm1'.encode()).hexdigest()[:16]}-block0.safetensors"


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


def page_seeds() -> list[Parts]:
    """Records of two runs, of the suites that tables have places for."""
    found: list[Parts] = []
    for suite, view in (("paper", None), ("quick", None), ("appendix", "member1")):
        attacks = {name: [True, True, False, True] for name in suite_of(suite).attacks[:3]}
        parts = []
        for seed in (0, 1):
            record, _ = make_record([True] * 3 + [False], attacks, suite=suite, seeds=(seed,), recipe="ensemble2adv")
            first = replace(record.attacks[0], curve=(1.0, 0.5), settings={"steps": 5, "stages": [{"steps": 2}]})
            changed = {"attacks": (first, *record.attacks[1:]), "training": {"steps": 5, "eps": 0.1, "changes": {}}}
            model = record.model if view is None or seed else f"{record.model}#{view}"
            made = replace(record, **changed, model=model, view=None if seed else view)
            parts.append(to_json(made).encode())
        found.append(tuple(parts))
    return found


environment = functools.cache(build._environment)  # compiling the templates takes longest


def read_pages(folder: Path) -> None:
    """Put the records of runs on pages and into tables."""
    tables = WHOLE - {*FIGURES["2"], *FIGURES["3"], *FIGURES["eps"]}
    with mock.patch.object(build, "_environment", environment):
        each(
            lambda: build.build_site(folder / "runs", folder / "site"),
            lambda: write_leaderboard(folder / "runs", folder / "leaderboard.csv"),
            lambda: write_report(folder / "runs", folder / "report", parts=tables),
        )


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


@functools.cache
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


TARGETS = (
    Target(
        name="record",
        files={"record.json": "json"},
        seeds=record_seeds,
        read=read_the_record,
        errors=(RecordError,),
        seal=lambda parts: (self_sealed(parts[0]),),
    ),
    Target(
        name="pages",
        files={f"runs/{run}/evaluations/one/record.json": "json" for run in ("a", "b")},
        seeds=page_seeds,
        read=read_pages,
        errors=(RecordError,),
        quick=30,
    ),
    Target(
        name="samples",
        files={"record.json": "json", "samples.parquet": "parquet"},
        seeds=sample_seeds,
        read=read_the_samples,
        errors=(RecordError,),
        seal=samples_sealed,
    ),
    Target(
        name="journal",
        files={"journal.jsonl": "lines", "journal-block0.jsonl": "lines", IMAGES_FILE: "safetensors"},
        seeds=journal_seeds,
        read=lambda folder: scored(folder / "journal.jsonl"),
        errors=(),
        seal=journal_sealed,
        quick=60,
    ),
)
