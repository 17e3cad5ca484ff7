"""What each choice is worth: python benchmarks/ablations.py recipe|networks DATA_DIR

Each row changes one thing in a recipe, trains on the first 50,000 training images for an equal number of images, and
is judged on the last 10,000. `recipe` is about the choices of the recipe `fast`, `networks` about the document's claims
and the networks themselves. Rows are added to a file as they are done, so a run can be interrupted and gone on with;
docs/lab-notebook.md and docs/understand.md have the tables.
"""

from __future__ import annotations

import dataclasses
import json
import statistics
import time
from pathlib import Path
from typing import Any

import click
import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from dcgan.activity import measure_activity
from dcgan.data import split_validation
from dcgan.discriminators import DISCRIMINATORS, ProjectedDiscriminator, SpectralDiscriminator
from dcgan.evaluation import FID_COUNT, Reference, judge_images
from dcgan.loading import load_dataset
from dcgan.metrics.checkerboard import checkerboard_energy
from dcgan.metrics.evaluator import Evaluator, Judged
from dcgan.networks import Generator
from dcgan.recipes import RECIPES, Recipe
from dcgan.run import in_batches
from dcgan.sources import Images, generator_run
from dcgan.trainer import Trainer, resolve_precision
from dcgan_infer.contract.layers import Activation, BatchNorm, ConvTranspose
from dcgan_infer.contract.spec import GeneratorSpec


class WideDiscriminator(ProjectedDiscriminator):
    """`ProjectedDiscriminator` on a classifier twice as wide."""

    def features_width(self, ndf: int) -> int:
        return ndf


class PoolingDiscriminator(SpectralDiscriminator):
    """`SpectralDiscriminator` whose convolutions have stride 1, each followed by 2x2 mean pooling."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        # An even kernel keeps the size only if it is padded by one more on one side.
        pad = nn.ZeroPad2d((1, 2, 1, 2))
        self.conv1 = nn.Sequential(pad, spectral_norm(nn.Conv2d(1, 64, 4)), nn.AvgPool2d(2))
        self.conv2 = nn.Sequential(pad, spectral_norm(nn.Conv2d(64, 128, 4)), nn.AvgPool2d(2))
        self.conv3 = nn.Sequential(spectral_norm(nn.Conv2d(128, 128, 3, padding=1)), nn.AvgPool2d(2, ceil_mode=True))


class PlainDiscriminator(SpectralDiscriminator):
    """`SpectralDiscriminator` without spectral norm."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        for layer in (*map(self.get_submodule, self.hidden), self.fc):
            nn.utils.parametrize.remove_parametrizations(layer, "weight")


class BatchNormDiscriminator(PlainDiscriminator):
    """The same with BatchNorm after the second and third activation, as Radford et al. have it."""

    normalises_batch = True

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.bn2, self.bn3 = nn.BatchNorm2d(128), nn.BatchNorm2d(128)

    def forward(self, x: Tensor, label: Tensor | None = None) -> Tensor:  # noqa: ARG002
        norms = (nn.Identity(), self.bn2, self.bn3)
        for name, norm in zip(self.hidden, norms, strict=True):
            x = norm(self.dropout(self.activation(self.get_submodule(name)(x))))
        return self.fc(x.flatten(1))  # type: ignore[no-any-return]


class UpsamplingGenerator(Generator):
    """Nearest-neighbour upsampling and a 3x3 convolution in place of each stride-2 transposed convolution."""

    def __init__(self, spec: GeneratorSpec) -> None:
        super().__init__(spec)
        for layer in spec.layers:
            if isinstance(layer, ConvTranspose) and layer.stride == (2, 2):
                conv = nn.Conv2d(layer.inputs, layer.outputs, 3, padding=1)
                self.add_module(layer.name, nn.Sequential(nn.Upsample(scale_factor=2), conv))


class UnnormalisedGenerator(Generator):
    """The document's generator without BatchNorm."""

    def __init__(self, spec: GeneratorSpec) -> None:
        super().__init__(spec)
        for layer in spec.layers:
            if isinstance(layer, BatchNorm):
                self.add_module(layer.name, nn.Identity())


DISCRIMINATORS["wide"] = WideDiscriminator
DISCRIMINATORS["pooling"] = PoolingDiscriminator
DISCRIMINATORS["plain"] = PlainDiscriminator
DISCRIMINATORS["batchnorm"] = BatchNormDiscriminator
GENERATORS: dict[str, type[Generator]] = {"upsampling": UpsamplingGenerator, "unnormalised": UnnormalisedGenerator}

