"""The prefix index, whatever is sent where: bounded, and right about what it still remembers."""

from hypothesis import given
from hypothesis import strategies as st

from llmservingsim.serving.kv.hashing import hash_blocks
from llmservingsim.serving.routing.prefix_index import PrefixIndex

BLOCK = 2
PROMPTS = st.lists(st.integers(0, 2), max_size=14).map(tuple)
SENT = st.lists(st.tuples(st.integers(0, 2), PROMPTS), max_size=25)


@given(SENT, PROMPTS, st.integers(1, 9))
def test_it_never_holds_more_than_its_bound_and_always_whole_prefixes(
    sent: list[tuple[int, tuple[int, ...]]], asked: tuple[int, ...], bound: int
) -> None:
    """The oracle: per instance a list of blocks, the least recent first; a prompt's later blocks are less recent."""
    index = PrefixIndex(bound)
    oracle: dict[int, list[int]] = {i: [] for i in range(3)}
    for instance, prompt in sent:
        hashes = hash_blocks(prompt, BLOCK)
        index.sent(instance, hashes)
        kept = hashes[:bound]
        others = [block for block in oracle[instance] if block not in kept]
        oracle[instance] = (others + kept[::-1])[-bound:]
        assert index.num_blocks(instance) == len(oracle[instance]) <= bound
    hashes = hash_blocks(asked, BLOCK)
    lengths = {i: match_length(hashes, set(oracle[i])) for i in (0, 2)}
    depth, holders = index.longest_match(hashes, [0, 2])
    assert depth == max(lengths.values())
    assert holders == [i for i, length in lengths.items() if length == depth]


@given(SENT, st.integers(1, 9))
def test_the_prompt_sent_last_is_remembered_up_to_the_bound(
    sent: list[tuple[int, tuple[int, ...]]], bound: int
) -> None:
    index = PrefixIndex(bound)
    for instance, prompt in sent:
        hashes = hash_blocks(prompt, BLOCK)
        index.sent(instance, hashes)
        assert index.longest_match(hashes, [instance]) == (min(len(hashes), bound), [instance])


@given(SENT, st.integers(1, 9))
def test_what_no_instance_holds_takes_no_memory(sent: list[tuple[int, tuple[int, ...]]], bound: int) -> None:
    index = PrefixIndex(bound)
    for instance, prompt in sent:
        index.sent(instance, hash_blocks(prompt, BLOCK))
    held = {block for recent in index._recent.values() for block in recent}
    assert set(index._holders) == held


def match_length(hashes: list[int], held: set[int]) -> int:
    return next((depth for depth, block in enumerate(hashes) if block not in held), len(hashes))
