"""Runs whose instances start and stop, and of which every iteration takes 1 ms."""

from typing import Any, ClassVar

from llmservingsim.serving.scaling import ScalingView
from llmservingsim.workload import RequestSpec

MS = 1_000_000
MODEL = "meta-llama/Llama-3.2-1B"
LARGER = "meta-llama/Llama-3.2-3B"


class Never:
    """A policy that wants nothing."""

    def desired(self, view: ScalingView) -> int:
        del view
        return 0


class Recording:
    """A policy that wants one instance and keeps when it was asked."""

    asked_ns: ClassVar[list[int]] = []

    def desired(self, view: ScalingView) -> int:
        self.asked_ns.append(view.now_ns)
        return 1


class Answers:
    """A policy that gives one answer after the other, and then the last one for ever."""

    def __init__(self, answers: list[Any]) -> None:
        self._answers = answers

    def desired(self, view: ScalingView) -> Any:
        del view
        return self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]


def config(instances: int, scaling: Any, roles: list[str] | None = None, **keys: Any) -> dict[str, Any]:
    listed = [
        {"model": MODEL, "hardware": "H100", "kv_role": role, "num_gpu_blocks": 1001}
        for role in roles or ["kv_both"] * instances
    ]
    serving = {"latency": {"source": "constant_latency:Constant"}, "max_num_seqs": 1, "async_scheduling": False}
    network = {"topology": "Switch", "bandwidth": "1GB/s", "latency": "500ns"}
    as_prefilled = {"first_token": "prefill", "get_finished": "at_end"}
    own = {"serving": serving, "network": network, "autoscaling": scaling, "kv_transfer": as_prefilled}
    return {"nodes": [{"instances": listed}], **own, **keys}


def section(policy: str = "queue", options: dict[str, Any] | None = None, **keys: Any) -> dict[str, Any]:
    """Evaluated every 10 ms; a start takes 25 ms."""
    if policy == "queue":
        options = {"target": 1, **(options or {})}
    times = {"start_up_delay": "25ms", "interval": "10ms", "window": "20ms", "scale_down_delay": "0ns"}
    return {"policy": policy, "options": options, **times, **keys}


def own(name: str, **options: Any) -> dict[str, Any]:
    return {"policy": f"scaled_milliseconds:{name}", "options": options or None}


def requests(*arrivals_ms: float, output: int = 4) -> list[RequestSpec]:
    return [RequestSpec(i, round(at * MS), 20, output) for i, at in enumerate(arrivals_ms)]


class IdleScheduler:
    """Takes requests in and never schedules any."""

    def __init__(self, config: object, kv: object) -> None:
        del config, kv
        self.running: list[Any] = []
        self._queue: list[Any] = []
        self.add = self._queue.append
        self.waiting = lambda: self._queue

    @property
    def num_waiting(self) -> int:
        return len(self._queue)

    def schedule(self, now_ns: int) -> list[Any]:
        del now_ns
        return []

    def finish(self, request: object) -> None: ...
