"""Sections that say nonsense, and classes of the user's own that answer with it: one message, and no traceback."""

from typing import Any

import numpy as np
import pytest

from llmservingsim import Run
from llmservingsim.errors import ConfigError, DeadlockError, PluginError
from llmservingsim.serving.request import Request
from llmservingsim.serving.scheduler import VllmScheduler
from llmservingsim.workload import RequestSpec

ANSWERS: list[Any] = [None]
"""What the classes below answer."""


class AnyRouter:
    """Chooses what it is told."""

    def route(self, request: object, instances: object) -> Any:
        return ANSWERS[0]


class OddOptions(AnyRouter):
    """Its options are no Struct."""

    Options = 5


class Broken:
    """Cannot be built."""

    def __init__(self, **options: object) -> None:
        raise ValueError("no licence")


class AnyAcceptance:
    """Accepts what it is told."""

    def __init__(self, *parts: object) -> None:
        pass

    def num_accepted(self, drafts: object) -> Any:
        return ANSWERS[0]


class AnyBatch(VllmScheduler):
    """Forms what it is told."""

    def schedule(self, now_ns: int) -> Any:
        return ANSWERS[0]


class AnyTokens(VllmScheduler):
    """Schedules as vLLM, but other tokens."""

    def schedule(self, now_ns: int) -> list[tuple[Request, Any]]:
        return [(request, ANSWERS[0]) for request, _ in super().schedule(now_ns)]


class Never(VllmScheduler):
    """Schedules nobody."""

    def schedule(self, now_ns: int) -> list[tuple[Request, int]]:
        return []


def config(*roles: str, serving: dict[str, Any] | None = None, **keys: Any) -> dict[str, Any]:
    instance = {"model": "meta-llama/Llama-3.2-1B", "hardware": "H100", "num_gpu_blocks": 20}
    return {
        "nodes": [{"instances": [instance | {"kv_role": role} for role in roles or ("kv_both", "kv_both")]}],
        "serving": {"latency": {"source": "constant_latency:Constant"}, "enforce_eager": True} | (serving or {}),
        "network": {"topology": "Switch"},
        **keys,
    }


def run(spec: dict[str, Any]) -> None:
    Run(spec, [RequestSpec(i, i, 20, 9) for i in range(3)]).execute()


PAIR = ("kv_producer", "kv_consumer", "kv_consumer")
SCALED = {"policy": "queue", "options": {"target": 1}, "start_up_delay": "0ns"}


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (
            config(autoscaling=SCALED | {"weight_load_bandwidth": "1e-300GB/s"}),
            "^autoscaling: weight_load_bandw",
        ),
        (config(cxl_memory={"size": "1GiB", "bandwidth": "1GB/s", "num_devices": 10**30}), "cxl_memory.num_devices: "),
        (config(*PAIR, decode_router="least_load"), "^decode_router: router: 'least_load' is unknown.*least_loaded"),
        (
            config(*PAIR, decode_router={"policy": "weighted", "weight": []}),
            "^decode_router: router 'weighted': ",
        ),
        (
            config(router=f"{__name__}:OddOptions"),
            "^router: 'Options' of .*OddOptions' is 5; expected",
        ),
        (config(router=f"{__name__}:Broken"), "^router: .*Broken' cannot be built from 0 arguments: no licence"),
        (config(autoscaling=SCALED | {"policy": f"{__name__}:Broken"}), "^autoscaling: .*Broken' cannot be built from"),
    ],
)
def test_a_section_that_makes_no_sense_is_refused_by_name(spec: dict[str, Any], message: str) -> None:
    with pytest.raises((ConfigError, PluginError), match=message):
        run(spec)


DRAFTED = {"method": "eagle", "num_speculative_tokens": 2, "acceptance": {"policy": f"{__name__}:AnyAcceptance"}}


