"""The handwritten digits that come with scikit-learn."""

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import ConfigDict
from pydantic.dataclasses import dataclass

from dssp_bench.tasks.task import Data, DataFacts, DataSource

TEST_SHARE = 5  # every fifth example is a test example
INK = 16  # the largest value of a pixel


@dataclass(config=ConfigDict(extra="forbid"))
class Digits(DataSource):
    """1797 handwritten digits of 8x8 pixels (UCI, 1998): real images that need no network, the default.

    1437 to train, 360 to test; the split is the same for every seed.
    """

    def load(self) -> Data:
        """The digits as floats from 0 to 1."""
        table = _read()
        # The legacy generator, because its stream is the one that NumPy promises never to change.
        table = table[np.random.RandomState(0).permutation(len(table))]
        inputs = torch.from_numpy(table[:, :-1]).to(torch.float32).view(-1, 1, 8, 8) / INK
        labels = torch.from_numpy(table[:, -1]).to(torch.int64)
        test = len(labels) // TEST_SHARE + 1
        return Data(
            train_inputs=inputs[test:],
            train_labels=labels[test:],
            test_inputs=inputs[:test],
            test_labels=labels[:test],
            classes=10,
            mean=(0.305,),
            std=(0.376,),
        )

    def facts(self) -> DataFacts:
        """Known without the file."""
        return DataFacts(1437, (1, 8, 8), 10)


def _read() -> NDArray[np.float64]:
    """One row per digit: 64 pixels and the label."""
    file = _file()
    if file is not None:
        return np.loadtxt(file, delimiter=",")
    from sklearn.datasets import load_digits

    digits = load_digits()
    return np.column_stack([digits.data, digits.target])


def _file() -> Path | None:
    """scikit-learn's own file, found without importing scikit-learn, which takes seconds."""
    package = find_spec("sklearn")
    if package is None or package.origin is None:
        return None
    file = Path(package.origin).parent / "datasets" / "data" / "digits.csv.gz"
    return file if file.is_file() else None
