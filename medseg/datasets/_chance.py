"""Where the chance in a sample comes from, whatever the number of workers."""

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset, get_worker_info

Transform = Callable[..., dict[str, Any]]


class SeededDataset(Dataset[tuple[torch.Tensor, torch.Tensor]]):
    """A data set whose chance follows ``torch.manual_seed``, or a seed of its own.

    Left alone, all workers of a ``DataLoader`` would work on copies of one generator,
    the same copies in each epoch, and repeat each other's augmentations.

    With ``seed=None`` each sample draws its generator from torch's, which a
    ``DataLoader`` seeds for each worker: repeatable with ``torch.manual_seed``, and
    another sequence for another number of workers. With a ``seed``, sample ``i`` of
    epoch ``e`` depends on (seed, e, i) alone, with any number of workers; then call
    :meth:`set_epoch` before each epoch, or every epoch will be the first again.
    """

    def __init__(self, seed: int | None) -> None:
        if seed is not None and (not isinstance(seed, int) or seed < 0):
            raise ValueError(f"seed must be a whole number from 0, got {seed!r}.")
        self.seed = seed
        # In shared memory, so that workers which live on see the new number.
        self._epoch = (
            None if seed is None else torch.zeros((), dtype=torch.int64).share_memory_()
        )

    def set_epoch(self, epoch: int) -> None:
        """Say which epoch comes next, as for torch's ``DistributedSampler``.

        Has an effect only with a ``seed``. Workers are told, too.

        Raises:
            ValueError: ``epoch`` is negative.
        """
        if epoch < 0:
            raise ValueError(f"epoch must not be negative, got {epoch}.")
        if self._epoch is not None:
            self._epoch.fill_(epoch)

    def _seed_of(self, index: int) -> int:
        """Return the number that decides the chance in one sample."""
        if self.seed is None or self._epoch is None:
            # The number of torch.randint(2**62, ()), in less time.
            return int(torch.empty((), dtype=torch.int64).random_(0, 2**62).item())
        key = (self.seed, int(self._epoch), index)
        return int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0]) >> 1


def reseed(transform: Transform, seed: int, *, always: bool) -> None:
    """Start the generators of an albumentations ``Compose``.

    One made with a seed of its own keeps its stream, unless ``always`` or in a worker.
    """
    own_stream = getattr(transform, "seed", None) is not None
    if own_stream and not always and get_worker_info() is None:
        return
    if hasattr(transform, "set_random_state"):
        # The generator of numpy.random.default_rng(seed), in less time.
        generator = np.random.Generator(np.random.PCG64(seed))
        transform.set_random_state(generator, random.Random(seed))
