"""An evaluation as jobs: done one by one in any process, they leave what one process leaves, images included."""

from pathlib import Path

import pytest
from small_models import ARCHITECTURE, trained

from ensemble_bench.errors import InvalidValueError
from ensemble_bench.evaluation import job as jobs
from ensemble_bench.evaluation.request import Request
from ensemble_bench.evaluation.runner import evaluate_request
from ensemble_bench.experiment import evaluations, tasks
from ensemble_bench.experiment.evaluations import jobs_of
from ensemble_bench.models import checkpoint
from ensemble_bench.progress import silent

N, BLOCK = 30, 12


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (jobs, evaluations):
        monkeypatch.setattr(module, "BLOCK", BLOCK)


def runs_in(folder: Path) -> tuple[str, ...]:
    meta = {"recipe": "singleadv", "dataset": "digits", "threat": {"norm": "linf", "eps": 24 / 255}}
    for name in ("a-s0", "b-s0"):
        checkpoint.save(folder / name / "best.safetensors", trained(), ARCHITECTURE, meta)
    return tuple(str(folder / name) for name in ("a-s0", "b-s0"))


def test_jobs_save_the_images_of_one_process(tmp_path: Path) -> None:
    files = []
    for name in ("one", "many"):
        images = tmp_path / name / "{model}.safetensors"
        request = Request(models=runs_in(tmp_path / name), suite="ifgsm5+margin10", n=N, save_images=images)
        if name == "many":
            jobs = jobs_of(request)
            assert len(jobs) == 2 * (-(-N // BLOCK) + 1)
            for job in jobs:
                tasks.perform(job.call, job.arguments, silent)
            assert len(list((tmp_path / name).glob("*.safetensors"))) == 2
        before = {path: path.stat().st_mtime_ns for path in (tmp_path / name).glob("*.safetensors")}
        records = evaluate_request(request)
        assert all(record.images for record in records)
        found = sorted((tmp_path / name).glob("*.safetensors"))
        assert [path.name for path in found] == ["a-s0-best.safetensors", "b-s0-best.safetensors"]
        assert name == "one" or {path: path.stat().st_mtime_ns for path in found} == before  # nothing is made again
        files.append([path.read_bytes() for path in found])
    assert files[0] == files[1]


def test_several_models_need_a_file_each(tmp_path: Path) -> None:
    request = Request(models=runs_in(tmp_path), suite="ifgsm5", n=N, save_images=tmp_path / "adv.safetensors")
    with pytest.raises(InvalidValueError, match="more than one evaluation"):
        jobs_of(request)
