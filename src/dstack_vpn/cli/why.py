"""``dstack-vpn why``: why a peer can or cannot be reached, from the chain to the last handshake."""

import asyncio
import socket
import time
from collections.abc import Mapping, Sequence
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Any

import typer

from dstack_vpn.cli.agent import AgentAddress, AgentAwayError
from dstack_vpn.cli.observe import Observed, observer
from dstack_vpn.cli.options import AsJson, EnvFile, examples
from dstack_vpn.cli.parse import parse_node_ref
from dstack_vpn.cli.show import plain, progress, put, put_json
from dstack_vpn.config import Settings, load_settings
from dstack_vpn.errors import HostError, SettingError
from dstack_vpn.log import configure_logs
from dstack_vpn.mesh.access import Decision, Verdict, find, is_node_id
from dstack_vpn.mesh.addresses import AddressPlan
from dstack_vpn.mesh.chaintime import clock_skew
from dstack_vpn.mesh.device import IpAddress, SeenPeer
from dstack_vpn.mesh.endpoint import Source, endpoint_texts
from dstack_vpn.mesh.explain import AgentFacts, Facts, Finding, PathFacts, conclude, explain
from dstack_vpn.mesh.health import Code
from dstack_vpn.mesh.keys import PublicKey
from dstack_vpn.mesh.origin import PeerState, peer_state, source_of
from dstack_vpn.mesh.plan import candidates, parsed
from dstack_vpn.wireguard.pathprobe import largest_packet

RESOLVE_TIME = 5.0
"""Seconds until a name counts as one without an address."""
ACCEPTED = "a node id, a token id (#7), an address of the mesh, or a public key"

EXAMPLES = examples(
    "dstack-vpn why node-b",
    "dstack-vpn why '#7' --json",
    "dstack-vpn why 10.213.0.7",
)


def why(
    peer: Annotated[
        str,
        typer.Argument(
            metavar="PEER", help="Node id, token id (#7), address of the mesh, or public key."
        ),
    ],
    env_file: EnvFile = None,
    as_json: AsJson = False,
) -> int:
    """Say why this node can, or cannot, reach a peer, and what to do.

    The chain and the device are read anew; the agent is asked too, if it runs. Reading a device
    needs root. Exit code 0 when the peer is reachable, 1 when not.
    """
    configure_logs(level="error", form="console")
    settings = load_settings(env_file=env_file)
    with progress("reading the chain and the device"):
        facts = asyncio.run(_facts(settings, env_file, peer))
    findings = explain(facts)
    reachable, conclusion = conclude(facts.peer.node_id or peer, findings)
    if as_json:
        put_json(_json(facts, findings, reachable=reachable, conclusion=conclusion))
    else:
        put(plain(conclusion))
        for finding in findings:
            put(plain(f"{finding.grade:<7}  {finding.text}"))
            if finding.advice:
                put(plain(f"         -> {finding.advice}"))
    return 0 if reachable else 1


async def _facts(settings: Settings, env_file: Path | None, text: str) -> Facts:
    async with observer(settings) as look_out:
        observed = await look_out.look()
        # Where blocks come only when somebody writes, they do not tell the time.
        skew = (
            None
            if settings.network.block_time is None
            else clock_skew(observed.view, now=time.monotonic(), wall_now=time.time())
        )
    decision = find_peer(text, observed.decisions, observed.local.addresses)
    if decision.token_id and decision.token_id == observed.own.token_id:
        raise SettingError("PEER", "is this node itself", ACCEPTED)
    node = observed.membership.nodes.get(decision.token_id)
    texts, notes = dict[Source, str](), tuple[str, ...]()
    if node is not None:
        texts = endpoint_texts(
            node.node_id,
            node.endpoint,
            static=settings.endpoints,
            template=settings.endpoint_template,
        )
        notes = candidates(node.endpoint, node.node_id, observed.local)[1]
    resolved = await _resolve(texts)
    notes += tuple(f"the name {name} has no address" for name, ips in resolved.items() if not ips)
    seen = observed.device.peers.get(decision.key) if observed.device and decision.key else None
    paths, path_error = await _paths(observed, seen)
    return Facts(
        own=observed.own,
        peer=decision,
        node=node,
        block=observed.membership.block.number,
        confirmed=observed.view.confirmed,
        chain_now=observed.chain_now,
        plan=observed.plan,
        seen=observed.device,
        notes=notes,
        source=source_of(seen.endpoint if seen else None, texts, resolved),
        agent=_agent(env_file),
        wall_now=time.time(),
        skew=skew,
        routing=observed.routing,
        paths=paths,
        path_error=path_error,
    )


