"""Decode attention in memory, command by command, against the linear model of it.

The walk below issues what a controller would: rows closed and opened, accesses of all units, operands over the bus. A
request's context may end anywhere in a row; the mean of the walked times over a whole period of contexts is what the
model says of their mean, exactly.
"""

import math
from fractions import Fraction
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmservingsim.config.catalog import PimSpec, find_model, find_pim
from llmservingsim.latency.pim import BankPim
from llmservingsim.model import ParallelLayout

AIM = find_pim("GDDR6-AiM", Path())
HBM = find_pim("HBM-PIM", Path())
LLAMA = find_model("meta-llama/Llama-3.1-8B")
SHARING, WIDTH, BYTES = 4, 128, 2
TOKEN_BYTES = WIDTH * BYTES


class Walk:
    """A clock that commands move on, on one channel without refresh."""

    def __init__(self, spec: PimSpec) -> None:
        self.spec = spec
        self.now = 0.0

    def cycles(self, *counts: int) -> None:
        self.now += sum(counts) * self.spec.tck_ns

    def bus(self, size: int) -> None:
        self.now += size / self.spec.channel_bandwidth * 1e9

    def start(self) -> None:
        self.now += self.spec.command_ns
        self.cycles(self.spec.cwl, self.spec.cl)

    def append(self) -> None:
        for _ in ("key", "value"):
            self.bus(TOKEN_BYTES)
            self.cycles(self.spec.trp, self.spec.trcd, self.spec.twr)

    def open_all_banks(self) -> None:
        groups = range(0, self.spec.banks, self.spec.banks_per_activate)
        self.cycles(self.spec.trp)
        for _ in groups[1:]:
            self.cycles(self.spec.tfaw)
        self.cycles(self.spec.trcd)

    def access(self, count: int) -> None:
        """All units read so often, each time for four query heads, 16 values through 16 multipliers."""
        self.now += count * SHARING * max(self.spec.tccd_l * self.spec.tck_ns, 1e9 / self.spec.unit_clock)

    def serve_the_other_queries(self) -> None:
        """The buffer holds one of four: send all again while the row is open, or open it three times more."""
        send, reopen = Walk(self.spec), Walk(self.spec)
        send.bus(SHARING * TOKEN_BYTES)
        for _ in range(SHARING - 1):
            reopen.open_all_banks()
        self.now += min(send.now, reopen.now)

    def scores(self, context: int) -> None:
        spec, per_round = self.spec, self.spec.banks * self.spec.page_bytes // TOKEN_BYTES
        fits = spec.buffer_bytes >= SHARING * TOKEN_BYTES
        self.start()
        self.bus(SHARING * TOKEN_BYTES)
        for first in range(0, context, per_round):
            self.open_all_banks()
            if not fits:
                self.serve_the_other_queries()
            keys_of_a_unit = -(-min(per_round, context - first) // spec.units)
            self.access(keys_of_a_unit * TOKEN_BYTES // spec.access_bytes)
        self.bus(SHARING * context * BYTES)

    def values(self, context: int) -> None:
        spec, per_round = self.spec, self.spec.banks * self.spec.page_bytes // TOKEN_BYTES
        per_access = spec.access_bytes // BYTES
        keeps_results = WIDTH // spec.units * SHARING <= spec.accumulators
        tile = context if keeps_results else spec.buffer_bytes // (SHARING * BYTES)
        self.start()
        self.bus(SHARING * context * BYTES)
        for first in range(0, context, per_round):
            self.open_all_banks()
            self.access(-(-min(per_round, context - first) // per_access) * WIDTH // spec.units)
        for _ in range(0, context, tile):
            self.bus(SHARING * WIDTH * BYTES)


def walked_ns(spec: PimSpec, context: int) -> float:
    walk = Walk(spec)
    walk.append()
    walk.scores(context)
    walk.values(context)
    return walk.now


def modelled_ns(spec: PimSpec, context: Fraction) -> float:
    time = BankPim(spec, LLAMA, ParallelLayout(), 8).attention_time
    return (time.per_request + time.per_token * float(context)) * (1 - spec.trfc / spec.trefi)


def period(spec: PimSpec) -> int:
    per_round = spec.banks * spec.page_bytes // TOKEN_BYTES
    return math.lcm(per_round, spec.units, spec.access_bytes // BYTES, spec.buffer_bytes // (SHARING * BYTES))


CYCLES = st.integers(1, 60)


@settings(max_examples=40, deadline=None)
@given(spec=st.sampled_from([AIM, HBM]), trcd=CYCLES, trp=CYCLES, tfaw=CYCLES, together=st.sampled_from([1, 4, 16]))
def test_the_mean_of_walked_contexts_is_what_the_model_says(
    spec: PimSpec, trcd: int, trp: int, tfaw: int, together: int
) -> None:
    changed = msgspec.structs.replace(spec, trcd=trcd, trp=trp, tfaw=tfaw, tras=1, banks_per_activate=together)
    contexts = range(period(changed) + 1, 2 * period(changed) + 1)
    mean = math.fsum(walked_ns(changed, context) for context in contexts) / len(contexts)
    assert modelled_ns(changed, Fraction(sum(contexts), len(contexts))) == pytest.approx(mean, rel=1e-9)


@pytest.mark.parametrize("spec", [AIM, HBM], ids=lambda spec: spec.name)
@pytest.mark.parametrize("context", [1, 100, 1000, 5000])
def test_a_single_context_lies_within_a_row_and_an_access_of_the_model(spec: PimSpec, context: int) -> None:
    walk = Walk(spec)
    walk.open_all_banks()
    walk.bus(SHARING * TOKEN_BYTES * 2)
    walk.access(max(TOKEN_BYTES // spec.access_bytes, WIDTH // spec.units))
    assert modelled_ns(spec, Fraction(context)) == pytest.approx(walked_ns(spec, context), abs=2 * walk.now)
