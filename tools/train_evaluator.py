"""Train an evaluator of MNIST's digits like the frozen one: python tools/train_evaluator.py DATA_DIR

The recipe is dcgan/metrics/make_evaluator.py's, for twelve epochs of the first 50,000 training images; nothing is
chosen by the test error, which is printed once, at the end. The evaluator that ships was trained by an earlier form of
it, in bf16. Every figure in docs/quality.md depends on those weights, so they are not to be replaced lightly.
"""

from __future__ import annotations

from pathlib import Path

import click
import torch

from dcgan.data import split_validation
from dcgan.loading import load_dataset
from dcgan.metrics import make_evaluator
from dcgan.metrics.evaluator import STATEMENT_KEY, Statement, training_key
from dcgan_infer.contract.files import sha256_of


@click.command()
@click.argument("data_dir", type=click.Path(path_type=Path))
@click.option("--seed", default=0, show_default=True, type=int)
@click.option("--threads", default=0, show_default="all cores", type=int)
@click.option("-o", "--out", default="evaluator.onnx", show_default=True, type=click.Path(path_type=Path))
def main(data_dir: Path, seed: int, threads: int, out: Path) -> None:
    """Train, print the accuracies, write the ONNX file."""
    if threads:
        torch.set_num_threads(threads)
    train, held = split_validation(load_dataset("mnist", data_dir))
    make_evaluator.MOST_STEPS = make_evaluator.EPOCHS * len(train)  # all epochs, however many steps they are

    def progress(what: str, done: int, of: int) -> None:
        if done % 100 == 0:
            click.echo(f"{what}: {done} of {of}", err=True)

    network, validation = make_evaluator.trained(train, held, seed, progress)
    test = make_evaluator.accuracy_of(network, load_dataset("mnist", data_dir, "test"))
    key = training_key(train, seed)
    statement = Statement(train.image_shape, train.class_names, train.name, round(validation, 4), key)
    make_evaluator.write(network, out, {STATEMENT_KEY: statement.to_json()}, train.images.shape[1:])
    click.echo(f"{out}: validation {validation:.2%}, test {test:.2%}, sha256 {sha256_of(out)}")


if __name__ == "__main__":
    main()
