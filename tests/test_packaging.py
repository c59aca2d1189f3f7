"""What is installed, what an install needs, and that `make` sets up once."""

import configparser
import os
import re
import subprocess
import sys
import zipfile
from collections import Counter
from importlib.metadata import entry_points, metadata, requires
from pathlib import Path

import pytest

import ensemble_bench
from ensemble_bench.__main__ import main

ROOT = Path(__file__).resolve().parents[1]
HARD = ("torch", "torchattacks", "robustbench", "adversarial-robustness-toolbox", "pandas", "matplotlib")


@pytest.fixture(scope="module")
def setup_cfg() -> configparser.ConfigParser:
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg", encoding="utf-8")
    return parser


def test_metadata_says_what_setup_cfg_says(setup_cfg: configparser.ConfigParser) -> None:
    found = metadata("ensemble-bench")
    assert found["Version"] == ensemble_bench.__version__ == setup_cfg["metadata"]["version"]
    assert found["Requires-Python"] == ">=3.11"
    assert "MIT" in (found["License-Expression"] or found["License"])
    assert set(found.get_all("Provides-Extra") or []) >= {"test", "dev"}
    needed = {re.split(r"[<>=!~; ]", line)[0] for line in requires("ensemble-bench") or [] if "extra ==" not in line}
    assert needed >= set(HARD)


def test_console_script_is_the_command_line() -> None:
    (script,) = entry_points(group="console_scripts", name="ensemble-bench")
    assert script.load() is main


def test_wheel_holds_every_module(tmp_path: Path) -> None:
    """Built from a copy, as building writes beside the sources."""
    source = tmp_path / "source"
    for path in (
        *ROOT.glob("ensemble_bench/**/*"),
        *(ROOT / name for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE")),
    ):
        if path.is_file() and "__pycache__" not in path.parts:
            target = source / path.relative_to(ROOT)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(path.read_bytes())
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "-q",
        "--no-deps",
        "--no-build-isolation",
        "--no-index",
        "-w",
        str(tmp_path),
    ]
    subprocess.run([*command, str(source)], check=True, capture_output=True, text=True)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        packed = {name for name in archive.namelist() if name.startswith("ensemble_bench/")}
        assert any(name.endswith("LICENSE") for name in archive.namelist())
    expected = {
        path.relative_to(ROOT).as_posix()
        for path in ROOT.glob("ensemble_bench/**/*")
        if path.suffix in (".py", ".html", ".css", ".js") or path.name == "py.typed"
    }
    assert packed == expected


def test_core_imports_without_the_toolkits() -> None:
    """Training and evaluation with the project's own attacks run where only torch and the like are installed.

    Four modules of the adapters hold classes that derive from a toolkit's, and are imported for nothing else.
    """
    code = """
import importlib, pkgutil, sys
for name in ("torchattacks", "robustbench", "art", "pyautoattack"):
    sys.modules[name] = None  # importing it raises
import ensemble_bench
derived = {"art_attack", "art_classifier", "art_trainer", "torchattacks_attack"}
for module in pkgutil.walk_packages(ensemble_bench.__path__, "ensemble_bench."):
    if module.name.rpartition(".")[2] not in {"__main__", *derived}:
        importlib.import_module(module.name)
assert not derived & {name.rpartition(".")[2] for name in sys.modules}
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_records_reports_and_leaderboard_do_not_import_torch() -> None:
    code = """
import sys
import ensemble_bench.records, ensemble_bench.reports, ensemble_bench.leaderboard, ensemble_bench.progress
print([name for name in ("torch", "matplotlib") if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


@pytest.fixture
def fake_venv(tmp_path: Path) -> Path:
    """An environment whose python notes what it is asked instead of doing it."""
    folder = tmp_path / "venv"
    (folder / "bin").mkdir(parents=True)
    python = folder / "bin" / "python"
    python.write_text(
        f'#!/bin/sh\necho "$@" >> "{tmp_path}/calls"\n'
        f'[ ! -e "{tmp_path}/broken" ] || case "$*" in *install*) exit 1;; esac\n'
    )
    python.chmod(0o755)
    return folder


def make(*arguments: str) -> subprocess.CompletedProcess[str]:
    # Under `make test` these would hand its own VENV and ARGS on.
    environment = {
        name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "VENV", "ARGS", "PYTHON")
    }
    return subprocess.run(["make", "-C", str(ROOT), *arguments], capture_output=True, text=True, env=environment)


def calls(fake_venv: Path) -> list[str]:
    """What the fake python was asked since the last look."""
    log = fake_venv.parent / "calls"
    lines = log.read_text().splitlines() if log.exists() else []
    log.unlink(missing_ok=True)
    return lines


def test_make_installs_once_and_again_when_setup_cfg_is_newer(fake_venv: Path) -> None:
    venv = f"VENV={fake_venv}"
    assert make("install", venv).returncode == 0
    assert any("pip" in line and "install" in line and ".[test]" in line for line in calls(fake_venv))
    done = make("test", venv, "ARGS=-k nothing")
    assert calls(fake_venv) == ["-m pytest -n 2 --dist loadfile -k nothing"]
    assert re.search(r"test: done in \d+ s", done.stdout)
    assert make("demo", venv).returncode == 0
    assert calls(fake_venv) == ["-m ensemble_bench demo"]
    stamp = fake_venv / ".installed"
    older = (ROOT / "setup.cfg").stat().st_mtime - 10
    os.utime(stamp, (older, older))
    assert make("install", venv).returncode == 0
    assert any("install" in line for line in calls(fake_venv))


def test_make_does_a_half_finished_install_again(fake_venv: Path) -> None:
    broken = fake_venv.parent / "broken"
    broken.touch()
    assert make("test", f"VENV={fake_venv}").returncode != 0
    assert not any("pytest" in line for line in calls(fake_venv))
    broken.unlink()
    assert make("test", f"VENV={fake_venv}").returncode == 0
    lines = calls(fake_venv)
    assert any("install" in line for line in lines)
    assert lines[-1].startswith("-m pytest")


def test_make_names_a_python_that_is_too_old(tmp_path: Path) -> None:
    old = tmp_path / "python3.9"
    old.write_text('#!/bin/sh\n[ "$1" = -V ] && echo "Python 3.9.2" && exit 0\nexit 1\n')
    old.chmod(0o755)
    done = make("install", f"VENV={tmp_path / 'venv'}", f"PYTHON={old}")
    assert done.returncode != 0
    assert f"needs Python 3.11 or newer, but {old} is Python 3.9.2" in done.stderr
    assert not (tmp_path / "venv").exists()


def test_files_of_tests_have_names_of_their_own() -> None:
    """pytest imports them by these, and so do those that share what another holds."""
    names = Counter(path.name for path in (ROOT / "tests").rglob("test_*.py"))
    assert [name for name, count in names.items() if count > 1] == []


def test_ci_runs_what_the_readme_says() -> None:
    script = (ROOT / ".ci" / "run").read_text()
    assert "make test" in script
    assert os.access(ROOT / ".ci" / "run", os.X_OK)
    subprocess.run(["bash", "-n", str(ROOT / ".ci" / "run")], check=True)
    readme = (ROOT / "README.md").read_text()
    assert "make demo" in readme
    assert "make test" in readme
