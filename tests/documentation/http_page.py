"""The HTTP API as a page of the documentation, written from its OpenAPI document."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

Schema = Mapping[str, Any]

_HEAD: Final = """# HTTP API

Written from the OpenAPI document of a node, which serves it at `/openapi.json` and as a page to try
things at `/docs`. JSON in and out. Whatever goes wrong is answered as `application/problem+json`
(RFC 9457) with `type`, `title`, `status`, `detail` and what else the problem has; nothing was
written then. A write answers with the header `Zonecast-Positions`, which reads take as `min`.
"""
_VERBS: Final = ("get", "post", "patch", "put", "delete")
_TITLES: Final = {
    "zones": "Zones",
    "users": "Users",
    "transfers": "Transfers",
    "channels": "Channels over HTTP",
    "entries": "Tickets and sessions",
    "operation": "Health and metrics",
    "admin": "Steering",
}


def page_of(document: Mapping[str, Any]) -> str:
    """Write an OpenAPI document as Markdown: paths by their tags, then the models.

    Args:
        document: OpenAPI 3.1, as `describe` returns it.
    """
    sections: dict[str, list[str]] = {}
    for path, verbs in document["paths"].items():
        for verb in _VERBS:
            if verb in verbs:
                tag = verbs[verb]["tags"][0]
                sections.setdefault(tag, []).append(_operation(path, verb, verbs[verb]))
    parts = [_HEAD]
    for tag, operations in sections.items():
        parts += [f"## {_TITLES.get(tag, tag.capitalize())}\n", *operations]
    parts.append("## Models\n")
    for name, schema in sorted(document["components"]["schemas"].items()):
        parts.append(_model(name, schema))
    return "\n".join(parts)


def _operation(path: str, verb: str, operation: Mapping[str, Any]) -> str:
    lines = [f"### {verb.upper()} {path}\n", operation.get("description", "").strip() + "\n"]
    parameters = operation.get("parameters", ())
    if parameters:
        rows = (_parameter(parameter) for parameter in parameters)
        lines.append(_table(("parameter", "in", "type", "meaning"), rows))
    body = operation.get("requestBody")
    if body:
        kinds = (_content(content) for content in body["content"].values())
        lines.append(f"Body: {', '.join(kinds)}\n")
    answers = [
        f"{status} {kind}".strip()
        for status, answer in operation["responses"].items()
        if status != "default"
        for kind in [_content(*list(answer.get("content", {}).values())[:1])]
    ]
    lines.append(f"Answers: {'; '.join(answers)}\n")
    return "\n".join(lines)


def _content(content: Mapping[str, Any] | None = None) -> str:
    return "" if content is None else _type(content.get("schema", {}))


def _parameter(parameter: Mapping[str, Any]) -> tuple[str, ...]:
    schema = parameter["schema"]
    meaning = parameter.get("description") or schema.get("description", "")
    needed = "required" if parameter.get("required") else _default(schema)
    return f"`{parameter['name']}`", parameter["in"], _type(schema), _joined(meaning, needed)


def _model(name: str, schema: Schema) -> str:
    lines = [f"### {name}\n"]
    if schema.get("description"):
        lines.append(schema["description"].strip().split("\n")[0] + "\n")
    required = set(schema.get("required", ()))
    rows = [
        (
            f"`{field}`",
            _type(inner),
            _joined(
                inner.get("description", ""), "required" if field in required else _default(inner)
            ),
        )
        for field, inner in schema.get("properties", {}).items()
    ]
    if rows:
        lines.append(_table(("field", "type", "meaning"), rows))
    else:
        lines.append(f"{_type(schema)}\n")
    return "\n".join(lines)


def _type(schema: Schema) -> str:
    """Say what values a schema allows, with their bounds, as text of a table's cell."""
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    if "anyOf" in schema:
        return " or ".join(_type(one) for one in schema["anyOf"])
    if "enum" in schema or "const" in schema:
        return ", ".join(f"`{value}`" for value in schema.get("enum", [schema.get("const")]))
    kind = schema.get("type", "any JSON")
    if kind == "array":
        return _joined(f"list of {_type(schema.get('items', {}))}", _bounds(schema))
    return _joined(str(kind), _bounds(schema))


def _bounds(schema: Schema) -> str:
    words = {
        "minimum": "from {}",
        "exclusiveMinimum": "over {}",
        "maximum": "to {}",
        "minLength": "{} or more characters",
        "maxLength": "at most {} characters",
        "minItems": "{} or more",
        "maxItems": "at most {}",
        "pattern": "`{}`",
    }
    told = (text.format(schema[key]) for key, text in words.items() if key in schema)
    return ", ".join(told).replace("|", "\\|")


def _default(schema: Schema) -> str:
    if "default" not in schema or schema["default"] is None:
        return ""
    return f"default `{schema['default']}`"


def _joined(*parts: str) -> str:
    return ", ".join(part.strip().replace("\n", " ") for part in parts if part.strip())


def _table(heads: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    heads = list(heads)
    return "\n".join([*_lines([heads, ["---"] * len(heads), *rows]), ""])


def _lines(rows: Iterable[Iterable[str]]) -> Iterator[str]:
    for row in rows:
        yield f"| {' | '.join(row)} |"
