"""Trials of the libraries, made in another interpreter; each returns a finding, or raises what the library raises."""

import importlib
import json
import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path

from ensemble_bench.doctor.finding import Finding, one_line
from ensemble_bench.doctor.packages import writable


@dataclass(frozen=True, kw_only=True)
class Trial:
    """A function that tries a library, and the mend if it raises."""

    run: Callable[[], Finding]
    mend: str


def main(names: Sequence[str]) -> None:
    """Make the trials `names` in turn, print each finding as a line of JSON; stop after torch if it has a problem."""
    # What libraries print, from C too, goes to stderr: stdout is for the findings.
    results = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    warnings.simplefilter("ignore")
    for name in names:
        try:
            finding = TRIALS[name].run()
        except Exception as error:
            found = one_line(error.__cause__ or error)
            finding = Finding(name=name, status="problem", found=found, mend=TRIALS[name].mend)
        print(json.dumps(asdict(finding)), file=results, flush=True)
        if (finding.name, finding.status) == ("torch", "problem"):
            break
    # A library that crashes when Python ends has been tried all the same.
    os._exit(0)


def _torch() -> Finding:
    import torch

    torch.zeros(1).numpy()  # fails where NumPy is of another ABI
    built = f"built for CUDA {torch.version.cuda}" if torch.version.cuda else "built for the CPU"
    return Finding(name="torch", status="ok", found=f"{torch.__version__}, {built}")


def _torchvision() -> Finding:
    import torch
    import torchvision

    torchvision.ops.nms(torch.tensor([[0.0, 0.0, 1.0, 1.0]]), torch.ones(1), 0.5)
    found = f"{torchvision.__version__}, its operations run"
    # It refuses to load beside another CUDA version; a build for the CPU has none.
    if torch.version.cuda and not getattr(torchvision.version, "cuda", None):
        return Finding(name="torchvision", status="note", found=f"{found}, but on the CPU alone", mend=PAIR)
    return Finding(name="torchvision", status="ok", found=found)


def _device() -> Finding:
    import torch

    from ensemble_bench.training.hardware import resolve_device, resolve_precision

    device = resolve_device(None)
    float(torch.ones(2, 2, device=device).matmul(torch.ones(2, 2, device=device)).sum())  # is it built for this GPU?
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"CPU with {os.cpu_count()} cores"
    native = resolve_precision("auto", device) == "bf16"
    found = f"{name}, bf16 is {'native' if native else 'emulated: float32 is faster'}"
    if device.type == "cpu" and Path("/proc/driver/nvidia/version").exists():
        mend = "install a torch build for this driver's CUDA version (see nvidia-smi)"
        found = f"{found}; there is an NVIDIA driver that torch does not use"
        return Finding(name="device", status="note", found=found, mend=mend)
    return Finding(name="device", status="ok", found=found)


def _robustbench() -> Finding:
    from ensemble_bench.adapters.robustbench import import_robustbench

    import_robustbench()
    return _imported("robustbench", "robustbench.model_zoo")


def _data_cache() -> Finding:
    from ensemble_bench.data.cache import cache_dir

    mend = "set ENSEMBLE_BENCH_CACHE to a folder that can be written"
    return writable("data cache", cache_dir(), mend=mend)


def _imported(package: str, module: str) -> Finding:
    importlib.import_module(module)
    return Finding(name=package, status="ok", found=f"{metadata.version(package)} imports")


def _install(package: str) -> str:
    return f"pip install '{package}'; if that changes nothing, pip install --force-reinstall --no-deps '{package}'"


PAIR = "pip install --upgrade torch torchvision, both from one place: each torchvision is built for one torch"
ART = "adversarial-robustness-toolbox"
TRIALS: Mapping[str, Trial] = {
    "torch": Trial(run=_torch, mend=PAIR),
    "torchvision": Trial(run=_torchvision, mend=PAIR),
    "device": Trial(run=_device, mend="install a torch build for this GPU, or hide it with CUDA_VISIBLE_DEVICES=''"),
    "data cache": Trial(run=_data_cache, mend=_install("ensemble-bench")),
    "torchattacks": Trial(run=lambda: _imported("torchattacks", "torchattacks"), mend=_install("torchattacks>=3.5.1")),
    "pyautoattack": Trial(run=lambda: _imported("pyautoattack", "pyautoattack"), mend=_install("pyautoattack>=0.2.0")),
    "robustbench": Trial(run=_robustbench, mend=_install("robustbench>=1.1.1")),
    ART: Trial(run=lambda: _imported(ART, "art.estimators.classification"), mend=_install(f"{ART}>=1.20.1")),
}
