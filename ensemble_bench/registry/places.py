"""Data sets named by where they lie: PREFIX:PATH, such as folder:photos?resize=40&crop=32; imports nothing heavy."""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from ensemble_bench.errors import InvalidValueError, UnknownNameError
from ensemble_bench.registry.names import check, names
from ensemble_bench.registry.terms import LARGEST

# Where a place of each kind is opened; "module:function" of a Place.
OPENERS: Mapping[str, str] = {
    "folder": "ensemble_bench.data.folder:open_folder",
    "npz": "ensemble_bench.data.npz:open_npz",
    "parquet": "ensemble_bench.data.parquet:open_parquet",
}
FORMS = tuple(f"{kind}:PATH" for kind in OPENERS)


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a data set lies, and how its images get one size.

    `resize` is what the shorter side becomes, and `crop` the side of the square cut from the middle then, as in
    torchvision's presets; `resize` alone crops to itself, and without both all images have one size already.
    """

    kind: str
    path: Path
    resize: int | None = None
    crop: int | None = None

    @property
    def text(self) -> str:
        """The name that leads back to it, with an absolute path."""
        options = "&".join(f"{name}={value}" for name, value in self.sizes.items())
        return f"{self.kind}:{self.path}{options and f'?{options}'}"

    @property
    def kept(self) -> str:
        """As `text`, for files that others may see: with ~ for the user's home, which leads back as well."""
        return homeless(self.text)

    @property
    def sizes(self) -> dict[str, int]:
        """Those of `resize` and `crop` that are given."""
        return {name: value for name in ("resize", "crop") if (value := getattr(self, name)) is not None}


def place_of(name: str) -> Place | None:
    """The place that `name` names, None for a name of another form; raises InvalidValueError for a bad one."""
    kind, colon, rest = name.partition(":")
    if not colon or kind not in OPENERS:
        return None
    path, _, options = rest.partition("?")
    if not path:
        raise InvalidValueError(f"data set is {name!r}: expected a path behind {kind}:")
    sizes: dict[str, int] = {}
    for option in options.split("&") if options else ():
        key, _, value = option.partition("=")
        if key not in ("resize", "crop") or not re.fullmatch("[0-9]{1,9}", value) or key in sizes:
            raise InvalidValueError(f"data set is {name!r}: expected resize=N or crop=N behind ?, found {option!r}")
        sizes[key] = int(value)
    return _checked(Place(kind=kind, path=Path(os.path.expanduser(path)).absolute(), **sizes))


def homeless(text: str) -> str:
    """A text with ~ wherever a path in it leads through the user's home, whose name is nobody's business."""
    home = os.path.expanduser("~")
    return text if len(home) < 2 else re.sub(rf"(?<![^:+]){re.escape(home)}(?={re.escape(os.sep)})", "~", text)


def told(dataset: str) -> str:
    """What a record says of a data set: its name, or of a place the last part of its path alone, "folder:photos"."""
    place = place_of(dataset)
    return dataset if place is None else replace(place, path=Path(place.path.name)).text


def models_folder(runs: Path, text: str) -> Path:
    """Where the records of a model from elsewhere lie, below `runs`, by the text that names it."""
    return runs / re.sub(r"[^\w.+-]+", "_", homeless(text)).strip("._")[:100]


def check_data(name: str, *, resize: int | None = None, crop: int | None = None) -> str:
    """The data set that `name` names, a registered one or PREFIX:PATH, with the sizes that options add to a place.

    Raises UnknownNameError for a name that is neither, InvalidValueError for sizes that do not fit.
    """
    place = place_of(name) if isinstance(name, str) else None
    if place is None:
        known = names("data set")
        if name not in known:
            raise UnknownNameError("data set", name, [*known, *FORMS])
        check("data set", name)
        if resize is not None or crop is not None:
            which = "resize" if resize is not None else "crop"
            raise InvalidValueError(f"--{which} is for images of a {' or '.join(FORMS)}: {name} has a size of its own")
        return name
    asked = {key: value for key, value in (("resize", resize), ("crop", crop)) if value is not None}
    if twice := asked.keys() & place.sizes.keys():
        raise InvalidValueError(f"{min(twice)} is given twice: in {name!r} and as an option")
    return _checked(Place(kind=place.kind, path=place.path, **{**place.sizes, **asked})).text


def _checked(place: Place) -> Place:
    for key, value in place.sizes.items():
        if not 1 <= value <= LARGEST:
            raise InvalidValueError(f"{key} is {value}: choose 1 to {LARGEST}")
    if place.resize is not None and place.crop is not None and place.crop > place.resize:
        raise InvalidValueError(f"crop is {place.crop}: the shorter side is resized to {place.resize} before")
    if place.sizes and place.kind == "npz":
        raise InvalidValueError("npz files hold arrays of one size: resize and crop are for images in files")
    return place
