"""The options of a service, and the folders that it uses."""

from dataclasses import dataclass, field
from pathlib import Path

from ensemble_bench import registry
from ensemble_bench.errors import InvalidValueError
from ensemble_bench.server.store import Quota
from ensemble_bench.submissions.format.limits import Limits

MOST_MEMORY = 2**20
"""GiB; systems take no bound far beyond it."""


@dataclass(frozen=True, kw_only=True)
class ServiceSettings:
    """How the service on the folder `data` takes submissions and verifies them.

    `leaderboards` is where it publishes, by default in `data`. `suite`, `n`, `data_dir` and `device` are those of
    submissions.verification.verify. A caller may ask the API `requests_per_minute` times. A submission at which the
    verifier crashes or runs out of memory `attempts` times, or that takes it more than `hours` in all, is refused, and
    so is one that may take more than `max_flops`. The verifier has `memory` GiB, by default three quarters of
    what is free. An owner has at most `max_pending` submissions without a verdict, and makes `max_daily` in 24 hours.
    At most `max_connections` stand at once (by default as many as there are descriptors for), and of one address
    `connections_per_address`. Raises InvalidValueError for one out of range, UnknownNameError for a suite.
    """

    data: Path
    leaderboards: Path | None = None
    suite: str | None = None
    n: int | None = None
    data_dir: Path | None = None
    device: str | None = None
    limits: Limits = field(default_factory=Limits)
    requests_per_minute: int = 600
    attempts: int = 3
    hours: float = 24.0
    memory: float | None = None
    max_flops: float = 1e16
    max_pending: int = 20
    max_daily: int = 100
    max_connections: int | None = None
    connections_per_address: int = 32

    def __post_init__(self) -> None:
        if self.suite is not None:
            registry.split_suite(self.suite)
        counts = ("n", "requests_per_minute", "attempts", "max_pending", "max_daily")
        for name in (*counts, "max_connections", "connections_per_address"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InvalidValueError(f"{name} is {value}: expected at least 1")
        for name in ("hours", "memory", "max_flops"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise InvalidValueError(f"{name} is {value}: expected more than 0")
        if self.memory is not None and self.memory > MOST_MEMORY:
            raise InvalidValueError(f"memory is {self.memory}: expected GiB, at most {MOST_MEMORY:,}")

    @property
    def store(self) -> Path:
        """Tokens, submissions and the queue."""
        return self.data / "service.sqlite"

    @property
    def incoming(self) -> Path:
        """Uploads that are being received; emptied at every start."""
        return self.data / "incoming"

    @property
    def uploads(self) -> Path:
        """Accepted bundles, unpacked, that wait for their verdict."""
        return self.data / "uploads"

    @property
    def work(self) -> Path:
        """Models and records of verifications that are not finished."""
        return self.data / "work"

    @property
    def runs(self) -> Path:
        """Black-box sets to verify with."""
        return self.data / "runs"

    @property
    def root(self) -> Path:
        """The published leaderboards."""
        return self.leaderboards or self.data / "leaderboards"

    @property
    def site(self) -> Path:
        """The static site of the leaderboards."""
        return self.data / "site"

    @property
    def quota(self) -> Quota:
        """What each owner may submit."""
        return Quota(pending=self.max_pending, daily=self.max_daily)

    def upload(self, identifier: str) -> Path:
        """The folder of a submission's accepted bundle."""
        return self.uploads / identifier

    def make_folders(self) -> None:
        """Make them all; `data` holds others' unpublished models, so only its user can open it, whoever made it.

        Raises InvalidValueError where it cannot be made so.
        """
        try:
            self.data.mkdir(mode=0o700, parents=True, exist_ok=True)
            self.data.chmod(0o700)
        except OSError as error:
            raise InvalidValueError(f"data is {self.data}: cannot be made this user's alone: {error}") from None
        for folder in (self.incoming, self.uploads, self.work, self.root):
            folder.mkdir(parents=True, exist_ok=True)
