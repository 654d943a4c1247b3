"""`relais callback-secret`: what a receiver verifies its callbacks with."""

from __future__ import annotations

import json
import os
from typing import Annotated

import typer

from ops.cli.options import AsJson, Colour, DataDir

Url = Annotated[str, typer.Argument(help="Where callbacks go; only scheme, host and port matter.")]


def callback_secret(
    url: Url,
    *,
    tenant: Annotated[str, typer.Option(help="The tenant whose callbacks they are.")] = "default",
    colour: Colour = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> int:
    """Print the secret of a tenant's endpoint; during a rotation the new one, then the old one."""
    from ops.errors import OpsError, UsageError
    from ops.stack import find, secrets
    from tasks.errors import BlockedAddress
    from tasks.outbound import signature

    masters = os.environ.get("RELAIS_CALLBACK_SECRET") or secrets.read(
        find(data_dir, colour).secrets
    ).get("callback_secret", "")
    if not masters:
        sentence = "There is no callback secret yet."
        remedy = "Set RELAIS_CALLBACK_SECRET, or start the local stack: ./relais up."
        raise OpsError(sentence, remedy=remedy)
    try:
        found = signature.endpoint_secrets(masters, tenant=tenant, url=url)
        endpoint = signature.endpoint_of(url)
    except BlockedAddress as error:
        raise UsageError(error.sentence, remedy="Write it like https://n8n.example.com.") from error
    if as_json:
        print(json.dumps({"tenant": tenant, "endpoint": endpoint, "secrets": found}))
    else:
        print(*found, sep="\n")
    return 0
