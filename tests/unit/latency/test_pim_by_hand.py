"""Memory that computes, every nanosecond by hand.

The device has two channels of four banks with a unit each. Clock 1 ns; an access is 8 bytes, four values, and takes
4 ns in a bank and in the MACs; a row holds 4 accesses; the bus moves 4 bytes per ns; refresh takes half of the time.
"""

import math

import msgspec
import numpy as np
import pytest

from llmservingsim.config.catalog import ModelFamily, ModelSpec, PimSpec, find_accelerator
from llmservingsim.errors import ConfigError
from llmservingsim.latency import RooflineSource
from llmservingsim.latency.pim import BankPim, LinearPim, make_pim
from llmservingsim.latency.pim.channel import Channel, Operands
from llmservingsim.latency.pim.gemv import Matrix, MatrixTimes, matrices
from llmservingsim.latency.processor import make_processor
from llmservingsim.model import ParallelLayout
from llmservingsim.shapes import BatchShape, Chunk

TINY = PimSpec(
    name="Tiny",
    protocol="HBM2",
    bankgroups=2,
    banks_per_group=2,
    rows=1024,
    columns=16,
    bus_width=16,
    burst_length=4,
    data_rate=2e9,
    tck_ns=1.0,
    cl=10,
    cwl=5,
    trcd=10,
    trp=10,
    tras=20,
    trfc=1000,
    trefi=2000,
    tccd_s=2,
    tccd_l=4,
    tfaw=16,
    twr=10,
    channel_bytes=131_072,
    banks_per_unit=1,
    macs_per_unit=4,
    unit_clock=250e6,
    buffer_bytes=32,
    accumulators=4,
    softmax_rate=1e9,
    command_ns=7.0,
    idle_w=0.5,
    active_w=2.0,
)
CONTROLLER = {"unit_place": "controller", "banks_per_unit": 4, "macs_per_unit": 16, "unit_clock": 1e9}
MODEL = ModelSpec(
    name="acme/tiny",
    family=ModelFamily.DENSE,
    model_type="llama",
    hidden_size=32,
    num_layers=2,
    num_heads=4,
    num_kv_heads=2,
    head_dim=8,
    intermediate_size=64,
    vocab_size=1000,
    max_position_embeddings=8192,
)
ONE = ParallelLayout()
REFRESH = 2


def device(spec: PimSpec = TINY, model: ModelSpec = MODEL, channels: int = 2) -> BankPim:
    return BankPim(spec, model, ONE, channels)


def changed(**fields: object) -> PimSpec:
    return msgspec.structs.replace(TINY, **fields)


def batch(requests: int, context: int) -> BatchShape:
    return BatchShape((), requests, context, context, requests)


# Two query heads share a head of keys: an access serves both in 8 ns. A key is 16 bytes, two accesses. A round of open
# rows holds 4 x 32 bytes, 8 keys, and costs tRP + max(tRCD, tRAS - 4 x 4 ns) = 20 ns.
APPEND_NS = 2 * (16 / 4 + 10 + 10 + 10)
READ_NS = 2 / 4 * 8 + 20 / 8
"""Per token, of keys or of values: 2 accesses in one of four units, an eighth of a round."""
LAST_PIECE_NS = 3 / 8 * 2 * 8 + 7 / 16 * 20
"""Per request: three units wait for a last key in three cases of four, a row is half empty."""
START_NS = 7 + 5 + 10
QUERIES_NS = RESULTS_NS = 2 * 8 * 2 / 4


def test_attention_is_the_sum_of_its_phases() -> None:
    fixed = APPEND_NS + (START_NS + QUERIES_NS + LAST_PIECE_NS) + (START_NS + LAST_PIECE_NS + RESULTS_NS)
    softmax = 2 * 2 * 1  # two heads' score out and probability in, 1 ns each in the softmax unit, 0.5 ns on the bus
    assert (fixed, READ_NS) == (157.5, 6.5)
    assert device().attention_time == (REFRESH * fixed, REFRESH * (2 * READ_NS + softmax)) == (315, 34)


def test_the_requests_of_a_group_follow_each_other_and_groups_work_at_the_same_time() -> None:
    pim = device(channels=7)  # three groups of two channels, one channel is left over
    assert pim.num_groups == 3
    times = pim.attention_ns(np.array([3, 0, 1]), np.array([100, 0, 40]))
    assert times.tolist() == [3 * 315 + 100 * 34, 0, 315 + 40 * 34]
    assert times.dtype == np.int64


