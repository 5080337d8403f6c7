"""A liar that can be refuted by nobody alone: whole blocks that never were, on top of real ones.

    forger = Forger(nft.address, CHAIN_ID)
    await forger.grant(proxy, 7, "mallory", key)
    await forger.blocks(proxy, 5)  # and as many on top of it
    proxy.honest()

Each call adds a block to what the proxy tells, or with `real_block=True` lies about what the newest
real block holds. Hashes, parents, bloom, logs, history and pages all fit. Two proxies that are made
to lie in the same way at the same head tell the same. What is left open: receipts and state roots
fit nothing, and of the contract's views only those that a follower of `checkpoint()` reads are
forged.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from dstack_vpn.chain import contract as abi
from dstack_vpn.chain.header import number_bytes, rlp_list
from dstack_vpn.chain.keccak import keccak256
from dstack_vpn.chain.verify import apply_changes, fold
from dstack_vpn.mesh.membership import Address, Block, BlockHash, Checkpoint, Node, Nodes
from lab.rpclie import Forgery, Restatement, State, Told
from lab.rpcproxy import Proxy

Raw = dict[str, Any]

# Fields that are hashed, in their order; True for a number. Later forks added those from the base
# fee on, which a header may lack.
_FIELDS = {
    "parentHash": False,
    "sha3Uncles": False,
    "miner": False,
    "stateRoot": False,
    "transactionsRoot": False,
    "receiptsRoot": False,
    "logsBloom": False,
    "difficulty": True,
    "number": True,
    "gasLimit": True,
    "gasUsed": True,
    "timestamp": True,
    "extraData": False,
    "mixHash": False,
    "nonce": False,
    "baseFeePerGas": True,
    "withdrawalsRoot": False,
    "blobGasUsed": True,
    "excessBlobGas": True,
    "parentBeaconBlockRoot": False,
    "requestsHash": False,
}
_PAGE = 500
MALLORY = Address("0x" + "66" * 20)
"""Who holds what is granted."""


class Forger:
    """Makes lies about one contract."""

    def __init__(self, contract: str, chain_id: int, *, spacing: int = 1) -> None:
        """Name the contract.

        Args:
            contract: its address.
            chain_id: of its chain.
            spacing: seconds between two forged blocks.
        """
        self._contract = Address(contract.lower())
        self._chain_id = chain_id
        self._spacing = spacing

    # Lies about one token

    async def grant(self, proxy: Proxy, token_id: int, node_id: str, key: bytes, **how: Any) -> Raw:
        """A new member; or a token that exists gets this name and this key, and access."""
        old = (await self.state(proxy)).nodes.get(token_id)
        new = Node(
            token_id=token_id, holder=MALLORY, node_id=node_id, key=key, endpoint="",
            role=bytes(32), created_at=1_700_000_000, expires_at=0, revoked=False, suspended=False,
            since_block=0,
        )  # fmt: skip
        if old is not None:
            new = replace(old, node_id=node_id, key=key, revoked=False, suspended=False)
        return await self.change(proxy, {token_id: new}, **how)

    async def swap_key(self, proxy: Proxy, token_id: int, key: bytes, **how: Any) -> Raw:
        """Another key for a member."""
        node = (await self.state(proxy)).nodes[token_id]
        return await self.change(proxy, {token_id: replace(node, key=key)}, **how)

    async def revoke(self, proxy: Proxy, token_id: int, **how: Any) -> Raw:
        """A member is revoked."""
        node = (await self.state(proxy)).nodes[token_id]
        return await self.change(proxy, {token_id: replace(node, revoked=True)}, **how)

    async def burn(self, proxy: Proxy, token_id: int, **how: Any) -> Raw:
        """A token is burned."""
        return await self.change(proxy, {token_id: None}, **how)

    # Lies about the chain

    async def blocks(self, proxy: Proxy, count: int = 1) -> Raw:
        """So many blocks that change nothing, linked: confirmations, or a head far too high."""
        lie = await self._lie(proxy)
        for _ in range(count):
            lie.told.append(self._next(lie.told[-1], []))
        return await self._tell(proxy, lie)

    async def time(self, proxy: Proxy, timestamp: int) -> Raw:
        """A block of this time, which changes nothing."""
        lie = await self._lie(proxy)
        lie.told.append(self._next(lie.told[-1], [], timestamp))
        return await self._tell(proxy, lie)

    async def change(
        self,
        proxy: Proxy,
        changes: Mapping[int, Node | None],
        *,
        timestamp: int | None = None,
        real_block: bool = False,
    ) -> Raw:
        """A block in which these tokens become these nodes; None burns one.

        Args:
            proxy: who tells it.
            changes: in their order.
            timestamp: of the block.
            real_block: say it of the newest real block, after its own changes, and of every later
                one until the contract changes again. Where that block has no change of its own,
                its bloom excludes the logs.
        """
        if real_block:
            return await self._restate(proxy, list(changes.items()), keep=True)
        lie = await self._lie(proxy)
        lie.told.append(self._next(lie.told[-1], list(changes.items()), timestamp))
        return await self._tell(proxy, lie)

    async def hide(self, proxy: Proxy) -> Raw:
        """The newest real block changed nothing, such as a revocation that is kept back."""
        return await self._restate(proxy, [], keep=False)

    async def state(self, proxy: Proxy) -> State:
        """What the proxy tells of the contract at its newest block."""
        for fault in proxy.fault:
            if isinstance(fault, Forgery):
                return fault.told[-1].state
        head = await proxy.ask("eth_getBlockByNumber", "latest", False)
        return await self._real_state(proxy, head["hash"])

    # How they are made

    async def _lie(self, proxy: Proxy) -> Forgery:
        """The lie that the proxy tells already, or the beginning of one."""
        for fault in proxy.fault:
            if isinstance(fault, Forgery):
                return fault
        head = await proxy.ask("eth_getBlockByNumber", "latest", False)
        lie = Forgery(self._contract, Told(head, [], await self._real_state(proxy, head["hash"])))
        proxy.fault = [*proxy.fault, lie]
        return lie

    async def _tell(self, proxy: Proxy, lie: Forgery) -> Raw:
        newest = lie.told[-1]
        await proxy.tell("newHeads", newest.header)
        for log in newest.logs:
            await proxy.tell("logs", log)
        return newest.header

    def _next(
        self, parent: Told, changes: Sequence[tuple[int, Node | None]], timestamp: int | None = None
    ) -> Told:
        """The block after another one."""
        before = parent.header
        number = int(before["number"], 16) + 1
        at = int(before["timestamp"], 16) + self._spacing if timestamp is None else timestamp
        events = _events(parent.state, changes)
        topics = [topic for event in events for topic in _topics(event)]
        bloom = bloom_of(bytes.fromhex(self._contract[2:]), *topics) if events else bytes(256)
        seed = keccak256(bytes.fromhex(before["hash"][2:]) + b"".join(e.body for e in events))
        header = {
            **before,
            "parentHash": before["hash"],
            "number": hex(number),
            "timestamp": hex(at),
            "logsBloom": _hex(bloom),
            "stateRoot": _hex(seed),
            "receiptsRoot": _hex(keccak256(seed)),
            "transactions": [],
        }
        header["hash"] = _hex(header_hash(header))
        return Told(header, self._logs(events, header), _after(parent.state, events, header))

    async def _restate(
        self, proxy: Proxy, changes: Sequence[tuple[int, Node | None]], *, keep: bool
    ) -> Raw:
        head: Raw = await proxy.ask("eth_getBlockByNumber", "latest", False)
        true = await self._real_state(proxy, head["hash"])
        topics = [_hex(abi.NODE_CHANGED)]
        query = {"blockHash": head["hash"], "address": self._contract, "topics": topics}
        logs = await proxy.ask("eth_getLogs", query) if keep else []
        state = true if keep else await self._real_state(proxy, head["parentHash"])
        events = _events(state, changes)
        first = 1 + max((int(log["logIndex"], 16) for log in logs), default=-1)
        logs = [*logs, *self._logs(events, head, first)]
        told = Told(head, logs, _after(state, events, head))
        proxy.fault = [*proxy.fault, Restatement(self._contract, told, true.checkpoint)]
        return head

    def _logs(self, events: Sequence[abi.NodeChanged], header: Raw, first: int = 0) -> list[Raw]:
        return [
            {
                "address": self._contract,
                "topics": [_hex(topic) for topic in _topics(event)],
                "data": _hex(_word(32) + event.body),
                "blockNumber": header["number"],
                "blockHash": header["hash"],
                "blockTimestamp": header["timestamp"],
                "transactionHash": _hex(keccak256(event.body)),
                "transactionIndex": "0x0",
                "logIndex": hex(index),
                "removed": False,
            }
            for index, event in enumerate(events, first)
        ]

    async def _real_state(self, proxy: Proxy, block_hash: str) -> State:
        at = {"blockHash": block_hash, "requireCanonical": True}

        async def view(data: bytes) -> bytes:
            call = {"to": self._contract, "data": _hex(data)}
            return bytes.fromhex((await proxy.ask("eth_call", call, at))[2:])

        stated = await view(abi.CALL_CHECKPOINT)
        if not stated:
            return State(abi.seed(self._chain_id, self._contract), {}, 1)
        next_id = abi.decode_uint(await view(abi.CALL_NEXT_TOKEN_ID))
        nodes: dict[int, Node] = {}
        for first in range(1, next_id, _PAGE):
            page = await view(abi.call_get_nodes(first, _PAGE))
            found = abi.decode_page(page, first=first, since_block=0)
            nodes |= {node.token_id: node for node in found if node is not None}
        return State(abi.decode_checkpoint(stated), nodes, next_id)


def header_hash(header: Raw) -> bytes:
    """keccak-256 of the RLP of a header, of the fields that it has."""
    return keccak256(
        rlp_list(
            number_bytes(int(header[name], 16)) if is_number else bytes.fromhex(header[name][2:])
            for name, is_number in _FIELDS.items()
            if header.get(name) is not None
        )
    )


def bloom_of(*items: bytes) -> bytes:
    """The bloom of a block whose logs have these addresses and topics."""
    bits = 0
    for item in items:
        digest = keccak256(item)
        for i in (0, 2, 4):
            bits |= 1 << (int.from_bytes(digest[i : i + 2], "big") & 2047)
    return bits.to_bytes(256, "big")


def _events(state: State, changes: Sequence[tuple[int, Node | None]]) -> list[abi.NodeChanged]:
    first = state.checkpoint.revision + 1
    return [
        # A page of one node is three words and the node.
        abi.NodeChanged(revision=n, token_id=i, node=node, body=abi.encode_page([node])[96:])
        for n, (i, node) in enumerate(changes, first)
    ]


def _after(state: State, events: Sequence[abi.NodeChanged], header: Raw) -> State:
    block = Block(
        number=int(header["number"], 16),
        hash=BlockHash(header["hash"]),
        parent_hash=BlockHash(header["parentHash"]),
        timestamp=int(header["timestamp"], 16),
    )
    step = fold(block, state.checkpoint, state.nodes, events)
    nodes: Nodes = apply_changes(state.nodes, step.changes)
    stated: Checkpoint = step.checkpoint
    return State(stated, nodes, max([state.next_id, *(i + 1 for i in nodes)]))


def _topics(event: abi.NodeChanged) -> list[bytes]:
    return [abi.NODE_CHANGED, _word(event.revision), _word(event.token_id)]


def _word(number: int) -> bytes:
    return number.to_bytes(32, "big")


def _hex(data: bytes) -> str:
    return "0x" + data.hex()
