"""The command dcgan-train: options in, one call of `run.train`, and what it says on the way."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import os
import shlex
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dcgan_infer import __version__, signals
from dcgan_infer.commands import Command, FiniteFloat, parse_activation
from dcgan_infer.contract.errors import RunError, SpecError
from dcgan_infer.contract.layers import ACTIVATIONS, doublings, nearest_sizes
from dcgan_infer.extras import require

from .console import Console, processes_of
from .data import IMAGES
from .data_options import data_options, with_own_images
from .datasets import DATASETS
from .parallel import Place, ProcessLostError, joined
from .recipes import CHOICES, DEFAULT_RECIPE, IMAGES_RECIPE, RECIPES, SHOWN, Recipe
from .run_options import OPTIONS, RunOptions, longer, new_run_folder, read_options

if TYPE_CHECKING:
    from .data import Dataset
    from .parallel import Processes
    from .trainer import Trainer

_OF_THE_GENERATOR = {"network", "latent_dim", "ngf", "g_activation"}  # what --init brings
_ACTIVATION_HELP = f"{', '.join(ACTIVATIONS)}; with its slope, alpha or beta as in leaky-relu:0.2"


def _recipes_help() -> str:
    """The recipes side by side, a field a line; the columns are as wide as their longest entry."""
    fields = [recipe.to_dict() for recipe in RECIPES.values()]
    table = [("", *RECIPES), *((name, *(str(each[name]) for each in fields)) for name in fields[0] if name != "name")]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    rows = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in table)
    return "\b\nRecipes:\n" + "\n".join(f"  {row}" for row in rows)


class _EachOnce(Command):
    """A command that several processes may run at once: what all would say alike, one of them says.

    The first one alone writes to stdout. An error before they have met, which all on a host have alike, is told by the
    host's first process. What goes wrong in one of them later, it says itself, with its number.
    """

    def main(self, *args: Any, **extra: Any) -> Any:
        with contextlib.ExitStack() as stack:
            with contextlib.suppress(RunError):  # `invoke` comes to it too
                if Place.from_environment().rank:
                    stack.enter_context(contextlib.redirect_stdout(io.StringIO()))
                    stack.enter_context(signals.told(lambda _: ""))
            return super().main(*args, **extra)

    def make_context(self, *args: Any, **extra: Any) -> click.Context:
        with self._said_once(None):
            return super().make_context(*args, **extra)

    def invoke(self, ctx: click.Context) -> Any:
        with self._said_once(ctx):
            return super().invoke(ctx)

    @contextlib.contextmanager
    def _said_once(self, ctx: click.Context | None) -> Iterator[None]:
        try:
            yield
        except click.ClickException as error:
            with contextlib.suppress(RunError):
                place = Place.from_environment()
                if place.local_rank and (ctx is None or ctx.obj is None):
                    raise SystemExit(error.exit_code) from error
                if place.rank:
                    kind = click.UsageError if isinstance(error, click.UsageError) else click.ClickException
                    raise kind(f"{place}: {error.format_message()}") from error
            raise


@click.command(
    cls=_EachOnce,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    sections={
        "Images": ("images", "dataset", "data_dir", "size", "channels", "holdout"),
        "The run": ("out", "resume", "init", "seed", "epochs", "eval_every", "tensorboard", "verbose", "dry_run"),
        "Hardware": ("device", "threads", "precision", "channels_last", "fused_adam"),
        "The recipe": ("recipe", "batch_size", "lr", "g_lr", "d_lr", "lr_schedule", "beta1", "beta2", "ema_decay"),
        "The networks": (
            "conditional",
            "labels",
            "network",
            "latent_dim",
            "ngf",
            "ndf",
            "discriminator",
            "g_activation",
            "d_activation",
            "dropout",
            "initial_weights",
            "positive_gamma",
            "class_lr_factor",
            "loss",
            "augment",
            "drop_last",
        ),
    },
    epilog=_recipes_help(),
)
@click.option(
    "-o",
    "--out",
    type=click.Path(path_type=Path),
    metavar="RUN",
    help="Run folder to make.  [default: runs/NNN-DATASET-RECIPE]",
)
@click.option(
    "--resume",
    type=click.Path(path_type=Path),
    metavar="RUN",
    help="Go on with a run, to the same bits as if it had not stopped.",
)
@click.option(
    "--init",
    type=click.Path(path_type=Path),
    metavar="CHECKPOINT",
    help="Start from this generator, a run's or anybody's: fine-tuning, at the recipe's full learning rate.",
)
@data_options(
    images="Train on your own images; subfolders are classes.",
    dataset=f"Training images by name: {', '.join(DATASETS)}.  [default: mnist]",
    sizes=click.IntRange(8, 256),
    size="Side of the images: 4 to 7 times a power of two.  [default: 64 of your own, else the data set's]",
)
@click.option(
    "--recipe",
    type=click.Choice(list(RECIPES)),
    help="Where the choices below start from.  "
    f"[default: {DEFAULT_RECIPE} for MNIST and its kin, else {IMAGES_RECIPE}]",
)
@click.option("--seed", type=click.IntRange(0, 2**31 - 1), help="Of weights, latents, dropout and order.  [default: 0]")
@click.option("--device", metavar="DEVICE", help="cpu, cuda, cuda:NUMBER or mps.  [default: auto]")
@click.option(
    "--threads",
    type=click.IntRange(1, 256),
    help="CPU threads of each process; another number gives other bits.  [default: all cores, shared by the processes]",
)
@click.option(
    "--eval-every",
    type=click.IntRange(1),
    metavar="N",
    help="Measure the Frechet distance every N epochs, and keep the best generator in RUN/best.safetensors.",
)
@click.option("--holdout/--no-holdout", default=None, help="Keep the last 10,000 images out of training, to choose by.")
@click.option("--tensorboard/--no-tensorboard", default=None, help="Write losses and samples for TensorBoard too.")
@click.option("--conditional", is_flag=True, help="A generator that can be asked for a class: --labels asked.")
@click.option(
    "--labels",
    type=click.Choice(CHOICES["labels"]),
    help="What D judges by beside the image: nothing; the class that a latent's largest number names; "
    "the class that G is asked for. auto: latent, where there are classes.",
)
@click.option(
    "--network",
    type=click.Choice(CHOICES["network"]),
    help="The generator: the reference script's, or PyTorch's DCGAN example's; auto: by the images' shape.",
)
@click.option("--latent-dim", type=click.IntRange(1, 4096), help="Length of a latent.")
@click.option("--ngf", type=click.IntRange(1, 1024), help="Feature maps before G's last layer.")
@click.option("--ndf", type=click.IntRange(1, 1024), help="Feature maps of D's first layer.")
@click.option(
    "--initial-weights", type=click.Choice(CHOICES["initial_weights"]), help="torch's defaults, or normal, 0.02."
)
@click.option(
    "--positive-gamma/--any-gamma",
    default=None,
    help="Keep the factors of G's BatchNorms at 0 or above, if it starts so: int8 is faster.",
)
@click.option(
    "--class-lr-factor",
    type=FiniteFloat(0, 100, min_open=True),
    help="Times the learning rate, for G's first weights of what says the class.",
)
@click.option("--augment", type=click.Choice(CHOICES["augment"]), help="Random changes of what D sees, for few images.")
@click.option("--epochs", type=click.IntRange(0), help=f"Passes over the images; 0: as many as show {SHOWN:,} images.")
@click.option("--drop-last/--keep-last", default=None, help="Leave out an epoch's last, smaller batch, or use it.")
@click.option("--batch-size", type=click.IntRange(2), help="Images in a step, of all processes.")
@click.option("--lr", type=FiniteFloat(0, min_open=True), help="Adam's learning rate for both networks.")
@click.option("--g-lr", type=FiniteFloat(0, min_open=True), help="... for the generator.")
@click.option("--d-lr", type=FiniteFloat(0, min_open=True), help="... for the discriminator.")
@click.option("--beta1", type=FiniteFloat(0, 1, max_open=True), help="Adam's first decay.")
@click.option("--beta2", type=FiniteFloat(0, 1, max_open=True), help="Adam's second decay.")
@click.option("--fused-adam/--plain-adam", default=None, help="One kernel for Adam's step, or the plain loop.")
@click.option("--lr-schedule", type=click.Choice(CHOICES["lr_schedule"]), help="linear falls to 0 at the last step.")
@click.option("--loss", type=click.Choice(CHOICES["loss"]), help="Adversarial loss.")
@click.option(
    "--discriminator",
    type=click.Choice(CHOICES["discriminator"]),
    help="The reference script's; the DCGAN example's; with spectral norm; heads on a classifier's features; "
    "on features and pixels; on features and textures.",
)
@click.option(
    "--g-activation",
    callback=parse_activation,
    metavar="NAME[:NUMBER]",
    help=f"Of G's hidden layers: {_ACTIVATION_HELP}.",
)
@click.option(
    "--d-activation", callback=parse_activation, metavar="NAME[:NUMBER]", help="Of D's hidden layers, likewise."
)
@click.option("--dropout", type=FiniteFloat(0, 1, max_open=True), help="Share of D's feature maps dropped.")
@click.option(
    "--ema-decay",
    type=FiniteFloat(0, 1, max_open=True),
    help="Of G's moving average, which is what is published; 0: none.",
)
@click.option(
    "--precision", type=click.Choice(CHOICES["precision"]), help="auto: bf16 where the processor computes in it."
)
@click.option(
    "--channels-last/--channels-first", default=None, help="Memory order of weights and maps: NHWC is faster here."
)
@click.option("-v", "--verbose", is_flag=True, help="Print the share of active and dead units, layer by layer.")
@click.option("--dry-run", is_flag=True, help="Print the resolved options as JSON and stop.")
@click.version_option(__version__, package_name="dcgan-toolkit")
def main(
    out: Path | None,
    resume: Path | None,
    images: Path | None,
    init: Path | None,
    dry_run: bool,
    verbose: bool,
    conditional: bool,
    recipe: str | None,
    lr: float | None,
    **given: Any,
) -> None:
    """Train a DCGAN: RUN/generator.safetensors is the result, ready for dcgan-export.

    \b
    Examples:
      dcgan-train                                   download MNIST into data/ and train
      dcgan-train --images ~/icons                  on your own images, in colour or grey
      dcgan-train --images ~/icons --conditional    a generator that can be asked for a class
      dcgan-train --data-dir ~/mnist                on IDX files that are there already
      dcgan-train --dataset sample --epochs 5       10,000 images, no files, no network
      dcgan-train --recipe baseline                 the reference script's recipe, to the letter
      dcgan-train --eval-every 5 --holdout          Frechet distance to images that it never saw
      dcgan-train --resume runs/000-mnist-fast      after Ctrl-C, a crash or a power cut
      torchrun --nproc-per-node 8 -m dcgan          on eight GPUs: docs/distributed.md

    Each of the recipe's choices has an option of its own.
    """
    if given["device"] == "mps":
        os.environ.setdefault(
            "PYTORCH_ENABLE_MPS_FALLBACK", "1"
        )  # read when torch is imported; it says what falls back
    if Place.from_environment().count > 1:  # what it logs of lost connections fills a screen; we say it in a line
        os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    require("dcgan.run", "train")
    given = with_own_images(images, {name: value for name, value in given.items() if value is not None})
    if "size" in given:
        try:
            doublings(given["size"])
        except SpecError as error:
            raise click.BadParameter(
                f"{error}; the nearest are {nearest_sizes(given['size'])}", param_hint="'--size'"
            ) from error
    if conditional and given.setdefault("labels", "asked") != "asked":
        raise click.UsageError(f"--conditional contradicts --labels {given['labels']}; leave one of them out")
    if lr is not None:
        given = {"g_lr": lr, "d_lr": lr} | given
    if resume is not None and (out is not None or init is not None):
        raise click.UsageError("--resume continues the run in its own folder; leave out --out and --init")
    if init is not None:
        given["init"] = str(init.absolute())
    if init is not None and (replaced := given.keys() & _OF_THE_GENERATOR):
        option = "--" + min(replaced).replace("_", "-")
        raise click.UsageError(f"--init brings a generator of its own; leave out {option}")
    place = Place.from_environment()
    interrupts: _Interrupts | None = None

    def while_parting(_number: int) -> str | None:
        """Torchrun sends SIGTERM as soon as a process has died: who is to say so says it first."""
        return None if interrupts and interrupts.stepping else "" if place.rank else "stopped"

    parting = signals.told(while_parting) if place.count > 1 else contextlib.nullcontext()
    try:
        with parting, joined(place) as processes:
            click.get_current_context().obj = processes
            chosen: Any = None
            if processes.leads:
                folder = None
                if resume is None:
                    options, note = _started(recipe, given, place), ""
                else:
                    options, note = _resumed(resume, recipe, given, place)
                if not dry_run:
                    folder = resume or out or new_run_folder(Path("runs"), f"{options.title}-{options.recipe.name}")
                chosen = options, folder, note
            options, folder, note = processes.broadcast(chosen)
            if "data_dir" in given:  # a host's own
                options = dataclasses.replace(options, data_dir=str(given["data_dir"].absolute()))
            if folder is None:
                click.echo(json.dumps(options.to_dict(), indent=2))
                return
            interrupts = _Interrupts(folder, place.rank == 0 and not (resume or out), place)
            rows, received = _trained(
                options, folder, note, processes, interrupts, resume=resume is not None, verbose=verbose
            )
    except ProcessLostError as error:
        if not str(error):
            raise SystemExit(1) from error
        again = f"; resume with: {_resume(interrupts.folder, place)}" if interrupts and interrupts.can_resume() else ""
        raise RunError(f"{error}{again}") from error
    if rows is None:
        if place.rank == 0:
            with contextlib.suppress(OSError):  # a terminal, or whoever read what we say, may have gone with the signal
                click.echo(f"stopped and saved; resume with: {_resume(interrupts.folder, place)}", err=True)
        click.get_current_context().exit(128 + received)


def _trained(
    options: RunOptions,
    folder: Path,
    note: str,
    processes: Processes,
    interrupts: _Interrupts,
    *,
    resume: bool,
    verbose: bool,
) -> tuple[list[dict[str, Any]] | None, int]:
    """What `run.train` returns, and the number of the signal that a process got, or 0."""
    from . import run

    with contextlib.ExitStack() as stack:
        if interrupts.is_new:
            stack.callback(_remove_if_empty, folder)
        stack.enter_context(signals.told(interrupts.notice))
        console = stack.enter_context(Console(folder, verbose))
        if note:
            console.say(note)

        def start(settled: RunOptions, dataset: Dataset) -> None:
            interrupts.started = True
            if processes.leads:
                console.start(settled, dataset)

        def after_step(trainer: Trainer) -> None:
            interrupts.stepping = True
            if processes.leads:
                console.step(trainer)

        rows = run.train(
            folder,
            options,
            resume=resume,
            progress=console.progress,
            say=console.say,
            on_start=start,
            on_step=after_step,
            on_epoch=console.epoch,
            interrupted=lambda: interrupts.received > 0,
            processes=processes,
        )
        received = processes.most(interrupts.received)  # the others wait here until the first one has saved
    if rows:
        console.summary(rows)
    return rows, received


def _started(recipe: str | None, given: dict[str, Any], place: Place) -> RunOptions:
    """Options of a new run."""
    from .run import resolved

    dataset = given.get("dataset", "mnist")
    of_28 = dataset in DATASETS and DATASETS[dataset].size == given.get("size", 28) == 28
    is_like_mnist = of_28 and given.get("channels") != "colour"  # all sets of 28x28 are grey, and in classes
    name = recipe or (DEFAULT_RECIPE if is_like_mnist else IMAGES_RECIPE)
    defaults = RunOptions(RECIPES[name], "mnist", str(Path("data").absolute()), 0, "auto", 0)
    options = resolved(_merge(defaults, given), place)
    contradiction = options.recipe.contradiction()
    if contradiction:
        raise click.UsageError(contradiction)
    return options


def _resumed(folder: Path, recipe: str | None, given: dict[str, Any], place: Place) -> tuple[RunOptions, str]:
    """Options of a run that goes on, and a line about it."""
    from .run import resolved

    stored, note = read_options(folder), ""
    epochs = given.pop("epochs", 0) or stored.recipe.epochs
    if stored.processes != place.count:
        note = (
            f"resumed with {processes_of(place.count)}, begun with {stored.processes}: the same batches, but other "
            "rounding, dropout and augmentation"
        )
        # What several processes can't share; one that goes on alone has it again by asking for it.
        shared = {"cuda": "cuda", "mps": "auto"}.get(stored.device.partition(":")[0], stored.device)
        device, threads = given.pop("device", shared), given.pop("threads", 0)
        stored = resolved(dataclasses.replace(stored, device=device, threads=threads), place)
    wanted = _merge(stored, given)
    _refuse_contradictions(stored, wanted, recipe, given)
    return longer(dataclasses.replace(stored, data_dir=wanted.data_dir), epochs), note


def _remove_if_empty(run: Path) -> None:
    for folder in (run, run.parent):
        with contextlib.suppress(OSError):  # it holds something
            folder.rmdir()


def _resume(folder: Path, place: Place) -> str:
    """The command that resumes a run."""
    resume = f"--resume {shlex.quote(str(folder))}"
    if place.count == 1:
        return f"dcgan-train {resume}"
    is_one_host = place.local_count == place.count
    return f"torchrun {f'--nproc-per-node {place.count}' if is_one_host else '...'} -m dcgan {resume}"


def _merge(options: RunOptions, given: dict[str, Any]) -> RunOptions:
    """Options with the given ones in their place, those of the recipe inside the recipe."""
    fields = {field.name for field in dataclasses.fields(Recipe)}
    changed = {name: value for name, value in given.items() if name not in fields}
    if "data_dir" in changed:
        changed["data_dir"] = str(changed["data_dir"].absolute())
    recipe = dataclasses.replace(options.recipe, **{name: value for name, value in given.items() if name in fields})
    return dataclasses.replace(options, recipe=recipe, **changed)


def _refuse_contradictions(stored: RunOptions, options: RunOptions, recipe: str | None, given: dict[str, Any]) -> None:
    """A resumed run keeps its options; only its data may have moved."""
    if recipe is not None and recipe != stored.recipe.name:
        raise click.UsageError(f"the run was started with recipe {stored.recipe.name}, not {recipe}; leave it out")
    before, now = ({**o.to_dict(), **o.recipe.to_dict()} for o in (stored, options))
    for name in sorted(given.keys() - {"data_dir"}):
        if now[name] not in ("auto", before[name]):  # auto was settled when the run started
            then, given_now = (_as_typed(name, each[name]) for each in (before, now))
            raise click.UsageError(f"the run was started with {then}, not with {given_now}; leave it out")


def _as_typed(name: str, value: Any) -> str:
    """A choice as the command line has it: an option and its value, or one of several flags."""
    if (name, value) == ("dataset", IMAGES):
        return "--images"
    options = [each for each in main.params if isinstance(each, click.Option) and each.name == name]
    for option in options:
        if not option.is_flag:
            return f"{option.opts[0]} {value}" if value is not None else f"no {option.opts[0]}"
        if option.secondary_opts:
            return (option.opts if value else option.secondary_opts)[0]
        if value == option.flag_value:
            return option.opts[0]
    return f"neither {' nor '.join(option.opts[0] for option in options)}"


class _Interrupts:
    """Signals while a run is trained: the first one saves it after the step that is at work, the second one ends it.

    Several processes save it together, and none ends before: torchrun passes signals on, to some of them again, sends
    SIGTERM where one has died, and kills all that have not ended after 30 seconds.

    Attributes:
        folder: of the run.
        is_new: whether this command made it, and removes it where nothing came of it.
        started: whether `run.train` has called `on_start`.
        stepping: whether a step was taken, so that there is something to save; before, the first one ends the command.
        received: number of the first one, or 0.
    """

    def __init__(self, folder: Path, is_new: bool, place: Place) -> None:
        self.folder = folder
        self.is_new = is_new
        self.started = self.stepping = False
        self.received = 0
        self._place = place

    def can_resume(self) -> bool:
        """Whether the run folder is one already; other processes than the first one may not see it."""
        return (self.folder / OPTIONS).exists() if self._place.rank == 0 else self.started

    def notice(self, number: int) -> str | None:
        if self.stepping and (self._place.count > 1 or not self.received):
            if self._place.count == 1:
                signals.say("stopping after this step, and saving; Ctrl-C again quits without")
            elif self._place.rank == 0 and not self.received and number == signal.SIGINT:
                # Not on SIGTERM: torchrun sends it also where a process has died, and then nothing is saved.
                signals.say("stopping after this step, and saving")
            self.received = self.received or number
            return None
        if self.is_new:
            _remove_if_empty(self.folder)
        if self._place.rank:
            return ""
        again = f", start again with: {_resume(self.folder, self._place)}" if self.can_resume() else ""
        return f"stopped; what was not saved yet is lost{again}"
