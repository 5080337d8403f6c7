"""The follower against providers that lie, lag and fail: it refuses, says why, and stays."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest

from chain.local import assert_same, at, following, new_key, seen_by
from chain.samples import hex_of, word
from dstack_vpn.chain import contract as abi
from dstack_vpn.chain.follow import Follower
from dstack_vpn.mesh.membership import Membership
from lab.nft import AccessNFT
from lab.rpcproxy import Alter, Call, Proxy, Reply
from lab.waiting import until


@dataclass
class Case:
    """A follower behind a proxy, at a block with one member."""

    follower: Follower
    proxy: Proxy
    contract: AccessNFT
    token: int
    before: Membership


@contextlib.asynccontextmanager
async def case_of(contract: AccessNFT, *others: str, **more: Any) -> AsyncIterator[Case]:
    """One provider through a proxy under another host's name, and the given others."""
    token = (await contract.mint("a", new_key())).token_id
    async with (
        Proxy.open(contract.chain.url) as proxy,
        following(contract.address, *others, at(proxy.url, 9), **more) as follower,
    ):
        before = await follower.start(None)
        yield Case(follower, proxy, contract, token, before)


def on(method: str, change: Callable[[Any], Any], *, to: str = "") -> Alter:
    """Alter the results of a method, perhaps only of calls whose calldata begins with `to`."""

    def alter(call: Call, reply: Reply) -> Reply | None:
        if call["method"] != method or (to and not call["params"][0]["data"].startswith(to)):
            return None
        return {"jsonrpc": "2.0", "id": reply["id"], "result": change(reply.get("result"))}

    return alter


def refuse(method: str, code: int) -> Alter:
    """Answer a method with an error."""

    def alter(call: Call, reply: Reply) -> Reply | None:
        if call["method"] != method:
            return None
        error = {"code": code, "message": "no"}
        return {"jsonrpc": "2.0", "id": reply["id"], "error": error}

    return alter


