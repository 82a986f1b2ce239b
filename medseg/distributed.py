"""Several processes that train one network, each on its part of every batch.

    join_group         belong to the processes that torchrun started
    share_batches      this process's part of each batch of a loader
    share_loader       this process's share of whole batches of a loader
    wrap               a network whose gradients are averaged over the processes
    gather             what each process found, in one list

``medseg.training.train`` calls all of them when it runs under ``torchrun``, and none
otherwise: a program needs no change. A batch of the loader is the joint batch, and is
split over the processes, so that n processes take the very steps that one would take.
"""

import atexit
import os
import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, DistributedSampler, IterableDataset, Sampler


def rank() -> int:
    """Number of this process, from 0; 0 if it is alone."""
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    """How many processes train together; 1 if this one is alone."""
    return dist.get_world_size() if dist.is_initialized() else 1


def join_group(device: torch.device | str) -> torch.device:
    """Join the processes that ``torchrun`` started, once, and name this one's device.

    Without ``torchrun``, or where this process belongs to a group already, nothing is
    joined. The group lasts until the program ends: processes that leave and join again
    can meet one that has not left yet, and wait for ever.

    Args:
        device: ``"cuda"`` stands for the GPU of this process, ``cuda:LOCAL_RANK``.

    Returns:
        The device of this process.
    """
    device = torch.device(device)
    if device.type == "cuda" and device.index is None and "LOCAL_RANK" in os.environ:
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
    if int(os.environ.get("WORLD_SIZE", 1)) > 1 and not dist.is_initialized():
        # gloo carries what is on the CPU: the order of the images, scores.
        dist.init_process_group(
            "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
        )
        atexit.register(_leave)
    return device


def _leave() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()


def seed_apart() -> None:
    """Give each process but the first random numbers of its own.

    Programs seed all processes alike, so that they build the same network. Then every
    process would turn and mirror its images by the same amounts.
    """
    if rank() > 0:
        seed = (torch.initial_seed() + rank()) % 2**63
        torch.manual_seed(seed)
        np.random.seed(seed % 2**32)  # noqa: NPY002 - a transform may use it
        random.seed(seed)


def wrap(
    model: nn.Module, device: torch.device, *, sync_batch_norm: bool = False
) -> nn.Module:
    """A network whose gradients are averaged over the processes.

    Args:
        model: On ``device``; all processes take the weights of the first. It shares
            them with the result, and is what is saved.
        device: Of this process.
        sync_batch_norm: Replace the batch norms in ``model`` by those that take mean
            and variance over all processes. It needs GPUs.

    Returns:
        A ``DistributedDataParallel``; ``model`` itself where a process is alone.

    Raises:
        ValueError: ``sync_batch_norm`` on a CPU.
    """
    if sync_batch_norm and device.type != "cuda":
        raise ValueError(
            "sync_batch_norm=True needs GPUs: PyTorch has no SyncBatchNorm on "
            f"{device.type}. Leave it out, or take a network with group or instance "
            "norm."
        )
    if world_size() == 1:
        return model
    if sync_batch_norm:
        model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    devices = [device] if device.type == "cuda" else None
    return DistributedDataParallel(model, device_ids=devices)


def unwrapped(model: nn.Module) -> nn.Module:
    """The network that was given to ``wrap``."""
    return model.module if isinstance(model, DistributedDataParallel) else model


def joint_count(count: int, model: nn.Module, device: torch.device | str) -> Any:
    """Mean over the processes of a number of images, if ``model`` is wrapped.

    Gradients are averaged over processes, so a loss that is weighted by a process's
    own number over this one adds up to the mean over the joint batch.
    """
    if not isinstance(model, DistributedDataParallel):
        return count
    total = torch.tensor(float(count), device=device)
    dist.all_reduce(total)
    return total / world_size()  # on the device: to read it would wait for the GPU


def joint_sums(values: list[float], model: nn.Module) -> list[float]:
    """Sums over the processes, if ``model`` is wrapped."""
    if not isinstance(model, DistributedDataParallel):
        return values
    return [sum(column) for column in zip(*gather(values), strict=True)]


