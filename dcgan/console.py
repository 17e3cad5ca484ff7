"""What dcgan-train says while it works."""

from __future__ import annotations

import shlex
import socket
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np

from .recipes import Recipe

if TYPE_CHECKING:
    from .data import Dataset
    from .run_options import RunOptions
    from .trainer import Trainer

_CLASSES_NAMED = 12


class Console:
    """A header, a progress bar where stderr is a terminal, and a line an epoch on stdout.

    Leaving the context clears the bar.

    Args:
        run: folder of the run.
        verbose: whether the summary has a table of units in any case.
    """

    def __init__(self, run: Path, verbose: bool) -> None:
        self._run = run
        self._verbose = verbose
        self._recipe: Recipe
        self._looked = 0.0
        self._steps: Any = None  # the bar of the steps
        self._phase: Any = None  # the bar of what is done beside them
        self._doing = ""

    def __enter__(self) -> Console:
        return self

    def __exit__(self, *_error: object) -> None:
        self._end_phase()
        if self._steps is not None:
            self._steps.close()

    def start(self, options: RunOptions, dataset: Dataset) -> None:
        """Say what will be trained on what, and where."""
        self._end_phase()
        self._recipe = recipe = options.recipe
        channels, height, width = dataset.image_shape
        classes = "none"
        if dataset.labels is not None:
            counts = np.bincount(dataset.labels, minlength=dataset.num_classes)
            named = [f"{name} {count:,}" for name, count in zip(dataset.class_names, counts, strict=True)]
            more = f" and {len(named) - _CLASSES_NAMED:,} more" if len(named) > _CLASSES_NAMED else ""
            classes = f"{len(named)}: {', '.join(named[:_CLASSES_NAMED])}{more}"
        threads = f", {options.threads} thread{'s' if options.threads > 1 else ''}" if options.device == "cpu" else ""
        if options.processes > 1:
            threads = f", {processes_of(options.processes)}{threads and threads + ' each'}"
        epochs = f"{recipe.epochs} epoch{'s' if recipe.epochs > 1 else ''}"
        judged = {"none": "", "latent": ", D judges by class", "asked": ", conditional"}[recipe.labels]
        network = f"of {options.init}" if options.init else f"{recipe.network}, ngf {recipe.ngf}"
        for name, value in (
            ("device", f"{options.device}{threads}, {recipe.precision}"),
            (
                "images",
                f"{options.title}: {len(dataset):,} of {width}x{height}, {'colour' if channels > 1 else 'grey'}",
            ),
            ("classes", classes),
            ("network", f"{network}, D {recipe.discriminator}, ndf {recipe.ndf}{judged}"),
            ("recipe", f"{recipe.name}, {epochs}, batch {recipe.batch_size}, augment {recipe.augment}"),
            ("run", str(self._run) + (f", on {socket.gethostname()}" if options.processes > 1 else "")),
        ):
            click.echo(f"{name:<9}{value}")
        for line in dataset.notes:
            click.echo(line)

    def progress(self, doing: str, done: int, total: int) -> None:
        """Show how far a phase beside the steps is."""
        if doing != self._doing:
            self._end_phase()
            self._doing = doing
            self._phase = _bar(total=total, unit=" ", desc=doing)
        self._phase.n = done
        self._phase.update(0)
        if done >= total:
            self._end_phase()

    def _end_phase(self) -> None:
        if self._phase is not None:
            self._phase.close()
        self._phase, self._doing = None, ""

    def step(self, trainer: Trainer) -> None:
        self._end_phase()
        batch = self._recipe.batch_size
        if self._steps is None:
            done = (trainer.steps_done - 1) * batch
            self._steps = _bar(total=trainer.total_steps * batch, initial=done, unit=" images", unit_scale=True)
        self._steps.update(batch)
        if not self._steps.disable and time.monotonic() - self._looked > 0.5:  # reading a loss waits for the device
            self._looked = time.monotonic()
            steps = (trainer.steps_done - 1) % trainer.steps_per_epoch + 1
            d_loss, g_loss = (trainer.epoch_losses / steps).tolist()
            epoch = (trainer.steps_done - 1) // trainer.steps_per_epoch + 1
            self._steps.set_description(f"epoch {epoch}", refresh=False)
            self._steps.set_postfix_str(f"G {g_loss:.3f}, D {d_loss:.3f}", refresh=False)

    def say(self, line: str) -> None:
        """A line of its own, between the bars."""
        self._end_phase()
        click.echo(line)

    def epoch(self, row: dict[str, Any]) -> None:
        self._end_phase()
        epochs = self._recipe.epochs
        line = (
            f"epoch {row['epoch']:{len(str(epochs))}}/{epochs}   G loss {row['g_loss']:.4f}   "
            f"D loss {row['d_loss']:.4f}   {row['images_per_second']:,.0f} images/s"
            f"{'   Frechet distance ' + format(row['frechet_distance'], '.2f') if 'frechet_distance' in row else ''}"
        )
        if self._steps is not None and not self._steps.disable:
            self._steps.write(line, file=sys.stdout)
        else:
            click.echo(line)

    def summary(self, rows: list[dict[str, Any]]) -> None:
        """Say where the results are; which units are dead, if some are or on request."""
        if self._steps is None:  # no step was taken
            click.echo("the run was finished already, there was nothing to do")
        layers = [
            (f"{network}.{layer['layer']}", layer["active"], layer["dead"])
            for network, measured in rows[-1]["activity"].items()
            for layer in measured
        ]
        if self._verbose or any(dead for _, _, dead in layers):
            click.echo(f"\nlayer                   active units   dead units   (after epoch {rows[-1]['epoch']})")
            for name, active, dead in layers:
                click.echo(f"{name:<24}{active:>10.1%}{dead:>13.1%}")
        seconds = sum(row["seconds"] for row in rows)
        took = f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.1f} min"
        generator, last = (
            self._run / "generator.safetensors",
            self._run / "samples" / f"epoch-{rows[-1]['epoch']:03d}.png",
        )
        click.echo(f"\nfinished in {took}: {generator}")
        click.echo(f"look at it:     {last}")
        name = self._run.resolve().name
        click.echo(f"export it with: dcgan-export {shlex.quote(str(self._run))} --out {shlex.quote(f'{name}.onnx')}")


def processes_of(count: int) -> str:
    """A number of processes, in words."""
    return f"{count} process{'es' if count > 1 else ''}"


def _bar(**options: Any) -> Any:
    from tqdm import tqdm

    return tqdm(dynamic_ncols=True, disable=not sys.stderr.isatty(), leave=False, **options)
