"""A session stays where its first call went."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Annotated

from msgspec import Meta, Struct

from llmservingsim.serving.routing.least_loaded import least_loaded
from llmservingsim.serving.routing.protocol import InstanceView, RoutedRequest


class SessionAffinityOptions(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Options of `session_affinity`.

    Attributes:
        max_sessions: Sessions that are remembered, those with the most recent calls.
    """

    max_sessions: Annotated[int, Meta(ge=1)] = 65536


class SessionAffinityRouter:
    """The instance of the session's call before; without one the least loaded instance, which becomes its home.

    A home that cannot take a call loses the session. Requests outside of sessions go to the least loaded instance.
    """

    Options = SessionAffinityOptions

    def __init__(self, options: SessionAffinityOptions) -> None:
        self._max_sessions = options.max_sessions
        self._homes: OrderedDict[str, int] = OrderedDict()

    def route(self, request: RoutedRequest, instances: Sequence[InstanceView]) -> int:
        """Return the position of the session's home."""
        session = request.session_id
        if session is None:
            return least_loaded(instances)
        home = self._homes.pop(session, -1)
        chosen = next((position for position, i in enumerate(instances) if i.index == home), -1)
        if chosen < 0:
            chosen = least_loaded(instances)
        self._homes[session] = instances[chosen].index
        if len(self._homes) > self._max_sessions:
            self._homes.popitem(last=False)
        return chosen
