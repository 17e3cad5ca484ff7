"""Making golden vectors: the checkpoint in float64, on latents that everybody can draw. The file is
`dcgan_infer.contract.golden`.
"""

from __future__ import annotations

import numpy as np

from dcgan.checkpoint import GeneratorCheckpoint
from dcgan_infer.contract.golden import BATCHES, COUNT, SEED, START, Golden
from dcgan_infer.contract.latents import latents
from dcgan_infer.contract.pixels import to_pictures

from .exact import run_exactly


def make_golden(checkpoint: GeneratorCheckpoint) -> Golden:
    """Run a checkpoint in float64, and in float32 for its own error, on the golden latents.

    Raises:
        CheckpointError: it gives values that are not finite.
    """
    spec = checkpoint.spec
    z = latents(SEED, START, COUNT, spec.latent_dim)
    label = np.arange(COUNT, dtype=np.int64) % spec.num_classes if spec.num_classes else None
    right, own = run_exactly(checkpoint.module, z, label, BATCHES, f"seed {SEED}")  # (COUNT, C, H, W) each
    error = float(np.abs(own - right).max())
    return Golden(
        spec, checkpoint.weights_sha256, error, z, right.astype(np.float32), to_pictures(right, spec.value_range), label
    )
