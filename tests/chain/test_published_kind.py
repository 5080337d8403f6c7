"""A contract with only the published interface, on a real chain: followed, read whole, compared."""

import base64
import random
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from eth_abi.abi import encode
from eth_utils.crypto import keccak

from chain.local import new_key
from chain.published import Followed, another, followed, kind_of
from chain.samples import FULL_BLOOM, block, header
from dstack_vpn.chain import calls
from dstack_vpn.chain.header import Header
from dstack_vpn.chain.journal import Journal
from dstack_vpn.chain.kind import Kind, UnprovenError
from dstack_vpn.chain.published import KEY_UPDATED, key_of
from dstack_vpn.errors import BadAnswerError, ChainError, DisagreementError, ProviderError
from dstack_vpn.mesh.membership import NO_NODES, ContractKind
from lab.chain import RpcError
from lab.published import Habit
from lab.rpcproxy import Alter, Call, Reply

ANN, BOB, EVE = 1, 2, 3
MINT = "mintNodeAccess(address,string,string,string)"
TRANSFER = "transferFrom(address,address,uint256)"
UPDATE = "updatePublicKey(uint256,string)"


@pytest.fixture
async def plain(tmp_path: Path) -> AsyncIterator[Followed]:
    async with followed(tmp_path) as one:
        yield one


@pytest.fixture
async def keeping(tmp_path: Path) -> AsyncIterator[Followed]:
    """A contract whose transfers leave the seller's key in place."""
    async with followed(tmp_path, Habit.KEEP_KEY) as one:
        yield one


def answer(method: str, change: Callable[[Any], Any]) -> Alter:
    """Alter the results of a method."""

    def alter(call: Call, reply: Reply) -> Reply | None:
        if call["method"] != method:
            return None
        return {"jsonrpc": "2.0", "id": reply["id"], "result": change(reply.get("result"))}

    return alter


def refuse(method: str, code: int, message: str) -> Alter:
    """Answer a method with an error."""

    def alter(call: Call, reply: Reply) -> Reply | None:
        if call["method"] != method:
            return None
        error = {"code": code, "message": message}
        return {"jsonrpc": "2.0", "id": reply["id"], "error": error}

    return alter


# The habits that the interface leaves open

HABITS = {
    "plain": Habit.NONE,
    "the key stays": Habit.KEEP_KEY,
    "the key stays, own events first": Habit.KEEP_KEY | Habit.TRANSFER_LAST,
    "one key an owner": Habit.KEY_OF_OWNER,
    "only Transfer": Habit.KEEP_KEY | Habit.ONLY_TRANSFER,
    "only NodeAccessTransferred": Habit.KEEP_KEY | Habit.ONLY_OWN,
    "no reason for a missing token": Habit.NO_REASON,
    "zeroes for a missing token": Habit.ZEROES,
    "a revoked token reads as missing": Habit.HIDE_REVOKED,
}


@pytest.mark.parametrize("name", HABITS)
async def test_a_life_of_a_token_whatever_the_habits(tmp_path: Path, name: str) -> None:
    """Mint, sale, a key of the buyer's, revocation, return and burn end in the right access."""
    async with followed(tmp_path, HABITS[name]) as one:
        contract, key, new = one.contract, new_key(), new_key()
        token = (await contract.mint("a", key, to=ANN)).token_id
        await one.follow()
        assert one.node(token).active
        assert one.node(token).since_block == one.journal.head.block.number
        await one.assert_true()
        await contract.transfer(token, account=ANN, to=BOB)
        await one.follow()
        assert one.node(token).suspended
        await one.assert_true()
        await contract.set_key(token, new, account=BOB)
        await one.follow()
        assert (one.node(token).active, one.node(token).key) == (True, base64.b64decode(new))
        await one.assert_true()
        await contract.transfer(token, account=BOB, to=BOB)
        await one.follow()
        assert one.node(token).suspended
        await contract.set_key(token, new, account=BOB)
        await contract.revoke(token)
        await one.follow()
        assert not one.nodes or one.node(token).revoked
        await one.assert_true()
        await contract.grant_again(token)
        await one.follow()
        assert one.node(token).active
        await one.assert_true()
        await contract.burn(token, account=BOB)
        await one.follow()
        assert one.nodes == {}
        await one.assert_true()


