# SPDX-License-Identifier: MIT
"""Holding what is printed, and recordings, against pyduet/schema/duet.json."""

import json
from pathlib import Path
from typing import Any

from jsonschema import Draft202012Validator

SCHEMA = json.loads((Path(__file__).parents[1] / "pyduet/schema/duet.json").read_text())


def check(name: str, value: Any) -> None:
    """Raise jsonschema's ValidationError unless a value is what its definition says."""
    Draft202012Validator({**SCHEMA, "$ref": f"#/$defs/{name}"}).validate(value)
