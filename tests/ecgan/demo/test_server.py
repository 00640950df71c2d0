"""Who may ask for what, and the command line."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

from ecgan.cli import main
from ecgan.errors import ConfigError

if TYPE_CHECKING:
    from starlette.types import ASGIApp

pytestmark = pytest.mark.usefixtures("gradio")

OWN = {"host": "127.0.0.1:7860"}


def ask(guard: ASGIApp, path: str = "/", method: str = "GET", **headers: str) -> int:
    """The status of the answer; 200 where the request reached what is behind the guard."""
    sent: list[dict] = []

    async def send(message: dict) -> None:
        sent.append(message)

    async def receive() -> dict:
        return {"type": "http.request", "body": b"", "more_body": False}

    named = {**OWN, **{name.replace("_", "-"): value for name, value in headers.items()}}
    scope = {
        "type": "http",
        "method": method,
        "path": path,
        "headers": [(name.encode(), value.encode()) for name, value in named.items()],
    }
    asyncio.run(guard(scope, receive, send))
    return sent[0]["status"]


async def behind(scope, receive, send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"page"})


@pytest.fixture
def make_guard(gradio) -> Callable[..., ASGIApp]:
    from ecgan.demo.guard import Guard

    return lambda *hosts: Guard(behind, hosts)


@pytest.fixture
def guard(make_guard) -> ASGIApp:
    """That of a page on a loopback address."""
    from ecgan.demo.server import LOOPBACK

    return make_guard(*LOOPBACK)


@pytest.mark.parametrize(
    "path",
    ["/", "/config", "/theme.css", "/assets/index.js", "/static/img/a.svg", "/gradio_api/upload"],
)
def test_the_pages_own_paths(guard, path):
    assert ask(guard, path) == 200


@pytest.mark.parametrize(
    "path",
    [
        "/gradio_api/proxy=https://example.org/",
        "/gradio_api/call/make",
        "/gradio_api/run/predict",
        "/gradio_api/openapi.json",
        "/gradio_api/process_recording",
        "/gradio_api/vibe-edit/",
        "/monitoring",
        "/docs",
        "/login",
        "/svelte/a.js",
        "/configuration",
    ],
)
def test_what_else_gradio_serves_is_shut(guard, path):
    assert ask(guard, path) == 404


def test_requests_from_elsewhere_are_refused(guard, make_guard):
    assert ask(guard, host="evil.example:7860") == 403  # a name that was made to lead here
    assert ask(guard, host="") == 403
    assert ask(guard, origin="http://evil.example") == 403
    assert ask(guard, origin="http://127.0.0.1:9999") == 403
    assert ask(guard, origin="null") == 403
    assert ask(guard, origin="http://127.0.0.1:7860") == 200
    assert ask(guard, host="localhost:9000", origin="http://localhost:9000") == 200  # over ssh
    assert ask(guard, host="[::1]:7860") == 200
    assert ask(make_guard(), host="machine.example:7860") == 200  # --host 0.0.0.0


def test_large_requests_are_refused(guard):
    for length in ("33554433", "-1", "x", "", "9" * 5000):
        headers = {"content_length": length} if length else {}
        assert ask(guard, "/gradio_api/queue/join", "POST", **headers) == 413
    assert ask(guard, "/gradio_api/queue/join", "POST", content_length="33554432") == 200


def test_a_taken_port_is_one_sentence(capsys, tmp_path):
    from ecgan.demo.server import address, listen

    with listen("127.0.0.1", 0) as listening:
        port = listening.getsockname()[1]
        assert address(listening) == f"http://127.0.0.1:{port}/"
        assert main(["demo", str(tmp_path), "--port", str(port)]) == 2
    message = capsys.readouterr().err
    assert message == (
        f"ecgan: the page cannot be served at 127.0.0.1, port {port}: Address already in use; "
        "--port takes another one\n"
    )


@pytest.mark.parametrize(("host", "port"), [("no.such.host.invalid", 0), ("127.0.0.1", 99999)])
def test_hosts_and_ports_that_are_none(host, port):
    from ecgan.demo.server import listen

    with pytest.raises(ConfigError, match=f"cannot be served at {host}, port {port}: "):
        listen(host, port)


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])
def test_the_command_prepares_a_page(make_model, host, capsys, tmp_path, monkeypatch):
    from ecgan.demo.server import Server

    opened: list[str] = []
    monkeypatch.setattr("webbrowser.open", opened.append)
    monkeypatch.setattr(Server, "run", lambda server, sockets: server.ready())
    make_model().save_pretrained(tmp_path / "model")
    arguments = [str(tmp_path / "model"), "--host", host, "--port", "0", "--device", "cpu"]
    assert main(["demo", *arguments, "--open"]) == 0
    told = capsys.readouterr()
    assert re.fullmatch(rf"page: {opened[0]} \([\d.]+ s an image; Ctrl-C ends it\)\n", told.out)
    assert re.fullmatch(r"http://127\.0\.0\.1:\d+/", opened[0])
    assert ("whoever reaches port" in told.err) == (host == "0.0.0.0")


def test_a_folder_without_a_model_is_one_sentence(capsys, tmp_path):
    assert main(["demo", str(tmp_path), "--port", "0"]) == 2
    assert str(tmp_path) in capsys.readouterr().err
