import gzip
import pickle
import struct
import subprocess
import sys
from hashlib import md5, sha256
from pathlib import Path
from threading import Event
from typing import Any
from urllib.error import HTTPError, URLError

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from dssp_bench.core.errors import ConfigurationError, DataNotFound
from dssp_bench.tasks.data import digits, fashion_mnist
from dssp_bench.tasks.data import download as downloads
from dssp_bench.tasks.data.cifar import CIFAR10, CIFAR100
from dssp_bench.tasks.data.digits import Digits
from dssp_bench.tasks.data.fashion_mnist import FILES, FashionMNIST, read_idx
from dssp_bench.tasks.data.synthetic import Synthetic
from dssp_bench.tasks.task import Data, DataSource, prepare
from dssp_bench.tasks.torchvision_import import import_torchvision


def assert_sound(data: Data) -> None:
    """Training and test part fit each other, and the training inputs are about normalised."""
    assert data.train_inputs.shape[1:] == data.test_inputs.shape[1:]
    assert data.train_inputs.dtype == data.test_inputs.dtype
    assert data.train_labels.dtype == data.test_labels.dtype == torch.int64
    assert len(data.test_inputs) == len(data.test_labels)
    assert set(data.train_labels.tolist()) == set(range(data.classes))
    inputs = prepare(data.train_inputs, data)
    assert abs(inputs.mean().item()) < 0.05
    assert abs(inputs.std().item() - 1) < 0.1


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object, **options: object) -> None:
        raise URLError("no network in tests")

    monkeypatch.setattr(downloads, "urlopen", refuse)
    monkeypatch.setattr(fashion_mnist, "DEBIAN", Path("/nowhere"))
    monkeypatch.setattr(fashion_mnist, "SHA256", dict(fashion_mnist.SHA256))


# --- digits ---


def test_digits_are_real_images_split_once_and_for_all() -> None:
    data, again = Digits().load(), Digits().load()
    assert_sound(data)
    assert data.input_shape == (1, 8, 8)
    assert (data.examples, len(data.test_labels)) == (1437, 360)
    assert torch.equal(data.test_inputs, again.test_inputs)
    assert data.train_inputs.max() == 1


def test_every_digit_is_in_one_part_only() -> None:
    data = Digits().load()
    train = {tuple(image.flatten().tolist()) for image in data.train_inputs}
    assert not any(tuple(image.flatten().tolist()) in train for image in data.test_inputs)
    assert data.test_labels.bincount().min() > 20


def test_digits_need_neither_scikit_learn_nor_torchvision_which_take_seconds_to_import() -> None:
    program = """
import sys
from dssp_bench.tasks import sharding, task
from dssp_bench.tasks.data import cifar, digits, fashion_mnist, synthetic
from dssp_bench.tasks.models import torchvision_model
digits.Digits().load()
assert not {"sklearn", "torchvision"} & sys.modules.keys()
"""
    subprocess.run([sys.executable, "-c", program], check=True)


