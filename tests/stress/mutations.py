"""Damage to files: bytes at random, and what a format says of itself: lengths, offsets, types, names.

Every function takes a `random.Random`, so that the same one gives the same file. What is damaged by its format comes
with right lengths and checksums around it, else all files would be refused at the door.
"""

from __future__ import annotations

import gzip
import io
import json
import re
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from random import Random
from typing import Any, TypeAlias

Mutation: TypeAlias = Callable[[Random, bytes], bytes]

_MOST = 1 << 20  # bytes of a damaged file
_INTEGERS = [
    0, 1, 2, 3, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x10000, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF,
    1 << 40, (1 << 63) - 1, 1 << 63, (1 << 64) - 1,
]  # fmt: skip
_TEXTS = [
    "", " ", "a", "0", "-1", "nan", "inf", "1e999", "9" * 30, "9" * 5000, "\0", "\n", "a\nb", "\x1b[31mred",
    "\u202eabc", "é", "🦊", "\ud800", "../../x", "/", "a" * 5000, "{}", "[" * 3000, "%s%n", "--help", "x" * 201,
    "tanh", "relu:nan",
]  # fmt: skip
_VALUES: list[Any] = [
    None, True, False, 0, -1, 1, 65536, 65537, 1 << 31, 1 << 32, 1 << 62, (1 << 63) - 1, 1 << 64, -(1 << 63), 10**400,
    0.0, -0.0, 0.5, 1e-320, 1e308, float("nan"), float("inf"), [], {}, [[]], [None], [1, 2, 3], {"a": 1}, *_TEXTS,
]  # fmt: skip


def mutated(random: Random, seeds: Sequence[bytes], form: str) -> bytes:
    """A file that was right.

    Args:
        random: makes all choices.
        seeds: right files, of which one is taken.
        form: a key of `FORMS`, or empty for bytes alone.
    """
    data = random.choice(seeds)
    for _ in range(random.choice((1, 1, 1, 1, 2, 3, 6))):
        mutation = FORMS[form] if form and random.random() < 0.65 else None
        if mutation is not None:
            try:
                data = mutation(random, data)
                continue
            except (
                ValueError,
                LookupError,
                OverflowError,
                struct.error,
                zlib.error,
                OSError,
                EOFError,
                RecursionError,
            ):
                pass  # it was damaged so far that it has no form any more
            except (zipfile.BadZipFile, NotImplementedError, RuntimeError):
                pass
        data = _spliced(random, data, random.choice(seeds)) if random.random() < 0.1 else _in_bytes(random, data)
    return data[:_MOST]


# Bytes


def _in_bytes(random: Random, data: bytes) -> bytes:
    return random.choice(_BYTES)(random, data)


def _place(random: Random, data: bytes) -> int:
    """Somewhere, and mostly at an end, where headers and directories are."""
    where = random.random()
    if where < 0.5:
        return random.randrange(min(len(data), 96) + 1)
    if where < 0.7:
        return max(0, len(data) - random.randrange(96))
    return random.randrange(len(data) + 1)


def _part(random: Random, data: bytes) -> tuple[int, int]:
    first = _place(random, data)
    return first, min(len(data), first + random.choice((1, 2, 4, 8, 16, 100, 1000)))


def _flipped(random: Random, data: bytes) -> bytes:
    changed = bytearray(data)
    for _ in range(random.choice((1, 1, 2, 8))):
        if changed:
            changed[min(_place(random, data), len(data) - 1)] ^= 1 << random.randrange(8)
    return bytes(changed)


def _overwritten(random: Random, data: bytes) -> bytes:
    at = _place(random, data)
    value = random.choice(
        (b"\0", b"\xff", b"\x7f", b"\x80", b"\n", b"\0\0\0\0", b"\xff\xff\xff\xff", random.randbytes(3))
    )
    return data[:at] + value + data[at + len(value) :]


def _truncated(random: Random, data: bytes) -> bytes:
    return data[: _place(random, data)] if random.random() < 0.8 else data[_place(random, data) :]


def _inserted(random: Random, data: bytes) -> bytes:
    at = _place(random, data)
    return data[:at] + random.choice((b"\0", b"\xff" * 8, random.randbytes(random.randrange(1, 40)))) + data[at:]


def _deleted(random: Random, data: bytes) -> bytes:
    first, last = _part(random, data)
    return data[:first] + data[last:]


