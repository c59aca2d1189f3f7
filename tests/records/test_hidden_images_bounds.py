"""Capture and recapture: what holds of the estimate and its interval whatever the attacks caught."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from ensemble_bench.records.hidden_images import hidden_images


@settings(max_examples=150)
@given(data=st.data(), attacks=st.integers(1, 6), images=st.integers(1, 30))
def test_the_estimate_lies_in_its_interval_and_both_among_those_that_stand(
    data: st.DataObject, attacks: int, images: int
) -> None:
    row = st.lists(st.booleans(), min_size=images, max_size=images)
    caught = np.array([data.draw(row) for _ in range(attacks)])
    survives = np.array(data.draw(row))
    sampled = int(survives.sum())
    standing = data.draw(st.integers(sampled, 10 * sampled))
    estimate, low, high = hidden_images(caught, survives, standing)
    assert 0 <= low <= estimate <= high <= standing
    # At least the share of the sampled survivors that fell, and the order of attacks and images is nothing.
    if sampled:
        fell = int((caught.any(axis=0) & survives).sum())
        assert estimate >= standing * fell / sampled - 1e-9
        assert low <= standing * fell / sampled + 1e-9
    order, place = data.draw(st.permutations(range(attacks))), data.draw(st.permutations(range(images)))
    assert hidden_images(caught[order][:, place], survives[place], standing) == (estimate, low, high)
