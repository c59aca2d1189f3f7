"""`ensemble-bench serve`, and `serve token create`, `list` and `revoke`."""

from pathlib import Path
from typing import Annotated

import typer

from ensemble_bench.cli.options import DataDir, Device, given
from ensemble_bench.errors import InvalidValueError
from ensemble_bench.server.settings import ServiceSettings
from ensemble_bench.server.store import Store
from ensemble_bench.submissions.format.limits import Limits

app = typer.Typer(help="Take submissions over HTTP, verify them and publish those that hold.", subcommand_metavar="")
token = typer.Typer(help="Tokens that allow to submit.")
app.add_typer(token, name="token")

LIMITS = Limits()
Data = Annotated[Path, typer.Option(help="Folder of the service: tokens, submissions, what it publishes.")]
DATA = Path("service")
Owner = Annotated[str, typer.Argument(metavar="NAME", help="Whose token it is.")]


@app.callback(invoke_without_command=True)
def serve(
    context: typer.Context,
    data: Data = DATA,
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 for all.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port to listen on.")] = 8000,
    leaderboards: Annotated[
        Path | None, typer.Option(help="Folder of leaderboards to publish in; by default one in --data.")
    ] = None,
    data_dir: DataDir = None,
    suite: Annotated[str | None, typer.Option(help="Repeat the claims of this suite only; by default all.")] = None,
    n: Annotated[int | None, typer.Option(min=1, help="Repeat claims on at most so many images.")] = None,
    device: Device = None,
    max_bytes: Annotated[int, typer.Option(min=1, help="Size of an upload.")] = LIMITS.max_bytes,
    max_unpacked_bytes: Annotated[int, typer.Option(min=1, help="… and unpacked.")] = LIMITS.max_unpacked_bytes,
    max_members: Annotated[int, typer.Option(min=1, help="Members of an ensemble.")] = LIMITS.max_members,
    max_parameters: Annotated[int, typer.Option(min=1, help="Parameters of a model.")] = LIMITS.max_parameters,
    requests_per_minute: Annotated[
        int, typer.Option(min=1, help="Requests to the API, of a token or of an address without one.")
    ] = 600,
    attempts: Annotated[
        int, typer.Option(min=1, help="Crashes of the verifier at a submission until it is refused.")
    ] = 3,
    hours: Annotated[float, typer.Option(help="Time to verify a submission, all attempts together.")] = 24.0,
    memory: Annotated[
        float | None, typer.Option(help="Memory of the verifier in GiB; by default three quarters of what is free.")
    ] = None,
    max_flops: Annotated[
        float, typer.Option(help="FLOPs that verifying a submission may take: passes of all attacks by FLOPs of one.")
    ] = 1e16,
    max_pending: Annotated[int, typer.Option(min=1, help="Submissions of one owner that wait at once.")] = 20,
    max_daily: Annotated[int, typer.Option(min=1, help="Submissions of one owner in 24 hours.")] = 100,
    max_connections: Annotated[
        int | None, typer.Option(min=1, help="Connections at once; by default as many as there are descriptors for.")
    ] = None,
    connections_per_address: Annotated[int, typer.Option(min=1, help="… and of one address.")] = 32,
    worker: Annotated[bool, typer.Option(help="Verify; without, submissions wait.")] = True,
) -> None:
    """Take submissions over HTTP, verify them one by one, publish those that hold, and show the leaderboard."""
    if context.invoked_subcommand is not None:
        if option := given(context, *context.params):
            raise InvalidValueError(
                f"{option} stands before {context.invoked_subcommand}, where nothing reads it: put options of tokens "
                "last, as in serve token list --data FOLDER"
            )
        return
    settings = ServiceSettings(
        data=data,
        leaderboards=leaderboards,
        suite=suite,
        n=n,
        data_dir=data_dir,
        device=device,
        limits=Limits(
            max_bytes=max_bytes,
            max_unpacked_bytes=max_unpacked_bytes,
            max_members=max_members,
            max_parameters=max_parameters,
        ),
        requests_per_minute=requests_per_minute,
        attempts=attempts,
        hours=hours,
        memory=memory,
        max_flops=max_flops,
        max_pending=max_pending,
        max_daily=max_daily,
        max_connections=max_connections,
        connections_per_address=connections_per_address,
    )
    try:
        from ensemble_bench.server.service import serve as run
        from ensemble_bench.server.worker import work
    except ModuleNotFoundError as error:
        raise InvalidValueError(f"serve needs {error.name}: pip install 'ensemble-bench[server]'") from None
    run(settings, host=host, port=port, worker=work if worker else None)


@token.command()
def create(owner: Owner, data: Data = DATA) -> None:
    """Print a new token, which is shown this once."""
    typer.echo(_store(data).create_token(owner))


@token.command()
def revoke(owner: Owner, data: Data = DATA) -> None:
    """Make a token worthless."""
    _store(data).revoke_token(owner)


@token.command("list")
def list_tokens(data: Data = DATA) -> None:
    """Name all tokens, with when they were made and revoked (UTC)."""
    from ensemble_bench.cli.tables import table

    rows = [(token.owner, token.created, token.revoked or "") for token in _store(data).tokens()]
    table(f"tokens of {data}", ["name", "created", "revoked"], rows)


def _store(data: Path) -> Store:
    settings = ServiceSettings(data=data)
    settings.make_folders()
    return Store(settings.store)