def gather(value: Any) -> list[Any]:
    """What each process found, in the order of the processes, in every process."""
    if world_size() == 1:
        return [value]
    found: list[Any] = [None] * world_size()
    dist.all_gather_object(found, value)
    return found


def share_buffers(model: nn.Module) -> None:
    """Give all processes the buffers of the first, such as means of batch norm."""
    if world_size() > 1:
        for buffer in model.buffers():
            dist.broadcast(buffer, src=0)


def share_batches(loader: Any) -> Any:
    """A loader of this process's part of each batch; ``loader`` if it is alone.

    All processes follow the order of the first. A batch with fewer images than there
    are processes is filled up with its first image, as PyTorch's own
    ``DistributedSampler`` does; pass ``drop_last=True`` to avoid it. A loader with
    such a sampler is taken as it is: its batches are those of one process.

    Args:
        loader: A ``DataLoader`` over a data set with a length.

    Raises:
        TypeError: The loader is something else.
    """
    return _share(loader, _Parts)


def share_loader(loader: Any) -> Any:
    """A loader of every n-th batch for n processes; ``loader`` if it is alone.

    For validation, where a batch may be missing for some processes.

    Args:
        loader: A ``DataLoader`` over a data set with a length.

    Raises:
        TypeError: The loader is something else.
    """
    return _share(loader, _EveryNth)


def is_shared(loader: Any) -> bool:
    """Whether a sampler of PyTorch deals out the images to the processes already."""
    return isinstance(getattr(loader, "sampler", None), DistributedSampler)


def set_epoch(loader: Any, epoch: int) -> None:
    """Tell sampler and data set the epoch, from 0, else they repeat the first."""
    owners: list[Any] = [getattr(loader, "sampler", None)]
    inner = getattr(loader, "dataset", None)
    while inner is not None:  # a Subset holds another
        owners.append(inner)
        inner = getattr(inner, "dataset", None)
    for owner in owners:
        if hasattr(owner, "set_epoch"):
            owner.set_epoch(epoch)


class _Parts(Sampler[list[int]]):
    """Parts of each batch, one a process, in the order that the first process draws."""

    def __init__(self, batches: Any) -> None:
        self.batch_sampler = batches

    def joint(self) -> list[list[int]]:
        """The batches of the loader, the same in all processes."""
        drawn = [list(self.batch_sampler) if rank() == 0 else None]
        dist.broadcast_object_list(drawn, src=0)
        return drawn[0] or []

    def __iter__(self) -> Iterator[list[int]]:
        for batch in self.joint():
            yield batch[rank() :: world_size()] or batch[:1]

    def __len__(self) -> int:
        return len(self.batch_sampler)


class _EveryNth(_Parts):
    """Every n-th batch, whole."""

    def __iter__(self) -> Iterator[list[int]]:
        yield from self.joint()[rank() :: world_size()]

    def __len__(self) -> int:
        return len(range(rank(), len(self.batch_sampler), world_size()))


def _share(loader: Any, kind: type[_Parts]) -> Any:
    if world_size() == 1 or is_shared(loader):
        return loader
    if (
        not isinstance(loader, DataLoader)
        or isinstance(loader.dataset, IterableDataset)
        or loader.batch_sampler is None
    ):
        raise TypeError(
            "under torchrun the loaders must be DataLoaders with a batch_size, over "
            f"data sets with a length; got {type(loader).__name__}. Only of those can "
            "each process take its part."
        )
    if loader.generator is not None and rank() > 0:
        # The order is that of the first process; the workers seed themselves by it.
        loader.generator.manual_seed(torch.initial_seed())
    return DataLoader(
        loader.dataset,
        batch_sampler=kind(loader.batch_sampler),
        num_workers=loader.num_workers,
        collate_fn=loader.collate_fn,
        pin_memory=loader.pin_memory,
        timeout=loader.timeout,
        worker_init_fn=loader.worker_init_fn,
        multiprocessing_context=loader.multiprocessing_context,
        generator=loader.generator,
        prefetch_factor=loader.prefetch_factor,
        persistent_workers=loader.persistent_workers,
    )