def test_one_channel_computes_both_heads_one_after_the_other() -> None:
    assert device(channels=1).attention_time == (2 * 315, 2 * 34)
    assert device(channels=1).num_groups == 1


def test_a_softmax_unit_that_is_faster_than_the_bus_waits_for_it() -> None:
    assert device(changed(softmax_rate=8e9)).attention_time.per_token == REFRESH * (2 * READ_NS + 2 * 2 * 0.5)


def test_partial_results_are_read_out_for_each_filling_of_the_buffer() -> None:
    """Values of 2 results per unit and 1 accumulator: 8 probabilities fill the buffer, 16 results leave in 8 ns."""
    extra = device(changed(accumulators=1)).attention_time.per_token - device().attention_time.per_token
    assert extra == REFRESH * 8 / 8


def test_queries_that_do_not_fit_the_buffer_are_sent_again_for_each_round_of_rows() -> None:
    """One of two fits: 32 bytes in 8 ns per 8 keys, rather than 20 ns for opening the rows twice."""
    assert device(changed(buffer_bytes=16)).attention_time.per_token == REFRESH * (2 * READ_NS + 4 + 8 / 8)


def test_rows_are_opened_again_where_that_is_shorter() -> None:
    """With tRP, tRCD and tRAS of 1 ns a round costs 2 ns, and two rounds less than 8 ns of queries."""
    quick = changed(trp=1, trcd=1, tras=1)
    once, twice = device(quick), device(msgspec.structs.replace(quick, buffer_bytes=16))
    assert twice.attention_time.per_token - once.attention_time.per_token == REFRESH * 2 / 8


def test_a_query_wider_than_the_buffer_splits_the_scores() -> None:
    """Half a query fits, one result: queries again 8 / 8, two partial scores per key, probabilities again 3 times."""
    wide = device(changed(buffer_bytes=8, accumulators=1)).attention_time
    partial, probabilities = 2 * 2 / 4, 3 * 2 * 2 / 4
    assert wide.per_token == REFRESH * (2 * READ_NS + 4 + 8 / 8 + partial + probabilities)


def test_banks_that_may_not_open_together_are_waited_for() -> None:
    """Two at a time: the second pair opens tFAW after the first, once for 8 keys and once for 8 values."""
    slow = device(changed(banks_per_activate=2)).attention_time
    assert slow.per_token - device().attention_time.per_token == REFRESH * 2 * 16 / 8


def test_query_heads_reuse_what_was_read_if_the_unit_can() -> None:
    """Twice the MACs and both heads per access: 4 ns instead of 8."""
    reusing = device(changed(vectors_per_read=2, macs_per_unit=8)).attention_time
    assert device().attention_time.per_token - reusing.per_token == REFRESH * 2 * (2 / 4 * 4)


def test_more_macs_alone_do_not_help_a_unit_that_reads_anew() -> None:
    assert device(changed(macs_per_unit=400)).attention_time == device().attention_time


def test_ranks_that_cut_the_heads_halve_the_time_of_a_channel_that_had_two() -> None:
    halved = BankPim(TINY, MODEL, ParallelLayout(tp=2), 1)
    assert halved.attention_time == device(channels=2).attention_time
    assert (halved.num_groups, BankPim(TINY, MODEL, ParallelLayout(tp=2), 5).num_groups) == (1, 5)


def test_a_sliding_window_bounds_what_is_read() -> None:
    windowed = device(model=msgspec.structs.replace(MODEL, sliding_window=16))
    long, short = np.array([2]), np.array([2])
    assert windowed.attention_ns(long, np.array([900])) == windowed.attention_ns(short, np.array([32]))


def test_means_stand_for_pieces_of_which_only_whole_ones_are_read() -> None:
    """Contexts that end anywhere in a round of 8 keys: on average the exact count is the linear one."""
    contexts = range(8, 16)
    keys = sum(math.ceil(t / 4) * 2 * 8 + math.ceil(t / 8) * 20 for t in contexts) / 8
    assert keys == pytest.approx(LAST_PIECE_NS + READ_NS * sum(contexts) / 8)