async def _paths(observed: Observed, peer: SeenPeer | None) -> tuple[tuple[PathFacts, ...], str]:
    """The sizes that pass to a live peer, and why nothing could be tried."""
    device = observed.device
    if device is None or peer is None:
        return (), ""
    if peer_state(peer, wall_now=time.time()) is not PeerState.LIVE:
        return (), ""
    ours = {a.version for a in device.addresses}
    targets = [n.network_address for n in peer.allowed_ips if n.version in ours]
    try:
        sizes = await asyncio.gather(*(largest_packet(ip, mtu=device.mtu) for ip in targets))
    except HostError as error:
        return (), str(error)
    return tuple(
        PathFacts(version=ip.version, mtu=device.mtu, largest=size)
        for ip, size in zip(targets, sizes, strict=True)
    ), ""


def find_peer(text: str, decisions: Sequence[Decision], addresses: AddressPlan) -> Decision:
    """The verdict on the node that a user means.

    Raises:
        SettingError: the text names no node in any way.
    """
    try:
        ip = ip_address(text)
    except ValueError:
        pass
    else:
        network = next((n for n in addresses.networks if n.version == ip.version), None)
        if network is None or ip not in network:
            ranges = " or ".join(map(str, addresses.networks))
            raise SettingError("PEER", f"{ip} is no address of this mesh", ranges)
        return _token(int(ip) - int(network.network_address), decisions, text)
    name, number = parse_node_ref(text)
    if name is not None and is_node_id(name):
        found = find(decisions, name)
        if found.token_id or number is None:
            return found
    if number is not None:
        return _token(number, decisions, text)
    try:
        key = PublicKey.parse(text)
    except ValueError:
        raise SettingError("PEER", "names no node", ACCEPTED) from None
    having = [d for d in decisions if d.key == key]
    granted = [d for d in having if d.granted]
    return next(iter([*granted, *having]), _unknown(f"no token has the key {key}"))


def _token(token_id: int, decisions: Sequence[Decision], text: str) -> Decision:
    found = next((d for d in decisions if d.token_id == token_id), None)
    return found or _unknown(f"the contract has no token {token_id} ({text[:63]})")


def _unknown(reason: str) -> Decision:
    verdict = Verdict.NODE_NOT_FOUND
    return Decision(token_id=0, node_id="", key=None, verdict=verdict, reason=reason)


async def _resolve(texts: Mapping[Source, str]) -> dict[str, tuple[IpAddress, ...]]:
    """The addresses of the names in these endpoints; empty for a name that has none."""
    endpoints = [
        endpoint for text in texts.values() if not isinstance(endpoint := parsed(text), str)
    ]
    resolved: dict[str, tuple[IpAddress, ...]] = {}
    for host in {e.host for e in endpoints if isinstance(e.host, str)}:
        try:
            async with asyncio.timeout(RESOLVE_TIME):
                found = await asyncio.get_running_loop().getaddrinfo(
                    host, None, type=socket.SOCK_DGRAM
                )
        except (OSError, TimeoutError, UnicodeError):
            found = []
        resolved[host] = tuple(ip_address(str(entry[4][0]).partition("%")[0]) for entry in found)
    return resolved


def _agent(env_file: Path | None) -> AgentFacts | None:
    try:
        health = AgentAddress.find(env_file).ask("/health")
        chain = health["chain"]
        return AgentFacts(
            state=str(chain["state"]),
            lag=None if chain["lag"] is None else int(chain["lag"]),
            # Of the clock this command has looked by itself.
            reasons=tuple(
                str(reason["text"])
                for reason in health["reasons"]
                if reason["code"] != Code.CLOCK_SKEW
            ),
        )
    except (AgentAwayError, LookupError, TypeError, ValueError):
        return None


def _json(
    facts: Facts, findings: Sequence[Finding], *, reachable: bool, conclusion: str
) -> dict[str, Any]:
    return {
        "reachable": reachable,
        "conclusion": conclusion,
        "tokenId": facts.peer.token_id or None,
        "nodeId": facts.peer.node_id or None,
        "publicKey": facts.peer.key.text if facts.peer.key else None,
        "verdict": facts.peer.verdict,
        "block": facts.block,
        "findings": [
            {"subject": f.subject, "grade": f.grade, "text": f.text, "advice": f.advice or None}
            for f in findings
        ],
    }
