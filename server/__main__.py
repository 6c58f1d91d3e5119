"""`python -m server`: serve the page, the routes and the stream."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import socket
import sys
from pathlib import Path

import uvicorn
from starlette.types import ASGIApp

from config import ConfigManager, UserError
from engine.cli import Parser, set_values
from engine.records.store import Store
from server.app import create_app
from server.demo import queue_demo
from server.limits import CONNECTIONS, allowed_connections
from server.logs import set_up
from server.notify import check_url, read_secret
from server.protocols import SPARE, Connections
from server.settings import (
    NOTIFY_VARIABLE,
    READ_VARIABLE,
    TOKEN_VARIABLE,
    Settings,
    read_proxies,
    read_token,
)

SHUTDOWN_SECONDS = 5
PING_SECONDS = 20.0  # between pings, and for the answer to one


def main(arguments: list[str] | None = None) -> int:
    """Serve until a signal; 0 then, 2 for a mistake that the user can fix."""
    options = parser().parse_args(arguments)
    set_up(options.log_format, options.log_level)
    try:
        settings = settings_of(options)
        app = create_app(settings)
        listener = listen(settings)
        asyncio.run(prepare(settings, options.demo))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    host, port = listener.getsockname()[:2]
    name = f"[{host}]" if ":" in host else host
    print(f"Pneumoscope: http://{name}:{port}  (Ctrl-C ends the server; runs continue)", flush=True)
    connections = allowed_connections(settings.max_sockets)
    server = uvicorn.Server(uvicorn_config(app, options.log_level, connections))
    with contextlib.suppress(KeyboardInterrupt):  # raised again once it has shut down
        server.run(sockets=[listener])
    return 0 if server.started else 1


async def prepare(settings: Settings, demo: bool) -> None:
    """Open the database once. Raises UserError where it cannot be used."""
    async with await Store.open(settings.database):
        pass
    if demo:
        await queue_demo(settings)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    command = Parser(
        prog="python -m server",
        description="Start runs, watch them live, compare them, and fetch what they leave.",
        epilog=f"Where others can reach the server, by --host, --allow-host or --trusted-proxy, a "
        f"token is needed: {TOKEN_VARIABLE}, or --token-file. It then guards every route and the "
        "stream.",
    )
    command.add_argument("--host", default="127.0.0.1", help="address (default: %(default)s)")
    command.add_argument(
        "--port", type=int, default=8000, help="port; 0 takes a free one (default: %(default)s)"
    )
    command.add_argument(
        "--data",
        type=Path,
        action="append",
        metavar="FOLDER",
        help="where data sets of runs may lie; may be given again (default: data)",
    )
    command.add_argument(
        "--uploads",
        type=Path,
        default=Path("output/datasets"),
        metavar="FOLDER",
        help="where uploaded data sets are kept (default: %(default)s)",
    )
    command.add_argument("--config", type=Path, help="a YAML file: the base of every run")
    command.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="override one configuration key of every run; may be given again",
    )
    command.add_argument("--token-file", type=Path, metavar="FILE", help="a file with the token")
    command.add_argument(
        "--read-token-file",
        type=Path,
        metavar="FILE",
        help=f"a file with a second token, which allows reading only (or {READ_VARIABLE})",
    )
    command.add_argument(
        "--allow-host",
        action="append",
        default=[],
        metavar="NAME",
        help="a name under which browsers reach this server; may be given again",
    )
    command.add_argument(
        "--trusted-proxy",
        action="append",
        default=[],
        metavar="ADDRESS",
        help="a proxy, or a network of proxies, whose X-Forwarded-For and X-Forwarded-Proto are "
        "believed; may be given again",
    )
    command.add_argument(
        "--cancel-grace",
        type=float,
        default=30.0,
        metavar="SECONDS",
        help="that a cancelled run has to save and end (default: %(default)s)",
    )
    command.add_argument(
        "--max-sockets",
        type=int,
        default=2000,
        metavar="N",
        help="sockets at most (default: %(default)s)",
    )
    command.add_argument(
        "--predict-device",
        default="cpu",
        metavar="DEVICE",
        help="where models that predict run: cpu, cuda or cuda:N (default: %(default)s)",
    )
    command.add_argument(
        "--demo", action="store_true", help="make a data set and two runs to look at"
    )
    command.add_argument(
        "--keep-days",
        type=float,
        metavar="DAYS",
        help="delete ended runs with their files after so many days (default: keep them)",
    )
    command.add_argument(
        "--keep-best",
        type=int,
        default=10,
        metavar="N",
        help="but never the N best of each data set, by AUROC, nor one tagged 'keep' "
        "(default: %(default)s)",
    )
    command.add_argument(
        "--notify", metavar="URL", help="send a POST there when a run ends, again until it is taken"
    )
    command.add_argument(
        "--notify-secret-file",
        type=Path,
        metavar="FILE",
        help=f"signs it in X-Pneumoscope-Signature (or {NOTIFY_VARIABLE})",
    )
    command.add_argument(
        "--notify-private", action="store_true", help="the URL may lead to a private address"
    )
    command.add_argument(
        "--log-format", default="text", choices=("text", "json"), help="of the log on stderr"
    )
    command.add_argument(
        "--log-level", default="warning", choices=("debug", "info", "warning", "error")
    )
    return command


def settings_of(options: argparse.Namespace) -> Settings:
    """The command line's options, checked. Raises UserError."""
    return Settings(
        config=ConfigManager.load(options.config, overrides=set_values(options.set)),
        host=options.host,
        port=options.port,
        token=read_token(options.token_file),
        read_token=read_token(
            options.read_token_file, variable=READ_VARIABLE, option="--read-token-file"
        ),
        data_dirs=tuple(options.data or [Path("data")]),
        upload_dir=options.uploads,
        allowed_hosts=tuple(options.allow_host),
        trusted_proxies=read_proxies(options.trusted_proxy),
        keep_days=at_least_zero(options.keep_days, "--keep-days"),
        keep_best=int(at_least_zero(options.keep_best, "--keep-best") or 0),
        notify=None if options.notify is None else check_url(options.notify),
        notify_secret=read_secret(options.notify_secret_file, os.environ.get(NOTIFY_VARIABLE)),
        notify_private=options.notify_private,
        cancel_grace=options.cancel_grace,
        max_sockets=options.max_sockets,
        predict_device=options.predict_device,
    )


