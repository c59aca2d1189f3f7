"""Bad inputs to the command line and to Python, and what each gets: one line that names the value, and the choices."""

import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from small_models import ARCHITECTURE, images, trained

import ensemble_bench as eb
from ensemble_bench.cli import app, run
from ensemble_bench.errors import EnsembleBenchError
from ensemble_bench.models import checkpoint

RECIPES, SUITES, PRESETS = "choose from baseline, doubleadv", "appendix, autoattack", "choose from cpu, modern"

# A command, and the texts that its one line holds: the value, and the valid choices where there are finitely many.
# {run} is a run folder, {empty} an empty one.
COMMANDS: dict[str, tuple[str, ...]] = {
    # What no command is
    "trian": ("'trian'", "'train'"),
    "--versoin": ("--versoin", "--version"),
    "-x": ("-x",),
    "version extra": ("extra",),
    "list recipies": ("'recipies'", "did you mean recipes", "attacks, backbones"),
    "list recipes extra": ("extra",),
    "doctor --nope": ("--nope", "doctor --help"),
    "demo extra": ("extra",),
    "demo --out": ("--out", "requires an argument"),
    # Training
    "train": ("RECIPE", "train --help"),
    "train nope": ("'nope'", RECIPES),
    "train ensemble2avd": ("'ensemble2avd'", "did you mean ensemble2adv", RECIPES),
    "train ''": ("unknown recipe ''", RECIPES),
    "train baseline extra": ("'extra'", RECIPES),
    "train baseline --sed 1": ("--sed", "--seed"),
    "train baseline --max-steps -1": ("--max-steps", "'-1'", "1"),
    "train baseline --max-steps=0": ("--max-steps", "'0'", "1"),
    "train baseline --max-steps many": ("--max-steps", "'many'", "integer"),
    "train baseline --seed -1": ("--seed", "'-1'", "0"),
    "train baseline --seed 1.5": ("--seed", "'1.5'", "integer"),
    "train baseline --seeds 3-1": ("'3-1'", "0-2"),
    "train baseline --seeds x": ("'x'", "0-2"),
    "train baseline --seeds 0-1 --seed 2": ("--seed 2", "--seeds 0-1", "choose one"),
    "train baseline --seeds 0,1 --out x": ("'x'", "--runs"),
    "train baseline --threads 0": ("--threads", "'0'", "1"),
    "train baseline --threads 1000000": ("1000000", "1 to 1024"),
    "train baseline --preset tinny": ("'tinny'", "did you mean tiny", PRESETS),
    "train baseline --dataset digit": (
        "'digit'",
        "did you mean digits",
        "choose from cifar10, cifar100, digits, folder:PATH",
    ),
    "train baseline --dataset ''": ("data set ''", "choose from cifar10, cifar100, digits, folder:PATH"),
    "train baseline --dataset folder:{empty}/none": ("{empty}/none does not exist", "train/<class>/"),
    "train baseline --dataset npz:{empty}/none.npz": ("cannot read {empty}/none.npz",),
    "train baseline --dataset parquet:{empty}": ("{empty} holds no .parquet files",),
    "train baseline --resize 8": ("--resize is for images of a folder:PATH", "digits has a size"),
    "evaluate {run} --crop 8": ("--crop go with --dataset",),
    "train doubleadv --members 3": ("members is 3", "doubleadv is one wider network"),
    "train baseline --objective trades": ("'trades'", "baseline attacks nothing"),
    "compare {run} ''": ("the argument is ''", "expected a path"),
    "submit '' --to {empty}": ("the argument is ''", "expected a path"),
    "leaderboard gallery ''": ("the argument is ''", "expected a path"),
    "train singleadv separate2adv --match flops": ("'flops'", "singleadv, separate2adv widens no", "doubleadv"),
    "train baseline ensemble2 --train-attack nfgsm": ("'nfgsm'", "baseline, ensemble2 trains against no attack"),
    "train doubleadv --match parms": ("'parms'", "choose from flops, paper, params"),
    "train baseline --objective mean": ("'mean'", "choose from adp, ensemble, mart, member-mean, trades"),
    "train singleadv --train-attack ifgsm": ("'ifgsm'", "choose from ifgsm7, nfgsm"),
    "train singleadv --eps 0": ("eps is '0'", "8/255"),
    "train singleadv --eps=-8/255": ("eps is '-8/255'", "positive"),
    "train singleadv --eps 8/0": ("eps is '8/0'", "positive"),
    "train singleadv --eps nan": ("eps is 'nan'", "positive"),
    "train singleadv --eps abc": ("eps is 'abc'", "positive"),
    "train singleadv --eps 8": ("eps is 8.0", "at most 1"),
    "train baseline --device gpu": ("'gpu'", "cpu, cuda or cuda:N"),
    "train baseline --device cuda:99": ("'cuda:99'", "CUDA devices"),
    "train baseline --device ''": ("device is ''", "cpu, cuda or cuda:N"),
    "train baseline --out ''": ("--out is ''", "expected a path"),
    "train baseline --runs=": ("--runs is ''", "expected a path"),
    "train baseline --runs": ("--runs", "requires an argument"),
    "train baseline --out {run}/best.json": ("best.json", "choose another --out"),
    "train baseline --out {run}/best.json/x": ("best.json/x", "no folder"),
    "train baseline --resume=yes": ("--resume", "value"),
    "train baseline --set learning_rate": ("'learning_rate'", "NAME=VALUE"),
    "train baseline --set learning_rate=fast": ("learning_rate is 'fast'", "a number"),
    "train baseline --set learning_rate=-1": ("learning_rate is -1", "more than 0"),
    "train baseline --set learning_rate=nan": ("learning_rate is nan", "more than 0"),
    "train baseline --set lerning_rate=1": ("'lerning_rate'", "did you mean learning_rate", "batch_size"),
    "train baseline --set momentum=1": ("momentum is 1.0", "less than 1"),
    "train baseline --set batch_size=1.5": ("batch_size is '1.5'", "a whole number"),
    "train baseline --set batch_size=100000": ("batch_size is 100000", "1293"),
    "train baseline --set schedule=linear": ("'linear'", "choose from cyclic, staircase"),
    "train baseline --set precision=fp16": ("'fp16'", "choose from auto, bf16, float32"),
    "train baseline --set network.backbone=resnet": ("'resnet'", "preact_resnet18, small_cnn"),
    "train baseline --set network.width=1000": ("width is 1000", "0.0625 to 64"),
    "train baseline --set steps=3 --set epochs=2": ("steps and epochs", "choose one"),
    "train baseline --set momentum=0 --set momentum=1": ("momentum", "'0' and '1'"),
    "train baseline --dataset cifar10 --data-dir nowhere": ("nowhere", "does not exist"),
    # Evaluation
    "evaluate missing": ("missing", "does not exist", "a run folder"),
    "evaluate ''": ("model ''", "a run folder"),
    "evaluate +": ("model '+'", "a run folder"),
    "evaluate {empty}": ("{empty}", "no checkpoint"),
    "evaluate --runs nowhere": ("nowhere", "ensemble-bench train"),
    "evaluate os:nothing --dataset digits": ("os:nothing", "no attribute"),
    "evaluate os:path --dataset digits": ("os:path", "torch.nn.Module"),
    "evaluate {run} --suite papr": ("'papr'", "did you mean paper", SUITES),
    "evaluate {run} --suite quick+": ("'quick+'", SUITES),
    "evaluate {run} --suite pgd0": ("'pgd0'", SUITES),
    "evaluate {run} --suite quick@art": ("'quick@art'",),
    "evaluate {run} --suite ifgsm5@nope": ("'nope'", "choose from"),
    "evaluate {run} --suite torchattacks:NOPE": ("'NOPE'", "choose from APGD"),
    "evaluate {run} --suite 'torchattacks:DIFGSM('": ("'torchattacks:DIFGSM('", "argument=value"),
    "evaluate {run} --suite 'torchattacks:DIFGSM(step=3)'": ("'step'", "steps"),
    "evaluate {run} --suite blackbox --no-blackbox": ("'blackbox'", "nothing is left"),
    "evaluate {run} --blackbox a.safetensors --no-blackbox": ("a.safetensors", "give one"),
    "evaluate {run} --suite blackbox --blackbox a.safetensors": ("a.json", "blackbox build"),
    "evaluate {run} --n 0": ("--n", "'0'", "1"),
    "evaluate {run} --n many": ("--n", "'many'", "integer"),
    "evaluate {run} --n 361 --suite quick": ("361", "1 to 360"),
    "evaluate {run} --split tset": ("'tset'", "choose from test, train, validation"),
    "evaluate {run} --norm l1": ("'l1'", "linf"),
    "evaluate {run} --eps 8/255,": ("'8/255,'", "8/255"),
    "evaluate {run} --batch-size 0": ("--batch-size", "'0'", "1"),
    "evaluate {run} --precision fp16": ("'fp16'", "float32, bf16"),
    "evaluate {run} --save-images a.npz": ("'a.npz'", ".safetensors"),
    "evaluate {run} --workers 0": ("--workers", "'0'", "1"),
    "evaluate {run} --gpus -1": ("--gpus", "'-1'", "0"),
    "evaluate {run} --gpus 1": ("gpus is 1.0", "--ray"),
    "evaluate {run} --workers 2": ("workers is 2", "--ray"),
    "evaluate {run} --suite quick --blackbox a.safetensors": ("'a.safetensors'", "quick has no black-box attack"),
    "evaluate {run} --dataset cifar": ("'cifar'", "did you mean cifar10"),
    # What is made of results
    "report": ("runs", "no such directory"),
    "report --table 9": ("'9'", "choose from 1, 2, classes"),
    "report --figure 9": ("'9'", "choose from 2, 3, cost, eps"),
    "report --tabel 1": ("--tabel", "--table"),
    "compare": ("models", "compare --help"),
    "compare nowhere nothing": ("nowhere", "does not exist"),
    "compare {empty}": ("{empty}", "no record"),
    "diagnose": ("'model'", "diagnose --help"),
    "diagnose {run} --attack pgd": ("'pgd'", "did you mean pgd20"),
    "diagnose {run}": ("{run}", "one member"),
    "leaderboard bild": ("'bild'", "'build'"),
    "leaderboard build --root nowhere": ("nowhere", "no such directory"),
    "leaderboard build --root ''": ("--root is ''", "expected a path"),
    # Black-box sets, submissions, the service, the experiment
    "blackbox build --dataset digitz": ("'digitz'", "choose from cifar10, cifar100, digits, folder:PATH"),
    "blackbox build --preset nope": ("'nope'", PRESETS),
    "blackbox build --n 100000": ("n is 100000", "1 to 360"),
    "blackbox build --eps 0": ("eps is '0'", "positive"),
    "blackbox bild": ("'bild'", "'build'"),
    "bundle nowhere": ("nowhere", "does not exist"),
    "bundle {run} --checkpoint bset": ("'bset'", "choose from averaged, best, last"),
    "bundle {run}/best.safetensors --checkpoint last": ("'last'", "best.safetensors is another"),
    "bundle {run} --name ''": ("name is ''", "letters, digits"),
    "bundle {run} --name 'a b'": ("'a b'", "letters, digits"),
    "verify nowhere": ("nowhere", "does not exist"),
    "verify nowhere --n 0": ("--n", "'0'", "1"),
    "submit {run}": ("--to",),
    "submit {run} --to ftp://x": ("'ftp://x'", "expected a folder, http://"),
    "submit {run} --to ''": ("--to is ''", "expected a path"),
    "submit {run} --to https://example.org --suite quick": ("--suite", "'https://example.org'", "an upload service"),
    "submit {run} --to http://localhost:8000 --runs runs": ("--runs", "an upload service has no use for it"),
    "submit {run} --to hf://me/mine --wait": ("--wait", "the Hub has no use for it"),
    "submit {run} --to hf://me/mine --n 5": ("--n is given", "the Hub has no use for it"),
    "submit {run} --to boards --token eb_x": ("--token is given", "'boards'", "a folder has no use for it"),
    "serve --port 99999": ("--port", "'99999'", "65535"),
    "serve --hours nan": ("hours is nan", "more than 0"),
    "serve token create": ("NAME", "create --help"),
    "serve token create 'a b' --data {empty}": ("'a b'", "expected"),
    "serve --data {empty} token create alice": ("--data stands before token", "serve token list --data FOLDER"),
    "serve --no-worker token list": ("--worker stands before token",),
    "reproduce --preset nope": ("'nope'", PRESETS),
    "reproduce --seeds 0": ("seeds is '0'", "at least 1", "0-2"),
    "reproduce --seeds 1-3": ("seeds is '1-3'", "from 0 on"),
    "reproduce --seeds 0,2": ("seeds is '0,2'", "from 0 on"),
    "reproduce --recipes baseline,nope": ("'nope'", RECIPES),
    "reproduce --gpus 1": ("gpus is 1.0", "--ray"),
    "reproduce --dry-run --gpus 1": ("gpus is 1.0", "--ray"),
}


