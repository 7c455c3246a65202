"""What every latency source keeps: whole, repeatable, non-negative times that do not fall as a batch grows."""

from __future__ import annotations

import json
from itertools import pairwise, product
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmservingsim.config import OperatorTableSpec
from llmservingsim.config.catalog import find_accelerator, find_model
from llmservingsim.latency import (
    BundleSource,
    CalibratedRoofline,
    LatencySource,
    OlderBundleSource,
    OperatorTableSource,
    RooflineSource,
    fitted,
)
from llmservingsim.model import ParallelLayout, model_operators
from llmservingsim.shapes import BatchShape, Chunk
from llmservingsim.trace import IterationBuilder

MODEL = find_model("meta-llama/Llama-3.1-8B")
OPERATORS = sorted({operator.name for operator in model_operators(MODEL)})


class PerToken:
    """A user's own source: a launch, and a price per token, per sequence and per key."""

    launch_ns = 2000

    def latency_ns(self, operator: str, shape: BatchShape) -> int:
        if operator == "attention":
            keys = shape.decode_kv_tokens + sum(c.query_len * (c.context_len + c.query_len) for c in shape.prefills)
            return self.launch_ns + keys // 50
        if operator in ("lm_head", "sampler"):
            return self.launch_ns + 900 * shape.num_sequences
        return self.launch_ns + 120 * shape.num_tokens

    def provenance(self) -> dict[str, object]:
        return {"source": "per token", "launch_ns": self.launch_ns}


def write_bundle(folder: Path) -> Path:
    sizes = (1, 16, 256, 1024)
    dense = [f"{name},{n},{2 + n / 4}" for name in OPERATORS for n in sizes]
    decode = [f"0,0,{n},{kv},{5 + n * kv / 500}" for n, kv in product((1, 16, 64), (16, 4096))]
    mixed = [f"{c},{p},{n},{64 * (n > 0)},{5 + (c * (c + p) / 64 + n * 64) / 250}"
             for c, p, n in product((64, 256, 1024), (0, 2048), (0, 16))]  # fmt: skip
    files = {
        "dense.csv": ["layer,tokens,time_us", *dense],
        "per_sequence.csv": ["layer,sequences,time_us", *dense],
        "attention.csv": ["prefill_chunk,kv_prefill,n_decode,kv_decode,time_us", *decode, *mixed],
    }
    for name, lines in files.items():
        (folder / name).write_text("\n".join(lines) + "\n")
    return folder


def write_older_bundle(folder: Path) -> Path:
    names = ("embedding", "input_layernorm", "post_layernorm", "q_proj", "k_proj", "v_proj", "rope", "o_proj")
    names += ("gate_proj", "up_proj", "act_fn", "down_proj", "final_layernorm", "lm_head")
    layers = [f"{name},{n},0,2,{2000 + 250 * n}" for name in names for n in (1, 16, 256, 1024)]
    decode = [f"0,{kv},{n},False,{5000 + 2 * n * kv}" for n, kv in product((1, 16, 64), (16, 4096))]
    chunks = [f"{c},{p},1,True,{5000 + c * (c + p) / 8}" for c, p in product((64, 256, 1024), (0, 2048))]
    files = {
        "layers.csv": ["layer_name,input,kv_cache,tp_size,latency(ns)", *layers],
        "attention.csv": ["prefill_chunk_size,kv_cache_size,batch_size,is_prefill,mean_ns", *decode, *chunks],
    }
    for name, lines in files.items():
        (folder / name).write_text("\n".join(lines) + "\n")
    return folder


def older(folder: Path) -> OlderBundleSource:
    return OlderBundleSource(write_older_bundle(folder), MODEL, ParallelLayout(tp=2), find_accelerator("H100"))


def calibrated(folder: Path) -> CalibratedRoofline:
    """Fitted to a bundle of another model."""
    other = folder / "H100/meta-llama/Llama-3.2-3B/bf16/tp1"
    other.mkdir(parents=True)
    write_bundle(other)
    accelerator = find_accelerator("H100")
    return CalibratedRoofline(
        MODEL, ParallelLayout(tp=2), accelerator, fitted((folder,), "H100", "bf16", (), accelerator)
    )


def roofline(hardware: str = "H100") -> RooflineSource:
    return RooflineSource(MODEL, ParallelLayout(tp=2), find_accelerator(hardware))


def table(folder: Path, *, attention: bool = True) -> OperatorTableSource:
    """All operators, or products alone and the rest from the roofline."""
    names = OPERATORS if attention else ("qkv_proj", "o_proj", "gate_up_proj", "down_proj", "lm_head")
    rows = [f"{name},{n},{n},,{2 + n / 4}" for name in names if name != "attention" for n in (1, 16, 256, 1024)]
    rows += [f"attention,{n},{n},{kv},{5 + n * kv / 500}" for n, kv in product((1, 16, 64), (16, 4096))] * attention
    chunks = product((64, 256, 1024), (0, 2048))
    rows += [f"attention,{c},1,{c + p},{5 + c * (c + 2 * p) / 8000}" for c, p in chunks] * attention
    path = folder / "times.csv"
    path.write_text("\n".join(("operator,tokens,sequences,kv,time", *rows)) + "\n")
    spec = OperatorTableSpec(path=path.name, missing="error" if attention else "roofline")
    return OperatorTableSource(path, spec, MODEL, roofline())


