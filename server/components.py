"""What travels, as JSON Schema; the fields of a run come from the configuration's own schema."""

from __future__ import annotations

from typing import Any

from config import Config
from config.rules import Rule
from config.schema import RULES
from engine.records.database import STATUSES
from engine.records.log import METRIC_COLUMNS
from engine.records.queries import FIGURES
from server.artifacts import ARTIFACTS

Schema = dict[str, Any]

OBJECT: Schema = {"type": "object", "additionalProperties": True}
TEXT: Schema = {"type": "string"}
NUMBER: Schema = {"type": "number"}
WHOLE: Schema = {"type": "integer"}


def components(config: Config) -> dict[str, Schema]:
    """The named schemas; the defaults of a run are those of the server's configuration."""
    return {
        "Error": object_of(error=TEXT, detail=TEXT, field=or_null(TEXT)),
        "Health": _health("ok", "degraded"),
        "Ready": _health("ready", "not ready"),
        "Run": _run(),
        "RunDetail": _run_detail(),
        "Progress": _progress(),
        "Metrics": _metrics_row(),
        "Prediction": _prediction(),
        "Event": object_of(event=TEXT, event_id=WHOLE, run_id=WHOLE, at=TEXT),
        "Dataset": _dataset(),
        "ConfigOverrides": config_overrides(config),
    }


def ref(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


def object_of(**properties: Schema) -> Schema:
    return {"type": "object", "required": list(properties), "properties": properties}


def or_null(schema: Schema) -> Schema:
    return {"anyOf": [schema, {"type": "null"}]}


def config_overrides(config: Config) -> Schema:
    """A property for each key that a run may override, with type, range, default and meaning."""
    values = config.to_dict()
    defaults = {f"{name}.{key}": v for name, keys in values.items() for key, v in keys.items()}
    return {
        "type": "object",
        "additionalProperties": False,
        "properties": {
            key: _rule_schema(rule)
            | {"default": defaults[key], "description": f"{rule.meaning} ({rule.allowed()})"}
            for key, rule in RULES.items()
            if not key.startswith("output.")
        },
    }


def _rule_schema(rule: Rule) -> Schema:
    kinds = {"int": "integer", "float": "number", "bool": "boolean", "str": "string"}
    if rule.kind == "str":
        if rule.choices:
            return {"enum": list(rule.choices)}
        return {"type": "string", "minLength": 1} | (
            {"pattern": f"^({rule.pattern})$"} if rule.pattern else {}
        )
    if rule.kind == "map":
        return {"type": "object", "additionalProperties": {"enum": [0, 1, "drop"]}}
    limits: Schema = {}
    if rule.low is not None:
        limits["exclusiveMinimum" if rule.above_low else "minimum"] = rule.low
    if rule.high is not None:
        limits["maximum"] = rule.high
    if rule.kind == "ints":
        return {"type": "array", "items": {"type": "integer", **limits}}
    one: Schema = {"type": kinds[rule.kind], **limits}
    return {"anyOf": [one, {"enum": list(rule.choices)}]} if rule.choices else one


def _health(*statuses: str) -> Schema:
    faults = {"type": "array", "items": TEXT, "description": "a line for each; empty where well"}
    return object_of(
        status={"enum": list(statuses)},
        tasks={"type": "object", "additionalProperties": faults},
    )


def _run() -> Schema:
    optional = {name: or_null(NUMBER) for name in ("training_time", "epoch", "epochs", *FIGURES)}
    optional |= {name: or_null(TEXT) for name in ("started_at", "completed_at", "error")}
    return object_of(
        run_id=WHOLE,
        run_name=TEXT,
        run_description=TEXT,
        training_mode=TEXT,
        status={"enum": list(STATUSES)},
        created_at=TEXT,
        total_epochs_run=or_null(WHOLE),
        early_stopped=or_null({"type": "boolean"}),
        best_epoch=or_null(WHOLE),
        dataset_path=or_null(TEXT),
        tags={"type": "array", "items": TEXT},
        settings=OBJECT,
        progress=or_null(ref("Progress")),
        **optional,
    )


def _run_detail() -> Schema:
    artifact = object_of(
        name={"enum": list(ARTIFACTS)}, file=TEXT, about=TEXT, bytes=WHOLE, url=TEXT
    )
    return object_of(
        run_id=WHOLE,
        run_name=TEXT,
        run_description=TEXT,
        status={"enum": list(STATUSES)},
        tags={"type": "array", "items": TEXT},
        created_at=TEXT,
        config=or_null(OBJECT),
        manifest=or_null(OBJECT),
        result=or_null(OBJECT),
        progress=or_null(ref("Progress")),
        artifacts={"type": "array", "items": artifact},
        last_event_id=WHOLE,
    )


def _progress() -> Schema:
    fields = ("loss", "images_per_second", "eta_seconds")
    return object_of(
        at=TEXT,
        phase=TEXT,
        epoch=WHOLE,
        step=WHOLE,
        steps=WHOLE,
        **{name: or_null(NUMBER) for name in fields},
    )


def _metrics_row() -> Schema:
    return object_of(
        **{name: WHOLE if name == "epoch" else or_null(NUMBER) for name in METRIC_COLUMNS}
    )


def _prediction() -> Schema:
    texts: Schema = {"type": "array", "items": TEXT}
    found = object_of(
        score={"type": "number", "minimum": 0, "maximum": 1},
        label=TEXT,
        threshold=NUMBER,
        operating_point=TEXT,
        operating_points={"type": "object", "additionalProperties": NUMBER},
        label_names=texts,
        warnings=texts,
    )
    found["properties"] |= {"image": TEXT, "heatmap": TEXT}  # data: URLs, where asked for
    return found


def _dataset() -> Schema:
    return object_of(
        dataset_id=WHOLE,
        name=TEXT,
        path=TEXT,
        fingerprint=or_null(TEXT),
        report=or_null(OBJECT),
        created_at=TEXT,
    )
