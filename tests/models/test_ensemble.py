import itertools
import math

import pytest
import torch
from torch import Tensor, nn

from ensemble_bench.errors import InvalidValueError, UnknownNameError
from ensemble_bench.losses import cross_entropy
from ensemble_bench.models.ensemble import INTERFACE, Ensemble, Single, as_ensemble


def linear(seed: int, *, outputs: int = 5, gain: float = 1.0) -> nn.Module:
    """A member in float64 whose logits are curved in the image, from 12 pixels."""
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Flatten(), nn.Linear(12, 9), nn.Tanh(), nn.Linear(9, outputs)).double()
    with torch.no_grad():
        net.get_parameter("3.weight").mul_(gain)
    return net


class Constant(nn.Module):
    """The same logits for every image."""

    def __init__(self, logits: list[float]) -> None:
        super().__init__()
        self.logits = torch.tensor(logits)

    def forward(self, x: Tensor) -> Tensor:
        return self.logits.expand(len(x), -1)


def images(batch: int = 6) -> Tensor:
    return torch.rand(batch, 3, 2, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(3))


def labels(batch: int = 6) -> Tensor:
    return torch.arange(batch) % 5


def textbook_loss(members: list[nn.Module], x: Tensor, y: Tensor, weights: Tensor | None = None) -> Tensor:
    """−log Σ w_i softmax(z_i)_y, written as the paper writes it."""
    probs = torch.stack([member(x).softmax(1) for member in members])
    weights = torch.full((len(members), 1, 1), 1 / len(members), dtype=x.dtype) if weights is None else weights
    return -(weights * probs).sum(0).gather(1, y[:, None])[:, 0].log()


@pytest.mark.parametrize("k", [1, 2, 4])
@pytest.mark.parametrize("gated", [False, True])
def test_loss_and_gradient_equal_the_textbook_formula(k: int, gated: bool) -> None:
    members = [linear(seed, gain=3) for seed in range(k)]
    gate = linear(99, outputs=k, gain=4) if gated else None
    x, y = images().requires_grad_(), labels()
    loss = cross_entropy(Ensemble(members, gate=gate)(x), y)
    wanted = textbook_loss(members, x, y, gate(x).softmax(1).T[..., None] if gate else None)
    torch.testing.assert_close(loss, wanted, rtol=1e-12, atol=1e-12)
    (found,) = torch.autograd.grad(loss.sum(), x)
    (expected,) = torch.autograd.grad(wanted.sum(), x)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("aggregation", ["prob", "logit"])