def attack(name: Any = "pgd5", /, x: Any = None, y: Any = None, threat: Any = None, **settings: Any) -> Any:
    """An attack called on four digits, or on what is given instead."""
    images_x, images_y = images(4)
    made = eb.attacks.get(name, **settings)
    return made(
        trained(),
        images_x if x is None else x,
        images_y if y is None else y,
        eb.ThreatModel(eps=0.1) if threat is None else threat,
    )


def evaluate(**options: Any) -> Any:
    return eb.evaluate(options.pop("model", trained()), **{"n": 4, "suite": "ifgsm1", **options})


CALLS: dict[str, tuple[Callable[[], Any], tuple[str, ...]]] = {
    "train(3)": (lambda: eb.train(3), ("recipe 3", RECIPES)),  # type: ignore[arg-type]
    "train(preset=None)": (lambda: eb.train("baseline", preset=None), ("preset None", PRESETS)),  # type: ignore[arg-type]
    "train(max_steps=0)": (lambda: eb.train("baseline", max_steps=0), ("max_steps is 0", "1 or more")),
    "train(max_steps=1.5)": (lambda: eb.train("baseline", max_steps=1.5), ("max_steps is 1.5", "whole")),  # type: ignore[arg-type]
    "train(seed='0')": (lambda: eb.train("baseline", seed="0"), ("seed is '0'", "whole number, 0 or more")),  # type: ignore[arg-type]
    "train(seed=True)": (lambda: eb.train("baseline", seed=True), ("seed is True", "whole number")),
    "train(threads=1.5)": (lambda: eb.train("baseline", threads=1.5), ("threads is 1.5", "whole")),  # type: ignore[arg-type]
    "train(threads=10**6)": (lambda: eb.train("baseline", threads=10**6), ("1000000", "1 to 1024")),
    "train(settings=['a'])": (lambda: eb.train("baseline", settings=["a"]), ("settings is a list", "Mapping")),  # type: ignore[arg-type]
    "train(settings={'x': 1})": (lambda: eb.train("baseline", settings={"x": 1}), ("'x'", "learning_rate")),
    "train(eps='8/255')": (lambda: eb.train("singleadv", eps="8/255"), ("eps is '8/255'", "number")),  # type: ignore[arg-type]
    "load('missing')": (lambda: eb.load("missing"), ("missing", "a run folder")),
    "load(3)": (lambda: eb.load(3), ("source is 3", "a text or a path")),  # type: ignore[arg-type]
    "load(arch='wrn')": (lambda: eb.load(__file__, arch="wrn", dataset="digits"), ("'wrn'", "wrn-16-4")),
    "load(normalise='x')": (
        lambda: eb.load(__file__, arch="small_cnn", normalise="x", dataset="digits"),
        ("'x'", "dataset, none, pretrained"),
    ),
    "evaluate('run')": (lambda: eb.evaluate("run"), ("str", "torch.nn.Module")),  # type: ignore[arg-type]
    "evaluate(n='4')": (lambda: evaluate(n="4"), ("n is '4'", "1 to 360")),
    "evaluate(n=1.5)": (lambda: evaluate(n=1.5), ("n is 1.5", "1 to 360")),
    "evaluate(seed=-1)": (lambda: evaluate(seed=-1), ("seed is -1", "0 or more")),
    "evaluate(seed=1.5)": (lambda: evaluate(seed=1.5), ("seed is 1.5", "whole number")),
    "evaluate(batch_size=1.5)": (lambda: evaluate(batch_size=1.5), ("batch_size is 1.5", "whole number")),
    "evaluate(suite=3)": (lambda: evaluate(suite=3), ("suite is a int", "a name, a Suite or an Attack")),
    "evaluate(suite='')": (lambda: evaluate(suite=""), ("unknown suite ''", SUITES)),
    "evaluate(threat=0.1)": (lambda: evaluate(threat=0.1), ("float", "ThreatModel")),
    "evaluate(dataset='mnist')": (lambda: evaluate(dataset="mnist"), ("'mnist'", "cifar10, cifar100, digits")),
    "evaluate(out=file)": (lambda: evaluate(out=__file__), (Path(__file__).name, "no folder")),
    "evaluate(model of other images)": (
        lambda: evaluate(model=torch.nn.Linear(3, 2)),
        ("(1, 8, 8)", "shapes cannot be multiplied"),
    ),
    "ThreatModel(norm='l1')": (lambda: eb.ThreatModel(norm="l1"), ("'l1'", "linf, l2")),
    "ThreatModel(eps='8/255')": (lambda: eb.ThreatModel(eps="8/255"), ("'8/255'", "number")),  # type: ignore[arg-type]
    "get(3)": (lambda: attack(3), ("attack is 3", "a name")),
    "get('pdg20')": (lambda: attack("pdg20"), ("'pdg20'", "did you mean pgd20")),
    "get(stepsize=1)": (lambda: attack(stepsize=1), ("'stepsize'", "learning_rate, loss")),
    "get(steps=0)": (lambda: attack(steps=0), ("'steps'", "learning_rate, loss")),
    "attack(x=numpy)": (lambda: attack(x=images(4)[0].numpy()), ("x is a ndarray", "Tensor")),
    "attack(x=255)": (lambda: attack(x=images(4)[0] * 255), ("[0, 255]", "[0, 1]")),
    "attack(y=far)": (lambda: attack(y=images(4)[1] + 100), ("102", "0 to 9")),
    "attack(threat=0.1)": (lambda: attack(threat=0.1), ("float", "ThreatModel")),
    "data.load(n='4')": (lambda: eb.data.load("digits", n="4"), ("n is '4'", "1 to 360")),  # type: ignore[arg-type]
    "data.load(split='tset')": (lambda: eb.data.load("digits", split="tset"), ("'tset'", "test, train, validation")),
    "Ensemble([1])": (lambda: eb.Ensemble([1]), ("int", "torch.nn.Module")),  # type: ignore[list-item]
    "Ensemble(aggregation='mean')": (
        lambda: eb.Ensemble([trained()], aggregation="mean"),
        ("'mean'", "draw, logit, prob, vote"),
    ),
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("bad-inputs")
    (root / "empty").mkdir()
    meta = {"recipe": "singleadv", "preset": "tiny", "dataset": "digits", "threat": {"norm": "linf", "eps": 32 / 255}}
    checkpoint.save(root / "run" / "best.safetensors", trained(), ARCHITECTURE, meta)
    return {"run": root / "run", "empty": root / "empty"}


@pytest.mark.parametrize("command", COMMANDS)
def test_a_bad_command_is_one_line(
    command: str,
    folders: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(shlex.split(command.format(**folders))) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert re.fullmatch(r"ensemble-bench: [^\n]+\n", captured.err), captured.err
    for text in COMMANDS[command]:
        assert text.format(**folders) in captured.err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("call", CALLS)
def test_a_bad_call_is_an_error_of_the_users(call: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    made, texts = CALLS[call]
    with pytest.raises(EnsembleBenchError) as found:
        made()
    message = str(found.value)
    assert "\n" not in message
    assert [text for text in texts if text not in message] == [], message
    assert list(tmp_path.iterdir()) == []


def test_every_command_is_in_the_table() -> None:
    known = [*app.registered_commands, *app.registered_groups]
    names = {command.name or getattr(command.callback, "__name__", "") for command in known}
    assert names <= {command.split()[0] for command in COMMANDS}
    assert len(COMMANDS) + len(CALLS) >= 60
