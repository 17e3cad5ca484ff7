"""Where in a file a generator's tensors lie: below which keys of dicts, and below which prefix of their names."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from torch import Tensor

T = TypeVar("T")

# What a generator is called, in lower case, where it shares a state dict with other networks.
_NAMES = frozenset(
    "generator gen g netg net_g g_net model_g g_model g_ema gen_ema generator_ema netg_ema ema_g ema ema_model "
    "decoder".split()
)
_WRAPPERS = ("module.", "_orig_mod.")  # of nn.DataParallel and its relatives, and of torch.compile
_MOST_DICTS = 10_000
_DEEPEST = 6  # nested dicts and prefixes


@dataclass(frozen=True)
class StateDict:
    """Named tensors, and what was taken off to find them.

    Attributes:
        tensors: by name, without the prefixes.
        key: of the dict entry they lie below, dotted where dicts are nested; empty for the file itself.
        prefix: that was taken off the names.
    """

    tensors: dict[str, Tensor]
    key: str = ""
    prefix: str = ""

    @property
    def name(self) -> str:
        """What `--key` calls it."""
        return ".".join(part for part in (self.key, self.prefix.rstrip(".")) if part)


def state_dicts(content: Any) -> list[StateDict]:
    """Every state dict in nested dicts; what optimizers keep has numbers for names, and is none."""
    found, below = [], [("", content)]
    for _ in range(_MOST_DICTS):  # a few of them that hold each other many times would never end
        while below and not (isinstance(below[-1][1], Mapping) and below[-1][0].count(".") <= _DEEPEST):
            below.pop()
        if not below:
            break
        key, whole = below.pop()
        named = {name: value for name, value in whole.items() if isinstance(name, str)}
        if named and all(isinstance(value, Tensor) for value in named.values()) and len(named) == len(whole):
            found.append(StateDict(named, key))
        else:
            below += [(f"{key}.{name}" if key else name, value) for name, value in reversed(named.items())]
    return found


def search(whole: StateDict, match: Callable[[StateDict], T | None]) -> list[tuple[StateDict, T]]:
    """Parts of a state dict that match: the whole without its wrappers, as it is, or below a prefix.

    A prefix is tried if all names have it, or if it is one of those that generators have: any other part of a network
    may look like a generator and be the rest of one.
    """
    for view in _views(whole):
        found = match(view)
        if found is not None:
            return [(view, found)]
    bare = _views(whole)[0]
    if bare.prefix.count(".") > _DEEPEST:
        return []
    groups: dict[str, dict[str, Tensor]] = {}
    for name, tensor in bare.tensors.items():
        first, dot, rest = name.partition(".")
        groups.setdefault(first if dot else "", {})[rest] = tensor
    parts = [
        StateDict(tensors, bare.key, f"{bare.prefix}{first}.")
        for first, tensors in groups.items()
        if first and (len(groups) == 1 or first.lower() in _NAMES)
    ]
    return [found for part in parts for found in search(part, match)]


def _views(whole: StateDict) -> list[StateDict]:
    """The state dict without what wrappers put before its names, and as it is."""
    bare = whole
    # AveragedModel counts beside the module it wraps.
    counted = {name: tensor for name, tensor in bare.tensors.items() if name != "n_averaged"}
    if len(counted) < len(bare.tensors) and all(name.startswith("module.") for name in counted):
        bare = StateDict(counted, bare.key, bare.prefix)
    while bare.tensors:
        wrapper = next((w for w in _WRAPPERS if all(name.startswith(w) for name in bare.tensors)), None)
        if wrapper is None:
            break
        tensors = {name.removeprefix(wrapper): tensor for name, tensor in bare.tensors.items()}
        bare = StateDict(tensors, bare.key, bare.prefix + wrapper)
    inner = {name.replace("_orig_mod.", ""): tensor for name, tensor in bare.tensors.items()}  # of a part compiled
    if len(inner) == len(bare.tensors) and inner.keys() != bare.tensors.keys():
        bare = StateDict(inner, bare.key, bare.prefix)
    return [whole] if bare is whole else [bare, whole]
