"""Who is calling: the caller behind an API key or a bearer token, and what roles may do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from gateway.errors import Code, Problem
from ledger.api_keys import Role

DEFAULT_TENANT = "default"  # the tenant that owns the machine: queues and workers are shared by all


@dataclass(frozen=True, slots=True)
class Caller:
    """The sender of a request, once their credentials have been checked."""

    name: str  # prefix of the key or subject of the token; goes on record
    tenant: str
    role: Role
    rate_per_s: float | None = None

    @property
    def only_own(self) -> str | None:
        """Who must have submitted the jobs that it may list, cancel and read; None: anyone."""
        return self.name if self.role == "producer" else None

    def require_default_tenant(self) -> None:
        """403 for tenants that share the machine but do not run it."""
        if self.tenant != DEFAULT_TENANT:
            raise Problem(
                Code.DEFAULT_TENANT_ONLY,
                "Queues and workers are shared by all tenants.",
                remedy=f"Ask someone with a key of the tenant {DEFAULT_TENANT!r}.",
            )


ACCEPT: tuple[Role, ...] = ("producer", "admin")
READ: tuple[Role, ...] = ("viewer", "operator", "admin")
READ_ONE: tuple[Role, ...] = ("producer", "viewer", "operator", "admin")
# Producers only for jobs that they submitted themselves: `Caller.only_own`.
READ_OWN = READ_ONE
CANCEL: tuple[Role, ...] = ("producer", "operator", "admin")
OPERATE: tuple[Role, ...] = ("operator", "admin")
ADMINISTER: tuple[Role, ...] = ("admin",)
ANYONE: tuple[Role, ...] = ()


def only(roles: tuple[Role, ...], **openapi: Any) -> dict[str, Any]:  # noqa: ANN401 - OpenAPI
    """The `openapi_extra` of a route that only `roles` may call; ANYONE needs no credentials."""
    security: list[dict[str, list[str]]] = [{"api_key": []}, {"bearer": []}] if roles else []
    return {"x-roles": list(roles), "security": security, **openapi}
