"""The order of those that wait."""

from hypothesis import given
from hypothesis import strategies as st

from llmservingsim.serving import Request
from llmservingsim.serving.queue import FcfsQueue, PriorityQueue, RequestQueue


def ids(queue: RequestQueue) -> list[int]:
    return [r.request_id for r in queue]


def drained(queue: RequestQueue) -> list[int]:
    popped = []
    while len(queue):
        assert queue.peek() is next(iter(queue))
        popped.append(queue.pop().request_id)
    return popped


def test_first_come_first_served_puts_preempted_requests_in_front() -> None:
    queue = FcfsQueue()
    for request_id in (3, 1):
        queue.add(Request(request_id, 0, 1))
    queue.put_back(Request(2, 0, 1))
    assert ids(queue) == drained(queue) == [2, 3, 1]


def test_by_priority_preempted_requests_take_their_place() -> None:
    queue = PriorityQueue()
    for request_id, arrival, priority in [(0, 9, 1), (1, 5, 1), (3, 7, 0), (2, 7, 0)]:
        queue.add(Request(request_id, arrival, 1, priority))
    queue.put_back(Request(4, 6, 1, 1))
    assert ids(queue) == drained(queue) == [2, 3, 1, 4, 0]


def test_a_request_can_be_taken_out_anywhere() -> None:
    for queue in (FcfsQueue(), PriorityQueue()):
        requests = [Request(i, i, 1) for i in range(5)]
        for request in requests:
            queue.add(request)
        queue.remove(requests[2])
        queue.remove(requests[0])
        assert drained(queue) == [1, 3, 4]


def test_the_priority_order_survives_the_removal_of_the_first() -> None:
    queue = PriorityQueue()
    requests = {i: Request(i, i, 1) for i in (0, 5, 1, 6, 7, 2, 3)}
    for request in requests.values():
        queue.add(request)
    queue.remove(requests[0])
    assert drained(queue) == [1, 2, 3, 5, 6, 7]


def test_a_request_that_was_taken_out_may_come_back_and_so_may_another_form_of_it() -> None:
    """Its old entry is still in the heap, and must count neither as the new one nor against it."""
    queue = PriorityQueue()
    first, back, form = Request(0, 0, 1), Request(1, 1, 1, 1), Request(1, 1, 1, 1)
    for request in (first, back):
        queue.add(request)
    queue.remove(back)
    queue.add(form)
    back.priority = 0
    queue.add(back)
    assert (len(queue), list(queue)) == (3, [first, back, form])
    assert [queue.pop() for _ in range(3)] == [first, back, form]


@given(
    st.booleans(),
    st.lists(
        st.tuples(st.sampled_from(["add", "put_back", "pop", "remove", "return"]), st.integers(0, 9)), max_size=60
    ),
)
def test_queues_do_what_a_list_would(by_priority: bool, steps: list[tuple[str, int]]) -> None:
    queue: RequestQueue = PriorityQueue() if by_priority else FcfsQueue()
    expected: list[Request] = []
    gone: list[Request] = []
    for number, (step, value) in enumerate(steps):
        if step in ("add", "put_back"):
            request = Request(number, number, 1, value % 3)
            expected.insert(0 if step == "put_back" else len(expected), request)
            (queue.add if step == "add" else queue.put_back)(request)
        elif expected and step == "pop":
            assert queue.peek() is expected[0]
            assert queue.pop() is expected.pop(0)
        elif step == "return":
            if gone:
                expected.append(gone.pop())
                queue.add(expected[-1])
        elif expected:
            gone.append(expected.pop(value % len(expected)))
            queue.remove(gone[-1])
        if by_priority:
            expected.sort(key=lambda r: (r.priority, r.arrival_ns, r.request_id))
        assert list(queue) == expected
        assert len(queue) == len(expected)
