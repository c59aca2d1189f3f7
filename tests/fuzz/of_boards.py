"""Targets: what strangers submit, and what boards hold."""

import functools
import io
import json
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from mutating import Parts
from synthetic_runs import make_record, write
from target import GATED, META, SMALL, Target, each, marked, scratch, self_sealed

from ensemble_bench.errors import BundleError, RecordError
from ensemble_bench.leaderboard.gallery import Gallery, Picture, as_png, read_gallery, write_gallery
from ensemble_bench.leaderboard.model_info import read as read_model_info
from ensemble_bench.leaderboard.model_info import read_corruptions
from ensemble_bench.leaderboard.model_info import to_json as model_info_json
from ensemble_bench.leaderboard.rules import Rules, read_rules, write_rules
from ensemble_bench.leaderboard.verified import Verdict, Verified, read_verified
from ensemble_bench.models import checkpoint
from ensemble_bench.models.build import build
from ensemble_bench.records import NamedWarning, Threat
from ensemble_bench.submissions.bundling import bundle
from ensemble_bench.submissions.format.archive import FILES, pack
from ensemble_bench.submissions.format.bundle import unpack
from ensemble_bench.submissions.format.claims import parse
from ensemble_bench.submissions.format.limits import Limits
from ensemble_bench.submissions.format.untrusted import parse_json
from ensemble_bench.submissions.price import batch_in, check_price

LIMITS = Limits(max_bytes=2**22, max_unpacked_bytes=2**22, max_text_bytes=2**20)


TEXTS = dict(zip(FILES, ("json", "safetensors", "json", "json", "bytes"), strict=True))


@dataclass(frozen=True, kw_only=True)
class Packed(Target):
    """A bundle's files, in a .zip without a fault of its own."""

    def write(self, parts: Parts, folder: Path) -> None:
        (folder / "upload.zip").write_bytes(zipped(parts))


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


def read_claims(folder: Path) -> None:
    found = parse(parse_json((folder / "claims.json").read_bytes(), "claims.json"), LIMITS)
    assert parse(found.as_dict(), LIMITS) == found


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


TARGETS = (
    Packed(
        name="bundle",
        files=TEXTS,
        seeds=lambda: [tuple(files[name] for name in FILES) for files in bundles()],
        read=read_bundle,
        errors=(BundleError,),
    ),
    Target(name="zip", files={"upload.zip": "zip"}, seeds=packed, read=read_bundle, errors=(BundleError,)),
    Target(
        name="claims",
        files={"claims.json": "json"},
        seeds=lambda: [(files["claims.json"],) for files in bundles()],
        read=read_claims,
        errors=(BundleError,),
    ),
    Target(
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
    ),
)
