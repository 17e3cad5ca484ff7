"""Write the first 10,000 MNIST training images and labels as `dcgan/sample/`: python tools/make_sample.py DATA_DIR."""

import gzip
import struct
from pathlib import Path

import click

from dcgan.loading import load_dataset

COUNT = 10_000
FOLDER = Path(__file__).resolve().parent.parent / "dcgan" / "sample"


@click.command()
@click.argument("data_dir", type=click.Path(path_type=Path))
def main(data_dir: Path) -> None:
    """Take the sample from the whole of MNIST in DATA_DIR."""
    dataset = load_dataset("mnist", data_dir)
    assert dataset.labels is not None
    for name, array in (("train-images-idx3-ubyte", dataset.images), ("train-labels-idx1-ubyte", dataset.labels)):
        head = array[:COUNT]
        content = bytes((0, 0, 8, head.ndim)) + struct.pack(f">{head.ndim}I", *head.shape) + head.tobytes()
        # No time stamp and no name in the header: the same images give the same file.
        (FOLDER / f"{name}.gz").write_bytes(gzip.compress(content, compresslevel=9, mtime=0))


if __name__ == "__main__":
    main()