def with_key(logs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Swap the WireGuard key in the data of the logs."""
    return [
        {**log, "data": log["data"][: 2 + 64 * 4] + "66" * 32 + log["data"][2 + 64 * 5 :]}
        for log in logs
    ]


def with_parts(**parts: Any) -> Callable[[dict[str, Any]], dict[str, Any]]:
    return lambda value: {**value, **parts}


REFUSED: dict[str, Alter] = {
    "all logs omitted": on("eth_getLogs", lambda logs: []),
    "one of two logs omitted": on("eth_getLogs", lambda logs: logs[:1]),
    "logs null": on("eth_getLogs", lambda logs: None),
    "logs refused": refuse("eth_getLogs", -32000),
    "key swapped": on("eth_getLogs", with_key),
    "order swapped": on("eth_getLogs", lambda logs: logs[::-1]),
    "logs of a removed block": on(
        "eth_getLogs", lambda logs: [{**log, "removed": True} for log in logs]
    ),
    "header null": on("eth_getBlockByNumber", lambda block: None),
    "header altered": on("eth_getBlockByNumber", with_parts(timestamp="0x1")),
    "bloom emptied": on("eth_getBlockByNumber", with_parts(logsBloom="0x" + "00" * 256)),
    "header of no hash": on("eth_getBlockByNumber", with_parts(hash=None)),
    "state refused": refuse("eth_call", -32000),
    "state null": on("eth_call", lambda data: None),
    "state empty": on("eth_call", lambda data: "0x"),
    "state short": on("eth_call", lambda data: data[:-2]),
    "history forged": on("eth_call", lambda data: data[:66] + "66" * 32 + data[130:]),
    "count forged": on("eth_call", lambda data: data[:130] + word(99).hex()),
    "revision forged": on("eth_call", lambda data: hex_of(word(99)) + data[66:]),
}


@pytest.mark.parametrize("name", REFUSED)
async def test_a_lie_changes_nothing_and_is_named(contract: AccessNFT, name: str) -> None:
    """Each fault of the matrix is detected with a single provider; when it ends, all is well."""
    async with case_of(contract) as case:
        await contract.chain.set_automine(False)
        minted = await contract.submit(
            "mintNodeAccess(address,string,string,string)",
            await contract.chain.account(1), "b", new_key(), "",
        )  # fmt: skip
        revoked = await contract.submit("revokeNodeAccess(uint256)", case.token)
        await contract.chain.mine(1)
        await contract.chain.mined(minted, sent=0)
        await contract.chain.mined(revoked, sent=0)
        case.proxy.alter = REFUSED[name]
        view = await case.follower.poll()
        assert view.membership == case.before
        assert view.last_error is not None
        assert "127.0.0.9#1" in view.last_error
        assert view.providers[0].failures == 1
        assert not view.providers[0].healthy
        case.proxy.alter = lambda call, reply: None
        await case.follower.poll()
        await assert_same(case.follower, contract)


async def test_logs_that_never_prove_lead_to_a_snapshot(contract: AccessNFT) -> None:
    """After the second refusal the tokens themselves are read."""
    async with case_of(contract) as case:
        case.proxy.alter = on("eth_getLogs", lambda logs: [])
        await contract.revoke(case.token)
        view = await case.follower.poll()
        assert view.membership == case.before
        assert "revision" in (view.last_error or "")
        await case.follower.poll()
        await assert_same(case.follower, contract)
        assert case.follower.view.resyncs == 2


async def test_headers_that_do_not_link_are_refused(contract: AccessNFT) -> None:
    """Genuine headers of other heights do not fill a gap."""
    async with case_of(contract) as case:
        await contract.chain.mine(5)
        await contract.mint("b", new_key())
        old = await contract.chain.rpc("eth_getBlockByNumber", "0x1", False)

        def alter(call: Call, reply: Reply) -> Reply | None:
            if call["method"] == "eth_getBlockByNumber" and call["params"][0] != "latest":
                return {**reply, "result": old}
            return None

        case.proxy.alter = alter
        view = await case.follower.poll()
        assert view.membership == case.before
        assert "header-number" in (view.last_error or "")


def pinned(block: dict[str, Any]) -> Alter:
    """Show an old block as the newest, and know nothing above it."""
    height = int(block["number"], 16)

    def alter(call: Call, reply: Reply) -> Reply | None:
        if call["method"] != "eth_getBlockByNumber":
            return None
        if call["params"][0] == "latest":
            return {**reply, "result": block}
        if int(call["params"][0], 16) > height:
            return {**reply, "result": None}
        return None

    return alter


async def test_a_node_behind_is_no_reorganisation(contract: AccessNFT) -> None:
    """A head that flips between old and new, as behind a balancer, never moves anything back."""
    async with case_of(contract, rollback_patience=60.0) as case:
        old = await contract.chain.rpc("eth_getBlockByNumber", "latest", False)
        await contract.revoke(case.token)
        await contract.chain.mine(2)
        await case.follower.poll()
        view = case.follower.view
        after = view.membership
        for _ in range(4):
            for alter in (pinned(old), lambda call, reply: None):
                case.proxy.alter = alter
                view = await case.follower.poll()
                assert view.membership == after
        assert view.last_error is None
        assert (view.reorgs, view.resyncs) == (0, 1)


async def test_a_node_behind_that_knows_our_block_needs_no_patience(contract: AccessNFT) -> None:
    """Who shows our block in its place has confirmed it, whatever old block he calls the newest."""
    async with case_of(contract, rollback_patience=0.0) as case:
        old = await contract.chain.rpc("eth_getBlockByNumber", "latest", False)
        await contract.revoke(case.token)
        await case.follower.poll()
        after = case.follower.view.membership

        def alter(call: Call, reply: Reply) -> Reply | None:
            return {**reply, "result": old} if call["params"][:1] == ["latest"] else None

        case.proxy.alter = alter
        view = await case.follower.poll()
        assert view.membership == after
        assert view.last_error is None
        assert view.reorgs == 0


async def test_one_of_two_that_lies_about_the_state_stops_everything(contract: AccessNFT) -> None:
    """Both must state the same; a genuine old state for a new block is a lie too."""
    async with case_of(contract, contract.chain.url) as case:
        old = case.before.checkpoint
        stale = hex_of(word(old.revision) + old.history + word(old.member_count))
        lies = {
            "not genuine": REFUSED["history forged"],
            # Consistent in itself: nothing happened, says the logs and the state.
            "disagree on the contract's state": lambda call, reply: (
                on("eth_call", lambda data: stale)(call, reply)
                or on("eth_getLogs", lambda logs: [])(call, reply)
            ),
        }
        for told, lie in lies.items():
            case.proxy.alter = lie
            await contract.set_endpoint(case.token, new_key())
            view = await case.follower.poll()
            assert view.membership == case.before
            assert told in (view.last_error or "")
        case.proxy.alter = lambda call, reply: None
        await case.follower.poll()
        await assert_same(case.follower, contract)


async def test_one_of_two_that_is_away_stops_everything(contract: AccessNFT) -> None:
    """Nobody fails over to whoever still answers."""
    async with case_of(contract, contract.chain.url) as case:
        agreed_at = case.follower.view.agreed_at
        case.proxy.alter = refuse("eth_getBlockByNumber", -32005)
        await contract.revoke(case.token)
        view = await case.follower.poll()
        assert view.membership is not None
        assert replace(view.membership, suspects={}) == case.before
        assert view.agreed_at == agreed_at
        assert "127.0.0.9#2" in (view.last_error or "")


async def test_two_urls_of_one_host_must_both_agree(contract: AccessNFT) -> None:
    """They are one vote, which they have only together."""
    async with (
        Proxy.open(contract.chain.url) as proxy,
        following(contract.address, contract.chain.url, proxy.url) as follower,
    ):
        before = await follower.start(None)
        proxy.alter = on("eth_call", lambda data: data[:66] + "66" * 32 + data[130:])
        await contract.mint("a", new_key())
        view = await follower.poll()
        assert view.membership == before
        assert "not genuine" in (view.last_error or "")


def with_page_key(data: str) -> str:
    """Swap the key of the first node of a page."""
    start = 2 + 64 * (3 + 3)
    return data[:start] + "66" * 32 + data[start + 64 :]


EMPTY_PAGE = word(32) + word(1) + word(32) + abi.ZERO_NODE
NEXT_ID, PAGE, DIGEST = (
    hex_of(call[:4])
    for call in (abi.CALL_NEXT_TOKEN_ID, abi.call_get_nodes(1, 1), abi.call_hash_nodes(1, 1))
)

# The lie, and whether a single provider cannot tell it unnoticed.
SNAPSHOT_LIES: dict[str, tuple[Alter, bool]] = {
    "another key": (on("eth_call", with_page_key, to=PAGE), False),
    "a missing member": (on("eth_call", lambda data: hex_of(EMPTY_PAGE), to=PAGE), True),
    "no page": (on("eth_call", lambda data: "0x", to=PAGE), True),
    "an empty page": (on("eth_call", lambda data: hex_of(word(32) + word(0)), to=PAGE), True),
    "a page null": (on("eth_call", lambda data: None, to=PAGE), True),
    "more tokens": (on("eth_call", lambda data: hex_of(word(5)), to=NEXT_ID), True),
    "very many tokens": (on("eth_call", lambda data: hex_of(word(2**200)), to=NEXT_ID), True),
    "no tokens": (on("eth_call", lambda data: hex_of(word(1)), to=NEXT_ID), True),
    "state refused": (refuse("eth_call", -32000), True),
}


@pytest.mark.parametrize("alone", [True, False])
@pytest.mark.parametrize("name", SNAPSHOT_LIES)
async def test_a_snapshot_that_is_not_whole_is_no_snapshot(
    contract: AccessNFT, name: str, *, alone: bool
) -> None:
    """Nothing is known until a snapshot is whole, counted and, with two providers, confirmed."""
    lie, plain = SNAPSHOT_LIES[name]
    await contract.mint("a", new_key())
    async with Proxy.open(contract.chain.url) as proxy:
        proxy.alter = lie
        urls = [at(proxy.url, 9)] if alone else [at(proxy.url, 9), contract.chain.url]
        async with following(contract.address, *urls) as follower:
            view = await follower.poll()
            if alone and not plain:
                # Who trusts one provider trusts it with the keys.
                assert view.verified
                return
            assert view.membership is None
            assert not view.verified
            assert view.last_error is not None
            proxy.alter = lambda call, reply: None
            await follower.poll()
            await assert_same(follower, contract)


async def test_a_page_that_the_other_does_not_confirm_is_refused(contract: AccessNFT) -> None:
    """The digest of the second provider decides, whoever of the two is the liar."""
    await contract.mint("a", new_key())
    async with Proxy.open(contract.chain.url) as proxy:
        proxy.alter = on("eth_call", lambda data: "0x" + "66" * 32, to=DIGEST)
        async with following(contract.address, contract.chain.url, at(proxy.url, 9)) as follower:
            view = await follower.poll()
            assert view.membership is None
            assert "disagree on the tokens from 1 on" in (view.last_error or "")


async def test_a_provider_that_loses_the_code_is_not_believed(contract: AccessNFT) -> None:
    """A node that comes back without the contract is behind or broken, not a reason to end."""
    async with case_of(contract) as case:
        case.proxy.alter = refuse("eth_getBlockByNumber", -32005)
        await case.follower.poll()
        case.proxy.alter = on("eth_getCode", lambda code: "0x")
        case.follower._panel.providers[0]._not_before = 0.0
        view = await case.follower.poll()
        assert "has no code" in (view.last_error or "")
        assert view.membership == case.before


async def test_a_wake_up_during_a_look_is_not_lost(contract: AccessNFT) -> None:
    """What is told while a look runs leads to the next one at once."""
    async with case_of(contract) as case:
        provider = case.follower._panel.providers[0]

        def alter(call: Call, reply: Reply) -> Reply | None:
            provider.on_wake()
            return None

        case.proxy.alter = alter
        await case.follower.poll()
        async with asyncio.timeout(5):
            await case.follower._witnesses[0].wait(3600)


async def test_waiting_ends_by_itself(contract: AccessNFT) -> None:
    """Without a wake-up the poll interval passes."""
    async with case_of(contract) as case:
        loop = asyncio.get_running_loop()
        before = loop.time()
        await case.follower._witnesses[0].wait(0.05)
        assert 0.04 <= loop.time() - before < 2


async def test_a_provider_that_comes_back_is_checked_again(contract: AccessNFT) -> None:
    """After a failure chain id, first block and code are asked for once more."""
    async with case_of(contract) as case:
        case.proxy.alter = refuse("eth_getBlockByNumber", -32005)
        await case.follower.poll()
        case.proxy.alter = lambda call, reply: None
        case.proxy.methods.clear()
        case.follower._panel.providers[0]._not_before = 0.0
        await case.follower.poll()
        assert case.proxy.methods["eth_chainId"] == 1
        assert case.proxy.methods["eth_getCode"] == 1
        await case.follower.poll()
        assert case.proxy.methods["eth_chainId"] == 1


async def test_members_stay_while_nobody_answers(contract: AccessNFT) -> None:
    """A chain in the dark changes nothing; the age of the agreement tells."""
    async with case_of(contract) as case:
        agreed_at = case.follower.view.agreed_at
        await contract.chain.kill()
        view = await case.follower.poll()
        assert view.last_error is not None
        assert view.agreed_at == agreed_at
        assert seen_by(case.follower).keys() == {case.token}


async def test_providers_are_left_alone_for_a_while_after_a_failure(contract: AccessNFT) -> None:
    """A rate limit is honoured: polls meanwhile send nothing, and it ends by itself."""
    async with case_of(contract) as case:
        case.proxy.alter = refuse("eth_getBlockByNumber", -32016)
        await case.follower.poll()
        sent = case.proxy.requests
        for _ in range(20):
            view = await case.follower.poll()
            assert "code -32016" in (view.last_error or "")
        assert case.proxy.requests == sent
        case.proxy.alter = lambda call, reply: None

        async def well() -> bool:
            return (await case.follower.poll()).last_error is None

        await until(well, "the pause ends")


async def test_two_of_three_outvote_a_liar_but_not_two_silent_ones(contract: AccessNFT) -> None:
    """Where a quorum is set, one liar changes nothing, and silence never makes it smaller."""
    url = contract.chain.url
    async with (
        Proxy.open(url) as second,
        case_of(contract, url, at(second.url, 2), quorum=2) as case,
    ):
        case.proxy.alter = REFUSED["history forged"]
        await contract.set_endpoint(case.token, "198.51.100.7:1")
        await case.follower.poll()
        await assert_same(case.follower, contract)
        before = case.follower.view.membership
        case.proxy.alter = refuse("eth_getBlockByNumber", -32005)
        await contract.set_endpoint(case.token, "198.51.100.7:2")
        await case.follower.poll()
        await assert_same(case.follower, contract)
        assert case.follower.view.membership != before
        before = case.follower.view.membership
        second.alter = refuse("eth_getBlockByNumber", -32005)
        await contract.revoke(case.token)
        view = await case.follower.poll()
        assert view.membership is not None
        assert replace(view.membership, suspects={}) == before
        assert view.last_error is not None


async def test_a_resync_never_goes_below_what_is_verified(contract: AccessNFT) -> None:
    """A node that is behind when the tokens are to be read anew does not bring anybody back."""
    async with case_of(contract, rollback_patience=60.0) as case:
        old = await contract.chain.rpc("eth_getBlockByNumber", "latest", False)
        await contract.revoke(case.token)
        await case.follower.poll()
        after = case.follower.view.membership
        case.proxy.alter = on("eth_getLogs", lambda logs: [])
        await contract.mint("b", new_key())
        await case.follower.poll()
        heads = 0

        def alter(call: Call, reply: Reply) -> Reply | None:
            nonlocal heads
            if call["method"] == "eth_getLogs":
                return {**reply, "result": []}
            if call["params"][:1] == ["latest"]:
                heads += 1
            # New for the first look, old from then on.
            return pinned(old)(call, reply) if heads > 1 else None

        case.proxy.alter = alter
        view = await case.follower.poll()
        assert heads > 1
        assert view.membership == after
        assert "behind block" in (view.last_error or "")
