"""What every HTML page of GateScope is made from: its templates, script, style and content security policy."""

import base64
import hashlib
from importlib.resources import files
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jinja2 import Template


def policy(script: str, style: str, images: bool) -> str:
    """The Content-Security-Policy: this script, this style, images embedded in the page, and nothing else."""
    pictures = "data:" if images else "'none'"
    return (
        f"default-src 'none'; script-src '{_hash(script)}'; style-src '{_hash(style)}'; img-src {pictures}; "
        "base-uri 'none'; form-action 'none'"
    )


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def resource(name: str) -> str:
    """The text of a file beside this one."""
    return (files("interp.views.report") / name).read_text(encoding="utf-8")


def template(name: str) -> "Template":
    """A template beside this file; it escapes all text and fails on a name that is not defined."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    loader = PackageLoader("interp.views.report", "")
    environment = Environment(
        loader=loader, undefined=StrictUndefined, autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    return environment.get_template(name)
