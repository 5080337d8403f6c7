"""A client that knows only the first published interface is served as ever."""

import base64
from collections.abc import Callable
from typing import Any

import pytest

from .conftest import Anvil

ZERO = "0x" + 40 * "0"


def key(n: int) -> str:
    return base64.b64encode(bytes([n]) * 32).decode()


@pytest.fixture
def report(anvil: Anvil, client: Callable[[str, str], Any]) -> Any:
    """What the client saw of a contract that the first development account deployed."""
    contract = anvil.deploy()
    # The address that development networks are preset to.
    assert contract == "0x5fbdb2315678afecb367f032d93f642f64180aa3"
    return client("ethers_client.mjs", contract)


def test_old_client_reads_writes_and_sees(report: Any) -> None:
    """Every published call answers and every published event arrives, with the meaning it had."""
    ann, ben = report["people"]["ann"], report["people"]["ben"]
    owner, successor = report["people"]["owner"], report["people"]["next"]
    node_a = report["admitted"]["a"]
    assert report["promisedTokenId"] == 1
    assert node_a == {
        "nodeId": "node-a",
        "wireguardPublicKey": key(1),
        "createdAt": node_a["createdAt"],
        "isActive": True,
        "hasNodeAccess": True,
        "verifyAccess": True,
        "tokenId": 1,
        "keyOfOwner": key(1),
        "keyOfToken": key(1),
        "owner": ann,
        "uri": "ipfs://a",
    }
    assert node_a["createdAt"] > 0
    assert report["admitted"]["b"]["uri"] == ""
    assert report["admitted"]["b"]["isActive"] is True
    assert report["strangers"] == {
        "otherUser": False,
        "unknownNode": False,
        "unknownName": 0,
        "unknownOwner": "",
    }

    out = {"isActive": False, "hasNodeAccess": False, "verifyAccess": False, "keyOfOwner": ""}
    assert report["revoked"] == {**node_a, **out}
    passed_on = report["passedOn"]
    assert passed_on == {
        **report["admitted"]["b"],
        **out,
        "wireguardPublicKey": "",
        "keyOfToken": "",
        "owner": ann,
    }
    assert report["keySet"] == {
        **passed_on,
        "wireguardPublicKey": key(3),
        "isActive": True,
        "hasNodeAccess": True,
        "verifyAccess": True,
        "keyOfOwner": key(3),
        "keyOfToken": key(3),
    }

    assert report["events"] == [
        ["Transfer", ZERO, ann, 1],
        ["NodeAccessGranted", 1, "node-a", ann, key(1)],
        ["Transfer", ZERO, ben, 2],
        ["NodeAccessGranted", 2, "node-b", ben, key(2)],
        ["NodeAccessRevoked", 1, "node-a"],
        ["Transfer", ben, ann, 2],
        ["NodeAccessTransferred", 2, ben, ann],
        ["PublicKeyUpdated", ann, key(3)],
        ["NodeAccessGranted", 2, "node-b", ann, key(3)],
        ["OwnershipTransferInitiated", owner, successor],
    ]
