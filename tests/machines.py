"""Runs the tests that call a network on other machines' terms: processors, threads, Pythons, oldest packages.

    make test-machines                             every setting, one after the other
    make test-machines SETTINGS="avx2 oldest"      some of them
    make test-machines ARGS="tests/attacks -x"     further words for pytest

Ends with a table of what passed, failed and was skipped; exits with 1 if anything failed.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from xml.etree import ElementTree

ROOT = Path(__file__).resolve().parents[1]
PYTEST = ["-m", "pytest", "-n", "2", "--dist", "loadfile", "-m", "network"]


@dataclass(frozen=True, kw_only=True)
class Setting:
    """Variables of the environment, or an environment of packages of its own where `python` is named."""

    variables: dict[str, str] = field(default_factory=dict)
    processor: tuple[str, ...] = ()  # the processors that can run it, by PyTorch's names; empty for any
    python: str = ""
    resolution: str = "highest"  # "lowest-direct": the oldest versions that setup.cfg allows


# Each value that matters stands in one of them: a whole run for each would take hours. Where one fails, the variables
# can be set by hand, one at a time.
SETTINGS = {
    "default": Setting(variables={"OMP_NUM_THREADS": "1"}),
    "avx2": Setting(
        variables={"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2", "OMP_NUM_THREADS": "2"},
        processor=("AVX2", "AVX512"),
    ),
    "avx512": Setting(variables={"ONEDNN_MAX_CPU_ISA": "AVX512_CORE"}, processor=("AVX512",)),
    "rounding": Setting(variables={"TEST_ROUNDING": "1", "OMP_NUM_THREADS": "4"}),
    "python-3.12": Setting(python="3.12"),
    "python-3.13": Setting(python="3.13"),
    "oldest": Setting(python="3.11", resolution="lowest-direct"),
}
VARIABLES = {name for setting in SETTINGS.values() for name in setting.variables}


class SkipSetting(Exception):
    """This machine cannot run the setting; the message says why."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One line of the table; a setting that did not run has a note instead of counts."""

    name: str
    passed: int = 0
    failed: int = 0
    skipped: int = 0
    seconds: float = 0
    note: str = ""


def main() -> int:
    """Runs the settings named on the command line, every one by default."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--venv", type=Path, default=Path(".venv"), help="the environment; others are made beside it")
    parser.add_argument("--settings", default="", help=f"some of: {' '.join(SETTINGS)}")
    parser.add_argument("pytest_args", nargs=argparse.REMAINDER, metavar="-- …", help="further words for pytest")
    options = parser.parse_args()
    names = options.settings.split() or list(SETTINGS)
    if unknown := sorted(set(names) - set(SETTINGS)):
        parser.error(f"no setting {', '.join(unknown)}; there are {', '.join(SETTINGS)}")
    venv = ROOT / options.venv
    rows = []
    for number, name in enumerate(names, 1):
        print(f"\n== {name} ({number} of {len(names)})", flush=True)
        rows.append(run(name, venv, [word for word in options.pytest_args if word != "--"]))
    print(*table(rows), sep="\n")
    return int(any(row.failed for row in rows))


def run(name: str, venv: Path, pytest_args: list[str]) -> Row:
    """Runs the tests in one setting; an environment that cannot be made counts as one failure."""
    setting, start = SETTINGS[name], time.monotonic()
    try:
        python = interpreter(setting, name, venv)
    except SkipSetting as reason:
        return Row(name=name, note=f"skipped: {reason}")
    except subprocess.CalledProcessError as error:
        note = f"failed: {' '.join(map(str, error.cmd))}"
        return Row(name=name, failed=1, seconds=time.monotonic() - start, note=note)
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        command: list[str | Path] = [python, *PYTEST, f"--junitxml={report}", *pytest_args]
        code = subprocess.run(command, cwd=ROOT, env=without_variables() | setting.variables).returncode
        seconds = time.monotonic() - start
        if not report.exists():
            return Row(name=name, failed=1, seconds=seconds, note=f"failed: pytest ended with {code} and no report")
        return counted(name, code, seconds, report)


def counted(name: str, code: int, seconds: float, report: Path) -> Row:
    """The counts of pytest's report; an exit status that they do not explain is one failure more."""
    suite = next(ElementTree.parse(report).iter("testsuite"))
    tests, failures, errors, skipped = (int(suite.get(key, 0)) for key in ("tests", "failures", "errors", "skipped"))
    failed = failures + errors
    note = "no test was selected" if code == 5 else "" if failed or not code else f"pytest ended with {code}"
    counts = {"passed": tests - failed - skipped, "failed": failed + bool(note), "skipped": skipped}
    return Row(name=name, **counts, seconds=seconds, note=note)


