"""One session for many requests: what has come while a batch ran is the next batch."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from .. import runtime
from ..contract.errors import DcganError, ModelError
from ..generator import ImageGenerator
from ..model import Model, read_model

_Feeds = Mapping[str, npt.NDArray[Any]]


class _Call(NamedTuple):
    outputs: list[str]
    feeds: _Feeds
    result: Future[list[npt.NDArray[Any]]]


class BatchedSession:
    """An onnxruntime session that threads share: it runs their latents together, in a thread of its own.

    Nobody is waited for: a call that finds the session idle runs at once, and calls that come meanwhile run together
    next. Thus one client waits for nothing, and many fill batches by themselves.

    Attributes:
        images: made so far.
        batches: run so far.
    """

    def __init__(self, session: Any, most: int) -> None:
        """
        Args:
            session: of onnxruntime.
            most: images in a batch; a call alone may have more.
        """
        self._session = session
        self._most = most
        self._joins = any(node.name == "z" for node in session.get_inputs())  # a seed can't be joined to another
        self._calls: queue.SimpleQueue[_Call] = queue.SimpleQueue()
        self.images = self.batches = 0
        threading.Thread(target=self._work, daemon=True).start()

    def __getattr__(self, name: str) -> Any:
        """Whatever else a session has."""
        return getattr(self._session, name)

    def run(self, outputs: list[str], feeds: _Feeds) -> list[npt.NDArray[Any]]:
        """As that of onnxruntime; all calls ask for the same outputs."""
        call = _Call(outputs, feeds, Future())
        self._calls.put(call)
        return call.result.result()

    def _work(self) -> None:
        call: _Call | None = None
        while True:
            batch = [call or self._calls.get()]
            room, call = self._most - self._size(batch[0]), None
            while self._joins and room > 0 and not self._calls.empty():
                call = self._calls.get()
                room -= self._size(call)
                if room < 0:  # it opens the next batch
                    break
                batch.append(call)
                call = None
            self._run(batch)

    def _size(self, call: _Call) -> int:
        return len(call.feeds["z"]) if self._joins else int(call.feeds["n"])

    def _run(self, batch: list[_Call]) -> None:
        try:
            feeds = batch[0].feeds
            if len(batch) > 1:
                feeds = {name: np.concatenate([call.feeds[name] for call in batch]) for name in feeds}
            values = self._session.run(batch[0].outputs, feeds)
        except Exception as error:  # onnxruntime's have no common base below Exception
            if len(batch) == 1:
                batch[0].result.set_exception(error)
            for call in batch if len(batch) > 1 else ():  # one of them is to blame, and not the others
                self._run([call])
            return
        first = 0
        for call in batch:
            last = first + self._size(call)
            call.result.set_result([value[first:last] for value in values])
            first = last
        self.images += first
        self.batches += 1


def open_batched(model: str, provider: str, threads: int | None, most: int) -> tuple[ImageGenerator, BatchedSession]:
    """Open a generator that threads share, and make an image with it.

    Args:
        model: as `ImageGenerator` takes it.
        provider: likewise.
        threads: likewise.
        most: images in a batch.
    Raises:
        ModelError, DeviceError, RuntimeMissingError: as `ImageGenerator` does.
        ModelError: the model fails.
    """
    path, content = read_model(model)
    threads = threads or runtime.cores()
    try:
        # A server is seldom alone: threads that spin take the cores of others, and of its own Python. Of two threads
        # beside a busy process, 2.3 times the CPU time for one image, and no less waiting (measured).
        opened = runtime.open_session(content, provider, threads, spinning=False)
        session = BatchedSession(opened.session, most)
        generator = ImageGenerator(Model(opened._replace(session=session), path, content), threads=threads)
        generator.generate(1)  # weights that are damaged are told now, and the first client does not wait
    except ModelError as error:
        raise ModelError(f"can't use model {path}: {error}") from error
    return generator, session


class BusyError(DcganError):
    """There are as many images in hand as may be."""


class Room:
    """How many images may be in hand, waiting or being made. For one thread.

    Attributes:
        most: of them.
        taken: now.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self.taken = 0

    @contextmanager
    def hold(self, n: int) -> Iterator[None]:
        """Within, `n` images are in hand.

        Raises:
            BusyError: that would be too many.
        """
        if self.taken + n > self.most:
            raise BusyError(f"{self.taken} images are being made or wait, and {self.most} may; ask again in a second")
        self.taken += n
        try:
            yield
        finally:
            self.taken -= n
