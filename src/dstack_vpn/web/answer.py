"""Answers of the HTTP endpoints: JSON that no proxy keeps and no browser takes for a page."""

from typing import Any

import msgspec
from starlette.responses import Response

HEADERS = {
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
}


class JsonAnswer(Response):
    """Plain data as JSON."""

    media_type = "application/json"

    def __init__(
        self, content: Any, status_code: int = 200, headers: dict[str, str] | None = None
    ) -> None:
        super().__init__(content, status_code, headers=HEADERS | (headers or {}))

    def render(self, content: Any) -> bytes:
        """Encode; text that is no valid Unicode loses the characters that are none."""
        try:
            return msgspec.json.encode(content)
        except UnicodeEncodeError:
            return msgspec.json.encode(_valid(content))


def refusal(
    status: int, sentence: str, *, code: str, headers: dict[str, str] | None = None
) -> JsonAnswer:
    """An answer that says in one sentence why there is no other."""
    return JsonAnswer({"error": {"code": code, "text": sentence}}, status, headers)


def _valid(content: Any) -> Any:
    if isinstance(content, str):
        return content.encode("utf-8", "replace").decode("utf-8")
    if isinstance(content, dict):
        return {_valid(k): _valid(v) for k, v in content.items()}
    if isinstance(content, list | tuple):
        return [_valid(v) for v in content]
    return content
