"""Mutants of files: changed where their readers look, and not in their bytes alone.

An input is several parts, the files of a target; each has a kind that says what may be changed in it. Where a reader
would reject every mutant by a hash, the seeds hold a marker such as "@self" in its place, which the target replaces by
the true one (see target.py); a mutant of the marker itself has a wrong hash.
"""

import io
import json
import stat
import warnings
import zipfile
from collections.abc import Callable
from random import Random
from typing import Any

Parts = tuple[bytes, ...]
Bytes = Callable[[bytes, Random], bytes]

# No JSON module writes these; they take the place of these markers in the text.
SPELLED = {
    '"\\u0000huge"': "1e999",
    '"\\u0000digits"': "9" * 5000,
    '"\\u0000deep"': "[" * 100_000 + "]" * 100_000,
    '"\\u0000nan"': "NaN",
}
TEXTS = (
    *("", "x", "\ud800", "a\nb", "\x1b[2J", "\0", "1", "１", "../x", "NUL", "=1+1", "<b>", "nan", "inf", "1e999", "-0"),
    *("linf", "l2", "clean", "blackbox", "smaller-eps", "stages", "one_in", "member1", "F8_E4M3", "BF16", "U16", "F64"),
    *("x" * 5000, "pgd" + "9" * 4400, "\u2028", "\u202e", "é", "__metadata__", "(" * 2000),
)
NUMBERS = (0, 1, -1, 2, 0.5, -0.5, 1.0, 1e-320, 1e308, 2**31, -(2**31), 2**53 + 1, 2**63, 2**64, -(2**63), 10**400)
VALUES: tuple[Any, ...] = (None, True, False, *NUMBERS, *TEXTS, [], {}, [[]], {"": {}}, [None], *(
    marker[1:-1].replace("\\u0000", "\0") for marker in SPELLED
))  # fmt: skip
DEPTHS = (3, 20, 200, 330, 490, 700, 990)


def join(parts: Parts) -> bytes:
    """Parts as one input for a fuzzer: each after its length."""
    return b"".join(len(part).to_bytes(4, "little") + part for part in parts)


def split(data: bytes, count: int) -> Parts:
    """The parts of an input, whatever its bytes are."""
    parts = []
    for _ in range(count):
        size = int.from_bytes(data[:4], "little")
        parts.append(data[4 : 4 + size])
        data = data[4 + size :]
    return tuple(parts)


def mutated(parts: Parts, kinds: tuple[str, ...], chance: Random, raw: Bytes | None = None) -> Parts:
    """The parts after one to a few changes; `raw` changes bytes, as the fuzzer does it."""
    raw = raw or flipped
    found = list(parts)
    for _ in range(1 + min(3, int(chance.expovariate(1.0)))):
        at = chance.randrange(len(found))
        change = raw if chance.random() < 0.15 else KINDS[kinds[at]]
        try:
            found[at] = change(found[at], chance)
        except Exception:  # it is of its kind no longer, which libraries say in many ways
            found[at] = raw(found[at], chance)
    return tuple(found)


def flipped(data: bytes, chance: Random) -> bytes:
    """Some bytes changed, cut out, doubled or added."""
    found = bytearray(data)
    for _ in range(chance.randint(1, 4)):
        at = chance.randrange(len(found) + 1)
        how = chance.randrange(6)
        if how == 0:
            del found[at : at + chance.choice((1, 2, 8, 100))]
        elif how == 1:
            found[at:at] = chance.randbytes(chance.choice((1, 2, 8)))
        elif how == 2:
            found[at:at] = found[at : at + chance.choice((4, 30))]
        elif at < len(found):
            found[at] = chance.choice((found[at] ^ 1 << chance.randrange(8), chance.randrange(256), 0, 255))
    return bytes(found)


def json_changed(data: bytes, chance: Random) -> bytes:
    """JSON with values and keys replaced, moved, dropped, doubled and nested."""
    return text_of(tree_changed(json.loads(data), chance))


