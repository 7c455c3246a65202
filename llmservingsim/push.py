"""KV caches that the prefill side sends by itself, to blocks that the decode side took while the prompt was computed.

The decode instance is chosen when a request is routed to its prefill instance. When the first chunk of the prompt
enters a batch, the request joins the queue of the decode instance; there it takes the blocks for its whole prompt when
its turn comes. As soon as the prompt is computed and the blocks are taken, the KV crosses, without a question from the
decode side. So does vLLM's Mooncake connector (vllm 0.19.0, distributed/kv_transfer/kv_connector/v1/mooncake), whose
decode side names its blocks beforehand.

No deadlock can arise. Blocks are taken ahead only for prompts that are in the running list of their prefill instance or
behind it. A prompt that is preempted there loses its place and its blocks at the decode side, and crosses when it has
been computed. So when no prefill instance can form a batch, none of its requests runs, and whoever holds blocks of the
decode side has its whole KV at hand, gets it, and goes on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import NamedTuple

import msgspec

from llmservingsim.backend import Backend, Ticket
from llmservingsim.instance import Aborted, Instance, StageWork
from llmservingsim.model import KvShare
from llmservingsim.serving import InstanceLoad, Outcome, Request, Router
from llmservingsim.serving.batch import Batch
from llmservingsim.transfer import KvTransfers, TransferRecord
from llmservingsim.workload import RequestSpec


class Crossing(NamedTuple):
    """A message, or several one after another, that crossed."""

    start_ns: int
    end_ns: int
    num_bytes: int

    def bytes_before(self, now_ns: int) -> int:
        """How many bytes had crossed at a time, taken as crossing evenly."""
        if now_ns >= self.end_ns:
            return self.num_bytes
        share = max(0, now_ns - self.start_ns) / (self.end_ns - self.start_ns)
        return int(self.num_bytes * share)


class Push:
    """A request on its way from one instance to the other.

    Attributes:
        spec, request: As the prefill side knows it.
        source, decoder: The two instances.
        generation: Preemptions of the request when it was routed.
        is_expected: Whether the decode side was told that it comes.
        going_on: As the decode side knows it, while it does.
        num_tokens: Tokens whose KV the decode side lacks, -1 until its blocks are taken.
        tokens_sent: Of these, sent as a whole.
        is_late: It was preempted, so it crosses when it has been computed.
        is_given_up: Its client gave up.
        is_withdrawing: Its blocks at the decode side are being given up.
        is_answered: Whether the decode side knows that the prompt was computed.
        handed_ns: When it was, -1 before.
        under_way: Tickets.
        crossings: Those that ended.
    """

    def __init__(self, spec: RequestSpec, request: Request, source: Instance, decoder: Instance) -> None:
        self.spec, self.request = spec, request
        self.source, self.decoder = source, decoder
        self.generation = request.num_preemptions
        self.is_expected = self.is_late = self.is_withdrawing = self.is_answered = self.is_given_up = False
        self.going_on: Request | None = None
        self.num_tokens = -1
        self.tokens_sent = 0
        self.handed_ns = -1
        self.under_way = 0
        self.crossings: list[Crossing] = []

    @property
    def was_preempted(self) -> bool:
        """Whether the prefill side took its blocks away."""
        return self.request.num_preemptions != self.generation

    @property
    def is_complete(self) -> bool:
        """Whether all of its KV has arrived."""
        return not self.under_way and self.tokens_sent == self.num_tokens


class KvPushes(KvTransfers):
    """Owner of every push of a whole prompt's KV.

    Args:
        backend: Times them.
        decoders: The instances that decode.
        shares: (prefill instance, decode instance) -> who sends what to whom, with the ranks of the network.
        router: Chooses the decode instance.
        proxy_latency_ns: Before the decode instance knows that a prompt was computed.
    """

    chooses_ahead = True

    def __init__(
        self,
        backend: Backend,
        decoders: Sequence[Instance],
        shares: Mapping[tuple[int, int], Sequence[KvShare]],
        router: Router,
        proxy_latency_ns: int = 0,
    ) -> None:
        super().__init__(backend, decoders, shares, router, proxy_latency_ns)
        self._pushes: dict[Request, Push] = {}
        self._expected: dict[Request, Push] = {}  # by the request of the decode side
        self._prefilling: dict[Push, None] = {}  # that the decode side expects
        self._due: dict[Push, None] = {}  # that may have something to send
        self._chosen = dict.fromkeys((decoder.index for decoder in decoders), 0)  # and not yet in its queue
        self._under_way_to: dict[Ticket, tuple[Push, Callable[[], int], int]] = {}

    def coming(self, instance: Instance, spec: RequestSpec, request: Request) -> None:
        """Choose the decode instance of a request that was routed to ``instance``."""
        decoder = self._pick(spec)
        assert decoder is not None, "decode instances that stop are refused with pushes"
        self._chosen[decoder.index] += 1
        self._pushes[request] = self._make_push(spec, request, instance, decoder)

    def formed(self, instance: Instance, batch: Batch) -> None:
        """Announce the prompts whose first chunk is in a batch."""
        del instance
        for entry in batch.scheduled:
            push = self._pushes.get(entry.request)
            if push is None or push.is_late:
                continue
            if push.was_preempted:
                self._fall_back(push)
            elif not push.is_expected:
                push.is_expected = True
                self._notices.post(partial(self._expect, push))

    def submitted(self, instance: Instance, work: StageWork, now_ns: int) -> None:
        """Whole prompts do not ask when their parts are computed."""

    def ended(self, instance: Instance, stage: int, now_ns: int) -> None:
        """Nor when they have been."""

    def hand_over(self, instance: Instance, spec: RequestSpec, request: Request, now_ns: int) -> None:
        """Send the KV of a request that ``instance`` has prefilled, and let it go on when that has arrived."""
        del instance, spec
        push = self._pushes[request]
        push.handed_ns = now_ns
        self._prefilling.pop(push, None)
        self._due[push] = None
        if push.was_preempted:
            self._fall_back(push)
        self._notices.send(partial(self._answered, push), self._proxy_latency_ns)

    def called_off(self, request: Request) -> None:
        """A client gave up a request that is being prefilled."""
        self._give_up(self._pushes[request])

    def abort(self, request_id: int) -> Aborted:
        """Let go of a request on its way or on the decode side; its client gave up.

        What crosses goes on crossing; both sides keep their blocks until it has.
        """
        if request_id in self._going_on:
            return super().abort(request_id)
        push = next(push for push in self._pushes.values() if push.spec.request_id == request_id)
        self._give_up(push)
        if self._tell_aborted is not None:
            self._tell_aborted(request_id, push.decoder.index)
        return Aborted(push.source, push.request, push.request.num_output_tokens)

    def begin(self, now_ns: int) -> Iterable[Ticket]:
        """Start every push whose KV is there and whose blocks are taken."""
        for push in [push for push in self._prefilling if push.was_preempted]:
            self._fall_back(push)
        for decoder in self._decoders:
            for load in decoder.engine.take_loads():
                push = self._expected[load.request]
                push.num_tokens = load.num_tokens
                self._due[push] = None
                if not load.num_tokens:  # the decode side's prefix cache has it all
                    self._forget(push)
        tickets: list[Ticket] = []
        for push in self._due:
            if push.num_tokens > 0 and not push.is_withdrawing:
                tickets += self._send_ready(push, now_ns)
        self._due.clear()
        return [*tickets, *self._notices.begin()]

    def complete(self, ticket: Ticket, now_ns: int) -> Iterable[tuple[Instance, Outcome]]:
        """A part of a prompt's KV has arrived; with the last one the decode side goes on."""
        if self._notices.complete(ticket):
            return ()
        push, began_ns, num_bytes = self._under_way_to.pop(ticket)
        self._arrived(push, Crossing(began_ns(), now_ns, num_bytes))
        return ()

    def describe_waiting(self) -> list[str]:
        """Say whose KV is held and what it waits for; for the message of a deadlock."""
        return [
            f"instance {push.source.index} holds the KV of {push.request!r}, for which instance {push.decoder.index} "
            + ("has no blocks yet" if push.num_tokens < 0 else "has blocks")
            for push in self._pushes.values()
            if push.handed_ns >= 0
        ]

    def _load_of(self, decoder: Instance) -> InstanceLoad:
        load = decoder.load()
        return msgspec.structs.replace(load, num_waiting=load.num_waiting + self._chosen[decoder.index])

    def _make_push(self, spec: RequestSpec, request: Request, source: Instance, decoder: Instance) -> Push:
        return Push(spec, request, source, decoder)

    def _expect(self, push: Push) -> None:
        """Let a request whose prompt is being computed join the queue of the decode side."""
        if push.is_late or push.going_on is not None:
            return
        self._queue(push, push.decoder.engine.expect(push.spec, push.source.index))
        if push.handed_ns < 0:
            self._prefilling[push] = None

    def _answered(self, push: Push) -> None:
        """The decode side hears that the prompt was computed."""
        push.is_answered = True
        if not push.is_withdrawing and not push.is_given_up:
            self._go_on_with(push)

    def _go_on_with(self, push: Push) -> None:
        engine = push.decoder.engine
        if push.going_on is None:
            self._queue(push, engine.go_on(push.spec, push.request, push.source.index))
        else:
            engine.take_over(push.going_on, push.request)
        assert push.going_on is not None
        if push.going_on.remote_tokens:
            self._settle(push)
        else:
            self._forget(push)

    def _queue(self, push: Push, going_on: Request) -> None:
        """Keep in mind who a request of the decode side is."""
        push.going_on = going_on
        self._expected[going_on] = push
        self._chosen[push.decoder.index] -= 1
        push.decoder.wake()

    def _send_ready(self, push: Push, now_ns: int) -> list[Ticket]:
        """Send what is there of a request whose blocks are taken."""
        if push.handed_ns < 0 or push.tokens_sent:
            return []
        push.tokens_sent = push.num_tokens
        ticket = self._send(push.source, push.decoder, push.num_tokens)
        self._note(push, ticket, lambda: now_ns, push.num_tokens * self._bytes_per_token(push.source, push.decoder))
        return [ticket]

    def _note(self, push: Push, ticket: Ticket, began_ns: Callable[[], int], num_bytes: int) -> None:
        """Keep in mind what a ticket is; when it has ended, ``began_ns`` tells when the first byte left."""
        push.under_way += 1
        self._under_way_to[ticket] = (push, began_ns, num_bytes)

    def _arrived(self, push: Push, crossing: Crossing) -> None:
        push.under_way -= 1
        push.crossings.append(crossing)
        if not push.is_withdrawing:
            self._settle(push)
        elif not push.under_way:
            self._notices.post(partial(self._withdraw, push))

    def _give_up(self, push: Push) -> None:
        """Forget a request at the decode side, once nothing is on its way there, and then at the prefill side.

        It may wait at the decode side for the second time, after a preemption. There it is forgotten before the next
        batch is formed, which could otherwise take it in.
        """
        push.is_given_up = push.is_late = True
        self._due.pop(push, None)
        self._prefilling.pop(push, None)
        if push.going_on is None:
            self._chosen[push.decoder.index] -= 1
            self._drop(push)
        elif push.under_way:
            push.is_withdrawing = True
        elif not push.is_withdrawing:
            self._withdraw(push)

    def _drop(self, push: Push) -> None:
        del self._pushes[push.request]
        if push.handed_ns >= 0:
            push.source.engine.release(push.request)
            push.source.wake()

    def _fall_back(self, push: Push) -> None:
        """Give up the place that a request has at the decode side, once nothing is on its way there."""
        self._prefilling.pop(push, None)
        if push.is_late:
            return
        push.is_late = True
        if push.going_on is not None:
            push.is_withdrawing = True
            if not push.under_way:
                self._notices.post(partial(self._withdraw, push))

    def _withdraw(self, push: Push) -> None:
        assert push.going_on is not None
        push.decoder.engine.withdraw(push.going_on)
        push.decoder.wake()
        del self._expected[push.going_on]
        push.going_on = None
        push.num_tokens, push.tokens_sent = -1, 0
        self.wasted_bytes += sum(c.num_bytes for c in push.crossings)
        push.crossings.clear()
        push.is_withdrawing = False
        if push.is_given_up:
            self._drop(push)
            return
        self._chosen[push.decoder.index] += 1
        if push.is_answered:
            self._go_on_with(push)

    def _settle(self, push: Push) -> None:
        """Let the decode side go on with a request if all that it needs is there."""
        if not (push.is_answered and push.is_complete):
            return
        assert push.going_on is not None
        push.decoder.engine.loaded(push.going_on)
        push.decoder.wake()
        self.records.append(
            TransferRecord(
                request_id=push.spec.request_id,
                source=push.source.index,
                target=push.decoder.index,
                num_tokens=push.num_tokens,
                num_bytes=sum(c.num_bytes for c in push.crossings),
                handed_ns=push.handed_ns,
                start_ns=min(c.start_ns for c in push.crossings),
                end_ns=max(c.end_ns for c in push.crossings),
                hidden_bytes=sum(c.bytes_before(push.handed_ns) for c in push.crossings),
            )
        )
        self._forget(push)

    def _forget(self, push: Push) -> None:
        """Free the blocks of the prefill side."""
        assert push.going_on is not None
        self._going_on[push.spec.request_id] = push.decoder, push.going_on
        del self._pushes[push.request], self._expected[push.going_on]
        push.source.engine.release(push.request)
        push.source.wake()
