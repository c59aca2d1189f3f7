"""RobustBench's leaderboard entries (Croce et al. 2021): its model_info JSON, read, written, and made from records."""

import csv
import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, dataclass, fields, replace
from pathlib import Path
from typing import Any

from ensemble_bench.errors import RecordError, shortened
from ensemble_bench.files import write_atomic
from ensemble_bench.leaderboard.ranking import NO_CONTEST
from ensemble_bench.records import Record
from ensemble_bench.records.decoding import decode, strict
from ensemble_bench.records.threat import parse_eps
from ensemble_bench.registry.terms import TEST

# Published entries have at most 2 kB, tables of corruptions 15 kB.
LARGEST = 1_000_000
NORMS = {"linf": "Linf", "l2": "L2"}
"""What RobustBench calls our norms, in its folders too."""
OFFICIAL: Mapping[str, int] = {"cifar10": 10_000, "cifar100": 10_000, "imagenet-robustbench": 5_000}
"""How many test images RobustBench evaluates on, by the name that its data have here."""
# Suites that leave nothing standing which AutoAttack is known to break.
STRONGEST = ("strongest", "exhaustive")
BACKBONES: Mapping[str, str] = {
    "preact_resnet18": "PreActResNet-18",
    "vgg16_bn": "VGG-16-BN",
    "small_cnn": "SmallCNN",
}


@dataclass(frozen=True, kw_only=True)
class ModelInfo:
    """One entry of RobustBench's leaderboards, every value as its file spells it.

    Accuracies are texts in percent ("65.88"), `eps` is one such as "8/255" or "0.5", None for corruptions. A key that
    an entry lacks is None here; `null` names those of them that it has, as null. All texts come from strangers: a
    rendering must escape them.
    """

    link: str
    name: str
    authors: str
    additional_data: bool
    number_forward_passes: int
    dataset: str
    venue: str
    architecture: str
    eps: str | None
    clean_acc: str
    reported: str | None
    autoattack_acc: str | None = None
    external: str | None = None
    corruptions_acc: str | None = None
    corruptions_mce: str | None = None
    corruptions_acc_3d: str | None = None
    corruptions_mce_3d: str | None = None
    footnote: str | None = None
    unreliable: bool | None = None
    null: tuple[str, ...] = ()

    @property
    def clean(self) -> float:
        """Accuracy without an attack, as a fraction in [0, 1]."""
        return float(self.clean_acc) / 100

    @property
    def autoattack(self) -> float | None:
        """Robust accuracy under AutoAttack, as a fraction; None in an entry for corruptions."""
        return None if self.autoattack_acc is None else float(self.autoattack_acc) / 100

    @property
    def best_known(self) -> float | None:
        """The robust accuracy that RobustBench ranks by, as a fraction: the external one where there is one."""
        return self.autoattack if self.external is None else float(self.external) / 100

    @property
    def radius(self) -> float | None:
        """`eps` as a number."""
        return None if self.eps is None else parse_eps(self.eps)

    def as_dict(self) -> dict[str, Any]:
        """What the file holds, its keys in RobustBench's order."""
        needed = {f.name for f in fields(self) if f.default is MISSING} | set(self.null)
        values = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "null"}
        return {name: value for name, value in values.items() if value is not None or name in needed}

    @classmethod
    def from_dict(cls, values: Any, *, path: Path | None = None) -> "ModelInfo":
        """Build the entry that `values` describes, checking every field.

        Raises RecordError, naming the file and the field, for unknown or missing fields, wrong types, accuracies that
        are not percentages, an eps that is no number, fewer than one forward pass, and an entry without any result.
        """
        try:
            info: ModelInfo = decode(cls, values, "model_info", skip=("null",))
            for name, (wanted, fits) in CHECKS.items():
                value = getattr(info, name)
                if value is not None and not fits(value):
                    raise ValueError(f"{name}: expected {wanted}, got {value!r}")
            if not any(getattr(info, name) is not None for name in RESULTS):
                raise ValueError(f"no result: expected one of {', '.join(RESULTS)}")
        except ValueError as error:
            raise RecordError(f"{path or 'model_info'}: {shortened(str(error))}") from None
        optional = {f.name for f in fields(cls) if f.default is None}
        return replace(info, null=tuple(sorted(name for name in optional & set(values) if values[name] is None)))


RESULTS = ("autoattack_acc", "corruptions_acc", "corruptions_acc_3d")


