"""The page: three tabs in gradio, served by uvicorn to this machine alone by default.

The browser gets everything from here: no fonts, scripts or counters of others, which a content security policy makes
sure of. Nothing that a user types is logged or kept on disk.
"""

from __future__ import annotations

import ipaddress
import os
import socket
from html import escape
from typing import Any

from diffcse.errors import MissingExtra, UserError
from diffcse.explore import limits, pictures
from diffcse.explore.answers import MOST_HITS, SENTENCES, Answers

_POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; font-src 'self' data:; connect-src 'self'; object-src 'none'; base-uri 'self'; "
    "frame-ancestors 'none'"
)
_MOST_BYTES = 4 * limits.MOST_PASTED + 100_000
"""Of a request: the longest text that is allowed, in UTF-8, and what gradio adds."""


def import_gradio() -> Any:
    """The module `gradio`, with its telemetry off.

    Raises:
        MissingExtra: it is not installed.
    """
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    try:
        import gradio
    except ModuleNotFoundError as error:
        raise MissingExtra("gradio", "gradio", "explore") from error
    return gradio


def build_page(answers: Answers, title: str) -> Any:
    """The three tabs as gradio's Blocks."""
    gr = import_gradio()
    with gr.Blocks(analytics_enabled=False, title=title) as page:
        gr.HTML(f"<h1 style='font-size: 1.4rem; margin: .2rem 0'>{escape(title)}</h1>")
        with gr.Tab("Search"):
            _search_tab(gr, page, answers)
        with gr.Tab("Similarity"):
            _map_tab(gr, page, answers)
        with gr.Tab("What it sees"):
            _sees_tab(gr, page, answers)
    return page


def build_app(answers: Answers, title: str, host: str, port: int) -> Any:
    """The page as an ASGI application with its guards."""
    gr = import_gradio()
    from fastapi import FastAPI
    from starlette.middleware.trustedhost import TrustedHostMiddleware

    page = build_page(answers, title)
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    app.add_middleware(Guard)
    if is_loopback(host):  # a foreign page may point its own name at this machine; such a name is refused
        names = ["localhost", "127.0.0.1", "[::1]", host]
        app.add_middleware(TrustedHostMiddleware, allowed_hosts=names)
    theme = gr.themes.Default(
        primary_hue="blue",
        font=["system-ui", "-apple-system", "Segoe UI", "Roboto", "sans-serif"],
        font_mono=["ui-monospace", "Menlo", "Consolas", "monospace"],
    )
    return gr.mount_gradio_app(
        app,
        page,
        path="/",
        server_name=host,
        server_port=port,
        theme=theme,
        css=pictures.CSS,
        footer_links=[],
        run_history=False,
        show_error=False,
        ssr_mode=False,
        mcp_server=False,
        enable_monitoring=False,
        pwa=False,
    )


def serve(answers: Answers, title: str, host: str, port: int) -> None:
    """Serve the page until interrupted.

    Raises:
        UserError: the address cannot be used.
    """
    app = build_app(answers, title, host, port)
    check_address(host, port)
    import uvicorn

    uvicorn.run(app, host=host, port=port, log_level="warning", access_log=False)


def check_address(host: str, port: int) -> None:
    """Refuse an address that is taken or not ours, before uvicorn ends the process over it."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as trial:
            trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            trial.bind(address)
    except (OSError, OverflowError) as error:
        got = getattr(error, "strerror", None) or error
        raise UserError(f"address {host}:{port}", "free on this machine", got, "choose another --port") from error


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach the address.

    >>> is_loopback("127.0.0.1"), is_loopback("localhost"), is_loopback("0.0.0.0")
    (True, True, False)
    """
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class Guard:
    """ASGI middleware: no uploads, no long requests, and nothing from elsewhere in the browser."""

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer, or refuse with 413 (too long) or 404 (uploads)."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        status = _refusal(scope)
        if status:
            await send({"type": "http.response.start", "status": status, "headers": []})
            await send({"type": "http.response.body", "body": b""})
            return

        async def with_policy(message: Any) -> None:
            if message["type"] == "http.response.start":
                added = [(b"content-security-policy", _POLICY.encode()), (b"referrer-policy", b"no-referrer")]
                message = {**message, "headers": [*message["headers"], *added]}
            await send(message)

        await self.app(scope, receive, with_policy)


