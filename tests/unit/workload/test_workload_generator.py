"""Generated workloads follow their specification, and nothing but the specification and the seed."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

import msgspec
import pytest

from llmservingsim.errors import WorkloadError
from llmservingsim.workload import (
    ArrivalSpec,
    FixedLength,
    GeneratorSpec,
    PrefixSpec,
    PresetLength,
    RequestSpec,
    UniformLength,
    generate,
    write_jsonl,
)

SPEC = GeneratorSpec(
    num_requests=200,
    input_length=UniformLength(1, 50),
    output_length=UniformLength(1, 20),
    arrival=ArrivalSpec("poisson", {"request_rate": 10}),
    seed=3,
    prefix=PrefixSpec(count=5, length=8),
    vocab_size=1000,
    token_ids=True,
)


def changed(**fields: object) -> list[RequestSpec]:
    return list(generate(msgspec.structs.replace(SPEC, **fields)))


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz"])
def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(tmp_path, name):
    first, second, other = tmp_path / name, tmp_path / f"b-{name}", tmp_path / f"c-{name}"
    write_jsonl(generate(SPEC), first)
    write_jsonl(generate(SPEC), second)
    write_jsonl(changed(seed=4), other)
    assert first.read_bytes() == second.read_bytes()
    assert first.read_bytes() != other.read_bytes()


def test_a_longer_workload_begins_with_the_shorter_one():
    """Draws come in blocks of 1024: 3000 requests need three."""
    assert changed(num_requests=3000)[:200] == list(generate(SPEC))


@pytest.mark.parametrize(
    ("field", "value", "column"),
    [
        ("arrival", ArrivalSpec("fixed", {"request_rate": 3}), "arrival_ns"),
        ("input_length", FixedLength(9), "prompt_tokens"),
        ("output_length", PresetLength("alpaca"), "output_tokens"),
        ("prefix", PrefixSpec(count=3, length=8, choice="zipf"), "token_ids"),
        ("vocab_size", 7, "token_ids"),
    ],
)
def test_changing_one_draw_leaves_the_others_as_they_are(field, value, column):
    before, after = list(generate(SPEC)), changed(**{field: value})
    for kept in {"arrival_ns", "prompt_tokens", "output_tokens"} - {column}:
        assert [getattr(r, kept) for r in before] == [getattr(r, kept) for r in after]
    assert [getattr(r, column) for r in before] != [getattr(r, column) for r in after]


def test_arrivals_rise_ids_count_and_token_ids_fit():
    requests = list(generate(SPEC))
    assert [r.request_id for r in requests] == list(range(200))
    assert all(a.arrival_ns <= b.arrival_ns for a, b in pairwise(requests))
    for r in requests:
        assert 9 <= r.prompt_tokens <= 58
        assert 1 <= r.output_tokens <= 20
        assert r.token_ids is not None
        assert len(r.token_ids) == r.prompt_tokens + r.output_tokens
        assert all(0 <= token < 1000 for token in r.token_ids)


def test_without_token_ids_none_are_drawn_and_the_rest_stays():
    plain = changed(token_ids=False, prefix=None)
    assert {r.token_ids for r in plain} == {None}
    assert [r.prompt_tokens + 8 for r in plain] == [r.prompt_tokens for r in generate(SPEC)]


def prefixes(choice: str, count: int = 5) -> Counter[tuple[int, ...]]:
    prefix = PrefixSpec(count=count, length=8, choice=choice)
    requests = changed(num_requests=10_000, prefix=prefix, input_length=FixedLength(1), output_length=FixedLength(1))
    return Counter(r.token_ids[:8] for r in requests if r.token_ids is not None)


@pytest.mark.parametrize(
    ("choice", "weights"), [("uniform", [1, 1, 1, 1, 1]), ("zipf", [1, 1 / 2, 1 / 3, 1 / 4, 1 / 5])]
)
def test_requests_share_prefixes_in_the_stated_proportions(choice, weights):
    """Each share is binomial: four standard errors, so that a right choice fails one seed in about 3,000 of five."""
    drawn = prefixes(choice)
    assert len({prefix[0] for prefix in drawn}) == len(drawn) == 5
    for found, weight in zip(sorted(drawn.values(), reverse=True), weights, strict=True):
        p = weight / sum(weights)
        assert abs(found / 10_000 - p) <= 4 * (p * (1 - p) / 10_000) ** 0.5


def test_max_model_len_holds_for_prompt_and_output_together():
    requests = changed(max_model_len=40)
    assert max(r.prompt_tokens for r in requests) == 39
    assert max(r.prompt_tokens + r.output_tokens for r in requests) == 40
    assert min(r.output_tokens for r in requests) >= 1


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"num_requests": 0}, "generator: num_requests: expected int >= 1, got 0"),
        ({"input_length": FixedLength(0)}, "generator: input_length.tokens: expected int >= 1, got 0"),
        ({"token_ids": False}, "prefix needs token_ids"),
        ({"vocab_size": 4}, "prefix.count is 5; expected at most vocab_size 4"),
        ({"max_model_len": 9}, "prefix.length is 8; expected at most max_model_len - 2 = 7"),
    ],
)
def test_a_specification_out_of_range_is_refused_before_the_first_request(fields, message):
    with pytest.raises(WorkloadError, match=message):
        generate(msgspec.structs.replace(SPEC, **fields))


def test_a_specification_reads_from_plain_data_and_rejects_unknown_keys():
    data = {
        "num_requests": 2,
        "input_length": {"distribution": "preset", "name": "sharegpt"},
        "output_length": {"distribution": "lognormal", "median": 50, "sigma": 0.5, "max": 90},
        "arrival": {"process": "gamma", "options": {"request_rate": 2, "burstiness": 0.5}},
        "prefix": {"count": 2, "length": 4, "choice": "zipf"},
        "token_ids": True,
    }
    assert len(list(generate(msgspec.convert(data, GeneratorSpec)))) == 2
    with pytest.raises(msgspec.ValidationError, match="unknown field `num_request`"):
        msgspec.convert({**data, "num_request": 2}, GeneratorSpec)
