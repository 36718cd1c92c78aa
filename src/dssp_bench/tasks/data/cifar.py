"""CIFAR-10 and CIFAR-100, in torchvision's layout: pickles, of which nothing but arrays, lists and text is read."""

import io
import pickle
import warnings
from abc import abstractmethod
from collections.abc import Sequence
from hashlib import md5
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import ConfigDict
from pydantic.dataclasses import dataclass
from torch import Tensor

from dssp_bench.core.errors import DataNotFound
from dssp_bench.tasks.data.download import download
from dssp_bench.tasks.data.files import DEFAULT_ROOT, Root, folder
from dssp_bench.tasks.task import Data, DataFacts, DataSource
from dssp_bench.tasks.torchvision_import import import_torchvision

CROP_PADDING = 4


class _CIFAR(DataSource):
    """What the two have in common: 60,000 colour images of 32x32, 10,000 of them to test, and torchvision's layout."""

    root: str
    download: bool
    augment: bool

    @property
    @abstractmethod
    def name(self) -> str:
        """torchvision's name."""

    def _load(self, classes: int, mean: tuple[float, ...], std: tuple[float, ...]) -> Data:
        source = import_torchvision("datasets").__dict__[self.name]
        files = folder(self.root) / source.base_folder
        parts = self._read(source)
        if parts is None and self.download:
            failure = download(lambda: source(folder(self.root), download=True), source.url)
            parts = self._read(source)
        else:
            failure = "download is off"
        if parts is None:
            state = f"{files} is incomplete or damaged" if files.is_dir() else f"{self.name} is not on this machine"
            raise DataNotFound(f"{state} ({failure}): unpack {source.url} to {files}, or set dataset.root")
        (train_inputs, train_labels), (test_inputs, test_labels) = parts
        return Data(
            train_inputs,
            train_labels,
            test_inputs,
            test_labels,
            classes,
            mean,
            std,
            crop_padding=CROP_PADDING if self.augment else 0,
            mirror=self.augment,
        )

    def _read(self, source: Any) -> list[tuple[Tensor, Tensor]] | None:
        """The training and the test part; None if a file is missing or damaged."""
        files = folder(self.root) / source.base_folder
        try:
            return [_part(files, listed) for listed in (source.train_list, source.test_list)]
        except (OSError, _DamagedError):
            return None


def _part(files: Path, listed: Sequence[tuple[str, str]]) -> tuple[Tensor, Tensor]:
    """Images [N, 3, 32, 32] as bytes, and labels, of some files with their MD5."""
    parts = [_unpickled((files / name).read_bytes(), digest) for name, digest in listed]
    images = np.concatenate([part["data"] for part in parts]).reshape(-1, 3, 32, 32)
    labels = [label for part in parts for label in part["labels" if "labels" in part else "fine_labels"]]
    return torch.from_numpy(images), torch.tensor(labels, dtype=torch.int64)


class _DamagedError(Exception):
    """A file is not the one that was published."""


_OF_NUMPY = {
    ("numpy.core.multiarray", "_reconstruct"): np.ndarray((0,)).__reduce__()[0],
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
}


class _ArraysOnly(pickle.Unpickler):
    """Refuses whatever else a pickle may want to call."""

    def find_class(self, module: str, name: str) -> Any:
        """One of the three that the pickle of an array needs."""
        try:
            return _OF_NUMPY[module, name]
        except KeyError:
            raise pickle.UnpicklingError(f"{module}.{name} has no place in a data set") from None


def _unpickled(content: bytes, digest: str) -> dict[str, Any]:
    """What a file holds, if it is the published one; its MD5 is all that was published, so it is not trusted either."""
    if md5(content, usedforsecurity=False).hexdigest() != digest:
        raise _DamagedError
    with warnings.catch_warnings():
        # The files are pickles of arrays written by a NumPy of 2009, which today's reads with a warning.
        warnings.simplefilter("ignore", np.exceptions.VisibleDeprecationWarning)
        try:
            found: dict[str, Any] = _ArraysOnly(io.BytesIO(content), encoding="latin1").load()
        except pickle.UnpicklingError as error:
            raise _DamagedError(str(error)) from error
    return found


@dataclass(config=ConfigDict(extra="forbid"))
class CIFAR10(_CIFAR):
    """CIFAR-10 (Krizhevsky, 2009): ten classes of 32x32 colour images, 50,000 to train and 10,000 to test."""

    root: Root = DEFAULT_ROOT
    download: bool = True
    augment: bool = True

    @property
    def name(self) -> str:
        """torchvision's name."""
        return "CIFAR10"

    def load(self) -> Data:
        """The images as bytes; downloaded if they are not in `root`."""
        return self._load(10, mean=(0.4914, 0.4822, 0.4465), std=(0.2470, 0.2435, 0.2616))

    def facts(self) -> DataFacts:
        """Known without the files."""
        return DataFacts(50_000, (3, 32, 32), 10)


@dataclass(config=ConfigDict(extra="forbid"))
class CIFAR100(_CIFAR):
    """CIFAR-100 (Krizhevsky, 2009): a hundred classes of 32x32 colour images, 50,000 to train and 10,000 to test."""

    root: Root = DEFAULT_ROOT
    download: bool = True
    augment: bool = True

    @property
    def name(self) -> str:
        """torchvision's name."""
        return "CIFAR100"

    def load(self) -> Data:
        """The images as bytes; downloaded if they are not in `root`."""
        return self._load(100, mean=(0.5071, 0.4866, 0.4409), std=(0.2673, 0.2564, 0.2762))

    def facts(self) -> DataFacts:
        """Known without the files."""
        return DataFacts(50_000, (3, 32, 32), 100)
