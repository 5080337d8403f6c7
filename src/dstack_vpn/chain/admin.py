"""Signed writes to the contract, and the few plain reads that go with them. For the CLI only.

A write is simulated first, so that one which the contract would refuse is explained and never
sent. Whom we ask is one provider: it cannot forge a signature, so the worst it can do is refuse,
or ask too high a fee, which has a limit here.
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any, TypeVar

import httpcore
import msgspec

from dstack_vpn.chain.calls import Call, Refusal
from dstack_vpn.chain.checksum import to_checksum
from dstack_vpn.chain.header import parse_bytes, parse_quantity
from dstack_vpn.chain.jsonrpc import Request
from dstack_vpn.chain.keccak import keccak256
from dstack_vpn.chain.revert import abi_decode, explain_revert
from dstack_vpn.chain.rpc_http import HttpProvider
from dstack_vpn.errors import BadAnswerError, ChainError, ProviderError, UserError, WrongChainError
from dstack_vpn.mesh.membership import Address
from dstack_vpn.variables import Network

if TYPE_CHECKING:
    # Heavy, and plain reads do without it.
    from eth_account.signers.local import LocalAccount

T = TypeVar("T")

GWEI = 10**9
# We chose: far above what Base ever asked, and what a lying provider can make an account pay.
MAX_FEE_GWEI = 100.0
# State may change between the estimate and the block; what is not used costs nothing.
GAS_MARGIN = 1.25

TRANSFER = keccak256(b"Transfer(address,address,uint256)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Receipt:
    """A transaction that is in a block and did not fail."""

    transaction: str
    block: int
    gas_used: int
    created: Address | None
    """Address of the contract that it made, if it made one."""
    token_id: int | None
    """The token that it minted or moved, if any."""


class AdminProvider(HttpProvider):
    """A provider that also keeps what a reverted call said; a follower has no use for that."""

    revert_data = b""

    async def ask(self, method: str, *params: object, parse: Callable[[object], T]) -> T:
        """Ask one thing.

        Raises:
            ProviderError: no answer, or a refusal.
            BadAnswerError: an answer that cannot be what was asked for.
        """
        (answer,) = await self.batch([Call(method, params, parse)])
        return answer  # type: ignore[no-any-return]

    async def attempt(
        self, method: str, *params: object, parse: Callable[[object], T]
    ) -> T | Refusal:
        """Ask one thing that may be refused."""
        (answer,) = await self.batch([Call(method, params, parse, may_fail=True)])
        return answer  # type: ignore[no-any-return]

    async def _exchanged(
        self, pool: httpcore.AsyncConnectionPool, requests: Sequence[Request]
    ) -> bytes:
        answer = await super()._exchanged(pool, requests)
        self.revert_data = _revert_data(answer)
        return answer


class ContractAdmin:
    """The contract at an address, as somebody sees it who may change it."""

    def __init__(self, provider: AdminProvider, network: Network, contract: Address) -> None:
        self.provider = provider
        self.network = network
        self.contract = contract

    async def check(self, *, deployed: bool = True) -> None:
        """Make sure that the provider serves the chain that was configured.

        Args:
            deployed: whether there must be a contract already.

        Raises:
            WrongChainError: another chain, or no contract at the address.
        """
        chain_id = await self.provider.ask("eth_chainId", parse=parse_quantity)
        name = self.provider.name
        if chain_id != self.network.chain_id:
            wanted = f"NETWORK {self.network.name} is chain {self.network.chain_id}"
            raise WrongChainError(f"{name} serves chain {chain_id}, but {wanted}")
        if deployed and not await self.code():
            address = to_checksum(self.contract)
            raise WrongChainError(
                f"there is no contract at CONTRACT_ADDRESS {address} on {self.network.name}"
            )

    async def code(self) -> bytes:
        """The contract's code."""
        return await self.provider.ask("eth_getCode", self.contract, "latest", parse=parse_bytes)

    async def view(
        self, signature: str, *arguments: object, returns: str = "uint256"
    ) -> tuple[Any, ...]:
        """Read, at the provider's head.

        Args:
            signature: such as ``ownerOf(uint256)``.
            arguments: its arguments.
            returns: the types of what comes back, separated by commas.

        Raises:
            UserError: the contract refused.
        """
        call = {"to": self.contract, "data": _hex(calldata(signature, *arguments))}
        answer = await self.provider.attempt("eth_call", call, "latest", parse=parse_bytes)
        if isinstance(answer, Refusal):
            raise self._refused(signature, answer)
        values = abi_decode(returns.split(","), answer)
        if values is None:
            name = signature.partition("(")[0]
            raise BadAnswerError("abi", f"{name} answered with something else")
        return values

    async def write(
        self,
        account: "LocalAccount",
        data: bytes,
        *,
        create: bool = False,
        max_fee_gwei: float = MAX_FEE_GWEI,
        on_sent: Callable[[str], None],
        patience: float,
    ) -> Receipt:
        """Simulate, sign and send a transaction, and wait until it is in a block.

        Args:
            account: pays and signs.
            data: what `calldata` made, or the code of a new contract.
            create: make a new contract instead of calling this one.
            max_fee_gwei: the most to pay for a unit of gas.
            on_sent: called with the transaction's hash as soon as it is known to be on its way.
            patience: seconds to wait for the block.

        Raises:
            UserError: the contract or the account does not allow it.
            ChainError: the provider failed, or the block did not come in time.
        """
        call: dict[str, object] = {"from": account.address, "data": _hex(data)}
        if not create:
            call["to"] = self.contract
        gas = int(await self._simulate(call) * GAS_MARGIN)
        fees = await self._fees(max_fee_gwei)
        await self._check_balance(account, gas * max(fees.values()))
        pending: Call[int] = Call(
            "eth_getTransactionCount", (account.address, "pending"), parse_quantity
        )
        transaction = {
            "chainId": self.network.chain_id,
            "nonce": (await self.provider.batch([pending]))[0],
            "gas": gas,
            "value": 0,
            "data": data,
            **({} if create else {"to": to_checksum(self.contract)}),
            **fees,
        }
        signed = account.sign_transaction(transaction)
        sent = _hex(signed.hash)
        await self._submit(bytes(signed.raw_transaction), sent)
        on_sent(sent)
        return await self._wait(sent, call, patience)

    async def _simulate(self, call: dict[str, object]) -> int:
        """The gas that a call needs; the call first, because more nodes say why it fails there."""
        answer = await self.provider.attempt("eth_call", call, "latest", parse=parse_bytes)
        if isinstance(answer, Refusal):
            raise self._refused("the call", answer)
        gas = await self.provider.attempt("eth_estimateGas", call, parse=parse_quantity)
        if isinstance(gas, Refusal):
            raise self._refused("the call", gas)
        return gas

    def _refused(self, what: str, refusal: Refusal) -> Exception:
        data = self.provider.revert_data
        if data or "revert" in refusal.message:
            return UserError(f"the contract refused: {explain_revert(data)}")
        problem = f"{what} was refused: {refusal.message} (code {refusal.code})"
        return ProviderError(self.provider.name, problem, code=refusal.code)

    async def _fees(self, max_fee_gwei: float) -> dict[str, int]:
        """EIP-1559 fees where blocks have a base fee, else a plain gas price."""
        limit = int(max_fee_gwei * GWEI)
        price = await self.provider.ask("eth_gasPrice", parse=parse_quantity)
        base = await self.provider.ask("eth_getBlockByNumber", "latest", False, parse=_base_fee)
        if base is None:
            _check_price(price, limit)
            return {"gasPrice": price}
        tip = await self.provider.attempt("eth_maxPriorityFeePerGas", parse=parse_quantity)
        if isinstance(tip, Refusal):
            tip = max(price - base, 0)
        _check_price(base + tip, limit)
        # Twice the base fee lasts for six full blocks, each of which may raise it by an eighth.
        return {
            "maxFeePerGas": min(2 * base + tip, limit),
            "maxPriorityFeePerGas": tip,
        }

    async def _check_balance(self, account: "LocalAccount", cost: int) -> None:
        has = await self.provider.ask(
            "eth_getBalance", account.address, "latest", parse=parse_quantity
        )
        if has < cost:
            raise UserError(
                f"{account.address} has {_ether(has)} ETH on {self.network.name}, and the"
                f" transaction may cost up to {_ether(cost)} ETH"
            )

    async def _submit(self, raw: bytes, sent: str) -> None:
        try:
            answer = await self.provider.attempt("eth_sendRawTransaction", _hex(raw), parse=str)
            if not isinstance(answer, Refusal):
                return
            # A connection that broke is tried twice; the second time it is "already known".
            if await self.provider.ask("eth_getTransactionByHash", sent, parse=bool):
                return
        except ProviderError as error:
            problem = f"{error}; whether it took transaction {sent} is not known"
            raise ChainError(problem) from None
        problem = f"did not take the transaction: {answer.message} (code {answer.code})"
        raise ProviderError(self.provider.name, problem, code=answer.code)

    async def _wait(self, sent: str, call: dict[str, object], patience: float) -> Receipt:
        deadline = time.monotonic() + patience
        problem = ""
        while True:
            receipt: dict[str, Any] | None = None
            try:
                receipt = await self.provider.ask(
                    "eth_getTransactionReceipt", sent, parse=_object_or_none
                )
                problem = ""
            except ChainError as error:
                # The transaction is on its way; that a provider is away alters nothing.
                problem = f" ({error})"
            if receipt is not None:
                return await self._settled(sent, receipt, call)
            if time.monotonic() >= deadline:
                raise ChainError(
                    f"transaction {sent} is in no block after {patience:g} s{problem}; it may still"
                    " be mined"
                )
            await asyncio.sleep(min(self.network.poll_interval, 1.0))

    async def _settled(
        self, sent: str, receipt: dict[str, Any], call: dict[str, object]
    ) -> Receipt:
        block = parse_quantity(receipt.get("blockNumber"))
        if parse_quantity(receipt.get("status")) != 1:
            await self._simulate(call)
            raise UserError(f"transaction {sent} failed in block {block}")
        created = receipt.get("contractAddress")
        return Receipt(
            transaction=sent,
            block=block,
            gas_used=parse_quantity(receipt.get("gasUsed")),
            created=Address(_hex(parse_bytes(created, 20))) if created else None,
            token_id=_moved_token(receipt.get("logs")),
        )


