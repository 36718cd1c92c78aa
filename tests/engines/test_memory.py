"""Tensors in memory that processes share."""

import gc
import multiprocessing
import os
import pickle
from pathlib import Path

import pytest
import torch

from dssp_bench.engines.local import memory
from dssp_bench.engines.local.memory import SharedMemory, SharedTensors
from tests.experiment.watching import shared_memory, shared_memory_left

FLOAT, DOUBLE, BYTE = torch.float32, torch.float64, torch.uint8


def test_tensors_lie_one_after_the_other_on_boundaries_of_their_own() -> None:
    views = SharedTensors([((3,), BYTE), ((5, 2), FLOAT), ((), DOUBLE), ((100,), FLOAT)]).views()
    assert [tuple(view.shape) for view in views] == [(3,), (5, 2), (), (100,)]
    addresses = [view.data_ptr() for view in views]
    assert [address % 64 for address in addresses] == [0, 0, 0, 0]
    assert [address - addresses[0] for address in addresses] == [0, 64, 128, 192]


def test_tensors_do_not_overlap() -> None:
    views = SharedTensors([((n,), FLOAT) for n in (1, 16, 17, 1000)]).views()
    for number, view in enumerate(views):
        view.fill_(number)
    assert [set(view.tolist()) for view in views] == [{0}, {1}, {2}, {3}]


def test_views_are_the_same_memory_every_time() -> None:
    shared = SharedTensors([((4,), FLOAT)])
    shared.views()[0].fill_(7)
    assert shared.views()[0].tolist() == [7] * 4


def test_new_memory_is_zero() -> None:
    assert not SharedTensors([((1000,), FLOAT)]).views()[0].any()


def test_a_tensor_without_elements_is_no_trouble() -> None:
    full, empty, matrix = SharedTensors([((2,), FLOAT), ((0,), FLOAT), ((3, 0), DOUBLE)]).views()
    assert (empty.numel(), matrix.shape, matrix.dtype, full.numel()) == (0, (3, 0), DOUBLE, 2)
    assert SharedTensors([((0,), FLOAT)]).views()[0].tolist() == []


def test_a_copy_has_the_same_values_shapes_and_types() -> None:
    originals = [torch.arange(6).view(2, 3), torch.tensor(2.5), torch.ones(3, dtype=BYTE)]
    for copy, original in zip(SharedTensors.copy_of(originals).views(), originals, strict=True):
        assert copy.dtype == original.dtype
        assert torch.equal(copy, original)
        assert copy.data_ptr() != original.data_ptr()


def test_a_tensor_outlives_the_object_it_was_made_from() -> None:
    view = SharedTensors([((1000,), FLOAT)]).views()[0]
    gc.collect()
    view.fill_(3)
    assert view.sum() == 3000


def test_it_is_handed_over_only_while_a_process_is_being_started() -> None:
    with pytest.raises(TypeError, match="only to a process that is being started"):
        pickle.dumps(SharedMemory(10))


def test_it_has_no_name_and_gives_its_descriptors_back() -> None:
    names, before = shared_memory(), len(os.listdir("/proc/self/fd"))
    shared = [SharedTensors([((100,), FLOAT)]) for _ in range(20)]
    views = [view for s in shared for view in s.views()]
    assert len(os.listdir("/proc/self/fd")) > before
    assert shared_memory_left(names) == set()
    del shared, views
    gc.collect()
    assert len(os.listdir("/proc/self/fd")) == before


def _double(shared: SharedTensors) -> None:
    shared.views()[0].mul_(2)


@pytest.mark.processes
def test_what_a_child_writes_is_seen_here() -> None:
    shared = SharedTensors.copy_of([torch.arange(5.0)])
    process = multiprocessing.get_context("forkserver").Process(target=_double, args=(shared,))
    process.start()
    process.join()
    assert process.exitcode == 0
    assert shared.views()[0].tolist() == [0, 2, 4, 6, 8]


def test_there_are_no_files_behind_it() -> None:
    shared = SharedTensors([((100,), FLOAT)])
    links = [os.readlink(entry) for entry in Path("/proc/self/fd").iterdir() if entry.is_symlink()]
    assert any("memfd:dssp-bench" in link for link in links)
    assert shared


def test_names_that_cuda_left_for_a_process_that_has_ended_are_removed_and_no_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "_SHM", tmp_path)
    others = {"torch_4950_1_0", "torch_49_1_0", "cuda.shm.0.1ef0.1", "cuda.shm.0.495.1", "somebody's"}
    for name in {"torch_495_3851538321_0", "cuda.shm.0.1ef.1", *others}:
        (tmp_path / name).touch()
    memory.remove_cuda_names(None)
    memory.remove_cuda_names(495)
    assert set(os.listdir(tmp_path)) == others
