"""Checkpoints: ours, safetensors with the spec inside, and anybody's state dict.

Nothing here unpickles objects that could run code: safetensors holds tensors and text only, and what `torch.save` wrote
is read with `weights_only=True`. Code of the user runs only if they name it (`Hints.module`).
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dcgan_infer.contract.errors import CheckpointError, SpecError, first_line, printable
from dcgan_infer.contract.layers import OUTPUTS, Activate, Activation, BatchNorm, shapes_of
from dcgan_infer.contract.spec import RECIPE_KEY, SOURCE_KEY, SPEC_KEY, VERSIONS_KEY, GeneratorSpec

from . import modules, user_code
from .networks import Generator, with_counters
from .recognise import AmbiguousError, Recognised, recognise, unknown
from .tensor_files import SAVE, read_bytes, read_safetensors, read_tensors, write_safetensors
from .torch_state import our_settings
from .unwrap import StateDict, T, search, state_dicts

_KIND_KEY = "dcgan.kind"
_STATE_KEY = "dcgan.state"
# Tensors of a training state whose names begin with this are the generator that a run would publish now.
PUBLISHED = "published."
_LONGEST_NAME = 1000  # of a tensor, dotted
_EXPANDED = 1 << 24  # weights that may be views of fewer values, as of one that was expanded
# What a folder is looked through for, the best first.
_IN_FOLDERS = ("generator.safetensors", "best.safetensors", "checkpoint.safetensors", "model.safetensors")


@dataclass(frozen=True)
class Hints:
    """What somebody says of a generator, where its file does not; every field may be None.

    Attributes:
        key: which entry of a file that holds several generators, dotted where dicts are nested.
        module: `PATH.py:NAME` or `package.module:NAME`, a class or function that is called without arguments and gives
            the `nn.Module` that the weights are for.
        activation: of the hidden layers.
        output: of the last layer, tanh or sigmoid.
        eps: of every BatchNorm.
        latent_dim: length of a latent.
        num_classes: number of classes; 0 for none.
        class_names: of the classes, in order; of a module that does not say how many there are, also how many.
        value_range: values of black and of white.
    """

    key: str | None = None
    module: str | None = None
    activation: Activation | None = None
    output: Activation | None = None
    eps: float | None = None
    latent_dim: int | None = None
    num_classes: int | None = None
    class_names: tuple[str, ...] | None = None
    value_range: tuple[float, float] | None = None


@dataclass(frozen=True)
class GeneratorCheckpoint:
    """A generator read from a file.

    Attributes:
        module: the yardstick, in eval mode, float32, on the CPU: latents (N, latent_dim), and labels (N,) if it has
            classes, to images (N, C, H, W).
        spec: of it; its layers are empty where they are not known.
        chain: the same weights as a chain of the spec's layers, for rewriting: `module` itself where it is one; None
            without layers.
        recipe: JSON of the recipe that trained it, empty where the file does not say.
        weights_sha256: hexadecimal digest of the weights, see `weights_sha256`.
        notes: a line each for people: what was taken off, recognised and assumed.
        source: canonical JSON of how the network was known, for the metadata key `SOURCE_KEY`; empty for what we
            trained.
        path: of the file; None of what was read from none.
    """

    module: nn.Module
    spec: GeneratorSpec
    chain: Generator | None
    recipe: str
    weights_sha256: str
    notes: tuple[str, ...] = ()
    source: str = ""
    path: Path | None = None


def weights_sha256(tensors: Mapping[str, Tensor]) -> str:
    """Hexadecimal SHA-256 of named tensors: name, dtype, shape and little-endian bytes of each, sorted by name.

    BatchNorm's `num_batches_tracked` is left out: it changes no image.
    """
    digest = hashlib.sha256()
    for name in sorted(tensors):
        if name.endswith("num_batches_tracked"):
            continue
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.numpy().astype(tensor.numpy().dtype.newbyteorder("<")).tobytes())
    return digest.hexdigest()


def save_generator(
    path: Path, tensors: Mapping[str, Tensor], spec: GeneratorSpec, recipe: str, source: str = ""
) -> None:
    """Write a generator's `state_dict` as safetensors, whole or not at all.

    Args:
        path: to write to; replaced if it exists.
        tensors: the `state_dict` of a `Generator`.
        spec: of that generator.
        recipe: JSON of the recipe that trained it.
        source: JSON of how the network was known, as `GeneratorCheckpoint` has it.
    Raises:
        OutputError: the file can't be written.
    """
    metadata = {
        _KIND_KEY: "generator",
        SPEC_KEY: spec.to_json(),
        RECIPE_KEY: recipe,
        VERSIONS_KEY: f"torch {torch.__version__}",
    } | ({SOURCE_KEY: source} if source else {})
    write_safetensors(path, tensors, metadata)


@our_settings()
def load_generator(path: Path, hints: Hints = Hints(), content: bytes | None = None) -> GeneratorCheckpoint:
    """Read a generator from a file, whichever kind it is.

    Takes `generator.safetensors`, the `checkpoint.safetensors` of a run (the generator it would publish now), a run's
    folder, and a state dict of a known layout (see `recognise.LAYOUTS`) or of `hints.module`: in a file of `torch.save`
    or of safetensors, by itself or in dicts. The kind is read from the content, not from the suffix.

    Args:
        path: of the checkpoint, a file, a run's folder or a pipe.
        hints: what the file does not say; what it does say must agree.
        content: of the file, where it was read already.
    Raises:
        CheckpointError: the file is missing, truncated, foreign, or of another shape than its spec says; or it is not
            known what network it is of.
    """
    file, notes = _file_of(path)
    tensors, metadata = read_tensors(read_bytes(file) if content is None else content, file)
    if metadata.get(_KIND_KEY) == "training":
        tensors = {name.removeprefix(PUBLISHED): t for name, t in tensors.items() if name.startswith(PUBLISHED)}
    try:
        if hints.module is not None:
            found = _load_into_module(tensors, file, hints, notes, metadata.get(RECIPE_KEY, ""))
        elif SPEC_KEY in metadata:
            found = _load_ours(tensors, metadata, file, hints, notes)
        else:
            found = _load_recognised(tensors, file, hints, notes)
        return dataclasses.replace(found, path=file)
    except SpecError as error:
        raise CheckpointError(f"{file}: {error}") from error


def _file_of(path: Path) -> tuple[Path, tuple[str, ...]]:
    """The file to read, and a note where that is not `path` itself."""
    if os.path.isdir(path):  # noqa: PTH112  Path.is_dir raises where the system has no such name
        file = next((path / name for name in _IN_FOLDERS if (path / name).is_file()), None)
        if file is None:
            is_run = (path / "options.json").exists()
            what = "a run that has not saved a generator yet" if is_run else "no run's folder"
            raise CheckpointError(f"{path} is {what}; give a run, or a file such as {_IN_FOLDERS[0]}")
        return file, (f"read {file}",)
    return path, ()


def _load_ours(
    tensors: dict[str, Tensor], metadata: dict[str, str], path: Path, hints: Hints, notes: tuple[str, ...]
) -> GeneratorCheckpoint:
    spec = GeneratorSpec.from_json(metadata[SPEC_KEY])
    if not spec.layers:
        raise CheckpointError(f"{path}: its spec lists no layers; give --module FILE.py:NAME")
    if hints.key is not None:
        raise CheckpointError(f"{path} holds one generator; leave --key out")
    if hints.class_names is not None and not spec.class_names:
        spec = dataclasses.replace(spec, class_names=hints.class_names)
    source = metadata.get(SOURCE_KEY, "")
    assumed = _assumed_in(source)
    functions = [layer.function for layer in spec.layers if isinstance(layer, Activate)]
    ends = isinstance(spec.layers[-1], Activate)
    all_eps = {layer.eps for layer in spec.layers if isinstance(layer, BatchNorm)}
    for what, said, found in (
        ("activation", hints.activation, set(functions[:-1] if ends else functions)),
        ("output", hints.output, set(functions[-1:] if ends else ())),
        ("eps", hints.eps, all_eps),
        ("latent size", hints.latent_dim, {spec.latent_dim}),
        ("number of classes", hints.num_classes, {spec.num_classes}),
        ("class names", hints.class_names, {spec.class_names}),
        ("value range", hints.value_range, {spec.value_range}),
    ):
        if said is not None and {said} != found:
            known = ", ".join(sorted(map(str, found))) or "none"
            if assumed:
                raise CheckpointError(
                    f"{path} was written from weights that were read with {what} {known}, not {said}; export those "
                    "weights again with the option"
                )
            raise CheckpointError(f"{path} was trained with {what} {known}, not {said}; leave the option out")
    weights, more = _clean(tensors, path)
    generator = _generator(spec, weights, path)
    return GeneratorCheckpoint(
        generator,
        spec,
        generator,
        metadata.get(RECIPE_KEY, ""),
        weights_sha256(generator.state_dict()),
        (*notes, *more, *([_assumptions(assumed)] if assumed else [])),
        source,
    )


def _load_recognised(content: Any, path: Path, hints: Hints, notes: tuple[str, ...]) -> GeneratorCheckpoint:
    if hints.output is not None and hints.output.name not in OUTPUTS:
        raise CheckpointError(f"the output is {' or '.join(OUTPUTS)}, found {hints.output}")
    if hints.eps is not None and not 0.0 < hints.eps < 1e6:
        raise CheckpointError(f"eps must be above 0, found {hints.eps:g}")
    doubts: list[AmbiguousError] = []

    def match(candidate: StateDict) -> Recognised | None:
        shapes = {name: _shape(tensor) for name, tensor in candidate.tensors.items()}
        try:
            network = recognise(shapes, hints.activation, hints.output, hints.eps)
        except AmbiguousError as error:
            doubts.append(error)
            return None
        # `hidden.0` is no name for a layer of ours; without the prefix it is.
        return network if network and all(Generator.can_name(layer.name) for layer in network.layers) else None

    wholes, found = _chosen(content, match, path, hints.key)
    if found is None:
        if doubts:
            raise CheckpointError(f"{path}: {doubts[0]}")
        for each in wholes:
            for name, tensor in each.tensors.items():
                if kind := _odd_kind(tensor):  # so it has no shape that would fit
                    raise CheckpointError(f"{path}: {name} is {kind}, expected plain numbers; {SAVE}")
        whole = next((whole for whole in wholes if whole.name == hints.key), wholes[0])
        raise CheckpointError(f"{path}: {unknown(list(whole.tensors))}")
    state, network = found
    classes = hints.num_classes or 0
    if classes and network.layout.name != "reference":
        raise CheckpointError(
            f"{path}: how {network.layout.origin} takes labels is not known; --module FILE.py:NAME is the certain way"
        )
    if hints.latent_dim not in (None, network.inputs - classes):
        raise CheckpointError(
            f"{path}: its first layer takes {network.inputs} numbers, so latents of {network.inputs - classes}, not "
            f"{hints.latent_dim}; leave --latent-dim out"
        )
    last = network.layers[-1]
    assert isinstance(last, Activate)
    value_range = OUTPUTS[last.function.name]
    if hints.value_range not in (None, value_range):
        raise CheckpointError(
            f"{path}: {last.function} gives values from {value_range[0]:g} to {value_range[1]:g}; leave --value-range "
            "out, or say --output-activation"
        )
    channels, height, width = shapes_of(network.layers, network.inputs)[-1]
    spec = GeneratorSpec(
        network.inputs - classes,
        (channels, height, width),
        classes,
        hints.class_names or (),
        value_range,
        layers=network.layers,
    )
    weights, more = _clean(state.tensors, path)
    generator = _generator(spec, weights, path)
    assumed = network.assumed | ({} if classes else {"inputs": "latent only"})
    facts = {"assumed": assumed, "given": network.given, "layout": network.layout.name}
    lines = (
        f"recognised as {network.layout.origin}",
        _assumptions(assumed),
        *(["given: " + "; ".join(f"{name} {value}" for name, value in network.given.items())] if network.given else []),
    )
    return GeneratorCheckpoint(
        generator,
        spec,
        generator,
        recipe="",
        weights_sha256=weights_sha256(generator.state_dict()),
        notes=(*notes, *_unwrapping(state), *more, *lines),
        source=_source(facts, state),
    )


def _load_into_module(
    content: Any, path: Path, hints: Hints, notes: tuple[str, ...], recipe: str
) -> GeneratorCheckpoint:
    assert hints.module is not None
    said = {"--activation": hints.activation, "--output-activation": hints.output, "--batch-norm-eps": hints.eps}
    extra = [option for option, value in said.items() if value is not None]
    if extra:
        raise CheckpointError(f"the module itself says its layers; leave {' and '.join(extra)} out")
    module = user_code.load_module(hints.module)
    expected = {name: tuple(t.shape) if not _is_lazy(t) else None for name, t in module.state_dict().items()}

    wholes, found = _chosen(content, lambda part: not _differences(expected, part) or None, path, hints.key)
    if found is None:
        chosen = [whole for whole in wholes if hints.key is None or whole.name == hints.key] or wholes
        nearest = max(chosen, key=lambda whole: len(whole.tensors.keys() & expected.keys()))
        raise CheckpointError(
            f"{path} does not fit --module {hints.module}: {_differences(expected, nearest)}; give the class "
            "that these weights were trained with"
        )
    state, _ = found
    weights, more = _clean(state.tensors, path)
    for name, own in module.state_dict().items():  # torch would drop the imaginary part
        if name in weights and weights[name].is_complex() and not own.is_complex():
            raise CheckpointError(
                f"{path}: {name} is complex, and the module's is not; give the class it was trained in"
            )
    try:
        module.load_state_dict(with_counters(weights, expected), strict=True)
    except Exception as error:  # a module may load its weights in ways of its own
        raise CheckpointError(
            f"{path} does not load into --module {hints.module}: {user_code.user_error(error)}"
        ) from error
    name = f"--module {hints.module}"
    fitted = modules.fit(module, name, hints.latent_dim, hints.num_classes, hints.class_names, hints.value_range)
    where, _, attribute = hints.module.rpartition(":")
    file = Path(where).name if where.endswith(".py") else where
    return GeneratorCheckpoint(
        fitted.module,
        fitted.spec,
        fitted.chain,
        recipe,
        weights_sha256(weights),
        notes=(*notes, *_unwrapping(state), *more, f"run by {hints.module}", *fitted.notes),
        # Not the whole path: an artifact says nothing of the machine that made it.
        source=_source({"layout": "module", "module": f"{file}:{attribute}"}, state),
    )


def _chosen(
    content: Any, match: Callable[[StateDict], T | None], path: Path, key: str | None
) -> tuple[list[StateDict], tuple[StateDict, T] | None]:
    """All state dicts of a file, and the part of them that matches; None if nothing does.

    Raises:
        CheckpointError: there are no state dicts, several matches, or none by that key.
    """
    wholes = state_dicts(content)
    if not wholes:
        raise CheckpointError(f"{path} holds no state dict of tensors; {SAVE}")
    for whole in wholes:  # names are printed, and nobody's module has such a one
        for name in (whole.key, *whole.tensors):
            if not name.isprintable() or len(name) > _LONGEST_NAME:
                raise CheckpointError(f"{path}: no tensor can be called {name[:40]!a}; it is damaged; give another")
    found = [each for whole in wholes for each in search(whole, match)]
    names = ", ".join(state.name or "the file itself" for state, _ in found)
    if key is not None:
        chosen = [each for each in found if each[0].name == key or each[0].key == key]
        chosen = chosen or [each for each in found if each[0].name.startswith(f"{key}.")]
        if [state.name for state, _ in found] == [""]:
            raise CheckpointError(f"{path} holds one generator; leave --key out")
        if found and not chosen:
            raise CheckpointError(f"{path} has no generator called {key}; it has {names}")
        found = chosen
    if len(found) > 1:
        raise CheckpointError(f"{path} holds several generators: {names}; choose one with --key NAME")
    return wholes, found[0] if found else None


def _unwrapping(state: StateDict) -> list[str]:
    notes = []
    if state.key:
        notes.append(f"the weights are those under {state.key}")
    if state.prefix:
        notes.append(f"taken off the tensors' names: {state.prefix}")
    return notes


def _assumptions(assumed: Mapping[str, Any]) -> str:
    told = "; ".join(f"{name} {value}" for name, value in assumed.items())
    return f"assumed, as the file does not say: {printable(told[:1000])}"


def _assumed_in(source: str) -> dict[str, Any]:
    """What `_source` says was assumed; nothing where a stranger's metadata say something else."""
    try:
        found = json.loads(source)
    except (ValueError, RecursionError):
        return {}
    assumed = found.get("assumed") if isinstance(found, dict) else None
    return assumed if isinstance(assumed, dict) else {}


