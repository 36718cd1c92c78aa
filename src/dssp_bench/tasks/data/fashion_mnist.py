"""Fashion-MNIST, read from torchvision's files or from Debian's."""

import gzip
import zlib
from hashlib import sha256
from pathlib import Path
from typing import cast

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

DEBIAN = Path("/usr/share/datasets/fashion-mnist")  # where the package dataset-fashion-mnist puts it
SHA256 = {  # of the files unpacked
    "train-images-idx3-ubyte": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
    "train-labels-idx1-ubyte": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
    "t10k-images-idx3-ubyte": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
    "t10k-labels-idx1-ubyte": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
}
FILES = tuple(SHA256)


@dataclass(config=ConfigDict(extra="forbid"))
class FashionMNIST(DataSource):
    """70,000 grey images of clothes, 28x28 (Xiao, Rasul and Vollgraf, 2017), 10,000 of them to test."""

    root: Root = DEFAULT_ROOT
    download: bool = True
    augment: bool = False

    def load(self) -> Data:
        """The images as bytes; from `root` if they are there, else from Debian's package, else downloaded."""
        files = zip(self._files(), SHA256.values(), strict=True)
        train_inputs, train_labels, test_inputs, test_labels = (read_idx(file, digest) for file, digest in files)
        return Data(
            train_inputs=train_inputs.unsqueeze(1),
            train_labels=train_labels.to(torch.int64),
            test_inputs=test_inputs.unsqueeze(1),
            test_labels=test_labels.to(torch.int64),
            classes=10,
            mean=(0.2860,),
            std=(0.3530,),
            crop_padding=2 if self.augment else 0,
            mirror=self.augment,
        )

    def facts(self) -> DataFacts:
        """Known without the files."""
        return DataFacts(60_000, (1, 28, 28), 10)

    def _files(self) -> list[Path]:
        raw = folder(self.root) / "FashionMNIST" / "raw"
        files = _all_files(raw) or _all_files(DEBIAN)
        if files is None:
            failure = self._download() if self.download else "download is off"
            files = _all_files(raw)
        if files is None:
            raise DataNotFound(
                f"Fashion-MNIST is not on this machine ({failure}): apt-get install dataset-fashion-mnist, "
                f"or put {FILES[0]}.gz and its three companions in {raw}"
            )
        return files

    def _download(self) -> str | None:
        source = import_torchvision("datasets").FashionMNIST
        return download(lambda: source(folder(self.root), download=True), source.mirrors[0] + FILES[0] + ".gz")


def _all_files(where: Path) -> list[Path] | None:
    """The four files in this folder, packed or not; None unless all are there."""
    found = [next((file for file in (where / name, where / f"{name}.gz") if file.is_file()), None) for name in FILES]
    return None if None in found else cast(list[Path], found)


def read_idx(file: Path, digest: str | None = None) -> Tensor:
    """A file in the IDX format of MNIST, perhaps gzipped, as bytes in its own shape.

    Raises `DataNotFound` if it is damaged, or not the one whose content has this SHA-256, if that is given.

    The format: two zeros, the type (8: unsigned bytes), the number of dimensions, each dimension in four bytes with the
    highest first, the data.
    """
    try:
        content = bytearray(_content(file))
        if digest and sha256(content).hexdigest() != digest:
            raise ValueError("its SHA-256 is not that of the published file")
        if content[:3] != b"\x00\x00\x08":
            raise ValueError("not an IDX file of bytes")
        dimensions = content[3]
        shape = np.frombuffer(content, ">u4", dimensions, offset=4).tolist()
        return torch.from_numpy(np.frombuffer(content, np.uint8, offset=4 + 4 * dimensions).reshape(shape))
    except (OSError, EOFError, ValueError, IndexError, zlib.error) as error:
        raise DataNotFound(f"{file} is damaged ({error}): delete it and fetch it again") from error


def _content(file: Path) -> bytes:
    content = file.read_bytes()
    return gzip.decompress(content) if file.suffix == ".gz" else content
