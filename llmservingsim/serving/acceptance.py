"""The built-in acceptance policies, and a policy from what the run file says."""

from __future__ import annotations

import csv
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from llmservingsim.errors import ConfigError, one_of
from llmservingsim.plugins import make_plugin
from llmservingsim.serving.speculation import AcceptancePolicy, Verification

_COLUMNS = ("conditional", "per_position", "counts")


class TableAcceptance:
    """Draft ``i`` is accepted with a probability of its own, given that all before it were.

    Args:
        num_speculative_tokens: Drafts per verification.
        conditional: These probabilities.
        per_position: Instead of them the shares of verifications in which a draft was accepted, as vLLM logs them.
        counts: Instead of them how often 0, 1, 2 ... drafts were accepted.
        path: A CSV file with one of these as its only column, relative to the run file.

    Raises:
        ConfigError: If not exactly one of them is stated, or it has a wrong number of wrong numbers.
    """

    def __init__(
        self,
        num_speculative_tokens: int,
        *,
        conditional: Sequence[float] | None = None,
        per_position: Sequence[float] | None = None,
        counts: Sequence[float] | None = None,
        path: str | Path | None = None,
    ) -> None:
        stated = {"conditional": conditional, "per_position": per_position, "counts": counts, "path": path}
        given = [key for key, value in stated.items() if value is not None]
        if len(given) != 1:
            raise ConfigError(f"table: expected one of {one_of(stated)}, got {one_of(given) if given else 'none'}")
        key, values = given[0], stated[given[0]]
        where = key
        if key == "path":
            where = str(values)
            key, values = _read_column(Path(where))
        numbers = _numbers(values, where)
        needed = num_speculative_tokens + (key == "counts")
        if len(numbers) < needed or (key == "counts" and len(numbers) != needed):
            raise ConfigError(
                f"{where}: expected {needed} numbers of {key} for num_speculative_tokens {num_speculative_tokens}, "
                f"got {len(numbers)}"
            )
        if key == "counts":
            numbers = _shares(numbers, where)
        if key != "conditional":
            numbers = _conditional(numbers, where)
        if any(not 0 <= p <= 1 for p in numbers):
            raise ConfigError(f"{where}: expected probabilities from 0 to 1, got {numbers}")
        self.conditional = tuple(numbers)

    def num_accepted(self, verification: Verification) -> int:
        """Accept drafts until the first one that fails."""
        for i in range(verification.num_drafts):
            if verification.uniform(i) >= self.conditional[i]:
                return i
        return verification.num_drafts


class DecayingAcceptance(TableAcceptance):
    """Draft ``i`` is accepted with probability ``rate * decay ** i``, given that all before it were.

    Args:
        num_speculative_tokens: Drafts per verification.
        rate: Of the first draft.
        decay: From each draft to the next.

    Raises:
        ConfigError: If a number is not from 0 to 1.
    """

    def __init__(self, num_speculative_tokens: int, *, rate: float, decay: float) -> None:
        for key, value in (("rate", rate), ("decay", decay)):
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
                raise ConfigError(f"{key}: expected a number from 0 to 1, got {value!r}")
        super().__init__(num_speculative_tokens, conditional=[rate * decay**i for i in range(num_speculative_tokens)])


class FixedAcceptance(DecayingAcceptance):
    """Every draft is accepted with the same probability, given that all before it were.

    A verification of k drafts then gives ``(1 - rate ** (k + 1)) / (1 - rate)`` tokens on average (Leviathan, Kalman,
    Matias, ICML 2023, equation 1).

    Args:
        num_speculative_tokens: Drafts per verification.
        rate: The probability.
    """

    def __init__(self, num_speculative_tokens: int, *, rate: float) -> None:
        super().__init__(num_speculative_tokens, rate=rate, decay=1.0)


ACCEPTANCE_POLICIES: Mapping[str, Callable[..., AcceptancePolicy]] = {
    "fixed": FixedAcceptance,
    "decaying": DecayingAcceptance,
    "table": TableAcceptance,
}


def make_acceptance(stated: Mapping[str, Any], num_speculative_tokens: int, base: Path) -> AcceptancePolicy:
    """Build a policy.

    Args:
        stated: ``policy`` with a name, and its options beside it.
        num_speculative_tokens: Drafts per verification.
        base: Where a relative ``path`` starts.

    Raises:
        ConfigError: If the policy is not named, or an option is wrong.
        PluginError: If nothing has that name, or it cannot be built from these options.
    """
    options = dict(stated)
    name = options.pop("policy", None)
    if not isinstance(name, str):
        raise ConfigError(
            f"expected a section with the key 'policy', one of {one_of(ACCEPTANCE_POLICIES)}, or your own"
        )
    if isinstance(options.get("path"), str):
        options["path"] = base / options["path"]
    made: AcceptancePolicy = make_plugin(
        "acceptance", name, ACCEPTANCE_POLICIES, (num_speculative_tokens,), ("num_accepted",), options
    )
    return made


def _numbers(values: Any, where: str) -> list[float]:
    sound = isinstance(values, list | tuple) and all(
        isinstance(v, int | float) and not isinstance(v, bool) and 0 <= v < float("inf") for v in values
    )
    if not sound:
        raise ConfigError(f"{where}: expected a list of numbers from 0 on, got {values!r:.80}")
    return [float(v) for v in values]


def _shares(counts: Sequence[float], where: str) -> list[float]:
    """Turn how often 0, 1, 2 ... drafts were accepted into the share of verifications that accept each draft."""
    total = sum(counts)
    if not total:
        raise ConfigError(f"{where}: expected at least one count above 0")
    return [sum(counts[i + 1 :]) / total for i in range(len(counts) - 1)]


def _conditional(shares: Sequence[float], where: str) -> list[float]:
    """Divide each draft's share by that of the draft before; behind a draft that never is accepted none is."""
    if any(later > earlier for earlier, later in zip([1.0, *shares], shares, strict=False)):
        raise ConfigError(f"{where}: expected shares that never rise, because drafts are accepted in order")
    return [later / earlier if earlier else 0.0 for earlier, later in zip([1.0, *shares], shares, strict=False)]


def _read_column(path: Path) -> tuple[str, list[float]]:
    """Read a CSV file with one named column of numbers."""
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = [row for row in csv.reader(file) if row]
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from None
    if not rows or len(rows[0]) != 1 or rows[0][0] not in _COLUMNS:
        raise ConfigError(
            f"{path}:1: expected one column, {one_of(_COLUMNS)}, got {','.join(rows[0]) if rows else ''!r}"
        )
    try:
        return rows[0][0], [float(cell) for (cell,) in rows[1:]]
    except ValueError:
        raise ConfigError(f"{path}: expected a number in every line below {rows[0][0]!r}") from None
