"""Counter-based noise: a function of (seed, stream, restart, id) alone, uniform, and different for each of them."""

import numpy as np
import pytest
import torch
from chance import FALSE_ALARM
from scipy import stats

from ensemble_bench.randomness import generator, uniform

IDS = torch.tensor([5, 0, 123_456, 7])


def test_noise_depends_on_the_id_not_on_the_batch() -> None:
    together = uniform((1, 8, 8), IDS, seed=3, stream="pgd20")
    for row, image in enumerate(IDS):
        assert torch.equal(uniform((1, 8, 8), image[None], seed=3, stream="pgd20")[0], together[row])
    order = torch.tensor([2, 0, 3, 1])
    assert torch.equal(uniform((1, 8, 8), IDS[order], seed=3, stream="pgd20"), together[order])
    assert uniform((1, 8, 8), IDS[:0], seed=3, stream="pgd20").shape == (0, 1, 8, 8)


def test_seed_stream_restart_and_id_all_matter() -> None:
    base = uniform((64,), IDS, seed=0, stream="a")
    for other in (
        uniform((64,), IDS, seed=1, stream="a"),
        uniform((64,), IDS, seed=0, stream="b"),
        uniform((64,), IDS, seed=0, stream="a", restart=1),
        uniform((64,), IDS + 1, seed=0, stream="a"),
    ):
        assert (base != other).float().mean() > 0.99
    # Joined names must not collide: seed 1 of stream "1/a" is not seed 1/1 of stream "a".
    assert not torch.equal(
        uniform((8,), IDS, seed=0, stream="x", restart=11), uniform((8,), IDS, seed=0, stream="x/1", restart=1)
    )


def test_streams_of_neighbouring_ids_do_not_overlap() -> None:
    """A large image uses many counters; none of its numbers may be those of the next ids."""
    noise = uniform((3, 32, 32), torch.arange(8), seed=0, stream="a").numpy()
    pairs = {tuple(p) for row in noise for p in np.lib.stride_tricks.sliding_window_view(row.ravel(), 3)[::1]}
    assert len(pairs) == 8 * (3 * 32 * 32 - 2)


def looks_uniform(noise: np.ndarray) -> bool:
    return bool(stats.kstest(noise.flatten(), "uniform", args=(-1, 2)).pvalue > FALSE_ALARM)


def looks_uncorrelated(noise: np.ndarray) -> bool:
    """Whether no two rows correlate beyond chance; a correlation of n numbers has a standard deviation of 1/√n."""
    rows, n = noise.shape
    pairs = rows * (rows - 1) / 2
    correlation = np.corrcoef(noise) - np.eye(rows)
    return bool(abs(correlation).max() < stats.norm.isf(FALSE_ALARM / 2 / pairs) / np.sqrt(n))


def test_noise_is_uniform_and_uncorrelated_between_ids() -> None:
    """At most one false alarm in 10⁶ each; noise drawn slightly inwards raises one, so do two rows that share half."""
    noise = uniform((500,), torch.arange(200), seed=0, stream="a")
    assert noise.dtype == torch.float32
    assert noise.min() >= -1
    assert noise.max() < 1
    assert looks_uniform(noise.numpy())
    assert not looks_uniform(np.sign(noise.numpy()) * abs(noise.numpy()) ** 1.1)
    assert looks_uncorrelated(noise.numpy())
    shared = noise.numpy().copy()
    shared[1] = 0.5 * shared[0] + 0.75**0.5 * shared[1]
    assert not looks_uncorrelated(shared)


def test_reference_values_stand() -> None:
    """Recorded results rest on these numbers: NumPy's Philox, from its documented key and counter."""
    import hashlib

    key = int.from_bytes(hashlib.blake2b(b"0/pgd20/0", digest_size=16).digest(), "little")
    expected = np.random.Generator(np.random.Philox(key=key, counter=9 << 192)).random(6, dtype=np.float32) * 2 - 1
    found = uniform((6,), torch.tensor([9]), seed=0, stream="pgd20")
    np.testing.assert_array_equal(found[0].numpy(), expected.astype(np.float32))


def test_global_random_states_are_left_alone() -> None:
    torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()
    uniform((4,), IDS, seed=0, stream="a")
    generator("cpu", "b")
    assert torch.equal(torch.get_rng_state(), torch_state)
    np.testing.assert_array_equal(np.random.get_state()[1], numpy_state)


@pytest.mark.parametrize("parts", [("augment", 0, 2), ("augment", 1, 1), ("order", 0, 1)])
def test_generators_differ_by_their_parts(parts: tuple[object, ...]) -> None:
    def draw(*names: object) -> torch.Tensor:
        return torch.rand(4, generator=generator("cpu", *names))

    assert torch.equal(draw("augment", 0, 1), draw("augment", 0, 1))
    assert not torch.equal(draw("augment", 0, 1), draw(*parts))