@pytest.mark.parametrize("habits", [Habit.NONE, Habit.KEY_OF_OWNER])
async def test_an_update_of_an_owner_with_two_tokens(tmp_path: Path, habits: Habit) -> None:
    """Requirement 9: the event does not say which token, so each of the owner's is read again.

    Where the key is the token's, the other one stays as it was; where it is the owner's, both have
    the new one.
    """
    async with followed(tmp_path, habits) as one:
        contract, keys, new = one.contract, [new_key(), new_key()], new_key()
        first = (await contract.mint("a", keys[0], to=ANN)).token_id
        second = (await contract.mint("b", keys[1], to=ANN)).token_id
        await contract.mint("c", new_key(), to=BOB)
        await one.follow()
        one.proxy.methods.clear()
        await contract.set_key(second, new, account=ANN)
        await one.follow()
        assert one.proxy.methods["eth_call"] == 2 * 2
        shared = habits is Habit.KEY_OF_OWNER
        assert one.node(first).key == key_of(new if shared else keys[0])
        assert one.node(second).key == key_of(new)
        assert one.node(first).active
        assert one.node(second).active
        await one.assert_true()


async def test_two_tokens_may_have_one_key_and_one_name(plain: Followed) -> None:
    """Both are followed; the ages tell which was first, also when the first sets its key again."""
    key = new_key()
    first = (await plain.contract.mint("a", key, to=ANN)).token_id
    copy = (await plain.contract.mint("a", key, to=EVE)).token_id
    await plain.contract.set_key(first, key, account=ANN)
    await plain.follow()
    _, snapshot = await plain.snapshot()
    for nodes in (plain.nodes, snapshot):
        assert nodes[first].key == nodes[copy].key
        assert nodes[first].since_block < nodes[copy].since_block


@pytest.mark.parametrize(
    "key", ["", "x", "A" * 43 + "=", "\0\n\u202e", base64.b64encode(b"k" * 32).decode()[:-2] + "t="]
)
async def test_a_key_is_not_checked_by_the_contract(plain: Followed, key: str) -> None:
    """Requirement 36: garbage and aliases of a key are told from keys, and from none."""
    token = (await plain.contract.mint("a\0\u202e", key, to=ANN)).token_id
    await plain.follow()
    assert plain.node(token).key == key_of(key)
    assert len(plain.node(token).key) == (33 if key else 32)
    await plain.assert_true()


async def test_the_order_within_a_transaction_decides(keeping: Followed) -> None:
    """A key that the seller sets and the sale in one transaction leave the buyer suspended."""
    contract = keeping.contract
    ann, bob = [await contract.chain.account(i) for i in (ANN, BOB)]
    token = (await contract.mint("a", new_key(), to=ANN)).token_id
    await contract.at_once((UPDATE, token, new_key()), (TRANSFER, ann, bob, token), account=ANN)
    await keeping.follow()
    assert keeping.node(token).suspended
    await keeping.assert_true()
    await contract.at_once((TRANSFER, bob, bob, token), (UPDATE, token, new_key()), account=BOB)
    await keeping.follow()
    assert keeping.node(token).active
    await keeping.assert_true()


async def test_other_logs_of_the_contract_change_nothing(plain: Followed) -> None:
    """An approval is a log of the contract, but none of the interface."""
    await plain.contract.mint("a", new_key())
    await plain.follow()
    before = plain.journal.head.checkpoint
    plain.proxy.methods.clear()
    await plain.contract.send("approve(address,uint256)", await plain.contract.chain.account(1), 1)
    await plain.follow()
    assert plain.journal.head.checkpoint == before
    assert plain.proxy.methods["eth_getLogs"] == 1
    assert plain.proxy.methods["eth_call"] == 0


