"""The graph by which one pipeline stage pushes its KV, block by block.

Beside the iteration, which it does not delay, every rank of the stage waits as long as its blocks take and sends each
of them to the ranks that need it::

    rank 0   wait block 0 -> wait block 1 -> wait block 2 ...        COMP nodes
                  |               |               |
                send            send            send                 one after another, as one NCCL stream does
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from llmservingsim.backend import Backend, Ticket
from llmservingsim.graph import Graph, Node, NodeType
from llmservingsim.model import KvShare


class PushGraph:
    """What one stage of an instance sends to another instance.

    Args:
        backend: Times it.
        blocks: Per block of the stage, who sends what to whom, by the ranks of the network.

    Attributes:
        bytes_per_token: Of all messages.
    """

    def __init__(self, backend: Backend, blocks: Sequence[Sequence[KvShare]]) -> None:
        self._backend = backend
        self.sources = sorted({share.source for shares in blocks for share in shares})
        ranks = [*self.sources, *sorted({share.target for shares in blocks for share in shares})]
        nodes: list[Node] = []
        self._waits = np.empty((len(self.sources), len(blocks)), dtype=np.int64)
        for position, source in enumerate(self.sources):
            for block, shares in enumerate(blocks):
                before = (int(self._waits[position, block - 1]),) if block else ()
                self._waits[position, block] = len(nodes)
                nodes.append(Node(f"kv.block{block}.wait", NodeType.COMP, position, data_deps=before))
                after = (len(nodes) - 1,)
                for share in shares:
                    if share.source == source:
                        nodes.append(_message(NodeType.COMM_SEND, share, block, position, after))
        for block, shares in enumerate(blocks):
            for share in shares:
                nodes.append(_message(NodeType.COMM_RECV, share, block, ranks.index(share.target)))
        graph = Graph.from_nodes(nodes, [(rank,) for rank in ranks])
        self._graph = backend.register(graph)
        self._bytes_per_token = graph.size_bytes
        self.bytes_per_token = int(graph.size_bytes.sum()) // 2

    def submit(self, num_tokens: int, ready_ns: NDArray[np.int64], after: Ticket = -1) -> Ticket:
        """Push some tokens' KV.

        Args:
            num_tokens: How many.
            ready_ns: From the start of the push until each block is there, shape ``[sources, blocks]``.
            after: It starts when this ticket has completed.
        """
        durations = np.zeros(len(self._bytes_per_token), dtype=np.int64)
        durations[self._waits] = np.diff(np.maximum(ready_ns, 0), axis=1, prepend=0)
        return self._backend.submit(self._graph, durations, self._bytes_per_token * num_tokens, after)


def _message(kind: NodeType, share: KvShare, block: int, rank_class: int, after: tuple[int, ...] = ()) -> Node:
    peer = share.target if kind is NodeType.COMM_SEND else share.source
    name = f"kv.block{block}.{share.source}->{share.target}"
    return Node(name, kind, rank_class, size_bytes=share.bytes_per_token, peer=peer, tag=block, data_deps=after)
