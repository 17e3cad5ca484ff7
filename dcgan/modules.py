"""Somebody's own `nn.Module` as a generator: learn what it takes and gives, and wrap it.

The module is run, never read: which shape its latents have, whether it takes labels and before or after them is tried.
What would make a proof of parity worthless is refused: images that change from call to call or with their batch, parts
computed in float32 whatever the input is, values beyond the range.
"""

from __future__ import annotations

import contextlib
import copy
import inspect
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from dcgan_infer.contract.errors import CheckpointError, SpecError
from dcgan_infer.contract.latents import labels, latents
from dcgan_infer.contract.layers import OUTPUTS
from dcgan_infer.contract.spec import VALUE_RANGES, GeneratorSpec

from .networks import Generator, check_label
from .trace import chain_of, trace
from .user_code import user_error

# What latent sizes, and numbers of classes, are called in public code.
_LATENT_NAMES = "latent_dim nz z_dim latent_size zdim dim_z z_size noise_dim noise_size dim_latent latent_dims".split()
_CLASS_NAMES = ["num_classes", "n_classes"]
_LOOKED_AT = 64  # images whose values are compared with the range
# Images beside others, and alone: the sums may be taken in another order.
_BATCH_TOLERANCE = 1e-9


class Wrapped(nn.Module):
    """A module with the interface of ours: latents (N, latent_dim) and perhaps labels (N,), to images.

    Args:
        module: to wrap.
        num_classes: that it takes labels of; 0 for none.
        as_maps: whether it takes its latents as (N, latent_dim, 1, 1).
        label_first: whether it takes the labels before the latents.
    """

    PREFIX = "module."  # of its tensors' names
    spec: GeneratorSpec

    def __init__(self, module: nn.Module, num_classes: int, as_maps: bool, label_first: bool) -> None:
        super().__init__()
        self.module = module
        self.num_classes = num_classes
        self.as_maps = as_maps
        self.label_first = label_first

    def forward(self, z: Tensor, label: Tensor | None = None) -> Tensor:
        """Images of latents, as `dcgan.networks.Generator.forward`."""
        check_label(label, self.num_classes)
        x = z.unsqueeze(2).unsqueeze(3) if self.as_maps else z  # (N, latent_dim, 1, 1)
        if label is None:
            return self.module(x)  # type: ignore[no-any-return]  # (N, C, H, W)
        return self.module(label, x) if self.label_first else self.module(x, label)  # type: ignore[no-any-return]


@dataclass(frozen=True)
class Fitted:
    """A module, wrapped and examined.

    Attributes:
        module: in eval mode.
        spec: of it; its layers are empty where it is no chain of known layers.
        chain: the same weights as a chain of these layers; None without them.
        notes: a line each for people.
    """

    module: Wrapped
    spec: GeneratorSpec
    chain: Generator | None
    notes: tuple[str, ...]


def fit(
    module: nn.Module,
    name: str,
    latent_dim: int | None = None,
    num_classes: int | None = None,
    class_names: tuple[str, ...] | None = None,
    value_range: tuple[float, float] | None = None,
) -> Fitted:
    """Learn what a module takes and gives, and wrap it.

    Args:
        module: with its weights, in eval mode, float32, on the CPU.
        name: of it, for messages.
        latent_dim: what somebody said it is; None where it must be found. So are the next three.
        num_classes: 0 for none.
        class_names: of the classes, in order; where nothing else says how many classes there are, it is their number.
        value_range: values of black and of white.
    Raises:
        CheckpointError: it is not found, or the module can't be proved equal to anything.
    """
    _refuse_batch_statistics(module, name)
    module.requires_grad_(False)
    counts = [num_classes, *_numbers(module, _CLASS_NAMES), len(class_names or ())]
    classes = next(count for count in counts if count is not None)
    wrapped, size, shape = _tried(module, name, latent_dim, classes, must=num_classes is not None)
    classes = wrapped.num_classes
    z = torch.from_numpy(latents(0, 0, _LOOKED_AT, size))
    inputs = (z, torch.from_numpy(labels(0, 0, _LOOKED_AT, classes))) if classes else (z,)
    _refuse_unrepeatable(wrapped, name, inputs)
    traced = trace(wrapped, tuple(each[:3] for each in inputs), Wrapped.PREFIX)
    notes = [f"latents of {size} numbers" + (f", as ({size}, 1, 1)" if wrapped.as_maps else "")]
    if classes:
        notes[0] += f"; labels of {classes} classes" + (", before the latents" if wrapped.label_first else "")
    elif more := list(inspect.signature(module.forward).parameters)[1:]:
        notes.append(f"forward also takes {', '.join(more)}, left out; say --num-classes N where these are labels")
    if classes and _takes(wrapped, z[:1], classes):
        notes.append(f"it also takes label {classes}, past the last: say --num-classes N if it has more than {classes}")
    if traced.output is not None:
        known = OUTPUTS[traced.output.name]
        if value_range is not None and value_range != known:
            raise CheckpointError(
                f"{name} ends in {traced.output}, so its values go from {known[0]:g} to {known[1]:g}; "
                "leave --value-range out"
            )
        value_range = known
    if value_range is None:
        raise CheckpointError(
            f"{name} ends in neither tanh nor sigmoid, so black and white are not known; say --value-range -1,1 or 0,1"
        )
    if value_range not in VALUE_RANGES:
        raise CheckpointError(f"a value range is -1,1 or 0,1, found {value_range[0]:g},{value_range[1]:g}")
    _refuse_out_of_range(wrapped, name, inputs, value_range)
    try:
        spec = GeneratorSpec(size, shape, classes, class_names or (), value_range)
        chain = None
        reason = traced.reason or "the layers that were found give other images"
        if traced.tensors is not None:
            with contextlib.suppress(SpecError):  # numbers that no reader of the artifact would take
                layered = GeneratorSpec(size, shape, 0, (), value_range, layers=traced.layers)
                layered = GeneratorSpec.from_json(layered.to_json())
                chain = chain_of(wrapped, layered, traced.tensors)
                spec = layered if chain is not None else spec
    except SpecError as error:
        raise CheckpointError(f"{name}: {error}") from error
    if chain is None:
        notes.append(f"no chain of known layers ({reason}): exported as it is, without rewriting")
    else:
        notes.append(f"a chain of {len(spec.layers)} known layers: equal to the module in float64")
    wrapped.spec = spec
    return Fitted(wrapped, spec, chain, tuple(notes))