@pytest.mark.parametrize("gated", [False, True])
def test_gradient_agrees_with_finite_differences(aggregation: str, gated: bool) -> None:
    gate = linear(99, outputs=2, gain=4) if gated else None
    model = Ensemble([linear(0, gain=3), linear(1, gain=3)], aggregation=aggregation, gate=gate)
    x, y = images(2).requires_grad_(), labels(2)
    (found,) = torch.autograd.grad(cross_entropy(model(x), y).sum(), x)
    numeric, h = torch.zeros_like(x), 1e-4
    with torch.no_grad():
        for i in range(x.numel()):
            step = torch.zeros(x.numel(), dtype=x.dtype)
            step[i] = h
            step = step.view_as(x)
            # Five-point stencil: its error is of order h⁴.
            values = [cross_entropy(model(x + n * step), y).sum() for n in (-2, -1, 1, 2)]
            numeric.view(-1)[i] = (values[0] - 8 * values[1] + 8 * values[2] - values[3]) / (12 * h)
    torch.testing.assert_close(found, numeric, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("aggregation", ["prob", "logit"])
def test_members_order_is_irrelevant(aggregation: str) -> None:
    members = [linear(seed) for seed in range(3)]
    outputs = [Ensemble(order, aggregation=aggregation)(images()) for order in itertools.permutations(members)]
    for output in outputs[1:]:
        torch.testing.assert_close(output, outputs[0], rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("aggregation", ["prob", "logit"])
def test_a_member_twice_is_the_member_once_and_logits_are_log_probabilities(aggregation: str) -> None:
    member, x = linear(0), images()
    once = Ensemble([member], aggregation=aggregation)(x)
    torch.testing.assert_close(once, member(x).log_softmax(1), rtol=0, atol=0)
    torch.testing.assert_close(Ensemble([member, member], aggregation=aggregation)(x), once, rtol=1e-12, atol=1e-13)
    torch.testing.assert_close(once.exp().sum(1), torch.ones(6, dtype=torch.float64))


@pytest.mark.parametrize("aggregation", ["prob", "logit"])
def test_an_ensemble_may_be_a_member(aggregation: str) -> None:
    a, b, x = linear(0), linear(1), images()
    nested = Ensemble([Ensemble([a]), Ensemble([b])], aggregation=aggregation)
    torch.testing.assert_close(nested(x), Ensemble([a, b], aggregation=aggregation)(x), rtol=1e-12, atol=1e-13)


class Fixed(nn.Module):
    """Gives nearly the same logits whatever the images, but with a gradient."""

    logits: Tensor

    def __init__(self, logits: list[float]) -> None:
        super().__init__()
        self.register_buffer("logits", torch.tensor(logits))

    def forward(self, x: Tensor) -> Tensor:
        return self.logits * (1 + 1e-3 * x.flatten(1).sum(1, keepdim=True))


@pytest.mark.parametrize("aggregation", ["prob", "logit"])
@pytest.mark.parametrize("other", [[1e4, -1e4, 0.0], [-1e4, 1e4, 0.0], [1e4, 1e4, 1e4]])
def test_extreme_logits_keep_finite_gradients(aggregation: str, other: list[float]) -> None:
    model = Ensemble([Fixed([1e4, -1e4, 0.0]), Fixed(other)], aggregation=aggregation)
    x = torch.rand(3, 1, 2, 2, requires_grad=True)
    loss = cross_entropy(model(x), torch.tensor([0, 1, 2]))
    (gradient,) = torch.autograd.grad(loss.sum(), x)
    assert loss.isfinite().all()
    assert gradient.isfinite().all()


def test_saturated_members_still_give_the_true_gradient() -> None:
    """In float32, −log of a mean of softmaxes underflows to infinity here; both members' pull must remain."""
    model = Ensemble([Fixed([300.0, 0.0]), Fixed([250.0, 0.0])])
    x = torch.rand(1, 1, 2, 2, requires_grad=True)
    (gradient,) = torch.autograd.grad(cross_entropy(model(x), torch.tensor([1])).sum(), x)
    x64 = x.detach().double().requires_grad_()
    wanted = textbook_loss(list(model.double().members), x64, torch.tensor([1]))
    (expected,) = torch.autograd.grad(wanted.sum(), x64)
    torch.testing.assert_close(gradient.double(), expected, rtol=1e-4, atol=0)


def test_logit_aggregation_averages_logits_with_and_without_gate() -> None:
    members, gate, x = [linear(0), linear(1)], linear(9, outputs=2), images()
    z = Ensemble(members).member_logits(x)
    assert z.shape == (2, 6, 5)
    plain = Ensemble(members, aggregation="logit")(x)
    torch.testing.assert_close(plain, ((z[0] + z[1]) / 2).log_softmax(1))
    w = gate(x).softmax(1)
    gated = Ensemble(members, aggregation="logit", gate=gate)(x)
    torch.testing.assert_close(gated, (w[:, :1] * z[0] + w[:, 1:] * z[1]).log_softmax(1))


def test_aggregate_as_shares_members_gate_and_mode() -> None:
    gate = linear(9, outputs=2)
    model = Ensemble([linear(0), linear(1)], gate=gate).eval()
    other = model.aggregate_as("logit")
    assert other.aggregation == "logit"
    assert model.aggregation == "prob"
    assert all(a is b for a, b in zip(model.members, other.members, strict=True))
    assert other.gate is gate
    assert not any(module.training for module in other.modules())
    assert all(module.training for module in model.train().aggregate_as("logit").modules())
    torch.testing.assert_close(other.aggregate_as("prob")(images()), model(images()), rtol=0, atol=0)


def test_state_dict_keys_name_members_and_gate() -> None:
    keys = set(Ensemble([linear(0), linear(1)], gate=linear(9, outputs=2)).state_dict())
    assert {key.split(".")[0] for key in keys} == {"members", "gate"}
    assert {"members.0.1.weight", "members.1.1.weight", "gate.1.weight"} <= keys


def test_half_precision_logits_are_averaged_in_float32() -> None:
    model = Ensemble([linear(0).float(), linear(1).float()])
    x = images().float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = model(x)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.exp().sum(1), torch.ones(6), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found, model(x), rtol=0.05, atol=0.05)


def test_bad_arguments_are_named() -> None:
    with pytest.raises(InvalidValueError, match="at least one member"):
        Ensemble([])
    with pytest.raises(InvalidValueError, match="a member is a int"):
        Ensemble([3])  # type: ignore[list-item]
    with pytest.raises(UnknownNameError, match="did you mean prob"):
        Ensemble([linear(0)], aggregation="probs")
    with pytest.raises(InvalidValueError, match=r"expected \(batch, 1\)"):
        Ensemble([linear(0)], gate=linear(1))(images())


def test_uniform_gate_is_no_gate() -> None:
    class Even(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.full((len(x), 2), math.pi, dtype=x.dtype)

    members, x = [linear(0), linear(1)], images()
    torch.testing.assert_close(Ensemble(members, gate=Even())(x), Ensemble(members)(x), rtol=1e-12, atol=1e-13)


def test_draw_answers_each_image_with_one_member_in_the_share_of_its_weight() -> None:
    members = [Constant([4.0, 0.0]), Constant([0.0, 4.0])]
    gate = Constant([math.log(0.75), math.log(0.25)])
    for weights, expected in ((None, 0.5), (gate, 0.75)):
        model = Ensemble(members, aggregation="draw", gate=weights)
        x = torch.zeros(4000, 1, 8, 8)
        with torch.random.fork_rng():
            torch.manual_seed(0)
            first = model(x).argmax(dim=1) == 0
            assert first.double().mean().item() == pytest.approx(expected, abs=0.03)
            assert not torch.equal(model(x).argmax(dim=1) == 0, first)


def test_vote_counts_predictions_by_weight() -> None:
    members = [Constant([0.1, 0.0, 0.0]), Constant([0.0, 0.1, 0.0]), Constant([0.0, 9.0, 0.0])]
    shares = Ensemble(members, aggregation="vote")(torch.zeros(2, 1, 8, 8)).exp()
    torch.testing.assert_close(shares, torch.tensor([[1 / 3, 2 / 3, 0.0]]).expand(2, 3), rtol=0, atol=1e-5)


@pytest.mark.parametrize("gated", [False, True])
def test_aggregate_is_the_second_half_of_forward(gated: bool) -> None:
    members = [Constant([4.0, 0.0]), Constant([0.0, 1.0])]
    for aggregation in ("prob", "logit", "vote"):
        model = Ensemble(members, aggregation=aggregation, gate=Constant([0.0, 1.0]) if gated else None)
        x = torch.zeros(3, 1, 8, 8)
        assert torch.equal(model.aggregate(model.member_logits(x), x), model(x))


def test_a_network_is_an_ensemble_of_one_with_its_raw_logits() -> None:
    network, x = linear(0), images()
    whole = as_ensemble(network)
    assert isinstance(whole, Single)
    assert list(whole.members) == [network]
    assert torch.equal(whole(x), network(x))
    assert torch.equal(whole.member_logits(x), network(x)[None])
    assert torch.equal(whole.aggregate(whole.member_logits(x), x), network(x))
    assert all(a is b for a, b in zip(whole.parameters(), network.parameters(), strict=True))


def test_an_ensemble_stays_itself_as_does_what_has_all_of_its_interface() -> None:
    model = Ensemble([linear(0), linear(1)])
    assert as_ensemble(model) is model

    class Alike(nn.Module):
        """An ensemble by another class."""

        def __init__(self, names: tuple[str, ...]) -> None:
            super().__init__()
            for name in names:
                setattr(self, name, getattr(model, name))

        def forward(self, x: Tensor) -> Tensor:
            return model(x)

    alike = Alike(INTERFACE)
    assert as_ensemble(alike) is alike
    assert isinstance(as_ensemble(Alike(INTERFACE[:-1])), Single)