def interpreter(setting: Setting, name: str, venv: Path) -> Path:
    """The Python to run the tests with; raises SkipSetting where processor or Python are missing."""
    if setting.processor and not (found := processor(venv / "bin/python")).startswith(setting.processor):
        raise SkipSetting(f"needs {' or '.join(setting.processor)}, and this processor is {found} to PyTorch")
    if not setting.python:
        return venv / "bin/python"
    own = venv.with_name(f"{venv.name}-{name}")
    stamp = own / ".installed"
    if not stamp.exists() or stamp.stat().st_mtime < (ROOT / "setup.cfg").stat().st_mtime:
        install(setting, venv / "bin/uv", own)
        stamp.touch()
    return own / "bin/python"


def processor(python: Path) -> str:
    """What PyTorch takes this processor for, as AVX2, AVX512 or DEFAULT."""
    script = "import torch; print(torch.backends.cpu.get_cpu_capability())"
    return subprocess.check_output([python, "-c", script], env=without_variables(), text=True).strip()


def without_variables() -> dict[str, str]:
    """The caller's environment without what settings set: "default" is this machine's, whatever the caller has set."""
    return {key: value for key, value in os.environ.items() if key not in VARIABLES}


def install(setting: Setting, uv: Path, own: Path) -> None:
    """Makes an environment with uv, afresh; raises SkipSetting where that Python is not installed."""
    # Without PYENV_VERSION the shims of pyenv answer for the one version that is chosen globally.
    environment = os.environ | {"PYENV_VERSION": setting.python}
    find: list[str | Path] = [uv, "python", "find", "--no-python-downloads", "--system", setting.python]
    found = subprocess.run(find, env=environment, capture_output=True, text=True, cwd=ROOT)
    if found.returncode:
        raise SkipSetting(f"Python {setting.python} is not installed")
    print(f"installs the package and all it needs, {setting.resolution} versions, about 6 GB, into {own}", flush=True)
    subprocess.run(
        [uv, "venv", "--quiet", "--clear", "--seed", "--python", found.stdout.strip(), own], check=True, cwd=ROOT
    )
    pip: list[str | Path] = [uv, "pip", "install", "--quiet", "--python", own / "bin/python"]
    packages = ["--resolution", setting.resolution, "-e", ".[test]"]
    subprocess.run([*pip, *packages], check=True, cwd=ROOT)
    # The wheel of torchattacks holds files of an old robustbench, and may have been unpacked last.
    subprocess.run([*pip, "--reinstall-package", "robustbench", *packages], check=True, cwd=ROOT)


def table(rows: list[Row]) -> Iterator[str]:
    """The lines of the table at the end."""
    yield f"\n{'setting':15}{'passed':>8}{'failed':>8}{'skipped':>9}{'seconds':>9}"
    for row in rows:
        counts = f"{row.passed:8}{row.failed:8}{row.skipped:9}{row.seconds:9.0f}"
        yield f"{row.name:15}{counts if row.seconds else '':34}  {row.note}".rstrip()


if __name__ == "__main__":
    sys.exit(main())
