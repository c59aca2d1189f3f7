"""The twin that attacks call: the same logits and gradients, from fewer layers, and nothing of the model changed."""

from collections.abc import Callable
from functools import partial

import pytest
import torch
from small_models import recorded
from torch import Tensor, nn
from torch.nn import functional as F

from ensemble_bench.errors import AttackError
from ensemble_bench.models import calling
from ensemble_bench.models.backbones.preact_resnet import PreActResNet18
from ensemble_bench.models.backbones.small_cnn import SmallCNN
from ensemble_bench.models.backbones.vgg import VGG16BN
from ensemble_bench.models.backbones.wide_resnet import WideResNet
from ensemble_bench.models.compiled import Compiled, padded
from ensemble_bench.models.ensemble import Ensemble
from ensemble_bench.models.folded import difference, folded, twin_of
from ensemble_bench.models.gate import Gate
from ensemble_bench.models.normalise import Normalise

X = torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(0))
BACKBONES: dict[str, Callable[[], nn.Module]] = {
    "WRN-10-1": lambda: WideResNet(depth=10, width=1.0),
    "WRN-22-0.5": lambda: WideResNet(depth=22, width=0.5),
    "PreActResNet-18": lambda: PreActResNet18(width=0.1),
    "small_cnn": lambda: SmallCNN(in_channels=3),
    "VGG16": lambda: VGG16BN(width=0.1),
    "gate": lambda: Gate(members=10),
}


class PostActBlock(nn.Module):
    """A residual block of another package: batch norm after each convolution, added in place, ReLU modules."""

    def __init__(self, channels: int, *, stride: int = 1) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(channels, channels, 3, stride, 1, groups=2), nn.BatchNorm2d(channels)
        self.conv2, self.bn2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False), nn.BatchNorm2d(channels)
        self.down = nn.Sequential(nn.Conv2d(channels, channels, 1, stride), nn.BatchNorm2d(channels))
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        out = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        out += self.down(x)
        return self.relu(out)


class Foreign(nn.Module):
    """A network of another package, which normalises inside, asks for no shapes, and so can be traced."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.full((3, 1, 1), 0.5))
        self.stem = nn.Conv2d(3, 8, 3, padding=1, padding_mode="reflect")
        self.blocks = nn.Sequential(PostActBlock(8), PostActBlock(8, stride=2))
        self.last = nn.BatchNorm2d(8)
        self.head = nn.Linear(8, 10)

    def forward(self, x: Tensor) -> Tensor:
        h = self.blocks(F.relu(self.stem(x - self.mean)))
        return self.head(F.adaptive_avg_pool2d(F.leaky_relu(self.last(h), 0.1), 1).flatten(1))


class TwoReaders(nn.Module):
    """A stream that both a batch norm and something else read, so that its values are needed as they are."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn, self.head = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Linear(8, 10)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv(x)
        return self.head((F.relu(self.bn(h), inplace=True) + h.sigmoid()).mean((2, 3)))


class Asks(nn.Module):
    """A network whose forward depends on the images, so that it cannot be traced."""

    def __init__(self) -> None:
        super().__init__()
        self.network = SmallCNN(in_channels=3)

    def forward(self, x: Tensor) -> Tensor:
        return self.network(x) if x.mean() > 0.1 else self.network(1 - x)


def settled(network: nn.Module, *, scales: str = "positive") -> nn.Module:
    """`network` in eval mode, its batch norm as after training; "any": also with scales below 0, tiny ones, and 0."""
    generator = torch.Generator().manual_seed(1)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            noise = torch.rand(4, module.num_features, generator=generator)
            module.running_mean.copy_(noise[0] - 0.5)
            module.running_var.copy_(0.1 + noise[1])
            module.weight.data.copy_(0.5 + noise[2])
            module.bias.data.copy_(noise[3] - 0.5)
            if scales != "positive":
                module.weight.data[::3] *= -1
            if scales == "any":
                module.weight.data[:2] = torch.tensor([1e-12, 0.0])
    return network.eval()


