"""Torch's settings while this package works: torch's own defaults inside, and the caller's again afterwards.

A program may have set a default dtype or device, autocast, inference mode, the number of threads and more, for itself.
Each of these changes what our networks compute. So whatever a caller reaches torch through (`load_generator`,
`publish`, `prove`, the metrics that train, `train`) runs inside `our_settings`, as a block or as a decorator.
"""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import numpy as np
import torch

from dcgan_infer.runtime import cores

_T = TypeVar("_T")

_SEED = 0  # of what draws without having been seeded, such as initial weights that a checkpoint then replaces


def usual_threads() -> int:
    """The threads of torch that are taken where nobody names a number: those it has, but no more than `cores`.

    Torch looks at the machine; a container's quota may be less, and threads beyond it take turns, which is slower.
    """
    return min(torch.get_num_threads(), cores())


@contextlib.contextmanager
def our_settings(threads: int | None = None) -> Iterator[None]:
    """Torch as it is when a program starts, and the random numbers of a fixed seed; afterwards all as it was.

    What is set inside, by somebody's module for example, does not get out either. Numbers drawn on an accelerator are
    kept apart only if the accelerator was in use before.

    Args:
        threads: of torch on the CPU; None takes `usual_threads`.
    """
    cuda: Any = torch.cuda
    backends: Any = torch.backends  # whose types say less than there is
    devices = range(cuda.device_count()) if cuda.is_initialized() else ()
    with contextlib.ExitStack() as stack:
        stack.enter_context(torch.random.fork_rng(devices))
        torch.default_generator.manual_seed(_SEED)
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        stack.enter_context(_no_modes())
        kept = functools.partial(_kept, stack)
        kept(torch.get_default_dtype, torch.set_default_dtype, torch.float32)
        for device in ("cpu", "cuda", "mps"):
            is_on = functools.partial(torch.is_autocast_enabled, device)
            kept(is_on, functools.partial(torch.set_autocast_enabled, device), False)
        kept(torch.get_deterministic_debug_mode, torch.set_deterministic_debug_mode, 0)
        kept(_cudnn_precisions, _set_cudnn_precisions, ("none", "none"))
        for backend in (backends.mkldnn.matmul, backends.mkldnn.conv, backends.cuda.matmul):
            if backend.fp32_precision != "none":
                get = functools.partial(getattr, backend, "fp32_precision")
                kept(get, functools.partial(_set_precision, backend), "ieee")
        kept(_flushes_denormals, torch.set_flush_denormal, False)
        kept(torch.get_num_threads, torch.set_num_threads, threads or usual_threads())
        yield


@contextlib.contextmanager
def repeatable(device: torch.device) -> Iterator[None]:
    """Within, what runs on a CUDA device gives the same bits each time, as it does on a CPU anyway.

    Some of its algorithms add in an order that is never the same, and torch takes others in their place. Of operations
    that have none it warns. To be called before the device is first used.
    """
    if device.type != "cuda":
        yield
        return
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # which cuBLAS needs for that, and torch asks for
    with contextlib.ExitStack() as stack:
        _kept(stack, torch.get_deterministic_debug_mode, torch.set_deterministic_debug_mode, 1)  # 1: warns
        of_memory: Any = torch.utils.deterministic  # filling it first would only cost time
        fills = functools.partial(getattr, of_memory, "fill_uninitialized_memory")
        _kept(stack, fills, functools.partial(setattr, of_memory, "fill_uninitialized_memory"), False)
        yield


def _kept(stack: contextlib.ExitStack, get: Callable[[], _T], put: Callable[[_T], object], ours: _T) -> None:
    """Set one setting, and put it back when the stack ends; one that is right already is not touched."""
    before = get()

    def put_back() -> None:
        if get() != before:
            put(before)

    stack.callback(put_back)
    if before != ours:
        put(ours)


@contextlib.contextmanager
def _no_modes() -> Iterator[None]:
    """Without what stands between Python and torch's functions: a default device, or a mode of the caller's own.

    Another device on top would do for the tensors, but torch.jit.trace writes another file where there is any mode.
    """
    modes = _popped()
    try:
        yield
    finally:
        _popped()
        for mode in reversed(modes):
            torch._C._push_on_torch_function_stack(mode)


def _popped() -> list[Any]:
    return [torch._C._pop_torch_function_stack() for _ in range(torch._C._len_torch_function_stack())]


def _flushes_denormals() -> bool:
    return bool(np.float32(1e-40) * np.float32(1.0) == 0.0)  # torch tells nobody; the processor does


def _cudnn_precisions() -> tuple[str, str]:
    cudnn: Any = torch.backends.cudnn
    return cudnn.conv.fp32_precision, cudnn.rnn.fp32_precision


def _set_cudnn_precisions(precisions: tuple[str, str]) -> None:
    """Set cuDNN's two precisions. `none` is float32; TF32, which torch allows there, is off by half a grey level.

    A trace keeps what was allowed when it was made. torch.export reads the older, single flag for both, which raises
    an error where it is not in step with these: so it is set first, and sets both.
    """
    cudnn: Any = torch.backends.cudnn
    cudnn.allow_tf32 = precisions == ("tf32", "tf32")
    for backend, precision in zip((cudnn.conv, cudnn.rnn), precisions, strict=True):
        if backend.fp32_precision != precision:
            backend.fp32_precision = precision


def _set_precision(backend: Any, precision: str) -> None:
    """Set a precision; one that came from the setting above it goes on coming from there."""
    backend.fp32_precision = "none"
    if backend.fp32_precision != precision:
        backend.fp32_precision = precision
