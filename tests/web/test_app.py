"""The endpoints as a client meets them: a real server on a free port of loopback."""

import asyncio
import contextlib
import signal
import socket
from collections.abc import AsyncIterator
from typing import Any

import pytest

from dstack_vpn.config import Settings, load_settings
from dstack_vpn.errors import HostError
from dstack_vpn.mesh.snapshot import Snapshot
from dstack_vpn.web import server
from dstack_vpn.web.app import make_app
from dstack_vpn.web.server import HealthServer
from lab.http import Answer, HttpError, request
from lab.waiting import until
from mesh.build import node
from web.samples import NOW, OWN, Source, blank, chain, snapshot

PATHS = (
    "/health",
    "/ready",
    "/stats",
    "/wireguard",
    "/config",
    "/api/access",
    "/api/access/node-2",
)
TOKEN = "a-long-token-é"
SECRET_URL = "https://rpc.example/v2/very-secret"


def settings(**values: str) -> Settings:
    environ = {"NODE_ID": "node-1", "NETWORK": "hardhat", "RPC_URL": SECRET_URL}
    return load_settings(environ | values)


class Client:
    """Asks one server."""

    def __init__(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"

    async def __call__(
        self, path: str, *, method: str = "GET", authorization: str | None = None
    ) -> Answer:
        """Ask once."""
        headers: dict[bytes | str, bytes | str] = {}
        if authorization:
            headers["Authorization"] = authorization.encode()
        return await request(method, f"{self.url}{path}", headers=headers)


@contextlib.asynccontextmanager
async def serving(shot: Snapshot | Source, **values: str) -> AsyncIterator[Client]:
    """Serve a snapshot for the time of a block."""
    source = shot if isinstance(shot, Source) else Source(shot)
    async with HealthServer(make_app(source, settings(**values)), "127.0.0.1", 0) as server:
        yield Client(server.port)


async def test_every_path_answers_json_that_nobody_keeps() -> None:
    """All paths are there, for GET and for HEAD, with the headers that make them safe."""
    async with serving(snapshot()) as ask:
        for path in PATHS:
            got, head = await ask(path), await ask(path, method="HEAD")
            assert got.status == head.status == 200, path
            assert got.headers["content-type"] == "application/json"
            assert got.headers["cache-control"] == "no-store"
            assert got.headers["x-content-type-options"] == "nosniff"
            assert "server" not in got.headers
            assert isinstance(got.json(), dict)
            assert head.body == b""
            assert head.headers["content-length"] == str(len(got.body))


async def test_health_and_ready_status_codes() -> None:
    """Degraded is still 200 and ready; unhealthy and unready are 503, each with its reason."""
    source = Source(snapshot())
    async with serving(source) as ask:
        assert (await ask("/health")).status == 200
        assert (await ask("/ready")).json() == {"ready": True}

        source.snapshot = snapshot(chain=chain(agreed_at=NOW - 3600, last_error="refused"))
        degraded = await ask("/health")
        assert (degraded.status, degraded.json()["status"]) == (200, "degraded")
        assert degraded.json()["chain"]["lastError"] == "refused"
        assert (await ask("/ready")).status == 200
        assert (await ask("/ready?fresh=60")).status == 503
        assert (await ask("/ready?fresh=3601")).status == 200

        source.snapshot = blank()
        assert (await ask("/health")).status == 503
        unready = await ask("/ready")
        assert unready.status == 503
        assert "has not been read yet" in unready.json()["reason"]


@pytest.mark.parametrize("value", ["", "soon", "-1", "0", "nan", "inf", "1e999", "5;DROP"])
async def test_a_bad_fresh_is_told_by_name(value: str) -> None:
    """A value that is no time is the asker's mistake: 400, one sentence that names it."""
    async with serving(snapshot()) as ask:
        answer = await ask(f"/ready?fresh={value}")
        assert answer.status == 400
        assert answer.json()["error"]["text"].startswith("fresh is not a number of seconds")


async def test_config_holds_no_secret() -> None:
    """Settings are shown by name; keys, tokens and URLs are not."""
    key = OWN.text
    async with serving(snapshot(), API_TOKEN=TOKEN, WIREGUARD_PRIVATE_KEY=key) as ask:
        answer = await ask("/config")
        shown = answer.json()
        assert shown["NODE_ID"] == "node-1"
        assert shown["RPC_URL"] == ["rpc.example#1"]
        for secret in (TOKEN, key, "very-secret"):
            assert secret not in answer.body.decode()


@pytest.mark.parametrize("path", ["/api/access", "/api/access/node-2"])
@pytest.mark.parametrize(
    ("authorization", "status"),
    [
        (None, 401),
        ("Bearer", 401),
        ("Bearer wrong", 401),
        (f"Basic {TOKEN}", 401),
        (TOKEN, 401),
        (f"Bearer {TOKEN}x", 401),
        (f"Bearer {TOKEN}", 200),
        (f"bearer {TOKEN}", 200),
    ],
)
async def test_the_api_asks_for_the_token(
    path: str, authorization: str | None, status: int
) -> None:
    """With API_TOKEN set, /api/* answers only to it; the other paths stay open."""
    async with serving(snapshot(), API_TOKEN=TOKEN) as ask:
        answer = await ask(path, authorization=authorization)
        assert answer.status == status
        if status == 401:
            assert answer.headers["www-authenticate"] == "Bearer"
            assert TOKEN not in answer.body.decode()
        assert (await ask("/stats")).status == 200


async def test_access_by_node_id() -> None:
    """One node's verdict; an unknown node is a verdict too, and an unread list is none."""
    source = Source(snapshot([node(1), node(2, revoked=True)]))
    async with serving(source) as ask:
        assert (await ask("/api/access/node-1")).json()["verdict"] == "ACCESS_GRANTED"
        assert (await ask("/api/access/node-2")).json()["verdict"] == "REVOKED"
        unknown = (await ask("/api/access/nobody%22%0d%00")).json()
        assert (unknown["verdict"], unknown["tokenId"]) == ("NODE_NOT_FOUND", 0)
        source.snapshot = blank()
        answer = await ask("/api/access/node-1")
        assert answer.status == 503
        assert answer.json()["error"]["code"] == "not-ready"


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/", 404, "not-found"),
        ("GET", "/nothing", 404, "not-found"),
        ("GET", "/health/", 404, "not-found"),
        ("GET", "/api/access/a/b", 404, "not-found"),
        ("POST", "/health", 405, "method-not-allowed"),
        ("DELETE", "/api/access", 405, "method-not-allowed"),
    ],
)
async def test_refusals_are_json(method: str, path: str, status: int, code: str) -> None:
    """What is not there, or not allowed, is said in one sentence of JSON."""
    async with serving(snapshot()) as ask:
        answer = await ask(path, method=method)
        assert answer.status == status
        assert answer.json()["error"]["code"] == code
        assert answer.headers["cache-control"] == "no-store"
        if status == 405:
            assert "GET" in answer.headers["allow"]