_ACTIVATIONS = ("leaky-relu:0.2", "elu", "softplus")
# What a group changes in all of its rows. The networks are compared in a plain game, a critic of pixels without labels:
# the recipe's own critic would hide what they do.
BASES: dict[str, dict[str, Any]] = {
    "recipe": {},
    "networks": {
        "discriminator": "spectral",
        "labels": "none",
        "loss": "non-saturating",
        "g_lr": 0.25,
        "d_lr": 0.25,
    },
}
# For each group rows: a name, what is changed (factors for learning rates), and the generator, "" for the document's.
GROUPS: dict[str, list[tuple[str, dict[str, Any], str]]] = {
    "recipe": [
        ("as it is", {}, ""),
        ("no labels", {"labels": "none"}, ""),
        ("spectral discriminator", {"discriminator": "spectral"}, ""),
        ("spectral discriminator, no labels", {"discriminator": "spectral", "labels": "none"}, ""),
        ("the document's discriminator", {"discriminator": "document", "labels": "none"}, ""),
        ("classifier twice as wide", {"discriminator": "wide"}, ""),
        ("non-saturating loss", {"loss": "non-saturating"}, ""),
        ("least-squares loss", {"loss": "least-squares"}, ""),
        ("batch 32", {"batch_size": 32}, ""),
        ("batch 128", {"batch_size": 128}, ""),
        ("both rates 1/8", {"g_lr": 0.125, "d_lr": 0.125}, ""),
        ("both rates 1/4", {"g_lr": 0.25, "d_lr": 0.25}, ""),
        ("both rates 1/2", {"g_lr": 0.5, "d_lr": 0.5}, ""),
        ("both rates 2x", {"g_lr": 2.0, "d_lr": 2.0}, ""),
        ("D's rate 1/4", {"d_lr": 0.25}, ""),
        ("constant rates", {"lr_schedule": "constant"}, ""),
        ("beta1 0", {"beta1": 0.0}, ""),
        ("beta1 0.9", {"beta1": 0.9}, ""),
        ("dropout 0.1 in D", {"dropout": 0.1}, ""),
        ("no moving average", {"ema_decay": 0.0}, ""),
        ("fp32", {"precision": "fp32"}, ""),
        ("NCHW memory order", {"channels_last": False}, ""),
    ],
    "networks": [
        ("as it is", {}, ""),
        *((f"G {name}", {"g_activation": Activation.parse(name)}, "") for name in _ACTIVATIONS),
        *((f"D {name}", {"d_activation": Activation.parse(name)}, "") for name in ("relu", "elu", "softplus")),
        ("D with pooling", {"discriminator": "pooling"}, ""),
        ("G with upsampling", {}, "upsampling"),
        ("G without BatchNorm", {}, "unnormalised"),
        ("D with BatchNorm", {"discriminator": "batchnorm"}, ""),
        ("D without any norm", {"discriminator": "plain"}, ""),
        ("D's rate a tenth of G's", {"d_lr": 0.1}, ""),
    ],
}


class VariantTrainer(Trainer):
    """A trainer whose generator may be another than the document's."""

    def __init__(self, variant: str, *arguments: Any) -> None:
        self._variant = variant
        super().__init__(*arguments)

    def make_generator(self) -> Generator:
        return GENERATORS.get(self._variant, Generator)(self.spec)


def changed(recipe: Recipe, changes: dict[str, Any]) -> Recipe:
    """The recipe with changes; those of learning rates are factors."""
    rates = {name: getattr(recipe, name) * changes[name] for name in ("g_lr", "d_lr") if name in changes}
    return dataclasses.replace(recipe, **(changes | rates))


def measured(
    recipe: Recipe, variant: str, reference: Reference, held: Judged, evaluator: Evaluator, images: int, seed: int
) -> dict[str, Any]:
    """Train for about so many images, and judge."""
    steps = images // recipe.batch_size
    per_epoch = len(reference.real.images) // recipe.batch_size
    trainer = VariantTrainer(variant, recipe, reference.real, torch.device("cpu"), seed)
    trainer.total_steps = steps
    started = time.perf_counter()
    while trainer.steps_done < steps:
        index = trainer.steps_done % per_epoch
        if index == 0:
            order = trainer.order(trainer.epoch)
        trainer.step(*trainer.batch(order[index * recipe.batch_size : (index + 1) * recipe.batch_size]))
    seconds = time.perf_counter() - started
    generator = trainer.average.eval()
    digits, labels = Images("", generator.spec, generator_run(generator))(FID_COUNT, 0)
    figures = judge_images(evaluator.judge(digits), labels, held, reference.held)
    z = torch.randn(1024, 100, generator=torch.Generator().manual_seed(0))
    real, real_label = trainer.batch(torch.arange(1024))
    activity = {
        name: [dataclasses.asdict(layer) for layer in measure_activity(network, in_batches(*inputs))]
        for name, network, inputs in (("G", generator, (z,)), ("D", trainer.discriminator, (real, real_label)))
    }
    return {
        **figures,
        "checkerboard": {period: checkerboard_energy(digits, period) for period in (2, 4)},
        "activity": activity,
        "images_per_second": round(steps * recipe.batch_size / seconds, 1),
    }


