"""Wrong input ends with exit code 2 and one message that says where it is and what would be right."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llmservingsim.errors import WorkloadError

Cli = Callable[..., Any]
Writer = Callable[..., Path]
BIG = "meta-llama/Llama-3.1-70B"


@pytest.fixture
def refused(cli: Cli) -> Callable[..., str]:
    """Runs the command line, expects it to refuse its input, and returns the message."""

    def call(*arguments: object) -> str:
        code, out, err = cli(*arguments)
        assert code == 2, err
        assert out == ""
        assert "Traceback" not in err
        assert err.startswith("error: ")
        return str(err.removeprefix("error: ").rstrip("\n"))

    return call


Refused = Callable[..., str]


def said(message: str, *parts: str) -> bool:
    """Whether a message of one line holds all parts."""
    assert "\n" not in message
    return all(part in message for part in parts)


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        (
            {"sed": 1},
            ["run.json: unknown key 'sed'", "did you mean 'seed'?", "expected admission, "],
        ),
        ({"network": {"bandwidth": "900GBps"}}, ["run.json: network: bandwidth: 'GBps'", "did you mean 'GB/s'?"]),
        ({"timeseries_interval": "2 parsecs"}, ["run.json: timeseries_interval: 'parsecs'", "h, min, ms, ns, s, us"]),
        ({"timeseries_interval": "0s"}, ["run.json: timeseries_interval: expected more than 0"]),
        ({"router": "least_load"}, ["router: 'least_load' is unknown", "did you mean 'least_loaded'?"]),
        ({"serving": {"scheduler": "vlm"}}, ["scheduler: 'vlm' is unknown", "did you mean 'vllm'?"]),
        ({"serving": {"scheduler": "nowhere:Never"}}, ["scheduler: cannot import 'nowhere'"]),
        ({"serving": {"latency": {"source": "rooflin"}}}, ["'rooflin' is unknown", "did you mean 'roofline'?"]),
        ({"nodes": []}, ["run.json: nodes: expected array of length >= 1"]),
    ],
)
def test_a_wrong_run_file(
    refused: Refused,
    write_config: Writer,
    trace: Path,
    cluster: dict[str, Any],
    change: dict[str, Any],
    parts: list[str],
) -> None:
    assert said(refused("run", write_config({**cluster, **change}), "-w", trace), *parts)


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        (
            {"max_num_seq": 1},
            ["run.json: nodes[0].instances[0]: unknown key 'max_num_seq'", "did you mean 'max_num_seqs'?"],
        ),
        ({"hardware": "H10O"}, ["'H10O'", "did you mean 'H100'?", "RTX4090"]),
        ({"model": "meta-llama/Llama-3.2-1"}, ["'meta-llama/Llama-3.2-1'", "did you mean 'meta-llama/Llama-3.2-1B'?"]),
        ({"enable_expert_parallel": True}, ["nodes[0].instances[0]: enable_expert_parallel: ", "has no experts"]),
        ({"tensor_parallel_size": 3}, ["nodes[0].instances[0]: ", "tp 3 does not divide the 32 attention heads"]),
        ({"tensor_parallel_size": 10**9}, ["nodes[0].instances[0]: ", "tp 1000000000 does not divide the 32"]),
        ({"num_gpu_blocks": 10**12}, ["1,000,000,000,000 blocks", "at most 16,777,216", "raise block_size"]),
        (
            {"memory_size": "24"},
            ["run.json: nodes[0].instances[0]: memory_size: expected a size with its unit", "'80GiB'"],
        ),
    ],
)
def test_a_wrong_instance(
    refused: Refused,
    write_config: Writer,
    trace: Path,
    cluster: dict[str, Any],
    change: dict[str, Any],
    parts: list[str],
) -> None:
    cluster["nodes"][0]["instances"][0].update(change)
    assert said(refused("run", write_config(cluster), "-w", trace), *parts)


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["--set", "serving.max_num_seq=1"], ["--set serving.max_num_seq=1", "did you mean 'max_num_seqs'?"]),
        (["--set", "network.bandwidth=900GBps"], ["network: bandwidth: 'GBps'", "did you mean 'GB/s'?"]),
        (["--interval", "2 parsecs"], ["timeseries_interval: 'parsecs' is no unit of time"]),
        (["--emit-iterations", "5:2"], ["--emit-iterations 5:2: expected 0 <= first < end"]),
        (["--emit-iterations", "a:b"], ["--emit-iterations a:b: expected first:end, such as 0:10"]),
        (["--interval", "1e20h"], ["timeseries_interval: '1e20h' is too large for a time"]),
        (["--set", "network.preferred_dataset_splits=100000000"], ["preferred_dataset_splits: expected int <= 65536"]),
        (["--profiles", "nowhere"], ["nowhere: no such directory"]),
        (["--models", "nowhere"], ["nowhere: no such directory"]),
    ],
)
def test_a_wrong_option(refused: Refused, config: Path, trace: Path, arguments: list[str], parts: list[str]) -> None:
    assert said(refused("run", config, "-w", trace, *arguments), *parts)


def test_an_output_that_is_a_file_is_refused_before_the_run(refused: Refused, config: Path, trace: Path) -> None:
    assert said(refused("run", config, "-w", trace, "--output", trace), f"{trace}: File exists")


def test_missing_and_broken_files(refused: Refused, config: Path, trace: Path, write_config: Writer) -> None:
    assert said(
        refused("run", config.with_name("rum.json"), "-w", trace), "rum.json: no such file", "did you mean 'run.json'?"
    )
    assert said(refused("run", config, "-w", trace.with_name("trac.jsonl")), "no such workload file", "'trace.jsonl'")
    assert said(refused("run", config), "there is no workload: give --workload FILE")
    broken = write_config("nodes:\n  - instances: [\n", "broken.yaml")
    assert said(refused("run", broken, "-w", trace), "broken.yaml: line 3, column 1: broken YAML")


@pytest.mark.parametrize(
    "case",
    [
        (17, '{"input_toks": 3, "output_', ["trace.jsonl:17: broken JSON"]),
        (
            4,
            {"input_toks": 3, "output_toks": 3, "arrival_time_ns": -5},
            ["trace.jsonl:4: arrival_time_ns", ">= 0, got -5"],
        ),
        (6, {"input_toks": 3, "output_toks": 3, "arrival_time_ns": 1}, ["trace.jsonl:6:", "falls from 4000000 to 1"]),
        (
            6,
            {"input_tok": 3, "output_toks": 3, "arrival_time_ns": 5000000},
            ["trace.jsonl:6:", "did you mean 'input_toks'?"],
        ),
        (3, "[" * 100_000, ["trace.jsonl:3: broken JSON", "recursion depth"]),
        (1, {"input_toks": 0, "output_toks": 3, "arrival_time_ns": 0}, ["trace.jsonl:1: input_toks", ">= 1, got 0"]),
    ],
)
def test_a_wrong_line_of_a_trace(
    refused: Refused, config: Path, write_lines: Writer, lines: list[Any], case: tuple[int, object, list[str]]
) -> None:
    number, line, parts = case
    lines[number - 1] = line
    assert said(refused("run", config, "-w", write_lines(lines)), *parts)


def test_arrivals_since_an_epoch_are_answered_before_memory_is_full(
    refused: Refused, config: Path, write_lines: Writer
) -> None:
    """At one sample per second the 54 years before this request would be 1.7 billion rows per scope."""
    line = {"input_toks": 3, "output_toks": 3, "arrival_time_ns": 17 * 10**17}
    message = refused("run", config, "-w", write_lines([line]))
    assert said(message, "timeseries_interval: ", "10,000,000 rows", "arrivals count from 0")


def test_an_arrival_at_the_end_of_time_is_refused(refused: Refused, config: Path, write_lines: Writer) -> None:
    line = {"input_toks": 3, "output_toks": 3, "arrival_time_ns": 2**62}
    assert said(refused("run", config, "-w", write_lines([line])), "a request arrives at 4611686018427387904 ns")


@pytest.mark.parametrize("setting", ["nodes.0.instances.0.memory_bandwidth=1e-20B/s", "network.bandwidth=1e-30B/s"])
def test_a_latency_that_no_clock_can_count_stops_the_run(cli: Cli, config: Path, trace: Path, setting: str) -> None:
    two = "nodes.0.instances.0.tensor_parallel_size=2"
    code, _, err = cli("run", config, "-w", trace, "--set", two, "--set", setting)
    assert code == 1
    assert err.startswith("error: instance 0, iteration 0: ")


@pytest.mark.parametrize("text", ["", "\n\n"])
def test_an_empty_trace(refused: Refused, config: Path, tmp_path: Path, text: str) -> None:
    (tmp_path / "none.jsonl").write_text(text)
    assert said(refused("run", config, "-w", tmp_path / "none.jsonl"), "none.jsonl: holds no request")


def test_a_request_for_a_model_that_nobody_serves(refused: Refused, config: Path, write_lines: Writer) -> None:
    line = {"input_toks": 3, "output_toks": 3, "arrival_time_ns": 0, "model": "meta-llama/Llama-3.2-1"}
    message = refused("run", config, "-w", write_lines([line]))
    assert said(message, "request 0 asks for the model", "did you mean 'meta-llama/Llama-3.2-1B'?")


def test_a_model_too_large_is_answered_with_the_table_of_what_does_not_fit(
    refused: Refused, write_config: Writer, trace: Path
) -> None:
    data: dict[str, Any] = {"nodes": [{"instances": [{"model": BIG, "hardware": "H100"}]}]}
    first, *table = refused("run", write_config(data), "-w", trace).splitlines()
    assert f"{BIG} does not fit" in first
    rows = {row[:32].strip(): row[32:].strip() for row in table[:-1]}
    assert rows["device memory"] == "79.65 GiB"
    assert rows["weights"] == "-131.42 GiB"  # 70.55e9 parameters of 2 bytes
    assert rows["left for KV cache"].startswith("-")
    assert "it fits from tp 2 on" in table[-1]
    data["nodes"][0]["instances"][0].update(kv_memory_model="weights_only", memory_size="24GiB")
    assert said(
        refused("run", write_config(data), "-w", trace), BIG, "131.42 GiB leave no room for KV cache in 21.60 GiB"
    )


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        (
            {"hardware": "H100"},
            ["no profile of meta-llama/Llama-3.1-8B on H100", "RTX4090", "latency.source to 'roofline'"],
        ),
        ({"model": "Qwen/Qwen3-0.6B"}, ["no profile of Qwen/Qwen3-0.6B on RTX4090"]),
        ({"tensor_parallel_size": 8}, ["no profile of meta-llama/Llama-3.1-8B on RTX4090", "tp 8"]),
    ],
)
def test_a_missing_profile(
    refused: Refused, write_config: Writer, trace: Path, tmp_path: Path, change: dict[str, Any], parts: list[str]
) -> None:
    folder = tmp_path / "profiles" / "RTX4090" / "meta-llama" / "Llama-3.1-8B" / "bf16" / "tp1"
    folder.mkdir(parents=True)
    instance = {"model": "meta-llama/Llama-3.1-8B", "hardware": "RTX4090", "num_gpu_blocks": 100, **change}
    path = write_config({"nodes": [{"instances": [instance]}]})
    assert said(refused("run", path, "-w", trace, "--profiles", tmp_path / "profiles"), *parts)


@pytest.mark.parametrize(
    ("keys", "parts"),
    [
        ({"pd_type": "prefill"}, ["instance 0 is a kv_producer, but no instance", "is a kv_consumer"]),
        ({"enable_local_offloading": True}, ["nodes[0].instances[0].enable_local_offloading: not simulated"]),
        ({"pp_size": 2, "num_npus": 3}, ["nodes[0].instances[0]: num_npus 3 is not tp_size * pp_size = 1 * 2"]),
        ({"ep_size": 2}, ["expert_parallel_size: meta-llama/Llama-3.1-8B has no experts"]),
        ({"tp_sze": 1}, ["nodes[0].instances[0]: unknown key 'tp_sze'", "did you mean 'tp_size'?"]),
    ],
)
def test_what_an_imported_file_asks_for_in_vain(
    refused: Refused, write_config: Writer, trace: Path, keys: dict[str, Any], parts: list[str]
) -> None:
    memory = {"mem_size": 24, "mem_bw": 1008}
    instance = {"model_name": "meta-llama/Llama-3.1-8B", "hardware": "RTX4090", "npu_mem": memory, **keys}
    path = write_config({"num_nodes": 1, "nodes": [{"num_instances": 1, "instances": [instance]}]})
    assert said(refused("run", path, "-w", trace), *parts)


@pytest.mark.parametrize("arguments", [["--num-requests", "-1"], ["--seed", "one"], ["--nonsense"]])
def test_an_option_that_cannot_be_read_is_explained(cli: Cli, config: Path, trace: Path, arguments: list[str]) -> None:
    code, out, err = cli("run", config, "-w", trace, *arguments)
    assert (code, out) == (2, "")
    assert arguments[0] in err
    assert "Traceback" not in err


def test_a_user_sees_the_same_in_a_process_of_its_own(llmservingsim: Cli, write_config: Writer, trace: Path) -> None:
    done = llmservingsim("run", write_config({"node": []}), "-w", trace)
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith("error: ")
    assert said(done.err.rstrip("\n"), "run.json: unknown key 'node' in a section (did you mean 'nodes'?)")


def test_a_program_gets_the_error_and_not_an_exit(cluster: dict[str, Any], write_lines: Writer) -> None:
    from llmservingsim import simulate

    with pytest.raises(WorkloadError, match=r"trace\.jsonl:1: broken JSON"):
        simulate(cluster, write_lines(["{"]))


def test_json_output_is_empty_when_the_input_is_refused(cli: Cli, config: Path) -> None:
    answer = cli("run", config, "-w", "nowhere.jsonl", "--json")
    assert (answer.code, answer.out) == (2, "")
