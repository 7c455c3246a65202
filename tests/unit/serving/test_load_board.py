"""What the router knows of its instances, and how old that is."""

from llmservingsim.serving.routing import InstanceLoad, LoadBoard


class Reporting:
    """An instance whose queue the test sets; counts how often it was asked."""

    def __init__(self, index: int) -> None:
        self.index, self.waiting, self.asked = index, 0, 0

    def __call__(self) -> InstanceLoad:
        self.asked += 1
        return InstanceLoad(self.index, "m", self.waiting, 0, 0.0)


def test_without_an_interval_a_view_is_read_once_per_look_and_only_if_somebody_reads() -> None:
    reporting = Reporting(0)
    board = LoadBoard([reporting], 0)
    view = board.views[0]
    reporting.waiting, asked = 3, reporting.asked
    board.look(board.views)
    assert (view.num_waiting, view.num_running, view.kv_usage) == (3, 0, 0.0)
    assert reporting.asked == asked + 1
    board.look(board.views)
    assert (view.index, view.model, view.hardware, view.role) == (0, "m", "", "both")
    assert reporting.asked == asked + 1


def test_with_an_interval_a_view_changes_at_its_multiples_and_counts_what_was_sent() -> None:
    reporting = Reporting(0)
    board = LoadBoard([reporting], 100)
    view = board.views[0]

    def seen_at(now_ns: int) -> int:
        board.clock_moved(now_ns, has_ended=False)
        board.look(board.views)
        return view.num_waiting

    reporting.waiting = 5
    assert seen_at(99) == 0
    board.sent(view, 99)
    assert seen_at(99) == 1
    assert seen_at(100) == 5
    reporting.waiting = 7
    assert seen_at(150) == 5
    assert seen_at(350) == 7  # as it was at 300
    reporting.waiting = 8
    assert seen_at(399) == 7
    assert seen_at(400) == 8


def test_a_report_is_awaited_only_if_something_happened_since_the_last_one() -> None:
    """Otherwise a run in which nothing moves would go on forever, report by report."""
    board = LoadBoard([Reporting(0)], 100)
    assert board.next_report_ns() is None
    board.sent(board.views[0], 10)
    assert board.next_report_ns() == 100
    board.clock_moved(100, has_ended=False)
    assert board.next_report_ns() is None
    board.clock_moved(250, has_ended=True)
    assert board.next_report_ns() == 300
    board.clock_moved(300, has_ended=True)  # the report of 300 does not know what ended at 300
    assert board.next_report_ns() == 400
    assert LoadBoard([Reporting(0)], 0).next_report_ns() is None