def text_of(values: Any) -> bytes:
    """JSON, the values of SPELLED as they are spelled there."""
    text = json.dumps(values)
    for marker, spelling in SPELLED.items():
        text = text.replace(marker, spelling)
    return text.encode()


def tree_changed(values: Any, chance: Random) -> Any:
    """Values of JSON, changed in place, or others in their place."""
    holder = [values]
    places = _places(holder)
    for _ in range(chance.choice((1, 1, 1, 2, 4))):
        inside, key = chance.choice(places)
        if (key not in inside) if isinstance(inside, dict) else key >= len(inside):
            continue  # another change took it away
        there = inside[key]
        how = chance.randrange(9)
        if how < 3:
            inside[key] = chance.choice(VALUES)
        elif how == 3 and inside is not holder:
            del inside[key]
        elif how == 4:
            other, its = chance.choice(places)
            if (its in other) if isinstance(other, dict) else its < len(other):
                inside[key] = json.loads(json.dumps(other[its]))
        elif how == 5:
            for _ in range(chance.choice(DEPTHS)):
                there = [there] if chance.random() < 0.5 else {"x": there}
            inside[key] = there
        elif how == 6 and isinstance(inside, dict):
            inside[str(chance.choice((*TEXTS, *inside)))] = there
        elif how == 6:
            inside[key:key] = [there] * chance.choice((1, 1, 40))
        else:
            inside[key] = _nearby(there, chance)
    return holder[0]


def _places(value: Any) -> list[tuple[Any, Any]]:
    """Every container in the value with every key of it."""
    if not isinstance(value, dict | list):
        return []
    keys = list(value) if isinstance(value, dict) else range(len(value))
    return [place for key in keys for place in ((value, key), *_places(value[key]))]


