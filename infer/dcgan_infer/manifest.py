"""The SHA256SUMS beside a file: which digests it lists for that file, in whatever spelling. Standard library only.

Tools spell such lists in many ways: sha256sum's `digest  name` and `digest *name`, its `--tag` and BSD's
`SHA256 (name) = digest`, a leading backslash where the name is escaped (GNU coreutils' manual, "cksum output modes");
openssl's `SHA2-256(name)= digest`; and editors and shells add byte order marks, CRLF and capitals. What is not
understood must not look as if the file weren't listed.
"""

from __future__ import annotations

import codecs
import errno
import posixpath
import re
from pathlib import Path

from .contract.errors import ModelError, first_line
from .contract.files import read_limited

MANIFEST = "SHA256SUMS"
_MOST_BYTES = 1 << 26  # half a million files

_DIGEST = "([0-9a-fA-F]{64})"
_PLAIN = re.compile(rf"\s*(\\?){_DIGEST}\s(.+)", re.DOTALL)
_TAGGED = re.compile(rf"\s*(\\?)SHA(?:2-)?256 ?\((.+)\) ?= ?{_DIGEST}\s*", re.DOTALL | re.IGNORECASE)
_ANYHOW = re.compile(rf"(?<![0-9a-fA-F]){_DIGEST}(?![0-9a-fA-F])")
_ESCAPED = {r"\\": "\\", r"\n": "\n", r"\r": "\r"}


def listed(path: Path) -> list[str]:
    """Digests of a file in the manifest beside it, in small letters; several where it stands there several times.

    Raises:
        ModelError: there is a manifest, and it can't be read.
    """
    manifest = path.parent / MANIFEST
    try:
        if manifest.is_fifo():  # nobody named it, and it may never end
            raise OSError(errno.EINVAL, "it is a pipe")
        with manifest.open("rb") as file:
            content = read_limited(file, _MOST_BYTES)
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise ModelError(f"can't read {manifest}: {first_line(error).lower()}") from error
    whole = path.absolute().as_posix()
    entries = [entry for line in _decoded(content).split("\n") for entry in _entries(line.strip("\ufeff\r"))]
    # Another reading of a line counts only where none is by the book.
    return (
        [digest for digest, name, _ in entries if name and posixpath.normpath(name) == path.name]
        or [digest for digest, name, _ in entries if _means(name, whole)]
        or [digest for digest, _, others in entries if any(_means(name, whole) for name in others)]
    )


def _decoded(content: bytes) -> str:
    """Names of files need not be UTF-8, and PowerShell writes UTF-16."""
    if content[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
        return content.decode("utf-16", "replace")
    return content.decode("utf-8", "surrogateescape")


def _entries(line: str) -> list[tuple[str, str, list[str]]]:
    """The digest of a line, the name it is of, and names that somebody may have meant; or nothing."""
    if found := _TAGGED.fullmatch(line):
        name = _unescaped(found[2]) if found[1] else found[2]
        return [(found[3].lower(), name, [found[2]])]
    if found := _PLAIN.fullmatch(line):
        rest = _unescaped(found[3]) if found[1] else found[3]
        name = rest[1:] if rest[0] in " *" else rest
        return [(found[2].lower(), name, [rest, rest.strip(), name.strip(), found[3], found[3][1:]])]
    digests = _ANYHOW.findall(line)
    if len(digests) == 1:  # a table: the name stands at one of its ends, with a folder that we can't know
        words = line.replace("\\", "/").split()
        return [(digests[0].lower(), "", [word.rpartition("/")[2].strip(":*") for word in (words[0], words[-1])])]
    return []


def _unescaped(name: str) -> str:
    return re.sub(r"\\[\\nr]", lambda found: _ESCAPED[found[0]], name)


def _means(name: str, whole: str) -> bool:
    """Whether a name is that of a file, relative to its folder or to one above."""
    for spelled in (name, name.replace("\\", "/")):
        end = posixpath.normpath(spelled).lstrip("/") if spelled else "."
        if end != "." and f"/{whole}".endswith(f"/{end}"):
            return True
    return False
