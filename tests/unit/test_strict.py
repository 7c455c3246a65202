"""Data becomes frozen structs, and what does not fit is named by its path."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
import pytest

from llmservingsim.errors import ConfigError, WorkloadError
from llmservingsim.strict import convert, explain


class Leaf(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    max_num_seqs: int = 1
    policy: Literal["fcfs", "priority"] = "fcfs"
    share: Annotated[float, msgspec.Meta(gt=0, le=1)] = 0.5


class Branch(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    name: str
    leaves: tuple[Leaf, ...] = ()
    only: Leaf | None = None
    by_name: dict[str, Leaf] = {}


class Root(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    branches: list[Branch] = []
    seed: int = 0

    def __post_init__(self) -> None:
        if self.seed == 13:
            raise ValueError("seed: 13 is not drawn here")


def root(**branch: object) -> dict[str, object]:
    return {"branches": [{"name": "a"}, {"name": "b", **branch}]}


def test_what_fits_becomes_a_struct():
    made = convert(root(leaves=[{"max_num_seqs": 7}]), Root, "run.yaml", ConfigError)
    assert made.branches[1].leaves == (Leaf(max_num_seqs=7),)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (root(nme="c"), "branches[1]: unknown key 'nme' in a section (did you mean 'name'?); expected by_name, leaves"),
        (
            root(leaves=[{}, {"max_num_seq": 7}]),
            "branches[1].leaves[1]: unknown key 'max_num_seq' in a section (did you mean 'max_num_seqs'?); "
            "expected max_num_seqs, policy, share",
        ),
        (root(only={"polcy": "fcfs"}), "branches[1].only: unknown key 'polcy' in a section (did you mean 'policy'?)"),
        (root(by_name={"x": {"shar": 1}}), "unknown key 'shar' in a section (did you mean 'share'?)"),
        ({"sed": 1}, "unknown key 'sed' in a section (did you mean 'seed'?); expected branches, seed"),
        ({"branches": [{}]}, "branches[0]: the section lacks the key 'name'"),
        (root(leaves=[{"max_num_seqs": "7"}]), "branches[1].leaves[0].max_num_seqs: expected int, got '7'"),
        (root(leaves=[{"share": 2}]), "branches[1].leaves[0].share: expected float <= 1.0, got 2"),
        (root(only=3), "branches[1].only: expected object | null, got 3"),
        ({"seed": "x" * 100}, "seed: expected int, got '" + "x" * 39 + "..."),
        ([1], "section: expected object, got [1]"),
        (root(leaves=[{"policy": "lifo"}]), "branches[1].leaves[0].policy: Invalid enum value 'lifo'"),
        ({"seed": 13}, "seed: 13 is not drawn here"),
        (root(only={3: 4}), "branches[1].only: expected keys that are text, got 3"),
        ({None: 4}, "section: expected keys that are text, got None"),
        (
            root(name=4),
            "branches[1].name: expected str, got 4; a name of digits stands in quotes, a quantity has a unit",
        ),
    ],
)
def test_what_does_not_fit_is_named_by_path_expectation_and_value(value, message):
    with pytest.raises(ConfigError) as raised:
        convert(value, Root, "run.yaml", ConfigError)
    assert str(raised.value).startswith("run.yaml: ")
    assert message in str(raised.value)


def test_the_error_is_of_the_kind_that_was_asked_for():
    with pytest.raises(WorkloadError, match=r"trace\.jsonl:3: the section lacks the key 'name'"):
        convert({}, Branch, "trace.jsonl:3", WorkloadError)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b'{"max_num_seqs": ', "broken JSON: Input data was truncated"),
        (b'{"share": "\xff"}', "broken JSON: "),
        (b'{"max_num_seqs": "1", oops', "broken JSON: JSON is malformed"),
        (b'{"max_num_seqs": 1.5}', "max_num_seqs: expected int, got 1.5"),
        (b'{"max_num_seq": 1}', "unknown key 'max_num_seq' in a request (did you mean 'max_num_seqs'?)"),
        (b"[]", "request: expected object, got []"),
    ],
)
def test_a_json_line_is_explained_likewise(line, message):
    with pytest.raises((msgspec.MsgspecError, UnicodeDecodeError)) as raised:
        msgspec.json.decode(line, type=Leaf)
    assert message in explain(line, raised.value, "request", Leaf.__struct_fields__)
