"""Requirements 19 and 20: what one liar of three can do, and what those do who just differ."""

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from chain.local import assert_same, at, following, local_chain
from dstack_vpn.chain.distrust import QUARANTINE
from dstack_vpn.chain.tally import DISPUTE_DEPTH
from dstack_vpn.chain.witness import MOST_AHEAD
from dstack_vpn.mesh.keys import PublicKey
from dstack_vpn.mesh.snapshot import AlarmCode
from lab.chain import CHAIN_ID
from lab.nft import AccessNFT
from lab.rpcfault import Ask, Call, Fault, Reply, error
from lab.rpcfaults import Drop
from lab.rpcforger import Forger
from lab.rpcproxy import Proxy
from requirements.scene import FIRST_HOST, Scene, providers, scene

LIAR = f"127.0.0.{FIRST_HOST + 2}#3"
KEY = b"\x66" * 32
SECRET = "k3y-0f-the-pl4n-8f2c"

Lie = Callable[[Forger, Proxy, int], Awaitable[Any]]

GRANTS: dict[str, Lie] = {
    "a stranger": lambda f, p, token: f.grant(p, 9, "mallory", KEY),
    "a stranger at the honest hash": lambda f, p, token: f.grant(
        p, 9, "mallory", KEY, real_block=True
    ),
    "another key of a member": lambda f, p, token: f.swap_key(p, token, KEY),
    "another key at the honest hash": lambda f, p, token: f.swap_key(
        p, token, KEY, real_block=True
    ),
    "who was revoked": lambda f, p, token: f.grant(p, token + 1, "b", KEY),
}


@pytest.mark.parametrize("others", ["well", "one late", "one away", "both away"])
@pytest.mark.parametrize("name", GRANTS)
async def test_requirement_19_a_single_liar_admits_nobody(
    tmp_path: Path, name: str, others: str
) -> None:
    """Requirement 19: not with any number of blocks on top, nor while the others are late or away.

    Nor does a token that all others know as revoked come back.
    """
    async with scene(tmp_path, confirmations=1) as s:
        token, gone = await s.mint("a"), await s.mint("b")
        await s.nft.revoke(gone)
        await s.chain.mine(2)
        await s.follower.start(None)
        if others == "one late":
            await s.hold(s.proxies[0])
        for proxy in s.proxies[: {"one away": 1, "both away": 2}.get(others, 0)]:
            proxy.fault = Drop()
        await s.nft.set_endpoint(token, "198.51.100.7:1")
        forger = Forger(s.nft.address, CHAIN_ID)
        await GRANTS[name](forger, s.proxies[2], token)
        await forger.blocks(s.proxies[2], 3 * DISPUTE_DEPTH)
        for _ in range(DISPUTE_DEPTH + 2):
            await s.poll()
            assert PublicKey(KEY) not in s.admitted()
            assert s.members() <= {token}
            await s.chain.mine(1)
        for proxy in s.proxies:
            proxy.honest()
        await s.arrive()
        # A chain that is shorter than what it told before is believed after some time.
        s.clock.now += 60
        await s.poll()
        await assert_same(s.follower, s.nft)
        assert s.members() == {token}


async def test_requirement_19_a_head_far_too_high_or_late_changes_nothing(tmp_path: Path) -> None:
    """Requirement 19: a liar can neither outrun the others nor make the time of the chain."""
    async with scene(tmp_path, confirmations=1) as s:
        token = await s.mint("a")
        await s.nft.renew(token, (await s.chain.block()).timestamp + 100_000)
        await s.chain.mine(1)
        await s.follower.start(None)
        forger = Forger(s.nft.address, CHAIN_ID)
        await forger.time(s.proxies[2], 4_000_000_000)
        await s.poll()
        assert s.members() == {token}
        await forger.blocks(s.proxies[2], MOST_AHEAD + 10)
        for _ in range(3):
            await s.poll()
            assert s.members() == {token}
            assert s.membership.block.timestamp < 4_000_000_000
        new = await s.mint("b")
        await s.chain.mine(1)
        await s.arrive()
        assert s.members() == {token, new}


class Echo(Fault):
    """Refuse every call and repeat what it was asked with."""

    async def answer(self, call: Call, ask: Ask) -> Reply:
        """Say the secret."""
        return error(
            call, -32000, f"no such plan: http://user:{SECRET}@host/v2/{SECRET}?k={SECRET}"
        )


@contextlib.asynccontextmanager
async def keyed(directory: Path) -> AsyncIterator[Scene]:
    """Three providers whose URLs hold a key, and a member."""
    async with local_chain(directory) as chain, providers(chain.url) as proxies:
        nft = await AccessNFT.deploy(chain)
        urls = [
            at(proxy.url, FIRST_HOST + i).replace("//", f"//user:{SECRET}@") + f"/v2/{SECRET}"
            for i, proxy in enumerate(proxies)
        ]
        clock = Scene(nft, proxies, None).clock  # type: ignore[arg-type]
        async with following(nft.address, *urls, quorum=2, now=clock) as follower:
            yield Scene(nft, proxies, follower, clock)