def _nearby(value: Any, chance: Random) -> Any:
    """A value of the same kind."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float):
        return chance.choice((value + 1, value - 1, -value, value * 2, value / 2, float(value), value + 0.1))
    if isinstance(value, str):
        with_text = value.startswith(("{", "["))  # JSON inside a text
        if with_text and chance.random() < 0.8:
            return json_changed(value.encode(), chance).decode(errors="replace")
        return flipped(value.encode(errors="replace"), chance).decode(errors=chance.choice(("replace", "ignore")))
    return chance.choice(VALUES)


def rearranged(items: list[Any], chance: Random, *, ways: int) -> int | None:
    """In one of three of so many `ways` move, double or drop an item; else return the place of one to change itself."""
    at, other, how = chance.randrange(len(items)), chance.randrange(len(items)), chance.randrange(ways)
    if how == 0:
        items[at], items[other] = items[other], items[at]
    elif how == 1:
        items.insert(other, items[at])
    elif how == 2:
        del items[at]
    else:
        return at
    return None


def lines_changed(data: bytes, chance: Random) -> bytes:
    """Lines of JSON: one changed, moved, doubled or dropped."""
    lines = data.splitlines(keepends=True)
    if (at := rearranged(lines, chance, ways=6)) is not None:
        lines[at] = json_changed(lines[at], chance) + b"\n"
    return b"".join(lines)


def table_changed(data: bytes, chance: Random) -> bytes:
    """A CSV: cells and rows changed, moved, doubled or dropped."""
    rows = [line.split(",") for line in data.decode().split("\n")]
    if (at := rearranged(rows, chance, ways=7)) is not None:
        cell = chance.randrange(len(rows[at]))
        texts = (*map(str, NUMBERS), "nan", "inf", "1_0", "１", "", '"', '"\n"', "x" * 200_000, "@check", "\r", "\0")
        rows[at][cell] = chance.choice(texts)
    return "\n".join(",".join(row) for row in rows).encode()


def tensors_changed(data: bytes, chance: Random) -> bytes:
    """safetensors: the header as JSON, or the numbers behind it."""
    length = int.from_bytes(data[:8], "little")
    header, body = data[8 : 8 + length], data[8 + length :]
    how = chance.randrange(12)
    if how < 4:
        header = json_changed(header, chance)
    elif how < 9:
        header = text_of(_header_changed(json.loads(header), chance))
    elif how == 9:
        at = 4 * chance.randrange(len(body) // 4)
        body = (
            body[:at] + chance.choice((b"\0\0\xc0\x7f", b"\0\0\x80\x7f", b"\xff" * 4, b"\0\0\x80\xbf")) + body[at + 4 :]
        )
    elif how == 10:
        body = chance.choice((body[:-1], body[: len(body) // 2], body + bytes(8), b""))
    else:
        length = chance.choice((0, 1, length - 1, length + 1, 2**31, 2**63, 2**64 - 1))
        return length.to_bytes(8, "little") + header + body
    return len(header).to_bytes(8, "little") + header + body


def _header_changed(values: dict[str, Any], chance: Random) -> dict[str, Any]:
    """The header with other metadata, or with tensors of the same bytes under other names, types and shapes."""
    names = [name for name in values if name != "__metadata__"]
    about, other = (values[chance.choice(names)] for _ in range(2))
    how = chance.randrange(7)
    if how < 3 and "__metadata__" in values:
        values["__metadata__"] = tree_changed(values["__metadata__"], chance)
    elif how == 3:
        alike = {"F32": ("I32", "U32"), "F16": ("BF16", "I16", "U16"), "I64": ("F64", "U64", "C64")}
        about["dtype"] = chance.choice(alike.get(about["dtype"], ("F8_E4M3", "I8", "BOOL", "F32")))
    elif how == 4:
        about["shape"] = chance.choice((about["shape"][::-1], [1, *about["shape"]], [*about["shape"], 1], [0], []))
    elif how == 5:
        about["data_offsets"], other["data_offsets"] = other["data_offsets"], about["data_offsets"]
    else:
        name = chance.choice(names)
        values[chance.choice((f"model.{name}", f"module.{name}", name[1:], "x", ""))] = values.pop(name)
    return values


def parquet_changed(data: bytes, chance: Random) -> bytes:
    """Parquet: columns of other types, names, numbers and rows, written in another way; some bytes of it flipped."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pq.read_table(pa.BufferReader(data))
    at = chance.randrange(table.num_columns)
    name, column = table.column_names[at], table.column(at).combine_chunks()
    how = chance.randrange(9)
    if how == 0:
        table = table.remove_column(at)
    elif how == 1:
        known = (*table.column_names, "x_steps", "x_margin", "expected_accuracy", "adversarial_prediction", "", "\0")
        table = table.rename_columns([chance.choice(known) if i == at else n for i, n in enumerate(table.column_names)])
    elif how == 2:
        table = table.append_column(chance.choice((name, "more", f"{name}_steps")), column)
    elif how == 3:
        table = table.slice(chance.randrange(table.num_rows + 1), chance.choice((0, 1, 1000)))
    elif how == 4:
        table = pa.concat_tables([table] * chance.choice((2, 3)))
    elif how == 5:
        mask = pa.array([chance.random() < 0.5 for _ in range(table.num_rows)])
        nulls = pa.nulls(table.num_rows, column.type)
        table = table.set_column(at, name, pa.compute.if_else(mask, nulls, column))
    else:
        table = table.set_column(at, name, _other_column(column, chance))
    sink = io.BytesIO()
    pq.write_table(
        table,
        sink,
        compression=chance.choice(("none", "zstd", "snappy", "gzip")),
        use_dictionary=chance.random() < 0.5,
        data_page_version=chance.choice(("1.0", "2.0")),
        store_schema=chance.random() < 0.5,
        row_group_size=chance.choice((1, 100)),
    )
    written = sink.getvalue()
    return flipped(written, chance) if chance.random() < 0.4 else written