# What one provider must show


async def test_states_are_read_at_the_block_itself(plain: Followed) -> None:
    """Requirement 9: by its hash, which must be canonical; logs come by the hash too."""
    await plain.contract.mint("a", new_key())
    await plain.contract.chain.mine(3)
    plain.proxy.calls.clear()
    await plain.follow()
    at = {"blockHash": (await plain.contract.chain.block(2)).hash, "requireCanonical": True}
    reads = [c["params"][1] for c in plain.proxy.calls if c["method"] == "eth_call"]
    assert reads == [at, at]
    asked = [c["params"][0] for c in plain.proxy.calls if c["method"] == "eth_getLogs"]
    assert asked == [{"blockHash": at["blockHash"], "address": plain.contract.address}]


async def test_a_block_without_our_logs_costs_no_question(plain: Followed) -> None:
    """The bloom of an empty block excludes them, by the hash of the block."""
    await plain.contract.chain.mine(2)
    plain.proxy.methods.clear()
    await plain.follow()
    assert set(plain.proxy.methods) == {"eth_getBlockByNumber"}


async def test_no_logs_where_the_bloom_names_the_contract(plain: Followed) -> None:
    """Requirement 8: an empty answer is refuted by the receipts, and the next honest one taken."""
    token = (await plain.contract.mint("a", new_key())).token_id
    await plain.follow()
    await plain.contract.revoke(token)
    plain.proxy.alter = answer("eth_getLogs", lambda logs: [])
    with pytest.raises(UnprovenError) as refused:
        await plain.follow()
    assert refused.value.check == "bloom-empty"
    assert plain.provider.name in str(refused.value)
    assert plain.provider.status.refused["bloom-empty"] == 1
    assert not plain.node(token).revoked
    plain.proxy.honest()
    await plain.follow()
    assert plain.node(token).revoked


async def test_a_bloom_that_names_the_contract_by_chance_is_no_lie(plain: Followed) -> None:
    """The receipts decide where chance is small; where it is not, an empty answer is enough."""
    await plain.contract.chain.mine()
    real = await plain.head()
    for bloom, asked in ((FULL_BLOOM, 0), (sparse(plain.contract.address), 1)):
        plain.proxy.methods.clear()
        doubtful = Header(real.block, bloom, real.receipts_root)
        before = plain.journal.head.checkpoint
        (step,) = await plain.kind.fold(plain.provider, before, NO_NODES, [doubtful], [[]])
        assert (step.checkpoint, step.changes) == (before, {})
        assert plain.proxy.methods["eth_getBlockReceipts"] == asked


def sparse(address: str) -> bytes:
    """A bloom with the bits of one address only."""
    digest = keccak(bytes.fromhex(address[2:]))
    bits = {int.from_bytes(digest[i : i + 2], "big") & 2047 for i in (0, 2, 4)}
    return sum(1 << bit for bit in bits).to_bytes(256, "big")


def with_update(owner: str, key: str) -> Callable[[list[dict[str, Any]]], Any]:
    """Add an update that never was to the logs of a block."""

    def change(logs: list[dict[str, Any]]) -> Any:
        forged = {
            "topics": ["0x" + KEY_UPDATED.hex(), "0x" + "00" * 12 + owner[2:]],
            "data": "0x" + encode(["string"], [key]).hex(),
            "logIndex": hex(int(logs[-1]["logIndex"], 16) + 1),
        }
        return [*logs, logs[-1] | forged]

    return change


