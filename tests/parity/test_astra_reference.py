"""Finish times of every rank equal those that ASTRA-sim and LLMServingSim's fork printed, to the nanosecond.

The runs lie outside the repository, so the tests skip without them; `benchmarks/validate_astra.py` says how a row is
judged.
"""

from collections import Counter
from types import ModuleType

import pytest

# Rows per section that must be compared; fewer means that something hides some.
SECTIONS = {
    "reference_public.csv": {
        "1d": 604,
        "active_chunks": 36,
        "bw_lat": 38,
        "comm_group": 86,
        "compute": 5,
        "direct_window": 44,
        "endpoint_delay": 14,
        "injection_scale": 2,
        "involved_dim": 77,
        "local_mem_bw": 22,
        "local_reduction_delay": 2,
        "model_shared_bus": 2,
        "multi_dim": 391,
        "multi_dim_active": 12,
        "multi_dim_baseline": 12,
        "multi_dim_mixed": 26,
        "multi_dim_queues": 12,
        "num_queues": 14,
        "odd_size": 192,
        "one_impl": 106,
        "overlap": 10,
        "p2p": 58,
        "p2p_multi_dim": 20,
        "policy": 8,
        "remote_mem": 49,
        "rendezvous": 4,
        "roofline": 8,
    },
    "reference_fork_public.csv": {
        "casys_1d": 137,
        "casys_compute": 4,
        "casys_memory": 14,
        "casys_multi_dim": 173,
        "casys_p2p": 11,
        "casys_pim": 1,
        "casys_protocol": 1,
        "casys_tp": 1,
    },
}


@pytest.mark.parametrize("file", SECTIONS)
def test_every_rank_finishes_when_the_real_program_says(validation: ModuleType, file: str) -> None:
    verdicts = list(validation.judged(validation.read_rows(file)))
    assert Counter(v.row.cells["section"] for v in verdicts) == SECTIONS[file]
    assert [f"{v.row.name}: {v.problem}" for v in verdicts if v.problem] == []


def test_rows_that_the_real_program_did_not_end_name_the_cause(validation: ModuleType) -> None:
    from llmservingsim.errors import UserError

    causes = Counter()
    for row in validation.read_rows("reference_public.csv"):
        if row.cells["status"] not in ("ok", validation.MEMORY_CRASH):
            with pytest.raises(UserError) as error:
                validation.simulate(row)
            causes[
                "Ring of 2"
                if "Ring of 2 ranks" in str(error.value)
                else "all-gather"
                if "all-gather of" in str(error.value)
                else "?"
            ] += 1
    assert causes == {"Ring of 2": 6, "all-gather": 6}


def test_a_wrong_row_is_found(validation: ModuleType) -> None:
    """The judgement is a judgement: one nanosecond more is a problem."""
    row = next(r for r in validation.read_rows("reference_public.csv") if r.cells["id"] == "0")
    changed = validation.Row({**row.cells, "finish_cycles_ns": "4991"}, row.dialect)
    assert validation.judge(row) is None
    assert validation.judge(changed) == "4 ranks differ; rank 0 finished at 4990, expected 4991"
