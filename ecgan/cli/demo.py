"""``ecgan demo``."""

from __future__ import annotations

import contextlib
import sys
import webbrowser
from collections.abc import Sequence
from pathlib import Path

from ecgan.cli.arguments import Parser

_DESCRIPTION = """Serves a page on which one paints a label map and sees what a trained model makes
of it. To this machine only, unless --host says otherwise; it loads nothing from elsewhere."""


def main(arguments: Sequence[str]) -> int:
    """Runs the command; see ``ecgan demo --help``."""
    parser = Parser(prog="ecgan demo", description=_DESCRIPTION, allow_abbrev=False)
    parser.add_argument("source", metavar="RUN|CHECKPOINT|MODEL")
    parser.add_argument(
        "--examples",
        type=Path,
        metavar="DIR",
        help="label maps to start from (default: built-in scenes, for a model of scenes)",
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to serve at")
    parser.add_argument("--port", type=int, default=7860, help="default: 7860; 0: any free one")
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))
    parser.add_argument("--open", action="store_true", help="open the page in the browser")
    given = parser.parse_args(arguments)

    from ecgan.demo.examples import find_examples
    from ecgan.demo.page import Page
    from ecgan.demo.server import LOOPBACK, Server, address, listen, make_app, private_files
    from ecgan.inference import ECGAN
    from ecgan.training.environment import choose_device

    with listen(given.host, given.port) as listening, private_files():
        model = ECGAN.from_pretrained(given.source, device=choose_device(given.device))
        examples = find_examples(given.examples, model.classes, model.size)
        page = Page(model, examples, Path(given.source).name)
        url = address(listening)

        def ready() -> None:
            print(f"page: {url} ({page.seconds:.2f} s an image; Ctrl-C ends it)", flush=True)
            if given.open:
                webbrowser.open(url)

        if given.host not in LOOPBACK:
            print(
                f"ecgan: warning: whoever reaches port {listening.getsockname()[1]} of this "
                "machine can use the page: there is no password",
                file=sys.stderr,
            )
        with contextlib.suppress(KeyboardInterrupt):  # which is how one ends it
            Server(make_app(page, given.host), ready).run(sockets=[listening])
    return 0