async def test_a_forged_log_admits_nobody(keeping: Followed) -> None:
    """Requirement 11: the buyer of a token that kept its key is not let in by a log that never was.

    What admits is held against the receipts of the block, which its header binds.
    """
    key = new_key()
    token = (await keeping.contract.mint("a", key, to=ANN)).token_id
    await keeping.follow()
    sale = await keeping.contract.transfer(token, account=ANN, to=BOB)
    bob = await keeping.contract.chain.account(BOB)
    keeping.proxy.alter = answer("eth_getLogs", with_update(bob, key))
    with pytest.raises(UnprovenError) as refused:
        await keeping.follow()
    assert refused.value.check == "receipts"
    assert f"block {sale.block}" in str(refused.value)
    keeping.proxy.honest()
    await keeping.follow()
    assert keeping.node(token).suspended


async def test_a_swapped_key_admits_nobody(plain: Followed) -> None:
    """A key in a log that is not the token's by its state counts for nothing."""
    key, other = new_key(), new_key()

    def swap(logs: list[dict[str, Any]]) -> Any:
        old, new = key.encode().hex(), other.encode().hex()
        return [log | {"data": log["data"].replace(old, new)} for log in logs]

    plain.proxy.alter = answer("eth_getLogs", swap)
    token = (await plain.contract.mint("a", key)).token_id
    await plain.follow()
    assert plain.node(token).suspended


async def test_who_gives_no_receipts_admits_nobody(plain: Followed) -> None:
    """Without them nothing of the block is taken; a removal needs none."""
    token = (await plain.contract.mint("a", new_key())).token_id
    plain.proxy.alter = refuse("eth_getBlockReceipts", -32601, "method not found")
    with pytest.raises(ProviderError, match="eth_getBlockReceipts"):
        await plain.follow()
    assert plain.nodes == {}
    plain.proxy.honest()
    await plain.follow()
    await plain.contract.revoke(token)
    plain.proxy.alter = refuse("eth_getBlockReceipts", -32601, "method not found")
    await plain.follow()
    assert plain.node(token).revoked


@pytest.mark.parametrize(
    "message", ["missing trie node", "hash is not currently canonical", "internal error"]
)
async def test_a_read_that_fails_removes_nobody(plain: Followed, message: str) -> None:
    """Requirement 7: only a refusal by the contract itself means that a token is gone."""
    token = (await plain.contract.mint("a", new_key())).token_id
    await plain.follow()
    await plain.contract.revoke(token)
    plain.proxy.alter = refuse("eth_call", -32000, message)
    with pytest.raises(ProviderError, match=message):
        await plain.follow()
    assert plain.node(token).active


def give(value: Any) -> Callable[[Any], Any]:
    """A change that gives a value, whatever the result was."""
    return lambda _: value


async def test_garbage_in_place_of_a_state_is_refused(plain: Followed) -> None:
    """Also the empty answer of an address without code."""
    await plain.contract.mint("a", new_key())
    for garbage in ("0x", "0x00", None):
        plain.proxy.alter = answer("eth_call", give(garbage))
        with pytest.raises(BadAnswerError):
            await plain.follow()


# All tokens at once


async def test_a_snapshot_is_what_following_leads_to(plain: Followed) -> None:
    """Requirement 3: the same checkpoint, the same tokens and the same ages."""
    for i in range(60):
        await plain.contract.mint(f"n{i}", new_key(), to=i % 3)
    await plain.contract.transfer(1, account=0, to=BOB)
    await plain.contract.revoke(2)
    await plain.contract.set_key(3, new_key(), account=2)
    await plain.follow()
    assert await plain.snapshot() == (plain.journal.head.checkpoint, plain.nodes)


