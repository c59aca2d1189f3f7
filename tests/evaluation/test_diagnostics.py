"""Member diagnostics against closed forms on linear members, and against a plain recomputation on trained ones."""

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from small_models import ARCHITECTURE, Linear, images, trained
from torch import Tensor, nn
from torch.nn import functional as F

from ensemble_bench import attacks
from ensemble_bench.data import open_source
from ensemble_bench.errors import CheckpointError, InvalidValueError, UnknownNameError
from ensemble_bench.evaluation.diagnostics import diagnose
from ensemble_bench.models import checkpoint
from ensemble_bench.models.ensemble import Ensemble
from ensemble_bench.records import Threat
from ensemble_bench.records.diagnosis import ENSEMBLE, QUANTITIES, Diagnosis, member, without
from ensemble_bench.threat import ThreatModel

N = 32
EPS = 0.1
THREAT = ThreatModel(eps=EPS)


class Gate(nn.Module):
    """Linear gate that prefers other members on other images."""

    def __init__(self, members: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(5)
        self.weight = nn.Parameter(torch.randn(members, 64, generator=generator))

    def forward(self, x: Tensor) -> Tensor:
        return 2 * x.flatten(1) @ self.weight.T


def pair() -> Ensemble:
    return Ensemble(trained(members=3).members[:2]).eval()


def gated() -> Ensemble:
    return Ensemble(trained(members=3).members, gate=Gate(3)).eval()


def digits(n: int = N) -> tuple[Tensor, Tensor, Tensor]:
    images = open_source("digits").split("test").first(n)
    return *images.batch(slice(None)), images.ids


def along(direction: Tensor) -> Linear:
    """Logits (direction·x, 0, 0, …): −log p_y climbs along ∓direction on every image, down it for y = 0 alone."""
    weight = torch.zeros(10, 64)
    weight[0] = direction
    return Linear(weight, torch.zeros(10))


@pytest.fixture(scope="module")
def plain() -> Diagnosis:
    return diagnose(pair(), dataset="digits", n=N, eps=EPS)


@pytest.fixture(scope="module")
def weighted() -> Diagnosis:
    return diagnose(gated(), dataset="digits", n=N, eps=EPS)


# Closed forms


def test_cosine_of_linear_members_is_that_of_their_weights() -> None:
    x, y, _ = digits()
    a, b, c = 0.5 + torch.rand(3, 64, generator=torch.Generator().manual_seed(0))
    a, c = a * (torch.arange(64) % 8 < 4), c * (torch.arange(64) % 8 >= 4)
    # So steep that p_y rounds to 1 on the zeros, where the gradient of −log p_y in float32 is nothing.
    a, b, c = (60 * v / (x.flatten(1) @ v).max() for v in (a, b, c))
    members = [along(v) for v in (a, b, c)]
    for network in members:
        assert (network(x).softmax(1).gather(1, y[:, None]) == 1).any()
    found = diagnose(Ensemble(members), dataset="digits", n=N, attack="ifgsm2")
    for quantity in ("cosine_clean", "cosine_adversarial"):
        pairs = [(f.a, f.b, f.n) for f in found.findings if f.quantity == quantity]
        assert pairs == [("member1", "member2", N), ("member1", "member3", N), ("member2", "member3", N)]
        assert found.value(quantity, "member1", "member2") == pytest.approx(F.cosine_similarity(a, b, dim=0).item())
        assert found.value(quantity, "member1", "member3") == 0
        assert found.value(quantity, "member2", "member3") == pytest.approx(F.cosine_similarity(b, c, dim=0).item())


def test_a_flat_member_has_no_cosine() -> None:
    found = diagnose(Ensemble([along(torch.zeros(64)), along(torch.ones(64))]), dataset="digits", n=10)
    pair = found.find("cosine_clean", "member1", "member2")
    assert (pair.value, pair.n) == (None, 0)


def test_identical_members_share_everything() -> None:
    network = pair().members[0]
    found = diagnose(Ensemble([network, network]), dataset="digits", n=N, eps=EPS)
    everyone = (*found.names, ENSEMBLE)
    transfers = {found.value("transfer", a, b) for a in found.names for b in everyone}
    assert len(transfers) == 1
    assert found.value("cosine_clean", "member1", "member2") == pytest.approx(1)
    for quantity in ("share_clean", "share_adversarial"):
        assert [found.value(quantity, name) for name in found.names] == [0.5, 0.5]
    assert found.find("members_fooled", "1").value == 0
    assert found.find("ensemble_falls", "1").value is None
    assert (found.value("ensemble_falls", "0"), found.value("ensemble_falls", "2")) == (0, 1)
    accuracies = {found.value("robust_accuracy", name) for name in (*everyone, *map(without, found.names))}
    assert len(accuracies) == 1


def test_transfer_is_complete_where_all_can_be_moved() -> None:
    # Both say 1, or 0 where the pixels sum to more than 30, which the attack may make of any image.
    members = []
    for scale in (1.0, 2.0):
        network = along(scale * torch.ones(64))
        network.bias.data = scale * torch.tensor([-30.0, 0.0, *[-1000.0] * 8])
        members.append(network)
    found = diagnose(Ensemble(members), dataset="digits", n=N, eps=1.0)
    cells = [f for f in found.findings if f.quantity == "transfer"]
    assert len(cells) == 9
    assert all(cell.n > 0 for cell in cells)
    assert {cell.value for cell in cells} == {1.0}
    assert {found.value("robust_accuracy", name) for name in (*found.names, ENSEMBLE)} == {0.0}


# A plain recomputation


def right(network: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    with torch.no_grad():
        return network(x).argmax(1) == y


@pytest.mark.parametrize("make", [pair, gated], ids=["plain", "gated"])
def test_transfer_and_counts_image_by_image(
    make: Callable[[], Ensemble], plain: Diagnosis, weighted: Diagnosis
) -> None:
    model = make()
    found = plain if model.gate is None else weighted
    x, y, ids = digits()
    networks = {**{member(i): m for i, m in enumerate(model.members)}, ENSEMBLE: model}
    attack = attacks.get("margin20", stop_early=False)
    for source, network in networks.items():
        x_adv = attack(network, x, y, THREAT, seed=0, ids=ids)
        for target, other in networks.items():
            both = right(network, x, y) & right(other, x, y)
            fooled = sum(int(not ok) for ok, counts in zip(right(other, x_adv, y), both, strict=True) if counts)
            cell = found.find("transfer", source, target)
            assert (round(cell.value * cell.n), cell.n) == (fooled, both.sum())
    clean = right(model, x, y)
    wrong = Counter(sum(int(not right(m, x_adv, y)[i]) for m in model.members) for i in range(N) if clean[i])
    assert {f.a: round(f.value * f.n) for f in found.findings if f.quantity == "members_fooled"} == {
        str(count): wrong[count] for count in range(len(model.members) + 1)
    }
    for count in range(len(model.members) + 1):
        assert found.find("ensemble_falls", str(count)).n == wrong[count]


@pytest.mark.parametrize("make", [pair, gated], ids=["plain", "gated"])
def test_cosines_and_shares_from_the_definition(
    make: Callable[[], Ensemble], plain: Diagnosis, weighted: Diagnosis
) -> None:
    model = make()
    found = plain if model.gate is None else weighted
    x, y, ids = digits()
    x_adv = attacks.get("margin20", stop_early=False)(model, x, y, THREAT, seed=0, ids=ids)
    for kind, at in (("clean", x), ("adversarial", x_adv)):
        at = at.detach().requires_grad_()
        logits = [network(at) for network in model.members]
        grads = [torch.autograd.grad(F.cross_entropy(z, y, reduction="sum"), at, retain_graph=True)[0] for z in logits]
        for i in range(len(grads)):
            for j in range(i):
                cosine = F.cosine_similarity(grads[i].double().flatten(1), grads[j].double().flatten(1), eps=0).mean()
                # The definition loses digits on confident images, where 1 − p_y is rounded.
                assert found.value(f"cosine_{kind}", member(j), member(i)) == pytest.approx(cosine.item(), abs=1e-4)
        probs = torch.stack([z.detach().double().softmax(1).gather(1, y[:, None])[:, 0] for z in logits])
        if model.gate is not None:
            probs = probs * model.gate(at).detach().double().softmax(1).T
        shares = (probs / probs.sum(0)).mean(1)
        for i, share in enumerate(shares.tolist()):
            assert found.value(f"share_{kind}", member(i)) == pytest.approx(share, rel=1e-5)


class Rest(nn.Module):
    """Mean probability of all members but one, the gate's weights renormalised, written out."""

    def __init__(self, model: Ensemble, left_out: int) -> None:
        super().__init__()
        self.model, self.kept = model, [i for i in range(len(model.members)) if i != left_out]

    def forward(self, x: Tensor) -> Tensor:
        weights = self.model.gate(x).softmax(1)[:, self.kept]
        weights = weights / weights.sum(1, keepdim=True)
        probs = torch.stack([self.model.members[i](x).softmax(1) for i in self.kept], dim=2)
        return (probs * weights[:, None]).sum(2).log()


def test_accuracies_are_those_of_scoring(plain: Diagnosis, weighted: Diagnosis) -> None:
    x, y, ids = digits()
    both, model = pair(), gated()
    parts = [(plain, ENSEMBLE, both), (weighted, ENSEMBLE, model)]
    parts += [(plain, member(i), m) for i, m in enumerate(both.members)]
    parts += [(plain, without(member(i)), both.members[1 - i]) for i in range(2)]
    parts += [(weighted, without(member(i)), Rest(model, i)) for i in range(3)]
    for found, name, network in parts:
        broken = attacks.get("margin20").run(network, x, y, THREAT, seed=0, ids=ids).broken
        assert found.value("clean_accuracy", name) == right(network, x, y).double().mean()
        # Probabilities that are added up in another order may flip one image.
        assert found.value("robust_accuracy", name) == pytest.approx(1 - broken.double().mean().item(), abs=1.1 / N)
        assert 0 < found.value("robust_accuracy", name) < found.value("clean_accuracy", name)


# What must hold between the numbers


@pytest.mark.parametrize("which", ["plain", "weighted"])
def test_numbers_hold_together(which: str, request: pytest.FixtureRequest) -> None:
    found: Diagnosis = request.getfixturevalue(which)
    assert list(dict.fromkeys(f.quantity for f in found.findings)) == list(QUANTITIES)
    for kind in ("clean", "adversarial"):
        assert sum(found.value(f"share_{kind}", name) for name in found.names) == pytest.approx(1)
    counts = [str(count) for count in range(found.members + 1)]
    assert sum(found.value("members_fooled", count) for count in counts) == pytest.approx(1)
    fallen = sum(found.value("members_fooled", c) * (found.value("ensemble_falls", c) or 0) for c in counts)
    assert fallen == pytest.approx(found.value("transfer", ENSEMBLE, ENSEMBLE))
    for name in (*found.names, ENSEMBLE):
        # margin20 keeps its best iterate, so at full strength it breaks what scoring counts as broken.
        kept = found.value("robust_accuracy", name) / found.value("clean_accuracy", name)
        assert found.value("transfer", name, name) == pytest.approx(1 - kept)


def test_batches_and_repetition_change_nothing(plain: Diagnosis) -> None:
    again = diagnose(pair(), dataset="digits", n=N, eps=EPS)
    assert again == plain
    small = diagnose(pair(), dataset="digits", n=N, eps=EPS, batch_size=7)
    for ours, theirs in zip(small.findings, plain.findings, strict=True):
        assert replace(ours, value=None) == replace(theirs, value=None)
        assert ours.value == pytest.approx(theirs.value, abs=1e-5)


def test_the_model_and_the_random_state_stay_as_they_were() -> None:
    model = gated().train()
    model.members[1].eval()
    next(model.members[0].parameters()).requires_grad_(False)
    flags = [m.training for m in model.modules()]
    trainable = [p.requires_grad for p in model.parameters()]
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    random = torch.get_rng_state()
    diagnose(model, dataset="digits", n=8, attack="ifgsm2")
    assert [m.training for m in model.modules()] == flags
    assert [p.requires_grad for p in model.parameters()] == trainable
    assert all(p.grad is None for p in model.parameters())
    assert torch.equal(torch.get_rng_state(), random)
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())


# Checkpoints, progress, errors


def save(folder: Path, **meta: object) -> Path:
    architecture = replace(ARCHITECTURE, members=2)
    checkpoint.save(folder / "best.safetensors", pair(), architecture, meta)
    return folder


def test_a_run_folder_brings_its_data_set_and_threat(tmp_path: Path, plain: Diagnosis) -> None:
    run = save(tmp_path / "run", dataset="digits", threat={"norm": "linf", "eps": EPS})
    found = diagnose(run, n=N, device="cpu")
    assert found.findings == plain.findings
    assert found.model == "run/best"
    assert found.weights_hash == checkpoint.read_info(run).weights_hash
    assert (found.data_name, found.split, found.n, found.threat) == ("digits", "test", N, Threat(norm="linf", eps=EPS))
    assert (found.attack, found.seed, found.names) == ("margin20", 0, ("member1", "member2"))


def test_progress_ends_every_job_once() -> None:
    ended: list[str] = []

    def progress(label: str, done: int, total: int, **fields: float | str) -> None:
        assert 0 <= done <= total
        if done == total:
            ended.append(label)

    diagnose(trained(members=3), dataset="digits", n=8, attack="ifgsm2", progress=progress)
    # x_adv against three members and the ensemble; scores of these and of the ensemble without each member.
    assert len(ended) == len(set(ended)) == 4 + 7


def test_errors_name_the_value_and_what_was_expected(tmp_path: Path) -> None:
    model = pair()
    with pytest.raises(InvalidValueError, match="has one member: diagnose compares members"):
        diagnose(Ensemble([along(torch.ones(64))]), dataset="digits")
    with pytest.raises(InvalidValueError, match="Linear has one member"):
        diagnose(along(torch.ones(64)), dataset="digits")
    with pytest.raises(InvalidValueError, match="does not say what it was trained on: pass dataset"):
        diagnose(model)
    with pytest.raises(CheckpointError, match=r"bare: does not say what it was trained on"):
        diagnose(save(tmp_path / "bare"))
    with pytest.raises(InvalidValueError, match=r"norm is 'l2'.*give eps"):
        diagnose(model, dataset="digits", norm="l2")
    with pytest.raises(InvalidValueError, match=r"n is 0: .* choose 1 to"):
        diagnose(model, dataset="digits", n=0)
    with pytest.raises(InvalidValueError, match="batch_size is 0"):
        diagnose(model, dataset="digits", batch_size=0)
    with pytest.raises(UnknownNameError, match="unknown attack"):
        diagnose(model, dataset="digits", attack="margn20")


class Picky(nn.Module):
    """A network that cannot be asked about no images at all, as those that reshape by what they are given."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.linear = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        assert len(x)
        return self.linear(x.flatten(1))


@pytest.mark.parametrize("right", [True, False])
def test_whatever_they_get_right_no_network_meets_an_empty_batch(right: bool) -> None:
    model = Ensemble([Picky(0), Picky(1)])
    x, _ = images(6)
    with torch.no_grad():
        y = (model(x).argmax(1) + (not right)) % 10
    found = diagnose(model, data=(x, y), attack="margin3", eps=0.3)
    assert found.n == 6
    assert next(f.value for f in found.findings if f.quantity == "clean_accuracy") == float(right)
