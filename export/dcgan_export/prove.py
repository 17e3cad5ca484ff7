"""The float64 yardstick for any module and any artifact of it, as a library function of its own.

from dcgan_export.prove import prove
report = prove(module, "model.onnx")  # raises ParityError where they differ
print(report.table())
"""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
from torch import nn

from dcgan.modules import fit
from dcgan.torch_state import our_settings
from dcgan.user_code import user_error
from dcgan_infer.contract.errors import CheckpointError, ExportError, ParityError

from . import exact, parity
from .formats import FORMATS, FloatArray, IntArray, Runner, Variant
from .parity_report import ParityReport


@our_settings()
def prove(
    module: nn.Module,
    artifact: str | Path,
    *,
    latent_dim: int | None = None,
    num_classes: int | None = None,
    value_range: tuple[float, float] | None = None,
    precision: str = "fp32",
) -> ParityReport:
    """Compare an artifact, whoever wrote it, with the module that it was made from.

    Args:
        module: takes (N, latent_dim) or (N, latent_dim, 1, 1), and int64 labels (N,) if it has classes; gives
            (N, C, H, W). It is copied, and the copies run in eval mode, in float64 and float32.
        artifact: a file of ONNX (.onnx), TorchScript (.pt, which is code, and is run) or pt2 (.pt2). Its first input
            are the latents, a second one labels, whatever they are called; its first output are the images, floats or
            uint8 with the channels last.
        latent_dim: of a module that does not say.
        num_classes: likewise.
        value_range: values of black and white, of a module that ends in neither tanh nor sigmoid.
        precision: of the artifact, `fp32`, `fp16` or `int8`: what it may be off by.
    Returns:
        The figures.
    Raises:
        ParityError: they differ; its `report` has the figures.
        CheckpointError: the module is not one that anything could be proved equal to.
        ExportError: the artifact can't be loaded.
    """
    path = Path(artifact)
    form = next((form for form in FORMATS.values() if form.suffix == path.suffix.lower()), None)
    if form is None or not path.is_file():
        suffixes = ", ".join(each.suffix for each in FORMATS.values())
        raise ExportError(f"{path} is not a file that ends in {suffixes}")
    name = type(module).__name__
    try:
        copied = copy.deepcopy(module).cpu().float().eval()  # `fit` freezes what it is given
    except Exception as error:  # what can't be copied has many reasons
        raise CheckpointError(f"{name} can't be copied, to run it in float64: {user_error(error)}") from error
    fitted = fit(copied, name, latent_dim, num_classes, None, value_range)
    run, is_uint8 = _onnx(path) if form.name == "onnx" else (_torch(form.load_module().load(path)), False)
    variant = Variant(precision=precision, image="uint8" if is_uint8 else "float").settled()
    report = parity.compare(run, exact.make_probes(fitted.module, fitted.spec), fitted.spec, variant)
    if not report.passed:
        raise ParityError(f"{path} is not equal to {name}: {report.reasons[0]}", report)
    return report


def _onnx(path: Path) -> tuple[Runner, bool]:
    """How an ONNX file of any names is run, and whether it gives pictures."""
    from .onnx_file import open_session  # needs onnx, which other formats do not

    session = open_session(path)  # not its bytes: its weights may lie in a file beside it
    wanted, given = session.get_inputs(), session.get_outputs()[0]

    def run(z: FloatArray, *label: IntArray) -> FloatArray:
        latents = z.reshape(*z.shape, *[1] * (len(wanted[0].shape) - z.ndim))
        names = [value.name for value in wanted]
        images: FloatArray = session.run([given.name], dict(zip(names, (latents, *label), strict=True)))[0]
        return images

    return run, given.type == "tensor(uint8)"


def _torch(run: Runner) -> Runner:
    """As `run`, with latents as maps where it takes no others."""

    def either(z: FloatArray, *label: IntArray) -> FloatArray:
        try:
            images = run(z, *label)
        except Exception:  # torch's runtimes raise several for a wrong shape
            images = run(z[:, :, np.newaxis, np.newaxis], *label)
        return images  # type: ignore[return-value]

    return either