async def test_a_failure_shows_no_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    """A fault of ours is a 500 with one sentence, and the server goes on."""

    class Broken(Source):
        def wall_now(self) -> float:
            raise RuntimeError("inner secret")

    async with serving(Broken(snapshot())) as ask:
        answer = await ask("/health")
        assert answer.status == 500
        assert answer.json() == {
            "error": {
                "code": "internal-error",
                "text": "this node failed to answer; its log says why",
            }
        }
        assert (await ask("/ready")).status == 200
    assert "inner secret" in capsys.readouterr().out


async def test_garbage_does_not_stop_the_server() -> None:
    """Bytes that are no HTTP get a refusal; the next client is served."""
    async with serving(snapshot()) as ask:
        reader, writer = await asyncio.open_connection("127.0.0.1", int(ask.url.rpartition(":")[2]))
        writer.write(b"\x16\x03\x01 nonsense\r\n\r\n")
        assert b"400" in await reader.readline()
        writer.close()
        await writer.wait_closed()
        assert (await ask("/ready")).status == 200


async def test_a_flood_of_clients_takes_no_more_than_its_share(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Those past the limit are hung up on at once: their files would be missing elsewhere."""
    monkeypatch.setattr(server, "MAX_CONNECTIONS", 8)
    async with serving(snapshot()) as ask:
        port = int(ask.url.rpartition(":")[2])
        clients = [await asyncio.open_connection("127.0.0.1", port) for _ in range(20)]

        def hung_up_on() -> int:
            return sum(bool(r.at_eof() or r.exception()) for r, _ in clients)

        await until(lambda: hung_up_on() == 12, "twelve are hung up on")
        for _, writer in clients:
            writer.close()
        await until(lambda: _answers(ask), "there is room again", retry_on=(HttpError,))


async def test_a_client_that_says_nothing_is_not_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A connection without a request, or with half of one, ends after a while."""
    monkeypatch.setattr(server, "PATIENCE", 0.2)
    async with serving(snapshot()) as ask:
        for words in (b"", b"GET /ready HTTP/1.1\r\nHost"):
            reader, writer = await asyncio.open_connection(
                "127.0.0.1", int(ask.url.rpartition(":")[2])
            )
            writer.write(words)
            with contextlib.suppress(ConnectionError):
                async with asyncio.timeout(5):
                    assert await reader.read() == b""
            writer.close()


async def _answers(ask: Client) -> bool:
    return (await ask("/ready")).status == 200


async def test_the_port_is_free_again_after_the_stop() -> None:
    """Stopping ends idle connections and closes the port; signal handlers were never touched."""
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    async with serving(snapshot()) as ask:
        port = int(ask.url.rpartition(":")[2])
        assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET /ready HTTP/1.1\r\nHost: a\r\n\r\n")
        assert b"200" in await reader.readline()
    with pytest.raises(HttpError):
        await ask("/ready")
    writer.close()
    async with HealthServer(make_app(Source(snapshot()), settings()), "127.0.0.1", port) as again:
        assert again.port == port


async def test_a_port_in_use_is_a_sentence_about_the_setting() -> None:
    """The user reads which setting to change, not an errno."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        server = HealthServer(make_app(Source(snapshot()), settings()), "127.0.0.1", port)
        with pytest.raises(HostError, match=f"^HEALTH_CHECK_PORT {port} is in use on 127.0.0.1;"):
            await server.__aenter__()


async def test_a_foreign_address_is_a_sentence_about_the_setting() -> None:
    """An address that this machine does not have names HEALTH_CHECK_HOST."""
    server = HealthServer(make_app(Source(snapshot()), settings()), "192.0.2.1", 0)
    with pytest.raises(HostError, match=r"^HEALTH_CHECK_HOST 192\.0\.2\.1 cannot be bound"):
        await server.__aenter__()


async def test_errors_of_the_body_leave_as_they_are() -> None:
    """An error inside the block is not wrapped in a group, and the port is closed."""
    client: Any = None
    with pytest.raises(HostError):
        async with serving(snapshot()) as client:
            raise HostError("no device")
    with pytest.raises(HttpError):
        await client("/ready")


async def test_cancelling_the_owner_stops_the_server() -> None:
    """The agent's task group can cancel the task that owns the server."""
    started: asyncio.Future[Client] = asyncio.get_running_loop().create_future()

    async def own() -> None:
        async with serving(snapshot()) as ask:
            started.set_result(ask)
            await asyncio.Event().wait()

    async with asyncio.TaskGroup() as tasks:
        owner = tasks.create_task(own())
        ask = await started
        owner.cancel()
    with pytest.raises(HttpError):
        await ask("/ready")
