"""What the front end knows of its instances: fresh, or as old as their last report."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from msgspec.structs import replace

from llmservingsim.serving.routing.protocol import InstanceLoad

Report = Callable[[], InstanceLoad]


class LoadView:
    """An `InstanceView` that asks the instance when it is first read after it was told to forget."""

    __slots__ = ("_load", "_report", "hardware", "index", "model", "role")

    def __init__(self, report: Report) -> None:
        load = report()
        self._report = report
        self._load: InstanceLoad | None = load
        self.index, self.model = load.index, load.model
        self.hardware, self.role = load.hardware, load.role

    @property
    def load(self) -> InstanceLoad:
        """The report in hand."""
        if self._load is None:
            self._load = self._report()
        return self._load

    @property
    def num_waiting(self) -> int:
        """Requests in its queue."""
        return self.load.num_waiting

    @property
    def num_running(self) -> int:
        """Requests in its running list."""
        return self.load.num_running

    @property
    def kv_usage(self) -> float:
        """Share of its KV blocks that requests hold."""
        return self.load.kv_usage

    def forget(self) -> None:
        """Ask anew when next read."""
        self._load = None

    def renew(self) -> None:
        """Ask now, to remember what holds now."""
        self._load = self._report()

    def sent(self) -> None:
        """Count a request that was sent since the report."""
        self._load = replace(self.load, num_waiting=self.num_waiting + 1)


class LoadBoard:
    """The views of all instances.

    With an interval, instances report at its multiples, before anything else of that instant happens, as engines of a
    data-parallel vLLM do through their coordinator (every 100 ms at most). In between, what was sent counts as waiting,
    as in vLLM's client.

    Args:
        reports: Ask the instances, by index.
        interval_ns: Between two reports; 0 to know everything at once.

    Attributes:
        views: Of the instances, by index.
    """

    def __init__(self, reports: Sequence[Report], interval_ns: int) -> None:
        self.views = tuple(map(LoadView, reports))
        self._interval_ns = interval_ns
        self._reported_ns = 0
        self._changed_ns = -1

    def look(self, views: Sequence[LoadView]) -> None:
        """Forget what would be out of date in these views, unless reports are all there is."""
        if not self._interval_ns:
            for view in views:
                view.forget()

    def sent(self, view: LoadView, now_ns: int) -> None:
        """A request went to an instance."""
        self._changed_ns = now_ns
        if self._interval_ns:
            view.sent()

    def changed(self, now_ns: int) -> None:
        """Something else happened at an instance than the end of work."""
        self._changed_ns = now_ns

    def clock_moved(self, now_ns: int, *, has_ended: bool) -> None:
        """Collect the reports that are due; nothing of this instant has happened yet.

        Args:
            now_ns: The new instant.
            has_ended: Whether some work ends at this instant.
        """
        if self._interval_ns and now_ns >= self._reported_ns + self._interval_ns:
            self._reported_ns = now_ns - now_ns % self._interval_ns
            for view in self.views:
                view.renew()
        if has_ended:
            self._changed_ns = now_ns

    def next_report_ns(self) -> int | None:
        """Return when reports will say something new, None if those in hand are up to date."""
        if not self._interval_ns or self._changed_ns < self._reported_ns:
            return None
        return self._reported_ns + self._interval_ns
