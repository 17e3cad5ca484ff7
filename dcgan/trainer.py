"""One training run in memory: two networks, their optimizers, the moving average, and the step that changes them."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import math
import re
from collections.abc import Iterator
from typing import Any, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dcgan_infer.contract.errors import DatasetError, DeviceError
from dcgan_infer.contract.layers import Conv, ConvTranspose, Linear, Unflatten
from dcgan_infer.contract.spec import GeneratorSpec, dcgan_spec, reference_spec

from .augment import AUGMENTATIONS
from .batchnorm import share_batchnorm
from .checkpoint import PUBLISHED
from .data import Dataset, Progress, silent
from .discriminators import DISCRIMINATORS, ImageFeatures, ProjectedDiscriminator
from .losses import LOSSES
from .networks import Generator, initialise
from .parallel import ALONE, ONE, Place, Processes
from .recipes import Recipe

# Of the classifier behind a projected discriminator; one pass over MNIST takes it to about 98 %.
_FEATURES_LR = 2e-3
_FEATURES_BATCH = 128
_FEATURES_IMAGES = 50_000  # shown at least: fewer images are shown more than once
_FEATURES_PASSES = 20  # ... but not more often than this
_TURNS = 4  # by right angles: without classes, the classifier tells apart how an image was turned
# The rarest class to the most frequent one: where it is more, latents name all equally often. MNIST (0.80) came out a
# little worse when they were named by their shares: a distance of 8.9 to 9.4 after 150,000 images, and 7.7 to 8.8 so.
_EVEN = 0.5
_ON_DEVICE = 4 << 30  # bytes of images that are kept on an accelerator; more stay in the computer's memory

_Network = TypeVar("_Network", bound=nn.Module)


class Trainer:
    """Trains a generator against a discriminator.

    Everything random comes from torch's global generator, except the order of the images, which depends on
    (seed, epoch) alone. On the CPU, with the same thread count, the same seed gives the same
    bits, interrupted or not. Trainers in several processes `join`, and then take the steps of one, up to rounding.

    Args:
        recipe: with a resolved precision (`fp32` or `bf16`).
        dataset: at least one batch of images; kept on `device` as uint8, if they are not too many.
        device: to train on.
        seed: of the initial weights, latents, dropout and the order of images.
        start: a generator to go on from; None makes a new one, of the recipe's network.
        progress: told of the work before the first step.
    Raises:
        SpecError: the networks can't be had for images of this shape.
        DatasetError: the recipe asks for what the images can't give, or `start` makes other images than these.
    """

    def __init__(
        self,
        recipe: Recipe,
        dataset: Dataset,
        device: torch.device,
        seed: int,
        start: Generator | None = None,
        progress: Progress = silent,
    ) -> None:
        self.recipe = recipe = recipe.settled(dataset)
        self.device = device
        self.seed = seed
        on_device = device if dataset.images.nbytes <= _ON_DEVICE else torch.device("cpu")
        self.images = torch.from_numpy(dataset.images).to(on_device)  # (N, S, S) or (N, S, S, 3)
        self.labels = None if dataset.labels is None else torch.from_numpy(dataset.labels).long().to(on_device)  # (N,)
        self.num_classes = dataset.num_classes
        counts = np.bincount(dataset.labels, minlength=self.num_classes) if dataset.labels is not None else np.ones(1)
        if counts.min() >= _EVEN * counts.max():
            counts = np.ones_like(counts)
        with np.errstate(divide="ignore"):  # a class of no images, where those were held out: never named
            self.log_shares = torch.from_numpy(np.log(counts / counts.sum())).float().to(device)  # (num_classes,)
        batches = len(dataset) / recipe.batch_size
        self.steps_per_epoch = math.floor(batches) if recipe.drop_last else math.ceil(batches)
        self.total_steps = self.steps_per_epoch * recipe.epochs  # the learning rate falls to 0 at the last
        self.steps_done = 0
        self.epoch_losses = torch.zeros(2, device=device)  # sums of D's and G's losses over this epoch's steps

        torch.manual_seed(seed)
        if start is None:
            self.spec = generator_spec(recipe, dataset)
            generator = self._initialised(self.make_generator())
        else:
            self.spec = _respelled(start.spec, recipe, dataset)
            generator = Generator.with_weights(self.spec, copy.deepcopy(start.state_dict())).train()
        self.generator = self._placed(generator)
        norms = [module for module in self.generator.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
        gammas = [norm.weight.detach() for norm in norms if norm.affine]
        # One to go on from may have learnt negative factors; without them it would be another.
        self._gammas = gammas if recipe.positive_gamma and all(bool((each >= 0).all()) for each in gammas) else []
        self._class_weights = self._weights_of_classes() if recipe.class_lr_factor != 1.0 else None
        self._progress = progress
        self.augment = AUGMENTATIONS[recipe.augment]
        make = DISCRIMINATORS[recipe.discriminator]
        judged = 0 if recipe.labels == "none" else dataset.num_classes
        options: dict[str, Any] = (
            {"told_apart": dataset.num_classes or _TURNS} if issubclass(make, ProjectedDiscriminator) else {}
        )
        discriminator = make(dataset.image_shape, recipe.d_activation, recipe.dropout, judged, recipe.ndf, **options)
        self.discriminator = self._placed(self._initialised(discriminator))
        self.average = copy.deepcopy(self.generator) if recipe.ema_decay else self.generator
        self.average_is_separate = self.average is not self.generator
        self.g_optimizer = self._adam(self.generator, recipe.g_lr)
        self.d_optimizer = self._adam(self.discriminator, recipe.d_lr)
        self.loss = LOSSES[recipe.loss]
        self._processes = ALONE
        # Whose backward pass gives the mean of the gradients over the processes.
        self._shared_generator: nn.Module = self.generator
        self._shared_discriminator: nn.Module = self.discriminator

    def join(self, processes: Processes) -> None:
        """Go on together with the trainers of other processes, from the state of the first one.

        Args:
            processes: each of which has a trainer of the same recipe and images, and joins it.
        """
        if processes is ALONE:
            return
        self._processes = processes
        processes.open(self.device)
        share_batchnorm(self.generator, processes.group)
        if self.discriminator.normalises_batch:  # the BatchNorm of frozen features sees no batch
            share_batchnorm(self.discriminator, processes.group)
        self._follow()
        self._shared_generator = processes.with_mean_gradients(self.generator)
        self._shared_discriminator = processes.with_mean_gradients(self.discriminator)

    def _follow(self) -> None:
        """Take over the state of the first process."""
        tensors = {name: tensor.cpu() for name, tensor in self.tensors().items()} if self._processes.leads else {}
        tensors, steps_done = self._processes.broadcast((tensors, self.steps_done))
        if not self._processes.leads:
            self.load_tensors(tensors, steps_done)

    def make_generator(self) -> Generator:
        """A new generator of `spec`; benchmarks put others in its place."""
        return Generator(self.spec)

    @property
    def epoch(self) -> int:
        """Number of whole epochs done."""
        return self.steps_done // self.steps_per_epoch

    def order(self, epoch: int) -> Tensor:
        """The order of the images in an epoch: int64, shape (N,), the same for the same (seed, epoch)."""
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + epoch)
        return torch.randperm(len(self.images), generator=generator).to(self.images.device)

    def batch(self, indices: Tensor) -> tuple[Tensor, Tensor | None]:
        """Real images and their labels.

        Args:
            indices: int64, shape (B,).
        Returns:
            float32, shape (B, C, S, S), range [-1, 1]: to the bit what ToTensor and Normalize(0.5, 0.5) give; and
            int64, shape (B,), or None for a recipe without labels.
        """
        real = self._values(self.images[indices]).div_(255).sub_(0.5).div_(0.5)
        if self.recipe.labels == "none" or self.labels is None:
            return real, None
        return real, self.labels[indices].to(self.device)

    def _values(self, images: Tensor) -> Tensor:
        """The levels of uint8 images as float32, shape (B, C, S, S), on the device."""
        planes = images.unsqueeze(1) if images.ndim == 3 else images.permute(0, 3, 1, 2)
        return planes.to(self.device).float()

    def step(self, real: Tensor, label: Tensor | None = None, total: int | None = None) -> None:
        """One update of D on real images and fakes, then one of G through D on the same fakes.

        Args:
            real: float32, shape (B, C, S, S), range [-1, 1]; of several processes, this one's share of the batch.
            label: int64, shape (B,), of the real images, if the discriminator judges by labels.
            total: images of the whole batch; None: these are all.
        """
        if self.steps_done == 0 and isinstance(self.discriminator, ProjectedDiscriminator):
            if self._processes.leads:
                self._train_features(self.discriminator.features)
            if self._processes.count > 1:
                self._follow()
        self._set_learning_rates()
        total = total or len(real)
        # All processes draw the latents of the whole batch, as one process would.
        z = torch.randn(total, self.spec.latent_dim, device=self.device)[self._processes.share(total)]
        # Losses are means over a share, and their mean over the processes is to be that over the batch.
        weight = len(real) * self._processes.count / total
        with self._own_random_numbers():
            losses = self._update(real, label, z, weight)
        if self.average_is_separate:
            self._update_average()
        self.epoch_losses += self._processes.mean(losses)  # stays on the device: no wait for it
        self.steps_done += 1

    @contextlib.contextmanager
    def _own_random_numbers(self) -> Iterator[None]:
        """Within, each of several processes draws its own dropout and augmentation, by (seed, step, rank) alone.

        Afterwards the random numbers are again those that all have in common.
        """
        if self._processes.count == 1:
            yield
            return
        key = np.random.SeedSequence((self.seed, self.steps_done, self._processes.place.rank))
        with torch.random.fork_rng([self.device] if self.device.type == "cuda" else []):
            torch.manual_seed(int(key.generate_state(1, np.uint64)[0]))
            yield

    def _update(self, real: Tensor, label: Tensor | None, z: Tensor, weight: float) -> Tensor:
        """Update both networks; D's and G's losses, weighed, shape (2,)."""
        autocast = self._autocast()
        asked = label if self.recipe.labels == "asked" else None
        fake_label = self._named(z) if self.recipe.labels == "latent" else label

        with autocast:
            fake = self._shared_generator(z, asked)
            real_scores, fake_scores = self._scores(self.augment(real), label, self.augment(fake.detach()), fake_label)
        d_loss = weight * self.loss.discriminator(real_scores.float(), fake_scores.float())
        self.d_optimizer.zero_grad()
        d_loss.backward()  # type: ignore[no-untyped-call]
        self.d_optimizer.step()

        # D only passes gradients on to G here; its own would be computed for nothing, and there are none to share: it
        # is the bare one, and G's own gradients are shared as they arrive.
        trainable = [parameter for parameter in self.discriminator.parameters() if parameter.requires_grad]
        for parameter in trainable:
            parameter.requires_grad_(False)
        with autocast:
            fake_scores = self.discriminator(self.augment(fake), fake_label)
        g_loss = weight * self.loss.generator(fake_scores.float())
        self.g_optimizer.zero_grad()
        g_loss.backward()  # type: ignore[no-untyped-call]
        before = None if self._class_weights is None else self._class_weights.clone()
        self.g_optimizer.step()
        if self._class_weights is not None and before is not None:
            self._class_weights.copy_(before + self.recipe.class_lr_factor * (self._class_weights - before))
        if self._gammas:
            torch._foreach_clamp_min_(self._gammas, 0.0)
        for parameter in trainable:
            parameter.requires_grad_(True)
        return torch.stack([d_loss.detach(), g_loss.detach()])

    def _weights_of_classes(self) -> Tensor:
        """The part of G's first weights that meets what says the class, as a view.

        Raises:
            DatasetError: the first layer takes other numbers than those of a latent.
        """
        before, layer = None, self.spec.layers[0]
        if isinstance(layer, Unflatten):
            before, layer = layer.shape[1:], self.spec.layers[1]
        if not isinstance(layer, Linear | ConvTranspose | Conv) or before not in (None, (1, 1)):
            raise DatasetError(
                f"--class-lr-factor is for generators that begin with weights; this one has {layer.name}"
            )
        weight = self.generator.get_parameter(f"{layer.name}.weight").detach()
        first = self.spec.latent_dim if self.recipe.labels == "asked" else 0
        return weight.narrow(0 if isinstance(layer, ConvTranspose) else 1, first, self.num_classes)

    def _named(self, z: Tensor) -> Tensor:
        """The classes that latents name: int64, shape (B,), each as often as `log_shares` says.

        Gumbel's trick: of log p[i] - log(-log u[i]) with uniform u the largest is that of class i with probability
        p[i]. A latent's first numbers, one for each class, are normal, so their distribution function makes them
        uniform. What is left of z is how the images of a class differ.
        """
        gumbel = -(-torch.special.log_ndtr(z[:, : self.num_classes])).log()
        named: Tensor = (self.log_shares + gumbel).argmax(1)
        return named

    def tensors(self) -> dict[str, Tensor]:
        """Every tensor a resumed run needs, and the generator to publish under the prefix `PUBLISHED`."""
        tensors = {"rng.cpu": torch.get_rng_state(), "epoch_losses": self.epoch_losses}
        if self.device.type != "cpu":
            tensors[f"rng.{self.device.type}"] = _device_random(self.device).get_rng_state(*_number(self.device))
        modules = {PUBLISHED: self.average, "discriminator.": self.discriminator}
        if self.average_is_separate:
            modules["generator."] = self.generator
        for prefix, module in modules.items():
            tensors |= {prefix + name: tensor for name, tensor in module.state_dict().items()}
        for prefix, optimizer in (("g_optimizer.", self.g_optimizer), ("d_optimizer.", self.d_optimizer)):
            for index, state in optimizer.state_dict()["state"].items():
                tensors |= {f"{prefix}{index}.{name}": tensor for name, tensor in state.items()}
        return tensors

    def load_tensors(self, tensors: dict[str, Tensor], steps_done: int) -> None:
        """Go on from what `tensors` returned after `steps_done` steps.

        Raises:
            KeyError, RuntimeError: the tensors are not those of this recipe on this kind of device.
        """

        def below(prefix: str) -> dict[str, Tensor]:
            return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}

        self.steps_done = steps_done
        self.epoch_losses.copy_(tensors["epoch_losses"])
        self.average.load_state_dict(below(PUBLISHED))
        self.discriminator.load_state_dict(below("discriminator."))
        if self.average_is_separate:
            self.generator.load_state_dict(below("generator."))
        for prefix, optimizer in (("g_optimizer.", self.g_optimizer), ("d_optimizer.", self.d_optimizer)):
            state: dict[int, dict[str, Tensor]] = {}
            parameters = optimizer.param_groups[0]["params"]
            for name, tensor in below(prefix).items():
                index, key = name.split(".")
                if tensor.ndim:  # a moment: in its parameter's memory order, which fused Adam takes for granted
                    tensor = torch.empty_like(parameters[int(index)]).copy_(tensor)
                state.setdefault(int(index), {})[key] = tensor
            optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
        torch.set_rng_state(tensors["rng.cpu"])
        if self.device.type != "cpu":
            _device_random(self.device).set_rng_state(tensors[f"rng.{self.device.type}"], *_number(self.device))

    def _initialised(self, network: _Network) -> _Network:
        return initialise(network) if self.recipe.initial_weights == "normal" else network

    def _placed(self, network: _Network) -> _Network:
        """The network on the device, in the recipe's memory order."""
        order = torch.channels_last if self.recipe.channels_last else torch.contiguous_format
        return network.to(self.device, memory_format=order)  # type: ignore[call-overload, no-any-return]

    def _scores(
        self, real: Tensor, label: Tensor | None, fake: Tensor, fake_label: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """D's scores of both, shape (B, 1) or (B, heads) each."""
        if self.discriminator.normalises_batch:  # it must not see both in one batch
            return self._shared_discriminator(real, label), self._shared_discriminator(fake, fake_label)
        labels = None if label is None or fake_label is None else torch.cat([label, fake_label])
        scores = self._shared_discriminator(torch.cat([real, fake]), labels)  # one large batch is faster than two
        return scores[: len(real)], scores[len(real) :]

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.recipe.precision == "bf16")

    def _train_features(self, features: ImageFeatures) -> None:
        """Train the classifier that a projected discriminator looks through, on the real images.

        Without classes it tells apart by how many right angles an image was turned (Gidaris et al. 2018,
        arXiv:1803.07728): whoever knows what is up knows something of what there is.
        """
        features.train().requires_grad_(True)
        optimizer = torch.optim.Adam(features.parameters(), lr=_FEATURES_LR, fused=self.recipe.fused_adam)
        passes = min(max(1, _FEATURES_IMAGES // len(self.images)), _FEATURES_PASSES)
        orders = [torch.randperm(len(self.images), device=self.images.device) for _ in range(passes)]
        batches = torch.cat(orders).split(_FEATURES_BATCH)  # type: ignore[no-untyped-call]
        side = self.spec.image_shape[1]
        moved = round(side / 14)  # by two pixels of 28
        # What comes in where an image is moved: the median level of the top rows.
        edge = self.images[:, 0].flatten().median().item() / 127.5 - 1.0
        for step, indices in enumerate(batches):
            self._progress("training the classifier that D looks through", step, len(batches))
            optimizer.param_groups[0]["lr"] = _FEATURES_LR * (1.0 - step / len(batches))
            images = self._values(self.images[indices]).div_(127.5).sub_(1.0)
            # Moved a little: a pass over digits that all sit in the middle would not teach where they sit.
            down, right = torch.randint(0, 2 * moved + 1, (2,)).tolist()
            images = F.pad(images, (moved,) * 4, value=edge)[:, :, down : down + side, right : right + side]
            if self.labels is None:
                wanted = torch.arange(len(images), device=self.device) % _TURNS
                images = torch.stack(
                    [image.rot90(int(turns), (1, 2)) for image, turns in zip(images, wanted, strict=True)]
                )
            else:
                wanted = self.labels[indices].to(self.device)
            with self._autocast():
                logits = features(images)
            loss = F.cross_entropy(logits.float(), wanted)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        features.eval().requires_grad_(False)

    def _adam(self, module: nn.Module, lr: float) -> torch.optim.Adam:
        options: dict[str, Any] = {"fused": True} if self.recipe.fused_adam else {}
        parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
        return torch.optim.Adam(parameters, lr=lr, betas=(self.recipe.beta1, self.recipe.beta2), **options)

    def _set_learning_rates(self) -> None:
        left = 1.0 - self.steps_done / self.total_steps if self.recipe.lr_schedule == "linear" else 1.0
        for optimizer, lr in ((self.g_optimizer, self.recipe.g_lr), (self.d_optimizer, self.recipe.d_lr)):
            optimizer.param_groups[0]["lr"] = lr * left

    @torch.no_grad()
    def _update_average(self) -> None:
        # Early on the decay is lower, so that the average forgets the initial weights.
        decay = min(self.recipe.ema_decay, (1 + self.steps_done) / (10 + self.steps_done))
        pairs = list(zip(self.average.state_dict().values(), self.generator.state_dict().values(), strict=True))
        floats = [(mean, now) for mean, now in pairs if mean.is_floating_point()]
        torch._foreach_lerp_([mean for mean, _ in floats], [now for _, now in floats], 1.0 - decay)
        for count, now in (pair for pair in pairs if not pair[0].is_floating_point()):
            count.copy_(now)


def generator_spec(recipe: Recipe, dataset: Dataset) -> GeneratorSpec:
    """The generator of a settled recipe for these images.

    Raises:
        SpecError: the network can't make images of this shape.
    """
    num_classes = dataset.num_classes if recipe.labels == "asked" else 0
    common = (recipe.latent_dim, dataset.image_shape, num_classes, _spoken_names(recipe, dataset))
    if recipe.network == "reference":
        return reference_spec(*common, (4 * recipe.ngf, 2 * recipe.ngf, recipe.ngf), recipe.g_activation)
    return dcgan_spec(*common, recipe.ngf, recipe.g_activation)


def _spoken_names(recipe: Recipe, dataset: Dataset) -> tuple[str, ...]:
    """What the classes of a generator are called; nothing, where they are called by their numbers."""
    names = dataset.class_names if recipe.labels == "asked" else ()
    return () if names == tuple(map(str, range(len(names)))) else names


def _respelled(spec: GeneratorSpec, recipe: Recipe, dataset: Dataset) -> GeneratorSpec:
    """The spec of a generator to go on from, with the names of these images' classes."""
    names = _spoken_names(recipe, dataset)
    wanted = (dataset.image_shape, dataset.num_classes if recipe.labels == "asked" else 0)
    if (spec.image_shape, spec.num_classes) != wanted:
        raise DatasetError(
            f"the generator to start from makes images of shape {spec.image_shape} in {spec.num_classes} classes, and "
            f"this run's would make them of shape {wanted[0]} in {wanted[1]} (the images have {dataset.num_classes} "
            "classes); choose --size, --grey, --colour and --conditional to match, or other images"
        )
    if spec.value_range != (-1.0, 1.0):
        raise DatasetError("the generator to start from ends in a sigmoid; training takes one that ends in tanh")
    return dataclasses.replace(spec, class_names=names)


def resolve_device(name: str, place: Place = ONE) -> torch.device:
    """The device of `auto`, `cpu`, `cuda`, `cuda:NUMBER` or `mps`.

    Args:
        name: as said; of several processes all are given the same, and each takes a CUDA device of its own.
        place: of this process.
    Raises:
        DeviceError: torch finds no such device, or it is one that several processes can't have.
    """
    if name == "auto":
        has_mps = torch.backends.mps.is_available() and place.count == 1
        name = "cuda" if torch.cuda.is_available() else "mps" if has_mps else "cpu"
    if place.count > 1 and re.fullmatch(r"mps|cuda:\d+", name):
        raise DeviceError(f"{place.count} processes can't share {name}; train with --device cuda, one each, or cpu")
    if not re.fullmatch(r"cpu|mps|cuda(:\d+)?", name):
        raise DeviceError(f"unknown device {name!r}; choose auto, cpu, cuda, cuda:NUMBER or mps")
    device = torch.device(name)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise DeviceError("no CUDA device that torch can use was found; check nvidia-smi, or train with --device cpu")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise DeviceError(f"there is no {name}: torch finds {torch.cuda.device_count()} CUDA devices, from cuda:0 on")
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise DeviceError("no Apple GPU that torch can use was found; train with --device cpu")
    if device.type == "cuda" and place.count > 1:
        if place.local_count > (there := torch.cuda.device_count()):
            raise DeviceError(
                f"this host has {there} CUDA devices for {place.local_count} processes; start {there} of them "
                f"(torchrun --nproc-per-node {there}), or train with --device cpu"
            )
        device = torch.device("cuda", place.local_rank)
    return device


def _device_random(device: torch.device) -> Any:
    """The module that holds a device's random generator."""
    return torch.cuda if device.type == "cuda" else torch.mps


def _number(device: torch.device) -> tuple[torch.device, ...]:
    """What tells one device of its kind from the others: there is one mps only."""
    return (device,) if device.type == "cuda" else ()


def resolve_precision(name: str, device: torch.device) -> str:
    """`fp32` or `bf16` of `auto`, `fp32` or `bf16`.

    On processors without bf16 arithmetic torch emulates it, slower than fp32, so `auto` keeps fp32 there.
    """
    if name != "auto":
        return name
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported() else "fp32"
    return "bf16" if torch.cpu.get_capabilities().get("avx512_bf16", False) else "fp32"