def test_a_unit_in_the_controller_needs_no_broadcast_and_hides_rows() -> None:
    """An access takes 2 ns on the bus; 16 of them while each of 4 banks opens a row within 30 ns."""
    near = device(changed(**CONTROLLER, vectors_per_read=4))
    append, first_row = APPEND_NS, 20
    pieces = (3 / 8 * 8 * 2, 0)  # a value comes in pieces of 4 tokens x 8 wide, 2 ns each; a key is alone
    fixed = append + (7 + first_row + pieces[1]) + (7 + first_row + pieces[0])
    assert near.attention_time.per_request == pytest.approx(REFRESH * fixed)
    assert near.attention_time.per_token == pytest.approx(REFRESH * (2 * 2 * 2 + 2 * 2 * 1))


@pytest.mark.parametrize(("field", "value", "access_ns"), [("tfaw", 48, 3.0), ("tras", 38, 3.0), ("trcd", 30, 3.0)])
def test_rows_that_open_too_slowly_hold_a_controller_back(field: str, value: int, access_ns: float) -> None:
    """48 ns for 16 accesses: tFAW alone; tRAS + tRP; or tRCD + 4 accesses + tRP."""
    spec = msgspec.structs.replace(changed(**CONTROLLER), **{field: value})
    assert Channel(spec).access_ns(1, 2) == access_ns
    assert Channel(changed(**CONTROLLER)).access_ns(1, 2) == 2.0


@pytest.mark.parametrize(
    ("inputs", "outputs", "per_unit", "moved"),
    [
        (16, 64, 8, Operands(16, 64)),  # the inputs fit: nothing moves twice
        (64, 16, 2, Operands(64, 16)),  # the results fit
        (64, 32, 4, Operands(128, 32)),  # send inputs twice (160 bytes) rather than read results four times (192)
        (32, 64, 8, Operands(32, 128)),  # the other way round: 160 instead of 192
    ],
)
def test_operands_move_the_cheaper_way(inputs: int, outputs: int, per_unit: int, moved: Operands) -> None:
    assert Channel(changed(buffer_bytes=16, accumulators=2)).operands(inputs, outputs, per_unit, 1) == moved


@pytest.mark.parametrize(("tokens", "expected_ns"), [(1, 334), (3, 958)])
def test_a_projection_reads_its_weights_for_every_token(tokens: int, expected_ns: int) -> None:
    """o_proj, 32 x 32: 4 outputs in each of 8 units, 8 accesses each, 8 rounds; 96 bytes of operands per token."""
    by_hand = START_NS + (32 * 4 + 8 * 20 + 96 / 4) * tokens
    assert device().latency_ns("o_proj", batch(tokens, 9)) == REFRESH * by_hand == REFRESH * expected_ns


def test_rows_stay_open_for_the_tokens_that_the_buffer_holds() -> None:
    """A buffer of two tokens' inputs: three tokens open the 8 rounds twice."""
    by_hand = START_NS + 3 * 32 * 4 + 2 * 8 * 20 + 3 * 96 / 4
    assert device(changed(buffer_bytes=128)).latency_ns("o_proj", batch(3, 9)) == REFRESH * by_hand


def test_a_matrix_is_cut_along_its_inputs_where_that_is_shorter() -> None:
    """128 inputs, 8 outputs, 8 channels: uncut only 8 of 32 units have a row; cut in four all have one."""
    times = MatrixTimes(Channel(TINY), 8, MODEL, ONE)
    matrix = Matrix(128, 8, 2)
    uncut, cut = times.product_ns(matrix, 1, 1), times.product_ns(matrix, 1, 4)
    assert uncut == REFRESH * (START_NS + 32 * 4 + 8 * 20 + (256 + 8) / 4)
    assert cut == REFRESH * (START_NS + 8 * 4 + 2 * 20 + (64 + 8) / 4)
    assert cut < uncut


def test_matrices_hold_all_weights_of_the_rank() -> None:
    shapes = {name: (m.inputs, m.outputs) for name, m in matrices(MODEL, ParallelLayout(tp=2)).items()}
    qkv, gate_up = (32, 2 * 8 + 2 * 8), (32, 2 * 32)
    assert shapes == {
        "qkv_proj": qkv,
        "o_proj": (16, 32),
        "gate_up_proj": gate_up,
        "down_proj": (32, 32),
        "lm_head": (32, 512),
    }


def test_weights_of_fewer_bits_take_fewer_accesses_but_as_many_macs() -> None:
    quantised = device(model=msgspec.structs.replace(MODEL, linear_format="fp8"))
    by_hand = START_NS + 16 * 8 + 4 * (10 + 10) + 96 / 4  # 16 accesses of 8 values, 8 ns each; tRAS is over in time
    assert quantised.latency_ns("o_proj", batch(1, 9)) == REFRESH * by_hand