async def test_enough_providers_make_a_snapshot(plain: Followed) -> None:
    """One that lies by omission is outvoted and named; one that is silent is not waited for."""
    key = new_key()
    token = (await plain.contract.mint("a", key, to=ANN)).token_id
    await plain.contract.transfer(token, account=ANN, to=BOB)
    url = plain.contract.chain.url
    block = (await plain.head()).block
    async with another(url, 2) as (_, second), another(url, 3) as (lying, third):
        lying.alter = answer("eth_getLogs", lambda logs: logs[:2])
        panel = plain.panel(second, third, needed=2)
        _, nodes = await plain.kind.snapshot(panel, block, third, None)
        assert nodes[token].suspended
        lying.alter = refuse("eth_getLogs", -32603, "no")
        _, nodes = await plain.kind.snapshot(panel, block, third, None)
        assert nodes[token].suspended
        with pytest.raises(ChainError):
            await plain.kind.snapshot(plain.panel(second, third), block, third, None)


async def test_providers_that_disagree_make_no_snapshot(plain: Followed) -> None:
    """Requirement 19: one of two can admit nobody, and removes nobody for good."""
    await plain.contract.mint("a", new_key(), to=ANN)
    block = (await plain.head()).block
    async with another(plain.contract.chain.url, 2) as (lying, second):
        lying.alter = answer("eth_getLogs", lambda logs: [])
        with pytest.raises(DisagreementError, match="disagree on the tokens at block"):
            await plain.kind.snapshot(plain.panel(second), block, second, None)


async def test_what_is_known_spares_its_history(keeping: Followed) -> None:
    """Logs are read from the block after it; the state of every token is read again."""
    key = new_key()
    sold = (await keeping.contract.mint("a", key, to=ANN)).token_id
    await keeping.contract.transfer(sold, account=ANN, to=BOB)
    kept = (await keeping.contract.mint("b", new_key(), to=ANN)).token_id
    await keeping.follow()
    known = keeping.membership()
    await keeping.contract.mint("c", new_key(), to=ANN)
    await keeping.contract.change_silently(kept, key)
    await keeping.contract.chain.mine()
    keeping.proxy.calls.clear()
    _, nodes = await keeping.snapshot(known)
    first = min(
        int(c["params"][0]["fromBlock"], 16)
        for c in keeping.proxy.calls
        if c["method"] == "eth_getLogs"
    )
    assert first == known.block.number + 1
    assert nodes[sold].suspended
    assert nodes[kept].suspended
    assert nodes[kept + 1].active


async def test_the_log_is_kept_for_another_try_and_no_longer(plain: Followed) -> None:
    """A start that fails later on reads nothing twice; after the first compare it is forgotten."""
    await plain.contract.mint("a", new_key(), to=ANN)
    await plain.follow()
    block, kind = plain.journal.head.block, kind_of(plain.contract)

    async def snapshot() -> int:
        plain.proxy.forget()
        await kind.snapshot(plain.panel(), block, plain.provider, None)
        return plain.proxy.methods["eth_getLogs"]

    assert [bool(await snapshot()) for _ in range(2)] == [True, False]
    await kind.compare(plain.panel(), block, plain.provider, plain.membership())
    assert await snapshot()


async def test_what_is_known_of_another_branch_is_not_used(keeping: Followed) -> None:
    """Nor of a block that is not there yet, nor of another kind of contract."""
    await keeping.contract.mint("a", new_key(), to=ANN)
    await keeping.contract.mint("lost", new_key(), to=ANN)
    await keeping.follow()
    known = keeping.membership()
    await keeping.contract.chain.reorg(1)
    _, nodes = await keeping.snapshot(known)
    assert [n.node_id for n in nodes.values()] == ["a"]
    await keeping.contract.chain.rollback(1)
    _, nodes = await keeping.snapshot(known)
    assert [n.node_id for n in nodes.values()] == ["a"]


async def test_a_start_after_the_head_is_said(plain: Followed) -> None:
    """The error names the setting."""
    late = kind_of(plain.contract, start_block=1000)
    block = (await plain.head()).block
    with pytest.raises(ChainError, match="START_BLOCK is 1000, but the chain is at block 1:"):
        await late.snapshot(plain.panel(), block, plain.provider, None)
    plain.proxy.alter = refuse("eth_getBlockByNumber", -32603, "no")
    with pytest.raises(ProviderError):
        await late.snapshot(plain.panel(), block, plain.provider, None)


