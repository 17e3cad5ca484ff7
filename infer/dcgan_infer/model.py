"""One ONNX generator: finding its file, opening it, and the one way that it is fed."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from . import runtime, shipped
from .contract.errors import LatentError, ModelError, first_line
from .contract.files import read_limited, sha256_of
from .contract.latents import asked_labels, latents
from .contract.spec import MULTIPLY_ADDS_KEY, SEEDS
from .onnx_outline import read_outline

BATCH_SIZE = 16  # on a CPU
_PIXELS_ON_A_GPU = 1 << 20  # of a batch there, in each channel

# That a model with a seed is asked for: it makes them in one call, which takes 2.4 GB for the shipped network.
MOST_OF_A_SEED = 10_000

MOST_BYTES = 1 << 31  # of an ONNX file, which is a message of protobuf: those end there

Feeds = dict[str, npt.NDArray[Any]]


class Model:
    """A generator that onnxruntime has opened, of either kind: one that takes latents, or one that takes a seed.

    Attributes:
        path: of the file.
        name: of the file, without suffix; of model.onnx, as the Hub and Triton call every model, that of its folder.
        size: of the file, in bytes.
        sha256: hexadecimal digest of the file.
        spec: that it carries, and that its inputs and outputs agree with.
        metadata: all the text that it carries.
        takes_seed: whether it makes its latents itself (dcgan-export --inputs seed).
        gives_uint8: whether it gives pictures, so that there are no floats to be had (dcgan-export --image uint8).
        provider: where it runs, such as `cpu` or `cuda`.
        note: with `auto`, why that is not CUDA; else empty.
    """

    def __init__(self, opened: runtime.Opened, path: Path, content: bytes) -> None:
        """
        Args:
            opened: of `content`.
            path: of the file.
            content: its bytes.
        Raises:
            ModelError: it carries no spec, or one that its inputs and outputs do not agree with.
        """
        self._session, self.provider, self.note = opened
        self.path = path
        self._file = path.absolute()  # wherever the program goes later
        self.name = _name_of(path)
        self.size = len(content)
        self.sha256 = hashlib.sha256(content).hexdigest()
        self.spec = runtime.spec_of(self._session)
        self.metadata: dict[str, str] = self._session.get_modelmeta().custom_metadata_map
        self.takes_seed = any(node.name == "seed" for node in self._session.get_inputs())
        (output,) = self._session.get_outputs()
        self.gives_uint8 = output.type == "tensor(uint8)"
        self._outputs = [output.name]
        self._image = self.spec.picture_shape if self.gives_uint8 else self.spec.image_shape

    def __reduce__(self) -> tuple[Any, ...]:
        """A copy, or a pickle for another process, opens the file again: a session can be neither copied nor sent."""
        threads = self._session.get_session_options().intra_op_num_threads
        return _reopen, (self._file, self.sha256, self.provider, threads)

    @property
    def batch_size(self) -> int:
        """Images at a time that suit the provider.

        Past 16 the feature maps fall out of a CPU's cache, and larger batches are slower. A GPU makes 7 times as many
        of the reference script's images a second at 1024 (docs/inference.md); of larger ones, as many pixels.
        """
        if not runtime.is_cuda(self.provider):
            return BATCH_SIZE
        _, height, width = self.spec.image_shape
        return min(1024, max(BATCH_SIZE, 1 << max(1, _PIXELS_ON_A_GPU // (height * width)).bit_length() - 1))

    @property
    def multiply_adds(self) -> int | None:
        """Multiplications, each with its addition, for one image; None where nobody says."""
        said = self.metadata.get(MULTIPLY_ADDS_KEY, "")
        if said.isascii() and said.isdecimal() and 0 < len(said) < 19 and int(said):
            return int(said)
        return self.spec.multiply_adds

    def feeds(self, z: npt.NDArray[np.float32], label: npt.NDArray[np.int64] | None = None) -> Feeds:
        """What a model that takes latents is fed with.

        Args:
            z: float32, shape (N, latent_dim).
            label: int64, shape (N,); None for an unconditional model.
        """
        return {"z": z} if label is None else {"z": z, "label": label}

    def feeds_of_seed(self, seed: int, n: int, asked: Sequence[int] | npt.NDArray[np.int64] = ()) -> Feeds:
        """What either kind of model is fed with to make images 0 to n - 1 of a seed.

        Args:
            seed: 0 to 2^63 - 1.
            n: number of images, 1 or more.
            asked: labels that are asked for in turn; none: they are drawn by the seed.
        Raises:
            LatentError: `seed` or `n` is out of range.
        """
        classes = self.spec.num_classes
        if not self.takes_seed:
            label = asked_labels(seed, n, tuple(asked), classes) if classes else None
            return self.feeds(latents(seed, 0, n, self.spec.latent_dim), label)
        if not 0 <= seed < SEEDS:
            raise LatentError(f"a seed is an integer from 0 to 2^63 - 1, found {seed}")
        if n > MOST_OF_A_SEED:
            raise LatentError(
                f"model {self.name} makes its own latents from a seed, and all images up to the last in one call, "
                f"{MOST_OF_A_SEED:,} at most; {n:,} are needed: take a model that takes z (dcgan-export --inputs z), "
                "or fewer images of several seeds"
            )
        label_feed = {"label": np.array(asked, np.int64)} if classes else {}
        return {"seed": np.array(seed, np.int64), "n": np.array(n, np.int64), **label_feed}

    def call(self, feeds: Mapping[str, npt.NDArray[Any]]) -> Any:
        """What onnxruntime makes of feeds, unjudged: for those who measure."""
        return self._session.run(self._outputs, feeds)[0]

    def run(self, feeds: Mapping[str, npt.NDArray[Any]], n: int, finite: bool = True) -> npt.NDArray[Any]:
        """Make a batch of images.

        Args:
            feeds: that `feeds` or `feeds_of_seed` gave.
            n: images that should come.
            finite: whether to refuse NaN and infinity.
        Returns:
            float32, shape (n, C, H, W), in the spec's value range. Of a model that gives uint8: pictures, shape
            (n, H, W), or (n, H, W, C) in colour.
        Raises:
            ModelError: the model fails, or returns something else.
        """
        try:
            images: npt.NDArray[Any] = self.call(feeds)
        except Exception as error:  # its exceptions have no common base below Exception
            raise ModelError(f"model {self.name} failed while running: {runtime.reason(error)}") from error
        dtype = np.dtype(np.uint8 if self.gives_uint8 else np.float32)
        if images.shape != (n, *self._image) or images.dtype != dtype:
            raise ModelError(
                f"model {self.name} returned {images.dtype} of shape {images.shape} for a batch of {n}, "
                f"its spec says {dtype} of shape {(n, *self._image)}"
            )
        if finite and not np.isfinite(images).all():
            raise ModelError(f"model {self.name} returned NaN or infinity; its weights are damaged")
        return images


def _name_of(path: Path) -> str:
    if path.stem != "model":
        return path.stem
    # Triton's folder in between is a version: a number.
    names = (folder.name for folder in path.absolute().parents)
    return next((name for name in names if name and not name.isdecimal()), path.stem)


def open_model(model: str | Path, provider: str = "cpu", threads: int = 1) -> Model:
    """Open a generator.

    Args:
        model: name of a shipped model, path of an ONNX file that dcgan-export wrote, or of a folder that holds one.
        provider: `auto`, `cpu`, `cuda`, or another as `runtime.open_session` takes them.
        threads: of the CPU provider.
    Raises:
        ModelError: the model is missing, unreadable, or not a generator this version can run.
        DeviceError: the provider is not installed or does not work here, or there can't be so many threads.
        RuntimeMissingError: onnxruntime is missing, broken or installed twice.
    """
    return open_content(*read_model(model), provider, threads)


def open_content(path: Path, content: bytes, provider: str = "cpu", threads: int = 1) -> Model:
    """As `open_model`, of what `read_model` gave."""
    try:
        return Model(runtime.open_session(content, provider, threads), path, content)
    except ModelError as error:
        raise ModelError(f"can't use model {path}: {error}") from error


def _reopen(path: Path, sha256: str, provider: str, threads: int) -> Model:
    """A model that was open before.

    Raises:
        ModelError: the file is gone, or another.
    """
    _, content = read_model(path)
    found = hashlib.sha256(content).hexdigest()
    if found != sha256:
        raise ModelError(
            f"model {path} has changed since it was opened: its sha256 was {sha256[:12]}..., and is {found[:12]}...; "
            "open it again"
        )
    return open_content(path, content, provider, threads)


def read_model(model: str | Path) -> tuple[Path, bytes]:
    """Path and bytes of a shipped model's name, or else of a file, or of the only ONNX file in a folder.

    Raises:
        ModelError: there is none, or it is a checkpoint, or another artifact than ONNX.
    """
    names = shipped.names(".onnx")
    path = shipped.path_of(str(model), ".onnx") if str(model) in names else Path(model)
    try:
        if path.is_dir():
            path = _in_folder(path)
        if not path.exists():
            known = ", ".join(names) or "none is installed"
            raise ModelError(
                f"there is no model {str(model)!r}: neither a file nor a shipped model (these are: {known})"
            )
        with path.open("rb") as file:
            content = read_limited(file, MOST_BYTES)
    except OSError as error:  # a folder above may not be read, or the name is too long
        raise ModelError(f"can't read model {path}: {first_line(error).lower()}") from error
    foreign = _foreign(content)
    if foreign:
        raise ModelError(f"can't use model {path}: this is {foreign.format(path=path, stem=path.stem)}")
    return path, content


def _in_folder(folder: Path) -> Path:
    """The only ONNX file of a folder.

    Raises:
        ModelError: there is none, or there are several.
    """
    found = sorted(folder.glob("*.onnx"))
    if len(found) == 1:
        return found[0]
    if found:
        names = ", ".join(path.name for path in found[:12])
        raise ModelError(f"{folder} is a folder with {len(found)} ONNX files ({names}); name one of them")
    if (folder / "README.md").exists() and (folder / "model.safetensors").exists():  # of dcgan-export --target hub
        raise ModelError(f"{folder} has no model.onnx any more; get the folder again")
    if (folder / "options.json").exists() or any(folder.glob("*.safetensors")):  # as dcgan-train leaves it
        raise ModelError(
            f"{folder} is a run folder; make an ONNX file of it: "
            f"dcgan-export {folder} --out {folder.resolve().name}.onnx"
        )
    raise ModelError(f"{folder} is a folder without an ONNX file; name a model's file")


def digest_of(path: Path) -> str:
    """SHA-256 of an ONNX file that may keep weights in files beside it, as torch.onnx.export writes large ones.

    Of a file without others it is that of its bytes. With others it is that of a list as sha256sum writes it, a line
    for the file and each of the others: a digest, two spaces, and the name as the file spells it, `model` for itself.

    Args:
        path: of the file.
    Returns:
        The hexadecimal digest.
    Raises:
        ModelError: it is no ONNX file, or one of the others is missing or lies outside of its folder.
        OSError: a file can't be read.
    """
    content = path.read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    names = read_outline(content).external
    if not names:
        return digest
    folder = path.resolve().parent
    lines = [f"{digest}  model"]
    for name in names:
        file = (folder / name).resolve()
        if Path(name).is_absolute() or not file.is_relative_to(folder) or not file.is_file():
            raise ModelError(f"it keeps weights in {name[:200]!r}, and there is no such file in {folder}")
        lines.append(f"{sha256_of(file)}  {name}")
    return hashlib.sha256("".join(f"{line}\n" for line in lines).encode()).hexdigest()


# Whatever its name: no ONNX file begins like one of these.
_CHECKPOINT = "make an ONNX file of it: dcgan-export {path} --out {stem}.onnx"
_ARTIFACT = "which runs in torch; make an ONNX file of its checkpoint: dcgan-export CHECKPOINT --out {stem}.onnx"


def _foreign(content: bytes) -> str:
    """What a file is, and what to do with it, if it is known and no ONNX file; else empty."""
    length = int.from_bytes(content[:8], "little")
    if content[8:9] == b"{" and length <= len(content) - 8:
        try:
            header = json.loads(content[8 : 8 + length])
        except (ValueError, RecursionError):
            return ""
        if isinstance(header, dict) and "image_uint8" in header:
            return "a golden file, which dcgan-verify compares a model with; give the model, {stem}.onnx"
        return f"a safetensors checkpoint; {_CHECKPOINT}"
    if content[:2] == b"\x80\x02":
        return f"a pickle, as torch.save once wrote; {_CHECKPOINT}"
    if content[:4] != b"PK\x03\x04":
        return ""
    from zipfile import BadZipFile, ZipFile

    try:
        with ZipFile(io.BytesIO(content)) as archive:
            members = archive.namelist()
    except (BadZipFile, OSError, ValueError, NotImplementedError):
        return "a zip archive, and a truncated one; get it again"
    if any("/code/" in name for name in members):
        return f"TorchScript, {_ARTIFACT}"
    if any(name.endswith("archive_format") for name in members):
        return f"a pt2 archive of torch.export, {_ARTIFACT}"
    if any(name.endswith("data.pkl") for name in members):
        return f"a checkpoint as torch.save writes it; {_CHECKPOINT}"
    return "a zip archive; expected an ONNX file"
