"""A bundle with random damage is read or refused, never worse."""

from __future__ import annotations

import math
from itertools import product
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmservingsim.errors import ProfileError
from llmservingsim.latency import BundleSource
from llmservingsim.shapes import BatchShape, Chunk

SHAPES = (BatchShape((), 4, 400, 300, 4), BatchShape((Chunk(40, 100),), 4, 400, 300, 44))
ROWS = {
    "dense.csv": ["layer,tokens,time_us", *(f"o_proj,{n},{3 + n / 8}" for n in (1, 8, 64))],
    "per_sequence.csv": ["layer,sequences,time_us", *(f"lm_head,{n},{500 + n}" for n in (1, 8, 64))],
    "attention.csv": [
        "prefill_chunk,kv_prefill,n_decode,kv_decode,time_us",
        *(f"0,0,{n},{kv},{5 + n * kv / 500}" for n, kv in product((1, 16), (16, 1024))),
        *(f"{q},0,{n},{16 * (n > 0)},{9 + q / 10 + n}" for q, n in product((16, 256), (0, 16))),
    ],
    "skew.csv": [
        "regime,n,nb,kv_big,kv_mean,t_mean_us,t_skew_us",
        *(f"pure,16,1,{big},500,63,{60 + big / 5}" for big in (512, 1024, 4096)),
    ],
    "moe.csv": ["tokens,activated_experts,time_us", *(f"{n},{a},{5 + n + a}" for n, a in product((1, 64), (1, 8)))],
}
DAMAGE = st.sampled_from([b"", b",", b"\n", b"-", b"1e9", b"999999999999", b"nan", b"\xff", b"\0", b'"', b"0", b"pure"])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tp1")


@pytest.mark.filterwarnings("error")
@settings(max_examples=150, deadline=None)
@given(name=st.sampled_from(sorted(ROWS)), at=st.floats(0, 1), length=st.integers(0, 6), damage=DAMAGE)
def test_a_bundle_with_random_damage_is_read_or_refused(
    folder: Path, name: str, at: float, length: int, damage: bytes
) -> None:
    for file, lines in ROWS.items():
        data = ("\n".join(lines) + "\n").encode()
        place = round(at * len(data)) if file == name else len(data)
        (folder / file).write_bytes(data[:place] + (damage if file == name else b"") + data[place + length :])
    said = None
    try:
        source = BundleSource(folder, experts_per_token=1)
    except ProfileError as error:
        said = str(error)
    if said is not None:
        assert str(folder) in said
        assert "\n" not in said
        return
    for shape in SHAPES:
        assert 0 <= source.latency_ns("attention", shape) < math.inf