async def test_requirement_19_the_worst_is_a_suspension_that_names_the_liar(
    tmp_path: Path,
) -> None:
    """Requirement 19: a false removal suspends, loudly; refuted, it is undone and not heard again.

    The liar is named by host and number, and no part of a URL is told anywhere.
    """
    with capture_logs() as told:
        async with keyed(tmp_path) as s:
            token = await s.mint("a")
            await s.follower.start(None)
            forger = Forger(s.nft.address, CHAIN_ID)
            seen = []

            async def look(blocks: int = 0) -> None:
                for _ in range(blocks):
                    await s.chain.mine(1)
                    await s.poll()
                    seen.append((repr(s.view), repr(s.decisions())))
                if not blocks:
                    await s.poll()
                    seen.append((repr(s.view), repr(s.decisions())))

            await forger.revoke(s.proxies[2], token)
            await look()
            decision = s.decisions()[token]
            assert decision.verdict == "SOURCE_DISPUTED"
            assert LIAR in decision.reason
            (alarm,) = s.alarms(AlarmCode.SUSPENDED)
            assert (alarm.provider, LIAR in alarm.text) == (LIAR, True)
            # The others go on without that.
            await look(DISPUTE_DEPTH + 1)
            assert s.members() == {token}
            assert not s.alarms(AlarmCode.SUSPENDED)
            (alarm,) = s.alarms(AlarmCode.QUARANTINED)
            assert (alarm.provider, LIAR in alarm.text) == (LIAR, True)
            (until,) = [p.quarantined_until for p in s.view.providers if p.name == LIAR]
            assert until == s.clock.now + QUARANTINE
            # The next lie is not heard.
            s.proxies[2].honest()
            await look(1)
            await forger.burn(s.proxies[2], token)
            await look()
            assert s.members() == {token}
            # Until the time is over.
            s.clock.now += QUARANTINE + 1
            await look()
            assert s.verdict(token) == "SOURCE_DISPUTED"
            assert not s.alarms(AlarmCode.QUARANTINED)
            s.proxies[2].fault = Echo()
            await look(DISPUTE_DEPTH + 2)
            assert s.members() == {token}
            s.proxies[2].honest()
            await look(1)
            await assert_same(s.follower, s.nft)
    assert told
    text = repr(told) + repr(seen)
    assert LIAR in text
    assert SECRET not in text
    assert "/v2/" not in text


@pytest.mark.parametrize("camps", [2, 3])
async def test_requirement_20_a_lasting_disagreement_freezes_grants(
    tmp_path: Path, camps: int
) -> None:
    """Requirement 20: where too few agree on a height, nobody comes in, and both hashes are shown.

    After some blocks that is an alarm. Who is a member stays one; when it is over grants go on.
    """
    async with scene(tmp_path, count=camps) as s:
        member = await s.mint("a")
        await s.follower.start(None)
        before, confirmed = s.membership, s.view.confirmed
        forger = Forger(s.nft.address, CHAIN_ID)
        raws = [
            await forger.grant(proxy, 2, "new", key)
            for proxy, key in zip(s.proxies[1:], (KEY, b"\x77" * 32), strict=False)
        ]
        new = await s.mint("new")
        heads = {(await s.chain.block()).hash, *(raw["hash"] for raw in raws)}
        assert len(heads) == camps
        for depth in range(1, 2 * DISPUTE_DEPTH):
            await s.poll()
            assert s.membership == before
            assert s.view.confirmed == confirmed
            assert s.members() == {member}
            raised = s.alarms(AlarmCode.DISAGREEMENT)
            assert bool(raised) == (depth >= DISPUTE_DEPTH)
            for text in [s.view.last_error or "", *(alarm.text for alarm in raised)]:
                assert all(head[:10] in text for head in heads)
                assert all(p.name in text for p in s.view.providers)
            await s.chain.mine(1)
            for proxy in s.proxies[1:]:
                await forger.blocks(proxy, 1)
        s.proxies[1].honest()
        await s.poll()
        assert s.members() == {member, new}
        await assert_same(s.follower, s.nft)
        if camps == 3:
            # Two have it now, the third one still tells its own story, and is named for it.
            for _ in range(DISPUTE_DEPTH + 1):
                await s.chain.mine(1)
                await s.poll()
            assert LIAR in {alarm.provider for alarm in s.alarms(AlarmCode.DISAGREEMENT)}
            s.proxies[2].honest()
            await s.chain.mine(1)
            await s.poll()
        await s.poll()
        assert not s.alarms(AlarmCode.DISAGREEMENT)
