"""`ensemble-bench doctor`."""

import typer


def doctor() -> None:
    """Check what this package needs of its environment; exit status 1 if something would fail."""
    from ensemble_bench.doctor import examine, render, would_fail

    findings = examine()
    typer.echo(render(findings))
    if would_fail(findings):
        raise typer.Exit(1)
