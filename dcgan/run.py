"""A run folder, and the loop that fills it.

RUN/options.json             what the run was started with
RUN/checkpoint.safetensors   everything to go on from, after each epoch and on interruption
RUN/metrics.jsonl            one JSON object an epoch
RUN/samples/epoch-001.png    the same latents after each epoch: 16, or with labels ten of each digit
RUN/losses.png               mean loss of G and D over the epochs
RUN/best.safetensors         with `eval_every`: the generator with the least Frechet distance so far
RUN/generator.safetensors    the result, written when the last epoch is done
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dcgan_infer import __version__
from dcgan_infer.contract.errors import (
    CheckpointError,
    DatasetError,
    DivergedError,
    EvaluationError,
    RunError,
    first_line,
)
from dcgan_infer.contract.files import TEMPORARY, make_folder, replacing

from .activity import measure_activity
from .checkpoint import load_training_state, save_generator, save_training_state
from .data import CLASSES, EVALUATED, Dataset, load_dataset, split_validation
from .evaluation import FID_COUNT
from .metrics.evaluator import Evaluator
from .metrics.frechet import frechet_distance
from .networks import Generator
from .recipes import Recipe
from .reports import plot_losses, write_metrics, write_sample_grid
from .sources import Digits, generator_run
from .trainer import Trainer, resolve_device, resolve_precision

OPTIONS = "options.json"
CHECKPOINT = "checkpoint.safetensors"
METRICS = "metrics.jsonl"
GENERATOR = "generator.safetensors"
LOSSES = "losses.png"
BEST = "best.safetensors"
SAMPLES = "samples"

_SAMPLE_COUNT = 16  # the reference script's 4x4 grid
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
        eval_every: epochs between two measurements of the Frechet distance; 0 for none.
        holdout: whether the last 10,000 images (of a smaller set the last half) are kept out of training.
    """

    recipe: Recipe
    dataset: str
    data_dir: str
    seed: int
    device: str
    threads: int
    eval_every: int = 0
    holdout: bool = False

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
) -> list[dict[str, Any]] | None:
    """Train, from the start or from the run's checkpoint, until the last epoch is done.

    Args:
        run: the run folder; must not exist yet, or be empty, unless `resume`.
        options: resolved; with `resume`, those of the run.
        resume: go on from the run's checkpoint, from the start if the run was killed before its first.
        on_step: called after every step.
        on_epoch: called with the row for `metrics.jsonl` after every epoch.
        interrupted: asked after every step; once it says true, the run is saved and left.
    Returns:
        The rows of `metrics.jsonl` if the run is finished, None if it was interrupted.
    Raises:
        RunError: the folder is taken, in use, or was started with other images.
        DatasetError, DeviceError, CheckpointError, DivergedError, OutputError: as their names say.
    """
    if not resume:
        _refuse_taken(run)
    device = resolve_device(options.device)
    torch.set_num_threads(options.threads)
    dataset = load_dataset(options.dataset, Path(options.data_dir))
    seen, held = split_validation(dataset)
    if not options.holdout:
        seen = dataset
    if len(seen.images) < options.recipe.batch_size or options.recipe.batch_size < 2:
        raise DatasetError(
            f"a batch takes 2 to {len(seen.images)} images of this data set, not {options.recipe.batch_size}"
        )
    images_sha256 = hashlib.sha256(dataset.images.tobytes()).hexdigest()
    trainer = Trainer(options.recipe, seen, device, options.seed)
    judge = _Judge(options, held) if options.eval_every else None
    if not resume:
        make_folder(run, parents=True)
    with _locked(run):
        if resume:
            progress = _restore(run, trainer, images_sha256)
        else:
            _refuse_taken(run)  # again: another run may have come first while the images were read
            progress = _Progress(images_sha256)
            _start(run, options, images_sha256, len(dataset.images))
        return _train_epochs(run, options, trainer, judge, progress, on_step, on_epoch, interrupted)


@dataclass
class _Progress:
    """What a run knows beside its tensors.

    Attributes:
        images_sha256: of the training images' bytes.
        epoch_seconds: already spent in an epoch that was interrupted.
        rows: of `metrics.jsonl`, an entry for each finished epoch.
    """

    images_sha256: str
    epoch_seconds: float = 0.0
    rows: list[dict[str, Any]] = field(default_factory=list)


