from itertools import islice

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from dssp_bench.core.errors import ConfigurationError
from dssp_bench.tasks.sharding import Batches, iterations, shard
from tests.tasks.samples import numbered


@given(st.integers(0, 200), st.integers(1, 12), st.integers(0, 3))
def test_shards_are_even_and_disjoint_and_cover_everything(examples: int, workers: int, seed: int) -> None:
    shards = [shard(examples, workers, index, seed) for index in range(workers)]
    sizes = [len(part) for part in shards]
    assert max(sizes) - min(sizes) <= 1
    assert torch.cat(shards).sort().values.tolist() == list(range(examples))
    assert all(part.dtype == torch.int64 for part in shards)


def test_shards_mix_examples_that_lie_together() -> None:
    first_half = (shard(1000, 2, 0, seed=0) < 500).sum()
    assert 200 < first_half < 300


def test_another_seed_gives_other_shards() -> None:
    assert shard(100, 2, 0, seed=0).tolist() == shard(100, 2, 0, seed=0).tolist()
    assert shard(100, 2, 0, seed=0).tolist() != shard(100, 2, 0, seed=1).tolist()


def stream(batch_size: int, batches: int, seed: int = 0, worker: int = 0, examples: int = 10) -> list[Tensor]:
    data = numbered(examples)
    return [labels for _, labels in islice(Batches(data, torch.arange(examples), batch_size, seed, worker), batches)]


@pytest.mark.parametrize("batch_size", [1, 3, 4, 7, 10])
def test_batches_are_full_and_their_concatenation_is_one_permutation_after_the_other(batch_size: int) -> None:
    epochs = 6
    batches = stream(batch_size, iterations(epochs, 10, batch_size))
    assert {len(batch) for batch in batches} == {batch_size}
    passes = torch.cat(batches)[: 10 * epochs].view(epochs, 10)
    assert all(one.sort().values.tolist() == list(range(10)) for one in passes)
    assert len({tuple(one.tolist()) for one in passes}) == epochs


def test_an_iteration_count_covers_the_epochs_and_no_more() -> None:
    assert iterations(epochs=1, shard_size=10, batch_size=5) == 2
    assert iterations(epochs=1, shard_size=10, batch_size=3) == 4
    assert iterations(epochs=3, shard_size=10, batch_size=3) == 10
    assert iterations(epochs=0.5, shard_size=10, batch_size=5) == 1


def test_batches_depend_on_seed_and_worker_alone() -> None:
    def labels(seed: int, worker: int) -> list[int]:
        return torch.cat(stream(4, 5, seed, worker)).tolist()

    torch.manual_seed(1)
    first = labels(0, 0)
    torch.manual_seed(2)
    assert labels(0, 0) == first
    assert labels(1, 0) != first
    assert labels(0, 1) != first


def test_a_batch_holds_the_inputs_of_its_labels_normalised() -> None:
    inputs, labels = next(Batches(numbered(), torch.tensor([2, 3, 5, 7]), batch_size=3, seed=0, worker=0))
    assert inputs.dtype == torch.float32
    assert torch.allclose(inputs, labels.view(-1, 1, 1, 1).expand_as(inputs).float())
    assert set(labels.tolist()) < {2, 3, 5, 7}


def test_an_image_is_augmented_anew_each_time() -> None:
    data = numbered(crop_padding=2, mirror=True)
    batches = Batches(data, torch.tensor([9]), batch_size=1, seed=0, worker=0)
    seen = {tuple(inputs.round().flatten().tolist()) for inputs, _ in islice(batches, 40)}
    assert len(seen) > 10


def test_augmentation_does_not_depend_on_where_batches_are_cut() -> None:
    data = numbered(crop_padding=2, mirror=True)
    by_three, by_four = (Batches(data, torch.arange(10), size, seed=0, worker=0) for size in (3, 4))
    threes = torch.cat([next(by_three)[0] for _ in range(8)])
    fours = torch.cat([next(by_four)[0] for _ in range(6)])
    assert torch.equal(threes, fours)


def test_the_data_are_never_written() -> None:
    data = numbered(crop_padding=1, mirror=True)
    for inputs, labels in islice(Batches(data, torch.arange(10), 4, seed=0, worker=0), 6):
        inputs.zero_()
        labels.zero_()
    assert torch.equal(data.train_inputs, numbered().train_inputs)
    assert torch.equal(data.train_labels, numbered().train_labels)


@pytest.mark.parametrize("crop_padding", [0, 2])
def test_on_another_device_nothing_stays_on_the_cpu(crop_padding: int) -> None:
    # torch refuses to mix devices, and "meta" is one that every machine has
    data = numbered(crop_padding=crop_padding)
    inputs, labels = list(islice(Batches(data, torch.arange(8), 3, seed=0, worker=0, device="meta"), 5))[-1]
    assert (inputs.device.type, labels.device.type) == ("meta", "meta")
    assert inputs.shape == (3, 2, 4, 4)


def test_a_batch_larger_than_the_shard_is_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"^batch_size: 11 is more than the 10 training examples of worker 3"):
        Batches(numbered(), torch.arange(10), batch_size=11, seed=0, worker=3)