def test_digits_are_the_same_without_scikit_learns_file(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = Digits().load()
    monkeypatch.setattr(digits, "_file", lambda: None)
    fallen_back = Digits().load()
    assert torch.equal(fallen_back.train_inputs, expected.train_inputs)
    assert torch.equal(fallen_back.test_labels, expected.test_labels)


# --- Fashion-MNIST ---


def idx(values: np.ndarray) -> bytes:
    return bytes([0, 0, 8, values.ndim]) + struct.pack(f">{values.ndim}I", *values.shape) + values.tobytes()


def write_fashion_mnist(folder: Path, packed: bool = False) -> None:
    """A few small images with their checksums, which the test sets back."""
    folder.mkdir(parents=True)
    for name in FILES:
        count = 20 if name.startswith("train") else 10
        images = np.arange(count * 6, dtype=np.uint8).reshape(count, 2, 3)
        content = idx(images if "images" in name else np.arange(count, dtype=np.uint8) % 10)
        fashion_mnist.SHA256[name] = sha256(content).hexdigest()
        if packed:
            (folder / f"{name}.gz").write_bytes(gzip.compress(content))
        else:
            (folder / name).write_bytes(content)


@pytest.mark.parametrize("packed", [False, True])
def test_fashion_mnist_is_read_from_torchvisions_folder(tmp_path: Path, packed: bool) -> None:
    write_fashion_mnist(tmp_path / "FashionMNIST" / "raw", packed)
    data = FashionMNIST(root=str(tmp_path), download=False).load()
    assert data.train_inputs.shape == (20, 1, 2, 3)
    assert data.train_inputs.dtype == torch.uint8
    assert data.train_inputs[1].flatten().tolist() == [6, 7, 8, 9, 10, 11]
    assert data.test_labels.tolist() == list(range(10))


def test_fashion_mnist_is_read_from_debians_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_fashion_mnist(tmp_path / "debian", packed=True)
    monkeypatch.setattr(fashion_mnist, "DEBIAN", tmp_path / "debian")
    assert FashionMNIST(root=str(tmp_path), download=False).load().examples == 20


def test_fashion_mnist_is_augmented_only_if_asked(tmp_path: Path) -> None:
    write_fashion_mnist(tmp_path / "FashionMNIST" / "raw")
    plain, augmented = (FashionMNIST(root=str(tmp_path), augment=augment).load() for augment in (False, True))
    assert (plain.crop_padding, plain.mirror) == (0, False)
    assert (augmented.crop_padding, augmented.mirror) == (2, True)


@pytest.mark.parametrize(
    ("download", "reason"), [(True, "the download server does not answer"), (False, "download is off")]
)
def test_without_fashion_mnist_the_message_says_both_ways_to_get_it(
    tmp_path: Path, download: bool, reason: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(DataNotFound) as caught:
        FashionMNIST(root=str(tmp_path), download=download).load()
    message = str(caught.value)
    assert reason in message
    assert "apt-get install dataset-fashion-mnist" in message
    assert str(tmp_path / "FashionMNIST" / "raw") in message
    assert capfd.readouterr() == ("", "")


def test_fashion_mnist_files_that_are_not_the_published_ones_are_refused(tmp_path: Path) -> None:
    raw = tmp_path / "FashionMNIST" / "raw"
    write_fashion_mnist(raw)
    content = bytearray((raw / FILES[2]).read_bytes())
    content[-1] ^= 1
    (raw / FILES[2]).write_bytes(content)
    with pytest.raises(DataNotFound, match=f"{FILES[2]} is damaged .*SHA-256"):
        FashionMNIST(root=str(tmp_path), download=False).load()


@pytest.mark.parametrize("content", [b"", b"\x00", b"not an IDX file", idx(np.zeros((3, 2), np.uint8))[:-1]])
@pytest.mark.parametrize("name", ["images", "images.gz"])
def test_a_damaged_idx_file_is_named(tmp_path: Path, content: bytes, name: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataNotFound, match=f"{name} is damaged"):
        read_idx(tmp_path / name)


# --- CIFAR ---


class PickledLongAgo:
    """An array of bytes as a NumPy of 2009 pickled it: today's NumPy warns about the 0 and 1 in its data type."""

    def __init__(self, values: np.ndarray) -> None:
        self.values = values

    def __reduce__(self) -> tuple:
        reconstruct: Any = self.values.__reduce__()[0]
        text = self.values.tobytes().decode("latin1")  # as Python 2's bytes are read
        return reconstruct, (np.ndarray, (0,), "b"), (1, self.values.shape, OldBytes(), False, text)


class OldBytes:
    def __reduce__(self) -> tuple:
        return np.dtype, ("u1", 0, 1)


def write_cifar(root: Path, source: type, monkeypatch: pytest.MonkeyPatch) -> None:
    """A few images in torchvision's layout, with their checksums."""
    folder = root / source.base_folder  # type: ignore[attr-defined]
    folder.mkdir(parents=True)
    for files in ("train_list", "test_list"):
        listed = []
        for name, _ in getattr(source, files):
            pixels = np.arange(2 * 3072, dtype=np.uint32).astype(np.uint8).reshape(2, 3072)
            part = {"data": PickledLongAgo(pixels), "labels" if "_" in name else "fine_labels": [3, 7]}
            # Protocol 2 as then; NumPy's internals have moved since.
            content = pickle.dumps(part, protocol=2).replace(b"numpy._core.multiarray", b"numpy.core.multiarray")
            (folder / name).write_bytes(content)
            listed.append((name, md5(content).hexdigest()))
        monkeypatch.setattr(source, files, listed)


@pytest.mark.parametrize(("option", "classes", "examples"), [(CIFAR10, 10, 10), (CIFAR100, 100, 2)])
def test_cifar_is_read_from_torchvisions_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, option: type[CIFAR10], classes: int, examples: int
) -> None:
    source = option(root=str(tmp_path), download=False)
    write_cifar(tmp_path, getattr(import_torchvision("datasets"), source.name), monkeypatch)
    data = source.load()
    assert data.train_inputs.shape == (examples, 3, 32, 32)
    assert data.train_inputs.dtype == torch.uint8
    assert data.train_inputs[0, 0, 0].tolist() == list(range(32))  # rows of the red channel come first
    assert data.train_labels[:2].tolist() == [3, 7]
    assert data.classes == classes
    assert (data.crop_padding, data.mirror) == (4, True)


@pytest.mark.parametrize("source", [CIFAR10, CIFAR100])
@pytest.mark.parametrize(
    ("download", "reason"), [(True, "the download server does not answer"), (False, "download is off")]
)
def test_without_cifar_the_message_says_what_to_put_where(
    tmp_path: Path, source: type[CIFAR10], download: bool, reason: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(DataNotFound, match=rf"is not on this machine \({reason}\): unpack https://") as caught:
        source(root=str(tmp_path), download=download).load()
    assert str(tmp_path / "cifar-10") in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1
    assert capfd.readouterr() == ("", "")


class Harmful:
    def __reduce__(self) -> tuple:
        return print, ("this has run",)


@pytest.mark.parametrize("checksum_fits", [False, True])
def test_a_cifar_file_that_would_run_something_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], checksum_fits: bool
) -> None:
    source = import_torchvision("datasets").CIFAR10
    write_cifar(tmp_path, source, monkeypatch)
    content = pickle.dumps({"data": Harmful(), "labels": []}, protocol=2)
    (name, _), *others = source.train_list
    (tmp_path / source.base_folder / name).write_bytes(content)
    if checksum_fits:
        monkeypatch.setattr(source, "train_list", [(name, md5(content).hexdigest()), *others])
    with pytest.raises(DataNotFound, match="incomplete or damaged"):
        CIFAR10(root=str(tmp_path), download=False).load()
    assert "this has run" not in capfd.readouterr().out


