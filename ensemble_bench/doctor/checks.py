"""All checks in turn, each made even if another breaks down, and their findings as text."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from ensemble_bench.doctor.finding import Finding, one_line
from ensemble_bench.doctor.isolation import isolated_trials
from ensemble_bench.doctor.packages import art_folder, other_pins, python_version, requirements, robustbench_files

CHECKS: Mapping[str, Callable[[], Iterator[Finding]]] = {
    "python": python_version,
    "requirements": requirements,
    "other pins": other_pins,
    "robustbench's files": robustbench_files,
    "ART's folder": art_folder,
    "imports": isolated_trials,
}


def examine() -> list[Finding]:
    """Findings of all checks; takes about 10 seconds, as the libraries are imported. It never raises."""
    return [finding for name, check in CHECKS.items() for finding in _guarded(name, check)]


def would_fail(findings: Iterable[Finding]) -> bool:
    """Whether one of the findings is a problem: then the command exits with 1."""
    return any(finding.status == "problem" for finding in findings)


def render(findings: Sequence[Finding]) -> str:
    """One line a finding, its mend beneath, and a line that counts the problems."""
    width = max((len(finding.name) for finding in findings), default=0)
    lines = []
    for finding in findings:
        lines.append(f"{finding.status:<7}  {finding.name:<{width}}  {finding.found}")
        if finding.mend:
            lines.append(f"{'':<7}  {'':<{width}}  mend: {finding.mend}")
    problems = sum(finding.status == "problem" for finding in findings)
    return "\n".join([*lines, f"{problems or 'no'} problem{'' if problems == 1 else 's'}"])


def _guarded(name: str, check: Callable[[], Iterator[Finding]]) -> Iterator[Finding]:
    """The findings of a check, and a note of the error if it breaks down."""
    try:
        yield from check()
    except Exception as error:  # broken metadata, an unreadable folder: whatever it is, the other checks go on
        yield Finding(name=name, status="note", found=f"could not be checked ({one_line(error)})")
