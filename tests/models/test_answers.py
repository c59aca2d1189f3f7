"""How any network is asked: with its own copy of the images, for logits, in its own precision."""

from collections import namedtuple
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from small_models import Wrapped, images, perceptron, trained, untrained_perceptron
from torch import Tensor, nn
from torch.ao import quantization

import ensemble_bench as eb
from ensemble_bench.adapters.view import AttackView
from ensemble_bench.errors import AttackError, EnsembleBenchError, InvalidValueError
from ensemble_bench.evaluation.runner import Result
from ensemble_bench.models import cost
from ensemble_bench.models.calling import all_finite
from ensemble_bench.models.ensemble import Ensemble, as_ensemble

THREAT = eb.ThreatModel(eps=0.05)
N = 12


def evaluated(model: nn.Module, suite: str) -> Result:
    return eb.evaluate(model, dataset="digits", suite=suite, n=N, batch_size=5)


# Modules that write into what they are given


class Writes(nn.Module):
    def __init__(self, seed: int, write: Callable[[Tensor], Any], undo: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.network, self.write, self.undo = perceptron(seed), write, undo

    def forward(self, x: Tensor) -> Tensor:
        self.write(x)
        out: Tensor = self.network(self.undo(x))
        return out


class Halves(nn.Module):
    def __init__(self, inplace: bool) -> None:
        super().__init__()
        self.inplace = inplace

    def forward(self, x: Tensor) -> Tensor:
        return x.div_(2) if self.inplace else x / 2


def _to_numpy(x: Tensor) -> None:
    x.detach().numpy()[:] *= 2


WRITES: dict[str, tuple[Callable[[Tensor], Any], Callable[[Tensor], Tensor]]] = {
    "sub_": (lambda x: x.sub_(0.5).div_(0.25), lambda x: x * 0.25 + 0.5),
    "clamp_": (lambda x: x.mul_(2).clamp_(0, 2), lambda x: x / 2),
    "assigned": (lambda x: x.__setitem__((slice(None), 0), x[:, 0] * 2), lambda x: x / 2),
    "out": (lambda x: torch.mul(x.detach(), 2, out=x.detach()), lambda x: x / 2),
    "numpy": (_to_numpy, lambda x: x / 2),
}


@pytest.mark.parametrize("how", WRITES)
def test_a_module_that_writes_into_its_input_spoils_nothing(how: str) -> None:
    x, y = images(N)
    x = x.contiguous(memory_format=torch.channels_last)
    keep = x.clone()
    written = [Writes(seed, *WRITES[how]).eval() for seed in (0, 1)]
    plain = [perceptron(seed).eval() for seed in (0, 1)]
    gate = nn.Sequential(nn.Flatten(), nn.Linear(64, 2))
    halving = [nn.Sequential(Halves(inplace), gate) for inplace in (True, False)]
    for ours, right in (
        (Ensemble(written), Ensemble(plain)),
        (Ensemble(written, gate=halving[0]), Ensemble(plain, gate=halving[1])),
        (as_ensemble(written[0]), as_ensemble(plain[0])),
        (AttackView(written[0]), plain[0]),
    ):
        torch.testing.assert_close(ours(x), right(x))
        assert torch.equal(x, keep)
    for attack in ("pgd3", "square20", "bypass3", "torchattacks:PGD(steps=2)"):
        x_adv = [eb.attacks.get(attack)(Ensemble(nets), x, y, THREAT) for nets in (written, plain)]
        assert torch.equal(x, keep)
        if how in ("sub_", "assigned"):  # the others stop gradients at the border, or hide their scale from them
            torch.testing.assert_close(*x_adv, atol=1e-3, rtol=0)


# Outputs


Output = namedtuple("Output", ["logits", "aux_logits"])
GOOD: dict[str, Callable[[Tensor], Any]] = {
    "object": lambda z: SimpleNamespace(logits=z),
    "dict": lambda z: {"features": z + 1, "logits": z},
    "named tuple": lambda z: Output(z, None),
}
BAD: dict[str, tuple[Callable[[Tensor], Any], str]] = {
    "tuple": (
        lambda z: (z, None),
        r"a tuple of \(Tensor \(\d+, 10\), NoneType\) for \d+ images: expected a tensor",
    ),
    "list": (lambda z: [z], r"a list of \(Tensor \(\d+, 10\)\) for"),
    "dict of others": (lambda z: {"out": z}, "a dict of 'out' for"),
    "nothing": (lambda z: None, "a NoneType for"),
    "array": (lambda z: z.detach().numpy(), "a ndarray for"),
    "squeezed": (lambda z: z.squeeze(), r"logits of shape \(10,\) for 1 images: an answer has a row an image"),
    "a class": (lambda z: z.argmax(1), r"logits of shape \(\d+,\) for"),
    "integers": (lambda z: z.long(), "logits of dtype torch.int64: expected floating point"),
    "half the batch": (
        lambda z: z[: len(z) // 2],
        r"logits of shape \(\d+, 10\) for \d+ images: expected",
    ),
    "pixels": (lambda z: z[:, :, None], r"logits of shape \(\d+, 10, 1\)"),
}


@pytest.mark.parametrize("how", GOOD)
def test_outputs_that_name_their_logits_are_taken(how: str) -> None:
    model, plain = Wrapped(perceptron(0), lambda z, x: GOOD[how](z)), perceptron(0)
    for ours, right in ((model, plain), (Ensemble([model, plain]), Ensemble([plain, plain]))):
        assert evaluated(ours, "ifgsm2").record.robust == evaluated(right, "ifgsm2").record.robust
    x = images(N)[0]
    assert torch.equal(AttackView(model)(x), plain(x))


@pytest.mark.parametrize("how", BAD)
def test_of_others_one_line_says_what_came_and_what_was_expected(how: str) -> None:
    change, message = BAD[how]
    model = Wrapped(perceptron(0), lambda z, x: change(z))
    for ours, who in ((model, ""), (Ensemble([perceptron(1), model]), r"member 2 \(Wrapped\): ")):
        with pytest.raises(AttackError, match=f"{who}the model gave {message}") as told:
            evaluated(ours, "ifgsm2")
        assert "\n" not in str(told.value)


def test_members_of_different_classes() -> None:
    with pytest.raises(AttackError, match="the members tell 10, 9 classes apart"):
        evaluated(Ensemble([perceptron(0), Wrapped(perceptron(1), lambda z, x: z[:, :9])]), "ifgsm2")


# Precisions


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_a_network_in_another_precision_gets_images_in_its_own(dtype: torch.dtype, precision: str) -> None:
    x, y = images(N)
    for make in (lambda: trained(members=2), lambda: perceptron(0)):
        model, plain = make().to(dtype).eval(), make().eval()
        x_adv = eb.attacks.get("apgd5").run(model, x, y, THREAT, precision=precision).x_adv
        assert x_adv.dtype == torch.float32
        THREAT.check(x_adv, x)
        found = eb.evaluate(model, suite="ifgsm2+square20", n=N, precision=precision).record
        right = eb.evaluate(plain, suite="ifgsm2+square20", n=N).record
        assert abs(found.robust.robust - right.robust.robust) <= 1


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_images_in_half_precision_are_refused(dtype: torch.dtype) -> None:
    x, y = images(N)
    for attack in ("pgd2", "apgd2", "square2", "arc2", "torchattacks:PGD(steps=1)"):
        with pytest.raises(InvalidValueError, match=f"dtype {dtype}, whose rounding leaves the ball: expected float32"):
            eb.attacks.get(attack)(perceptron(0).to(dtype), x.to(dtype), y, THREAT)


# Integer, frozen and exported networks


def convolutional() -> nn.Module:
    """With batch norm, so that there is something to fold."""
    torch.manual_seed(0)
    layers = [nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(256, 10)]
    return nn.Sequential(*layers).eval()


def static() -> nn.Module:
    engine = "fbgemm" if "fbgemm" in torch.backends.quantized.supported_engines else "qnnpack"
    torch.backends.quantized.engine = engine
    model = nn.Sequential(quantization.QuantStub(), *convolutional(), quantization.DeQuantStub()).eval()
    model.qconfig = quantization.get_default_qconfig(engine)  # type: ignore[assignment]
    quantization.prepare(model, inplace=True)
    model(torch.rand(32, 1, 8, 8))
    return quantization.convert(model)  # type: ignore[no-any-return]


def exported() -> nn.Module:
    shapes = ({0: torch.export.Dim("b")},)
    return torch.export.export(convolutional(), (torch.rand(2, 1, 8, 8),), dynamic_shapes=shapes).module()


FIXED: dict[str, Callable[[], nn.Module]] = {
    "script": lambda: torch.jit.script(convolutional()),
    "traced": lambda: torch.jit.trace(convolutional(), torch.rand(2, 1, 8, 8)),
    "frozen": lambda: torch.jit.freeze(torch.jit.script(convolutional())),
    "exported": exported,
}
INTEGER: dict[str, Callable[[], nn.Module]] = {
    "dynamic": lambda: quantization.quantize_dynamic(perceptron(0), {nn.Linear}, dtype=torch.qint8),
    "static": static,
}


@pytest.fixture
def _deprecations() -> Iterator[None]:
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@pytest.mark.usefixtures("_deprecations")
@pytest.mark.parametrize("how", FIXED)
def test_scripted_frozen_and_exported_networks_are_attacked_as_what_they_were_made_of(how: str) -> None:
    plain = evaluated(convolutional(), "ifgsm2+square20").record
    for wrap in (lambda m: m, lambda m: Ensemble([m])):
        model = wrap(FIXED[how]())
        found = eb.evaluate(model, suite="ifgsm2+square20", n=N, batch_size=5).record
        assert found.robust == plain.robust
        assert found.parameters > 2500


@pytest.mark.usefixtures("_deprecations")
@pytest.mark.parametrize("how", INTEGER)
def test_integer_networks_meet_attacks_without_gradients_and_others_say_why_not(how: str) -> None:
    for wrap in (lambda m: m, lambda m: Ensemble([m])):
        model = wrap(INTEGER[how]()).eval()
        record = evaluated(model, "square20").record
        assert record.parameters == cost.parameters(model) > 0
        with pytest.raises(EnsembleBenchError, match=r"no gradient, which ifgsm2 need: its layers compute in integers"):
            evaluated(model, "ifgsm2")
    other = INTEGER[how]()
    assert eb.attacks.get("square5").run(other, *images(N), THREAT).broken.shape == (N,)


@pytest.mark.usefixtures("_deprecations")
def test_other_integer_weights_have_another_hash() -> None:
    first, same, other = (
        quantization.quantize_dynamic(net, {nn.Linear}, dtype=torch.qint8)
        for net in (perceptron(0), perceptron(0), untrained_perceptron(5))
    )
    hashes = [evaluated(net, "square5").record.weights_hash for net in (first, same, other)]
    assert hashes[0] == hashes[1] != hashes[2]


@pytest.mark.parametrize(
    ("values", "finite"),
    [([1.0, -2.0], True), ([3e38, 3e38], True), ([1.0, float("nan")], False), ([float("inf"), -float("inf")], False)],
)
def test_finite_values_may_overflow_their_sum(values: list[float], finite: bool) -> None:
    assert all_finite(torch.tensor(values)) is finite
