"""The embedded data set: scikit-learn's 1,797 handwritten digits of 8x8 pixels (a part of UCI's Optdigits)."""

from pathlib import Path

import numpy as np
import torch

from ensemble_bench.data.source import DataSource, Rows, fingerprint, stratified_draw

CLASSES = tuple(str(digit) for digit in range(10))
TEST_SIZE = 360
VALIDATION_SIZE = 144
# Over the 1,437 images that are not test, in units of the pixel range.
MEAN, STD = (0.3058,), (0.3764,)


def open_digits(data_dir: str | Path | None = None) -> DataSource:
    """Open the digits: 1,293 train, 144 validation and 360 test images, drawn with equal class shares.

    They ship with scikit-learn, so `data_dir` is not used. Test and validation are in random order, because the source
    is grouped by writer and its first n images are those of a few people.
    """
    from sklearn.datasets import load_digits

    digits = load_digits()
    everything = Rows(
        images=torch.from_numpy(digits.images.astype(np.uint8)).unsqueeze(1),
        labels=torch.from_numpy(digits.target.astype(np.int64)),
        ids=torch.arange(len(digits.target)),
    )
    test_rows, rest_rows = stratified_draw(everything.labels, TEST_SIZE)
    test, rest = everything.at(test_rows), everything.at(rest_rows)
    validation_rows, train_rows = stratified_draw(rest.labels, VALIDATION_SIZE)
    splits = {"train": rest.at(train_rows), "validation": rest.at(validation_rows), "test": test}
    return DataSource(
        dataset="digits",
        name="digits",
        classes=CLASSES,
        image_shape=(1, 8, 8),
        mean=MEAN,
        std=STD,
        default_eps=32 / 255,
        scale=16,
        # Without their scale, as in records since the first; no other data set is opened by this name.
        fingerprint=fingerprint({"train": (rest.images, rest.labels), "test": (test.images, test.labels)}),
        read=splits.__getitem__,
    )
