"""Quantities carry their unit."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmservingsim.errors import ConfigError
from llmservingsim.units import (
    format_size,
    format_time,
    parse_bandwidth,
    parse_flops,
    parse_power_w,
    parse_size_bytes,
    parse_time_ns,
)

PARSERS = [parse_time_ns, parse_size_bytes, parse_bandwidth, parse_flops, parse_power_w]


@pytest.mark.parametrize(
    ("parse", "text", "value"),
    [
        (parse_time_ns, "2us", 2000),
        (parse_time_ns, " 1.5 s ", 1_500_000_000),
        (parse_time_ns, "0ns", 0),
        (parse_time_ns, "1e3ms", 10**9),
        (parse_time_ns, "2min", 120 * 10**9),
        (parse_time_ns, "0.5h", 1800 * 10**9),
        (parse_size_bytes, "80GiB", 80 * 2**30),
        (parse_size_bytes, "24GB", 24 * 10**9),
        (parse_size_bytes, "1_000B", 1000),
        (parse_size_bytes, "0.5 KiB", 512),
        (parse_bandwidth, "900GB/s", 900e9),
        (parse_bandwidth, "1TiB/s", 2.0**40),
        (parse_bandwidth, "400Gbit/s", 50e9),
        (parse_flops, "989TFLOP/s", 989e12),
        (parse_power_w, "700W", 700.0),
        (parse_power_w, "0.7kW", 700.0),
        (parse_power_w, "25mW", 0.025),
    ],
)
def test_a_quantity_becomes_base_units(parse, text, value):
    assert parse(text) == pytest.approx(value, rel=1e-12)
    assert type(parse(text)) is type(value)


@pytest.mark.parametrize("parse", PARSERS)
@pytest.mark.parametrize("bad", [5, 5.0, None, "", "5", "GB", "-5GB", "5 G B", "1.2.3GB", "5GB extra", ["5GB"]])
def test_anything_else_is_refused_with_an_example(parse, bad):
    with pytest.raises(ConfigError, match="with its unit, such as '"):
        parse(bad)


@pytest.mark.parametrize(
    ("parse", "text", "message"),
    [
        (parse_size_bytes, "80gib", r"'gib' is no unit of size \(did you mean 'GiB'\?\); expected one of B, GB, GiB"),
        (parse_time_ns, "5 sec", r"'sec' is no unit of time.*expected one of h, min, ms, ns, s, us"),
        (parse_bandwidth, "5GB", r"'GB' is no unit of bandwidth \(did you mean 'GB/s'\?\)"),
        (parse_flops, "5TFLOPS", r"'TFLOPS' is no unit of compute rate \(did you mean 'TFLOP/s'\?\)"),
    ],
)
def test_a_wrong_unit_names_the_nearest_right_one(parse, text, message):
    with pytest.raises(ConfigError, match=message):
        parse(text)


@pytest.mark.parametrize("text", ["1e999s", "1" + "0" * 400 + "s", "147e9s", "1e20h"])
def test_a_quantity_beyond_all_numbers_is_a_config_error(text):
    with pytest.raises(ConfigError, match="is too large for a time"):
        parse_time_ns(text)


@given(st.integers(0, 10**15))
def test_whole_nanoseconds_and_bytes_survive_exactly(value):
    assert parse_time_ns(f"{value}ns") == value
    assert parse_size_bytes(f"{value}B") == value


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.00 KiB"),
        (3 * 2**29, "1.50 GiB"),
        (2**41, "2.00 TiB"),
        (-2048, "-2.00 KiB"),
    ],
)
def test_sizes_are_written_in_binary_units(size, text):
    assert format_size(size) == text


@pytest.mark.parametrize(
    ("time_ns", "text"),
    [(0, "0 ns"), (999, "999 ns"), (1500, "1.50 us"), (2e9, "2.00 s"), (90e9, "1.50 min"), (7200e9, "2.00 h")],
)
def test_times_are_written_in_the_largest_unit_that_fits(time_ns, text):
    assert format_time(time_ns) == text
