"""Decode the images of a data set once, and keep them for the next time."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from ensemble_bench.data.arrange import Arranged, Chosen, Labels, arrange
from ensemble_bench.data.cache import content_key, read_entry, write_entry
from ensemble_bench.data.decode import Encoded, decode, format_of
from ensemble_bench.data.memory import available, check_fits


def decoded(
    root: Path,
    files: Sequence[Path],
    images: Mapping[str, Sequence[Encoded]],
    labels: Mapping[str, Labels],
    chosen: Mapping[str, Chosen],
    *,
    resize: int | None,
    crop: int | None,
) -> Arranged:
    """The chosen images of every split, from the cache where they were decoded from the same `files` before.

    Raises DataError for images that cannot be decoded into one format, or that do not fit into memory.
    """
    key = content_key(root, files, layout=f"splits resize={resize} crop={crop}")
    if (kept := read_entry(key)) is not None:
        entry, notes = kept
        try:
            found = arrange(chosen, labels, {split: entry[f"{split}_images"] for split in chosen})
            # One wrong bit would be other images under the same fingerprint.
            if found.fingerprint == notes["fingerprint"]:
                return found
        except (KeyError, ValueError, RuntimeError):
            pass
    every = [image for one in chosen.values() for image in _taken(images, one)]
    form = format_of(every, resize=resize, crop=crop)
    check_fits(len(every), form.shape, str(root))
    pixels = {split: torch.from_numpy(decode(_taken(images, one), form)) for split, one in chosen.items()}
    found = arrange(chosen, labels, pixels)
    # Writing takes the images' size in memory once more.
    if sum(part.numel() for part in found.images.values()) < available():
        write_entry(key, {f"{s}_images": part for s, part in found.images.items()}, {"fingerprint": found.fingerprint})
    return found


def _taken(images: Mapping[str, Sequence[Encoded]], one: Chosen) -> list[Encoded]:
    part = images[one.part]
    return [part[row] for row in one.rows.tolist()]
