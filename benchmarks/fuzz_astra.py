r"""Give ``llmservingsim astra`` spoilt inputs without end: it must answer or refuse them, whatever the bytes.

Run: ``python benchmarks/fuzz_astra.py [--minutes 10] [--workers N] [--seed S] [--native FILE]``. Cases run
in worker processes; one that dies, takes longer than 5 s or needs more than 1 GB is a failure like any exception that
is no refusal, and so is a message that is not one clear line. The smallest input of every failure lies in ``out/fuzz/``
when this ends, with the command that runs it and what was raised; it exits with 1 if there is any.

``--native`` loads another build of the extension. With sanitizers, whose library must be in the process from its start:

    cmake -S . -B build/asan -G Ninja -DLLMSERVINGSIM_SANITIZE_MODULE=ON && ninja -C build/asan
    LD_PRELOAD="$(gcc -print-file-name=libasan.so) $(gcc -print-file-name=libstdc++.so)" ASAN_OPTIONS=detect_leaks=0 \
      python benchmarks/fuzz_astra.py --native build/asan/_native*.so
"""

import argparse
import importlib.util
import multiprocessing
import os
import random
import re
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import NamedTuple

REPOSITORY = Path(__file__).resolve().parents[1]
OUTPUT = REPOSITORY / "out" / "fuzz"
CASE_S = 5.0
MEMORY_BYTES = 2**30
SPOILINGS = (0, 1, 1, 1, 1, 2, 2, 3, 4)
REPORT_S = 30.0


class Outcome(NamedTuple):
    """What became of a case: ``failure`` is empty, or says what failed in words that equal failures share."""

    failure: str
    message: str


class Failure(NamedTuple):
    """A recipe that fails, and how."""

    recipe: tuple[int, tuple[int, ...]]
    outcome: Outcome


def load_native(path: Path) -> None:
    """Put another build of the extension where the package will find it."""
    spec = importlib.util.spec_from_file_location("llmservingsim.backend._native", path)
    if spec is None or spec.loader is None:
        raise SystemExit(f"--native {path}: no extension module")
    sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sys.modules[spec.name])


def is_sanitized() -> bool:
    """Whether AddressSanitizer is in the process; its shadow memory fits no limit."""
    return "libasan" in os.environ.get("LD_PRELOAD", "")


def work(pipe: Connection) -> None:
    """Run recipes until there are no more; a worker's life."""
    from astra_cases import Recipe, make_case, run_case

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.environ["COLUMNS"] = "200"
    if not is_sanitized():
        now = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (now + MEMORY_BYTES, now + MEMORY_BYTES))
    while (recipe := pipe.recv()) is not None:
        with tempfile.TemporaryDirectory(dir=scratch()) as folder:
            pipe.send(judged(lambda folder=folder, recipe=recipe: run_case(make_case(Recipe(*recipe)), Path(folder))))


def scratch() -> str | None:
    """Return memory that looks like a disk, where there is some."""
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else None


def judged(run) -> Outcome:
    """Run a case and say what became of it."""
    try:
        return Outcome("", run())
    except BaseException as error:  # whatever it is, it is a finding
        frames = [f for f in traceback.extract_tb(error.__traceback__) if "llmservingsim" in f.filename]
        place = f" at {Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else ""
        words = re.sub(r"[\d.]+|'.*'", "#", str(error).split("\n")[0])[:60]
        return Outcome(f"{type(error).__name__}{place}: {words}", "".join(traceback.format_exception(error))[-20_000:])


@dataclass
class Worker:
    """A process that runs one case at a time, and the case that it runs."""

    pipe: Connection = field(init=False)
    process: multiprocessing.Process = field(init=False)
    recipe: tuple[int, tuple[int, ...]] | None = None
    began_s: float = 0.0

    def __post_init__(self) -> None:
        self.start()

    def start(self) -> None:
        """Begin a new life."""
        self.pipe, other = multiprocessing.Pipe()
        self.process = multiprocessing.Process(target=work, args=(other,), daemon=True)
        self.process.start()
        other.close()

    def give(self, recipe: tuple[int, tuple[int, ...]]) -> None:
        """Have it run a case."""
        self.recipe, self.began_s = recipe, time.monotonic()
        self.pipe.send(recipe)

    def answer(self) -> Outcome | None:
        """Return what became of the case; None while it runs. A dead or late worker is replaced."""
        limit_s = CASE_S * (4 if is_sanitized() else 1)
        if self.pipe.poll():
            try:
                return self.pipe.recv()
            except EOFError:
                self.process.join()
                outcome = Outcome(f"process died of {self.process.exitcode}", "")
        elif time.monotonic() - self.began_s > limit_s:
            self.process.kill()
            self.process.join()
            outcome = Outcome("took too long", f"more than {limit_s} s")
        else:
            return None
        self.pipe.close()
        self.start()
        return outcome

    def run(self, recipe: tuple[int, tuple[int, ...]]) -> Outcome:
        """Run a case and wait for what becomes of it."""
        self.give(recipe)
        while (outcome := self.answer()) is None:
            self.pipe.poll(0.05)
        return outcome


