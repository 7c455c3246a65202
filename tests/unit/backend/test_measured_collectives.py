"""Measured collectives: what the NCCL tests print, CSV, and what is refused."""

from pathlib import Path

import pytest

from llmservingsim.backend.config import MeasuredCollective
from llmservingsim.backend.measured import read_measured, read_nccl_tests
from llmservingsim.errors import ProfileError

HEADER = """\
# nThread 1 nGpus 4 minBytes 1024 maxBytes 4096 step: 2(factor) warmup iters: 5 iters: 20 agg iters: 1 validation: 1
#
# Using devices
#  Rank  0 Group  0 Pid  13893 on     node0 device  0 [0x07] NVIDIA A100-SXM4-40GB
#  Rank  1 Group  0 Pid  13893 on     node0 device  1 [0x0f] NVIDIA A100-SXM4-40GB
#  Rank  2 Group  0 Pid  13893 on     node0 device  2 [0x47] NVIDIA A100-SXM4-40GB
#  Rank  3 Group  0 Pid  13893 on     node0 device  3 [0x4e] NVIDIA A100-SXM4-40GB
#
#                                                              out-of-place                       in-place
#       size         count      type   redop    root     time   algbw   busbw #wrong     time   algbw   busbw #wrong
#        (B)    (elements)                               (us)  (GB/s)  (GB/s)            (us)  (GB/s)  (GB/s)
"""
ROWS = """\
        1024           256     float     sum      -1    10.50    0.10    0.15      0    11.00    0.09    0.14      0
        2048           512     float     sum      -1    12.25    0.17    0.25      0    12.00    0.17    0.26    N/A
        4096          1024     float     sum      -1    20.00    0.20    0.31      0    21.00    0.20    0.29      0
# Out of bounds values : 0 OK
# Avg bus bandwidth    : 0.233
#
"""
TABLE = HEADER + ROWS
WITHOUT_REDOP = (TABLE.replace("   redop    root", "").replace("     sum      -1", "")).replace("#wrong", " error")


def file(folder: Path, text: str, name: str = "all_reduce.txt") -> Path:
    path = folder / name
    path.write_text(text)
    return path


@pytest.mark.parametrize("text", [TABLE, WITHOUT_REDOP], ids=["today", "before redop was printed"])
def test_the_out_of_place_times_of_a_table_count(tmp_path: Path, text: str) -> None:
    found = read_nccl_tests(file(tmp_path, text))
    assert found == MeasuredCollective("all_reduce", 4, [1024, 2048, 4096], [10_500, 12_250, 20_000])


@pytest.mark.parametrize(
    ("name", "collective", "sizes"),
    [
        ("all_gather_4.log", "all_gather", [256, 512, 1024]),
        ("reduce-scatter.txt", "reduce_scatter", [1024, 2048, 4096]),
        ("ALLTOALL.txt", "all_to_all", [1024, 2048, 4096]),
    ],
)
def test_the_file_name_says_which_and_an_all_gathers_size_becomes_a_ranks(
    tmp_path: Path, name: str, collective: str, sizes: list[int]
) -> None:
    """Four ranks that end with 1024 bytes put in 256 each."""
    found = read_nccl_tests(file(tmp_path, TABLE, name))
    assert (found.collective, found.size_bytes) == (collective, sizes)


def test_what_the_output_names_goes_before_the_file_name(tmp_path: Path) -> None:
    text = "# Collective test starting: all_gather_perf\n" + TABLE
    assert read_nccl_tests(file(tmp_path, text)).collective == "all_gather"


def test_ranks_and_collective_may_be_told(tmp_path: Path) -> None:
    text = "\n".join(line for line in TABLE.splitlines() if "Rank" not in line)
    found = read_nccl_tests(file(tmp_path, text, "run.txt"), ranks=8, collective="all_gather")
    assert (found.collective, found.ranks, found.size_bytes) == ("all_gather", 8, [128, 256, 512])


def test_repeated_sizes_count_with_their_mean_and_empty_ones_not(tmp_path: Path) -> None:
    """(10.5 + 11.5) / 2 = 11 us."""
    again = ROWS.splitlines()[0].replace("10.50", "11.50")
    empty = ROWS.splitlines()[0].replace(" 1024", "    0").replace("10.50", " 0.10")
    found = read_nccl_tests(file(tmp_path, f"{TABLE}{again}\n{empty}\n"))
    assert (found.size_bytes, found.time_ns) == ([1024, 2048, 4096], [11_000, 12_250, 20_000])


@pytest.mark.parametrize(
    ("text", "name", "said"),
    [
        (TABLE, "run.txt", "does not say which collective it measured; expected a file name with one of all_gather"),
        (ROWS, "all_reduce.txt", "there is no '# Rank' line"),
        (TABLE.replace("#       size", "#"), "all_reduce.txt", "there is no line '# size count type ... time'"),
        (HEADER, "all_reduce.txt", "expected at least one line with a size and a time, found none"),
        (TABLE.replace("12.25", "fast"), "all_reduce.txt", "line 13: time: expected microseconds, got 'fast'"),
        (TABLE.replace("12.25", "-1"), "all_reduce.txt", "line 13: time: expected microseconds, got '-1'"),
    ],
)
def test_an_output_that_does_not_say_enough_is_refused(tmp_path: Path, text: str, name: str, said: str) -> None:
    with pytest.raises(ProfileError, match=name) as caught:
        read_nccl_tests(file(tmp_path, text, name))
    assert said in str(caught.value)


CSV = "collective,ranks,size_bytes,time_us\nall_reduce,8,4096,20\nall_gather,8,512,7.5\nall_reduce,8,1024,10.5\n"


def test_a_csv_holds_several_collectives_in_any_order(tmp_path: Path) -> None:
    assert read_measured([file(tmp_path, CSV, "mine.csv"), file(tmp_path, TABLE)]) == [
        MeasuredCollective("all_reduce", 8, [1024, 4096], [10_500, 20_000]),
        MeasuredCollective("all_gather", 8, [512], [7_500]),
        MeasuredCollective("all_reduce", 4, [1024, 2048, 4096], [10_500, 12_250, 20_000]),
    ]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("ranks", "rank"), "line 1: expected the header collective,ranks,size_bytes,time_us"),
        (("all_gather", "allgather"), "line 3: collective: 'allgather' is none (did you mean 'all_gather'?)"),
        ((",8,512", ",0,512"), "line 3: ranks: expected a positive integer, got '0'"),
        ((",512,", ",5e2,"), "line 3: size_bytes: expected a positive integer, got '5e2'"),
        (("7.5", ""), "line 3: time: expected microseconds, got ''"),
        ((",512,7.5", ""), "line 3: expected collective,ranks,size_bytes,time_us, one cell for each"),
    ],
)
def test_a_wrong_csv_is_refused_with_its_line(tmp_path: Path, change: tuple[str, str], said: str) -> None:
    with pytest.raises(ProfileError, match=r"mine\.csv") as caught:
        read_measured([file(tmp_path, CSV.replace(*change), "mine.csv")])
    assert said in str(caught.value)


def test_two_files_of_the_same_are_refused(tmp_path: Path) -> None:
    files = [file(tmp_path, TABLE, "all_reduce_a.txt"), file(tmp_path, TABLE, "all_reduce_b.txt")]
    with pytest.raises(ProfileError, match=r"b\.txt: all_reduce over 4 ranks is also measured in .*a\.txt"):
        read_measured(files)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ProfileError, match=r"nowhere\.txt: cannot be read"):
        read_measured([tmp_path / "nowhere.txt"])
