"""`doctor` finds what would fail, names the mend, and never breaks down itself."""

import base64
import hashlib
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from ensemble_bench.doctor import Finding, checks, examine, isolation, packages, render, would_fail
from ensemble_bench.doctor.trials import TRIALS

MEND = "pip install --force-reinstall --no-deps robustbench==1.1.1"
NEW = {"robustbench/__init__.py": "new = 1\n", "robustbench/eval.py": "", "robustbench/zoo.py": "models = 76\n"}
OLD = {"robustbench/__init__.py": "old = 1\n", "robustbench/eval.py": "", "robustbench/zoo.py": "models = 57\n"}
ATTACKS = {"torchattacks/__init__.py": ""}


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of packages that stands before all others."""
    folder = tmp_path / "site-packages"
    folder.mkdir()
    monkeypatch.syspath_prepend(folder)
    return folder


def install(site: Path, name: str, version: str, files: Mapping[str, str], metadata: str = "") -> None:
    """Write files, metadata and RECORD as pip does: what other packages put there is overwritten."""
    record = []
    for path, text in files.items():
        (site / path).parent.mkdir(parents=True, exist_ok=True)
        (site / path).write_text(text)
        digest = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).decode().rstrip("=")
        record.append(f"{path},sha256={digest},{len(text)}")
    info = site / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir(exist_ok=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{metadata}")
    (info / "RECORD").write_text("\n".join([*record, f"{info.name}/RECORD,,", ""]))


def told(check: Callable[[], Iterator[Finding]]) -> list[tuple[str, str, str, str]]:
    return [(finding.status, finding.name, finding.found, finding.mend) for finding in check()]


# The files of robustbench


def test_torchattacks_installed_last_is_found_by_hash_and_its_mend_mends(site: Path) -> None:
    install(site, "robustbench", "1.1.1", NEW)
    install(site, "torchattacks", "3.5.1", {**ATTACKS, **OLD})
    wrong = "2 of 3 are not those of robustbench 1.1.1: 2 from torchattacks"  # one is the same in both
    assert told(packages.robustbench_files) == [("problem", "robustbench's files", wrong, MEND)]
    install(site, "robustbench", "1.1.1", NEW)  # what the mend does
    fine = ("ok", "robustbench's files", "all 3 are those of robustbench 1.1.1", "")
    assert told(packages.robustbench_files) == [fine]


def test_files_that_are_missing_or_changed_are_told_apart(site: Path) -> None:
    install(site, "robustbench", "1.1.1", NEW)
    install(site, "torchattacks", "3.5.1", {**ATTACKS, **OLD})
    (site / "robustbench" / "__init__.py").unlink()  # as `pip uninstall torchattacks` does
    (site / "robustbench" / "eval.py").write_text("edited = True\n")
    (finding,) = packages.robustbench_files()
    assert finding.found.endswith(
        "3 of 3 are not those of robustbench 1.1.1: 1 from torchattacks, 1 missing, 1 changed"
    )
    assert (finding.status, finding.mend) == ("problem", MEND)


def test_without_hashes_nothing_is_claimed(site: Path) -> None:
    install(site, "robustbench", "1.1.1", NEW)
    (site / "robustbench-1.1.1.dist-info" / "RECORD").write_text("robustbench/__init__.py,,\n")
    assert told(packages.robustbench_files) == []
    (site / "robustbench-1.1.1.dist-info" / "RECORD").unlink()
    assert told(packages.robustbench_files) == []


# Versions


def test_requirements_that_are_missing_or_of_another_version(site: Path) -> None:
    wanted = (
        "numpy>=99",
        "no-such-package>=1",
        "pytest>=1",
        'pip>=99; extra == "dev"',
        'pip>=99; python_version < "3"',
    )
    metadata = "".join(f"Requires-Dist: {text}\n" for text in wanted)
    install(site, "ensemble-bench", "9.9", {}, metadata)
    import numpy

    have = f"numpy>=99 is required, {numpy.__version__} is installed"
    none = "no-such-package>=1 is required, and not installed"
    assert told(packages.requirements) == [
        ("problem", "numpy", have, "pip install 'numpy>=99'"),
        ("problem", "no-such-package", none, "pip install 'no-such-package>=1'"),
    ]
    install(site, "ensemble-bench", "9.9", {}, "Requires-Dist: numpy>=1\n")
    assert told(packages.requirements) == [("ok", "requirements", "all of ensemble-bench 9.9 are met", "")]


def test_python_is_held_to_what_the_package_says(site: Path) -> None:
    here = sys.version.split()[0]
    install(site, "ensemble-bench", "9.9", {}, "Requires-Python: >=99\n")
    mend = "make an environment with Python >=99"
    assert told(packages.python_version) == [("problem", "python", here, mend)]
    install(site, "ensemble-bench", "9.9", {}, "Requires-Python: >=3.11\n")
    assert told(packages.python_version) == [("ok", "python", here, "")]


def test_pins_of_the_toolkits_are_notes(site: Path) -> None:
    install(site, "torchattacks", "3.5.1", ATTACKS, "Requires-Dist: requests (~=0.1)\nRequires-Dist: pytest\n")
    (note,) = [finding for finding in packages.other_pins() if finding.found.startswith("torchattacks")]
    assert (note.status, note.name) == ("note", "requests")
    assert note.found.startswith("torchattacks 3.5.1 asks for requests~=0.1, 2.")
    assert note.mend == "only if torchattacks fails: pip install 'requests~=0.1'"


def test_a_folder_that_art_cannot_make_is_one_without_which_it_does_not_import(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def imports() -> bool:
        code = "import art.config"
        return subprocess.run([sys.executable, "-c", code], capture_output=True, check=False).returncode == 0

    monkeypatch.setenv("HOME", str(tmp_path))
    (finding,) = packages.art_folder()
    assert (finding.status, finding.found, imports()) == ("ok", f"{tmp_path / '.art'} can be written", True)
    (tmp_path / ".art" / "config.json").unlink()
    (tmp_path / ".art").rename(tmp_path / "aside")
    (tmp_path / ".art").write_text("a file")
    (finding,) = packages.art_folder()
    assert (finding.status, imports()) == ("problem", False)
    assert str(tmp_path / ".art") in finding.found
    assert "HOME" in finding.mend


# What is imported


def broken(site: Path, **packages: str) -> dict[str, Finding]:
    """Findings of the trials where packages consist of these lines."""
    for name, text in packages.items():
        (site / name).mkdir()
        (site / name / "__init__.py").write_text(text)
    return {finding.name: finding for finding in isolation.isolated_trials()}


TORCH = """
class version: cuda = None
__version__ = "2.0"
class zeros:
    def __init__(self, n): pass
    def numpy(self): pass
