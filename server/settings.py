"""A server's settings, from its command line and the environment."""

from __future__ import annotations

import ipaddress
import os
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from config import Config, ConfigManager, UserError

TOKEN_VARIABLE, READ_VARIABLE = "PNEUMOSCOPE_TOKEN", "PNEUMOSCOPE_READ_TOKEN"
NOTIFY_VARIABLE = "PNEUMOSCOPE_NOTIFY_SECRET"
TOKEN_LENGTH = 16  # characters at least: guesses are not limited to so few that less would do


@dataclass(frozen=True)
class Settings:
    """One server's settings; `config` is the base of every run that it starts."""

    config: Config = field(default_factory=ConfigManager.load)
    host: str = "127.0.0.1"
    port: int = 8000
    token: str | None = field(default=None, repr=False)
    read_token: str | None = field(default=None, repr=False)  # allows reading only
    data_dirs: tuple[Path, ...] = (Path("data"),)  # where a run's dataset_path may lie
    upload_dir: Path = Path("output/datasets")
    allowed_hosts: tuple[str, ...] = ()  # names beside localhost and plain addresses
    trusted_proxies: tuple[str, ...] = ()  # addresses or networks whose X-Forwarded-* is believed
    keep_days: float | None = None  # ended runs older than that are deleted
    keep_best: int = 10  # but not so many with the highest AUROC of each data set
    notify: str | None = None  # gets a POST when a run ends
    notify_secret: str | None = field(default=None, repr=False)
    notify_private: bool = False  # that address may be a private one
    cancel_grace: float = 30.0  # seconds a cancelled worker has to save and end
    max_sockets: int = 2000
    max_body: int = 1 << 20  # bytes of a JSON body
    max_image: int = 64 << 20  # bytes of an image to predict
    predict_device: str = "cpu"  # where models that predict run; GPUs belong to the runs
    body_timeout: float = 20.0  # seconds for a JSON body, and for each part of an upload

    @property
    def database(self) -> Path:
        """The one thing that server and workers share."""
        return Path(self.config.output.database)

    @property
    def max_upload(self) -> int:
        """Bytes of an uploaded ZIP."""
        return int(self.config.data.max_unpacked_gb * 1e9)

    def readable(self, path: Path) -> bool:
        """Whether a data set at `path`, links resolved, lies in a folder meant for it."""
        folders = [folder.resolve() for folder in (*self.data_dirs, self.upload_dir)]
        return any(path.resolve().is_relative_to(folder) for folder in folders)


def check_exposure(settings: Settings) -> None:
    """Raise UserError where others could reach the server without a token."""
    if settings.token is not None:
        if settings.token == settings.read_token:
            raise UserError("the token for reading must differ from the full one")
        return
    if settings.read_token is not None:
        raise UserError(
            f"a token for reading needs a full one beside it: set {TOKEN_VARIABLE} or give "
            "--token-file FILE"
        )
    reason = None
    if not is_loopback(settings.host):
        reason = f"--host {settings.host}"
    elif settings.trusted_proxies:
        reason = f"--trusted-proxy {settings.trusted_proxies[0]}"
    else:
        for name in settings.allowed_hosts:
            if not _names_this_machine(name):
                reason = f"--allow-host {name}"
    if reason is not None:
        raise UserError(
            f"{reason}: other machines could reach the server, so it needs a token: "
            f"set {TOKEN_VARIABLE} or give --token-file FILE"
        )


def _names_this_machine(name: str) -> bool:
    """Whether a Host header's name can only mean this machine; nothing is looked up."""
    try:
        return ipaddress.ip_address(name.strip("[]")).is_loopback
    except ValueError:
        return name.lower() == "localhost" or name.lower().endswith(".localhost")


def read_proxies(addresses: Sequence[str]) -> tuple[str, ...]:
    """The addresses and networks of --trusted-proxy, checked. Raises UserError.

    An IPv4 address is given in both forms: a socket that takes IPv6 too sees ::ffff:a.b.c.d.
    """
    proxies: list[str] = []
    for text in addresses:
        try:
            network = ipaddress.ip_network(text)
        except ValueError as error:
            raise UserError(
                f"--trusted-proxy {text}: must be an address or a network, such as 10.0.0.7 or "
                f"172.16.0.0/12 ({error})"
            ) from error
        proxies.append(str(network))
        if network.version == 4:
            proxies.append(f"::ffff:{network.network_address}/{96 + network.prefixlen}")
    return tuple(proxies)


def read_token(
    file: Path | None,
    environ: Mapping[str, str] = os.environ,
    variable: str = TOKEN_VARIABLE,
    option: str = "--token-file",
) -> str | None:
    """The token of the file, or else of the environment; None where there is neither.

    Raises UserError for one that is empty, short, or not printable ASCII.
    """
    if file is not None:
        try:
            token = file.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"{option} {file}: cannot be read ({error})") from error
        if not token:
            raise UserError(f"{option} {file}: is empty")
    else:
        token = environ.get(variable, "").strip()
        if variable in environ and not token:
            raise UserError(f"{variable} is empty; give it a token or unset it")
    if not token.isascii() or not token.isprintable():
        raise UserError("the token must be of printable ASCII characters")
    if token and len(token) < TOKEN_LENGTH:
        raise UserError(
            f"the token has {len(token)} characters; it needs {TOKEN_LENGTH} at least. Make one: "
            'python -c "import secrets; print(secrets.token_urlsafe(32))"'
        )
    return token or None


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach an address; a name is looked up."""
    try:
        found = {entry[4][0] for entry in socket.getaddrinfo(host, None)}
    except (OSError, UnicodeError) as error:
        raise UserError(f"--host {host}: is no address of this machine ({error})") from error
    return all(ipaddress.ip_address(str(address)).is_loopback for address in found)