def _train_epochs(
    run: Path,
    options: RunOptions,
    trainer: Trainer,
    judge: _Judge | None,
    progress: _Progress,
    on_step: Callable[[Trainer], None],
    on_epoch: Callable[[dict[str, Any]], None],
    interrupted: Callable[[], bool],
) -> list[dict[str, Any]] | None:
    fixed = torch.Generator().manual_seed(options.seed)
    z = torch.randn(_ACTIVITY_COUNT, trainer.spec.latent_dim, generator=fixed).to(trainer.device)
    real, real_label = trainer.batch(torch.arange(min(_ACTIVITY_COUNT, len(trainer.images)), device=trainer.device))
    label = torch.arange(_ACTIVITY_COUNT, device=trainer.device) % CLASSES if trainer.spec.num_classes else None
    samples = _SAMPLE_COUNT if label is None else CLASSES * CLASSES  # a column a class

    def save() -> None:
        state = {"steps_done": trainer.steps_done, **asdict(progress)}
        save_training_state(run / CHECKPOINT, trainer.tensors(), state, trainer.spec, options.recipe.to_json())

    batch_size = options.recipe.batch_size
    while trainer.epoch < options.recipe.epochs:
        order = trainer.order(trainer.epoch)
        started = time.perf_counter() - progress.epoch_seconds
        for index in range(trainer.steps_done % trainer.steps_per_epoch, trainer.steps_per_epoch):
            trainer.step(*trainer.batch(order[index * batch_size : (index + 1) * batch_size]))
            last = index + 1 == trainer.steps_per_epoch
            stop = not last and interrupted()
            if last or stop or trainer.steps_done % _FINITE_CHECK_EVERY == 0:
                _check_finite(trainer, run)
            on_step(trainer)
            if stop:
                progress.epoch_seconds = time.perf_counter() - started
                save()
                return None
        seconds = time.perf_counter() - started
        d_loss, g_loss = (trainer.epoch_losses / trainer.steps_per_epoch).tolist()
        row = {
            "epoch": trainer.epoch,
            "steps": trainer.steps_done,
            "d_loss": d_loss,
            "g_loss": g_loss,
            "seconds": round(seconds, 3),
            "images_per_second": round(trainer.steps_per_epoch * batch_size / seconds, 1),
            "activity": {
                name: [asdict(layer) for layer in measure_activity(network, in_batches(*inputs))]
                for name, network, inputs in (
                    ("generator", trainer.average, (z, label)),
                    ("discriminator", trainer.discriminator, (real, real_label)),
                )
            },
        }
        if judge is not None and (trainer.epoch % options.eval_every == 0 or trainer.epoch == options.recipe.epochs):
            row["frechet_distance"] = judge.frechet_distance(trainer.average)
            if row["frechet_distance"] < min(
                (before["frechet_distance"] for before in progress.rows if "frechet_distance" in before),
                default=math.inf,
            ):
                save_generator(run / BEST, trainer.average.state_dict(), trainer.spec, options.recipe.to_json())
        progress.rows.append(row)
        progress.epoch_seconds = 0.0
        picture = run / SAMPLES / f"epoch-{trainer.epoch:03d}.png"
        write_sample_grid(picture, trainer.average, z[:samples], None if label is None else label[:samples])
        write_metrics(run / METRICS, progress.rows)
        # The checkpoint comes last: a run killed before it repeats the epoch and writes the same files again.
        trainer.epoch_losses.zero_()
        save()
        on_epoch(row)
        if interrupted() and trainer.epoch < options.recipe.epochs:
            return None

    write_metrics(run / METRICS, progress.rows)
    plot_losses(run / LOSSES, progress.rows, f"{options.recipe.name} on {options.dataset}")
    save_generator(run / GENERATOR, trainer.average.state_dict(), trainer.spec, options.recipe.to_json())
    return progress.rows


