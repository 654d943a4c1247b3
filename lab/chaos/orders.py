"""What the load asks for: a seeded stream of orders, and what each shall lead to."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import random
    from collections.abc import Iterator

Shape = Literal["one", "batch", "chain", "cancel"]
CANCEL_DELAY_S = 30.0


@dataclass(frozen=True, slots=True)
class Order:
    """Jobs that are handed over together; each has a key of its own."""

    shape: Shape
    jobs: tuple[dict[str, Any], ...]


@dataclass(eq=False)
class Stream:
    """Orders without end; the same seed gives the same ones."""

    rng: random.Random
    callback_base: str
    _count: int = field(default=0)

    def __iter__(self) -> Iterator[Order]:
        """One after the other."""
        while True:
            draw = self.rng.random()
            if draw < 0.74:
                yield Order("one", (self._job(),))
            elif draw < 0.84:
                yield Order("batch", tuple(self._job() for _ in range(self.rng.randint(2, 6))))
            elif draw < 0.93:
                yield Order("chain", tuple(self._job(queue="template") for _ in range(3)))
            else:
                yield Order("cancel", ({**self._job(), "delay_s": CANCEL_DELAY_S},))

    def _job(self, queue: str | None = None) -> dict[str, Any]:
        self._count += 1
        key = f"k{self._count:06d}"
        queue = queue or self.rng.choice(("critical", "template", "bulk"))
        is_render = self.rng.random() < 0.25
        job = self._render(key) if is_render else self._mail(key)
        job |= {"idempotency_key": key, "queue": queue, "max_attempts": 60}
        if self.rng.random() < 0.3:
            job["callback_url"] = f"{self.callback_base}/{key}"
        if self.rng.random() < 0.1:
            job["delay_s"] = round(self.rng.uniform(0.5, 5.0), 2)
        return job

    def _render(self, key: str) -> dict[str, Any]:
        payload = {"template": "Bonjour {{ name }}", "variables": {"name": key}}
        return {"kind": "template.render", "payload": payload}

    def _mail(self, key: str) -> dict[str, Any]:
        draw = self.rng.random()
        start = "once451." if draw < 0.06 else "refused." if draw < 0.09 else "m."
        count = 3 if start == "m." and self.rng.random() < 0.2 else 1
        payload: dict[str, Any] = {
            "from": "Relais <relais@example.org>",
            "to": [f"{start}{key}.{number}@example.org" for number in range(count)],
            "subject": f"Order {key}",
            "text": "It is on its way.",
        }
        relay = self.rng.choices(
            ("default", "once", "header", "members"), weights=(60, 15, 15, 10)
        )[0]
        if relay != "default":
            payload["relay"] = relay
        if self.rng.random() < 0.2:
            payload |= {"subject": "Order {{ key }}", "variables": {"key": key}}
        return {"kind": "email.send", "payload": payload}
