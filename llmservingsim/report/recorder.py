"""Listens to a run and keeps what its outputs need."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from llmservingsim.instance import Aborted, Instance
from llmservingsim.report.details import RequestDetail, detail_of
from llmservingsim.report.records import RequestRecord, Sample
from llmservingsim.report.sampler import HeldMemory, Sampler
from llmservingsim.report.statistics import merge_counts
from llmservingsim.serving import Outcome, Request
from llmservingsim.workload import RequestSpec


class Recorder:
    """Keeps a record per request and a sample per interval.

    Args:
        instances: Of the system.
        sample_ns: Step of the time series.
        memories: Beside those of the devices.

    Attributes:
        records: Of requests that ended, in order of their end.
        details: What else is kept of them, in the same order.
        gaps_ns: Of each instance, inter-token times and how many tokens had each.
        preemptions: Of each instance, of the requests in ``records``.
        end_ns: When the last event happened.
        sent_ns: When requests that the router held went to their instances, by id.
    """

    def __init__(self, instances: Sequence[Instance], sample_ns: int, memories: HeldMemory | None = None) -> None:
        self.records: list[RequestRecord] = []
        self.details: list[RequestDetail] = []
        self.gaps_ns: list[dict[int, int]] = [{} for _ in instances]
        self.preemptions = [0] * len(instances)
        self.end_ns = 0
        self.sent_ns: dict[int, int] = {}
        self.num_arrived = 0
        self._open: dict[int, RequestSpec] = {}
        self._sampler = Sampler(instances, sample_ns, memories)

    @property
    def samples(self) -> list[Sample]:
        """The time series so far."""
        return self._sampler.samples

    @property
    def token_gaps_ns(self) -> dict[int, int]:
        """Inter-token times of all instances, and how many tokens had each."""
        return merge_counts(self.gaps_ns)

    @property
    def num_open(self) -> int:
        """Requests that instances or the router hold."""
        return len(self._open)

    @property
    def output_tokens(self) -> int:
        """Tokens generated so far."""
        return self._sampler.generated_tokens

    def admitted(self, spec: RequestSpec) -> None:
        """A request was taken in: it goes to an instance, or is held at the router first."""
        self.num_arrived += 1
        self._open[spec.request_id] = spec

    def sent(self, spec: RequestSpec, now_ns: int) -> None:
        """A request that was held goes to its instance."""
        self.sent_ns[spec.request_id] = now_ns

    def rejected(self, spec: RequestSpec, instance: Instance, reason: str) -> None:
        """A request was refused for good; ``instance`` is the first that serves its model."""
        self.num_arrived += 1
        self._record(
            spec,
            instance,
            None,
            scheduled_ns=None,
            first_token_ns=None,
            finish_ns=None,
            output_tokens=spec.output_tokens,
            cached_tokens=0,
            status="rejected",
            reason=reason,
        )

    def aborted(self, spec: RequestSpec, aborted: Aborted, limit: str) -> None:
        """A client gave up; what is known of its request stays, but for the finish."""
        del self._open[spec.request_id]
        instance, request, num_tokens = aborted
        self._record(
            spec,
            instance,
            request,
            scheduled_ns=None if request is None or request.scheduled_ns < 0 else request.scheduled_ns,
            first_token_ns=None if request is None or request.first_token_ns < 0 else request.first_token_ns,
            finish_ns=None,
            output_tokens=num_tokens,
            cached_tokens=0 if request is None else request.cached_tokens,
            status="aborted",
            reason=limit,
        )

    def clock_moved(self, now_ns: int) -> None:
        """The clock reached a new instant; nothing of that instant has happened yet."""
        if now_ns >= self._sampler.next_ns:
            self._sampler.sample_until(now_ns)

    def batch_ended(self, instance: Instance, outcome: Outcome) -> None:
        """A batch ended."""
        index = instance.index
        self._sampler.count(index, outcome.batch.num_prompt_tokens, outcome.num_sampled)
        gaps = self.gaps_ns[index]
        for gap, count in outcome.token_gaps_ns.items():
            gaps[gap] = gaps.get(gap, 0) + count
        for request in outcome.finished:
            self._finished(request, instance)

    def run_ended(self, now_ns: int) -> None:
        """The last event has happened; close the last interval."""
        self.end_ns = now_ns
        if self.num_arrived:
            self._sampler.sample_until(now_ns)
            self._sampler.close(now_ns)

    def _finished(self, request: Request, instance: Instance) -> None:
        spec = self._open.pop(request.request_id)
        self._record(
            spec,
            instance,
            request,
            scheduled_ns=request.scheduled_ns,
            first_token_ns=request.first_token_ns,
            finish_ns=request.last_token_ns,
            output_tokens=request.num_tokens - spec.prompt_tokens,
            cached_tokens=request.cached_tokens,
            status="finished",
        )

    def _record(self, spec: RequestSpec, instance: Instance, request: Request | None, **outcome: Any) -> None:
        """Keep what the request was, and the fields of `RequestRecord` that say what became of it."""
        prefill_instance, here, earlier = -1, 0, 0
        if request is not None:
            prefill_instance = request.prefill_instance
            here, earlier = request.num_preemptions, request.earlier_preemptions
            self.preemptions[instance.index] += here
            if earlier:
                self.preemptions[prefill_instance] += earlier
        self.details.append(detail_of(spec, instance, request))
        self.records.append(
            RequestRecord(
                request_id=spec.request_id,
                session_id=spec.session_id,
                model=instance.model,
                decode_instance=None if prefill_instance < 0 else instance.index,
                instance=instance.index if prefill_instance < 0 else prefill_instance,
                arrival_ns=spec.arrival_ns,
                prompt_tokens=spec.prompt_tokens,
                preemptions=here + earlier,
                **outcome,
            )
        )
