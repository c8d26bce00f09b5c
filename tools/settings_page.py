"""Write docs/reference/settings.md from the typed settings, so that the page cannot drift: ``make docs``."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

from densedpo.config import Settings

HEAD = """# Settings

Values come from the defaults below, then from `densedpo.yaml` in the project, then from flags of the same names. An
unknown key fails. `--dry-run` prints what a command would use. An empty default means that the model family decides, or
that nothing is set; what was used is recorded with what was made.

This page is written by `make docs` from `src/densedpo/config.py`; a test fails when the two differ.
"""
SIGNS = {"gt": "> {:g}", "ge": "at least {:g}", "lt": "< {:g}", "le": "at most {:g}"}


def limits(schema: dict[str, Any]) -> str:
    """Return the type and range of one setting in words."""
    if "anyOf" in schema:
        return " or ".join(limits(item) for item in schema["anyOf"] if item.get("type") != "null")
    if "const" in schema:
        return f"`{schema['const']}`"
    if schema.get("type") == "array":
        return f"list of {limits(schema['items'])}"
    if "enum" in schema:
        return ", ".join(f"`{item}`" for item in schema["enum"])
    names = {"exclusiveMinimum": "gt", "minimum": "ge", "exclusiveMaximum": "lt", "maximum": "le"}
    bounds = [SIGNS[short].format(schema[long]) for long, short in names.items() if long in schema]
    return " ".join([str(schema["type"]), ", ".join(bounds)]).strip()


def row(name: str, schema: dict[str, Any]) -> str:
    """Return one table line."""
    given = schema.get("default")
    shown = ",".join(given) if isinstance(given, list) else f"{given:.4g}" if isinstance(given, float) else str(given)
    default = f"`{shown.lower() if isinstance(given, bool) else shown}`" if given not in (None, []) else ""
    return f"| `{name}` | {default} | {limits(schema)} | {schema.get('description', '').replace('|', chr(92) + '|')} |"


def page() -> str:
    """Return the whole page."""
    schema = Settings.model_json_schema()
    lines = [HEAD]
    table = ["| setting | default | values | meaning |", "|---|---|---|---|"]
    lines += table
    sections = []
    for name, field in schema["properties"].items():
        if "$ref" in field:
            sections.append((name, schema["$defs"][field["$ref"].rpartition("/")[2]]))
        else:
            lines.append(row(name, field))
    for name, section in sections:
        about = re.sub(r"``", "`", section["description"].replace("``None`` means", "Empty means"))
        lines += ["", f"## {name}", "", about, "", *table]
        lines += [row(f"{name}.{key}", field) for key, field in section["properties"].items()]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    target = Path(__file__).resolve().parents[1] / "docs" / "reference" / "settings.md"
    if sys.argv[1:] == ["--check"]:
        sys.exit(0 if target.read_text(encoding="utf-8") == page() else f"{target} is out of date; run: make docs")
    target.write_text(page(), encoding="utf-8")
