"""The catalogue of memories that compute, and DRAMSim3's files: numbers, sources, names and faults."""

from pathlib import Path

import msgspec
import pytest

from llmservingsim.config.catalog import PimSpec, catalogued_pim, find_pim
from llmservingsim.errors import ConfigError

GIB = 2**30
INI = """# a memory
[dram_structure]
protocol = HBM
bankgroups = 4   # of four
banks_per_group = 4
rows = 32768
columns = 64
device_width = 128
BL = 4

[timing]
tCK = 1
CL = 14
CWL = 4
tRCDRD = 14
tRCDWR = 14
tRP = 14
tRAS = 34
tRFC = 260
tREFI = 3900
tCCD_S = 1
tCCD_L = 2
tFAW = 30
tWR = 16
address_of_nobody = yes

[system]
channel_size = 1024 ; MB
bus_width = 128

[other]
data_rate = 2000 # MT/s
idle_power = 160 # mW
peak_power = 760
"""


def write(folder: Path, text: str = INI, name: str = "HBM2_1GB_2000_pim.ini") -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


ENTRIES = list(catalogued_pim().values())


@pytest.mark.parametrize("spec", ENTRIES, ids=lambda spec: spec.name)
def test_every_number_of_an_entry_has_a_source(spec: PimSpec) -> None:
    numbers = {f for f in spec.__struct_fields__ if isinstance(getattr(spec, f), int | float) and getattr(spec, f)}
    assert numbers == set(spec.source)
    assert all(spec.source.values())


@pytest.mark.parametrize("spec", ENTRIES, ids=lambda spec: spec.name)
def test_banks_rows_and_columns_fill_the_channel(spec: PimSpec) -> None:
    assert spec.banks * spec.rows * spec.page_bytes == spec.channel_bytes


@pytest.mark.parametrize(
    ("name", "terabytes_per_s", "teraflops"),
    [
        ("HBM-PIM", 1.2288, 1.2288),  # per stack, four times the 307.2 GB/s outside
        ("GDDR6-AiM", 1.024, 1.024),  # per die, sixteen times the 64 GB/s outside
        ("CXL-PNM", 1.0922, 8.192),  # the card's memory bandwidth
    ],
)
def test_published_peaks_follow_from_the_entries(name: str, terabytes_per_s: float, teraflops: float) -> None:
    spec = find_pim(name, Path())
    assert spec.channels * spec.internal_bandwidth / 1e12 == pytest.approx(terabytes_per_s, rel=1e-3)
    assert spec.channels * spec.flops / 1e12 == pytest.approx(teraflops, rel=1e-3)


@pytest.mark.parametrize(
    ("name", "gigabytes_per_s", "gibibytes"),
    [("HBM-PIM", 307.2, 2), ("GDDR6-AiM", 64, 1), ("LPDDR5-PIM", 12.8, 2), ("DDR4", 25.6, 8), ("CXL-PNM", 1092.2, 512)],
)
def test_a_device_has_the_bandwidth_and_size_of_its_data_sheet(
    name: str, gigabytes_per_s: float, gibibytes: int
) -> None:
    spec = find_pim(name, Path())
    assert spec.channels * spec.channel_bandwidth / 1e9 == pytest.approx(gigabytes_per_s, rel=1e-3)
    assert spec.device_bytes == gibibytes * GIB


@pytest.mark.parametrize(
    ("name", "found"), [("aquabolt xl", "HBM-PIM"), ("gddr6_aim", "GDDR6-AiM"), ("DDR4", "DDR4-PIM")]
)
def test_aliases_case_and_dashes_do_not_matter(name: str, found: str) -> None:
    assert find_pim(name, Path()).name == found


def test_an_unknown_name_is_answered_with_the_nearest_and_the_folder(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"'HBM-PMI' is not in the catalogue.*mean 'HBM-PIM'.*GDDR6-AiM.*" + str(tmp_path)
    ):
        find_pim("HBM-PMI", tmp_path)


@pytest.mark.parametrize(
    ("stem", "gigabytes_per_s", "read_latency_ns", "channels_of_64_gib", "protocol"),
    [
        ("DDR4_8GB_3200_pim", 25.6, 13.86, 8, "DDR4"),
        ("HBM2_1GB_2000_pim", 32.0, 14.0, 64, "HBM2"),
        ("LPDDR4X_2GB_4266_pim", 8.53, 16.85, 32, "LPDDR4X"),
        ("LPDDR5_2GB_6400_pim", 12.8, 10.62, 32, "LPDDR5"),
    ],
)
def test_the_files_of_llmservingsim_load_unchanged(
    shared: Path, stem: str, gigabytes_per_s: float, read_latency_ns: float, channels_of_64_gib: int, protocol: str
) -> None:
    spec = find_pim(stem, shared / "data" / "clusters")
    assert spec == find_pim(f"{stem}.ini", shared / "data" / "pim")
    assert spec.channel_bandwidth / 1e9 == pytest.approx(gigabytes_per_s, abs=0.005)
    assert spec.read_latency_ns == pytest.approx(read_latency_ns, abs=0.0051)
    assert (spec.channels_of(64 * GIB), spec.protocol) == (channels_of_64_gib, protocol)