def recipes(seed: int) -> Iterator[tuple[int, tuple[int, ...]]]:
    """Choose recipes without end."""
    rng = random.Random(seed)
    while True:
        yield rng.randrange(2000), tuple(rng.randrange(2**32) for _ in range(rng.choice(SPOILINGS)))


def smaller(failure: Failure, worker: Worker) -> Failure:
    """Leave out spoilings for as long as the case fails in the same way."""
    base, spoilings = failure.recipe
    for spoiling in spoilings:
        fewer = tuple(s for s in spoilings if s != spoiling)
        outcome = worker.run((base, fewer))
        if outcome.failure == failure.outcome.failure:
            failure, spoilings = Failure((base, fewer), outcome), fewer
    return failure


def size(failure: Failure) -> tuple[int, int]:
    """Order failures by how little there is to look at."""
    from astra_cases import Recipe, make_case

    return len(failure.recipe[1]), sum(map(len, make_case(Recipe(*failure.recipe)).files.values()))


def write_failure(index: int, failure: Failure) -> Path:
    """Write the files of a case, the command, and what was raised."""
    from astra_cases import Recipe, command_line, make_case

    folder = OUTPUT / f"{index:02d}"
    folder.mkdir(parents=True)
    case = make_case(Recipe(*failure.recipe))
    for name, content in case.files.items():
        (folder / name).write_bytes(content)
    (folder / "command.txt").write_text(f"{command_line(case)}\n")
    told = f"{failure.outcome.failure}\nRecipe{failure.recipe}\n\n{failure.outcome.message}"
    (folder / "failure.txt").write_text(told, errors="backslashreplace")
    return folder


def fuzz(minutes: float, workers: int, seed: int) -> int:
    """Run cases for so long; print what came of them and return how many kinds of failures there are."""
    crew = [Worker() for _ in range(workers)]
    found: dict[str, Failure] = {}
    counts: Counter[str] = Counter()
    choices = recipes(seed)
    began_s = told_s = time.monotonic()
    end_s = began_s + 60 * minutes
    for worker in crew:
        worker.give(next(choices))
    while (now_s := time.monotonic()) < end_s:
        multiprocessing.connection.wait([worker.pipe for worker in crew], timeout=0.2)
        for worker in crew:
            if (outcome := worker.answer()) is None or worker.recipe is None:
                continue
            counts["failed" if outcome.failure else "simulated" if outcome.message == "ok" else "refused"] += 1
            if outcome.failure:
                failure = Failure(worker.recipe, outcome)
                if outcome.failure not in found:
                    print(f"FAILS {outcome.failure}", flush=True)
                    failure = smaller(failure, worker)
                found[outcome.failure] = min(failure, found.get(outcome.failure, failure), key=size)
            worker.give(next(choices))
        if now_s - told_s > REPORT_S:
            told_s = now_s
            print(summary(counts, now_s - began_s), flush=True)
    for worker in crew:
        worker.process.kill()
    print(summary(counts, time.monotonic() - began_s))
    shutil.rmtree(OUTPUT, ignore_errors=True)
    for index, (name, failure) in enumerate(sorted(found.items())):
        print(f"{write_failure(index, failure)}: {name}")
    return len(found)


def summary(counts: Counter[str], took_s: float) -> str:
    """Say how many cases came to what."""
    total = counts.total()
    kinds = ", ".join(f"{counts[kind]} {kind}" for kind in ("simulated", "refused", "failed"))
    return f"{total} cases in {took_s:.0f} s ({total / took_s:.0f}/s): {kinds}"


def main() -> int:
    """Read the command line; return 1 if anything failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument(
        "--seed", type=int, default=int(time.time()), help="Of the choice of cases; the time by default."
    )
    parser.add_argument("--native", type=Path, help="Another build of the extension.")
    arguments = parser.parse_args()
    sys.path[:0] = [str(REPOSITORY), str(REPOSITORY / "tests")]
    if arguments.native:
        load_native(arguments.native)
    import astra_cases  # noqa: F401 -- workers are forks: what is loaded here they need not load

    print(f"seed {arguments.seed}, {arguments.workers} workers")
    return int(fuzz(arguments.minutes, arguments.workers, arguments.seed) > 0)


if __name__ == "__main__":
    sys.exit(main())
