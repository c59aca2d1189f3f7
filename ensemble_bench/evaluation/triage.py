"""Triage: which of the images that stand an attack meets first."""

from typing import Any

import numpy as np
from numpy.typing import NDArray


def nearest_first(block: slice, standing: NDArray[np.bool_], margin: NDArray[Any]) -> NDArray[Any]:
    """The images of a block that are `standing`, those of the largest margin first, and of equal ones the first."""
    rows = block.start + np.flatnonzero(standing[block])
    # Not a number: no attack met the image.
    order = np.argsort(-np.nan_to_num(margin[rows], nan=-np.inf), kind="stable")
    ranked: NDArray[Any] = rows[order]
    return ranked
