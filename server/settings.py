"""What a server is told at its start."""

from __future__ import annotations

import ipaddress
import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from config import Config, ConfigManager, UserError

TOKEN_VARIABLE = "PNEUMOSCOPE_TOKEN"


@dataclass(frozen=True)
class Settings:
    """One server's settings; `config` is the base of every run that it starts."""

    config: Config = field(default_factory=ConfigManager.load)
    host: str = "127.0.0.1"
    port: int = 8000
    token: str | None = field(default=None, repr=False)
    data_dirs: tuple[Path, ...] = (Path("data"),)  # where a run's dataset_path may lie
    upload_dir: Path = Path("output/datasets")
    allowed_hosts: tuple[str, ...] = ()  # names beside localhost and plain addresses
    cancel_grace: float = 30.0  # seconds a cancelled worker has to save and end
    max_sockets: int = 2000
    max_body: int = 1 << 20  # bytes of a JSON body
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
    if settings.token is None and not is_loopback(settings.host):
        raise UserError(
            f"--host {settings.host}: other machines could reach the server, so it needs a token: "
            f"set {TOKEN_VARIABLE} or give --token-file FILE"
        )


def read_token(file: Path | None, environ: Mapping[str, str] = os.environ) -> str | None:
    """The token of the file, or else of the environment. Raises UserError for an empty one."""
    if file is not None:
        try:
            token = file.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"--token-file {file}: cannot be read ({error})") from error
        if not token:
            raise UserError(f"--token-file {file}: is empty")
    else:
        token = environ.get(TOKEN_VARIABLE, "").strip()
        if TOKEN_VARIABLE in environ and not token:
            raise UserError(f"{TOKEN_VARIABLE} is empty; give it a token or unset it")
    if not token.isascii() or not token.isprintable():
        raise UserError("the token must be of printable ASCII characters")
    return token or None


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach an address; a name is looked up."""
    try:
        found = {entry[4][0] for entry in socket.getaddrinfo(host, None)}
    except (OSError, UnicodeError) as error:
        raise UserError(f"--host {host}: is no address of this machine ({error})") from error
    return all(ipaddress.ip_address(str(address)).is_loopback for address in found)
