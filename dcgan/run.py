"""A run folder, and the loop that fills it.

RUN/options.json             what the run was started with
RUN/checkpoint.safetensors   everything to go on from, after each epoch and on interruption
RUN/metrics.jsonl            one JSON object an epoch
RUN/samples/epoch-001.png    the same 16 latents after each epoch
RUN/losses.png               mean loss of G and D over the epochs
RUN/generator.safetensors    the result, written when the last epoch is done
"""

from __future__ import annotations

import hashlib
import json
import re
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from . import __version__
from .activity import measure_activity
from .checkpoint import load_training_state, save_generator, save_training_state
from .data import load_dataset
from .errors import CheckpointError, DatasetError, DivergedError, OutputError, RunError
from .files import replacing
from .recipes import Recipe
from .reports import plot_losses, read_metrics, write_metrics, write_sample_grid
from .trainer import Trainer, resolve_device, resolve_precision

OPTIONS = "options.json"
CHECKPOINT = "checkpoint.safetensors"
METRICS = "metrics.jsonl"
GENERATOR = "generator.safetensors"
LOSSES = "losses.png"
SAMPLES = "samples"

_SAMPLE_COUNT = 16  # the document's 4x4 grid
_ACTIVITY_COUNT = 1024  # inputs on which active and dead units are counted
_FINITE_CHECK_EVERY = 100  # steps; each check waits for the device


@dataclass(frozen=True)
class RunOptions:
    """What a run is started with.

    Attributes:
        recipe: how to train.
        dataset: a key of `data.DATASETS`.
        data_dir: where its files are.
        seed: of everything random.
        device: `auto`, `cpu` or `cuda`.
        threads: of torch on the CPU; 0 leaves torch's own choice. Another number gives other bits.
    """

    recipe: Recipe
    dataset: str
    data_dir: str
    seed: int
    device: str
    threads: int

    def to_dict(self) -> dict[str, Any]:
        """Fields as JSON-able values."""
        return {**asdict(self), "recipe": self.recipe.to_dict()}

    def resolved(self) -> RunOptions:
        """Settle every `auto`, on this machine.

        Raises:
            DeviceError: `cuda` was asked for and there is none.
        """
        device = resolve_device(self.device)
        recipe = replace(self.recipe, precision=resolve_precision(self.recipe.precision, device))
        return replace(self, recipe=recipe, device=device.type, threads=self.threads or torch.get_num_threads())


def new_run_folder(parent: Path, label: str) -> Path:
    """The first unused `parent/NNN-label`, not created yet."""
    taken = [int(match[1]) for path in parent.glob("*") if (match := re.match(r"(\d{3,})-", path.name))]
    return parent / f"{max(taken, default=-1) + 1:03d}-{label}"


def read_options(run: Path) -> RunOptions:
    """Options that a run was started with.

    Raises:
        RunError: `run` is no run folder.
    """
    try:
        fields = json.loads((run / OPTIONS).read_text())["options"]
        return RunOptions(**{**fields, "recipe": Recipe.from_dict(fields["recipe"])})
    except OSError as error:
        raise RunError(
            f"{run} is no run folder: it has no {OPTIONS}; start a new run with dcgan-train --out"
        ) from error
    except (ValueError, KeyError, TypeError) as error:
        raise RunError(f"{run / OPTIONS} is damaged or of another version ({error}); start a new run") from error


