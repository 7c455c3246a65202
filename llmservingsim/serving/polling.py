"""When an engine hears that KV has arrived.

A worker of vLLM reports finished loads when it is asked (``get_finished``; vllm 0.19.0,
v1/worker/kv_connector_model_runner_mixin.py): as soon as it has launched a batch, which on a GPU is long before that
batch ends. What arrives while the batch runs is therefore reported with the next one, and its request scheduled when
that has ended. An engine without work asks all the time.
"""

from __future__ import annotations

from llmservingsim.serving.request import Request


class KvPolling:
    """Requests whose KV has arrived and whose engine has not heard of it.

    Attributes:
        is_at_launch: Whether arrivals are reported by the next batch launched, when that has ended; if not, at once.
    """

    def __init__(self) -> None:
        self.is_at_launch = False
        self._arrived: list[Request] = []
        self._reported_by: dict[int, list[Request]] = {}

    def arrived(self, request: Request) -> None:
        """The KV of a request is there."""
        self._arrived.append(request)

    def take(self) -> list[Request]:
        """Return what arrived since the last launch."""
        arrived, self._arrived = self._arrived, []
        return arrived

    def launched(self, batch: int) -> None:
        """A batch was launched; it reports what has arrived."""
        if self._arrived:
            self._reported_by[batch] = self.take()

    def ended(self, batch: int) -> list[Request]:
        """A batch ended; return what it reports."""
        return self._reported_by.pop(batch, [])