def _refusal(scope: Any) -> int:
    if "/upload" in scope["path"]:
        return 404
    headers = dict(scope["headers"])
    if scope["method"] == "POST" and not headers.get(b"content-length", b"").isdigit():
        return 411  # the length of a chunked body is not known until it is here
    return 413 if int(headers.get(b"content-length") or 0) > _MOST_BYTES else 0


def _search_tab(gr: Any, page: Any, answers: Answers) -> None:
    corpus = answers.corpus
    query = gr.Textbox(
        value="Someone is making music.",
        label="Query",
        max_length=limits.MOST_CHARACTERS,
        elem_id="query",
        info=_about(answers),
    )
    with gr.Row():
        button = gr.Button("Search", variant="primary", elem_id="search")
    out = gr.HTML(elem_id="hits")
    with gr.Accordion("Search in your own sentences", open=False):
        pasted = gr.Textbox(
            label=f"Your sentences, one per line, instead of {corpus.name}",
            lines=6,
            max_lines=12,
            max_length=limits.MOST_PASTED,
            elem_id="pasted",
        )
        top_k = gr.Slider(1, MOST_HITS, value=8, step=1, label="Number of hits", elem_id="hits-count")
    _wire(page, answers.search, [query, pasted, top_k], out, button, [query.submit])


def _about(answers: Answers) -> str:
    corpus = answers.corpus
    first = "the first " if corpus.left_out else ""
    return f"Searches {first}{len(corpus.sentences):,} sentences of {corpus.name}."


def _map_tab(gr: Any, page: Any, answers: Answers) -> None:
    text = gr.Textbox(
        value="\n".join(SENTENCES[:8]),
        label=f"Sentences, one per line (2 to {limits.MOST_ON_MAP})",
        lines=8,
        max_lines=limits.MOST_ON_MAP,
        max_length=limits.MOST_PASTED,
        elem_id="sentences",
    )
    button = gr.Button("Compare", variant="primary", elem_id="compare")
    out = gr.HTML(elem_id="map")
    _wire(page, answers.heat_map, [text], out, button, [text.submit])


def _sees_tab(gr: Any, page: Any, answers: Answers) -> None:
    if answers.parts is None:
        assert answers.lacking is not None
        gr.HTML(pictures.no_discriminator(answers.lacking), elem_id="seen")
        return
    with gr.Row():
        settings = {"max_length": limits.MOST_CHARACTERS, "min_width": 280, "scale": 4}
        sentence = gr.Textbox(value=SENTENCES[3], label="Sentence", elem_id="sentence", **settings)
        other = gr.Textbox(value=SENTENCES[6], label="Other sentence", elem_id="other", **settings)
        seed = gr.Number(value=1, label="Seed", precision=0, min_width=120, scale=1, elem_id="seed")
    button = gr.Button("Look", variant="primary", elem_id="look")
    out = gr.HTML(elem_id="seen")
    _wire(page, answers.sees, [sentence, other, seed], out, button, [sentence.submit, other.submit, seed.submit])


def _wire(page: Any, answer: Any, inputs: list[Any], out: Any, button: Any, submits: list[Any]) -> None:
    """Answer to the button, to Enter in a field, and once when the page opens."""
    how = {"inputs": inputs, "outputs": out, "api_name": answer.__name__, "show_progress": "minimal"}
    button.click(answer, **how)
    for submit in submits:
        submit(answer, **{**how, "api_name": None, "api_visibility": "private"})
    page.load(answer, **{**how, "api_name": None, "api_visibility": "private"})