def _numbers(module: nn.Module, names: list[str]) -> list[int]:
    """Its attributes of these names that are counts."""
    values = [getattr(module, name, None) for name in names]
    return [value for value in values if type(value) is int and value > 0]


def _refuse_batch_statistics(module: nn.Module, name: str) -> None:
    for where, part in module.named_modules():
        if isinstance(part, _BatchNorm) and part.running_mean is None:
            raise CheckpointError(
                f"{name}: BatchNorm {where} keeps no running statistics (track_running_stats=False), so an image would "
                "depend on the others in its batch; train it with running statistics"
            )


def _sizes(module: nn.Module, classes: int) -> list[tuple[int, bool]]:
    """Latent sizes that a module may have, likely ones first, and whether its first layer takes maps."""
    first = next((part for part in module.modules() if isinstance(part, nn.Linear | nn.ConvTranspose2d)), None)
    as_maps = isinstance(first, nn.ConvTranspose2d)
    sizes = []
    if first is not None:
        inputs = first.in_channels if isinstance(first, nn.ConvTranspose2d) else first.in_features
        embedded = [part.embedding_dim for part in module.modules() if isinstance(part, nn.Embedding)]
        sizes = [inputs - less for less in ([classes, *embedded] if classes else [])] + [inputs]
    ordered = dict.fromkeys([*sizes, *_numbers(module, _LATENT_NAMES)])
    return [(size, as_maps) for size in ordered if 0 < size <= 1 << 16]


def _tried(
    module: nn.Module, name: str, latent_dim: int | None, classes: int, must: bool
) -> tuple[Wrapped, int, tuple[int, int, int]]:
    """The first way of calling a module that gives images, its latent size, and the images' shape."""
    sizes = _sizes(module, classes)
    as_maps = sizes[0][1] if sizes else False
    if latent_dim is not None:
        sizes = [(latent_dim, as_maps)]
    if not sizes:
        raise CheckpointError(f"{name} does not say how long its latents are; say --latent-dim N")
    forms = [(classes, False), (classes, True)] if classes else [(0, False)]
    if classes and not must:
        forms.append((0, False))
    failure, other = "", ""
    for count, label_first in forms:
        for size, first in sizes:
            for maps in (first, not first):
                wrapped = Wrapped(module, count, maps, label_first).eval()
                found = _call(wrapped, size)
                if isinstance(found, tuple):
                    return wrapped, size, found
                if isinstance(found, str):
                    other = other or found
                else:
                    failure = failure or user_error(found)
    if other:
        raise CheckpointError(f"{name} gives {other}; expected are images of shape (N, channels, height, width)")
    size_option = "say --latent-dim N" if latent_dim is None else "say another --latent-dim"
    class_option = "of a network that takes labels, say --num-classes N"
    if must and classes:
        class_option = "of a network that takes no labels, leave --num-classes out"
    raise CheckpointError(
        f"{name} does not run on latents of shape (N, {sizes[0][0]}){' and labels' if classes else ''}: {failure}; "
        f"{size_option}, or, {class_option}"
    )


