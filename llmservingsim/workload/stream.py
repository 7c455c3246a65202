"""Workloads: from a file, from a list, from anything that yields requests by arrival."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator, Sequence
from numbers import Integral
from os import PathLike

import msgspec

from llmservingsim.errors import WorkloadError
from llmservingsim.workload.jsonl import count_requests, read_jsonl
from llmservingsim.workload.protocol import Session
from llmservingsim.workload.request import RequestSpec


class StreamWorkload:
    """Hands out what an iterator yields, with one item of look-ahead.

    Memory holds that one item and what is left of the sessions that have begun. Calls of equal arrival come in the
    order of the iterator; a later call of a session comes by its ``request_id``.

    Args:
        items: Requests and sessions by arrival, with distinct request ids that rise.
        total_requests: How many calls they are, None where that is not known.
    """

    def __init__(self, items: Iterator[RequestSpec | Session], total_requests: int | None = None) -> None:
        self._items = items
        self._head = next(items, None)
        self._total_requests = total_requests
        self._later_calls: list[tuple[int, int, RequestSpec]] = []
        self._open_sessions: dict[int, tuple[Session, int]] = {}

    @property
    def total_requests(self) -> int | None:
        """How many calls there will be, None where it is not known."""
        return self._total_requests

    def next_arrival_ns(self) -> int | None:
        """Return when the next call that was not taken arrives, None if none is known now."""
        if self._head is None:
            return self._later_calls[0][0] if self._later_calls else None
        if not self._later_calls:
            return self._head.arrival_ns
        return min(self._head.arrival_ns, self._later_calls[0][0])

    def take(self, now_ns: int) -> list[RequestSpec]:
        """Take every call that has arrived by ``now_ns``, by (arrival_ns, request_id)."""
        taken = []
        while (arrival_ns := self.next_arrival_ns()) is not None and arrival_ns <= now_ns:
            taken.append(self._pop())
        return taken

    def finished(self, request_id: int, now_ns: int) -> None:
        """Let the session's next call, if there is one, arrive after the tool of call ``request_id`` has run."""
        session, position = self._open_sessions.pop(request_id, (None, 0))
        if session is None:
            return
        arrival_ns = now_ns + session.tool_durations_ns[position]
        call = msgspec.structs.replace(session.calls[position + 1], arrival_ns=arrival_ns)
        heapq.heappush(self._later_calls, (arrival_ns, call.request_id, call))
        self._open(session, position + 1)

    def abandoned(self, request_id: int, now_ns: int) -> None:  # noqa: ARG002 - the Protocol has it
        """Forget the session of call ``request_id``: its client gave up."""
        self._open_sessions.pop(request_id, None)

    def _pop(self) -> RequestSpec:
        head = self._head
        if head is None or (self._later_calls and self._later_calls[0][:2] < _order(head)):
            return heapq.heappop(self._later_calls)[2]
        self._head = next(self._items, None)
        if isinstance(head, RequestSpec):
            return head
        self._open(head, 0)
        return head.calls[0]

    def _open(self, session: Session, position: int) -> None:
        """Remember that the call at ``position`` has a successor."""
        if position + 1 < len(session.calls):
            self._open_sessions[session.calls[position].request_id] = (session, position)


class JsonlWorkload(StreamWorkload):
    """A trace in the JSONL format of LLMServingSim 2.0, read as the simulation goes.

    The file is never held: a million lines take as much memory as ten. A wrong line is reported when the simulation
    comes to it, an empty file at once.

    Args:
        path: Trace file; ``.gz`` is unpacked on the way.
        limit: Stop after so many calls; a session may be cut there.
        max_model_len: Stop the output where prompt and output reach so many tokens, as an engine with that limit
            does. A prompt that leaves no room for a token is passed on, for the engine to reject.

    Raises:
        WorkloadError: If the file is missing, unreadable, empty or wrong.
    """

    def __init__(
        self, path: str | PathLike[str], *, limit: int | None = None, max_model_len: int | None = None
    ) -> None:
        total = count_requests(path)
        super().__init__(
            cut(read_jsonl(path), limit, max_model_len),
            total_requests=total if total is None or limit is None else min(total, limit),
        )


