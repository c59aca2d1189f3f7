"""A little of tests/chaos/run.py: one training killed, on a full disk, in company and with a wrong bit."""

import random
from pathlib import Path

import pytest
from disturbing import SCENES, disturb


@pytest.mark.slow
def test_a_disturbed_training_ends_with_the_files_of_one_that_nobody_disturbed(tmp_path: Path) -> None:
    (train,) = [scene for scene in SCENES if scene.name == "train"]
    found = disturb(train, tmp_path, random.Random(0), kills=1, disks=1, flips=1)
    assert found.faults == []
    assert found.counts == {"kills": 1, "disks": 1, "pairs": 1, "flips": 1}
