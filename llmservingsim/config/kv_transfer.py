"""The section of the run file that says how KV caches go from instances that prefill to those that decode."""

from __future__ import annotations

from typing import Literal

import msgspec

from llmservingsim.config.quantities import QuantityError, check_quantities
from llmservingsim.units import parse_time_ns

Mode = Literal["pull", "push", "push_layerwise"]
Connector = Literal["NixlConnector", "MooncakeConnector", "P2pNcclConnector"]

_MODES: dict[Connector, Mode] = {
    "NixlConnector": "pull",
    "MooncakeConnector": "push",
    "P2pNcclConnector": "push_layerwise",
}


class KvTransferSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How KV caches go from instances that prefill to those that decode; `docs/concepts/disaggregation.md` explains it.

    Attributes:
        kv_connector: vLLM's connector whose ``mode`` is taken.
        mode: ``pull``: the decode instance fetches the KV of a prompt that has been computed; ``push``: the prefill
            instance sends it, to blocks that were taken meanwhile; ``push_layerwise``: block by block and chunk by
            chunk, while later ones are computed. By default the connector's.
        first_token: Whose first token the client gets: that of the ``decode`` instance, which computes the prompt's
            last position again, as behind vLLM's example proxies; or that of the ``prefill`` instance.
        load_kv_async: Whether batches of the decode instance go on while KV comes; if not, the batch that a request
            enters waits for its KV. Of ``pull`` alone.
        get_finished: When the decode instance hears that KV has come: with the batch after the one that runs, since
            workers are asked when they launch a batch (``at_launch``), or when the one that runs ends (``at_end``).
        proxy_latency: From the prefill instance's answer until the decode instance has the request, as ``"5ms"``.
    """

    kv_connector: Connector = "NixlConnector"
    mode: Mode | None = None
    first_token: Literal["decode", "prefill"] = "decode"
    load_kv_async: bool = True
    get_finished: Literal["at_launch", "at_end"] = "at_launch"
    proxy_latency: str = "0ns"

    def __post_init__(self) -> None:
        check_quantities(self, parse_time_ns, "proxy_latency", may_be_zero=True)
        if not self.load_kv_async and self.effective_mode != "pull":
            raise QuantityError(
                f"load_kv_async: with mode {self.effective_mode} the KV has come before a request is scheduled; "
                "expected true, which is the default, or mode pull"
            )

    @property
    def effective_mode(self) -> Mode:
        """The mode that is stated, or else the connector's."""
        return self.mode or _MODES[self.kv_connector]
