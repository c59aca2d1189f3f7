"""PMA against a plain loop over softmax probabilities, and its loss against the margin of probabilities itself."""

import math

import torch
from small_models import Linear, images, trained
from torch import Tensor

from ensemble_bench import ThreatModel, attacks, losses

THREAT = ThreatModel(eps=0.3)


def probabilities(logits: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Largest probability of a wrong class, and that of the right one."""
    probs = logits.softmax(dim=1)
    return probs.scatter(1, y[:, None], 0).amax(dim=1), probs.gather(1, y[:, None])[:, 0]


def random_logits(scale: float) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    logits = scale * torch.randn(40, 6, generator=generator, dtype=torch.float64)
    return logits.requires_grad_(), torch.randint(6, (40,), generator=generator)


def test_the_loss_points_where_the_margin_of_probabilities_does() -> None:
    logits, y = random_logits(3.0)
    wrong, right = probabilities(logits, y)
    torch.testing.assert_close(losses.probability_margin(logits, y), (1 + wrong - right).log())
    torch.testing.assert_close(losses.wrong_probability(logits, y), wrong.log())
    for ours, plain in ((losses.probability_margin, wrong - right), (losses.wrong_probability, wrong)):
        (found,) = torch.autograd.grad(ours(logits, y).sum(), logits)
        (expected,) = torch.autograd.grad(plain.sum(), logits, retain_graph=True)
        cosine = torch.nn.functional.cosine_similarity(found, expected)
        torch.testing.assert_close(cosine, torch.ones_like(cosine))


def test_the_loss_has_a_gradient_where_the_softmax_has_none() -> None:
    logits = torch.tensor([[400.0, 3.0, 1.0]], requires_grad=True)
    y = torch.tensor([0])
    wrong, right = probabilities(logits, y)
    assert not torch.autograd.grad((wrong - right).sum(), logits)[0].any()
    (grad,) = torch.autograd.grad(losses.probability_margin(logits, y).sum(), logits)
    # p_y = 1 − δ, and p_j = s·δ for s = 1/(1 + e⁻²): log(p_j + δ) is z_j or z_2 weighted by their shares, minus z_y.
    share = 1 / (1 + math.exp(-2))
    expected = torch.tensor([[-1.0, (share + share) / (1 + share), (1 - share) / (1 + share)]])
    torch.testing.assert_close(grad, expected)


def test_steps_are_those_of_a_plain_loop() -> None:
    """Of two stages, the first of 3 steps and the second of 4, with p_j and p_j − p_y in their own words."""
    generator = torch.Generator().manual_seed(1)
    model = Linear(torch.randn(4, 12, generator=generator), torch.randn(4, generator=generator)).double()
    x = 0.3 + 0.4 * torch.rand(9, 1, 3, 4, generator=generator, dtype=torch.float64)
    y = model(x).argmin(dim=1)  # far from any boundary, so that both stages have to walk
    right = model(x).argmax(dim=1)
    for labels in (y, right):
        x_adv, ascended = x.clone(), []
        for i in range(7):
            x_adv.requires_grad_()
            wrong, own = probabilities(model(x_adv), labels)
            value = wrong if i < 3 else wrong - own
            (grad,) = torch.autograd.grad(value.sum(), x_adv)
            size = THREAT.eps * (1 + math.cos(math.pi * (i / 3 if i < 3 else (i - 3) / 4)))
            x_adv = (x_adv.detach() + size * grad.sign()).clamp(x - THREAT.eps, x + THREAT.eps).clamp(0, 1)
            ascended.append(value.detach())
        attack = attacks.get("pma7", random_start=False, stop_early=False, keep="last")
        torch.testing.assert_close(attack(model, x, labels, THREAT), x_adv)
    assert not torch.equal(ascended[2], ascended[3])


def test_it_breaks_more_than_a_few_plain_steps() -> None:
    (x, y), threat = images(200), ThreatModel(eps=0.1)
    for members in (1, 2):
        few, found = (attacks.get(name).run(trained(members=members), x, y, threat) for name in ("ifgsm2", "pma20"))
        assert found.broken.sum() > few.broken.sum() + 5


def test_a_single_step_is_one_on_the_margin_of_probabilities() -> None:
    (x, y), model = images(10), trained()
    found = attacks.get("pma1", random_start=False, stop_early=False, keep="last")(model, x, y, ThreatModel(eps=0.1))
    x_adv = x.clone().requires_grad_()
    (grad,) = torch.autograd.grad(losses.probability_margin(model(x_adv), y).sum(), x_adv)
    torch.testing.assert_close(found, (x + 0.1 * grad.sign()).clamp(0, 1))