async def test_a_block_before_the_start_has_no_tokens(plain: Followed) -> None:
    """A young contract, read a few blocks below the head, is not there yet; following finds it."""
    before = (await plain.provider.batch([calls.header_at(0)]))[0].block
    checkpoint, nodes = await plain.kind.snapshot(plain.panel(), before, plain.provider, None)
    assert nodes == {}
    plain.journal = Journal(before, checkpoint, nodes)
    token = (await plain.contract.mint("a", new_key())).token_id
    await plain.follow()
    assert plain.node(token).active
    await plain.assert_true()


async def test_a_token_that_no_log_names_is_not_known(plain: Followed) -> None:
    """The interface lists no tokens: a start after the mint misses it, until something names it."""
    token = (await plain.contract.mint("a", new_key(), to=ANN)).token_id
    await plain.contract.chain.mine()
    late = kind_of(plain.contract, start_block=3)
    block = (await plain.head()).block
    _, nodes = await late.snapshot(plain.panel(), block, plain.provider, None)
    assert nodes == {}
    await plain.contract.transfer(token, account=ANN, to=BOB)
    block = (await plain.head()).block
    _, nodes = await late.snapshot(plain.panel(), block, plain.provider, None)
    assert nodes[token].suspended


async def test_a_compare_finds_what_changed_in_silence(plain: Followed) -> None:
    """Requirement 32: a key that nobody set suspends its token; the others stay as they are."""
    first = (await plain.contract.mint("a", new_key(), to=ANN)).token_id
    second = (await plain.contract.mint("b", new_key(), to=ANN)).token_id
    await plain.follow()
    block = plain.journal.head.block
    same = await plain.kind.compare(plain.panel(), block, plain.provider, plain.membership())
    assert same == (plain.journal.head.checkpoint, plain.nodes)
    await plain.contract.change_silently(second, new_key())
    await plain.follow()
    assert plain.node(second).active
    block = plain.journal.head.block
    _, nodes = await plain.kind.compare(plain.panel(), block, plain.provider, plain.membership())
    assert nodes[first] == plain.node(first)
    assert nodes[second].suspended


async def test_events_are_counted_as_they_were_folded(plain: Followed) -> None:
    """Requirement 31: what is read a second time can be held against the steps."""
    first = plain.journal.head.block.number + 1
    token = (await plain.contract.mint("a", new_key(), to=ANN)).token_id
    await plain.contract.send("approve(address,uint256)", await plain.contract.chain.account(1), 1)
    await plain.contract.transfer(token, account=ANN, to=BOB)
    await plain.follow()
    last = plain.journal.head.block.number
    steps = [record.step for record in map(plain.journal.at, range(first, last + 1)) if record]
    expected = {step.block.number: step.events for step in steps if step.events}
    assert await plain.kind.count_events(plain.provider, first, last) == expected
    assert expected == {first: 2, last: 2}


async def test_nothing_is_asked_or_believed_at_the_opening(plain: Followed) -> None:
    """There is no view by which this contract, or a saved state of it, could be confirmed."""
    kind: Kind = plain.kind
    assert kind.name is ContractKind.PUBLISHED
    assert kind.opening_calls(plain.membership()) == []
    kind.check_opening(plain.provider, [])
    assert not kind.is_current(plain.membership(), block(1), [])
    assert kind.first_calls(header(2, bloom=bytes(256)), linked=True) == []
    assert kind.first_calls(header(2), linked=False) == []


# A long walk