def calldata(signature: str, *arguments: object) -> bytes:
    """Encode a call, such as ``calldata("burn(uint256)", 7)``."""
    from eth_abi.abi import encode  # noqa: PLC0415 - slow to import, and reads do without

    types = signature.partition("(")[2].removesuffix(")")
    return keccak256(signature.encode())[:4] + encode(types.split(",") if types else [], arguments)


@dataclass(frozen=True, slots=True)
class Artifact:
    """The contract as the package ships it."""

    bytecode: bytes
    code_hash: str
    """keccak-256 of the code that a deployment leaves, ``0x`` and hex digits."""


@cache
def artifact() -> Artifact:
    """Load the shipped contract."""
    text = (files("dstack_vpn.chain") / "abi" / "DstackAccessNFT.json").read_bytes()
    loaded = msgspec.json.decode(text)
    return Artifact(bytes.fromhex(loaded["bytecode"][2:]), loaded["deployedBytecodeHash"])


def _check_price(price: int, limit: int) -> None:
    if price > limit:
        raise UserError(
            f"the provider asks {price / GWEI:g} gwei for a unit of gas, above the limit of"
            f" {limit / GWEI:g}; --max-fee raises it"
        )


def _base_fee(value: object) -> int | None:
    fee = (_object_or_none(value) or {}).get("baseFeePerGas")
    return None if fee is None else parse_quantity(fee)


def _object_or_none(value: object) -> dict[str, Any] | None:
    if value is not None and not isinstance(value, dict):
        raise BadAnswerError("object", "something that is not an object")
    return value


def _moved_token(logs: object) -> int | None:
    for log in logs if isinstance(logs, list) else []:
        topics = [parse_bytes(t, 32) for t in log.get("topics", ())]
        if len(topics) == 4 and topics[0] == TRANSFER:
            return int.from_bytes(topics[3], "big")
    return None


def _revert_data(answer: bytes) -> bytes:
    """The data of the error in a JSON-RPC answer; empty when there is none."""
    try:
        data = msgspec.json.decode(answer)["error"]["data"]
        # Some nodes put the data one level deeper.
        return parse_bytes(data["data"] if isinstance(data, dict) else data)
    except (msgspec.MsgspecError, KeyError, TypeError, BadAnswerError):
        return b""


def _hex(data: bytes | Sequence[int]) -> str:
    return "0x" + bytes(data).hex()


def _ether(wei: int) -> str:
    return f"{wei / 10**18:.6f}".rstrip("0").rstrip(".")