def _other_column(column: Any, chance: Random) -> Any:
    """A column of as many rows, its values of another type."""
    import pyarrow as pa

    n, numbers = len(column), [chance.choice((0, 1, 2, 200)) for _ in range(len(column))]
    made: tuple[Callable[[], Any], ...] = (
        *(lambda t=t: pa.array(numbers, t) for t in (pa.uint8(), pa.uint64(), pa.int64(), pa.float64(), pa.float32())),
        *(lambda t=t: pa.nulls(n, t) for t in (pa.null(), pa.bool_(), pa.string(), pa.int64(), pa.list_(pa.int8()))),
        lambda: pa.array([[v] for v in numbers]),
        lambda: pa.array([{"bytes": bytes(2), "path": None}] * n),
        lambda: pa.array([{"a": v} for v in numbers]),
        lambda: pa.array(map(str, numbers)),
        lambda: pa.array(map(str, numbers)).dictionary_encode(),
        lambda: pa.array([bytes(v) for v in numbers], pa.large_binary()),
        lambda: pa.array([bytes(4)] * n, pa.binary(4)),
        lambda: pa.array([v % 2 == 0 for v in numbers]),
        lambda: pa.array([float("nan")] * n),
        lambda: pa.array([2**62] * n, pa.timestamp("s")),
        lambda: pa.array([2**63 - 1] * n),
        lambda: pa.array([-(2**63)] * n),
        lambda: pa.array([2**64 - 1] * n, pa.uint64()),
        lambda: pa.array(numbers, pa.duration("us")),
        lambda: pa.array(numbers, pa.date32()),
        lambda: pa.array(numbers).cast(pa.decimal128(30, 3)),
        lambda: pa.array([[("k", v)] for v in numbers], pa.map_(pa.string(), pa.int64())),
    )
    return chance.choice(made)()


def zip_changed(data: bytes, chance: Random) -> bytes:
    """A .zip: entries renamed, doubled, dropped, packed in another way, their directory edited."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        files = [(entry.filename, archive.read(entry)) for entry in archive.infolist()]
    at = chance.randrange(len(files))
    name, content = files[at]
    how = chance.randrange(7)
    names = ("x", "../x", "/x", "a\\b", "sub/", "CLAIMS.json", "", "é", "\ud800"[:0], "x" * 60_000, name, files[0][0])
    if how == 0:
        files[at] = chance.choice(names), content
    elif how == 1:
        files.append((chance.choice(names), content))
    elif how == 2:
        del files[at]
    elif how == 3:
        files[at] = name, chance.choice((b"", content[:-1], content * 2, bytes(2**21), content[: len(content) // 2]))
    packing = chance.choice((0, 0, 8, 8, 12, 14))
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", packing) as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a name that stands twice
        for index, (name, content) in enumerate(files):
            entry = zipfile.ZipInfo(name)
            if how == 4 and index == at:
                entry.external_attr = chance.choice((stat.S_IFLNK, stat.S_IFDIR, stat.S_IFIFO, 0)) << 16
                entry.extra = chance.choice((b"", b"\x01\0\x08\0" + bytes(8), b"\xff\xff", b"up\x09\0\x01" + bytes(8)))
                entry.comment = chance.choice((b"", b"x" * 100))
            archive.writestr(entry, content, packing)
    written = bytearray(out.getvalue())
    if how > 4:  # a field of the directory, or of an entry's own header
        start = written.rfind(b"PK\x01\x02") if how == 5 else written.rfind(b"PK\x03\x04")
        place = start + chance.randrange(4, 46)
        written[place : place + 1] = bytes([chance.choice((0, 1, 8, 255, chance.randrange(256)))])
    return bytes(written)


KINDS: dict[str, Bytes] = {
    "bytes": flipped,
    "json": json_changed,
    "lines": lines_changed,
    "csv": table_changed,
    "safetensors": tensors_changed,
    "parquet": parquet_changed,
    "zip": zip_changed,
}
