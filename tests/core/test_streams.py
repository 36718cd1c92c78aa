"""Streams of randomness: each its own, and the same everywhere."""

from itertools import product

from dssp_bench.core.streams import stream_seed


def test_a_stream_is_the_same_on_every_machine_and_for_ever() -> None:
    assert stream_seed(0, "data", worker=3) == 4_204_811_622_091_124_983
    assert stream_seed(0, "data", worker=3) != stream_seed(0, "data")


def test_no_two_streams_are_alike() -> None:
    names = list(product(range(5), ["data", "dropout", "jitter"], [None, *range(8)], [None, *range(8)]))
    assert len({stream_seed(*name) for name in names}) == len(names)


def test_a_seed_fits_where_63_bits_fit() -> None:
    seeds = [stream_seed(seed, "data") for seed in range(1000)]
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert max(seeds) > 2**62
