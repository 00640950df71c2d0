"""Serving of the page."""

from __future__ import annotations

import logging
import os
import socket
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import resources

import gradio as gr
import uvicorn
from fastapi import FastAPI
from starlette.types import ASGIApp

from ecgan.demo.guard import Guard
from ecgan.demo.page import Page
from ecgan.demo.uploads import MAX_BYTES
from ecgan.errors import ConfigError

LOOPBACK = ("127.0.0.1", "localhost", "::1")


def listen(host: str, port: int) -> socket.socket:
    """Takes the port, before anything else takes time.

    Raises:
        ConfigError: it is taken, or the host is none of this machine.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family)
    except (OSError, OverflowError) as error:
        number = getattr(error, "errno", None) or 0  # negative ones are of names
        reason = os.strerror(number) if number > 0 else error
        raise ConfigError(
            f"the page cannot be served at {host}, port {port}: {reason}; --port takes another one"
        ) from None


def address(listening: socket.socket) -> str:
    """The page's address."""
    host, port = listening.getsockname()[:2]
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"http://[{host}]:{port}/" if ":" in host else f"http://{host}:{port}/"


@contextmanager
def private_files() -> Iterator[None]:
    """Within it Gradio keeps uploads and images in a folder of their own, removed at the end."""
    with tempfile.TemporaryDirectory(prefix="ecgan-demo-") as folder:
        before = os.environ.get("GRADIO_TEMP_DIR")
        os.environ["GRADIO_TEMP_DIR"] = folder
        try:
            yield
        finally:
            if before is None:
                del os.environ["GRADIO_TEMP_DIR"]
            else:
                os.environ["GRADIO_TEMP_DIR"] = before


def make_app(page: Page, host: str) -> ASGIApp:
    """The application that serves a page; on a loopback address to this machine's browsers only."""
    # Without names of fonts Gradio asks for none from elsewhere.
    theme = gr.themes.Default(
        primary_hue="blue",
        font=["system-ui", "sans-serif"],
        font_mono=["ui-monospace", "monospace"],
    ).set(color_accent="*primary_600", button_primary_background_fill="*primary_600")
    height, width = page.model.size
    style = resources.files("ecgan.demo").joinpath("static", "page.css").read_text("utf-8")
    app = gr.mount_gradio_app(
        FastAPI(docs_url=None, redoc_url=None, openapi_url=None),
        page.blocks,
        path="/",
        footer_links=[],
        run_history=False,
        show_error=False,
        max_file_size=MAX_BYTES,
        ssr_mode=False,
        mcp_server=False,
        pwa=False,
        theme=theme,
        css=f":root {{ --map: {width} / {height}; }}\n{style}",
    )
    return Guard(app, LOOPBACK if host in LOOPBACK else ())


class Server(uvicorn.Server):
    """A server of one page that calls ``ready`` when the page can be opened.

    Args:
        app: from `make_app`.
        ready: what to do then.
    """

    def __init__(self, app: ASGIApp, ready: Callable[[], object]) -> None:
        # A browser keeps its stream of news open: without a limit Ctrl-C would wait for it.
        config = uvicorn.Config(app, ws="none", log_level="error", timeout_graceful_shutdown=1)
        super().__init__(config)
        self.ready = ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Starts and tells."""
        await super().startup(sockets)
        self.ready()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Ends; that the browsers' streams are cut is no error to tell of."""
        logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)
        await super().shutdown(sockets)