def _call(wrapped: Wrapped, size: int) -> tuple[int, int, int] | str | BaseException:
    """The shape of its images; what it gives instead, in words; or what it raises."""
    for batch in (2, 3):
        label = torch.arange(batch) % wrapped.num_classes if wrapped.num_classes else None
        try:
            with torch.no_grad(), contextlib.redirect_stdout(sys.stderr):
                images: Any = wrapped(torch.zeros(batch, size) + torch.linspace(-1, 1, size), label)
        except (Exception, SystemExit) as error:  # of somebody's code: anything
            return error
        if not isinstance(images, Tensor):
            return f"{type(images).__name__}"
        if images.ndim != 4 or len(images) != batch or not images.is_floating_point():
            return f"values of shape {tuple(images.shape)} for {batch} latents"
        if not images.numel():
            return f"images without pixels, of shape {tuple(images.shape)}"
    return images.shape[1], images.shape[2], images.shape[3]


def _run(wrapped: Wrapped, name: str, inputs: Sequence[Tensor]) -> Tensor:
    """The images of a module that has run before, on fewer latents and labels."""
    try:
        return wrapped(*inputs)  # type: ignore[no-any-return]
    except (Exception, SystemExit) as error:  # of somebody's code: anything
        labels_too = f" and labels from 0 to {wrapped.num_classes - 1}" if wrapped.num_classes else ""
        raise CheckpointError(
            f"{name} does not run on a batch of {len(inputs[0])} latents{labels_too}: {user_error(error)}"
        ) from error


def _refuse_unrepeatable(wrapped: Wrapped, name: str, inputs: tuple[Tensor, ...]) -> None:
    """Refuse images that depend on more than their own latent and label, or can't be had in float64."""
    try:
        exact = copy.deepcopy(wrapped).double()
    except Exception as error:  # what can't be copied has many reasons
        raise CheckpointError(f"{name} can't be copied, to run it in float64: {user_error(error)}") from error
    with torch.no_grad(), contextlib.redirect_stdout(sys.stderr):
        four = [each[:4] for each in inputs]
        if not torch.equal(_run(wrapped, name, four), _run(wrapped, name, four)):
            raise CheckpointError(
                f"{name} draws noise of its own: the same latents give other images each time; make its noise "
                "a part of the latent, or fix it"
            )
        try:
            four[0] = four[0].double()
            together = exact(*four)
            alone = [exact(*(each[i : i + 1] for each in four)) for i in range(4)]
        except Exception as error:
            raise CheckpointError(
                f"{name} does not run in float64, which its proof needs: {user_error(error)}; make tensors "
                "inside forward with the dtype of its input"
            ) from error
        if together.dtype != torch.float64:
            raise CheckpointError(
                f"{name} computes a part in {str(together.dtype).removeprefix('torch.')} whatever its input is, so it "
                "has no float64 form, which its proof needs; make tensors inside forward with the dtype of its input"
            )
        difference = (together - torch.cat(alone)).abs().max().item()
        if difference > _BATCH_TOLERANCE * max(1.0, together.abs().max().item()):
            raise CheckpointError(
                f"{name} gives another image alone than in a batch (by {difference:.2g}), as a BatchNorm in training "
                "mode does; it needs running statistics"
            )


def _takes(wrapped: Wrapped, z: Tensor, label: int) -> bool:
    """Whether the module itself runs with a label, be it one of its classes or not."""
    more = Wrapped(wrapped.module, label + 1, wrapped.as_maps, wrapped.label_first).eval()
    try:
        with torch.no_grad(), contextlib.redirect_stdout(sys.stderr):
            more(z, torch.tensor([label]))
    except Exception:  # of somebody's code: anything
        return False
    return True


def _refuse_out_of_range(
    wrapped: Wrapped, name: str, inputs: tuple[Tensor, ...], value_range: tuple[float, float]
) -> None:
    with torch.no_grad(), contextlib.redirect_stdout(sys.stderr):
        batches = zip(*(torch.split(each, 16) for each in inputs), strict=True)
        images = torch.cat([_run(wrapped, name, batch) for batch in batches])
    if not images.isfinite().all():
        raise CheckpointError(f"{name} gives images that are not finite")
    low, high = value_range
    if images.min() < low - 1e-5 or images.max() > high + 1e-5:
        raise CheckpointError(
            f"{name} gives values from {images.min():.3g} to {images.max():.3g}, beyond {low:g} to {high:g}; scale its "
            "output in a module of your own, or end it in tanh or sigmoid"
        )
