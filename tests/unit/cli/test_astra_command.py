"""`llmservingsim astra`: ASTRA-sim's flags, its lines, and what it writes beside them."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from llmservingsim.backend.config import MemoryLevelModel, MemoryModel
from llmservingsim.backend.native import NativeBackend
from llmservingsim.backend.steps import Step
from llmservingsim.cli.astra import app as astra_app
from llmservingsim.cli.astra_inputs import AstraFlags, Congestion, DialectName, load_inputs
from llmservingsim.errors import TraceError
from llmservingsim.graph import Graph, Node, NodeType
from llmservingsim.trace.chakra import et_def_pb2 as et
from llmservingsim.trace.chakra import write_traces
from llmservingsim.trace.chakra.records import frame

COMP, COLL = NodeType.COMP, NodeType.COMM_COLL
SYSTEM = {"all-reduce-implementation": ["ring"], "local-mem-bw": 1600}
# 64 KiB over a ring of 4: blocks of 16,384 bytes, 305.2 + 500 -> 805 ns each, six of them, seven delays of 10 ns, and
# three reductions of 3 * 10 ns: 4990 ns. The compute before it takes 1000 ns.
ALL_REDUCE_NS, COMPUTE_NS = 4990, 1000


def put(prefix: Path, nodes: list[Node], ranks: int, dialect: str = "mlcommons") -> Path:
    write_traces(Graph.from_nodes(nodes, [range(ranks)]), prefix, dialect=dialect)
    return prefix


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Any]:
    """Four ranks that compute and then reduce."""
    nodes = [Node("mm", COMP, duration_ns=COMPUTE_NS), Node("ar", COLL, size_bytes=65536, data_deps=(0,))]
    contents = {
        "system": ("s.json", json.dumps(SYSTEM)),
        "network": ("n.yml", "topology: Ring\nnpus_count: 4\nbandwidth: 50\nlatency: 500\n"),
        "memory": ("m.json", '{"memory-type": "NO_MEMORY_EXPANSION"}'),
    }
    for name, text in contents.values():
        (tmp_path / name).write_text(text)
    paths = {key: tmp_path / name for key, (name, _) in contents.items()}
    return {"workloads": [put(tmp_path / "w", nodes, 4)], **paths}


def command(files: dict[str, Any]) -> list[object]:
    names = {"system": "system", "network": "network", "memory": "remote-memory"}
    flags = [f"--{name}-configuration={files[key]}" for key, name in names.items()]
    return ["astra", *flags, *(f"--workload-configuration={w}" for w in files["workloads"])]


def change(files: dict[str, Any], **keys: object) -> None:
    """Set keys of the system file; ``_`` stands for ``-``."""
    files["system"].write_text(json.dumps(SYSTEM | {key.replace("_", "-"): value for key, value in keys.items()}))


@pytest.fixture
def node_times(monkeypatch: pytest.MonkeyPatch) -> None:
    """The two nodes of each rank, where the run above has them."""
    starts = np.array([0, COMPUTE_NS] * 4)
    ends = np.array([COMPUTE_NS, COMPUTE_NS + ALL_REDUCE_NS] * 4)
    monkeypatch.setattr(NativeBackend, "node_times", lambda *_: (starts, ends), raising=False)


def test_one_line_per_rank(cli: Callable[..., Any], files: dict[str, Any]) -> None:
    answer = cli(*command(files))
    expected = [f"sys[{r}] finished, 5990 cycles, exposed communication 4990 cycles." for r in range(4)]
    assert (answer.code, answer.out.splitlines(), answer.err) == (0, expected, "")


def test_flags_without_effect_are_accepted(cli: Callable[..., Any], files: dict[str, Any]) -> None:
    flags = ["--compute-scale=3", "--comm-scale=2", "--logging-configuration=x.toml", "--rendezvous-protocol=false"]
    assert cli(*command(files), *flags).out == cli(*command(files)).out


def test_a_logging_folder_gets_the_lines(cli: Callable[..., Any], files: dict[str, Any], tmp_path: Path) -> None:
    answer = cli(*command(files), "--logging-folder", tmp_path / "log")
    assert (tmp_path / "log" / "log.log").read_text() == answer.out


def test_results_as_json(cli: Callable[..., Any], files: dict[str, Any]) -> None:
    content = json.loads(cli(*command(files), "--json").out)
    rank = {"finish_ns": COMPUTE_NS + ALL_REDUCE_NS, "exposed_comm_ns": ALL_REDUCE_NS}
    assert content == {"ranks": [{"rank": r, **rank} for r in range(4)], "finish_ns": rank["finish_ns"]}


def test_every_flag_reaches_the_models(files: dict[str, Any], tmp_path: Path) -> None:
    change(files, endpoint_delay=7, roofline_enabled=1, peak_perf=312)
    (tmp_path / "g.json").write_text('{"3": [2, 0]}')
    work = Node("mm", COMP, size_bytes=64, num_ops=5)
    files["workloads"] = [put(tmp_path / "roofline", [work], 4)]
    flags = AstraFlags(
        **files,
        groups=str(tmp_path / "g.json"),
        congestion=Congestion.FLOW,
        num_queues_per_dim=3,
        injection_scale=2.5,
        rendezvous=True,
    )
    inputs = load_inputs(flags)
    assert inputs.network.model == "flow"
    assert inputs.system.num_queues_per_dim == 3
    assert inputs.system.endpoint_delay_ns == 17
    assert (inputs.system.rendezvous, inputs.system.roofline_enabled) == (True, True)
    (graph,) = inputs.graphs
    assert graph.groups == ((2, 0),)
    assert graph.num_ops.tolist() == [5] * 4
    assert inputs.tensor_file is None


def test_roofline_needs_operations_in_the_trace(files: dict[str, Any]) -> None:
    change(files, roofline_enabled=1, peak_perf=312)
    with pytest.raises(TraceError, match=r"w\.0\.et: node 1 \('mm'\) lacks the attribute 'tensor_size'"):
        load_inputs(AstraFlags(**files))


def test_a_collective_of_a_certain_node_gets_its_program(files: dict[str, Any], tmp_path: Path) -> None:
    put(tmp_path / "program", [Node("wait", COMP, duration_ns=9)], 4)
    (tmp_path / "nodes.yml").write_text(f"2: {tmp_path / 'program'}\n")
    change(files, per_node_custom_implementation=str(tmp_path / "nodes.yml"))
    inputs = load_inputs(AstraFlags(**files))
    assert inputs.graphs[0].program.tolist() == [-1, 0] * 4
    assert inputs.system.programs == (((Step("delay", duration_ns=9),),) * 4,)


def test_the_dialect_of_llmservingsim_2_runs_workloads_one_after_another(
    cli: Callable[..., Any], files: dict[str, Any], tmp_path: Path
) -> None:
    for name, duration_ns in (("a", 3000), ("b", 777)):
        put(tmp_path / name, [Node("c", COMP, duration_ns=duration_ns)], 1, "llmservingsim2")
    reduce = put(tmp_path / "c", [Node("c", COMP, duration_ns=123)], 1, "llmservingsim2")
    files["workloads"] = [tmp_path / "a", tmp_path / "b", reduce]
    files["network"].write_text("topology: [FullyConnected]\nnpus_count: [1]\nbandwidth: [50]\nlatency: [500]\n")
    answer = cli(*command(files), "--dialect", "llmservingsim")
    assert answer.out.splitlines() == [
        "sys[0] iteration 0 finished, 3000 cycles, exposed communication 0 cycles.",
        "sys[0] iteration 1 finished, 3777 cycles, exposed communication 0 cycles.",
        "sys[0] iteration 2 finished, 3900 cycles, exposed communication 0 cycles.",
    ]
    rows = json.loads(cli(*command(files), "--dialect", "llmservingsim", "--json").out)["ranks"]
    assert [(r["iteration"], r["finish_ns"]) for r in rows] == [(0, 3000), (1, 3777), (2, 3900)]
    answer = cli(*command(files))
    assert answer.code == 2
    assert "--workload-configuration: given more than once" in answer.err


def test_the_dialect_of_llmservingsim_2_has_its_own_memories(files: dict[str, Any]) -> None:
    level = {"memory-type": "MEMORY_POOL", "mem-latency": 5, "mem-bw": 7}
    files["memory"].write_text(json.dumps({"cxl_mem": level}))
    files["workloads"] = [put(files["workloads"][0], [Node("c", COMP)], 4, "llmservingsim2")]
    inputs = load_inputs(AstraFlags(**files, dialect=DialectName.LLMSERVINGSIM))
    expected = MemoryLevelModel("MEMORY_POOL", 5, 7.0, queues_per_device=True)
    assert inputs.memory == MemoryModel(cxl=expected)
    assert inputs.system.dialect == "llmservingsim"


@pytest.mark.usefixtures("node_times")
def test_statistics_follow_the_line_of_their_rank(cli: Callable[..., Any], files: dict[str, Any]) -> None:
    lines = cli(*command(files), "--statistics").out.splitlines()
    assert lines[:6] == [
        "sys[0] finished, 5990 cycles, exposed communication 4990 cycles.",
        "sys[0]. Post statistics processing start.",
        "sys[0], Wall time: 5990",
        "sys[0], GPU time: 1000",
        "sys[0], Comm time: 4990",
        "sys[0]. Post statistics processing end.",
    ]
    assert len(lines) == 4 * 6
    row = json.loads(cli(*command(files), "--statistics", "--json").out)["ranks"][3]
    assert (row["rank"], row["wall_ns"], row["busy_ns"]) == (3, 5990, {"GPU": 1000, "Comm": 4990})


@pytest.mark.usefixtures("node_times")
def test_a_timeline_is_written(cli: Callable[..., Any], files: dict[str, Any], tmp_path: Path) -> None:
    cli(*command(files), "--timeline", tmp_path / "t.json")
    events = [e for e in json.loads((tmp_path / "t.json").read_text())["traceEvents"] if e["ph"] == "X"]
    assert [(e["name"], e["pid"], e["ts"], e["dur"]) for e in events[:2]] == [("mm", 0, 0, 1), ("ar", 0, 1, 4.99)]
    assert len(events) == 8


@pytest.mark.usefixtures("node_times")
def test_tensors_are_tracked_when_the_system_file_asks(
    cli: Callable[..., Any], files: dict[str, Any], tmp_path: Path
) -> None:
    change(files, track_local_mem=1, local_mem_trace_filename=str(tmp_path / "tensors"))
    answer = cli(*command(files))
    assert answer.code == 2
    assert "w.0.et: node 1 ('mm') lacks the attribute 'inputs', which track-local-mem needs" in answer.err
    for rank in range(4):
        path = tmp_path / f"w.{rank}.et"
        path.write_bytes(frame(b"") + b"".join(with_tensors(kind, node) for node, kind in ((1, 4), (2, 7))))
    assert cli(*command(files)).code == 0
    events = json.loads((tmp_path / "tensors.3.json").read_text())["traceEvents"]
    lives = {e["name"]: (e["pid"], e["ts"], e["dur"]) for e in events if e["ph"] == "X"}
    assert lives == {"x1": (3, 0, 1), "y": (3, 0, 5.99), "x2": (3, 1, 4.99)}


def with_tensors(kind: int, node: int) -> bytes:
    """A record that reads ``x<node>`` and writes ``y``."""
    message = et.Node(id=node, name=f"n{node}", type=kind)  # type: ignore[arg-type]
    message.attr.add(name="inputs").string_list.values.extend([f"x{node}", "8"])
    message.attr.add(name="outputs").string_list.values.extend(["y", "16"])
    message.attr.add(name="comm_type", int64_val=0)
    message.attr.add(name="comm_size", int64_val=65536)
    message.data_deps.extend([1] * (node - 1))
    message.duration_micros = 2 - node
    return frame(message.SerializeToString())


def test_progress_stays_off_standard_output(cli: Callable[..., Any], files: dict[str, Any]) -> None:
    assert cli(*command(files), "--progress").out == cli(*command(files)).out


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--injection-scal=2"], "--injection-scale"),
        (["--num-queues-per-dim=0"], "should be greater than or equal to 1"),
        (["--rendezvous-protocol=maybe"], "'maybe' is not one of 'true', 'false'"),
        (["--congestion=none"], "'aware', 'unaware', 'flow'"),
        (["--dialect=astra"], "'astra-sim', 'llmservingsim'"),
        (["--comm-group-configuration=none.json"], "none.json: cannot be read"),
    ],
)
def test_a_wrong_flag_is_refused_by_name(
    cli: Callable[..., Any], files: dict[str, Any], flags: list[str], message: str
) -> None:
    answer = cli(*command(files), *flags)
    assert (answer.code, answer.out) == (2, "")
    assert message in " ".join(answer.err.replace("│", " ").split())


def test_a_missing_file_is_named(cli: Callable[..., Any], files: dict[str, Any]) -> None:
    files["network"].unlink()
    answer = cli(*command(files))
    assert (answer.code, answer.out) == (2, "")
    assert f"error: {files['network']}: cannot be read" in answer.err


def test_a_subcommand_needs_none_of_the_flags() -> None:
    info = astra_app.registered_callback
    assert info is not None
    assert info.callback is not None
    app = typer.Typer(cls=astra_app.info.cls, invoke_without_command=True)
    app.callback()(info.callback)
    app.command("compare")(lambda: sys.stdout.write("compared"))
    answer = CliRunner().invoke(app, ["compare"])
    assert (answer.exit_code, answer.output) == (0, "compared")
    assert CliRunner().invoke(app, []).exit_code == 2
