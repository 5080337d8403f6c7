"""The HTTP application: a path, a snapshot, an answer. No request asks the chain or the device."""

import hmac
import math
from typing import Protocol

import structlog
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from dstack_vpn.config import Settings, public_settings
from dstack_vpn.mesh.access import find
from dstack_vpn.mesh.health import Health, Status
from dstack_vpn.mesh.snapshot import Snapshot
from dstack_vpn.web.answer import JsonAnswer, refusal
from dstack_vpn.web.render import (
    render_access,
    render_decision,
    render_health,
    render_ready,
    render_stats,
    render_wireguard,
)

log = structlog.get_logger()

SENTENCES = {
    404: ("not-found", "there is nothing at this path"),
    405: ("method-not-allowed", "this path answers GET and HEAD only"),
}


class SnapshotSource(Protocol):
    """Where the endpoints get what they show."""

    @property
    def snapshot(self) -> Snapshot:
        """The newest snapshot."""

    def assess(self, fresh: float | None = None) -> Health:
        """Judge the newest snapshot now; `fresh` is the strict form of readiness, in seconds."""

    def wall_now(self) -> float:
        """Seconds since 1970."""


def make_app(source: SnapshotSource, settings: Settings) -> Starlette:
    """Make the application.

    Args:
        source: gives the newest snapshot and the time.
        settings: are shown by `/config`, and say which token `/api/*` asks for.
    """
    views = _Views(source, settings)
    routes = [
        Route("/health", views.health),
        Route("/ready", views.ready),
        Route("/stats", views.stats),
        Route("/wireguard", views.wireguard),
        Route("/config", views.config),
        Route("/api/access", views.access),
        Route("/api/access/{node_id}", views.access_of),
    ]
    app = Starlette(
        routes=routes,
        exception_handlers={HTTPException: _on_refusal, Exception: _on_failure},
    )
    app.router.redirect_slashes = False
    return app


class _Views:
    """One method a path."""

    def __init__(self, source: SnapshotSource, settings: Settings) -> None:
        self._source = source
        self._settings = settings
        # Settings never change while the process lives.
        self._public = public_settings(settings)

    async def health(self, _request: Request) -> Response:
        snapshot = self._source.snapshot
        health = self._source.assess()
        shown = render_health(snapshot, health, wall_now=self._source.wall_now())
        return JsonAnswer(shown, 503 if health.status is Status.UNHEALTHY else 200)

    async def ready(self, request: Request) -> Response:
        try:
            fresh = _fresh(request.query_params.get("fresh"))
        except ValueError as error:
            return refusal(400, str(error), code="bad-request")
        health = self._source.assess(fresh)
        return JsonAnswer(render_ready(health), 200 if health.ready else 503)

    async def stats(self, _request: Request) -> Response:
        snapshot = self._source.snapshot
        health = self._source.assess()
        return JsonAnswer(render_stats(snapshot, health, wall_now=self._source.wall_now()))

    async def wireguard(self, _request: Request) -> Response:
        shown = render_wireguard(
            self._source.snapshot,
            wall_now=self._source.wall_now(),
            static=self._settings.endpoints,
            template=self._settings.endpoint_template,
        )
        return JsonAnswer(shown)

    async def config(self, _request: Request) -> Response:
        return JsonAnswer(self._public)

    async def access(self, request: Request) -> Response:
        snapshot = self._source.snapshot
        if objection := self._objection(request, snapshot):
            return objection
        return JsonAnswer(render_access(snapshot))

    async def access_of(self, request: Request) -> Response:
        snapshot = self._source.snapshot
        if objection := self._objection(request, snapshot):
            return objection
        # An unknown node is an answer (NODE_NOT_FOUND), not a missing page.
        decision = find(snapshot.decisions.values(), request.path_params["node_id"])
        return JsonAnswer(render_decision(decision))

    def _objection(self, request: Request, snapshot: Snapshot) -> Response | None:
        if not _authorized(request.headers.get("authorization", ""), self._settings.api_token):
            return refusal(
                401,
                "this path asks for the header Authorization: Bearer API_TOKEN",
                code="unauthorized",
                headers={"WWW-Authenticate": "Bearer"},
            )
        if snapshot.chain.membership is None:
            # NODE_NOT_FOUND would be a claim about a list that nobody has read.
            return refusal(503, "the membership has not been read yet", code="not-ready")
        return None


def _authorized(header: str, token: str | None) -> bool:
    if token is None:
        return True
    scheme, _, given = header.partition(" ")
    # compare_digest takes the same time wherever the first difference is. Headers are bytes, which
    # starlette shows as Latin-1.
    same = hmac.compare_digest(given.strip().encode("latin-1"), token.encode())
    return same and scheme.lower() == "bearer"


def _fresh(text: str | None) -> float | None:
    if text is None:
        return None
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds < math.inf:
        raise ValueError("fresh is not a number of seconds above 0, such as fresh=10")
    return seconds


async def _on_refusal(_request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    code, sentence = SENTENCES.get(error.status_code, ("refused", "the request was refused"))
    headers = dict(error.headers) if error.headers else None
    return refusal(error.status_code, sentence, code=code, headers=headers)


async def _on_failure(request: Request, error: Exception) -> Response:
    log.error("web.failed", path=request.url.path, error=repr(error), exc_info=error)
    return refusal(500, "this node failed to answer; its log says why", code="internal-error")