def _duplicated(random: Random, data: bytes) -> bytes:
    first, last = _part(random, data)
    return data[:last] + data[first:last] * random.choice((1, 1, 2, 50)) + data[last:]


def _moved(random: Random, data: bytes) -> bytes:
    first, last = _part(random, data)
    rest = data[:first] + data[last:]
    at = _place(random, rest)
    return rest[:at] + data[first:last] + rest[at:]


def _extreme(random: Random, data: bytes) -> bytes:
    """An integer of a common size at an extreme."""
    size, at = random.choice((1, 2, 4, 8)), _place(random, data)
    value = (random.choice(_INTEGERS) + random.choice((0, 0, -1, 1))) % (1 << 8 * size)
    return data[:at] + value.to_bytes(size, random.choice(("little", "big"))) + data[at + size :]


def _spliced(random: Random, data: bytes, other: bytes) -> bytes:
    return data[: _place(random, data)] + other[_place(random, other) :]


_BYTES: list[Mutation] = [
    _flipped, _overwritten, _truncated, _inserted, _deleted, _duplicated, _moved, _extreme, _extreme,
]  # fmt: skip

# Text and JSON


def _in_text(random: Random, data: bytes) -> bytes:
    """Words, numbers and marks."""
    words = re.findall(r"\w+|\s+|[^\w\s]", data.decode("utf-8", "surrogateescape")) or [""]
    at = random.randrange(len(words))
    for _ in range(8):  # spaces are many and dull
        if not words[at].isspace():
            break
        at = random.randrange(len(words))
    action = random.randrange(5)
    if action == 0:
        words[at] = random.choice(_TEXTS)
    elif action == 1:
        del words[at]
    elif action == 2:
        words[at] *= random.choice((2, 3, 300))
    elif action == 3:
        other = random.randrange(len(words))
        words[at], words[other] = words[other], words[at]
    else:
        words[at] = json.dumps(random.choice(_VALUES[:21]))
    return "".join(words).encode("utf-8", "surrogatepass")


def _in_json(random: Random, data: bytes) -> bytes:
    text = data.decode("utf-8", "surrogateescape")
    if random.random() < 0.25:
        return _in_text(random, data)
    return _dumped(_changed(random, json.loads(text)))


def _dumped(value: Any) -> bytes:
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), default=str)
    return text.encode("utf-8", "surrogatepass")


_GONE = object()


def _changed(random: Random, value: Any) -> Any:
    """JSON with one node changed, at any depth; text that is JSON itself counts as a part of it."""
    paths = list(_paths(value, ()))
    changed = _put(random, value, random.choice(paths))
    return None if changed is _GONE else changed


def _paths(value: Any, path: tuple[Any, ...]) -> Iterator[tuple[Any, ...]]:
    yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield from _paths(inner, (*path, key))


def _put(random: Random, value: Any, path: tuple[Any, ...]) -> Any:
    if not path:
        return _other(random, value)
    key, *rest = path
    copy = dict(value) if isinstance(value, dict) else list(value)
    if not rest and isinstance(copy, dict) and random.random() < 0.1:
        copy[random.choice(_TEXTS)] = copy.pop(key)
        return copy
    new = _put(random, value[key], tuple(rest))
    if new is _GONE:
        del copy[key]
    else:
        copy[key] = new
    return copy


def _other(random: Random, value: Any) -> Any:
    if isinstance(value, str) and value[:1] in ("{", "[") and random.random() < 0.8:
        try:
            return _in_json(random, value.encode("utf-8", "surrogatepass")).decode("utf-8", "surrogateescape")
        except ValueError:
            pass
    action = random.randrange(8)
    if action == 0:
        return _GONE
    if action == 1:
        return [value]
    if action == 2 and isinstance(value, list):
        return value * random.choice((2, 2, 500))
    if action == 3 and isinstance(value, int | float):
        return random.choice((str(value), float(value), value + 1, -value, value * 2))
    if action == 4 and isinstance(value, str):
        return _in_text(random, value.encode("utf-8", "surrogatepass")).decode("utf-8", "surrogateescape")
    if action == 5 and isinstance(value, dict):
        return list(value)
    return random.choice(_VALUES)


# Safetensors and golden files: the length of a JSON header, the header, arrays