class Walk:
    """Random things that can happen to a contract and its chain."""

    def __init__(self, one: Followed, source: random.Random) -> None:
        self.one = one
        self.contract = one.contract
        self.source = source
        self.minted = 0

    async def step(self) -> None:
        """Do one thing; what the contract refuses counts as nothing."""
        acts = [
            *[self._mint] * 2,
            *[self._set_key] * 4,
            *[self._transfer] * 4,
            *[self._revoke] * 2,
            *[self._grant] * 2,
            self._burn,
            self._several,
            self._mine,
            self._reorg,
            self._rollback,
        ]
        try:
            await self.source.choice(acts)()
        except (RpcError, LookupError):
            return

    async def _token(self) -> tuple[int, int]:
        token = self.source.randint(1, max(1, self.minted))
        holder = await self.contract.call("ownerOf(uint256)", token, returns="address")
        accounts = [await self.contract.chain.account(i) for i in (ANN, BOB, EVE)]
        return token, 1 + accounts.index(holder) if holder in accounts else 0

    async def _mint(self) -> None:
        self.minted += 1
        key = self.source.choice([new_key(self.source), "", "garbage"])
        name = f"n{self.source.randrange(30)}"
        await self.contract.mint(name, key, to=self.source.choice([ANN, BOB, EVE]))

    async def _set_key(self) -> None:
        token, account = await self._token()
        await self.contract.set_key(token, new_key(self.source), account=account)

    async def _transfer(self) -> None:
        token, account = await self._token()
        receiver = self.source.choice([ANN, BOB, EVE])
        await self.contract.transfer(token, account=account, to=receiver)

    async def _revoke(self) -> None:
        await self.contract.revoke((await self._token())[0])

    async def _grant(self) -> None:
        await self.contract.grant_again((await self._token())[0])

    async def _burn(self) -> None:
        token, account = await self._token()
        await self.contract.burn(token, account=account)

    async def _several(self) -> None:
        """A sale and updates of the seller in one transaction, in any order."""
        token, account = await self._token()
        seller = await self.contract.chain.account(account)
        buyer = await self.contract.chain.account(self.source.choice([ANN, BOB, EVE]))
        writes = [(UPDATE, token, new_key(self.source)), (TRANSFER, seller, buyer, token)]
        self.source.shuffle(writes)
        await self.contract.at_once(*writes, account=account)

    async def _mine(self) -> None:
        await self.contract.chain.mine(self.source.randrange(1, 5))

    async def _deepest(self) -> int:
        height = (await self.contract.chain.block()).number
        return min(5, height - self.contract.start_block)

    async def _reorg(self) -> None:
        if deepest := await self._deepest():
            await self.contract.chain.reorg(self.source.randint(1, deepest))

    async def _rollback(self) -> None:
        if deepest := await self._deepest():
            await self.contract.chain.rollback(self.source.randint(1, deepest))


OPERATIONS = 150
WALKS = [
    (7, Habit.KEEP_KEY),
    (11, Habit.KEEP_KEY | Habit.TRANSFER_LAST | Habit.NO_REASON),
    (23, Habit.KEY_OF_OWNER | Habit.ONLY_TRANSFER | Habit.ZEROES),
]


@pytest.mark.parametrize(("seed", "habits"), WALKS)
async def test_no_difference_in_a_random_walk(tmp_path: Path, seed: int, habits: Habit) -> None:
    """After 150 operations, one by one or several at a time, nothing differs from the contract.

    Neither in what is followed block by block, nor in what is read at once now and then.

    Requirement 12: among the steps are reorganisations and blocks that are taken back.
    """
    async with followed(tmp_path, habits) as one:
        walk = Walk(one, random.Random(seed))
        undone = 0
        seen: set[bool] = set()
        for i in range(OPERATIONS // 2):
            before = one.journal.head.block
            for _ in range(walk.source.choice([1, 1, 4])):
                await walk.step()
            await one.follow()
            undone += one.journal.find(before.hash) is None
            await one.assert_true(also_at_once=i % 10 == 0)
            seen |= {node.active for node in one.nodes.values()}
        await one.assert_true()
        assert undone > 5
        assert seen == {True, False}
