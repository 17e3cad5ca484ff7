"""What a run is started with, as its folder keeps it in options.json."""

from __future__ import annotations

import itertools
import json
import re
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from dcgan_infer.contract.errors import OutputError, RunError, first_line
from dcgan_infer.contract.files import make_folder

from .data import IMAGES, Channels
from .loading import RealImages
from .recipes import Recipe

OPTIONS = "options.json"


@dataclass(frozen=True)
class RunOptions:
    """What a run is started with.

    Attributes:
        recipe: how to train.
        dataset: a key of `data.DATASETS`, or `data.IMAGES`.
        data_dir: where its files are; the folder or archive of `data.IMAGES`.
        seed: of everything random.
        device: as `trainer.resolve_device` takes it.
        threads: of torch on the CPU, in each process; 0 leaves torch's own choice. Another number gives other bits.
        eval_every: epochs between two measurements of the Frechet distance; 0 for none.
        holdout: whether the last 10,000 images (of a smaller set the last half) are kept out of training.
        size: side of the images, in pixels; None is the data set's own.
        channels: `grey`, `colour`, or `auto`: as the images are.
        background: colour that transparent images are laid on.
        init: path of a generator to start from; empty for a new one.
        tensorboard: whether to write events for TensorBoard.
        processes: that share each batch. Another number gives other bits, and other dropout and augmentation.
    """

    recipe: Recipe
    dataset: str
    data_dir: str
    seed: int
    device: str
    threads: int
    eval_every: int = 0
    holdout: bool = False
    size: int | None = None
    channels: Channels = "auto"
    background: str = "white"
    init: str = ""
    tensorboard: bool = False
    processes: int = 1

    def to_dict(self) -> dict[str, Any]:
        """Fields as JSON-able values."""
        return {**asdict(self), "recipe": self.recipe.to_dict()}

    @property
    def real_images(self) -> RealImages:
        """The images to train on."""
        return RealImages(self.dataset, Path(self.data_dir), self.size, self.channels, self.background)

    @property
    def title(self) -> str:
        """What the images are called."""
        return self.real_images.title

    @property
    def provenance(self) -> str:
        """What checkpoints say of their training, and artifacts after them: JSON of the recipe and the data set."""
        folder = {"folder": self.title} if self.dataset == IMAGES else {}  # which may be called as a data set is
        return json.dumps({"dataset": self.dataset, **folder, **self.recipe.to_dict()})


def new_run_folder(parent: Path, label: str) -> Path:
    """Make the first unused `parent/NNN-label`: from then on it is this run's, whoever else starts one.

    Raises:
        OutputError: it can't be made.
    """
    make_folder(parent, parents=True)
    taken = [int(match[1]) for path in parent.glob("*") if (match := re.match(r"(\d{3,})-", path.name))]
    for number in itertools.count(max(taken, default=-1) + 1):
        folder = parent / f"{number:03d}-{label}"
        try:
            folder.mkdir()
            return folder
        except FileExistsError:
            continue
        except OSError as error:
            raise OutputError(f"can't make the folder {folder}: {first_line(error).lower()}; give --out") from error
    raise AssertionError  # of an endless loop


def read_options(run: Path) -> RunOptions:
    """Options that a run was started with.

    Raises:
        RunError: `run` is no run folder.
    """
    try:
        fields = json.loads((run / OPTIONS).read_text())["options"]
        options = RunOptions(**{**fields, "recipe": Recipe.from_dict(fields["recipe"])})
        for name, example in vars(RunOptions(options.recipe, "", "", 0, "", 0, size=0)).items():
            value = getattr(options, name)
            if not isinstance(value, type(example)) and (name, value) != ("size", None):
                raise TypeError(f"{name} is {value!r}")
        if options.processes < 1:
            raise ValueError(f"processes is {options.processes}")
        return options
    except OSError as error:
        raise RunError(
            f"{run} is no run folder: it has no {OPTIONS}; start a new run with dcgan-train --out"
        ) from error
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise RunError(f"{run / OPTIONS} is damaged or of another version ({error}); start a new run") from error


def images_sha256_of(run: Path) -> str:
    """SHA-256 of the bytes of all images that a run was started with.

    Raises:
        RunError: the run does not say.
    """
    try:
        return str(json.loads((run / OPTIONS).read_text())["images_sha256"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise RunError(f"{run / OPTIONS} is damaged or of another version ({error}); start a new run") from error


def longer(options: RunOptions, epochs: int) -> RunOptions:
    """A run's options with more epochs.

    With a constant learning rate a run that goes on is the run that had been started with so many epochs, to the bit.

    Raises:
        RunError: they are fewer, or the learning rate falls to 0 at the run's last epoch, so that there is no going on.
    """
    recipe = options.recipe
    if epochs < recipe.epochs:
        raise RunError(f"the run was started with {recipe.epochs} epochs, and can be made longer, not shorter")
    if epochs != recipe.epochs and recipe.lr_schedule != "constant":
        raise RunError(
            f"the learning rate of this run falls to 0 at epoch {recipe.epochs}, its last; to train its generator "
            "further, start a new run with --init RUN --epochs NUMBER"
        )
    return replace(options, recipe=replace(recipe, epochs=epochs))