def _in_safetensors(random: Random, data: bytes) -> bytes:
    (length,) = struct.unpack_from("<Q", data)
    header, rest = data[8 : 8 + length], data[8 + length :]
    action = random.randrange(10)
    if action == 0:
        return struct.pack("<Q", random.choice((*_INTEGERS, length + 1, length - 1)) % (1 << 64)) + header + rest
    if action == 1:
        return data[: 8 + length] + _in_bytes(random, rest)
    if action < 6:
        new = _in_json(random, header)
    else:
        entries = json.loads(header)
        if not isinstance(entries, dict) or not all(isinstance(entry, dict) for entry in entries.values()):
            return data  # an earlier mutation was here
        name = random.choice([name for name in entries if name != "__metadata__"])
        field = random.choice(("dtype", "shape", "data_offsets"))
        entry = entries[name] = dict(entries[name])
        if field == "dtype":
            entry[field] = random.choice("F64 F32 F16 BF16 F8_E4M3 I64 I32 U64 U8 BOOL C64 F4 x".split())
        else:
            numbers = entry[field] = list(entry[field])
            at = random.randrange(len(numbers)) if numbers else 0
            numbers[at : at + (random.random() < 0.8)] = [random.choice((*_INTEGERS, -1))]
        new = _dumped(entries)
    return struct.pack("<Q", len(new)) + new + rest


# NumPy's .npy: a magic, a version, the length of a header in Python, the header, an array

_TYPES = [
    "<f4",
    "<f8",
    "<f2",
    ">f4",
    "|O",
    "|V8",
    "<U4",
    "|S5",
    "<i8",
    "|u1",
    "|b1",
    "<c8",
    "<M8[s]",
    "<f16",
    "<f3",
    "",
]
_SHAPES = [
    "()", "(0,)", "(1,)", "(0, 5)", "(5, 0)", "(-1,)", "(2, -1)", "(4294967296, 4294967296)", "(9223372036854775807,)",
    "(18446744073709551616,)", "(1000000000, 5)", "(4, 5, 1)", "(4,)", "5", "(True,)", "(1.5, 5)", "None",
    "(" + "1, " * 70 + ")",
]  # fmt: skip


def _in_npy(random: Random, data: bytes) -> bytes:
    if data[:6] != b"\x93NUMPY":
        raise ValueError
    wide = data[6] > 1
    (length,) = struct.unpack_from("<I" if wide else "<H", data, 8)
    begin = 12 if wide else 10
    header, rest = data[begin : begin + length].decode("latin1"), data[begin + length :]
    action = random.randrange(5)
    if action == 0:
        kind = random.choice((*map(repr, _TYPES), "[('a', '<f4')]", "('<f4', (2,))", "[('a', '|O')]", "7", "None"))
        header = re.sub(r"('descr': )'[^']*'", lambda found: found[1] + kind, header)
    elif action == 1:
        shape = random.choice(_SHAPES)
        header = re.sub(r"('shape': )\([^)]*\)", lambda found: found[1] + shape, header)
    elif action == 2:
        header = header.replace("False", random.choice(("True", "1", "None", "'a'")))
    elif action == 3:
        header = _in_text(random, header.encode()).decode("utf-8", "replace")
    else:
        rest = _in_bytes(random, rest)
    content = header.encode("utf-8")
    version = 2 if len(content) > 0xFFFF else random.choice((1, 1, 1, 2, 3))
    return (
        b"\x93NUMPY" + bytes((version, 0)) + struct.pack("<H" if version == 1 else "<I", len(content)) + content + rest
    )


# IDX and gzip


def _in_idx(random: Random, data: bytes) -> bytes:
    if data[:2] == b"\x1f\x8b":
        return gzip.compress(_in_idx(random, gzip.decompress(data)), 1, mtime=0)
    changed = bytearray(data)
    axis = random.randrange(data[3])
    if random.random() < 0.3:
        changed[random.randrange(4)] = random.choice((0, 1, 2, 3, 4, 8, 13, 255))
    else:
        struct.pack_into(">I", changed, 4 + 4 * axis, random.choice(_INTEGERS) & 0xFFFFFFFF)
    return bytes(changed)


# ZIP archives, and what is in them


