"""A run folder, and the loop that fills it.

RUN/options.json             what the run was started with
RUN/checkpoint.safetensors   everything to go on from, after each epoch and on interruption
RUN/metrics.jsonl            one JSON object an epoch
RUN/samples/epoch-001.png    the same latents after each epoch; of a conditional generator a column for each class
RUN/losses.png               mean loss of G and D over the epochs
RUN/best.safetensors         with `eval_every`: the generator with the least Frechet distance so far
RUN/init.safetensors         with `init`: the generator that the run started from
RUN/tensorboard/             with `tensorboard`: losses, the Frechet distance and samples
RUN/generator.safetensors    the result, written when the last epoch is done
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import time
from collections.abc import Callable
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
from dcgan_infer.contract.files import is_empty, make_folder, owned, replacing
from dcgan_infer.extras import require
from dcgan_infer.runtime import cores

from .activity import measure_activity
from .checkpoint import load_generator, load_training_state, save_generator, save_training_state
from .data import IMAGES, Dataset, Progress, silent, split_validation
from .evaluation import FID_COUNT, labels_like
from .metrics.evaluator import evaluator_for
from .metrics.frechet import frechet_distance
from .networks import Generator
from .parallel import ALONE, ONE, Place, Processes
from .recipes import Recipe
from .reports import TensorBoard, plot_losses, write_metrics, write_sample_grid
from .run_options import OPTIONS, RunOptions, images_sha256_of
from .sources import Images, generator_run
from .torch_state import our_settings, repeatable, usual_threads
from .trainer import Trainer, resolve_device, resolve_precision

CHECKPOINT = "checkpoint.safetensors"
METRICS = "metrics.jsonl"
GENERATOR = "generator.safetensors"
LOSSES = "losses.png"
BEST = "best.safetensors"
SAMPLES = "samples"

INIT = "init.safetensors"
TENSORBOARD = "tensorboard"

_SAMPLE_SIDE = 8  # of the grid without classes: fewer images say little about variety
_SAMPLE_ROWS, _SAMPLE_COLUMNS = 10, 16  # images of a class, and classes at most
_ACTIVITY_COUNT = 1024  # inputs on which active and dead units are counted
_FINITE_CHECK_EVERY = 100  # steps; each check waits for the device


def resolved(options: RunOptions, place: Place = ONE) -> RunOptions:
    """Settle every `auto` that depends on this machine; `Recipe.settled` does those that depend on the images.

    Several processes share the cores of a host, whatever OMP_NUM_THREADS says: torchrun sets it to 1.

    Raises:
        DeviceError: a device was asked for that is not there.
    """
    device = resolve_device(options.device, place)
    recipe = replace(options.recipe, precision=resolve_precision(options.recipe.precision, device))
    threads = usual_threads() if place.count == 1 else max(1, cores() // place.local_count)
    return replace(
        options,
        recipe=recipe,
        device=str(device) if place.count == 1 else device.type,
        threads=options.threads or threads,
        processes=place.count,
    )


def train(
    run: Path,
    options: RunOptions,
    *,
    resume: bool = False,
    progress: Progress = silent,
    say: Callable[[str], None] = lambda _: None,
    on_start: Callable[[RunOptions, Dataset], None] = lambda *_: None,
    on_step: Callable[[Trainer], None] = lambda _: None,
    on_epoch: Callable[[dict[str, Any]], None] = lambda _: None,
    interrupted: Callable[[], bool] = lambda: False,
    processes: Processes = ALONE,
) -> list[dict[str, Any]] | None:
    """Train, from the start or from the run's checkpoint, until the last epoch is done.

    Of several processes all call this with the same options, but for the place of the images. The first one does all
    that is said here; the others only take the steps with it, and use neither `run` nor `resume`, nor any callback but
    `on_start` (once the run can be resumed), `on_step` and `interrupted`.

    What they do together, in this order, in `train` and in `_assist`; each waits for all others:
    1. `in_turn`: read the images;
    2. `broadcast`: the images' SHA-256;
    3. `most`: all have the same images, and the first one makes the folder;
    4. `broadcast`: the settled options, the generator to start from, the number of epochs that are done;
    5. `Trainer.join`;
    6. in each epoch `_take_steps`, and then `most`: the first one has measured and saved.

    Args:
        run: the run folder; must not exist yet, or be empty, unless `resume`.
        options: resolved; with `resume`, those of the run, perhaps with more epochs (see `longer`).
        resume: go on from the run's checkpoint, from the start if the run was killed before its first.
        progress: told of what is done beside the steps: decoding images, training a classifier, measuring.
        say: told what takes long, and how well an evaluator reads, in a line.
        on_start: called once the images are there, with what was settled by them.
        on_step: called after every step.
        on_epoch: called with the row for `metrics.jsonl` after every epoch.
        interrupted: asked after every step, an epoch's last one too, before it is measured; once it says true, in any
            of the processes, the run is saved and left.
        processes: that train together.
    Returns:
        The rows of `metrics.jsonl` if the run is finished, None if it was interrupted. Other processes than the first
        one have no rows.
    Raises:
        RunError: the folder is taken, in use, or was started with other images.
        DatasetError, DeviceError, SpecError, CheckpointError, DivergedError, OutputError: as their names say.
    """
    if not processes.leads:
        return _assist(options, on_start, on_step, interrupted, processes)
    folder = Path(options.data_dir)
    if not resume:
        _refuse_taken(run)
        if options.dataset == IMAGES and run.resolve().is_relative_to(folder.resolve()):
            raise RunError(f"{run} would be among the images of {folder}, as images itself; choose another --out")
    device = resolve_device(options.device, processes.place)
    if options.tensorboard:
        require("torch.utils.tensorboard", "tensorboard")
    with contextlib.ExitStack() as stack:
        stack.enter_context(our_settings(options.threads))
        stack.enter_context(repeatable(device))
        # Before the images, which may take minutes.
        start = load_start(run / INIT if resume else Path(options.init)) if options.init else None
        try:
            with processes.in_turn():
                dataset = options.real_images.load("train", progress)
        except DatasetError as error:
            if resume and options.dataset == IMAGES and not folder.exists():
                moved = f"{run} was trained on {folder}, which is not there; if it moved, add --images NEWPLACE"
                raise RunError(moved) from error
            raise
        images_sha256 = processes.broadcast(dataset.sha256())
        if resume and images_sha256 != images_sha256_of(run):
            option = "--images" if options.dataset == IMAGES else "--data-dir"
            raise RunError(f"{run} was trained on other images than these; give {option} with the place where they are")
        seen, held = _seen(dataset, options)
        recipe = options.recipe if start is None else replace(options.recipe, latent_dim=start.spec.latent_dim)
        options = replace(options, recipe=recipe.settled(seen))
        _refuse_batches(options.recipe, len(seen), processes.count)
        on_start(options, dataset)
        # The judge first: training its evaluator seeds the device's random numbers, and the trainer seeds them anew.
        judge = _Judge(dataset, held, options.threads, say, progress) if options.eval_every else None
        trainer = Trainer(options.recipe, seen, device, options.seed, start, progress)
        processes.most(0)  # all have the images: before there is a folder
        if not resume:
            make_folder(run, parents=True)
        stack.enter_context(owned(run))
        if resume:
            state = _restore(run, trainer, images_sha256)
        else:
            _refuse_taken(run)  # again: another run may have come first while the images were read
            state = _Progress(images_sha256)
        if start is not None and not resume:
            save_generator(run / INIT, start.state_dict(), start.spec, "")
        _write_options(run, options, images_sha256, len(dataset))  # from here on it is a run, which can be resumed
        processes.broadcast((options, start, len(state.rows)))
        trainer.join(processes)
        events = stack.enter_context(TensorBoard(run / TENSORBOARD, trainer.epoch)) if options.tensorboard else None
        return _train_epochs(
            run, options, trainer, judge, state, events, progress, on_step, on_epoch, interrupted, processes
        )


def _assist(
    options: RunOptions,
    on_start: Callable[[RunOptions, Dataset], None],
    on_step: Callable[[Trainer], None],
    interrupted: Callable[[], bool],
    processes: Processes,
) -> list[dict[str, Any]] | None:
    """The part of another process than the first one: on images that it reads itself, all else comes from that one.

    Raises:
        RunError: the images are others than those of the first process.
    """
    device = resolve_device(options.device, processes.place)
    with our_settings(options.threads), repeatable(device):
        with processes.in_turn():
            dataset = options.real_images.load("train")
        images_sha256 = dataset.sha256()
        if images_sha256 != processes.broadcast(images_sha256):
            raise RunError(
                f"the images in {options.data_dir} on {processes.host} are others than those of process 1; all hosts "
                "need the same"
            )
        processes.most(0)
        options, start, epochs_done = processes.broadcast((options, None, 0))
        on_start(options, dataset)
        seen, _ = _seen(dataset, options)
        trainer = Trainer(options.recipe, seen, device, options.seed, start)
        trainer.join(processes)
        for epoch in range(epochs_done, options.recipe.epochs):
            if _take_steps(trainer, epoch, interrupted, processes, lambda _: on_step(trainer)):
                return None
            trainer.epoch_losses.zero_()
            processes.most(0)
        return []


def _seen(dataset: Dataset, options: RunOptions) -> tuple[Dataset, Dataset]:
    """The images to train on, and those to compare with."""
    seen, held = split_validation(dataset)
    return (seen if options.holdout else dataset), held


def _refuse_batches(recipe: Recipe, images: int, processes: int) -> None:
    """Refuse batches that can't be had of so many images, or of which some process would have none.

    Raises:
        DatasetError
    """
    least, whose = max(2, processes), "" if processes == 1 else f", one or more for each of {processes} processes"
    if not least <= recipe.batch_size <= images:
        raise DatasetError(
            f"a batch takes {least} to {images:,} of these {images:,} images{whose}, not {recipe.batch_size}; give "
            "--batch-size"
        )
    last = images % recipe.batch_size
    if not recipe.drop_last and 0 < last < processes:
        raise DatasetError(
            f"the last batch would be {last} of {images:,} images, too few for {processes} processes; give another "
            "--batch-size, or --drop-last"
        )
    if not recipe.drop_last and recipe.network == "reference" and last == 1:
        raise DatasetError(
            f"the last batch would be one image of {images:,}, which BatchNorm can't normalise; give another "
            "--batch-size, or --drop-last"
        )


def load_start(path: Path) -> Generator:
    """The generator of a checkpoint, to go on training from.

    Raises:
        CheckpointError: the file holds none whose layers are known.
    """
    checkpoint = load_generator(path)
    if checkpoint.chain is None:
        raise CheckpointError(f"{path} is a module whose layers are not known; --init takes a chain of known layers")
    return checkpoint.chain


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
    state: _Progress,
    events: TensorBoard | None,
    progress: Progress,
    on_step: Callable[[Trainer], None],
    on_epoch: Callable[[dict[str, Any]], None],
    interrupted: Callable[[], bool],
    processes: Processes,
) -> list[dict[str, Any]] | None:
    fixed = torch.Generator().manual_seed(options.seed)
    z = torch.randn(_ACTIVITY_COUNT, trainer.spec.latent_dim, generator=fixed).to(trainer.device)
    real = torch.arange(min(_ACTIVITY_COUNT, len(trainer.images)), device=trainer.images.device)
    rows, columns = _SAMPLE_SIDE, _SAMPLE_SIDE
    if trainer.spec.num_classes:  # a column for each class, as far as they fit
        rows, columns = _SAMPLE_ROWS, min(trainer.spec.num_classes, _SAMPLE_COLUMNS)
    label = torch.arange(_ACTIVITY_COUNT, device=trainer.device) % columns if trainer.spec.num_classes else None
    samples = rows * columns

    def save() -> None:
        facts = {"steps_done": trainer.steps_done, **asdict(state)}
        save_training_state(run / CHECKPOINT, trainer.tensors(), facts, trainer.spec, options.provenance)

    def after_step(is_last: bool) -> None:
        if is_last or trainer.steps_done % _FINITE_CHECK_EVERY == 0:
            _check_finite(trainer, run)
        on_step(trainer)

    for epoch in range(len(state.rows), options.recipe.epochs):
        started = time.perf_counter() - state.epoch_seconds
        if _take_steps(trainer, epoch, interrupted, processes, after_step):
            state.epoch_seconds = time.perf_counter() - started
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
            "images_per_second": round(trainer.steps_per_epoch * options.recipe.batch_size / seconds, 1),
            "processes": processes.count,
            "activity": {
                name: [asdict(layer) for layer in measure_activity(network, batches)]
                for name, network, batches in (
                    ("generator", trainer.average, in_batches(z, label)),
                    ("discriminator", trainer.discriminator, (trainer.batch(rows) for (rows,) in in_batches(real))),
                )
            },
        }
        if judge is not None and (trainer.epoch % options.eval_every == 0 or trainer.epoch == options.recipe.epochs):
            progress("measuring", 0, 1)
            row["frechet_distance"] = judge.frechet_distance(trainer.average)
            if row["frechet_distance"] < min(
                (before["frechet_distance"] for before in state.rows if "frechet_distance" in before),
                default=math.inf,
            ):
                save_generator(run / BEST, trainer.average.state_dict(), trainer.spec, options.provenance)
        state.rows.append(row)
        state.epoch_seconds = 0.0
        picture = run / SAMPLES / f"epoch-{trainer.epoch:03d}.png"
        write_sample_grid(picture, trainer.average, columns, z[:samples], None if label is None else label[:samples])
        if events is not None:
            events.write(row, picture)
        write_metrics(run / METRICS, state.rows)
        # The checkpoint comes last: a run killed before it repeats the epoch and writes the same files again.
        trainer.epoch_losses.zero_()
        save()
        on_epoch(row)
        processes.most(0)

    write_metrics(run / METRICS, state.rows)
    plot_losses(run / LOSSES, state.rows, f"{options.recipe.name} on {options.title}")
    save_generator(run / GENERATOR, trainer.average.state_dict(), trainer.spec, options.provenance)
    return state.rows


def _take_steps(
    trainer: Trainer,
    epoch: int,
    interrupted: Callable[[], bool],
    processes: Processes,
    after_step: Callable[[bool], None],
) -> bool:
    """Take the steps that are left of an epoch, this process's share of each.

    Args:
        trainer: that takes them.
        epoch: which; none are left where the run was interrupted after its last step.
        interrupted: asked after every step, in every process.
        processes: that take them together.
        after_step: told whether it was the last one.
    Returns:
        Whether one of the processes was interrupted.
    """
    order, batch_size = trainer.order(epoch), trainer.recipe.batch_size
    for index in range(trainer.steps_done - epoch * trainer.steps_per_epoch, trainer.steps_per_epoch):
        indices = order[index * batch_size : (index + 1) * batch_size]
        trainer.step(*trainer.batch(indices[processes.share(len(indices))]), total=len(indices))
        stop = processes.any_in_step(interrupted())
        after_step(stop or index + 1 == trainer.steps_per_epoch)
        if stop:
            return True
    return False


def in_batches(*inputs: Tensor | None) -> list[tuple[Tensor, ...]]:
    """The inputs that there are, 128 rows at a time."""
    return list(zip(*(torch.split(each, 128) for each in inputs if each is not None), strict=True))


class _Judge:
    """Measures how far a generator's images are from real ones.

    Args:
        dataset: all training images, with labels: their evaluator is found, or made.
        held: images to compare with.
        threads: of the CPU.
        say: told what takes long.
        progress: of the training of an evaluator.
    Raises:
        EvaluationError: there are no labels, or too few images.
    """

    def __init__(
        self,
        dataset: Dataset,
        held: Dataset,
        threads: int,
        say: Callable[[str], None] = lambda _: None,
        progress: Progress = silent,
    ) -> None:
        if dataset.labels is None:
            raise EvaluationError(
                f"--eval-every judges by an evaluator, which learns from labels, and {dataset.name} has none; leave "
                "it out, and compare checkpoints with dcgan-eval --features or --two-sample"
            )
        if len(held.images) < 2:
            raise EvaluationError("--eval-every needs more images than these; leave it out for this data set")
        self._threads = threads
        self._evaluator = evaluator_for(dataset, threads=threads, say=say, progress=progress)
        self._asked = labels_like(held, FID_COUNT, 0)
        self._held = self._evaluator.judge(held.images).features

    def frechet_distance(self, generator: Generator) -> float:
        """Of `FID_COUNT` images, in eval mode, to the held ones; the generator's mode is put back."""
        training = generator.training
        source = Images("the generator", generator.spec, generator_run(generator.eval(), self._threads))
        images, _ = source(FID_COUNT, 0, self._asked)
        generator.train(training)
        return round(frechet_distance(self._evaluator.judge(images).features, self._held), 4)


