"""What was measured is kept: over kills, torn lines and changes of mind."""

import json
import multiprocessing
import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from fake_engine import FakeEngine, SlowEngine

from llmservingsim.errors import ProfileError
from llmservingsim.profiler import Journal, Session, Shot, Table
from llmservingsim.profiler.journal import Entry
from llmservingsim.profiler.sampling import Samples

CONDITIONS = {"model": "org/tiny", "device": "cpu"}
SHOT = Shot(Table.DENSE, (4,))


def entry(median: float = 2.0, shot: Shot = SHOT) -> Entry:
    return Entry(shot, {"qkv_proj": Samples(median, median, 1.0, 3.0, 0.1, 0.01, 7)}, 0.5)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    journal = Journal(tmp_path / "deep" / "journal.jsonl", CONDITIONS)
    journal.add(entry())
    journal.close()
    return journal.path


def test_what_was_written_is_read_again(path: Path) -> None:
    journal = Journal(path, CONDITIONS)
    assert journal.entries == {SHOT: entry()}
    assert journal.seconds == 0.5


def test_a_torn_last_line_is_dropped_and_the_next_begins_on_a_line_of_its_own(path: Path) -> None:
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"table": "dense", "at": [8], "sec')
    journal = Journal(path, CONDITIONS)
    assert list(journal.entries) == [SHOT]
    journal.add(entry(shot=Shot(Table.DENSE, (16,))))
    journal.close()
    assert path.read_bytes().startswith(whole)
    assert len(Journal(path, CONDITIONS).entries) == 2


def test_a_torn_header_is_written_anew(path: Path) -> None:
    path.write_bytes(b'{"journal": 1, "mod')
    Journal(path, CONDITIONS).close()
    assert json.loads(path.read_text()) == {"journal": 1, **CONDITIONS}


@pytest.mark.parametrize("line", ["{", "[]", "{}", '{"table": "dense", "at": [1, 2], "seconds": 1, "operators": {}}'])
def test_a_broken_line_in_the_middle_is_named(path: Path, line: str) -> None:
    path.write_text(path.read_text() + line + "\n" + path.read_text().splitlines()[1] + "\n")
    with pytest.raises(ProfileError, match=r"journal.jsonl:3: expected .*--restart begins anew"):
        Journal(path, CONDITIONS)


def test_other_conditions_are_refused_with_both_values(path: Path) -> None:
    with pytest.raises(ProfileError, match=r"measured under other conditions: model 'org/tiny'; now model 'org/big'"):
        Journal(path, {**CONDITIONS, "model": "org/big"})
    assert Journal(path, {**CONDITIONS, "model": "org/big"}, restart=True).entries == {}


def test_of_three_measurements_of_a_shot_the_middle_one_counts_and_the_time_of_all(path: Path) -> None:
    journal = Journal(path, CONDITIONS)  # holds one of 2 us
    journal.add(entry(1.5))
    assert journal.entries[SHOT].us("qkv_proj") == 2.0
    journal.add(entry(1.8))
    assert journal.entries[SHOT].us("qkv_proj") == 1.8
    assert (journal.seconds, journal.tries[SHOT]) == (1.5, 3)
    assert Journal(path, CONDITIONS).entries[SHOT].us("qkv_proj") == 1.8


def test_a_profiler_that_is_killed_ten_times_loses_nothing_and_ends_where_one_left_alone_does(
    make_session: Callable[..., Session], tmp_path: Path
) -> None:
    """SIGKILL at a random moment, between the first shot and the last; what was on the disk stays there."""
    path = tmp_path / "journal.jsonl"
    fork = multiprocessing.get_context("fork")
    draw = random.Random(0)
    for _ in range(10):
        before = path.read_bytes().rpartition(b"\n")[0] if path.exists() else b""
        process = fork.Process(target=lambda: [None for _ in make_session(SlowEngine).run()])
        process.start()
        further = len(before) + draw.choice((0, 2, 400, 1000))  # bytes: before the first new line, in it, some lines on
        while not path.exists() or path.stat().st_size < further:
            time.sleep(0.001)
        time.sleep(draw.uniform(0, 0.004))
        os.kill(process.pid or 0, signal.SIGKILL)
        process.join()
        assert process.exitcode == -signal.SIGKILL
        assert path.read_bytes().startswith(before)
    resumed = make_session(FakeEngine)
    assert 0 < len(resumed.journal.entries) < len(resumed.plan)
    list(resumed.run())
    found = measured(path)
    path.unlink()
    list(make_session(FakeEngine).run())
    assert found == measured(path)


def measured(path: Path) -> dict[Shot, object]:
    """What a journal holds, but for how long it took."""
    return {shot: entry.operators for shot, entry in Journal(path, CONDITIONS).entries.items()}
