"""Files that nobody writes by hand: what the fuzzer found, each with what it did before it was refused."""

import json
import time
from pathlib import Path
from typing import Any

import pytest

from llmservingsim.backend.astra import run_traces
from llmservingsim.backend.astra_files import read_groups, read_memory, read_network, read_system
from llmservingsim.backend.config import MemoryModel, NetworkModel, SystemModel
from llmservingsim.errors import TraceError
from llmservingsim.graph import CollectiveType, Graph, Node, NodeType
from llmservingsim.trace.chakra import read_traces, write_traces
from llmservingsim.trace.chakra.schema import LLMSERVINGSIM2

NETWORK = {"topology": ["Ring"], "npus_count": [4], "bandwidth": [50], "latency": [500]}


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def refusal(read: Any, file: str, text: str) -> str:
    """What a reader says of a text, on one line of bounded length."""
    Path(file).write_text(text, encoding="utf-8")
    with pytest.raises(TraceError, match=rf"^{file}") as raised:
        read(Path(file))
    message = str(raised.value)
    assert message.isprintable()
    assert len(message) < 1000
    return message


@pytest.mark.parametrize("key", ["bandwidth", "latency", "npus_count"])
def test_an_integer_too_large_for_a_float_ended_in_an_overflow_error(here: Path, key: str) -> None:
    text = json.dumps({**NETWORK, key: [10**400]})
    assert f"{key}: expected an integer of 64 bits, not 1000" in refusal(read_network, "n.yml", text)


@pytest.mark.parametrize("key", ["endpoint-delay", "local-reduction-delay", "preferred-dataset-splits"])
@pytest.mark.parametrize("value", ["1e300", "9223372036854775808"])
def test_an_integer_of_the_system_beyond_64_bits_was_handed_to_the_backend(here: Path, key: str, value: str) -> None:
    assert f"{key}: expected an integer of 64 bits" in refusal(read_system, "s.json", f'{{"{key}": {value}}}')


@pytest.mark.parametrize("key", ["remote-mem-latency", "remote-mem-bw"])
def test_an_integer_of_the_memory_beyond_64_bits_was_handed_to_the_backend(here: Path, key: str) -> None:
    content = {"memory-type": "MEMORY_POOL", "remote-mem-latency": 1, "remote-mem-bw": 1, key: 1e30}
    assert f"{key}: expected an integer of 64 bits" in refusal(read_memory, "m.json", json.dumps(content))


@pytest.mark.parametrize("scale", [float("inf"), float("nan"), 1e300])
def test_an_injection_scale_without_end_was_made_an_integer(here: Path, scale: float) -> None:
    message = refusal(lambda path: read_system(path, scale), "s.json", '{"endpoint-delay": 10}')
    assert f"endpoint-delay: expected a delay that injection scale {scale} can scale, not 10" in message


def test_more_chunks_than_memory_holds_took_minutes_and_gigabytes(here: Path) -> None:
    message = refusal(read_system, "s.json", '{"preferred-dataset-splits": 16777216}')
    assert "preferred-dataset-splits: expected at most 65536 chunks, not 16777216" in message


def test_json_of_great_depth_ended_in_a_recursion_error(here: Path) -> None:
    assert "not JSON" in refusal(read_system, "s.json", "[" * 100_000)


@pytest.mark.parametrize(
    "text", ["2001-99-99", "!!timestamp x", "!!int ''", "!!float x", "!!bool x", "9" * 5000, "{[1]: 2}"]
)
def test_yaml_that_its_own_library_trips_over_ended_in_an_error_of_python(here: Path, text: str) -> None:
    assert "not YAML" in refusal(read_network, "n.yml", f"topology: {text}\n")


@pytest.mark.parametrize("text", ["[" * 20_000, "- " * 20_000, "{a: " * 20_000])
def test_yaml_of_great_depth_killed_the_process(here: Path, text: str) -> None:
    assert "lists and objects stand in each other more than 100 deep" in refusal(read_network, "n.yml", text)


def test_a_short_yaml_of_aliases_made_a_message_of_millions_of_characters(here: Path) -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 8)}]" for i in range(1, 9)]
    assert "topology: expected a list of str" in refusal(
        read_network, "n.yml", "\n".join([*lines, "topology: [*a8]\n"])
    )