def test_the_activation_moves_over_the_buses_of_all_channels() -> None:
    """Gate and up are read, their product written: 3 x 64 values of 2 bytes per token over 2 x 4 bytes per ns."""
    assert device().latency_ns("act_fn", batch(5, 5)) == 7 + REFRESH * 5 * 3 * 64 * 2 / 8


def test_the_head_is_computed_for_sequences() -> None:
    prompt = BatchShape((Chunk(50, 0),), 1, 9, 9, 51)
    assert device().latency_ns("lm_head", prompt) == device().latency_ns("lm_head", batch(2, 9))


def test_prompts_stay_on_the_accelerator() -> None:
    with pytest.raises(ConfigError, match="Tiny computes the attention of decodes alone"):
        device().latency_ns("attention", BatchShape((Chunk(50, 0),), 1, 9, 9, 51))


@pytest.mark.parametrize("how", ["device", "linear"])
def test_an_operator_that_it_does_not_compute_is_refused(how: str) -> None:
    with pytest.raises(ConfigError, match=r"Tiny does not compute 'layernorm'; expected .*attention"):
        make_pim(TINY, MODEL, ONE, 2**20, how).latency_ns("layernorm", batch(1, 1))  # type: ignore[arg-type]


def test_a_memory_has_as_many_channels_as_fit_into_it() -> None:
    pim = make_pim(TINY, MODEL, ONE, 2 * TINY.channel_bytes + 1)
    assert (pim.num_channels, pim.power) == (2, (2, 0.5, 2.0, 0.0))
    with pytest.raises(ConfigError, match=r"a memory of 100 B is smaller than one channel of Tiny.*128.00 KiB"):
        make_pim(TINY, MODEL, ONE, 100)


def test_latent_attention_is_refused_with_the_reason() -> None:
    latent = {"kv_lora_rank": 4, "qk_nope_head_dim": 8, "qk_rope_head_dim": 4, "v_head_dim": 8}
    with pytest.raises(ConfigError, match="multi-head latent attention"):
        device(model=msgspec.structs.replace(MODEL, **latent))


def test_provenance_says_what_was_assumed() -> None:
    spec = changed(source={"tfaw": "assumed: no idea", "trcd": "a data sheet"})
    provenance = device(spec).provenance()
    assert provenance["assumed"] == {"tfaw": "assumed: no idea"}
    assert (provenance["device"], provenance["channels"]) == ("Tiny", 2)


def test_the_fit_of_hbm2_for_the_model_that_it_was_made_for() -> None:
    """32 heads of 128 that share 8: slope and intercept as they are, over 8 channels."""
    llama = msgspec.structs.replace(MODEL, num_heads=32, num_kv_heads=8, head_dim=128, hidden_size=4096)
    pim = LinearPim(TINY, llama, ONE, 20)
    assert pim.num_groups == 2
    assert pim.attention_ns(np.array([1, 0]), np.array([1000, 0])).tolist() == [round((242_054.8 + 14_513.5015) / 8), 0]


def test_a_fit_scales_with_heads_as_its_formula_says() -> None:
    """4 heads of 8 that share 2: half the slope, a 128th of the intercept, over 2 channels."""
    expected = (242.0548 * (4 / 2) / 4 * 500 + 14_513.5015 * 32 / 4096) / 2
    assert LinearPim(TINY, MODEL, ONE, 2).attention_ns(np.array([1]), np.array([500])) == round(expected)


def test_a_kind_without_a_fit_lists_the_four() -> None:
    with pytest.raises(ConfigError, match=r"no linear fit for GDDR6.*DDR4, HBM2, LPDDR4X, LPDDR5, or the device model"):
        make_pim(changed(protocol="GDDR6"), MODEL, ONE, 2**20, "linear")


def test_a_processor_is_a_roofline_with_one_group() -> None:
    cpu = find_accelerator("Xeon-8480+")
    pim, roofline = make_processor(cpu, MODEL, ONE), RooflineSource(MODEL, ONE, cpu)
    shape = BatchShape((), 300, 900_000, 3000, 300)
    assert pim.attention_ns(np.array([300]), np.array([900_000])).tolist() == [roofline.latency_ns("attention", shape)]
    assert pim.attention_ns(np.array([0]), np.array([0])).tolist() == [0]
    assert pim.latency_ns("down_proj", shape) == roofline.latency_ns("down_proj", shape)
