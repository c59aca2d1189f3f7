"""Adversarial images of an evaluation as files: float32 safetensors, or PNG files that the model is shown again."""

import hashlib
import json
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ensemble_bench.attacks import engine
from ensemble_bench.errors import InvalidValueError
from ensemble_bench.evaluation.job import Job
from ensemble_bench.evaluation.journal import Journal, fallen_in
from ensemble_bench.evaluation.lattice import LEVELS, eight_bit
from ensemble_bench.evaluation.scoring import Scores
from ensemble_bench.files import atomic_file, new_folder, sha256_file, write_atomic
from ensemble_bench.models import calling
from ensemble_bench.records import Record, SavedImages
from ensemble_bench.records.csv_text import csv_text

SUFFIX = ".safetensors"
MODEL = "{model}"
"""Part of a path that the name of the model takes the place of."""
ABOUT_FILE, TABLE_FILE = "images.json", "images.csv"
ABOUT = ("model", "weights_hash", "data_name", "data_hash", "split", "n", "threat", "suite", "seed")
COLUMNS = ("file", "id", "label", "broken", "broken_by", "prediction", "in_ball")
CLEAN = "clean"
"""What broke an image that the model gets wrong without an attack."""
OTHER_FILES = (".png", ".jpg", ".jpeg", ".pt", ".pth", ".npy", ".npz", ".csv", ".parquet", ".zip", ".h5", ".json")


def target_of(path: str | Path, model: str) -> Path:
    """Where the images of a model go: `path`, with the model's name, as file names hold it, for "{model}"."""
    return Path(str(path).replace(MODEL, re.sub(r"[^\w.+-]+", "-", model).strip("-.")))


def place_of(path: str | Path | None, model: str) -> Path | None:
    """As `target_of`, None for None; raises InvalidValueError as `check_choice` for one evaluation."""
    if path is None:
        return None
    check_choice(path, evaluations=1, sizes=1)
    return target_of(path, model)


def check_choice(path: str | Path, *, evaluations: int, sizes: int) -> None:
    """Raise InvalidValueError for a `path` that cannot hold the images of so many evaluations at so many eps."""
    if Path(path).suffix.lower() in OTHER_FILES:
        raise InvalidValueError(
            f"save_images is {str(path)!r}: expected a {SUFFIX} file, for float32, or a folder, for PNG files"
        )
    if sizes > 1:
        raise InvalidValueError(
            f"save_images is {str(path)!r}, with {sizes} eps: images of one eps are saved; give one eps"
        )
    if evaluations > 1 and MODEL not in str(path):
        example = Path(path).with_name(f"{Path(path).stem}-{MODEL}{Path(path).suffix}")
        raise InvalidValueError(
            f"save_images is {str(path)!r}, for more than one evaluation: put {MODEL} where each one's name goes, "
            f"such as {example}"
        )


def are_there(path: Path, record: Record) -> bool:
    """Whether the images of a finished evaluation lie at `path` as they were saved."""
    if record.images is None or record.images.format != _format(path) or _evaluation(path) != record.id:
        return False
    return _hash(path) == record.images.hash


def check_target(path: Path, evaluation: str | None, *, channels: int) -> None:
    """Raise InvalidValueError unless the images of an evaluation, of so many channels, can be written to `path`.

    What lies there of another evaluation, or is something else, is never overwritten. None: of some evaluation, whose
    id is not known yet.
    """
    if _format(path) == "png" and channels not in (1, 3):
        raise InvalidValueError(
            f"save_images is {str(path)!r}: PNG files have 1 or 3 channels, the images {channels}: name a {SUFFIX} file"
        )
    there = path.exists() and (not path.is_dir() or any(path.iterdir()))
    if there and ((found := _evaluation(path)) is None or evaluation not in (None, found)):
        raise InvalidValueError(f"{path} exists and does not hold images of this evaluation: name another place")


@dataclass(frozen=True, kw_only=True, eq=False)
class _Block:
    """Some images: as they were attacked, as 8-bit levels, and what the model makes of these."""

    rows: slice
    ids: Tensor
    labels: Tensor
    x_adv: Tensor
    wrong: Tensor
    levels: NDArray[np.uint8]
    prediction: Tensor
    in_ball: Tensor


def save(path: Path, job: Job, scores: Scores, journal: Journal, record: Record) -> SavedImages:
    """Write the adversarial images that a `journal` kept, with labels and what broke each, to `path`.

    An image that no attack broke is the clean one. All are checked against the threat model, and shown to the model
    again as they are and as 8-bit images. What the `record` says of model, data and threat is written beside them.
    Raises AttackError for an image that leaves the ball.
    """
    values = record.as_dict()
    info = {"evaluation": record.id, **{name: values[name] for name in ABOUT}}
    fell = scores.samples["broken_by"].notna().to_numpy(dtype=bool, copy=True)
    confirmed = rounded = 0

    def counted() -> Iterator[_Block]:
        nonlocal confirmed, rounded
        for block in _blocks(job, scores, journal):
            mine = torch.from_numpy(fell[block.rows])
            confirmed += int((mine & block.wrong).sum())
            rounded += int((mine & block.in_ball & (block.prediction != block.labels)).sum())
            job.progress(f"{job.label} images", block.rows.stop, len(job.images))
            yield block

    kind = _format(path)
    (_write_png if kind == "png" else _write_tensors)(path, counted(), job, scores, info)
    return SavedImages(format=kind, hash=_hash(path), broken=int(fell.sum()), confirmed=confirmed, rounded=rounded)


