"""Where a rank's time went, on made-up node times."""

import numpy as np
import pytest

from llmservingsim.backend import SystemModel
from llmservingsim.backend.astra import Execution, RankResult
from llmservingsim.backend.statistics import rank_statistics, union_ns
from llmservingsim.graph import Graph, Node, NodeType


def execution(*timed: tuple[Node, int, int], finish_ns: int, begin_ns: int = 0) -> Execution:
    nodes = [node for node, _, _ in timed]
    starts, ends = (np.array([t[i] for t in timed], dtype=np.int64) for i in (1, 2))
    return Execution(Graph.from_nodes(nodes), begin_ns, [RankResult(0, finish_ns, 0)], starts, ends)


@pytest.mark.parametrize(
    ("intervals", "covered"),
    [
        ([(0, 5), (7, 9)], 7),
        ([(0, 5), (3, 9)], 9),
        ([(0, 9), (3, 5), (6, 12)], 12),
        ([(4, 6), (0, 5)], 6),
        ([(3, 3)], 0),
        ([(2, 4), (2, 4), (4, 5)], 3),
    ],
)
def test_intervals_cover_time_once(intervals: list[tuple[int, int]], covered: int) -> None:
    starts, ends = np.array(intervals).T
    assert union_ns(starts, ends) == covered


def test_every_class_of_nodes_has_its_time_and_overlap_is_what_exceeds_the_wall() -> None:
    run = execution(
        (Node("a", NodeType.COMP), 10, 60),
        (Node("b", NodeType.COMM_COLL), 30, 90),
        (Node("r", NodeType.COMM_RECV), 80, 110),
        (Node("h", NodeType.COMP, is_cpu_op=True), 10, 15),
        (Node("l", NodeType.MEM_LOAD), 20, 25),
        (Node("i", NodeType.INVALID), 20, 20),
        finish_ns=110,
        begin_ns=10,
    )
    (found,) = rank_statistics(run, SystemModel())
    assert found.wall_ns == 100
    assert found.busy_ns == {"CPU": 5, "GPU": 50, "Comm": 80, "Remote mem": 5, "Invalid": 0}
    assert found.overlap_ns == 50 + 80 - 100
    assert found.roofline is None
    assert found.lines() == [
        "sys[0]. Post statistics processing start.",
        "sys[0], Wall time: 100",
        "sys[0], CPU time: 5",
        "sys[0], GPU time: 50",
        "sys[0], Comm time: 80",
        "sys[0], Remote mem time: 5",
        "sys[0], Invalid time: 0",
        "sys[0], Total compute-communication overlap: 30",
        "sys[0]. Post statistics processing end.",
    ]


def test_classes_without_a_node_and_no_overlap_are_not_told() -> None:
    (found,) = rank_statistics(execution((Node("a", NodeType.COMP), 0, 5), finish_ns=8), SystemModel())
    assert (found.busy_ns, found.overlap_ns) == ({"GPU": 5}, 0)
    assert len(found.lines()) == 4


def test_roofline_averages_weigh_by_duration() -> None:
    """Peak 1 TFLOP/s and 100 GB/s: nodes of 5 operations per byte reach half the peak, of 20 all of it.

    Weights are 1000 and 3000 over 4001 ns. Compute-bound is the second: 3000 / 4001. Utilisation of compute:
    (1000 * 0.5 + 3000 * 1) / 4001; of memory: (1000 * 1 + 3000 * 0.5) / 4001, as the second could use 2 TFLOP/s worth.
    """
    run = execution(
        (Node("m", NodeType.COMP, num_ops=500, size_bytes=100), 0, 1000),
        (Node("c", NodeType.COMP, num_ops=2000, size_bytes=100), 1000, 4000),
        (Node("h", NodeType.COMP, is_cpu_op=True), 0, 4000),
        finish_ns=4000,
    )
    system = SystemModel(roofline_enabled=True, peak_perf_tflops=1.0, local_mem_bw_gbps=100.0)
    (found,) = rank_statistics(run, system)
    assert found.roofline == pytest.approx((300000 / 4001, 350000 / 4001, 250000 / 4001, 65000 / 4001))
    assert found.lines()[-5:-1] == [
        "sys[0], Compute bound percentage: 74.981%",
        "sys[0], Average compute utilization: 87.478%",
        "sys[0], Average memory utilization: 62.484%",
        "sys[0], Average operation intensity: 16.246",
    ]


def test_an_accelerator_that_only_waits_has_no_averages() -> None:
    system = SystemModel(roofline_enabled=True, peak_perf_tflops=1.0, local_mem_bw_gbps=100.0)
    (found,) = rank_statistics(execution((Node("s", NodeType.COMM_SEND), 0, 5), finish_ns=5), system)
    assert found.roofline is None


def test_nodes_that_compute_nothing_spoil_no_average() -> None:
    system = SystemModel(roofline_enabled=True, peak_perf_tflops=1.0, local_mem_bw_gbps=100.0)
    run = execution((Node("z", NodeType.COMP), 5, 5), finish_ns=5)
    (found,) = rank_statistics(run, system)
    assert found.roofline == (0.0, 0.0, 0.0, 0.0)