def in_batches(*inputs: Tensor | None) -> list[tuple[Tensor, ...]]:
    """The inputs that there are, 128 rows at a time."""
    return list(zip(*(torch.split(each, 128) for each in inputs if each is not None), strict=True))


class _Judge:
    """Measures how far a generator's digits are from real ones."""

    def __init__(self, options: RunOptions, held: Dataset) -> None:
        if options.dataset not in EVALUATED:
            raise EvaluationError(
                f"--eval-every reads MNIST's digits only, not {options.dataset}; leave it out for this data set"
            )
        if len(held.images) < 2:
            raise EvaluationError("--eval-every needs more images than these; leave it out for this data set")
        self._evaluator = Evaluator(threads=options.threads)
        self._held = self._evaluator.judge(held.images).features

    def frechet_distance(self, generator: Generator) -> float:
        """Of `FID_COUNT` digits, in eval mode, to the held images; the generator's mode is put back."""
        training = generator.training
        digits = Digits("", generator.spec, generator_run(generator.eval()))
        images, _ = digits(FID_COUNT, 0)
        generator.train(training)
        return round(frechet_distance(self._evaluator.judge(images).features, self._held), 4)


def _refuse_taken(run: Path) -> None:
    if run.exists() and (not run.is_dir() or any(run.iterdir())):
        raise RunError(f"{run} already exists; go on with --resume {run}, or choose another --out")


@contextlib.contextmanager
def _locked(run: Path) -> Iterator[None]:
    """Keep other processes out of a run folder. The system lifts the lock when the process ends, however it ends."""
    try:
        import fcntl  # not on Windows, where two runs in one folder are not noticed
    except ImportError:
        yield
        return
    descriptor = os.open(run, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise RunError(f"another dcgan-train is at work in {run}; wait for it, or choose another --out") from error
        yield
    finally:
        os.close(descriptor)


def _start(run: Path, options: RunOptions, images_sha256: str, count: int) -> None:
    content = {
        "options": options.to_dict(),
        "images": count,
        "images_sha256": images_sha256,
        "versions": {"dcgan-toolkit": __version__, "torch": torch.__version__},
    }
    (run / SAMPLES).mkdir()
    with replacing(run / OPTIONS) as temporary:
        temporary.write_text(json.dumps(content, indent=2) + "\n")


def _restore(run: Path, trainer: Trainer, images_sha256: str) -> _Progress:
    """Put the trainer where the run's checkpoint left it."""
    for left in run.rglob(f".*{TEMPORARY}"):  # by a process that was killed while it wrote
        shutil.rmtree(left, ignore_errors=True)
    (run / SAMPLES).mkdir(exist_ok=True)
    try:
        if json.loads((run / OPTIONS).read_text())["images_sha256"] != images_sha256:
            raise RunError(f"{run} was trained on other images than these; give the --data-dir it was started with")
        if not (run / CHECKPOINT).exists():
            if (run / GENERATOR).exists():
                raise RunError(f"{run} is finished, and its {CHECKPOINT} is gone; start a new run")
            return _Progress(images_sha256)
        tensors, state = load_training_state(run / CHECKPOINT)
        trainer.load_tensors(tensors, state.pop("steps_done"))
        return _Progress(**state)
    except (RunError, CheckpointError):
        raise
    except (OSError, KeyError, TypeError, RuntimeError, ValueError) as error:
        raise CheckpointError(
            f"{run / CHECKPOINT} doesn't fit the options of its run ({first_line(error)}); start a new run"
        ) from error


def _check_finite(trainer: Trainer, run: Path) -> None:
    """Stop before anything that is not finite is saved or published."""
    published = [tensor for tensor in trainer.average.state_dict().values() if tensor.is_floating_point()]
    if all(torch.isfinite(tensor).all() for tensor in (trainer.epoch_losses, *published)):
        return
    there = (run / CHECKPOINT).exists()
    saved = f"the last good state is in {run}" if there else f"nothing was saved yet, and {run} can be deleted"
    epoch = (trainer.steps_done - 1) // trainer.steps_per_epoch + 1
    raise DivergedError(
        f"losses or weights are no longer finite in epoch {epoch}; {saved}; "
        "train again with lower --g-lr and --d-lr, into another --out"
    )
