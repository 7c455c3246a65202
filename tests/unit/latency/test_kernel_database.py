"""The database of measured kernels: what is found in its files, and what is said when something is not."""

from __future__ import annotations

from pathlib import Path

import pytest

from llmservingsim.errors import ProfileError
from llmservingsim.latency.kernel_database import KernelDatabase, system_of

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")


def write(root: Path, version: str, name: str = "gemm/gemm_perf", **columns: list[object]) -> Path:
    family, _, table = name.partition("/")
    folder = root / "h100_sxm" / family / "vllm" / version
    folder.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), folder / f"{table}.parquet")
    return folder / f"{table}.parquet"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for version, milliseconds in (("0.9.2", 9.0), ("0.10.0", 10.0), ("0.24.0", 24.0)):
        write(tmp_path, version, m=[1, 2], gemm_dtype=["BFLOAT16", "fp8"], latency=[milliseconds, 2 * milliseconds])
    write(tmp_path, "0.10.0", "moe/moe_perf", num_tokens=[1], latency=[0.5])
    return tmp_path


def test_rows_with_the_stated_values_come_back_in_microseconds_whatever_their_case(root: Path) -> None:
    rows = KernelDatabase("h100_sxm", folder=root).read("gemm/gemm_perf", ["m"], gemm_dtype="bfloat16")
    assert (rows["m"].tolist(), rows["latency"].tolist()) == ([1], [24_000.0])


def test_versions_are_compared_by_their_numbers(root: Path) -> None:
    database = KernelDatabase("h100_sxm", "vllm", "0.10.0", root)
    assert database.read("gemm/gemm_perf", ["m"], m=2)["latency"].tolist() == [20_000.0]
    assert database.used == {"gemm/gemm_perf": "0.10.0"}


@pytest.mark.parametrize(("version", "taken"), [("0.24.0", "0.10.0"), ("0.9.2", "0.10.0"), (None, "0.10.0")])
def test_a_table_that_a_version_lacks_comes_from_the_one_before_it_or_the_first_after_it(
    root: Path, version: str | None, taken: str
) -> None:
    database = KernelDatabase("h100_sxm", "vllm", version, root)
    database.read("moe/moe_perf", ["num_tokens"])
    assert database.used == {"moe/moe_perf": taken}


@pytest.mark.parametrize(
    ("system", "engine", "version", "said"),
    [
        ("h100", "vllm", None, r"system 'h100' \(did you mean 'h100_sxm'\?\)"),
        ("h100_sxm", "vlm", None, r"engine 'vlm' were measured on h100_sxm \(did you mean 'vllm'\?\)"),
        ("h100_sxm", "vllm", "0.10.1", r"vllm 0.10.1 .* expected one of 0.10.0, 0.24.0, 0.9.2"),
    ],
)
def test_what_was_not_measured_is_refused_with_what_was(
    root: Path, system: str, engine: str, version: str | None, said: str
) -> None:
    with pytest.raises(ProfileError, match=said):
        KernelDatabase(system, engine, version, root)


def test_a_file_that_is_no_parquet_lacks_a_column_or_is_missing_is_named(root: Path) -> None:
    database = KernelDatabase("h100_sxm", folder=root)
    with pytest.raises(ProfileError, match=r"gemm_perf.parquet: has no column 'k'; it has gemm_dtype, latency, m"):
        database.read("gemm/gemm_perf", ["k"])
    with pytest.raises(ProfileError, match="vllm has no table comm/all"):
        database.read("comm/all", [])
    (root / "h100_sxm/gemm/vllm/0.24.0/gemm_perf.parquet").write_bytes(b"PAR1 torn")
    with pytest.raises(ProfileError, match=r"gemm_perf.parquet: cannot be read as parquet"):
        KernelDatabase("h100_sxm", folder=root).read("gemm/gemm_perf", ["m"])


def test_an_accelerator_without_measurements_is_refused_with_those_that_have_some() -> None:
    assert system_of("RTXPRO6000") == "rtx_pro_6000_server"
    with pytest.raises(ProfileError, match=r"'RTX4090'.*the database has A100"):
        system_of("RTX4090")


def test_without_the_package_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llmservingsim.latency.kernel_database.find_spec", lambda _: None)
    with pytest.raises(ProfileError, match=r"pip install 'llmservingsim\[aiconfigurator\]'"):
        KernelDatabase("h100_sxm")
