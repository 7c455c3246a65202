"""KV caches that leave block by block while the rest of the prompt is computed.

As with vLLM's P2P NCCL connector, whose prefill side sends the KV of a block when its attention has run
(``save_kv_layer``; vllm 0.19.0, distributed/kv_transfer/kv_connector/v1/p2p). Beside every iteration that computes a
chunk of a prompt goes a graph (`PushGraph`) that waits for each block as long as the iteration takes to reach it, and
sends it. It begins with the iteration; if the decode side has no blocks by then, when it has: what was computed before
leaves at once.

The waits are those of an iteration that is alone on its links (`BlockTimes`). Where its collectives meet other
traffic, blocks leave earlier than they are there, by what the collectives lose; a request does not go on before its
iteration has really ended.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from llmservingsim.backend import Backend, Ticket
from llmservingsim.instance import Instance, StageWork
from llmservingsim.model import KvShare
from llmservingsim.push import KvPushes, Push
from llmservingsim.push_graph import PushGraph
from llmservingsim.serving import Request, Router
from llmservingsim.serving.batch import Batch
from llmservingsim.trace import BlockTimes
from llmservingsim.workload import RequestSpec


class StageBlocks(NamedTuple):
    """One pipeline stage of an instance that prefills.

    Attributes:
        times: When its blocks are ready.
        rank_classes: The ranks of every rank class of its iterations.
        shares: Tells of a decode instance, per block of the stage, who sends what to whom; asked when the first KV goes
            there.
    """

    times: BlockTimes
    rank_classes: Sequence[Sequence[int]]
    shares: Callable[[int], Sequence[Sequence[KvShare]]]


class _Iteration:
    """A stage's graph under way, or ended.

    Attributes:
        after: The ticket that it follows.
        start_ns: When it began, -1 before.
        ready_ns: From its start until each block is there, by rank class; None if nobody asks.
    """

    def __init__(self, after: Ticket, start_ns: int) -> None:
        self.after = after
        self.start_ns = start_ns
        self.has_ended = False
        self.ready_ns: NDArray[np.int64] | None = None


class _Stage:
    """What is known of a stage while it runs."""

    def __init__(self, backend: Backend, blocks: StageBlocks) -> None:
        self.times = blocks.times
        self.in_flight: deque[_Iteration] = deque()
        self._backend = backend
        self._shares = blocks.shares
        self._class_of = {rank: c for c, ranks in enumerate(blocks.rank_classes) for rank in ranks}
        self._graphs: dict[int, PushGraph] = {}

    def graph(self, decoder: int) -> PushGraph:
        """What goes to a decode instance."""
        if decoder not in self._graphs:
            self._graphs[decoder] = PushGraph(self._backend, self._shares(decoder))
        return self._graphs[decoder]

    def push(self, decoder: int, iteration: _Iteration, num_tokens: int, now_ns: int) -> tuple[Ticket, int]:
        """Send what an iteration computes; return the ticket, and from its start until its first block is there."""
        assert iteration.ready_ns is not None
        graph = self.graph(decoder)
        ready = iteration.ready_ns[[self._class_of[rank] for rank in graph.sources]]
        if iteration.start_ns < 0:
            return graph.submit(num_tokens, ready, iteration.after), int(ready.min())
        passed = now_ns - iteration.start_ns
        return graph.submit(num_tokens, np.zeros_like(ready) if iteration.has_ended else ready - passed), int(
            ready.min()
        )


class _LayerwisePush(Push):
    """A push in parts.

    Attributes:
        computed: Per stage, up to which token each of its iterations computes, not yet sent.
        sent_to: Per stage, up to which token was sent.
    """

    def __init__(self, spec: RequestSpec, request: Request, source: Instance, decoder: Instance) -> None:
        super().__init__(spec, request, source, decoder)
        self.computed: list[list[tuple[int, _Iteration]]] = [[] for _ in source.builders]
        self.sent_to = [0] * len(source.builders)

    @property
    def is_complete(self) -> bool:
        """Whether all of its KV has arrived."""
        if self.is_late:
            return super().is_complete
        return not self.under_way and min(self.sent_to) >= self.spec.prompt_tokens


class LayerwisePushes(KvPushes):
    """Owner of pushes that go along with the computation.

    Args:
        backend: Times them.
        decoders: The instances that decode.
        shares: (prefill instance, decode instance) -> who sends what to whom, with the ranks of the network.
        router: Chooses the decode instance.
        proxy_latency_ns: Before the decode instance knows that a prompt was computed.
        stages: Prefill instance -> its pipeline stages.
    """

    def __init__(
        self,
        backend: Backend,
        decoders: Sequence[Instance],
        shares: Mapping[tuple[int, int], Sequence[KvShare]],
        router: Router,
        proxy_latency_ns: int,
        stages: Mapping[int, Sequence[StageBlocks]],
    ) -> None:
        super().__init__(backend, decoders, shares, router, proxy_latency_ns)
        self._stages = {i: [_Stage(backend, blocks) for blocks in of_one] for i, of_one in stages.items()}
        self._progress: dict[tuple[int, int], dict[_LayerwisePush, int]] = {}  # by instance and batch

    def formed(self, instance: Instance, batch: Batch) -> None:
        """Note how far a batch brings the prompts in it."""
        super().formed(instance, batch)
        progress = {}
        for entry in batch.scheduled:
            push = self._pushes.get(entry.request)
            if isinstance(push, _LayerwisePush) and not push.is_late:
                progress[push] = min(entry.request.num_computed_tokens, entry.request.num_prompt_tokens)
        if progress:
            self._progress[instance.index, batch.index] = progress

    def submitted(self, instance: Instance, work: StageWork, now_ns: int) -> None:
        """A stage computes a batch next."""
        stage = self._stages[instance.index][work.stage]
        iteration = _Iteration(work.after, -1 if stage.in_flight else now_ns)
        stage.in_flight.append(iteration)
        if work.batch is None:
            return
        key = instance.index, work.batch.index
        is_last = work.stage == len(instance.builders) - 1
        progress = self._progress.pop(key, {}) if is_last else self._progress.get(key, {})
        pushes = {push: upto for push, upto in progress.items() if not push.is_late}
        if pushes:
            iteration.ready_ns = stage.times.ready_ns(work.shapes)
        for push, upto in pushes.items():
            push.computed[work.stage].append((upto, iteration))
            self._due[push] = None

    def ended(self, instance: Instance, stage: int, now_ns: int) -> None:
        """The oldest batch of a stage has ended, and the next one begins."""
        in_flight = self._stages[instance.index][stage].in_flight
        in_flight.popleft().has_ended = True
        if in_flight:
            in_flight[0].start_ns = now_ns

    def _make_push(self, spec: RequestSpec, request: Request, source: Instance, decoder: Instance) -> Push:
        return _LayerwisePush(spec, request, source, decoder)

    def _send_ready(self, push: Push, now_ns: int) -> list[Ticket]:
        if push.is_late or not isinstance(push, _LayerwisePush):
            return super()._send_ready(push, now_ns)
        tickets = []
        first = push.spec.prompt_tokens - push.num_tokens  # what comes before, the decode side has
        for index, stage in enumerate(self._stages[push.source.index]):
            computed, push.computed[index] = push.computed[index], []
            for place, (upto, iteration) in enumerate(computed):
                if iteration.has_ended and place + 1 < len(computed) and computed[place + 1][1].has_ended:
                    continue  # leaves together with the next one
                tokens = upto - max(push.sent_to[index], first)
                push.sent_to[index] = upto
                if tokens > 0:
                    tickets.append(self._push_chunk(push, stage, iteration, tokens, now_ns))
        return tickets

    def _push_chunk(
        self, push: _LayerwisePush, stage: _Stage, iteration: _Iteration, tokens: int, now_ns: int
    ) -> Ticket:
        ticket, first_ready_ns = stage.push(push.decoder.index, iteration, tokens, now_ns)
        num_bytes = tokens * stage.graph(push.decoder.index).bytes_per_token
        self._note(push, ticket, lambda: max(now_ns, iteration.start_ns + first_ready_ns), num_bytes)
        return ticket
