"""The front end of a run: takes requests in, holds or rejects them, and routes them to instances."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from llmservingsim.config import AdmissionSpec
from llmservingsim.deadlines import Deadlines, Watched
from llmservingsim.errors import ConfigError, nearest, one_of
from llmservingsim.instance import Aborted, Instance
from llmservingsim.report import Recorder
from llmservingsim.resolve import System
from llmservingsim.serving import EngineConfig, Request
from llmservingsim.serving.routing import FinishedRequest, LoadBoard, LoadView, choose
from llmservingsim.workload import RequestSpec, Workload

Views = Sequence[LoadView]

_NONE_ACTIVE, _OTHERS_HELD = "no instance is active", "others are held"
_HOLDING = (_NONE_ACTIVE, _OTHERS_HELD)
"""What makes a request wait whatever the policy of admission is."""


class Admission:
    """Stands between the workload and the instances.

    A request is judged before it is routed: one that no instance of its model can ever hold is rejected. The router
    chooses among those that can and that are below the limits. If none is, the request is rejected or held. Held
    requests are looked at whenever the clock moved, before new ones; one that must go on waiting holds up those behind
    it. With one instance in the run the router is not asked. Where instances start and stop, a request for which none
    is active is held as well.

    A client that has waited too long gives up: then the request leaves wherever it is. This comes before anything else
    that the front end does at that instant, but after the work that ends at it.

    Args:
        system: What serves.
        workload: What is asked for.
        recorder: Hears what happens.
    """

    def __init__(self, system: System, workload: Workload, recorder: Recorder) -> None:
        self._instances = system.instances
        self._router = system.router
        self._limits = system.admission
        self._transfers = system.transfers
        self._autoscaler = system.autoscaler
        self._workload = workload
        self._recorder = recorder
        self._board = LoadBoard([i.load for i in system.instances], system.load_update_ns)
        self._pools: dict[str | None, _Pool] = {}
        self._is_routed = len(system.instances) > 1
        self._tell_router = getattr(system.router, "finished", None) if self._is_routed else None
        if self._autoscaler is not None:
            self._autoscaler.num_held = self._num_held
            self._autoscaler.first_held = self._first_held
        self._tell_aborted = getattr(system.router, "aborted", None) if self._is_routed else None
        self._ends_session = system.patience.ends_session
        self._deadlines = Deadlines(system.patience)

    def next_ns(self) -> int | None:
        """Return when there is something to do that no instance brings about, None if nothing is known."""
        next_ns = self._workload.next_arrival_ns()
        if any(pool.held for pool in self._pools.values()):
            next_ns = _earlier(next_ns, self._board.next_report_ns())
        if self._deadlines.heap:
            next_ns = _earlier(next_ns, self._deadlines.next_ns())
        if self._autoscaler is not None and (next_ns is not None or self._recorder.num_open):
            next_ns = _earlier(next_ns, self._autoscaler.next_ns())
        return next_ns

    def clock_moved(self, now_ns: int, *, has_ended: bool) -> None:
        """The clock reached a new instant, nothing of which has happened yet; tell whether some work ends at it."""
        self._board.clock_moved(now_ns, has_ended=has_ended)

    def admit(self, now_ns: int) -> None:
        """Let go of what clients have given up, send the held requests that may go, take in what has arrived.

        Raises:
            ConfigError: If a request asks for a model that nobody serves.
            PluginError: If the router chooses an instance that is none.
        """
        while self._deadlines.heap and (given_up := self._deadlines.take(now_ns)) is not None:
            self._abort(*given_up, now_ns)
        for pool in self._pools.values():
            while pool.held and self._send(next(iter(pool.held.values())), pool, now_ns) is None:
                _, sent = pool.held.popitem(last=False)
                self._recorder.sent(sent, now_ns)
        for spec in self._workload.take(now_ns):
            self._take_in(spec, now_ns)

    def finished(self, instance: Instance, request: Request, now_ns: int) -> None:
        """A request ended: its session goes on, and routers that learn hear of it."""
        self._workload.finished(request.request_id, now_ns)
        self._deadlines.forget(request.request_id)
        if self._autoscaler is not None:
            self._autoscaler.finished(instance, request, now_ns)
        prefilled = request.prefill_instance
        if self._tell_router is not None:
            self._tell_router(_seen(request, instance.index if prefilled < 0 else prefilled, now_ns))
        if prefilled >= 0 and self._transfers is not None:
            self._transfers.finished(_seen(request, instance.index, now_ns))

    def describe_held(self) -> list[str]:
        """Say of each held request what it waits for; for the message of a deadlock."""
        return [
            f"router: request {spec.request_id} waits for an instance "
            + ("below the limits" if self._active(pool.candidates(spec)) else "to start")
            for pool in self._pools.values()
            for spec in pool.held.values()
        ]

    def _take_in(self, spec: RequestSpec, now_ns: int) -> None:
        """Send a new request, hold it, or reject it."""
        pool = self._pool(spec)
        if not pool.candidates(spec):
            self._reject(spec, pool, pool.reject_reason(spec), now_ns)
            return
        if self._autoscaler is not None:
            self._autoscaler.arrived(spec, now_ns)
        self._deadlines.watch(spec)
        limit = self._send(spec, pool, now_ns) if not pool.held else _OTHERS_HELD
        if limit is None:
            self._recorder.admitted(spec)
        elif limit in _HOLDING or (self._limits is not None and self._limits.policy == "queue"):
            self._recorder.admitted(spec)
            pool.held[spec.request_id] = spec
        else:
            self._reject(spec, pool, limit, now_ns)

    def _reject(self, spec: RequestSpec, pool: _Pool, reason: str, now_ns: int) -> None:
        self._recorder.rejected(spec, pool.instances[0], reason)
        self._deadlines.forget(spec.request_id)
        self._workload.finished(spec.request_id, now_ns)

    def _abort(self, watched: Watched, limit: str, now_ns: int) -> None:
        """A client gave up: let go of its request wherever it is."""
        spec, pool = watched.spec, self._pools[watched.spec.model]
        if watched.instance is None or watched.request is None:
            del pool.held[spec.request_id]
            self._recorder.aborted(spec, Aborted(pool.instances[0], None, 0), limit)
        else:
            aborted = watched.instance.abort(watched.request)
            self._board.changed(now_ns)
            if self._tell_aborted is not None:
                self._tell_aborted(spec.request_id, watched.instance.index)
            self._recorder.aborted(spec, aborted, limit)
        if self._ends_session:
            self._workload.abandoned(spec.request_id, now_ns)
        else:
            self._workload.finished(spec.request_id, now_ns)

    def _send(self, spec: RequestSpec, pool: _Pool, now_ns: int) -> str | None:
        """Send a request to an instance, or return the limit that stands in the way."""
        views = self._active(pool.candidates(spec))
        if not views:
            return _NONE_ACTIVE
        self._board.look(pool.views)
        if self._limits is not None:
            views, limit = _below(self._limits, views, pool.views)
            if not views:
                return limit
        view = views[choose(self._router, spec, views)] if self._is_routed else views[0]
        self._board.sent(view, now_ns)
        instance = self._instances[view.index]
        self._deadlines.sent(instance, instance.add(spec))
        return None

    def _active(self, views: Views) -> Views:
        """Those of the instances that take new requests: all, unless they start and stop."""
        if self._autoscaler is None:
            return views
        return [view for view in views if self._instances[view.index].phase == "active"]

    def _num_held(self, model: str) -> int:
        """How many requests are held that instances of a model could serve."""
        return sum(len(pool.held) for asked, pool in self._pools.items() if asked in (None, model))

    def _first_held(self, model: str) -> RequestSpec | None:
        """The one of these that is held longest."""
        held = [p.held for asked, p in self._pools.items() if asked in (None, model) and p.held]
        return min((next(iter(specs.values())) for specs in held), key=lambda spec: spec.arrival_ns, default=None)

    def _pool(self, spec: RequestSpec) -> _Pool:
        if spec.model not in self._pools:
            serving = [i for i in self._instances if i.takes_prompts and spec.model in (None, i.model)]
            if not serving:
                known = {i.model for i in self._instances}
                raise ConfigError(
                    f"request {spec.request_id} asks for the model {spec.model!r}{nearest(spec.model or '', known)}; "
                    f"the instances serve {one_of(known)}"
                )
            self._pools[spec.model] = _Pool(serving, [self._board.views[i.index] for i in serving])
        return self._pools[spec.model]


class _Pool:
    """The instances that serve one model, and the requests that are held for them.

    Attributes:
        instances: By index, at least one.
        views: Of these instances.
        held: By request id, in order of arrival.
    """

    def __init__(self, instances: Sequence[Instance], views: Views) -> None:
        self.instances, self.views = instances, views
        self.held: OrderedDict[int, RequestSpec] = OrderedDict()
        self._alike: dict[tuple[EngineConfig, bool], list[int]] = {}
        for position, instance in enumerate(instances):
            key = instance.engine.config, instance.successor is not None
            self._alike.setdefault(key, []).append(position)
        self._judges = [instances[positions[0]] for positions in self._alike.values()]
        self._candidates: dict[tuple[bool, ...], Views] = {}

    def candidates(self, spec: RequestSpec) -> Views:
        """Return the instances that can ever serve a request; one of each configuration is asked."""
        fits = tuple(judge.reject_reason(spec) is None for judge in self._judges)
        if fits not in self._candidates:
            chosen = [p for fit, positions in zip(fits, self._alike.values(), strict=True) if fit for p in positions]
            self._candidates[fits] = tuple(self.views[p] for p in sorted(chosen))
        return self._candidates[fits]

    def reject_reason(self, spec: RequestSpec) -> str:
        """Tell why no instance can serve a request."""
        reasons = [judge.reject_reason(spec) for judge in self._judges]
        return "; ".join(dict.fromkeys(reason.value for reason in reasons if reason is not None))


def _below(limits: AdmissionSpec, candidates: Views, serving: Views) -> tuple[Views, str]:
    """Return the candidates that may get one more request; if none may, also the limits that say so."""
    total, waiting, kv = limits.max_waiting_total, limits.max_waiting_per_instance, limits.max_kv_usage
    if total is not None and sum(v.num_waiting for v in serving) >= total:
        return (), "max_waiting_total is reached"
    busy = {v.index for v in candidates if waiting is not None and v.num_waiting >= waiting}
    full = {v.index for v in candidates if kv is not None and v.kv_usage >= kv}
    keys = [key for key, hit in (("max_waiting_per_instance", busy), ("max_kv_usage", full)) if hit]
    return [v for v in candidates if v.index not in busy | full], f"{' and '.join(keys)}: reached by every instance"


def _earlier(first_ns: int | None, second_ns: int | None) -> int | None:
    if first_ns is None or second_ns is None:
        return second_ns if first_ns is None else first_ns
    return min(first_ns, second_ns)


def _seen(request: Request, index: int, now_ns: int) -> FinishedRequest:
    """What a router hears of a request that it sent to instance ``index``."""
    tokens = request.num_tokens - request.num_prompt_tokens
    return FinishedRequest(request.request_id, index, request.first_token_ns, now_ns, tokens)
