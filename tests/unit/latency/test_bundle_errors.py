"""A bundle that is missing or broken says where, and what was expected."""

from __future__ import annotations

import re

import pytest
from synthetic_bundle import batch

from llmservingsim.errors import ProfileError
from llmservingsim.latency import BundleSource, find_bundle

RIGHT = {"hardware": "H100", "model": "acme/tiny-1B", "variant": "bf16", "tp": 1}


def profiles_of(tp_folder):
    return tp_folder.parents[4]


def test_a_bundle_is_found_in_the_first_directory_that_has_it(tp_folder, tmp_path):
    assert find_bundle([tmp_path / "absent", profiles_of(tp_folder)], **RIGHT) == tp_folder


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"hardware": "H10"}, r"profiles has no 'H10' \(did you mean 'H100'\?\); it has H100"),
        ({"model": "acne/tiny-1B"}, r"H100 has no 'acne' \(did you mean 'acme'\?\); it has acme"),
        ({"model": "acme/tiny-2B"}, r"acme has no 'tiny-2B' \(did you mean 'tiny-1B'\?\); it has tiny-1B"),
        ({"variant": "bf-16"}, r"tiny-1B has no 'bf-16' \(did you mean 'bf16'\?\); it has bf16"),
        ({"tp": 8}, r"bf16 has no 'tp8' \(did you mean 'tp1'\?\); it has tp1"),
    ],
)
def test_the_first_missing_level_is_named_with_what_stands_there(tp_folder, wrong, message):
    with pytest.raises(ProfileError, match=message) as raised:
        find_bundle([profiles_of(tp_folder)], **{**RIGHT, **wrong})
    assert "Give --profiles DIR" in str(raised.value)


def test_of_several_directories_the_one_that_came_closest_is_named(tp_folder, tmp_path):
    (tmp_path / "other/H200").mkdir(parents=True)
    with pytest.raises(ProfileError, match=r"bf16 has no 'tp4'"):
        find_bundle([profiles_of(tp_folder), tmp_path / "other"], **{**RIGHT, "tp": 4})


def test_without_any_directory_the_message_says_so(tmp_path):
    with pytest.raises(ProfileError, match=r"no profile directory was given"):
        find_bundle([], **RIGHT)
    with pytest.raises(ProfileError, match=r"nowhere has no 'H100'; it holds no profiles"):
        find_bundle([tmp_path / "nowhere"], **RIGHT)


@pytest.mark.parametrize("name", ["dense.csv", "per_sequence.csv", "attention.csv"])
def test_a_missing_file_is_named(tp_folder, name):
    (tp_folder / name).unlink()
    with pytest.raises(ProfileError, match=rf"{name}: file is missing"):
        BundleSource(tp_folder)


@pytest.mark.parametrize(
    ("name", "columns"),
    [
        ("dense.csv", "layer,tokens,time_us"),
        ("per_sequence.csv", "layer,sequences,time_us"),
        ("attention.csv", "prefill_chunk,kv_prefill,n_decode,kv_decode,time_us"),
    ],
)
@pytest.mark.parametrize("header", ["layer,size,us", ""])
def test_a_wrong_header_is_shown_beside_the_right_one(tp_folder, name, columns, header):
    (tp_folder / name).write_text(header + "\n1,2,3\n")
    with pytest.raises(ProfileError, match=rf"{name}:1: expected the columns {columns}, got '{header}'"):
        BundleSource(tp_folder)


@pytest.mark.parametrize(
    ("name", "row"),
    [
        ("dense.csv", "qkv_proj,8"),
        ("dense.csv", "qkv_proj,8,fast"),
        ("dense.csv", "qkv_proj,8,0"),
        ("dense.csv", "qkv_proj,-8,1.5"),
        ("dense.csv", "qkv_proj,8,nan"),
        ("dense.csv", "qkv_proj,8,1.5,2"),
        ("per_sequence.csv", "lm_head,8,-3"),
        ("attention.csv", "0,0,1,16"),
        ("attention.csv", "0,0,1,sixteen,9.5"),
        ("attention.csv", "0,0,1,16,0"),
        ("attention.csv", "0,0,1,16,-9.5"),
        ("attention.csv", "0,0,1,16,inf"),
        ("attention.csv", "0,0,-1,16,9.5"),
        ("attention.csv", "0,0,1,16,9.5,9.5"),
    ],
)
def test_a_malformed_row_is_named_by_its_line(tp_folder, name, row):
    path = tp_folder / name
    lines = path.read_text().splitlines()
    lines.insert(4, row)
    path.write_text("\n".join(lines) + "\n")
    with pytest.raises(ProfileError, match=rf"{name}:5: expected .*time_us with .*, got '{re.escape(row)}'"):
        BundleSource(tp_folder)


def test_rows_that_all_lack_a_column_are_malformed_too(tp_folder):
    (tp_folder / "attention.csv").write_text(
        "prefill_chunk,kv_prefill,n_decode,kv_decode,time_us\n0,0,1,16\n16,0,0,0\n"
    )
    with pytest.raises(ProfileError, match=r"attention\.csv:2: expected"):
        BundleSource(tp_folder)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    ("rows", "missing"), [("", "row"), ("0,0,1,16,9.5\n", "prefill batch"), ("16,0,0,0,9.5\n", "decode batch")]
)
def test_attention_needs_both_kinds_of_batches(tp_folder, rows, missing):
    (tp_folder / "attention.csv").write_text(f"prefill_chunk,kv_prefill,n_decode,kv_decode,time_us\n{rows}")
    with pytest.raises(ProfileError, match=rf"attention\.csv: holds no {missing}"):
        BundleSource(tp_folder)


@pytest.mark.parametrize(
    ("operator", "message"),
    [
        ("qkv_prj", r"'qkv_prj' was not measured \(did you mean 'qkv_proj'\?\); the bundle has o_proj, qkv_proj"),
        ("moe", r"'moe' was not measured; the bundle has o_proj, qkv_proj"),
    ],
)
def test_an_operator_that_was_not_measured_is_an_error_and_never_zero(tp_folder, operator, message):
    with pytest.raises(ProfileError, match=message):
        BundleSource(tp_folder).latency_ns(operator, batch(decodes=[1]))
