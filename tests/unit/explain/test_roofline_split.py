"""What bounds computation, against operators summed up one by one."""

from typing import Any

import numpy as np
import pytest

from llmservingsim import simulate
from llmservingsim.config.catalog import find_accelerator, find_model
from llmservingsim.explain.roofline import _idle_experts
from llmservingsim.model import ONE_RANK, OperatorKind, Work, model_operators
from llmservingsim.workload import RequestSpec

H100 = find_accelerator("H100")
DENSE, EXPERTS = find_model("meta-llama/Llama-3.2-1B"), find_model("Qwen/Qwen3-30B-A3B")


def expected(model: Any, work: Work) -> float:
    """The share of arithmetic in the time of all operators."""
    efficiency = H100.efficiency
    bounded = {True: 0.0, False: 0.0}
    for operator in model_operators(model):
        cost = operator.cost(model, work, ONE_RANK)
        share = efficiency.attention if operator.kind is OperatorKind.ATTENTION else efficiency.gemm
        arithmetic = cost.flops / (H100.flops(model.dtype) * share)
        traffic = cost.total_bytes / (H100.memory_bandwidth * efficiency.memory)
        bounded[arithmetic > traffic] += max(arithmetic, traffic)
    return bounded[True] / sum(bounded.values())


def shares(model: Any, prompt: int, output: int = 1) -> dict[str, float]:
    serving = {"num_gpu_blocks": 1001, "enforce_eager": True, "max_num_batched_tokens": 8192}
    data = {"nodes": [{"instances": [{"model": model.name, "hardware": "H100"}]}], "serving": serving}
    found: dict[str, float] = simulate(data, [RequestSpec(0, 0, prompt, output)]).summary["limits"]["device_time"][
        "shares"
    ]
    return found


@pytest.mark.parametrize("prompt", [1, 200, 4096])
def test_a_prompt_is_split_by_what_bounds_each_operator(prompt: int) -> None:
    found = shares(DENSE, prompt)
    share = expected(DENSE, Work.of_requests([(prompt, prompt)]))
    assert found["compute_bound"] == pytest.approx(share, rel=1e-3)
    assert found["compute_bound"] + found["bandwidth_bound"] == pytest.approx(1)


def test_long_prompts_are_bound_by_arithmetic_and_lone_answers_by_bandwidth() -> None:
    assert shares(DENSE, 4096)["compute_bound"] > 0.8
    assert shares(DENSE, 16, 100)["bandwidth_bound"] > 0.99


def test_experts_that_nobody_is_sent_to_are_not_read() -> None:
    """One token reads as many experts as it is sent to, so its experts take the least; none is bound by arithmetic."""
    (moe,) = {op for op in model_operators(EXPERTS) if op.kind is OperatorKind.MOE}
    idle = _idle_experts(moe, EXPERTS, ONE_RANK, np.array([1.0, 1e6]))
    everyone = moe.cost(EXPERTS, Work(1), ONE_RANK).total_bytes
    asked = moe.cost(EXPERTS, Work(1, activated_experts=EXPERTS.experts_per_token), ONE_RANK).total_bytes
    assert idle.tolist() == pytest.approx([everyone - asked, 0])
