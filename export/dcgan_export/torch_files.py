"""What torch's own two formats, TorchScript and pt2, share: zip archives, and how a loaded module is run."""

from __future__ import annotations

import io
import re
from zipfile import ZipFile, ZipInfo

import torch
from torch import Tensor, nn

from dcgan_infer.contract.spec import Interface

from .formats import FloatArray, IntArray, Runner


def canonical(written: bytes, dropped: tuple[str, ...]) -> bytes:
    """The same TorchScript archive with the same bytes on every machine and in every process.

    It has no dates, and constants of a class stand in the order of their names. Classes are called by their place in
    the module: torch calls them by where their code is, and numbers those that the process has traced before.

    Args:
        written: a zip archive.
        dropped: endings of the names of members to leave out.
    """
    with ZipFile(io.BytesIO(written)) as source:
        members = {name: source.read(name) for name in source.namelist() if not name.endswith(dropped)}
    code = {name: _named(content) for name, content in members.items() if _CODE.search(name)}
    (data,) = (content for name, content in members.items() if name.endswith("/data.pkl"))
    known = {f"{_module_of(file)}.{name}": text for file, texts in code.items() for name, text in texts.items()}
    order = [f"{found[1].decode()}.{found[2].decode()}" for found in _GLOBAL.finditer(data)]
    for name in order:  # and what these call, which goes on growing the list
        called = [found.decode() for found in _REFERENCE.findall(known.get(name, b""))]
        order += [each for each in dict.fromkeys(called) if each not in order]
    places = {name: place for place, name in enumerate(each for each in dict.fromkeys(order) if each in known)}

    def renamed(name: str) -> str:
        return f"__torch__.part{places[name]}.{name.rpartition('.')[2]}" if name in places else name

    def in_code(found: re.Match[bytes]) -> bytes:
        return renamed(found[0].decode()).encode()

    def in_pickle(found: re.Match[bytes]) -> bytes:
        module, _, name = renamed(f"{found[1].decode()}.{found[2].decode()}").rpartition(".")
        return f"c{module}\n{name}\n".encode()

    kept = io.BytesIO()
    with ZipFile(kept, "w") as target:  # ZipInfo's own date is 1980, never today
        for member, content in members.items():
            if member not in code:
                changed = _GLOBAL.sub(in_pickle, content) if member.endswith(".pkl") else content
                target.writestr(ZipInfo(member), changed)
            elif member == next(iter(code)):
                root = member.partition("/")[0]
                for name in places:
                    text = _CONSTANTS.sub(_sorted_lines, _REFERENCE.sub(in_code, known[name]))
                    target.writestr(ZipInfo(f"{root}/code/__torch__/part{places[name]}.py"), text)
    return kept.getvalue()


_CODE = re.compile(r"/code/__torch__.*\.py$")
_REFERENCE = re.compile(rb"__torch__(?:\.\w+)+")
_GLOBAL = re.compile(rb"c(__torch__(?:\.\w+)*)\n(\w+)\n")  # a pickle's reference to a class
# torch writes the constants of a scripted class in the order of a set of strings, another one in each process.
_CONSTANTS = re.compile(rb"(?:^  \w+ : Final\[.*\n)+", re.MULTILINE)


def _module_of(file: str) -> str:
    return file.partition("/code/")[2].removesuffix(".py").replace("/", ".")


def _named(content: bytes) -> dict[str, bytes]:
    """The classes and functions of a file of code, by name."""
    parts = re.split(rb"^(?=(?:class|def) )", content, flags=re.MULTILINE)[1:]
    return {re.split(rb"\W", part, maxsplit=2)[1].decode(): part for part in parts}


def _sorted_lines(found: re.Match[bytes]) -> bytes:
    return b"".join(sorted(found[0].splitlines(keepends=True)))


def example_inputs(spec: Interface) -> tuple[Tensor, ...]:
    """What a generator takes, two of each: an example of one would fix the batch at one."""
    z = torch.zeros(2, spec.latent_dim)
    return (z, torch.zeros(2, dtype=torch.int64)) if spec.num_classes else (z,)


def runner(module: nn.Module) -> Runner:
    """Run a loaded module on arrays."""

    def run(*inputs: FloatArray | IntArray) -> FloatArray:
        with torch.inference_mode():
            return module(*map(torch.from_numpy, inputs)).numpy()  # type: ignore[no-any-return]

    return run
