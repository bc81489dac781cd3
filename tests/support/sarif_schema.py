"""The part of the SARIF 2.1.0 schema that the logs of moth-eval use, with all its constraints.

Written from the OASIS standard, section 3: required properties, closed enumerations, types, and
that only a result of the kind `fail` may have a level other than `none` (3.27.10).
"""

from __future__ import annotations

from typing import Any


def _closed(required: list[str], **properties: Any) -> dict[str, Any]:
    return {
        "type": "object",
        "required": required,
        "properties": properties,
        "additionalProperties": False,
    }


_URI = {"type": "string", "pattern": r"^[A-Za-z][A-Za-z0-9+.-]*:[!#-;=?-\[\]_a-z~%]+$"}
_TEXT = {"type": "string", "minLength": 1, "pattern": r"^[^\x00-\x1f\x7f]*$"}
_INDEX = {"type": "integer", "minimum": -1}
_MESSAGE = _closed(["text"], text=_TEXT)
_REFERENCE = {"type": "string", "pattern": r"^[!#-;=?-\[\]_a-z~%]+$"}
"""Absolute, or relative to the root of a repository (3.4.3)."""
_ARTIFACT_LOCATION = _closed([], uri=_REFERENCE, index=_INDEX)
_LOCATIONS = {
    "type": "array",
    "items": _closed([], physicalLocation=_closed([], artifactLocation=_ARTIFACT_LOCATION)),
}
_STRINGS = {"type": "object", "additionalProperties": {"type": "string"}}

_RULE = _closed(["id"], id=_TEXT, shortDescription=_MESSAGE)
_DRIVER = _closed(
    ["name"],
    name=_TEXT,
    version=_TEXT,
    semanticVersion={"type": "string", "pattern": r"^\d+\.\d+\.\d+"},
    rules={"type": "array", "items": _RULE, "uniqueItems": True},
)
_RESULT: dict[str, Any] = {
    **_closed(
        ["message"],
        ruleId=_TEXT,
        ruleIndex=_INDEX,
        kind={"enum": ["notApplicable", "pass", "fail", "review", "open", "informational"]},
        level={"enum": ["none", "note", "warning", "error"]},
        message=_MESSAGE,
        locations=_LOCATIONS,
        partialFingerprints=_STRINGS,
        properties={"type": "object"},
    ),
    "if": {"properties": {"kind": {"const": "fail"}}},
    "then": {"properties": {"level": {"not": {"const": "none"}}}},
    "else": {"properties": {"level": {"const": "none"}}},
}
_ARTIFACT = _closed(
    [],
    location=_ARTIFACT_LOCATION,
    hashes={"type": "object", "additionalProperties": {"type": "string", "pattern": "^[0-9a-f]+$"}},
)
_NOTIFICATION = _closed(
    ["message"],
    level={"enum": ["none", "note", "warning", "error"]},
    message=_MESSAGE,
    locations=_LOCATIONS,
)
_INVOCATION = _closed(
    ["executionSuccessful"],
    executionSuccessful={"type": "boolean"},
    exitCode={"type": "integer"},
    toolExecutionNotifications={"type": "array", "items": _NOTIFICATION},
)

SARIF = _closed(
    ["version", "runs"],
    **{"$schema": _URI},
    version={"const": "2.1.0"},
    runs={
        "type": "array",
        "items": _closed(
            ["tool"],
            tool=_closed(["driver"], driver=_DRIVER),
            invocations={"type": "array", "items": _INVOCATION},
            artifacts={"type": "array", "items": _ARTIFACT, "uniqueItems": True},
            results={"type": "array", "items": _RESULT},
        ),
    },
)
