"""The catalogue of accelerators: every number has a source, names are forgiving, user files are checked."""

from pathlib import Path

import pytest

from llmservingsim.config.catalog import AcceleratorSpec, PowerSpec, PriceSpec, find_accelerator, load_accelerators
from llmservingsim.config.catalog.accelerator import catalogued_accelerators
from llmservingsim.errors import ConfigError

OWN = """
[MyChip]
vendor = "Me"
memory_bytes = 1_000_000_000
memory_bandwidth = 1e12
bf16_flops = 1e14
fp16_flops = 1e14
link_kind = "wire"
link_bandwidth = 1e11
link_latency_ns = 10
host_bandwidth = 1e10
num_compute_units = 4
kernel_launch_ns = 100
"""


@pytest.mark.parametrize(
    ("name", "expected"),
    [("rtx 4090", "RTX4090"), ("RTX PRO 6000", "RTXPRO6000"), ("TPU-v6e", "TPU-v6e-1"), ("A100-80GB", "A100")],
)
def test_aliases_spaces_and_case_lead_to_the_same_entry(name: str, expected: str) -> None:
    assert find_accelerator(name).name == expected


@pytest.mark.parametrize(
    ("name", "field", "value"),
    [
        ("RTX4090", "memory_bytes", 25_250_627_584),  # measured by torch
        ("RTX4090", "memory_bandwidth", 1008e9),
        ("RTXPRO6000", "memory_bandwidth", 1597e9),
        ("H100", "memory_bandwidth", 3350e9),
        ("H100", "link_bandwidth", 450e9),
        ("H200", "memory_bandwidth", 4800e9),
        ("A100-40GB", "bf16_flops", 312e12),
        ("A6000", "memory_bandwidth", 768e9),
        ("TPU-v5e-1", "bf16_flops", 197e12),
        ("TPU v4", "memory_bandwidth", 1200e9),
        ("v5p", "bf16_flops", 459e12),
        ("v6e", "array_dims", (256, 256)),
        ("MI325X", "memory_bandwidth", 6000e9),
        ("Gaudi 3", "link_bandwidth", 21 * 200e9 / 8),
        ("GB200", "fp4_flops", 10_000e12),
        ("L4", "tdp_w", 72),
        ("RTX 3090", "bf16_flops", 71e12),
        ("Groq LPU", "memory_bytes", 230_000_000),
        ("WSE-3", "memory_bandwidth", 21e15),
    ],
)
def test_data_sheet_numbers_stand_in_the_catalogue(name: str, field: str, value: float) -> None:
    assert getattr(find_accelerator(name), field) == value


@pytest.mark.parametrize("spec", catalogued_accelerators().values(), ids=lambda spec: spec.name)
def test_every_number_of_an_entry_has_a_source(spec: AcceleratorSpec) -> None:
    numbers = {f for f in spec.__struct_fields__ if isinstance(getattr(spec, f), int | float) and getattr(spec, f)}
    assert numbers | ({"array_dims"} if spec.array_dims else set()) == set(spec.source)
    assert spec.efficiency.reason


@pytest.mark.parametrize("spec", catalogued_accelerators().values(), ids=lambda spec: spec.name)
def test_every_entry_says_what_it_draws_and_costs_and_where_each_number_comes_from(spec: AcceleratorSpec) -> None:
    assert spec.power is not None
    assert spec.price is not None
    for part in (spec.power, spec.price):
        stated = {f for f in part.__struct_fields__ if isinstance(getattr(part, f), int | float) and getattr(part, f)}
        assert stated - {"dynamic_exponent", "min_clock"} == set(part.source)
        assert all(part.source.values())


@pytest.mark.parametrize("spec", catalogued_accelerators().values(), ids=lambda spec: spec.name)
def test_a_device_draws_more_the_more_it_does_and_not_far_beyond_its_limit(spec: AcceleratorSpec) -> None:
    power = spec.power
    assert power is not None
    assert 0 < power.idle_w <= (power.standby_w or power.idle_w) <= power.active_w
    assert not spec.tdp_w or power.active_w <= 1.3 * spec.tdp_w