SOURCES = {
    "bundle": lambda folder: BundleSource(write_bundle(folder)),
    "calibrated": calibrated,
    "older bundle": older,
    "roofline": lambda _: roofline(),
    "roofline of an array": lambda _: roofline("TPU-v6e"),
    "table": table,
    "table of products": lambda folder: table(folder, attention=False),
    "own": lambda _: PerToken(),
}


@pytest.fixture(scope="module", params=sorted(SOURCES))
def source(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> LatencySource:
    made: LatencySource = SOURCES[request.param](tmp_path_factory.mktemp("bundle"))
    return made


def batch(prefills: tuple[tuple[int, int], ...], decodes: list[int]) -> BatchShape:
    chunks = tuple(Chunk(*c) for c in prefills)
    tokens = sum(c.query_len for c in chunks) + len(decodes)
    return BatchShape(chunks, len(decodes), sum(decodes), max(decodes, default=0), tokens)


def verifying(shape: BatchShape, drafts: int) -> BatchShape:
    """The batch with so many drafts behind the token of every decode, whose KV lengths stay what they are."""
    count, pairs = shape.num_decodes * drafts, drafts * shape.decode_kv_tokens
    return shape._replace(num_tokens=shape.num_tokens + count, num_drafts=count, draft_pairs=pairs)


CHUNKS = st.lists(st.tuples(st.integers(2, 4096), st.integers(0, 20_000)), max_size=4).map(tuple)
PLAIN = st.builds(batch, CHUNKS, st.lists(st.integers(1, 20_000), max_size=300)).filter(lambda s: s.num_tokens)
BATCHES = st.builds(verifying, PLAIN, st.just(0) | st.integers(0, 8))


@settings(max_examples=60, deadline=None)
@given(shape=BATCHES, operator=st.sampled_from(OPERATORS))
def test_a_time_is_a_whole_number_of_nanoseconds_and_never_negative(source, shape, operator):
    time_ns = source.latency_ns(operator, shape)
    assert type(time_ns) is int
    assert time_ns >= 0


@settings(max_examples=60, deadline=None)
@given(shape=BATCHES, other=BATCHES, operator=st.sampled_from(OPERATORS))
def test_the_same_batch_takes_the_same_time_whatever_was_asked_before(source, shape, other, operator):
    first = source.latency_ns(operator, shape)
    source.latency_ns(operator, other)
    assert source.latency_ns(operator, shape) == first


@pytest.mark.parametrize("operator", sorted(set(OPERATORS) - {"attention", "lm_head", "sampler"}))
def test_dense_operators_grow_with_tokens_and_with_nothing_else(source, operator):
    sizes = [1, 2, 7, 16, 100, 1000, 3000, 10_000]
    times = [source.latency_ns(operator, batch(((n, 0),), [])) for n in sizes]
    assert all(low <= high for low, high in pairwise(times))
    assert times[-1] > times[0]
    assert [source.latency_ns(operator, batch(((n - 1, 5000),), [70])) for n in sizes[2:]] == times[2:]


@pytest.mark.parametrize("operator", ["lm_head", "sampler"])
def test_heads_grow_with_sequences_and_with_nothing_else(source, operator):
    times = [source.latency_ns(operator, batch((), [100] * n)) for n in (1, 2, 30, 500, 2000)]
    assert all(low <= high for low, high in pairwise(times))
    assert times[-1] > times[0]
    assert source.latency_ns(operator, batch(((4000, 0),), [100] * 29)) == times[2]


@pytest.mark.parametrize(
    "batches",
    [
        [batch((), [1000] * n) for n in (1, 2, 16, 40, 64, 300)],
        [batch((), [kv] * 8) for kv in (1, 16, 100, 4000, 20_000)],
        [batch(((512, context),), []) for context in (0, 100, 2048, 20_000)],
        [batch(((512, 0),) * n, []) for n in (1, 2, 5)],
        [batch(((512, 0),), [64] * n) for n in (0, 1, 16, 200)],
    ],
    ids=["sequences", "kv", "context", "chunks", "decodes"],
)
def test_attention_grows_with_what_it_reads(source, batches):
    times = [source.latency_ns("attention", shape) for shape in batches]
    assert all(low <= high for low, high in pairwise(times))
    assert times[-1] > times[0]


@settings(max_examples=60, deadline=None)
@given(shape=PLAIN, drafts=st.integers(1, 8), operator=st.sampled_from(OPERATORS))
def test_verifying_drafts_is_never_cheaper_than_not_drafting(source, shape, drafts, operator):
    assert source.latency_ns(operator, verifying(shape, drafts)) >= source.latency_ns(operator, shape)


def test_keys_and_values_are_read_once_for_all_drafts_of_a_sequence(source):
    alone = source.latency_ns("attention", batch((), [4000] * 64))
    assert source.latency_ns("attention", verifying(batch((), [4000] * 64), 7)) < 8 * alone


def test_provenance_names_the_source_and_can_be_written_as_json(source):
    source.latency_ns("attention", batch((), [10**6]))
    provenance = source.provenance()
    assert isinstance(provenance["source"], str)
    assert json.loads(json.dumps(provenance)) == provenance


def test_a_builder_takes_any_of_them(source):
    builder = IterationBuilder(MODEL, ParallelLayout(tp=2), [range(2)], source, (1, 2, 4, 8))
    assert builder.durations_ns([batch((), [100] * 3)]).sum() > 0