"""


def test_one_library_that_kills_python_hides_no_other(site: Path) -> None:
    print_and_fail = "import os; print('noise'); os.system('echo noise'); raise ValueError('two\\nlines')"
    found = broken(
        site,
        torch=TORCH,
        torchvision="import os; os.kill(os.getpid(), 9)",
        torchattacks=print_and_fail,
        pyautoattack="import sys; sys.exit('bye')",
        robustbench="import os; os._exit(0)",
        art="raise ImportError('no')",
    )
    assert list(found) == list(TRIALS)
    assert all(found[name].mend == TRIALS[name].mend for name in TRIALS if found[name].status == "problem")
    assert found["torch"].found == "2.0, built for the CPU"
    assert found["torchvision"].found == "it ended Python with signal 9"
    assert found["torchattacks"].found == "ValueError: two lines"
    assert found["pyautoattack"].found == "it ended Python with exit status 1: bye"
    assert found["adversarial-robustness-toolbox"].found == "ImportError: no"
    assert "pip install --upgrade torch torchvision" in found["torchvision"].mend
    assert would_fail(found.values())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("raise ImportError('libcudart.so: cannot open')", "ImportError: libcudart.so: cannot open"),
        ("import os; os._exit(3)", "it ended Python with exit status 3"),
        ("import os; os._exit(0)", "it ended Python"),
        ("import time; time.sleep(60)", "no answer within 1 seconds"),
    ],
)
def test_without_torch_the_rest_is_not_tried(
    text: str, message: str, site: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if "sleep" in text:
        monkeypatch.setattr(isolation, "PATIENCE", 1)
    torch, rest = broken(site, torch=text).values()
    assert (torch.status, torch.found) == ("problem", message)
    assert (rest.status, rest.found) == ("note", "not tried, as they need torch")
    assert rest.name == ", ".join(list(TRIALS)[1:])


def test_a_cache_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    finding = packages.writable("data cache", tmp_path / "file" / "cache", mend="set it to another")
    assert (finding.status, finding.mend) == ("problem", "set it to another")
    assert packages.writable("data cache", tmp_path / "a" / "b", mend="").status == "ok"
    assert not (tmp_path / "a").exists()


# The whole


def test_nothing_would_fail_here() -> None:
    findings = examine()
    assert not would_fail(findings), render(findings)
    names = {finding.name for finding in findings if finding.status != "problem"}
    assert {"python", "requirements", "robustbench's files", "ART's folder", *TRIALS} <= names


def test_a_check_that_breaks_down_hides_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    def breaks() -> Iterator[Finding]:
        yield Finding(name="a", status="ok", found="fine")
        raise KeyError("x\ny")

    def works() -> Iterator[Finding]:
        yield Finding(name="b", status="problem", found="bad", mend="do this")

    monkeypatch.setattr(checks, "CHECKS", {"first": breaks, "second": works})
    findings = examine()
    assert render(findings).splitlines() == [
        "ok       a      fine",
        "note     first  could not be checked (KeyError: 'x\\ny')",
        "problem  b      bad",
        "                mend: do this",
        "1 problem",
    ]
    assert would_fail(findings)
    assert not would_fail(findings[:2])
    assert render([]) == "no problems"


def test_it_starts_without_what_it_examines() -> None:
    code = "import ensemble_bench.doctor, sys; assert not {'torch', 'numpy', 'packaging'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"})
