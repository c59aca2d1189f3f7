"""How large a submission may be."""

from dataclasses import dataclass, fields

from ensemble_bench.errors import InvalidValueError


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Bounds of a bundle and of the model in it; by default every model of the paper fits.

    `max_bytes` counts a .zip as it is sent, `max_unpacked_bytes` what comes out of it, `max_text_bytes` each file but
    the weights, `max_ratio` the first two of one file of it. `max_members`, `max_parameters` and `max_classes` are of
    the model. Of claims there are at most `max_claims`, each on at most `max_images` images, against at most
    `max_attacks` suites and attacks, these of at most `max_steps` steps. Raises InvalidValueError for one below 1.
    """

    max_bytes: int = 2**30
    max_unpacked_bytes: int = 2**30
    max_text_bytes: int = 2**20
    max_ratio: int = 200
    max_members: int = 16
    max_parameters: int = 250_000_000
    max_classes: int = 1000
    max_claims: int = 32
    max_images: int = 50_000
    max_attacks: int = 16
    max_steps: int = 5000

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise InvalidValueError(f"{field.name} is {value!r}: expected an integer of at least 1")
