"""Targets: checkpoints, resume points, weights of other projects, black-box sets."""

import functools
import io
import json
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from mutating import Parts
from small_models import perceptron
from target import GATED, META, SMALL, Target, digits, each, header_of, marked, put, scratch, self_sealed, with_header

from ensemble_bench.attacks import get
from ensemble_bench.attacks.blackbox.blackbox_set import load_blackbox, save_blackbox
from ensemble_bench.errors import AttackError, CheckpointError, DataError, InvalidValueError
from ensemble_bench.files import sha256_bytes
from ensemble_bench.models import checkpoint, state_dict
from ensemble_bench.models.build import build, skeleton
from ensemble_bench.records import Surrogate
from ensemble_bench.training import state
from ensemble_bench.training.optimizer import sgd
from ensemble_bench.training.presets import PRESETS


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
    """The weights of another project in both formats; torch's alone, and in a checkpoint."""
    weights = perceptron(0).state_dict()
    found: list[Parts] = []
    for content in (weights, {"state_dict": weights, "epoch": 3}):
        out = io.BytesIO()
        torch.save(content, out)
        found.append((safetensors.torch.save(weights), out.getvalue()))
    return found


def read_weights(folder: Path) -> None:
    def read(path: Path) -> None:
        state_dict.fill(perceptron(1), state_dict.read(path), path)

    each(lambda: read(folder / "theirs.safetensors"), lambda: read(folder / "theirs.pt"))


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
    for network in found.info["surrogates"]:
        Surrogate(backbone=network["backbone"], accuracy=network["accuracy"])
    assert str(found.threat)
    x, y = digits().batch(slice(5))
    get("blackbox", path=path).run(perceptron(0), x, y, found.threat, ids=torch.arange(5))


TARGETS = (
    Target(
        name="checkpoint",
        files={"best.json": "json", "best.safetensors": "safetensors"},
        seeds=checkpoint_seeds,
        read=lambda folder: checkpoint.load(folder / "best.safetensors"),
        errors=(CheckpointError,),
        seal=checkpoint_sealed,
    ),
    Target(
        name="resume",
        files={"resume.safetensors": "safetensors"},
        seeds=resume_seeds,
        read=read_resume,
        errors=(CheckpointError,),
        seal=resume_sealed,
    ),
    Target(
        name="weights",
        files={"theirs.safetensors": "safetensors", "theirs.pt": "zip"},
        seeds=weights_seeds,
        read=read_weights,
        errors=(CheckpointError,),
    ),
    Target(
        name="blackbox",
        files={"set.json": "json", "set.safetensors": "safetensors"},
        seeds=blackbox_seeds,
        read=read_blackbox,
        errors=(DataError, InvalidValueError, AttackError),
        seal=blackbox_sealed,
    ),
)