def test_damaged_cifar_files_are_not_called_missing(tmp_path: Path) -> None:
    (tmp_path / "cifar-10-batches-py").mkdir()
    with pytest.raises(DataNotFound, match=r"cifar-10-batches-py is incomplete or damaged"):
        CIFAR10(root=str(tmp_path), download=False).load()


# --- downloading ---


def test_a_refusal_is_an_answer_too(monkeypatch: pytest.MonkeyPatch) -> None:
    def forbid(*arguments: object, **options: object) -> None:
        raise HTTPError("http://example.invalid", 403, "Forbidden", None, None)  # type: ignore[arg-type]

    assert not downloads.answers("http://example.invalid")
    monkeypatch.setattr(downloads, "urlopen", forbid)
    assert downloads.answers("http://example.invalid")


def test_a_server_that_keeps_silent_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    silence = Event()

    def keep_silent(*arguments: object, **options: object) -> None:
        silence.wait(60)
        raise URLError("silent for too long")

    monkeypatch.setattr(downloads, "PATIENCE_S", 0.01)
    monkeypatch.setattr(downloads, "urlopen", keep_silent)
    try:
        assert not downloads.answers("http://example.invalid")
    finally:
        silence.set()


def test_a_download_that_breaks_off_says_why_in_one_line(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def fetch() -> None:
        print("torchvision's chatter")
        raise RuntimeError("File not found or corrupted.\nTried everything.")

    monkeypatch.setattr(downloads, "answers", lambda url: True)
    assert downloads.download(fetch, "url") == "the download failed: File not found or corrupted."
    assert downloads.download(lambda: None, "url") is None
    assert capfd.readouterr().out == ""


# --- synthetic ---


def test_synthetic_images_have_the_shape_and_number_asked_for() -> None:
    data = Synthetic(shape=(1, 6, 9), classes=3, examples=31, test_examples=7).load()
    assert data.train_inputs.shape == (31, 1, 6, 9)
    assert data.test_inputs.shape == (7, 1, 6, 9)
    assert data.train_labels.bincount().tolist() == [11, 10, 10]


def test_synthetic_images_are_sound_and_the_same_for_the_same_seed() -> None:
    first, again, other = (Synthetic(examples=500, test_examples=50, seed=seed).load() for seed in (0, 0, 1))
    assert_sound(first)
    assert torch.equal(first.train_inputs, again.train_inputs)
    assert not torch.equal(first.train_inputs, other.train_inputs)


def test_synthetic_classes_can_be_told_apart_by_the_training_images() -> None:
    data = Synthetic(examples=500, test_examples=100).load()
    train, test = data.train_inputs.float().flatten(1), data.test_inputs.float().flatten(1)
    means = torch.stack([train[data.train_labels == label].mean(0) for label in range(data.classes)])
    assert (torch.cdist(test, means).argmin(1) == data.test_labels).float().mean() > 0.9


def test_without_noise_all_images_of_a_class_are_equal() -> None:
    data = Synthetic(shape=(1, 4, 4), classes=2, examples=10, noise=0).load()
    assert len(set(map(tuple, data.train_inputs.flatten(1).tolist()))) == 2


@pytest.mark.parametrize("options", [{"classes": 1}, {"shape": (0, 8, 8)}, {"noise": -1}, {"exmaples": 5}])
def test_impossible_options_are_refused(options: dict) -> None:
    with pytest.raises(ValidationError, match=next(iter(options))):
        Synthetic(**options)


def test_more_images_than_fit_into_memory_are_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"dataset: its images take .* GB, and this machine has"):
        Synthetic(examples=10**15).load()


def test_lists_from_yaml_are_accepted_as_shapes() -> None:
    source: DataSource = Synthetic(shape=[1, 4, 4], examples=4, test_examples=2)  # type: ignore[arg-type]
    assert source.load().input_shape == (1, 4, 4)
