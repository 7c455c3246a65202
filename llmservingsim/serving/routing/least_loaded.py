"""The shortest queue, and the emptiest cache."""

from __future__ import annotations

from collections.abc import Sequence

from llmservingsim.serving.routing.protocol import InstanceView, RoutedRequest


def queue_load(instance: InstanceView) -> int:
    """``4 * waiting + running``: vLLM's internal load balancer (vllm 0.19.0, v1/engine/core_client.py)."""
    return 4 * instance.num_waiting + instance.num_running


def least_loaded(instances: Sequence[InstanceView]) -> int:
    """Return the position of the smallest `queue_load`; ties go to the first."""
    loads = [queue_load(i) for i in instances]
    return loads.index(min(loads))


class LeastLoadedRouter:
    """Smallest ``4 * waiting + running``; ties go to the first, as in vLLM with one front end."""

    def route(self, request: RoutedRequest, instances: Sequence[InstanceView]) -> int:
        """Return the position of the least loaded instance."""
        del request
        return least_loaded(instances)


class LeastKvRouter:
    """Smallest share of held KV blocks; ties go to the smaller ``4 * waiting + running``, then to the first.

    Requests that wait hold no blocks: of requests that arrive between two iterations, one does not see the other.
    """

    def route(self, request: RoutedRequest, instances: Sequence[InstanceView]) -> int:
        """Return the position of the instance with the emptiest cache."""
        del request
        keys = [(i.kv_usage, queue_load(i)) for i in instances]
        return keys.index(min(keys))