def _number(text: str) -> float:
    """A number written with ASCII digits and at most a point; NaN for any other text."""
    return float(text) if re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,20})?", text) else math.nan


def _is_percent(text: str) -> bool:
    return 0 <= _number(text) <= 100


def _is_radius(text: str) -> bool:
    above, slash, below = text.partition("/")
    return _number(above) > 0 and (not slash or _number(below) > 0)


Check = tuple[str, Callable[[Any], bool]]
_PERCENT: Check = ("a percentage from 0 to 100 as text, such as '65.88'", _is_percent)
# A share of AlexNet's error, which can be exceeded.
_RELATIVE: Check = ("a percentage as text, such as '60.04'", lambda text: _number(text) >= 0)
CHECKS: Mapping[str, Check] = {
    "clean_acc": _PERCENT,
    "autoattack_acc": _PERCENT,
    "external": _PERCENT,
    "corruptions_acc": _PERCENT,
    "corruptions_acc_3d": _PERCENT,
    "corruptions_mce": _RELATIVE,
    "corruptions_mce_3d": _RELATIVE,
    "reported": (f"{_PERCENT[0]}, or ''", lambda text: text in ("", "null") or _is_percent(text)),
    "eps": ("a radius above 0 such as '8/255' or '0.5'", _is_radius),
    "number_forward_passes": ("at least 1", lambda count: count >= 1),
}


def read(path: Path) -> ModelInfo:
    """Read and check one entry; raises RecordError for a file that is missing, huge, no JSON or no entry."""
    path = Path(path)
    try:
        values = strict(_text(path))
    except (ValueError, RecursionError) as error:
        raise RecordError(f"{path}: not a JSON entry ({shortened(str(error))})") from None
    return ModelInfo.from_dict(values, path=path)


def read_all(folder: Path) -> dict[str, ModelInfo]:
    """Read every JSON file below `folder`, by its path there without ".json", in the order of these paths.

    In RobustBench's own folder that is "cifar10/Linf/Standard", in its cifar10/Linf "Standard", the name in the model
    zoo. Raises RecordError for a folder that holds none, and for a broken file.
    """
    folder = Path(folder)
    paths = sorted(folder.rglob("*.json"))
    if not paths:
        raise RecordError(f"{folder}: no model_info entries; expected RobustBench's <data set>/<threat>/<model>.json")
    return {path.relative_to(folder).with_suffix("").as_posix(): read(path) for path in paths}