@pytest.mark.parametrize(
    ("spec", "answer", "message"),
    [
        (config(router=f"{__name__}:AnyRouter"), 1.0, "^router: 'AnyRouter' chose 1.0 for request 0; expected"),
        (config(router=f"{__name__}:AnyRouter"), np.array([0, 1]), "^router: 'AnyRouter' chose array"),
        (config(*PAIR, decode_router=f"{__name__}:AnyRouter"), 1.0, "chose 1.0 for the decode of request 0"),
        (config(serving={"speculative_config": DRAFTED}), 1.5, "^acceptance policy 'AnyAcceptance': .* got 1.5"),
        (config(serving={"speculative_config": DRAFTED}), 3, "^acceptance policy 'AnyAcceptance': .* got 3"),
        (config(serving={"scheduler": f"{__name__}:AnyBatch"}), None, "^scheduler: 'AnyBatch' formed the batch None"),
        (config(serving={"scheduler": f"{__name__}:AnyBatch"}), [7], "^scheduler: 'AnyBatch' has 7 in a batch"),
        (config(serving={"scheduler": f"{__name__}:AnyBatch"}), [(Request(9, 0, 1), 1)], "Request.9,.* has ended or"),
        (
            config(serving={"scheduler": f"{__name__}:AnyTokens"}),
            0,
            "^scheduler: 'AnyTokens' gives Request.0,.* 0 tok",
        ),
        (config(serving={"scheduler": f"{__name__}:AnyTokens"}), 21, "21 tokens; expected a whole number from 1 to 20"),
    ],
)
def test_an_answer_that_makes_no_sense_is_refused_by_name(spec: dict[str, Any], answer: Any, message: str) -> None:
    ANSWERS[0] = answer
    with pytest.raises(PluginError, match=message):
        run(spec)


def test_numbers_of_numpy_are_numbers() -> None:
    ANSWERS[0] = np.int64(1)
    run(config(router=f"{__name__}:AnyRouter", serving={"speculative_config": DRAFTED}))


# Runs that are stuck


@pytest.mark.parametrize("mode", ["pull", "push", "push_layerwise"])
def test_a_decode_side_that_never_schedules_is_reported_with_every_request(mode: str) -> None:
    spec = config("kv_producer", "kv_consumer", kv_transfer={"mode": mode})
    spec["nodes"][0]["instances"][1]["scheduler"] = f"{__name__}:Never"
    with pytest.raises(DeadlockError) as error:
        run(spec)
    for number in range(3):
        assert f"instance 0 holds the KV of Request({number}, " in str(error.value)
        assert f"instance 1: Request({number}, " in str(error.value)


@pytest.mark.parametrize("queue", [True, False])
def test_a_scheduler_that_never_schedules_is_reported_with_every_request(queue: bool) -> None:
    limits = {"admission": {"max_waiting_per_instance": 1, "policy": "queue"}} if queue else {}
    spec = config("kv_both", serving={"scheduler": f"{__name__}:Never"}, **limits)
    with pytest.raises(DeadlockError) as error:
        run(spec)
    lines = str(error.value).splitlines()[1:]
    held = ["router: request 1 waits for an instance below the limits", "router: request 2 waits for"] if queue else []
    expected = ["instance 0: Request(0, ", *(held or ["instance 0: Request(1, ", "instance 0: Request(2, "])]
    assert all(line.strip().startswith(said) for line, said in zip(lines, expected, strict=True))


class Zero:
    """Wants no instance."""

    def desired(self, view: object) -> int:
        return 0


def test_a_policy_that_never_starts_anybody_is_reported_with_every_request() -> None:
    section = {"policy": f"{__name__}:Zero", "start_up_delay": "0ns", "min_instances": 0}
    with pytest.raises(DeadlockError) as error:
        run(config("kv_both", autoscaling=section))
    assert "3 requests are held, and policy" in str(error.value)
    assert all(f"router: request {i} waits for an instance to start" in str(error.value) for i in range(3))
