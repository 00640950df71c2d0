"""What stands between the network and Gradio."""

from __future__ import annotations

import re
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

# What the page asks for; Gradio serves more, which nobody needs here.
_PATHS = re.compile(
    r"/(|config|theme\.css|favicon\.ico|manifest\.json|assets/.*|static/.*|gradio_api/"
    r"(queue/(join|data)|upload|upload_progress|heartbeat/.*|file=.*|startup-events|reset|cancel|"
    r"info|app_id))/?"
)
_POLICY = "; ".join(
    (
        "default-src 'self'",
        # Gradio compiles the painter's script and its own templates in the page.
        "script-src 'self' 'unsafe-inline' 'unsafe-eval'",
        "style-src 'self' 'unsafe-inline'",
        "img-src 'self' data: blob:",
        "font-src 'self' data:",
        "object-src 'none'",
        "base-uri 'self'",
        "form-action 'self'",
        "frame-ancestors 'none'",
    )
)
_MAX_BODY = 32 << 20
"""Bytes of a request: more than an upload or a painting may have."""
# Links for search engines and social networks, and example files in descriptions of the interface.
_FOREIGN = re.compile(
    rb'<meta\s+(?:property="og:|name="twitter:)[^>]*>\s*|https://[a-z.]+/gradio-app/[^"\s]*'
)


class Guard:
    """Stands before Gradio: few paths, small requests, and a policy that keeps the page at home.

    Args:
        app: Gradio's application.
        hosts: names under which the page may be asked for, so that a foreign page cannot reach it
            by a name of its own that leads here; empty for any.
    """

    def __init__(self, app: ASGIApp, hosts: tuple[str, ...]) -> None:
        self.app = app
        self.hosts = hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes a request on, or refuses it."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        refusal = self._refusal(scope)
        if refusal is not None:
            await refusal(scope, receive, send)
            return
        page = _Rewriter(send) if scope["path"] == "/" else None
        if page is not None:
            # Compressed it could not be read here.
            scope = {
                **scope,
                "headers": [h for h in scope["headers"] if h[0] != b"accept-encoding"],
            }
        await self.app(scope, receive, page or _with_policy(send))

    def _refusal(self, scope: Scope) -> PlainTextResponse | None:
        headers = Headers(scope=scope)
        if self.hosts and not self._is_own(headers):
            return PlainTextResponse("this page is for this machine", 403)
        if not _PATHS.fullmatch(scope["path"]):
            return PlainTextResponse("not found", 404)
        length = headers.get("content-length", "")
        known = length.isdecimal() and len(length) < 12
        if scope["method"] == "POST" and not (known and int(length) <= _MAX_BODY):
            return PlainTextResponse("too large", 413)
        return None

    def _is_own(self, headers: Headers) -> bool:
        """Whether a request names this machine and comes from no other page."""
        host = headers.get("host", "")
        origin = headers.get("origin")
        return (urlsplit(f"//{host}").hostname or "") in self.hosts and (
            origin is None or urlsplit(origin).netloc == host
        )


def _with_policy(send: Send) -> Send:
    async def send_(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            headers["content-security-policy"] = _POLICY
            headers["referrer-policy"] = "no-referrer"
            headers["x-content-type-options"] = "nosniff"
        await send(message)

    return send_


class _Rewriter:
    """Sends the page without its links to elsewhere."""

    def __init__(self, send: Send) -> None:
        self.send = _with_policy(send)
        self.start: Message = {}
        self.body = b""

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.start = message
            return
        self.body += message.get("body", b"")
        if message.get("more_body", False):
            return
        body = _FOREIGN.sub(b"", self.body)
        MutableHeaders(scope=self.start)["content-length"] = str(len(body))
        await self.send(self.start)
        await self.send({"type": "http.response.body", "body": body})