@click.command()
@click.argument("group", type=click.Choice(list(GROUPS)))
@click.argument("data_dir", type=click.Path(path_type=Path))
@click.option("--base", default="fast", show_default=True, type=click.Choice(list(RECIPES)))
@click.option("--images", default=150_000, show_default=True, help="Training images shown to each row.")
@click.option("--seeds", default=1, show_default=True)
@click.option("--only", default="", help="The row of this name, or else those whose names contain it.")
@click.option("--threads", default=1, show_default=True, help="Rows run side by side best with one each.")
@click.option("--out", default=None, type=click.Path(path_type=Path), help="[default: ablations-GROUP.jsonl]")
def main(
    group: str,
    data_dir: Path,
    base: str,
    images: int,
    seeds: int,
    only: str,
    threads: int,
    out: Path | None,
) -> None:
    """Train and judge every row that is not in the file yet, then print the table."""
    torch.set_num_threads(threads)
    out = out or Path(f"ablations-{group}.jsonl")
    reference = Reference("validation", *split_validation(load_dataset("mnist", data_dir)))
    evaluator = Evaluator(threads=threads)
    held = evaluator.judge(reference.held.images)
    precision = resolve_precision("auto", torch.device("cpu"))
    recipe = dataclasses.replace(RECIPES[base], precision=precision)
    recipe = changed(recipe, BASES[group])
    rows = [json.loads(line) for line in out.read_text().splitlines()] if out.exists() else []
    done = {(row["name"], row["seed"]) for row in rows if (row["base"], row["images"]) == (base, images)}
    chosen = [row for row in GROUPS[group] if row[0] == only] or [row for row in GROUPS[group] if only in row[0]]
    for seed in range(seeds):
        for name, changes, variant in chosen:
            if (name, seed) in done:
                continue
            row = measured(changed(recipe, changes), variant, reference, held, evaluator, images, seed)
            rows.append({"name": name, "seed": seed, "base": base, "images": images, **row})
            with out.open("a") as file:
                file.write(json.dumps(rows[-1]) + "\n")
            click.echo(f"{name}, seed {seed}: {row['frechet_distance']:.2f}", err=True)
    real = reference.real
    assert real.labels is not None
    floor = judge_images(evaluator.judge(real.images[:FID_COUNT]), real.labels[:FID_COUNT], held, reference.held) | {
        "checkerboard": {period: checkerboard_energy(reference.held.images, period) for period in (2, 4)}
    }
    print_table(group, [row for row in rows if (row["base"], row["images"]) == (base, images)], floor)


def print_table(group: str, rows: list[dict[str, Any]], floor: dict[str, Any]) -> None:
    head = ["", "seeds", "Frechet distance", "precision", "recall", "coverage", "images/s"]
    if group == "networks":
        head += ["period 2 / real", "period 4 / real", "active G", "dead G", "active D", "dead D"]
    click.echo("| " + " | ".join(head) + " |\n|" + "---|" * len(head))
    for name in dict.fromkeys(row["name"] for row in rows):
        same = [row for row in rows if row["name"] == name]

        def middle(key: str, same: list[dict[str, Any]] = same) -> float:
            return float(statistics.median(row[key] for row in same))

        distances = [row["frechet_distance"] for row in same]
        spread = f" ({min(distances):.1f} to {max(distances):.1f})" if len(same) > 1 else ""
        cells = [name, str(len(same)), f"{middle('frechet_distance'):.1f}{spread}"]
        cells += [f"{middle(key):.3f}" for key in ("precision", "recall", "coverage")]
        cells.append(f"{middle('images_per_second'):,.0f}")
        if group == "networks":
            first = same[0]
            for period in (2, 4):
                energy = first["checkerboard"].get(str(period), first["checkerboard"].get(period))
                cells.append(f"{energy / floor['checkerboard'][period]:.2f}")
            for network in ("G", "D"):
                layers = first["activity"].get(network, [])
                cells.append(", ".join(f"{layer['active']:.0%}" for layer in layers))
                cells.append(", ".join(f"{layer['dead']:.0%}" for layer in layers))
        click.echo("| " + " | ".join(cells) + " |")
    cells = ["real training images", "", f"{floor['frechet_distance']:.1f}"]
    cells += [f"{floor[key]:.3f}" for key in ("precision", "recall", "coverage")]
    cells += [""] * (len(head) - len(cells))
    click.echo("| " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