def _in_zip(random: Random, data: bytes) -> bytes:
    action = random.randrange(6)
    if action < 2:  # a field of the central directory, or of the record at its end
        places = [found.start() for found in re.finditer(rb"PK\x01\x02|PK\x05\x06|PK\x03\x04|PK\x06[\x06\x07]", data)]
        at, size = random.choice(places) + random.randrange(4, 42), random.choice((2, 4))
        value = random.choice(_INTEGERS) % (1 << 8 * size)
        return data[:at] + value.to_bytes(size, "little") + data[at + size :]
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        files = [(info.filename, archive.read(info), info.compress_type) for info in archive.infolist()]
    at = random.randrange(len(files))
    name, content, method = files[at]
    if action == 2:
        stem, dot, suffix = name.rpartition(".")
        new = random.choice((
            "../" + name, "/" + name, name.replace("/", "\\"), "a/../" + name, name * 2, "é\x1b[2J\n" + name,
            f"{stem}{dot}x{suffix}", "C:" + name, "." + name, name + "/", "x" * 3000,
        ))  # fmt: skip
        files[at] = new, content, method
    elif action == 3:
        files[at : at + 1] = random.choice(([], [files[at], ("copy", content, method)], [(name, b"", method)]))
    else:
        suffix = name.rpartition(".")[2]
        form = {"npy": "npy", "json": "json", "png": "png", "pkl": "pickle"}.get(suffix, "")
        content = FORMS[form](random, content) if form and random.random() < 0.8 else _in_bytes(random, content)
        files[at] = name, content, random.choice((method, method, zipfile.ZIP_DEFLATED))
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for name, content, method in files:
            info = zipfile.ZipInfo(name)
            info.compress_type = method
            archive.writestr(info, content)
    return packed.getvalue()


_OPCODES = [
    b"cos\nsystem\n", b"cbuiltins\neval\n", b"ctorch\ndevice\n", b"ccollections\nOrderedDict\n", b"R", b"b", b"0",
    b"1", b"(", b"t", b"}", b"]", b"N", b".", b"K\xff", b"M\xff\xff", b"J\xff\xff\xff\x7f", b"\x8a\x08" + b"\xff" * 8,
    b"X\xff\xff\xff\x7f", b"Q", b"h\x00", b"r\xff\xff\xff\x7f", b"s", b"u", b"\x85R", b"\x81", b"q\x00",
]  # fmt: skip


def _in_pickle(random: Random, data: bytes) -> bytes:
    at = random.randrange(len(data) + 1)
    action = random.randrange(4)
    if action == 0:
        return data[:at] + random.choice(_OPCODES) + data[at:]
    if action == 1:
        names = sorted(set(re.findall(rb"[A-Za-z_]\w{3,}", data)))
        return data.replace(random.choice(names), random.choice(names))
    if action == 2:  # a number: of a shape, a stride, an offset
        places = [found.start() + 1 for found in re.finditer(rb"[KM]", data)]
        at = random.choice(places)
        return data[:at] + bytes((random.choice((0, 1, 127, 128, 255)),)) + data[at + 1 :]
    return _in_bytes(random, data)


# PNG: chunks, each with its length and its checksum


def _in_png(random: Random, data: bytes) -> bytes:
    chunks, at = [], 8
    while at < len(data):
        size, kind = struct.unpack_from(">I4s", data, at)
        chunks.append((kind, data[at + 8 : at + 8 + size], size))
        at += 12 + size
    number = random.randrange(len(chunks))
    kind, content, size = chunks[number]
    action = random.randrange(6)
    if action == 0:
        chunks[number] = kind, content, random.choice(_INTEGERS) & 0xFFFFFFFF
    elif action == 1:
        chunks[number : number + 1] = random.choice(([], chunks[number : number + 1] * 3))
    elif action == 2:
        extra = random.choice(
            (b"zTXt", b"iTXt", b"iCCP", b"eXIf", b"tRNS", b"PLTE", b"acTL", b"fcTL", b"fdAT", b"gAMA")
        )
        content = random.choice((b"", b"k\0\0" + zlib.compress(bytes(1 << 16)), random.randbytes(9), b"\0\0\0\1" * 6))
        chunks.insert(random.choice((1, number)), (extra, content, len(content)))
    elif action == 3:
        other = random.randrange(len(chunks))
        chunks[number], chunks[other] = chunks[other], chunks[number]
    elif kind == b"IDAT" and random.random() < 0.5:
        content = zlib.compress(_in_bytes(random, zlib.decompress(content)))
        chunks[number] = kind, content, len(content)
    else:
        content = _extreme(random, content)
        chunks[number] = kind, content, len(content)
    parts = [
        struct.pack(">I", size) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        for kind, body, size in chunks
    ]
    return data[:8] + b"".join(parts)