def test_a_file_becomes_the_numbers_that_stand_in_it(tmp_path: Path) -> None:
    spec = find_pim("HBM2_1GB_2000_pim", write(tmp_path).parent)
    assert (spec.name, spec.protocol, spec.banks, spec.page_bytes, spec.access_bytes) == (
        "HBM2_1GB_2000_pim",
        "HBM2",
        16,
        1024,
        64,
    )
    assert (spec.trcd, spec.cl, spec.tfaw, spec.tck_ns, spec.channel_bytes) == (14, 14, 30, 1.0, GIB)
    assert (spec.channel_bandwidth, spec.read_latency_ns, spec.idle_w, spec.active_w) == (32e9, 14.0, 0.16, 0.76)
    assert spec.source["trcd"] == "HBM2_1GB_2000_pim.ini: tRCD"


def test_units_that_a_file_does_not_describe_are_assumed_and_said(tmp_path: Path) -> None:
    spec = find_pim("HBM2_1GB_2000_pim", write(tmp_path).parent)
    assert (spec.units, spec.macs_per_unit, spec.unit_clock) == (8, 32, 500e6)
    said = spec.assumptions()
    assert {"banks_per_unit", "macs_per_unit", "unit_clock", "buffer_bytes", "softmax_rate"} <= set(said)
    assert said["banks_per_unit"] == "assumed: as HBM-PIM"
    numbers = {f for f in spec.__struct_fields__ if isinstance(getattr(spec, f), int | float) and getattr(spec, f)}
    assert numbers == set(spec.source)


@pytest.mark.parametrize("place", ["x.ini", "pim/x.ini", "pim_config/x.ini", "../pim/x.ini", "../../../x.ini"])
def test_a_stem_is_looked_for_beside_the_run_file_and_above(tmp_path: Path, place: str) -> None:
    base = tmp_path / "a" / "b" / "c"
    base.mkdir(parents=True)
    write((base / place).parent, name="x.ini")
    assert find_pim("x", base).protocol == "HBM"


def test_a_path_is_taken_from_the_run_file(tmp_path: Path) -> None:
    path = write(tmp_path / "memories")
    assert find_pim("memories/HBM2_1GB_2000_pim.ini", tmp_path) == find_pim(str(path), Path("/nowhere"))


def test_a_plain_dramsim3_file_lacks_rate_and_power(tmp_path: Path) -> None:
    plain = INI.partition("[other]")[0]
    spec = find_pim("plain.ini", write(tmp_path, plain, "plain.ini").parent)
    assert (spec.data_rate, spec.idle_w, spec.active_w) == (2e9, 0.0, 0.0)
    assert spec.source["data_rate"] == "assumed: two transfers per tCK"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            ("rows = 32768", "rows = many"),
            r"x.ini:6: \[dram_structure\] rows: expected a whole number of at least 1, got 'many'",
        ),
        (("rows = 32768", "rows = 1.5"), r"x.ini:6: .*rows: expected a whole number"),
        (("tCK = 1", "tCK = 0"), r"x.ini:12: \[timing\] tCK: expected a number of more than 0, got '0'"),
        (("tCK = 1", "tCK = nan"), r"x.ini:12: \[timing\] tCK: expected a number of more than 0"),
        (
            ("data_rate = 2000", "data_rate ="),
            r"x.ini:32: \[other\] data_rate: expected a number of more than 0, got ''",
        ),
        (("idle_power = 160", "idle_power = -1"), r"x.ini:33: \[other\] idle_power: expected a number of at least 0"),
        (("tRP = 14", "tPR = 14"), r"x.ini: \[timing\] tRP is missing.*; expected a number"),
        (("tRCDRD = 14", ""), r"x.ini: \[timing\] tRCD \(or tRCDRD\) is missing"),
        (("protocol = HBM", ""), r"x.ini: \[dram_structure\] protocol is missing; expected a kind of DRAM"),
        (
            ("[system]", "[sytem]"),
            r"x.ini: section \[system\] is missing \(did you mean 'sytem'\?\); expected bus_width there",
        ),
        (("[timing]", "[dram_structure]"), r"x.ini:11: section \[dram_structure\] stands there twice"),
        (("CWL = 4", "CL = 4"), r"x.ini:14: \[timing\] has 'cl' twice"),
        (("[dram_structure]", "hello"), r"x.ini:2: expected a section such as \[timing\] first"),
        (("tRFC = 260", "tRFC = 5000"), r"x.ini: trfc 5000 leaves no time between refreshes every trefi 3900"),
        (("columns = 64", "columns = 63"), r"x.ini: a row of 63 columns of 128 bits is no multiple of an access of 4"),
        (
            ("channel_size = 1024", "channel_size = 8"),
            r"x.ini: channel_bytes: 8.00 MiB is less than the 512.00 MiB of its banks",
        ),
    ],
)
def test_a_broken_file_is_named_with_its_line_and_fault(tmp_path: Path, change: tuple[str, str], message: str) -> None:
    assert change[0] in INI
    write(tmp_path, INI.replace(*change, 1), "x.ini")
    with pytest.raises(ConfigError, match=message):
        find_pim("x.ini", tmp_path)


def test_a_file_that_is_not_there_or_no_text_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere.ini: cannot read the DRAMSim3 file"):
        find_pim("nowhere.ini", tmp_path)
    (tmp_path / "bytes.ini").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match=r"bytes.ini: cannot read the DRAMSim3 file"):
        find_pim("bytes.ini", tmp_path)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"rows": 0}, "rows: expected more than 0, got 0"),
        ({"idle_w": -1.0}, "idle_w: expected at least 0"),
        ({"banks_per_unit": 3}, "banks_per_unit 3 does not divide the 16 banks"),
        ({"unit_place": "controller"}, "a unit in the controller reaches all 16 banks, got 2"),
    ],
)
def test_numbers_that_contradict_each_other_are_refused(fields: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        msgspec.structs.replace(find_pim("HBM-PIM", Path()), **fields)
