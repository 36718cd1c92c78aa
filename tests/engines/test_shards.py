"""The server's word with its shards, when they do not keep theirs."""

import pytest
import torch

from dssp_bench.core.errors import DsspBenchError
from dssp_bench.engines.local import shards as module
from dssp_bench.engines.local.channel import Channel, Kind, channel_pair
from dssp_bench.engines.local.memory import SharedTensors
from dssp_bench.engines.local.shards import Shards


def meet() -> tuple[tuple[Channel, SharedTensors], Channel]:
    here, there = channel_pair()
    return (here, SharedTensors([((4,), torch.float32)])), there


def test_a_shard_that_dies_before_it_is_ready_is_named() -> None:
    meeting, there = meet()
    there.close()
    with pytest.raises(DsspBenchError, match="server shard 1 died"):
        Shards([meeting], lambda *_: pytest.fail("there is nobody yet who could be told"))
    meeting[0].close()


def test_what_a_shard_fails_of_is_said() -> None:
    meeting, there = meet()
    there.send_text(Kind.FAILED, "its own reason")
    with pytest.raises(DsspBenchError, match="server shard 1 failed:\nits own reason"):
        Shards([meeting], lambda *_: pytest.fail("there is nobody yet who could be told"))
    meeting[0].close()
    there.close()


def test_a_shard_that_hangs_is_not_waited_for_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_ANSWERS_WITHIN_S", 0.1)
    meeting, there = meet()
    there.send(Kind.READY)
    shards = Shards([meeting])
    with pytest.raises(DsspBenchError, match=r"server shard 1 has not answered for 0\.1 s"):
        shards.drain()
    meeting[0].close()
    there.close()