def test_a_short_yaml_of_merge_keys_was_unfolded_for_minutes(here: Path) -> None:
    lines = ["a0: &a0 {x: 1, y: 2}"]
    lines += [f"a{i}: &a{i} {{<<: [{', '.join([f'*a{i - 1}'] * 8)}]}}" for i in range(1, 12)]
    began_s = time.process_time()
    assert "merge keys (<<) are not read" in refusal(read_network, "n.yml", "\n".join(lines))
    assert time.process_time() - began_s < 1  # 8^11 pairs otherwise


@pytest.mark.parametrize("value", ["0x" + "f" * 5000, "[0x" + "f" * 5000 + "]"])
def test_a_hexadecimal_of_5000_digits_could_not_be_shown_in_its_own_message(here: Path, value: str) -> None:
    assert "topology: expected a list of str" in refusal(read_network, "n.yml", f"topology: {value}\n")


def test_a_key_of_several_lines_made_a_message_of_several_lines(here: Path) -> None:
    assert r"a\nb: expected a positive integer" in refusal(read_groups, "g.json", r'{"a\nb": [0]}')


def test_a_group_id_of_5000_digits_ended_in_a_value_error(here: Path) -> None:
    assert "expected a positive integer as the group's id" in refusal(read_groups, "g.json", f'{{"{"9" * 5000}": [0]}}')


def test_a_rank_beyond_32_bits_was_refused_without_the_name_of_its_group(here: Path) -> None:
    assert "g.json: 7: expected ranks below 2^31" in refusal(read_groups, "g.json", '{"7": [0, 2147483648]}')


@pytest.mark.parametrize("prefix", ["/", ".", "x" * 300])
def test_a_prefix_that_names_no_file_ended_in_an_error_of_python(here: Path, prefix: str) -> None:
    Path("s.json").write_text(json.dumps({"all-reduce-implementation-custom": [prefix]}))
    with pytest.raises(TraceError, match=r"no such trace|cannot be read: File name too long"):
        read_system(Path("s.json"))


@pytest.mark.parametrize("text", ["", "a\0b", "a\nb"])
def test_a_prefix_of_other_than_printable_text_ended_in_an_error_of_python(here: Path, text: str) -> None:
    content = json.dumps({"all-reduce-implementation-custom": [text]})
    assert "all-reduce-implementation-custom: expected a word" in refusal(read_system, "s.json", content)


def test_a_custom_collective_in_which_the_only_place_talks_to_itself_broke_an_invariant(here: Path) -> None:
    write_traces(Graph.from_nodes([Node("s", NodeType.COMM_SEND, size_bytes=1, peer=0)]), Path("p"))
    Path("s.json").write_text('{"all-reduce-implementation-custom": ["p"]}')
    with pytest.raises(
        TraceError, match=r"p\.0\.et: node 's' exchanges with its own place, the only one; expected a file"
    ):
        read_system(Path("s.json"))


def test_a_custom_collective_in_which_a_place_has_no_step_broke_an_invariant(here: Path) -> None:
    write_traces(Graph.from_nodes([Node("n", NodeType.COMP)]), Path("p"), dialect=LLMSERVINGSIM2)
    Path("p.1.et").write_bytes(b"\0")
    Path("s.json").write_text('{"all-reduce-implementation-chakra": ["p"]}')
    with pytest.raises(TraceError, match=r"p\.1\.et: has no node; expected the steps of a collective"):
        read_system(Path("s.json"), dialect="llmservingsim")


def test_a_node_whose_name_has_several_lines_made_a_refusal_of_the_backend_have_them_too(here: Path) -> None:
    node = Node("a\nb" * 100, NodeType.COMM_COLL, size_bytes=1, collective=CollectiveType.BARRIER)
    write_traces(Graph.from_nodes([node]), Path("t"))
    with pytest.raises(TraceError, match="collective type 9") as raised:
        run_traces(read_traces(Path("t")), NetworkModel(["Ring"], [1], [1.0], [0.0]), SystemModel(), MemoryModel())
    assert str(raised.value).isprintable()
    assert len(str(raised.value)) < 1100