def _source(facts: dict[str, Any], state: StateDict) -> str:
    return json.dumps(facts | {"key": state.key, "prefix": state.prefix}, sort_keys=True, separators=(",", ":"))


def _clean(tensors: Mapping[str, Tensor], path: Path) -> tuple[dict[str, Tensor], list[str]]:
    """The tensors in float32, and a note where they were not.

    Raises:
        CheckpointError: a tensor is of a kind that has no plain values, or some are not finite.
    """
    for name, tensor in tensors.items():
        if kind := _odd_kind(tensor):
            raise CheckpointError(f"{path}: {name} is {kind}, expected plain numbers; {SAVE}")
    claimed = sum(tensor.numel() for tensor in tensors.values())
    held = sum({t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors.values()}.values())
    if claimed > max(held, _EXPANDED):  # a byte at least for each; views may show one value many times
        raise CheckpointError(f"{path} claims {claimed:,} weights, and holds {held:,} bytes; {SAVE}")
    weights, kinds = {}, set()
    for name, tensor in tensors.items():
        weights[name] = _plain(tensor)
        if tensor.is_floating_point():
            kinds.add(_short(tensor.dtype))
            if not weights[name].isfinite().all():
                raise CheckpointError(
                    f"{path}: {name} holds values that are not finite; training diverged, so take an earlier checkpoint"
                )
    others = sorted(kinds - {"float32"})
    return weights, [f"weights in {', '.join(others)} became float32"] if others else []