def _refuse_taken(run: Path) -> None:
    if run.exists() and (not run.is_dir() or not is_empty(run)):
        resume = f"go on with --resume {run}, or " if (run / OPTIONS).exists() else ""
        raise RunError(f"{run} already exists; {resume}choose another --out")
    there = next(path for path in run.absolute().parents if path.exists())
    if not there.is_dir() or not os.access(there, os.W_OK):
        raise RunError(
            f"can't make the folder {run}: {there} is no folder that can be written to; choose another --out"
        )


def _write_options(run: Path, options: RunOptions, images_sha256: str, count: int) -> None:
    content = {
        "options": options.to_dict(),
        "images": count,
        "images_sha256": images_sha256,
        "versions": {"dcgan-toolkit": __version__, "torch": torch.__version__},
    }
    with replacing(run / OPTIONS) as temporary:
        temporary.write_text(json.dumps(content, indent=2) + "\n")
    (run / SAMPLES).mkdir(exist_ok=True)


def _restore(run: Path, trainer: Trainer, images_sha256: str) -> _Progress:
    """Put the trainer where the run's checkpoint left it."""
    try:
        if not (run / CHECKPOINT).exists():
            if (run / GENERATOR).exists():
                raise RunError(f"{run} is finished, and its {CHECKPOINT} is gone; start a new run")
            if (run / METRICS).exists() and len((run / METRICS).read_text().splitlines()) > 1:  # one: killed before it
                raise RunError(f"{run} has no {CHECKPOINT} any more, so its epochs are lost; start a new run")
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
