"""What routing and placement make of an iteration: the load of every rank's experts."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from llmservingsim.config.quantities import All2AllBackend
from llmservingsim.errors import PluginError
from llmservingsim.trace.bounded import remember
from llmservingsim.trace.experts.placement import cache_experts
from llmservingsim.trace.experts.policies import BalancedRouter
from llmservingsim.trace.experts.router import ExpertGeometry, ExpertRouter, Floats


class ExpertLoad(NamedTuple):
    """What each part of the experts gets, shapes ``[layers, parts]``.

    Attributes:
        pairs: (token, expert) pairs.
        activated_experts: Distinct experts that get a token.
        fetched_experts: Those of them that are not on the device.
    """

    pairs: Floats
    activated_experts: Floats
    fetched_experts: Floats


class ExpertRouting:
    """The experts of one `IterationBuilder`; a router counts iterations, so builders do not share one.

    Args:
        geometry: Of the model.
        router: Splits tokens over experts.
        held: Copies of every expert that each part holds, shape ``[layers or 1, parts, experts]``.
        all2all_backend: How tokens travel between instances that share the experts.
    """

    def __init__(
        self,
        geometry: ExpertGeometry,
        router: ExpertRouter,
        held: Floats,
        all2all_backend: All2AllBackend = "allgather_reducescatter",
    ) -> None:
        self.geometry = geometry
        self.all2all_backend = all2all_backend
        self._router = router
        self._held = held
        self._elsewhere = held
        self._copies = held.sum(axis=1)
        self._expected: dict[int, ExpertLoad] = {}

    @property
    def is_even(self) -> bool:
        """Whether all parts get the same load in every iteration."""
        return isinstance(self._router, BalancedRouter) and bool((self._copies == 1).all())

    def keep_popular(self, count: int) -> None:
        """Say that ``count`` experts of every part and layer, the most popular ones, need not be fetched.

        Raises:
            PluginError: If the router does not know how popular experts are.
        """
        if not hasattr(self._router, "shares"):
            raise PluginError(
                f"expert router {type(self._router).__name__}: placement.cached_experts needs its method 'shares', "
                "which tells how popular experts are"
            )
        shares = np.asarray(self._router.shares(), dtype=np.float64)
        self._elsewhere = self._held - cache_experts(self._held, shares, count)

    def load(self, tokens: int) -> tuple[ExpertLoad, bool]:
        """Split an iteration of ``tokens`` tokens; also say whether it would always be split like that.

        Raises:
            PluginError: If the router's answer has another shape or loses tokens.
        """
        known = self._expected.get(tokens)
        if known is not None:
            return known, True
        split = self._router.split(tokens)
        pairs = np.asarray(split.pairs, dtype=np.float64)
        self._check(pairs, tokens)
        activated = split.activated(tokens, self._copies)
        per_part = self._per_part(self._held, activated)
        fetched = per_part if self._elsewhere is self._held else self._per_part(self._elsewhere, activated)
        load = ExpertLoad(self._per_part(self._held, pairs / self._copies), per_part, fetched)
        if split.is_expectation:
            remember(self._expected, tokens, load)
        return load, split.is_expectation

    @staticmethod
    def _per_part(copies: Floats, per_copy: Floats) -> Floats:
        return np.asarray((copies @ per_copy[:, :, None])[:, :, 0])

    def _check(self, pairs: Floats, tokens: int) -> None:
        name = type(self._router).__name__
        if pairs.shape != self.geometry.shape:
            raise PluginError(f"expert router {name}: expected pairs of shape {self.geometry.shape}, got {pairs.shape}")
        expected = tokens * self.geometry.experts_per_token
        sums = pairs.sum(axis=1)
        is_wrong = np.abs(sums - expected) > 1e-6 * expected
        if is_wrong.any() or pairs.min() < 0 or pairs.max() > tokens * (1 + 1e-9):
            row = int(np.argmax(is_wrong))
            raise PluginError(
                f"expert router {name}: block {self.geometry.layers[row]}: {tokens} tokens make {expected} pairs, "
                f"at most {tokens} with one expert, got {sums[row]:g}, with one from {pairs.min():g} to {pairs.max():g}"
            )