def answers(network: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    """Logits, and the gradient to the images of a sum of them."""
    x = x.clone().requires_grad_()
    logits = network(x)
    (grad,) = torch.autograd.grad((logits * torch.arange(logits.shape[1]).to(x)).sum(), x)
    return logits.detach(), grad


def norms(network: nn.Module) -> int:
    return sum(isinstance(module, nn.BatchNorm2d) for module in network.modules())


@pytest.mark.parametrize("scales", ["positive", "signed", "any"])
@pytest.mark.parametrize("name", BACKBONES)
def test_every_backbone_is_the_same_function_without_batch_norm(name: str, scales: str) -> None:
    network = settled(BACKBONES[name](), scales=scales).double()
    twin = folded(network)
    assert norms(network) > 0
    assert norms(twin) == 0
    (logits, grad), (logits2, grad2) = answers(network, X.double()), answers(twin, X.double())
    torch.testing.assert_close(logits2, logits, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(grad2, grad, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", ["WRN-10-1", "WRN-22-0.5", "PreActResNet-18", "small_cnn", "VGG16"])
def test_no_layer_is_left_in_place_of_batch_norm_where_scales_are_positive(name: str) -> None:
    twin = folded(settled(BACKBONES[name]()))
    graphs = [module.graph for module in twin.modules() if isinstance(module, torch.fx.GraphModule)]
    targets = [node.target for graph in graphs for node in graph.nodes]
    assert targets
    assert not any(getattr(target, "__name__", "") == "_scaled" for target in targets)


@pytest.mark.parametrize(
    "make", [Foreign, TwoReaders, lambda: nn.Sequential(Normalise([0.5] * 3, [0.2] * 3), Foreign())]
)
@pytest.mark.parametrize("scales", ["positive", "any"])
def test_foreign_networks_are_the_same_function(make: Callable[[], nn.Module], scales: str) -> None:
    network = settled(make(), scales=scales).double()
    twin = folded(network)
    assert norms(twin) == 0
    for mine, theirs in zip(answers(twin, X.double()), answers(network, X.double()), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-10, atol=1e-10)


def test_float32_differs_by_rounding_alone() -> None:
    network = settled(WideResNet(depth=10, width=1.0), scales="signed")
    twin = twin_of(network, X)
    assert twin.folded
    assert twin.note == ""
    torch.testing.assert_close(twin.model(X), network(X), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "network",
    [settled(Asks()), nn.Sequential(nn.Flatten(), nn.Linear(768, 10)), SmallCNN(in_channels=3).train()],
    ids=["not traceable", "no batch norm", "train mode"],
)
def test_what_cannot_be_folded_stays(network: nn.Module) -> None:
    assert folded(network) is network


def test_a_network_with_hooks_stays() -> None:
    network = settled(SmallCNN(in_channels=3))
    with recorded(network.conv2):
        assert folded(network) is network
    assert folded(network) is not network


def test_a_network_that_counts_its_calls_stays_and_counts_no_trace() -> None:
    class Counts(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network, self.calls = SmallCNN(in_channels=3), 0

        def forward(self, x: Tensor) -> Tensor:
            self.calls += 1
            return self.network(x)

    network = settled(Counts())
    assert folded(network) is network
    assert network.calls == 0


def test_noise_drawn_in_forward_is_no_constant() -> None:
    class Noisy(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = SmallCNN(in_channels=3)

        def forward(self, x: Tensor) -> Tensor:
            return self.network(x + torch.rand(3, 16, 16))

    class Jittered(Noisy):
        def forward(self, x: Tensor) -> Tensor:
            return self.network(x + torch.rand_like(x))

    network = settled(Noisy())
    assert folded(network) is network
    twin = folded(settled(Jittered()))
    assert norms(twin) == 0
    assert not torch.equal(twin(X), twin(X))


@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("aggregation", ["prob", "logit", "vote", "draw"])
def test_an_ensemble_keeps_all_that_attacks_use(aggregation: str, gated: bool) -> None:
    members = [settled(make()) for make in (BACKBONES["WRN-10-1"], Foreign, Asks)]
    gate = settled(Gate(members=3)) if gated else None
    model = Ensemble(members, aggregation=aggregation, gate=gate).eval()
    twin = folded(model)
    assert isinstance(twin, Ensemble)
    assert norms(twin.members[0]) == norms(twin.members[1]) == 0
    assert twin.members[2] is members[2]
    assert (twin.aggregation, len(twin.members), twin.gate is None) == (aggregation, 3, gate is None)
    logits = model.member_logits(X)
    torch.testing.assert_close(twin.member_logits(X), logits, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(twin.log_weights(X), model.log_weights(X), rtol=1e-4, atol=1e-4)
    mean = model.aggregate_as("logit")(X)
    torch.testing.assert_close(twin.aggregate_as("logit").aggregate(logits, X), mean, rtol=1e-4, atol=1e-4)
    torch.manual_seed(0)
    answer = model(X)
    torch.manual_seed(0)
    torch.testing.assert_close(twin(X), answer, rtol=1e-4, atol=1e-4)


def test_a_member_that_stands_twice_is_folded_once() -> None:
    member = settled(SmallCNN(in_channels=3))
    twin = folded(Ensemble([member, member]).eval())
    assert twin.members[0] is twin.members[1]
    assert norms(twin) == 0


def test_the_model_is_left_as_it_was() -> None:
    model = Ensemble([WideResNet(depth=10, width=1.0), Foreign()])
    settled(model).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    flags = [(m.training, dict(m._modules)) for m in model.modules()]
    random = torch.get_rng_state()
    twin = twin_of(model, X)
    assert twin.folded
    assert [(m.training, dict(m._modules)) for m in model.modules()] == flags
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(p.requires_grad and p.grad is None for p in model.parameters())
    assert torch.equal(torch.get_rng_state(), random)
    assert not any(p.requires_grad for name, p in twin.model.named_parameters() if "folded" in name)


def test_a_model_that_answers_otherwise_is_seen_and_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    network = settled(SmallCNN(in_channels=3))
    wrong = settled(SmallCNN(in_channels=3), scales="signed")
    assert "logits differ by" in difference(network, wrong, X)
    monkeypatch.setattr("ensemble_bench.models.folded.folded", lambda _: wrong)
    twin = twin_of(network, X)
    assert twin.model is network
    assert not twin.folded
    assert "logits differ by" in twin.note


def test_a_model_that_stops_gradients_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    class Stops(nn.Module):
        """Half of its gradient is held back, which a trace does not see."""

        def __init__(self) -> None:
            super().__init__()
            self.network = SmallCNN(in_channels=3)

        def forward(self, x: Tensor) -> Tensor:
            with torch.no_grad():
                half = self.network(x)
            return half + self.network(x)

    network = settled(Stops())
    twin = twin_of(network, X)
    assert twin.model is network
    assert "gradients differ by" in twin.note


def test_logits_that_are_not_finite_are_left_to_the_attack() -> None:
    network = settled(SmallCNN(in_channels=3))
    network.linear.bias.data[0] = torch.nan
    twin = twin_of(network, X)
    assert twin.model is network
    with pytest.raises(AttackError, match="NaN"):
        calling.logits_of(twin.model, X)


@pytest.mark.parametrize("whole", [False, True])
def test_a_compiled_twin_answers_alike_for_every_size_of_a_batch(whole: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    # All but the code generator, which takes a compiler and half a minute.
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))
    model = settled(SmallCNN(in_channels=3))
    model = model if whole else Ensemble([model, Foreign()], gate=Gate(members=2)).eval()
    twin = twin_of(settled(model), X, compile=True)
    assert (twin.folded, twin.compiled, twin.note) == (True, True, "")
    for rows in (3, 2, 1):
        for mine, theirs in zip(answers(twin.model, X[:rows]), answers(model, X[:rows]), strict=True):
            torch.testing.assert_close(mine, theirs, rtol=1e-3, atol=1e-3)


def test_without_a_compiler_the_folded_twin_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("no compiler found")

    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=broken))
    twin = twin_of(settled(SmallCNN(in_channels=3)), X, compile=True)
    assert (twin.folded, twin.compiled) == (True, False)
    assert twin.note.startswith("not compiled: ")
    assert "no compiler found" in twin.note


def test_padding_changes_no_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", lambda network, **_: network)
    network = settled(SmallCNN(in_channels=3)).double()
    made = Compiled(network)
    made.on_cuda = True  # as there, but for the graphs
    for mine, theirs in zip(answers(made, X.double()), answers(network, X.double()), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(("rows", "expected"), [(1, 32), (32, 32), (33, 64), (512, 512)])
def test_batches_on_cuda_have_few_sizes(rows: int, expected: int) -> None:
    assert padded(rows) == expected