def test_the_states_of_an_a6000_are_those_of_the_published_cluster_files() -> None:
    power = find_accelerator("A6000").power
    assert power is not None
    assert (power.idle_w, power.standby_w, power.active_w, power.standby_duration_s) == (33, 89, 300, 18)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"idle_w": 50, "active_w": 40}, r"active_w: expected at least idle_w \(50\), got 40"),
        ({"idle_w": 50, "active_w": 90, "standby_w": 95}, r"standby_w: expected a value from .*50.* to .*90.*, got 95"),
        ({"idle_w": 5, "active_w": 9, "standby_duration_s": 1}, r"standby_duration_s: .*standby_w beside it"),
        ({"idle_w": 5, "active_w": 9, "min_clock": 0}, r"min_clock: expected a share in \(0, 1\], got 0"),
    ],
)
def test_power_states_that_contradict_each_other_are_refused(values: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PowerSpec(**values)


def test_a_price_below_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match=r"buy_usd: expected at least 0, got -1"):
        PriceSpec(buy_usd=-1)


@pytest.mark.parametrize("spec", catalogued_accelerators().values(), ids=lambda spec: spec.name)
def test_narrower_types_are_never_slower(spec: AcceleratorSpec) -> None:
    rates = [rate for rate in (spec.bf16_flops, spec.fp8_flops, spec.fp4_flops) if rate]
    assert rates == sorted(rates)
    assert spec.flops("fp4") >= spec.bf16_flops


def test_an_unknown_name_is_answered_with_the_nearest_one() -> None:
    with pytest.raises(ConfigError, match=r"did you mean 'H100'\?.*expected one of A10, A100,.*WSE-3"):
        find_accelerator("H10O")


def test_a_user_file_adds_an_entry_that_lookup_finds(tmp_path: Path) -> None:
    path = tmp_path / "own.toml"
    path.write_text(OWN)
    extra = load_accelerators([path])
    assert find_accelerator("mychip", extra).memory_bandwidth == 1e12
    assert find_accelerator("H100", extra).name == "H100"


def test_a_yaml_file_says_the_same_as_a_toml_file(tmp_path: Path) -> None:
    toml, yaml = tmp_path / "own.toml", tmp_path / "own.yaml"
    toml.write_text(OWN)
    lines = [line.replace("1_000_000_000", "1000000000") for line in OWN.strip().splitlines()[1:]]
    body = "\n".join("  " + line.replace(" =", ":").replace("1e", "1.0e+") for line in lines)
    yaml.write_text(f"MyChip:\n{body}\n")
    assert load_accelerators([yaml]) == load_accelerators([toml])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("memory_bandwidth", "memory_bandwith"), r"own.toml: MyChip.memory_bandwith: unknown key.*'memory_bandwidth'"),
        (("vendor", "#"), r"own.toml: MyChip: .*missing required field `vendor`"),
        (("1_000_000_000", "0"), r"own.toml: MyChip: memory_bytes: expected more than 0"),
        (('"wire"', "7"), r"own.toml: MyChip: Expected `str`, got `int` - at `\$.link_kind`"),
        (
            ("kernel_launch_ns = 100", "kernel_launch_ns = 100\narray_dims = [0, 8]"),
            r"MyChip: array_dims: .*got \[0, 8\]",
        ),
        (
            ("kernel_launch_ns = 100", "kernel_launch_ns = 1\n[MyChip.power]\nidle = 1"),
            r"MyChip: .*unknown field `idle`",
        ),
        (("[MyChip]", "[MyChip"), r"own.toml: not valid TOML"),
    ],
)
def test_a_broken_user_file_is_named_with_its_fault(tmp_path: Path, change: tuple[str, str], message: str) -> None:
    path = tmp_path / "own.toml"
    path.write_text(OWN.replace(*change))
    with pytest.raises(ConfigError, match=message):
        load_accelerators([path])


def test_a_file_that_is_not_there_is_an_error_with_its_path(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere.toml: cannot read"):
        load_accelerators([tmp_path / "nowhere.toml"])
