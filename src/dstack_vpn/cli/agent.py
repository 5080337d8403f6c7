"""Asking the running agent of this node by its HTTP endpoints, for commands that show what it says.

The answer of whoever listens there is hostile until parsed, and is never waited for without end.
"""

import contextlib
import http.client
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from dstack_vpn.config import read_setting
from dstack_vpn.errors import DstackVpnError, SettingError
from dstack_vpn.probe import REACHED_AT

TIMEOUT = 5.0
"""Seconds for which an agent may be silent, and for a whole answer."""
LONGEST = 64 * 2**20
"""Bytes; what ten thousand peers make is a tenth of it."""
_PART = 2**16


class AgentAwayError(DstackVpnError):
    """The agent of this node does not answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentAddress:
    """Where the agent of this node answers."""

    host: str
    port: int
    token: str | None

    @classmethod
    def find(cls, env_file: Path | None) -> "AgentAddress":
        """By the settings, whatever is wrong with others.

        Raises:
            SettingError: one of them is malformed.
        """
        host: str = read_setting("HEALTH_CHECK_HOST", env_file)
        return cls(
            host=REACHED_AT.get(host, host),
            port=read_setting("HEALTH_CHECK_PORT", env_file),
            token=read_setting("API_TOKEN", env_file),
        )

    def ask(self, path: str, *, timeout: float = TIMEOUT) -> dict[str, Any]:
        """GET a path; its JSON, whatever its status says of the node.

        Args:
            path: such as ``/health``.
            timeout: seconds for the whole of it.

        Raises:
            AgentAwayError: nobody answers in time, or it is no agent that answers.
            SettingError: the agent has another API_TOKEN.
        """
        where = f"{self.host} port {self.port}"
        try:
            status, body = self._get(path, time.monotonic() + timeout, timeout)
            answer = msgspec.json.decode(body)
        except TimeoutError:
            raise AgentAwayError(
                f"the agent at {where} did not answer within {timeout:g} s: it hangs, or this"
                " machine is overloaded"
            ) from None
        except ConnectionRefusedError:
            raise AgentAwayError(f"no agent runs here: nobody answers at {where}") from None
        except (OSError, http.client.HTTPException) as error:
            reason = " ".join(str(error).split()) or type(error).__name__
            raise AgentAwayError(f"no agent answers at {where} ({reason})") from None
        except (msgspec.DecodeError, UnicodeDecodeError):
            answer, status = None, 0
        if status == http.client.UNAUTHORIZED:
            raise SettingError(
                "API_TOKEN", f"is not the one of the agent at {where}", "the agent's own"
            )
        if not isinstance(answer, dict) or status not in (200, 503):
            raise AgentAwayError(f"what answers at {where} is no agent of dstack-vpn")
        return answer

    def _get(self, path: str, deadline: float, timeout: float) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection(self.host, self.port, timeout=timeout)
        headers = {} if self.token is None else {"Authorization": f"Bearer {self.token}".encode()}
        body = bytearray()
        with contextlib.closing(connection):
            connection.request("GET", path, headers=headers)
            response = connection.getresponse()
            while part := response.read1(_PART):
                body += part
                # The socket's own limit is for a silence, not for an answer in drops.
                if time.monotonic() > deadline:
                    raise TimeoutError
                if len(body) > LONGEST:
                    raise http.client.HTTPException("its answer has no end")
            return response.status, bytes(body)
