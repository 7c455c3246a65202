"""Clients that send a call only after the answer to the one before."""

from __future__ import annotations

from collections import deque

import msgspec

from llmservingsim.errors import WorkloadError
from llmservingsim.workload.protocol import Workload
from llmservingsim.workload.request import RequestSpec


class ClosedLoop:
    """Any workload, with a limit on the calls under way, as ``vllm bench serve --max-concurrency`` sets one.

    ``max_concurrency`` clients take the calls of the workload in the order of their arrival. A call is sent when it has
    arrived there and a client is free: its arrival at the cluster, from which all latencies and limits count, is the
    later of the two. When it has finished, was rejected or given up, its client thinks, then is free again. So calls of
    one session may be sent by different clients; they still follow each other.

    Args:
        workload: What there is to send; its arrivals are the earliest times.
        max_concurrency: Clients, at least 1.
        think_ns: From the end of a call until its client is free again.

    Raises:
        WorkloadError: If there is no client, or if it thinks for less than no time.
    """

    def __init__(self, workload: Workload, max_concurrency: int, think_ns: int = 0) -> None:
        if max_concurrency < 1:
            raise WorkloadError(f"max_concurrency: expected at least 1, got {max_concurrency}")
        if think_ns < 0:
            raise WorkloadError(f"think_ns: expected at least 0, got {think_ns}")
        self._workload = workload
        self._think_ns = think_ns
        self._new_clients = max_concurrency
        self._free_ns: deque[int] = deque()  # when clients that have sent a call are free again, by time
        self._ready: deque[RequestSpec] = deque()

    @property
    def total_requests(self) -> int | None:
        """How many calls there will be, None where it is not known."""
        return self._workload.total_requests

    def next_arrival_ns(self) -> int | None:
        """Return when the next call is sent, None if that depends on an answer."""
        if not self._new_clients and not self._free_ns:
            return None
        call_ns = self._ready[0].arrival_ns if self._ready else self._workload.next_arrival_ns()
        if call_ns is None or self._new_clients:
            return call_ns
        return max(call_ns, self._free_ns[0])

    def take(self, now_ns: int) -> list[RequestSpec]:
        """Take every call that is sent by ``now_ns``, in the order of sending."""
        taken = []
        while (sent_ns := self.next_arrival_ns()) is not None and sent_ns <= now_ns:
            if not self._ready:
                self._ready.extend(self._workload.take(sent_ns))
            call = self._ready.popleft()
            if self._new_clients:
                self._new_clients -= 1
            else:
                self._free_ns.popleft()
            taken.append(call if call.arrival_ns == sent_ns else msgspec.structs.replace(call, arrival_ns=sent_ns))
        return taken

    def finished(self, request_id: int, now_ns: int) -> None:
        """A call ended; its client thinks."""
        self._workload.finished(request_id, now_ns)
        self._free_ns.append(now_ns + self._think_ns)

    def abandoned(self, request_id: int, now_ns: int) -> None:
        """A client gave up its call and the session of that; it thinks, then takes what comes next."""
        self._workload.abandoned(request_id, now_ns)
        self._free_ns.append(now_ns + self._think_ns)