class ListWorkload(StreamWorkload):
    """Requests and sessions that a program has made.

    Args:
        items: In any order; they are sorted by arrival, and keep their order where arrivals are equal.
        limit: Stop after so many calls; a session may be cut there.

    Raises:
        WorkloadError: If there is none, if two calls share a request id, or if one of them is malformed.
    """

    def __init__(self, items: Sequence[RequestSpec | Session], *, limit: int | None = None) -> None:
        calls = [call for item in items for call in _calls(item)]
        if not calls:
            raise WorkloadError("the workload holds no request")
        seen: set[int] = set()
        for call in calls:
            if call.request_id in seen:
                raise WorkloadError(f"two requests have the request_id {call.request_id}; expected distinct ones")
            seen.add(call.request_id)
            _check(call)
        super().__init__(
            cut(sorted(items, key=lambda item: item.arrival_ns), limit, max_model_len=None),
            total_requests=len(calls) if limit is None else min(len(calls), limit),
        )


def cut(
    items: Iterable[RequestSpec | Session], limit: int | None, max_model_len: int | None
) -> Iterator[RequestSpec | Session]:
    """Yield the first ``limit`` calls, outputs ending where prompt and output reach ``max_model_len`` tokens.

    Raises:
        WorkloadError: If ``limit`` is below 1.
    """
    if limit is not None and limit < 1:
        raise WorkloadError(f"limit: expected at least 1 request, got {limit}")
    room = limit
    for item in items:
        yield _cut_item(item, room, max_model_len)
        if room is not None:
            room -= 1 if isinstance(item, RequestSpec) else len(item.calls)
            if room <= 0:
                return


def _cut_item(item: RequestSpec | Session, room: int | None, max_model_len: int | None) -> RequestSpec | Session:
    if isinstance(item, RequestSpec):
        return item if max_model_len is None else _end_output(item, max_model_len)
    calls = item.calls[:room]
    if max_model_len is not None:
        calls = tuple(_end_output(call, max_model_len) for call in calls)
    return Session(calls, item.tool_durations_ns[:room])


def _end_output(call: RequestSpec, max_model_len: int) -> RequestSpec:
    if not call.prompt_tokens < max_model_len < call.prompt_tokens + call.output_tokens:
        return call
    token_ids = None if call.token_ids is None else call.token_ids[:max_model_len]
    return msgspec.structs.replace(call, output_tokens=max_model_len - call.prompt_tokens, token_ids=token_ids)


def _order(item: RequestSpec | Session) -> tuple[int, int]:
    first = item if isinstance(item, RequestSpec) else item.calls[0]
    return first.arrival_ns, first.request_id


def _check(call: RequestSpec) -> None:
    """Check what msgspec does not when a program makes a request."""
    for key, least in (("arrival_ns", 0), ("prompt_tokens", 1), ("output_tokens", 1)):
        value = getattr(call, key)
        if not isinstance(value, Integral) or value < least:
            raise WorkloadError(f"request {call.request_id}: {key}: expected int >= {least}, got {value!r}")
    patience_ns = call.abort_after_ns
    if patience_ns is not None and (not isinstance(patience_ns, Integral) or patience_ns < 1):
        raise WorkloadError(f"request {call.request_id}: abort_after_ns: expected int >= 1, got {patience_ns!r}")
    if call.token_ids is not None and len(call.token_ids) < call.prompt_tokens:
        raise WorkloadError(
            f"request {call.request_id} has {len(call.token_ids)} token ids; expected those of its "
            f"{call.prompt_tokens} prompt tokens at least"
        )


def _calls(item: RequestSpec | Session) -> tuple[RequestSpec, ...]:
    if isinstance(item, RequestSpec):
        return (item,)
    if not isinstance(item, Session):
        raise WorkloadError(f"expected a RequestSpec or a Session, got {item!r:.60}")
    for duration_ns in item.tool_durations_ns:
        if not isinstance(duration_ns, Integral) or duration_ns < 0:
            raise WorkloadError(f"tool_durations_ns: expected int >= 0, got {duration_ns!r}")
    if not item.calls or len(item.calls) != len(item.tool_durations_ns):
        raise WorkloadError(
            f"a session has {len(item.calls)} calls and {len(item.tool_durations_ns)} tool durations; "
            "expected at least one call and as many durations"
        )
    return item.calls
