"""The requests of the demo, in the shape that n8n's HTTP Request node sends them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

SENDER = "Relais <hello@example.org>"
TEMPLATED = 5
DELAY_S = 2.0
_NAMES = ("Zoé", "Jürgen", "Łucja", "Søren", "Ana")
_TEMPLATE = {
    "subject": "Your order {{ number }}, {{ name }}",
    "text": "Hello {{ name }},\n\nyour order {{ number }} was sent today.\n",
    "html": "<p>Hello {{ name }},</p><p>your order <b>{{ number }}</b> was sent today.</p>",
}

Job = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Story:
    """Every job of one run: `singles` are posted one by one, `bulk` in batches."""

    tag: str
    domain: str
    singles: list[Job]
    bulk: list[Job]

    @property
    def jobs(self) -> int:
        """How many jobs the run hands over."""
        return len(self.singles) + len(self.bulk)

    @property
    def refused(self) -> int:
        """How many of them cannot succeed: the inbox knows no such user."""
        return 1


def tell(run: str, *, recipients: int, callback_url: str) -> Story:
    """The story of run `run`: its addresses lie under a domain of its own."""
    domain = f"{run}.example.org"
    tag = f"demo:{run}"
    templated = [_templated(number, domain) for number in range(TEMPLATED)]
    singles = [
        _mail(f"zoe@{domain}", "Your password", queue="critical", priority=9),
        *templated,
        _mail(f"later@{domain}", "Two seconds later", queue="template", delay_s=DELAY_S),
        _mail(f"report@{domain}", "Tell me when", queue="critical", callback_url=callback_url),
        _mail(f"defer-once+a@{domain}", "Deferred once, then accepted", queue="template"),
        _mail(f"refuse+a@{domain}", "Nobody lives here", queue="template"),
    ]
    bulk = [
        _mail(f"reader-{number:06}@{domain}", f"Newsletter for reader {number}", queue="bulk")
        for number in range(recipients)
    ]
    for number, job in enumerate(singles + bulk):
        job |= {"tags": [tag], "workflow_id": tag, "idempotency_key": f"{tag}:{number}"}
    return Story(tag, domain, singles, bulk)


def _mail(to: str, subject: str, **wishes: object) -> Job:
    payload = {
        "from": SENDER,
        "to": [to],
        "subject": subject,
        "text": f"{subject}.\n\nSent by the demo; it ends in the local inbox.\n",
    }
    return {"kind": "email.send", "payload": payload, **wishes}


def _templated(number: int, domain: str) -> Job:
    name = _NAMES[number % len(_NAMES)]
    payload = {
        "from": SENDER,
        "to": [f"customer-{number}@{domain}"],
        **_TEMPLATE,
        "variables": {"name": name, "number": f"A-{1000 + number}"},
    }
    return {"kind": "email.send", "payload": payload, "queue": "template"}
