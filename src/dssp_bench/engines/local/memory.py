"""Tensors that processes share: anonymous memory on the CPU, handles of the server's memory on CUDA."""

import mmap
import os
import pickle
import tempfile
from collections.abc import Sequence
from multiprocessing import reduction
from multiprocessing.context import get_spawning_popen
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor

_SHM = Path("/dev/shm")
_ALIGNMENT = 64  # a cache line, so that neighbours do not share one


def _anonymous_file() -> int:
    if hasattr(os, "memfd_create"):
        return os.memfd_create("dssp-bench", os.MFD_CLOEXEC)
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())


class SharedMemory:
    """Anonymous memory that goes to a child process as a file descriptor; the kernel frees it with its last user.

    Tensors made from it stay valid as long as they live, whatever happens to this object.
    """

    def __init__(self, size: int) -> None:
        self._size = max(size, mmap.PAGESIZE)
        self._fd = _anonymous_file()
        os.ftruncate(self._fd, self._size)
        self._map = mmap.mmap(self._fd, self._size)

    @classmethod
    def of_file(cls, file: int, size: int) -> Self:
        """The memory behind a file that came from another process of the run."""
        memory = cls.__new__(cls)
        memory._size = max(size, mmap.PAGESIZE)
        memory._fd = file
        memory._map = mmap.mmap(file, memory._size)
        return memory

    def fileno(self) -> int:
        """The file that another process can map."""
        return self._fd

    def tensor(self, offset: int, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        """A tensor of this shape over the memory from `offset` bytes on."""
        count = torch.Size(shape).numel()
        if count == 0:
            return torch.empty(tuple(shape), dtype=dtype)
        return torch.frombuffer(self._map, dtype=dtype, count=count, offset=offset).view(tuple(shape))

    def __getstate__(self) -> dict[str, Any]:
        if get_spawning_popen() is None:
            raise TypeError("shared memory goes only to a process that is being started")
        return {"size": self._size, "fd": reduction.DupFd(self._fd)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self._size = state["size"]
        self._fd = state["fd"].detach()
        self._map = mmap.mmap(self._fd, self._size)

    def __del__(self) -> None:
        if hasattr(self, "_fd"):
            os.close(self._fd)


class SharedTensors:
    """Tensors of given shapes and types, one after the other in one piece of shared memory; new, or behind a file."""

    def __init__(self, specs: Sequence[tuple[Sequence[int], torch.dtype]], file: int | None = None) -> None:
        self._specs = [(tuple(shape), dtype) for shape, dtype in specs]
        self._offsets, size = [], 0
        for shape, dtype in self._specs:
            self._offsets.append(size)
            size += -(-torch.Size(shape).numel() * dtype.itemsize // _ALIGNMENT) * _ALIGNMENT
        self._memory = SharedMemory(size) if file is None else SharedMemory.of_file(file, size)

    def fileno(self) -> int:
        """The file of the memory."""
        return self._memory.fileno()

    @classmethod
    def copy_of(cls, tensors: Sequence[Tensor]) -> "SharedTensors":
        """Shared copies of these tensors."""
        shared = cls([(tensor.shape, tensor.dtype) for tensor in tensors])
        for target, source in zip(shared.views(), tensors, strict=True):
            target.copy_(source)
        return shared

    def views(self) -> list[Tensor]:
        """The tensors themselves, in this process."""
        return [
            self._memory.tensor(offset, shape, dtype)
            for offset, (shape, dtype) in zip(self._offsets, self._specs, strict=True)
        ]


def cuda_handle(tensors: Sequence[Tensor]) -> bytes:
    """Handles with which another process of this user opens these CUDA tensors; no data is copied."""
    import torch.multiprocessing  # noqa: F401  (registers how tensors are handed over)

    return bytes(reduction.ForkingPickler.dumps(list(tensors)))


def open_cuda_handle(handle: bytes) -> list[Tensor]:
    """The tensors behind the handles that the server sent over the worker's own socket."""
    tensors: list[Tensor] = pickle.loads(handle)
    return tensors


def remove_cuda_names(pid: int | None) -> None:
    """Remove what torch and the CUDA driver leave in /dev/shm for handles of a process that has ended.

    Our own memory has no name, but CUDA's handles come with small files, which only an orderly unwinding would remove.
    """
    if pid is None or not _SHM.is_dir():
        return
    for pattern in (f"torch_{pid}_*", f"cuda.shm.*.{pid:x}.*"):
        for path in _SHM.glob(pattern):
            path.unlink(missing_ok=True)