def train(
    run: Path,
    options: RunOptions,
    *,
    resume: bool = False,
    on_step: Callable[[Trainer], None] = lambda _: None,
    on_epoch: Callable[[dict[str, Any]], None] = lambda _: None,
    interrupted: Callable[[], bool] = lambda: False,
) -> bool:
    """Train, from the start or from the run's checkpoint, until the last epoch is done.

    Args:
        run: the run folder; must not exist yet, or be empty, unless `resume`.
        options: resolved; with `resume`, those of the run.
        resume: go on from the run's checkpoint, from the start if the run was killed before its first.
        on_step: called after every step.
        on_epoch: called with the row for `metrics.jsonl` after every epoch.
        interrupted: asked after every step; once it says true, the run is saved and left.
    Returns:
        True if the run is finished, False if it was interrupted.
    Raises:
        RunError: the folder is taken, or the data are not those the run was started with.
        DatasetError, DeviceError, CheckpointError, DivergedError, OutputError: as their names say.
    """
    if not resume and run.exists() and (not run.is_dir() or any(run.iterdir())):
        raise RunError(f"{run} already exists; go on with --resume {run}, or choose another --out")
    torch.set_num_threads(options.threads)
    dataset = load_dataset(options.dataset, Path(options.data_dir))
    if len(dataset.images) < options.recipe.batch_size or options.recipe.batch_size < 2:
        raise DatasetError(
            f"a batch takes 2 to {len(dataset.images)} images of this data set, not {options.recipe.batch_size}"
        )
    images_sha256 = hashlib.sha256(dataset.images.tobytes()).hexdigest()
    trainer = Trainer(options.recipe, dataset.images, torch.device(options.device), options.seed)

    epoch_seconds = 0.0
    if resume:
        epoch_seconds = _restore(run, trainer, images_sha256)
    else:
        _start(run, options, images_sha256, len(dataset.images))
    rows = [row for row in read_metrics(run / METRICS) if row["epoch"] <= trainer.epoch]

    fixed = torch.Generator().manual_seed(options.seed)
    latents = torch.randn(_ACTIVITY_COUNT, trainer.spec.latent_dim, generator=fixed).to(trainer.device)
    reals = trainer.batch(torch.arange(min(_ACTIVITY_COUNT, len(dataset.images)), device=trainer.device))

    def save() -> None:
        state = {"steps_done": trainer.steps_done, "epoch_seconds": epoch_seconds, "images_sha256": images_sha256}
        save_training_state(run / CHECKPOINT, trainer.tensors(), state, trainer.spec, options.recipe.to_json())

    while trainer.epoch < options.recipe.epochs:
        order = trainer.order(trainer.epoch)
        started = time.perf_counter() - epoch_seconds
        for index in range(trainer.steps_done % trainer.steps_per_epoch, trainer.steps_per_epoch):
            chosen = order[index * options.recipe.batch_size : (index + 1) * options.recipe.batch_size]
            trainer.step(trainer.batch(chosen))
            last = index + 1 == trainer.steps_per_epoch
            if last or trainer.steps_done % _FINITE_CHECK_EVERY == 0:
                _check_finite(trainer, run)
            on_step(trainer)
            if not last and interrupted():
                epoch_seconds = time.perf_counter() - started
                save()
                return False
        seconds = time.perf_counter() - started
        d_loss, g_loss = (trainer.epoch_losses / trainer.steps_per_epoch).tolist()
        row = {
            "epoch": trainer.epoch,
            "steps": trainer.steps_done,
            "d_loss": d_loss,
            "g_loss": g_loss,
            "seconds": round(seconds, 3),
            "images_per_second": round(trainer.steps_per_epoch * options.recipe.batch_size / seconds, 1),
            "activity": {
                "generator": [asdict(layer) for layer in measure_activity(trainer.average, torch.split(latents, 128))],
                "discriminator": [
                    asdict(layer) for layer in measure_activity(trainer.discriminator, torch.split(reals, 128))
                ],
            },
        }
        rows.append(row)
        write_sample_grid(run / SAMPLES / f"epoch-{trainer.epoch:03d}.png", trainer.average, latents[:_SAMPLE_COUNT])
        write_metrics(run / METRICS, rows)
        # The checkpoint comes last: a run killed before it repeats the epoch and writes the same files again.
        trainer.epoch_losses.zero_()
        epoch_seconds = 0.0
        save()
        on_epoch(row)
        if interrupted() and trainer.epoch < options.recipe.epochs:
            return False

    plot_losses(run / LOSSES, rows, f"{options.recipe.name} on {options.dataset}")
    save_generator(run / GENERATOR, trainer.average.state_dict(), trainer.spec, options.recipe.to_json())
    return True


def _start(run: Path, options: RunOptions, images_sha256: str, count: int) -> None:
    content = {
        "options": options.to_dict(),
        "images": count,
        "images_sha256": images_sha256,
        "versions": {"dcgan-toolkit": __version__, "torch": torch.__version__},
    }
    try:
        (run / SAMPLES).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"can't make the run folder {run}: {error.strerror}; choose another --out") from error
    with replacing(run / OPTIONS) as temporary:
        temporary.write_text(json.dumps(content, indent=2) + "\n")


def _restore(run: Path, trainer: Trainer, images_sha256: str) -> float:
    """Put the trainer where the run's checkpoint left it; returns the seconds already spent in the epoch."""
    if json.loads((run / OPTIONS).read_text())["images_sha256"] != images_sha256:
        raise RunError(f"{run} was trained on other images than these; give the --data-dir it was started with")
    if not (run / CHECKPOINT).exists():
        return 0.0
    tensors, state = load_training_state(run / CHECKPOINT)
    try:
        trainer.load_tensors(tensors, state["steps_done"])
    except (KeyError, RuntimeError, ValueError) as error:
        raise CheckpointError(
            f"{run / CHECKPOINT} doesn't fit the options of its run ({error}); start a new run"
        ) from error
    return float(state["epoch_seconds"])


def _check_finite(trainer: Trainer, run: Path) -> None:
    if not torch.isfinite(trainer.epoch_losses).all():
        raise DivergedError(
            f"the losses are no longer finite in epoch {trainer.epoch + 1}; the last good state is in {run}; "
            "train again with lower --g-lr and --d-lr"
        )