def to_json(info: ModelInfo) -> str:
    """An entry as RobustBench's JSON; raises RecordError when it does not hold together."""
    ModelInfo.from_dict(info.as_dict())
    return json.dumps(info.as_dict(), indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def write(info: ModelInfo, path: Path) -> Path:
    """Write an entry as RobustBench's JSON at one stroke; returns the path.

    Raises RecordError when the entry does not hold together; then nothing is written.
    """
    path = Path(path)
    write_atomic(path, to_json(info))
    return path


def read_corruptions(path: Path) -> dict[str, dict[tuple[str, int], float]]:
    """Read an unaggregated_results.csv: by model the accuracy, a fraction, under each (corruption, severity 1 to 5).

    Raises RecordError for a file that is missing, huge or no such table.
    """
    path = Path(path)
    try:
        corruptions, severities, *rows = csv.reader(_text(path).splitlines(), strict=True)
        columns = [(name, int(level)) for name, level in zip(corruptions[1:], severities[1:], strict=True)]
        table = {row[0]: dict(zip(columns, map(_number, row[1:]), strict=True)) for row in rows if row}
    except (ValueError, csv.Error) as error:
        raise RecordError(f"{path}: not a table of corruptions ({shortened(str(error))})") from None
    for model, cells in table.items():
        for (corruption, severity), accuracy in cells.items():
            if not 0 <= accuracy <= 1:
                raise RecordError(f"{path}: {model}, {corruption} {severity}: expected a fraction in [0, 1]")
    return table


def from_records(
    records: Sequence[Record],
    *,
    name: str | None = None,
    authors: str = "",
    link: str = "",
    venue: str = "Unpublished",
    additional_data: bool = False,
) -> ModelInfo:
    """Make the entry of a model from its records: one of suite autoattack, and of strongest or exhaustive if any.

    Of several runs of autoattack it is the one on official test images, then on any test images, then on the most, then
    the lowest. The others count on the same images only, and the lowest becomes `external` unless it found less than
    AutoAttack. `dataset` is what the images are ("cifar10-jpeg"), and the footnote says which and how many, wherever
    they are not all that RobustBench evaluates on. Warnings stand in the footnote; those that contest the number make
    the entry unreliable. `name` is the paper's title, by default the model's name.

    Raises RecordError without a record of autoattack, and for records of different models or threat models.
    """
    whole = [record for record in records if record.view is None]
    for what in ("weights_hash", "threat"):
        different = sorted({str(getattr(record, what)) for record in whole})
        if len(different) > 1:
            raise RecordError(f"{what}: expected records of one model under one threat, got {' and '.join(different)}")
    autoattack = max((r for r in whole if r.suite == "autoattack"), key=_worth, default=None)
    if autoattack is None:
        suites = ", ".join(sorted({record.suite for record in whole})) or "none"
        raise RecordError(f"no record of suite autoattack, which the entry needs; there is {suites}")
    same = [r for r in whole if holds(r, *STRONGEST) and images_of(r) == images_of(autoattack)]
    strongest = min((r for r in same if r.robust.accuracy <= autoattack.robust.accuracy), key=_robust, default=None)
    warnings = sorted({warning.name for r in (autoattack, strongest) if r is not None for warning in r.warnings})
    notes = [data_note(autoattack)] if data_note(autoattack) else []
    if warnings:
        notes.append(f"Warnings: {', '.join(warnings)}.")
    return ModelInfo(
        link=link,
        name=name or autoattack.model,
        authors=authors,
        additional_data=additional_data,
        number_forward_passes=autoattack.forward_passes,
        dataset=autoattack.data_name,
        venue=venue,
        architecture=architecture_text(autoattack),
        eps=autoattack.threat.eps_text,
        clean_acc=_percent(autoattack.clean.accuracy),
        reported="",
        autoattack_acc=_percent(autoattack.robust.accuracy),
        external=None if strongest is None else _percent(strongest.robust.accuracy),
        footnote=" ".join(notes) or None,
        unreliable=not NO_CONTEST.issuperset(warnings),
    )


def holds(record: Record, *suites: str) -> bool:
    """Whether the record is of one of `suites`, or of a sum of suites with one: then it is at most as robust."""
    return any(suite in record.suite.split("+") for suite in suites)


def images_of(record: Record) -> tuple[str, str, int]:
    """What tells the images of two records apart."""
    return record.data_hash, record.split, record.n


def data_note(record: Record) -> str:
    """A sentence on the images of a record; empty for all those that RobustBench evaluates on."""
    if _is_official(record) and record.n == OFFICIAL[record.data_name]:
        return ""
    return f"On the first {record.n} {record.split} images of {record.data_name}."


def architecture_text(record: Record) -> str:
    """The architecture in RobustBench's words, such as "WideResNet-28-10 (2x ensemble)"."""
    about = record.architecture
    if about is None:
        return "unknown"
    name = str(about.get("backbone", "unknown"))
    text, width, members = BACKBONES.get(name, name), about.get("width", 1), about.get("members", 1)
    width = f"{width:g}" if isinstance(width, int | float) else str(width)  # records may be anybody's
    if name == "wrn":
        text = f"WideResNet-{about.get('depth')}-{width}"
    elif width != "1":
        text = f"{text} of width {width}"
    kind = "gated ensemble" if about.get("gated") else "ensemble"
    return text if members == 1 else f"{text} ({members}x {kind})"


def on_a_line(text: str) -> str:
    """Text of an entry on one line, without the line breaks that RobustBench writes for its page."""
    return " ".join(re.sub(r"<br\s*/?>", " ", text).split())


def _worth(record: Record) -> tuple[object, ...]:
    return _is_official(record), record.split == TEST, record.n, -record.robust.accuracy, record.id


def _is_official(record: Record) -> bool:
    return record.split == TEST and record.data_name in OFFICIAL


def _robust(record: Record) -> float:
    return record.robust.accuracy


def _percent(fraction: float) -> str:
    return f"{100 * fraction:.2f}"


def _text(path: Path) -> str:
    try:
        with open(path, "rb") as file:
            content = file.read(LARGEST + 1)
    except OSError as error:
        raise RecordError(f"{path}: cannot be read ({error.strerror})") from None
    if len(content) > LARGEST:
        raise RecordError(f"{path}: expected a file of at most {LARGEST:,} bytes, it is larger")
    return content.decode()