def at_least_zero(value: float | None, option: str) -> float | None:
    """Raises UserError for a negative number."""
    if value is not None and not value >= 0:
        raise UserError(f"{option} must be at least 0")
    return value


def listen(settings: Settings) -> socket.socket:
    """A listening socket. Raises UserError where the port is taken."""
    if not 0 <= settings.port <= 65535:
        raise UserError(f"port {settings.port}: ports go from 0 to 65535")
    # Not socket.create_server: asyncio switches Nagle's algorithm off only where it sees TCP named,
    # and with it on every second answer waits 40 ms.
    family, kind, _, _, address = socket.getaddrinfo(
        settings.host, settings.port, type=socket.SOCK_STREAM
    )[0]
    listener = socket.socket(family, kind, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(2048)
    except OSError as error:
        listener.close()
        raise UserError(
            f"port {settings.port} of {settings.host} is not available ({error}); choose another "
            "with --port"
        ) from error
    return listener


def uvicorn_config(app: ASGIApp, log_level: str, connections: int = CONNECTIONS) -> uvicorn.Config:
    """uvicorn with our limits; no compression: it costs more memory a socket than all the rest."""
    watched = Connections(app, connections + SPARE)
    return uvicorn.Config(
        watched,
        loop="asyncio",
        interface="asgi3",
        http=watched.protocol_class(),
        ws="websockets-sansio",
        ws_max_size=1024,
        ws_ping_interval=PING_SECONDS,
        ws_ping_timeout=PING_SECONDS,
        ws_per_message_deflate=False,
        limit_concurrency=connections,
        timeout_graceful_shutdown=SHUTDOWN_SECONDS,
        server_header=False,
        proxy_headers=False,  # create_app does it, for --trusted-proxy alone
        access_log=log_level in ("debug", "info"),
        log_level=log_level,
    )


if __name__ == "__main__":
    sys.exit(main())