# Protobuf: (number, wire type, value); of a message inside the value is a list

_Fields: TypeAlias = "list[tuple[int, int, Any]]"


def _in_protobuf(random: Random, data: bytes) -> bytes:
    fields = _parsed(data)
    if not fields:
        raise ValueError
    _change_field(random, fields)
    return _written(fields)


def _change_field(random: Random, fields: _Fields) -> None:
    at = random.randrange(len(fields))
    number, wire, value = fields[at]
    if isinstance(value, list) and value and random.random() < 0.85:
        _change_field(random, value)
        return
    action = random.randrange(7)
    if action == 0:
        del fields[at]
    elif action == 1:
        fields[at : at + 1] = [fields[at]] * random.choice((2, 2, 200))
    elif action == 2:
        fields[at] = random.choice((number + 1, max(1, number - 1), random.randrange(1, 30), 0, 1 << 28)), wire, value
    elif wire == 0:
        fields[at] = number, wire, random.choice((*_INTEGERS, value + 1, max(0, value - 1), random.randrange(20)))
    elif action == 3:  # a length that lies; the wire type 8 is no type: bytes as they are
        content = _written(value) if isinstance(value, list) else value
        length = random.choice((*_INTEGERS, len(content) + 1, max(0, len(content) - 1)))
        fields[at] = 0, 8, _varint(number << 3 | 2) + _varint(length) + content
    elif action == 4:
        content = _written(value) if isinstance(value, list) else value
        fields[at] = 0, 8, _varint(number << 3 | random.randrange(8)) + _varint(len(content)) + content
    else:
        content = _written(value) if isinstance(value, list) else value
        if content[:1] == b"{":
            content = _in_json(random, content)
        elif random.random() < 0.4:
            content = random.choice(_TEXTS).encode("utf-8", "surrogatepass")
        else:
            content = _in_bytes(random, content)
        fields[at] = number, 2, content


def _parsed(data: bytes, depth: int = 0) -> _Fields:
    """Fields of a message; empty if it is none."""
    fields: _Fields = []
    at = 0
    while at < len(data):
        key, at = _read_varint(data, at)
        number, wire = key >> 3, key & 7
        if at < 0 or not 0 < number < 100 or wire not in (0, 1, 2, 5):
            return []
        value: Any
        if wire == 0:
            value, at = _read_varint(data, at)
            if at < 0:
                return []
        else:
            size = 8 if wire == 1 else 4
            if wire == 2:
                size, at = _read_varint(data, at)
            if at < 0 or at + size > len(data):
                return []
            value, at = data[at : at + size], at + size
            if wire == 2 and size > 1 and depth < 8 and value[:1] != b"{" and not value.isalnum():
                value = _parsed(value, depth + 1) or value
        fields.append((number, wire, value))
    return fields


def _written(fields: _Fields) -> bytes:
    parts = []
    for number, wire, value in fields:
        if wire == 8:
            parts.append(value)
            continue
        parts.append(_varint(number << 3 | wire))
        if wire == 0:
            parts.append(_varint(value))
        else:
            content = _written(value) if isinstance(value, list) else value
            parts.append((_varint(len(content)) if wire == 2 else b"") + content)
    return b"".join(parts)


def _varint(value: int) -> bytes:
    groups = []
    value &= (1 << 64) - 1
    while value > 0x7F:
        groups.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes((*groups, value))


def _read_varint(data: bytes, at: int) -> tuple[int, int]:
    """A number and where it ends; -1 where it does not end."""
    value = 0
    for place, byte in enumerate(data[at : at + 10]):
        value |= (byte & 0x7F) << 7 * place
        if byte < 0x80:
            return value, at + place + 1
    return 0, -1


FORMS: dict[str, Mutation] = {
    "text": _in_text,
    "json": _in_json,
    "safetensors": _in_safetensors,
    "npy": _in_npy,
    "idx": _in_idx,
    "zip": _in_zip,
    "pickle": _in_pickle,
    "png": _in_png,
    "protobuf": _in_protobuf,
}
