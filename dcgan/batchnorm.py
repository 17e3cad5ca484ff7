"""BatchNorm over a batch that several processes share: each has some of its images, and all use the whole's statistics.

torch's SyncBatchNorm does this on GPUs only. With statistics of each process's own share a run would be another one:
that of a smaller batch in BatchNorm.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn


class _Normalise(torch.autograd.Function):
    """Normalise by the mean and the variance over all processes; gradients flow through both, to every process."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float, group: Any
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Normalise.

        Args:
            ctx: of autograd.
            x: float, shape (n, C) or (n, C, H, W): this process's share.
            weight: float32, shape (C,), or None.
            bias: likewise.
            eps: added to the variance.
            group: of the processes.
        Returns:
            Like `x`; and of the whole batch: mean and biased variance, float32, shape (C,), number of values a channel.
        """
        axes = [axis for axis in range(x.ndim) if axis != 1]
        # Each process's own mean and squares about it, put together by Chan, Golub and LeVeque 1979 (Updating formulae
        # and a pairwise algorithm for computing sample variances): sums of squares would cancel where the mean is far
        # from 0.
        var, mean = torch.var_mean(x.float(), axes, correction=0)
        own = torch.cat([mean, var, mean.new_full((1,), x.numel() // x.shape[1])])
        shares = [torch.empty_like(own) for _ in range(dist.get_world_size(group))]
        dist.all_gather(shares, own, group=group)
        means, variances, counts = torch.tensor_split(torch.stack(shares), (x.shape[1], 2 * x.shape[1]), 1)
        count = counts.sum()
        mean = (counts * means).sum(0) / count
        var = (counts * (variances + (means - mean).square())).sum(0) / count
        ctx.save_for_backward(x, weight, mean, var, count)
        ctx.eps, ctx.group = eps, group
        ctx.mark_non_differentiable(mean, var, count)
        return F.batch_norm(x, mean, var, weight, bias, training=False, eps=eps), mean, var, count

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[Tensor | None, ...]:
        """Ioffe and Szegedy 2015, arXiv:1502.03167, section 3, its sums over the batch taken over all processes."""
        x, weight, mean, var, count = ctx.saved_tensors
        given = gradients[0].float()
        shape = (1, -1, *[1] * (x.ndim - 2))
        axes = [axis for axis in range(x.ndim) if axis != 1]
        scale = (var + ctx.eps).rsqrt()
        normal = (x.float() - mean.view(shape)) * scale.view(shape)
        sums = torch.stack([given.sum(axes), (given * normal).sum(axes)])
        of_bias, of_weight = sums.clone()  # this process's alone: DistributedDataParallel adds those of the others
        dist.all_reduce(sums, group=ctx.group)
        by_mean, by_normal = (sums / count).view(2, *shape)
        if weight is not None:
            scale = scale * weight
        of_x = ((given - by_mean - normal * by_normal) * scale.view(shape)).to(x.dtype)
        return of_x, None if weight is None else of_weight, None if weight is None else of_bias, None, None


class SharedBatchNorm(nn.modules.batchnorm._BatchNorm):
    """BatchNorm1d or 2d whose batch is shared by the processes of a group; in eval mode as they are.

    Args:
        like: whose parameters and statistics it takes over.
        group: of the processes; each has one image or more, and they call this in the same order.
    """

    def __init__(self, like: nn.modules.batchnorm._BatchNorm, group: Any) -> None:
        super().__init__(like.num_features, like.eps, like.momentum, like.affine)
        self._parameters, self._buffers, self.training = like._parameters, like._buffers, like.training
        self.group = group

    def _check_input_dim(self, _input: Tensor) -> None:
        """Any number of dimensions."""

    def forward(self, x: Tensor) -> Tensor:
        """Normalise x, shape (n, C) or (n, C, H, W)."""
        if not self.training:
            return super().forward(x)
        y, mean, var, count = _Normalise.apply(x, self.weight, self.bias, self.eps, self.group)
        assert self.momentum is not None
        self.get_buffer("num_batches_tracked").add_(1)
        self.get_buffer("running_mean").lerp_(mean, self.momentum)
        self.get_buffer("running_var").lerp_(var * count / (count - 1), self.momentum)
        return y  # type: ignore[no-any-return]


def share_batchnorm(network: nn.Module, group: Any) -> None:
    """Let a network's BatchNorm1d and 2d normalise over all processes of a group; its tensors and their names stay."""
    for name, module in list(network.named_modules()):
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            network.set_submodule(name, SharedBatchNorm(module, group))