def _odd_kind(tensor: Tensor) -> str:
    """In which way a tensor is not an array of numbers; empty if it is one."""
    if tensor.is_meta:
        return "on the meta device, so it has no values"
    if tensor.is_nested:
        return "a nested tensor"
    if tensor.layout != torch.strided:
        return f"a sparse tensor ({_short(tensor.layout)})"
    if tensor.is_quantized:
        return "quantized"
    if type(tensor) not in (Tensor, nn.Parameter):
        return f"a {type(tensor).__name__}"
    try:
        _plain(tensor.flatten()[:1]).numpy()
    except Exception:  # torch has types that nothing can be done with
        return f"of {_short(tensor.dtype)}"
    return ""


def _plain(tensor: Tensor) -> Tensor:
    """Its values, in float32 if they are floats."""
    values = tensor.detach().resolve_neg().resolve_conj()
    return values.float() if values.is_floating_point() else values


def _short(name: object) -> str:
    return str(name).removeprefix("torch.")


def _shape(tensor: Tensor) -> tuple[int, ...]:
    """Of a tensor; that of a nested one, which has none, fits nothing."""
    return (-1,) if tensor.is_nested else tuple(tensor.shape)


def _generator(spec: GeneratorSpec, weights: dict[str, Tensor], path: Path) -> Generator:
    """Ours, with these weights, in eval mode."""
    for name, tensor in weights.items():
        if not tensor.is_floating_point() and not name.endswith("num_batches_tracked"):
            raise CheckpointError(f"{path}: {name} is of {_short(tensor.dtype)}, expected floats; {SAVE}")
    try:
        return Generator.with_weights(spec, weights)
    except RuntimeError as error:
        lines = [line.strip() for line in str(error).splitlines()]
        raise CheckpointError(
            f"{path} holds other tensors than the generator its spec describes: {' '.join(lines[1:3])}"
        ) from error
    except KeyError as error:  # a name that means something else to a module
        raise CheckpointError(f"{path}: a layer has a name that it can't have: {first_line(error)}") from error