def _blocks(job: Job, scores: Scores, journal: Journal) -> Iterator[_Block]:
    for index, rows in enumerate(job.blocks):
        x, y, ids = job.load(rows)
        x_adv = x.clone()
        for stage in dict.fromkeys(name for name in scores.fell_at[rows] if name is not None):
            entry = journal.get(stage, index)
            assert entry is not None  # without its images it would have been made again
            x_adv[fallen_in(entry)] = torch.from_numpy(journal.images(stage, index)).to(x_adv)
        job.threat.check(x_adv, x)
        levels, in_ball = eight_bit(x_adv, x, job.threat)
        shown = levels.to(torch.float32).div(LEVELS).to(x)
        job.threat.check(shown[in_ball], x[in_ball])
        with calling.frozen(job.model):
            worker = engine.Worker(job.model, job.budget.batch_size)
            wrong, _ = worker.decide(x_adv, y)
            prediction = worker.logits(shown, y).argmax(dim=1)
        yield _Block(
            rows=rows,
            ids=ids,
            labels=y.cpu(),
            x_adv=x_adv.cpu(),
            wrong=wrong.cpu(),
            levels=levels.cpu().numpy(),
            prediction=prediction.cpu(),
            in_ball=in_ball.cpu(),
        )


def _broken_by(scores: Scores) -> list[str]:
    """What broke every image: the name of an attack, "clean" for one that is wrong without, "" for one that stands."""
    columns = (scores.samples[name] for name in ("clean", "broken_by"))
    return [by if isinstance(by, str) else "" if clean else CLEAN for clean, by in zip(*columns, strict=True)]


def _write_tensors(path: Path, blocks: Iterator[_Block], job: Job, scores: Scores, info: Mapping[str, Any]) -> None:
    """One safetensors file, block by block: x_adv need not fit into memory twice, nor once."""
    by = _broken_by(scores)
    names = ["", CLEAN, *(attack.name for attack in job.attacks)]
    numbers = {
        "ids": job.images.ids.numpy().astype("<i8"),
        "labels": job.images.labels.numpy().astype("<i8"),
        "broken_by": np.array([names.index(name) for name in by], dtype="<i8"),
    }
    broken = np.array([name != "" for name in by], dtype=np.bool_)
    shape = [len(by), *job.images.images.shape[1:]]
    parts: list[tuple[str, str, list[int], int]] = [
        *((name, "I64", [len(by)], value.nbytes) for name, value in numbers.items()),
        ("x_adv", "F32", shape, 4 * int(np.prod(shape))),
        ("broken", "BOOL", [len(by)], broken.nbytes),
    ]
    # One entry of metadata, since several would come in any order.
    about = {"info": json.dumps({**info, "format": "float32", "broken_by": names}, sort_keys=True)}
    header: dict[str, Any] = {"__metadata__": about}
    start = 0
    for name, kind, dimensions, size in parts:
        header[name] = {"dtype": kind, "shape": dimensions, "data_offsets": [start, start + size]}
        start += size
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with atomic_file(path) as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for value in numbers.values():
            file.write(value.tobytes())
        for block in blocks:
            file.write(block.x_adv.numpy().astype("<f4").tobytes())
        file.write(broken.tobytes())


def _write_png(path: Path, blocks: Iterator[_Block], job: Job, scores: Scores, info: Mapping[str, Any]) -> None:
    """A folder of PNG files named by the ids of their images, a table of these, and `info`."""
    by, rows = _broken_by(scores), list[Sequence[object]]([COLUMNS])
    with new_folder(path) as folder:
        for block in blocks:
            told = zip(block.ids.tolist(), block.labels.tolist(), by[block.rows], block.levels, strict=True)
            for (image, label, name, levels), prediction, inside in zip(
                told, block.prediction.tolist(), block.in_ball.tolist(), strict=True
            ):
                pixels = levels[0] if len(levels) == 1 else levels.transpose(1, 2, 0)
                file = f"{image:06}.png"
                Image.fromarray(np.ascontiguousarray(pixels)).save(folder / file, format="PNG")
                broken = int(inside and prediction != label)
                rows.append((file, image, label, broken, name, prediction, int(inside)))
        write_atomic(folder / TABLE_FILE, csv_text(rows))
        write_atomic(folder / ABOUT_FILE, json.dumps({**info, "format": "png"}, sort_keys=True, indent=2) + "\n")
        if path.exists():  # of the same evaluation, or empty: check_target lets nothing else pass
            shutil.rmtree(path)


def _format(path: Path) -> str:
    return "float32" if path.suffix == SUFFIX else "png"


def _evaluation(path: Path) -> str | None:
    """Id of the evaluation whose images lie at `path`; None where none do."""
    try:
        if _format(path) == "png":
            return str(json.loads((path / ABOUT_FILE).read_text(encoding="utf-8"))["evaluation"])
        with safe_open(path, framework="np") as file:
            return str(json.loads(file.metadata()["info"])["evaluation"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError, SafetensorError):
        return None


def _hash(path: Path) -> str:
    """Hash of the file, or of a folder's PNG files one after the other."""
    if _format(path) == "float32":
        return sha256_file(path)
    digest = hashlib.sha256()
    for file in sorted(path.glob("*.png")):
        digest.update(file.read_bytes())
    return f"sha256:{digest.hexdigest()}"
