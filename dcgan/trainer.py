"""One training run in memory: two networks, their optimizers, the moving average, and the step that changes them."""

from __future__ import annotations

import copy
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dcgan_infer.contract.errors import DeviceError
from dcgan_infer.contract.spec import reference_spec

from .checkpoint import PUBLISHED
from .data import CLASSES, Dataset
from .losses import LOSSES
from .networks import DISCRIMINATORS, DigitFeatures, Generator, ProjectedDiscriminator
from .recipes import Recipe

# Of the classifier behind a projected discriminator; one pass over MNIST takes it to about 98 %.
_FEATURES_LR = 2e-3
_FEATURES_BATCH = 128

_Network = TypeVar("_Network", bound=nn.Module)


class Trainer:
    """Trains a generator against a discriminator.

    Everything random comes from torch's global generator, except the order of the images, which depends on
    (seed, epoch) alone. On the CPU, with the same thread count, the same seed gives the same
    bits, interrupted or not.

    Args:
        recipe: with a resolved precision (`fp32` or `bf16`).
        dataset: at least one batch of images; kept on `device` as uint8.
        device: `cpu` or `cuda`.
        seed: of the initial weights, latents, dropout and the order of images.
    """

    def __init__(self, recipe: Recipe, dataset: Dataset, device: torch.device, seed: int) -> None:
        self.recipe = recipe
        self.device = device
        self.seed = seed
        self.images = torch.from_numpy(dataset.images).unsqueeze(1).to(device)  # (N, 1, 28, 28)
        self.labels = torch.from_numpy(dataset.labels).long().to(device)  # (N,)
        # A last, smaller batch is left out: BatchNorm would see it.
        self.steps_per_epoch = len(dataset.images) // recipe.batch_size
        self.total_steps = self.steps_per_epoch * recipe.epochs  # the learning rate falls to 0 at the last
        self.steps_done = 0
        self.epoch_losses = torch.zeros(2, device=device)  # sums of D's and G's losses over this epoch's steps

        torch.manual_seed(seed)
        self.spec = reference_spec(
            activation=recipe.g_activation, num_classes=CLASSES if recipe.labels == "asked" else 0
        )
        self.generator = self._placed(self.make_generator())
        discriminator = DISCRIMINATORS[recipe.discriminator]
        num_classes = 0 if recipe.labels == "none" else CLASSES
        self.discriminator = self._placed(discriminator(recipe.d_activation, recipe.dropout, num_classes))
        self.average = copy.deepcopy(self.generator) if recipe.ema_decay else self.generator
        self.average_is_separate = self.average is not self.generator
        self.g_optimizer = self._adam(self.generator, recipe.g_lr)
        self.d_optimizer = self._adam(self.discriminator, recipe.d_lr)
        self.loss = LOSSES[recipe.loss]

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
        return torch.randperm(len(self.images), generator=generator).to(self.device)

    def batch(self, indices: Tensor) -> tuple[Tensor, Tensor | None]:
        """Real images and their labels.

        Args:
            indices: int64, shape (B,).
        Returns:
            float32, shape (B, 1, 28, 28), range [-1, 1]: to the bit what ToTensor and Normalize(0.5, 0.5) give; and
            int64, shape (B,), or None for a recipe without labels.
        """
        real = self.images[indices].float().div_(255).sub_(0.5).div_(0.5)
        return real, None if self.recipe.labels == "none" else self.labels[indices]

    def step(self, real: Tensor, label: Tensor | None = None) -> None:
        """One update of D on real images and fakes, then one of G through D on the same fakes.

        Args:
            real: float32, shape (B, 1, 28, 28), range [-1, 1].
            label: int64, shape (B,), of the real images, if the discriminator judges by labels.
        """
        if self.steps_done == 0 and isinstance(self.discriminator, ProjectedDiscriminator):
            self._train_features(self.discriminator.features)
        self._set_learning_rates()
        autocast = self._autocast()
        z = torch.randn(len(real), self.spec.latent_dim, device=self.device)

        asked = label if self.recipe.labels == "asked" else None
        # The ten numbers are alike, so every digit is named equally often; what is left of z is its handwriting.
        fake_label = z[:, :CLASSES].argmax(1) if self.recipe.labels == "latent" else label

        with autocast:
            fake = self.generator(z, asked)
            real_scores, fake_scores = self._scores(real, label, fake.detach(), fake_label)
        d_loss = self.loss.discriminator(real_scores.float(), fake_scores.float())
        self.d_optimizer.zero_grad()
        d_loss.backward()  # type: ignore[no-untyped-call]
        self.d_optimizer.step()

        # D only passes gradients on to G here; its own would be computed for nothing.
        trainable = [parameter for parameter in self.discriminator.parameters() if parameter.requires_grad]
        for parameter in trainable:
            parameter.requires_grad_(False)
        with autocast:
            fake_scores = self.discriminator(fake, fake_label)
        g_loss = self.loss.generator(fake_scores.float())
        self.g_optimizer.zero_grad()
        g_loss.backward()  # type: ignore[no-untyped-call]
        self.g_optimizer.step()
        for parameter in trainable:
            parameter.requires_grad_(True)

        if self.average_is_separate:
            self._update_average()
        self.epoch_losses += torch.stack([d_loss.detach(), g_loss.detach()])  # stays on the device: no wait for it
        self.steps_done += 1

    def tensors(self) -> dict[str, Tensor]:
        """Every tensor a resumed run needs, and the generator to publish under the prefix `PUBLISHED`."""
        tensors = {"rng.cpu": torch.get_rng_state(), "epoch_losses": self.epoch_losses}
        if self.device.type == "cuda":
            tensors["rng.cuda"] = torch.cuda.get_rng_state(self.device)
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
        if self.device.type == "cuda":
            torch.cuda.set_rng_state(tensors["rng.cuda"], self.device)

    def _placed(self, network: _Network) -> _Network:
        """The network on the device, in the recipe's memory order."""
        order = torch.channels_last if self.recipe.channels_last else torch.contiguous_format
        return network.to(self.device, memory_format=order)  # type: ignore[call-overload, no-any-return]

    def _scores(
        self, real: Tensor, label: Tensor | None, fake: Tensor, fake_label: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """D's scores of both, shape (B, 1) or (B, 3) each."""
        if self.discriminator.normalises_batch:  # it must not see both in one batch
            return self.discriminator(real, label), self.discriminator(fake, fake_label)
        labels = None if label is None or fake_label is None else torch.cat([label, fake_label])
        scores = self.discriminator(torch.cat([real, fake]), labels)  # one large batch is faster than two
        return scores[: len(real)], scores[len(real) :]

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.recipe.precision == "bf16")

    def _train_features(self, features: DigitFeatures) -> None:
        """Train the classifier that a projected discriminator looks through, on the real images, for one pass."""
        features.train().requires_grad_(True)
        optimizer = torch.optim.Adam(features.parameters(), lr=_FEATURES_LR, fused=self.recipe.fused_adam)
        batches = torch.randperm(len(self.images), device=self.device).split(_FEATURES_BATCH)  # type: ignore[no-untyped-call]
        for step, indices in enumerate(batches):
            optimizer.param_groups[0]["lr"] = _FEATURES_LR * (1.0 - step / len(batches))
            images = self.images[indices].float().div_(127.5).sub_(1.0)
            # Moved by up to two pixels: a pass over digits that all sit in the middle would not teach where they sit.
            down, right = torch.randint(0, 5, (2,)).tolist()
            images = F.pad(images, (2, 2, 2, 2), value=-1.0)[:, :, down : down + 28, right : right + 28]
            with self._autocast():
                logits = features(images)
            loss = F.cross_entropy(logits.float(), self.labels[indices])
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


def resolve_device(name: str) -> torch.device:
    """The device of `auto`, `cpu` or `cuda`.

    Raises:
        DeviceError: `cuda` was asked for and torch finds none.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and not torch.cuda.is_available():
        raise DeviceError("no CUDA device that torch can use was found; check nvidia-smi, or train with --device cpu")
    return torch.device(name)


def resolve_precision(name: str, device: torch.device) -> str:
    """`fp32` or `bf16` of `auto`, `fp32` or `bf16`.

    On processors without bf16 arithmetic torch emulates it, slower than fp32, so `auto` keeps fp32 there.
    """
    if name != "auto":
        return name
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported() else "fp32"
    return "bf16" if torch.cpu.get_capabilities().get("avx512_bf16", False) else "fp32"
