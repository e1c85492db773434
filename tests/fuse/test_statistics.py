"""Latencies of requests, in classes."""

from __future__ import annotations

import math

from overlaykit.fuse.statistics import LATENCIES, Clock, bound, of_opcodes


def test_a_latency_is_in_the_first_class_whose_bound_it_is_below() -> None:
    clock = Clock()
    for nanoseconds in (0, 1023, 1024, 2047, 2048, 10**12):
        clock.add("read", nanoseconds)
    found = clock.latencies()["read"]
    assert found.numbers == (2, 2, 1, *[0] * (LATENCIES - 4), 1)
    assert found.nanoseconds == 10**12 + 1023 + 1024 + 2047 + 2048
    assert [bound(0), bound(2), bound(LATENCIES - 1)] == [1024, 4096, math.inf]
    assert [found.below(0.3), found.below(0.6), found.below(1)] == [1024, 2048, math.inf]


def test_opcodes_of_one_kind_are_added() -> None:
    counts = [[0] * (1 + LATENCIES) for _ in range(64)]
    counts[12][:2] = 100, 1  # RENAME and RENAME2
    counts[45][:2] = 200, 3
    counts[48][:3] = 5000, 0, 1  # one without a name
    found = of_opcodes(counts)
    assert sorted(found) == ["other", "rename"]
    assert (found["rename"].count, found["rename"].nanoseconds) == (4, 300)
    assert found["other"].numbers[:2] == (0, 1)
