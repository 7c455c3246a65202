"""What an ASTRA-sim binary prints, and how it fails."""

import os
from pathlib import Path

import pytest

from llmservingsim.backend.astra import RankResult
from llmservingsim.backend.astra_binary import AstraSimBinary, parse_results, require_ranks
from llmservingsim.errors import AstraSimError


def script(path: Path, text: str) -> Path:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


def test_results_are_found_between_other_lines_in_ascending_order() -> None:
    text = (
        "[2026-03-01 12:00:00.000] [workload] [info] sys[10] finished, 43025 cycles, exposed communication 0 cycles.\n"
        "[2026-03-01 12:00:00.000] [statistics] [info] sys[10], Wall time: 43025\n"
        "\x1b[32minfo\x1b[0m sys[2] finished, 4990 cycles, exposed communication 4990 cycles.\n"
    )
    assert parse_results(text) == [RankResult(2, 4990, 4990), RankResult(10, 43025, 0)]


def test_an_exposed_communication_that_wrapped_is_negative_again() -> None:
    text = f"sys[0] finished, 10 cycles, exposed communication {2**64 - 5} cycles."
    assert parse_results(text) == [RankResult(0, 10, -5)]


def test_every_option_is_handed_on_as_name_equals_value(tmp_path: Path) -> None:
    binary = AstraSimBinary(script(tmp_path / "astra", f'printf "%s\\n" "$@" > {tmp_path}/seen'))
    assert binary.run({"workload-configuration": tmp_path / "t", "rendezvous-protocol": "true"}) == []
    log, *seen = (tmp_path / "seen").read_text().splitlines()
    assert seen == [f"--workload-configuration={tmp_path}/t", "--rendezvous-protocol=true"]
    assert log.startswith("--logging-folder=")
    assert not Path(log.partition("=")[2]).parent.exists()


def test_the_last_lines_of_a_failure_are_shown(tmp_path: Path) -> None:
    lines = "\n".join(f"echo line {i} >&2" for i in range(9))
    with pytest.raises(AstraSimError, match=r"exit code 255:\n  line 4\n  line 5\n  line 6\n  line 7\n  line 8$"):
        AstraSimBinary(script(tmp_path / "astra", f"echo out\n{lines}\nexit 255")).run({})
    with pytest.raises(AstraSimError, match=r"exit code 3:\n  out$"):
        AstraSimBinary(script(tmp_path / "astra", "echo out\nexit 3")).run({})
    with pytest.raises(AstraSimError, match="exit code 4, silently"):
        AstraSimBinary(script(tmp_path / "astra", "exit 4")).run({})
    with pytest.raises(AstraSimError, match="exit code -11, silently"):
        AstraSimBinary(script(tmp_path / "astra", "kill -SEGV $$")).run({})


def test_a_file_of_another_machine_cannot_be_run(tmp_path: Path) -> None:
    path = script(tmp_path / "astra", "")
    path.write_bytes(b"\x7fELF nothing that runs here")
    with pytest.raises(AstraSimError, match="astra cannot be run: Exec format error"):
        AstraSimBinary(path).run({})


def test_a_name_on_the_path_will_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = script(tmp_path / "AstraSim", "")
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    assert AstraSimBinary("AstraSim").path == path


def test_ranks_that_are_missing_or_strange_are_named() -> None:
    results = [RankResult(r, 1, 1) for r in range(3)]
    require_ranks(results, range(3), "log")
    with pytest.raises(AstraSimError, match=r"^log: of 12 ranks expected, ranks 3, 4, 5, 6, 7, 8, 9, 10, ... never"):
        require_ranks(results, range(12), "log")
    with pytest.raises(AstraSimError, match="log: of 1 ranks expected, ranks 1, 2 are not in the traces"):
        require_ranks(results, range(1), "log")
