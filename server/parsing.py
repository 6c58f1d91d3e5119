"""What clients send, read and checked."""

from __future__ import annotations

import asyncio
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from starlette.convertors import Convertor, register_url_convertor
from starlette.requests import ClientDisconnect, HTTPConnection, Request

from config import Config, ConfigError
from config.rules import require_known
from config.schema import RULES, SECTIONS, check
from engine.records.store import Store
from server.errors import ApiError
from server.settings import Settings

MAX_DEPTH = 8  # of JSON
MAX_ID = 2**63 - 1  # SQLite's largest integer
NAME_LENGTH, DESCRIPTION_LENGTH, PATH_LENGTH = 200, 10_000, 4096
ERRORS = 20  # that one answer names, at most
KEY_LENGTH = 100  # characters of a key that an answer repeats; no known key is longer
START_KEYS = (
    *("run_name", "run_description", "tags", "dataset_path", "dataset_id", "config_overrides"),
)
CHANGE_KEYS = ("run_name", "run_description", "tags", "add_tags", "remove_tags")
TAGS, TAG_LENGTH = 20, 50


@dataclass(frozen=True)
class StartRequest:
    """A run that somebody asks for."""

    run_name: str
    run_description: str
    dataset: Path
    config: Config
    tags: list[str]


async def read_json(request: Request, settings: Settings) -> dict[str, Any]:
    """The body as a JSON object. Raises ApiError: 400, 408, 413."""
    body = bytearray()
    try:
        async with asyncio.timeout(settings.body_timeout):
            async for chunk in request.stream():
                body += chunk
                if len(body) > settings.max_body:
                    raise ApiError(413, f"a body may have {settings.max_body} bytes at most")
    except TimeoutError:
        raise ApiError(408, "the body did not arrive in time") from None
    except ClientDisconnect:
        raise ApiError(400, "the client went away") from None
    try:
        value = json.loads(body, parse_constant=_refuse_constant)
        json.dumps(value, ensure_ascii=False).encode()  # half a character could not be answered
    except (ValueError, RecursionError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise ApiError(400, f"the body is not JSON: {reason}") from error
    if not isinstance(value, dict):
        raise ApiError(400, 'the body must be a JSON object, as in {"run_name": "baseline"}')
    if _depth(value) > MAX_DEPTH:
        raise ApiError(400, f"the body is nested deeper than {MAX_DEPTH} levels")
    return value


async def read_start(request: Request, settings: Settings, store: Store) -> StartRequest:
    """The body of POST /experiments/centralized. Raises ApiError: 400, 403, 404, 413, 422."""
    body = await read_json(request, settings)
    _require_keys(body, START_KEYS)
    name = _run_name(body)
    description = _text(body, "run_description", DESCRIPTION_LENGTH, default="")
    config = read_config(body.get("config_overrides"), settings)
    dataset = await _dataset(body, settings, store)
    return StartRequest(name, description, dataset, config, _tags(body, "tags"))


async def read_change(request: Request, settings: Settings) -> dict[str, Any]:
    """The body of PATCH /runs/{run_id}, each key checked. Raises ApiError: 400, 413, 422."""
    body = await read_json(request, settings)
    _require_keys(body, CHANGE_KEYS)
    changes: dict[str, Any] = {}
    if "run_name" in body:
        changes["run_name"] = _run_name(body)
    if "run_description" in body:
        changes["run_description"] = _text(body, "run_description", DESCRIPTION_LENGTH)
    return changes | {key: _tags(body, key) for key in CHANGE_KEYS[2:] if key in body}


def changed_tags(before: Any, changes: dict[str, Any]) -> list[str]:
    """A run's tags with `tags`, `add_tags` and `remove_tags`. Raises ApiError 422."""
    tags = changes.get("tags", before if isinstance(before, list) else [])
    tags = list(dict.fromkeys([*tags, *changes.get("add_tags", [])]))
    tags = [tag for tag in tags if tag not in changes.get("remove_tags", [])]
    if len(tags) > TAGS:
        raise ApiError(422, f"a run has at most {TAGS} tags", field="tags")
    return tags


def _tags(body: dict[str, Any], key: str) -> list[str]:
    tags = body.get(key, [])
    if not isinstance(tags, list) or len(tags) > TAGS or not all(map(_is_tag, tags)):
        detail = f"{key} must be a list of at most {TAGS} words of at most {TAG_LENGTH} characters"
        raise ApiError(422, f"{detail}, without commas", field=key)
    return list(dict.fromkeys(tag.strip() for tag in tags))


def _is_tag(tag: Any) -> bool:
    if not isinstance(tag, str) or not tag.isprintable() or "," in tag:
        return False
    return 0 < len(tag.strip()) <= TAG_LENGTH


def _require_keys(body: dict[str, Any], known: tuple[str, ...]) -> None:
    for key in body:
        try:
            require_known(key, list(known), "key", "the body")
        except ConfigError as error:
            raise ApiError(422, str(error), field=key[:KEY_LENGTH]) from error


def _run_name(body: dict[str, Any]) -> str:
    name = _text(body, "run_name", NAME_LENGTH)
    if not name.strip() or not name.isprintable():
        raise ApiError(422, "run_name must be a line of printable text", field="run_name")
    return name.strip()


def read_config(overrides: Any, settings: Settings) -> Config:
    """The server's configuration with a run's overrides: dotted keys, or sections of keys.

    Raises ApiError: 422 for unknown keys and wrong values, 403 for what belongs to the server.
    """
    overrides = {} if overrides is None else overrides
    if not isinstance(overrides, dict):
        raise ApiError(422, "config_overrides must be an object", field="config_overrides")
    keys = sum(len(value) if isinstance(value, dict) else 1 for value in overrides.values())
    if keys > 2 * len(RULES):  # no need to look at each: some are unknown, or given twice
        raise ApiError(
            422,
            f"config_overrides has {keys} keys; there are {len(RULES)}",
            field="config_overrides",
        )
    flat: dict[str, Any] = {}
    for key, value in overrides.items():
        if key in SECTIONS and isinstance(value, dict):
            flat |= {f"{key}.{name}": item for name, item in value.items()}
        else:
            flat[key] = value
    values = settings.config.to_dict()
    refused: list[ApiError] = []
    for key, value in flat.items():
        try:
            _set_key(values, key, value, settings)
        except ApiError as error:
            refused.append(error)
        if len(refused) == ERRORS:
            break  # the nearest name of a key takes time to find
    if refused:  # all of them at once, in the shape of the first
        errors = [{"field": one.field, "detail": one.detail} for one in refused]
        raise ApiError(
            refused[0].status, refused[0].detail, refused[0].field, more={"errors": errors}
        )
    try:
        return Config.from_dict(values)
    except ConfigError as error:  # keys that do not go together
        raise ApiError(422, str(error), field="config_overrides") from error


def _set_key(values: dict[str, dict[str, Any]], key: str, value: Any, settings: Settings) -> None:
    """Override one key. Raises ApiError: 422, 403."""
    field = f"config_overrides.{key[:KEY_LENGTH]}"
    if key.startswith("output."):
        raise ApiError(403, f"{key[:KEY_LENGTH]} belongs to the server", field=field)
    try:
        require_known(key, list(RULES), "key", "config_overrides")
        value = check(key, value, "config_overrides")
    except ConfigError as error:
        raise ApiError(422, str(error), field=field) from error
    on_disk = key == "data.patients" and value != "none" and _exists(Path(value))
    if on_disk or (key == "model.weights" and value not in ("imagenet", "none")):
        _require_readable(value, settings, field)
    section, name = key.split(".")
    values[section][name] = value


async def _dataset(body: dict[str, Any], settings: Settings, store: Store) -> Path:
    if ("dataset_path" in body) == ("dataset_id" in body):
        raise ApiError(422, "give either dataset_path or dataset_id", field="dataset_path")
    if "dataset_id" in body:
        wanted = body["dataset_id"]
        if isinstance(wanted, bool) or not isinstance(wanted, int):
            raise ApiError(422, "dataset_id must be a whole number", field="dataset_id")
        for row in await store.list_datasets():
            if row["dataset_id"] == wanted:
                return Path(row["path"])
        raise ApiError(404, f"there is no data set {wanted}", field="dataset_id")
    text = _text(body, "dataset_path", PATH_LENGTH)
    path = _require_readable(text, settings, "dataset_path")
    if not _exists(path):
        raise ApiError(422, f"there is nothing at {text}", field="dataset_path")
    return path


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # a name too long
        return False


def _require_readable(text: str, settings: Settings, field: str) -> Path:
    """The path with its links resolved, where it lies in the folders for data. Or ApiError 403."""
    try:
        path = Path(text).resolve()
        inside = settings.readable(path)
    except (OSError, ValueError, RuntimeError):  # a null byte, a circle of links
        inside = False
    if not inside:
        raise ApiError(403, f"{field} must lie in a folder given by --data", field=field)
    return path


class RunIdConvertor(Convertor[int]):
    """`{run_id:run_id}`: as many digits as a run can have; Starlette's own takes any number."""

    regex = "[0-9]{1,18}"

    def convert(self, value: str) -> int:
        """The digits as a number."""
        return int(value)

    def to_string(self, value: int) -> str:
        """The number as digits."""
        return str(value)


register_url_convertor("run_id", RunIdConvertor())


async def get_run(connection: HTTPConnection, store: Store) -> dict[str, Any]:
    """The row of the run in the path. Raises ApiError 404."""
    run_id: int = connection.path_params["run_id"]
    row = await store.get_run(run_id)
    if row is None:
        raise ApiError(404, f"there is no run {run_id}", field="run_id")
    return row


def number_of(
    connection: HTTPConnection, name: str, default: int | None, low: int, high: int
) -> int | None:
    """A whole number of the query string. Raises ApiError 422."""
    text = connection.query_params.get(name)
    if text is None:
        return default
    if not re.fullmatch(r"[0-9]{1,19}", text) or not low <= int(text) <= high:
        raise ApiError(422, f"{name} must be a whole number from {low} to {high}", field=name)
    return int(text)


def _text(body: dict[str, Any], key: str, longest: int, default: str | None = None) -> str:
    value = body.get(key, default)
    if not isinstance(value, str) or len(value) > longest:
        raise ApiError(422, f"{key} must be text of at most {longest} characters", field=key)
    return value


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not a number of JSON")


def _depth(value: Any) -> int:
    """How deep objects and lists are nested, without recursion."""
    deepest, waiting = 0, [(value, 1)]
    while waiting:
        item, depth = waiting.pop()
        inner = item.values() if isinstance(item, dict) else item if isinstance(item, list) else ()
        deepest = max(deepest, depth)
        waiting.extend((value, depth + 1) for value in inner if isinstance(value, dict | list))
    return deepest
