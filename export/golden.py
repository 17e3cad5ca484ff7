"""Making golden vectors: the checkpoint in float64, on latents that everybody can draw. The file is dcgan/golden.py."""

from __future__ import annotations

import copy

import numpy as np
import torch

from dcgan.checkpoint import GeneratorCheckpoint
from dcgan.errors import CheckpointError, ExportError
from dcgan.golden import BATCHES, COUNT, SEED, START, Golden
from dcgan.images import to_uint8
from dcgan.latents import latents


def make_golden(checkpoint: GeneratorCheckpoint) -> Golden:
    """Run a checkpoint in float64, and in float32 for its own error, on the golden latents.

    Raises:
        CheckpointError: it gives values that are not finite.
        ExportError: it makes images of several channels.
    """
    eager = copy.deepcopy(checkpoint.generator).eval()
    exact = copy.deepcopy(eager).double()
    spec = eager.spec
    if spec.image_shape[0] != 1:
        raise ExportError(
            f"golden vectors are of grey images, these have {spec.image_shape[0]} channels; omit --golden"
        )
    z = latents(SEED, START, COUNT, spec.latent_dim)
    label = np.arange(COUNT, dtype=np.int64) % spec.num_classes if spec.num_classes else None
    inputs = (torch.from_numpy(z),) if label is None else (torch.from_numpy(z), torch.from_numpy(label))
    with torch.inference_mode():
        right = exact(inputs[0].double(), *inputs[1:]).numpy()  # (COUNT, 1, H, W)
        batches = zip(*(torch.split(each, list(BATCHES)) for each in inputs), strict=True)
        own = np.concatenate([eager(*batch).numpy() for batch in batches])  # (COUNT, 1, H, W)
    if not (np.isfinite(right).all() and np.isfinite(own).all()):
        raise CheckpointError("the checkpoint itself gives images that are not finite; train it again")
    error = float(np.abs(own - right).max())
    return Golden(spec, checkpoint.weights_sha256, error, z, right.astype(np.float32), to_uint8(right[:, 0]), label)
