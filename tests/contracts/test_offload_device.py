"""What every device beside an accelerator keeps: whole times per group, zero where idle, growing with what is asked."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from llmservingsim.config.catalog import catalogued_pim, find_accelerator, find_model, find_pim
from llmservingsim.errors import ConfigError
from llmservingsim.latency.offload import OffloadDevice
from llmservingsim.latency.pim import make_pim
from llmservingsim.latency.processor import make_processor
from llmservingsim.model import ParallelLayout
from llmservingsim.shapes import BatchShape

MODEL = find_model("meta-llama/Llama-3.1-8B")
LAYOUT = ParallelLayout(tp=2)
MEMORY = 64 * 2**30


class PerKey:
    """A user's own: two groups, a price per request and per key."""

    num_groups = 2
    operators = frozenset({"attention"})

    def attention_ns(self, requests: NDArray[np.int64], context_tokens: NDArray[np.int64]) -> NDArray[np.int64]:
        return 500 * requests + 20 * context_tokens

    def latency_ns(self, operator: str, shape: BatchShape) -> int:
        if operator != "attention":
            raise ConfigError(f"operator {operator!r} is unknown")
        return 500 * shape.num_decodes + 20 * shape.decode_kv_tokens

    def provenance(self) -> dict[str, object]:
        return {"source": "per key"}


DEVICES: dict[str, Callable[[], OffloadDevice]] = {
    **{
        name: lambda name=name: make_pim(find_pim(name, Path()), MODEL, LAYOUT, MEMORY, "device")  # type: ignore[misc]
        for name in catalogued_pim()
    },
    "linear": lambda: make_pim(find_pim("HBM-PIM", Path()), MODEL, LAYOUT, MEMORY, "linear"),
    "host": lambda: make_processor(find_accelerator("EPYC-9654"), MODEL, LAYOUT),
    "own": PerKey,
}


@pytest.fixture(scope="module", params=sorted(DEVICES))
def device(request: pytest.FixtureRequest) -> OffloadDevice:
    return DEVICES[request.param]()


def spread(device: OffloadDevice, contexts: list[int]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Requests of these contexts, dealt to the groups in turn."""
    requests, tokens = (np.zeros(device.num_groups, dtype=np.int64) for _ in range(2))
    for index, context in enumerate(contexts):
        requests[index % device.num_groups] += 1
        tokens[index % device.num_groups] += context
    return requests, tokens


CONTEXTS = st.lists(st.integers(1, 200_000), max_size=80)


@settings(max_examples=60, deadline=None)
@given(contexts=CONTEXTS)
def test_a_group_has_a_whole_time_and_none_where_it_is_idle(device, contexts):
    requests, tokens = spread(device, contexts)
    before = requests.copy(), tokens.copy()
    times = device.attention_ns(requests, tokens)
    assert times.shape == (device.num_groups,)
    assert times.dtype == np.int64
    assert ((times > 0) == (requests > 0)).all()
    assert (times >= 0).all()
    assert (requests == before[0]).all()
    assert (tokens == before[1]).all()


@settings(max_examples=60, deadline=None)
@given(contexts=CONTEXTS, more=st.integers(1, 10_000), extra=st.integers(1, 9))
def test_attention_grows_with_context_and_with_requests(device, contexts, more, extra):
    requests, tokens = spread(device, contexts)
    times = device.attention_ns(requests, tokens)
    assert (device.attention_ns(requests, tokens + more * (requests > 0)) >= times).all()
    assert (device.attention_ns(requests + extra, tokens + extra) >= times).all()
    assert (device.attention_ns(requests + extra, tokens + extra) > 0).all()


@settings(max_examples=60, deadline=None)
@given(one=CONTEXTS, other=CONTEXTS)
def test_requests_of_a_group_take_no_longer_together_than_apart(device, one, other):
    first, second = spread(device, one), spread(device, other)
    together = device.attention_ns(first[0] + second[0], first[1] + second[1])
    assert (together <= device.attention_ns(*first) + device.attention_ns(*second) + 1).all()


@settings(max_examples=30, deadline=None)
@given(one=st.lists(st.integers(1, 200_000), min_size=1, max_size=20), others=CONTEXTS)
def test_a_group_does_not_wait_for_the_others(device, one, others):
    requests, tokens = spread(device, others)
    requests[0], tokens[0] = len(one), sum(one)
    alone = np.zeros_like(requests), np.zeros_like(tokens)
    alone[0][0], alone[1][0] = len(one), sum(one)
    assert device.attention_ns(requests, tokens)[0] == device.attention_ns(*alone)[0]


def test_a_long_context_takes_longer_than_a_short_one(device):
    one = spread(device, [1000])[0]
    times = [int(device.attention_ns(one, one * context).sum()) for context in (1_000, 100_000, 10_000_000)]
    assert times[0] < times[1] < times[2]


def test_every_operator_has_a_time_that_does_not_fall_with_tokens(device):
    assert "attention" in device.operators
    for operator in sorted(device.operators):
        times = [device.latency_ns(operator, BatchShape((), n, 100 * n, 100, n)) for n in (1, 2, 3, 8, 65, 300)]
        assert all(type(time) is int and time >= 0 for time in times), operator
        assert all(low <= high for low, high in pairwise(times)), operator
        assert times[-1] > times[0], operator


def test_an_operator_of_nobody_is_refused(device):
    with pytest.raises(ConfigError):
        device.latency_ns("no_such_operator", BatchShape((), 1, 1, 1, 1))


def test_provenance_names_the_source_and_can_be_written_as_json(device):
    provenance = device.provenance()
    assert isinstance(provenance["source"], str)
    assert json.loads(json.dumps(provenance)) == provenance
