"""Clients that leave while the KV of their prompt is pushed for the second time."""

import pytest
from test_kv_transfer_modes import MS, config, crossed, instance, run

from llmservingsim import Run
from llmservingsim.workload import RequestSpec


@pytest.mark.parametrize("mode", ["push", "push_layerwise"])
@pytest.mark.parametrize("blocks", [1001, 12])
def test_a_client_may_leave_while_the_kv_of_its_preempted_prompt_crosses_or_waits_for_blocks(
    mode: str, blocks: int
) -> None:
    """The link is slow; with 11 blocks on the decode side, which an answer holds, the prompt of 9 waits there."""
    prefill = instance("kv_producer", num_gpu_blocks=11, max_num_batched_tokens=32, max_num_seqs=4)
    spec = config(prefill, instance("kv_consumer", num_gpu_blocks=blocks), mode=mode)
    spec["network"] |= {"bandwidth": "0.05GB/s"}
    spec["serving"]["scheduler_reserve_full_isl"] = False
    prompts = [(40, 100, 0), (140, 2, 0)]
    (handed_ns,) = (record.handed_ns for record in crossed(run(spec, *prompts)) if record.request_id == 1)
    patience_ns = (None, handed_ns + MS)
    made = Run(spec, [RequestSpec(i, at, p, o, abort_after_ns=patience_ns[i]) for i, (p, o, at) in enumerate(prompts)])
    records = made.execute().requests
    assert [(r.status, r.preemptions > 0) for r in records] == [("finished", False), ("aborted", True)]
    assert [r.request_id for r in crossed(made)] == [0]
    for one in made.system.instances:
        one.engine.kv.pool.check([])