def _is_lazy(tensor: Tensor) -> bool:
    return isinstance(tensor, nn.parameter.UninitializedParameter | nn.parameter.UninitializedBuffer)


def _differences(expected: Mapping[str, tuple[int, ...] | None], found: StateDict) -> str:
    """What a state dict has too much, too little or of another shape; empty if nothing."""
    counters = {name for name in expected if name.endswith("num_batches_tracked")}
    missing = [name for name in expected if name not in found.tensors and name not in counters]
    more = [name for name in found.tensors if name not in expected]
    other = [
        f"{name} has the shape {_shape(found.tensors[name])} for {shape}"
        for name, shape in expected.items()
        if shape is not None and name in found.tensors and _shape(found.tensors[name]) != shape
    ]
    parts = [f"{what} {_some(names)}" for what, names in (("it lacks", missing), ("it also has", more)) if names]
    return "; ".join([*parts, *other[:2]])


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def save_training_state(
    path: Path, tensors: Mapping[str, Tensor], state: Mapping[str, Any], spec: GeneratorSpec, recipe: str
) -> None:
    """Write everything a run needs to go on: named tensors, and a JSON-able `state`; whole or not at all."""
    metadata = {_KIND_KEY: "training", SPEC_KEY: spec.to_json(), RECIPE_KEY: recipe, _STATE_KEY: json.dumps(state)}
    write_safetensors(path, tensors, metadata)


def load_training_state(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read what `save_training_state` wrote.

    Raises:
        CheckpointError: the file is missing, truncated, foreign, or a bare generator.
    """
    tensors, metadata = read_safetensors(read_bytes(path), path)
    try:
        if metadata.get(_KIND_KEY) == "training":
            return tensors, json.loads(metadata[_STATE_KEY])
    except (KeyError, ValueError):
        pass
    raise CheckpointError(f"{path} is no training state, so it can't be resumed")
