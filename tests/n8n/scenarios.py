"""Each example workflow, run and judged."""

from __future__ import annotations

import secrets
import time
from collections import Counter
from http import HTTPStatus
from typing import TYPE_CHECKING

from tests.n8n import observer
from tests.n8n.stage import wait_for

if TYPE_CHECKING:
    from tests.n8n.stage import Stage


def bulk_with_wait(stage: Stage, *, recipients: int) -> None:
    """The callback comes while n8n waits, and n8n was restarted while it waited."""
    print(f"bulk-with-wait: 1 critical, 1 templated and {recipients} bulk mails")
    verdict, target = stage.verdict, stage.target
    domain, trace_id = f"n8n-{secrets.token_hex(4)}.example.org", secrets.token_hex(16)
    stage.pause("bulk", paused=True)
    try:
        execution = stage.trigger(
            "relais-bulk-with-wait", trace_id=trace_id, domain=domain, recipients=recipients
        )
        status = stage.wait(execution, "waiting", "success", "error", "crashed")
        verdict.check(
            "the workflow hands everything over and waits", holds=status == "waiting", seen=status
        )
        stage.n8n.stop()
        stage.n8n.start()
    finally:
        stage.pause("bulk", paused=False)
    started = time.monotonic()
    # "crashed" is not the end: while it starts, n8n says so for a moment of those that wait.
    status = stage.wait(execution, "success", "error")
    seconds = time.monotonic() - started
    verdict.check(
        f"it goes on and succeeds ({seconds:.1f} s after the queue was resumed)",
        holds=status == "success",
        seen=status,
    )
    outputs = stage.n8n.node_outputs(execution)
    done = outputs.get("Done", [{}])
    verdict.check(
        "its last node has the state of the closing job",
        holds=done[0].get("state") == "succeeded",
        seen=done,
    )
    _callback(stage, execution, trace_id=trace_id)
    _mails(stage, domain=domain, expected=recipients + 2)
    jobs = observer.jobs(target, tag=f"n8n:{execution}")
    states = Counter(job["state"] for job in jobs)
    verdict.check(
        f"{recipients + 3} jobs, all succeeded",
        holds=states == {"succeeded": recipients + 3},
        seen=states,
    )
    traces = Counter(job["trace_id"] for job in jobs)
    verdict.check(
        "the caller's trace id is on every job", holds=set(traces) == {trace_id}, seen=traces
    )
    queues = Counter(job["queue"] for job in jobs)
    expected = {"critical": 1, "template": 2, "bulk": recipients}
    verdict.check("each went to its queue", holds=queues == expected, seen=queues)


def send_one_mail(stage: Stage) -> None:
    """One node, one mail."""
    print("send-one-mail")
    domain = f"n8n-{secrets.token_hex(4)}.example.org"
    execution = stage.trigger("relais-send-one-mail", trace_id=secrets.token_hex(16), domain=domain)
    status = stage.wait(execution, "success", "error", "crashed")
    stage.verdict.check("the workflow succeeds", holds=status == "success", seen=status)
    _mails(stage, domain=domain, expected=1)


def on_failure(stage: Stage) -> None:
    """A refused mail takes the lower branch, a good one the upper."""
    for recipient, branch, other in (
        ("refuse+somebody", "Tell the office", "Sent"),
        ("somebody", "Sent", "Tell the office"),
    ):
        print(f"on-failure: mail to {recipient}@")
        domain = f"n8n-{secrets.token_hex(4)}.example.org"
        execution = stage.trigger(
            "relais-on-failure", trace_id=secrets.token_hex(16), domain=domain, recipient=recipient
        )
        status = stage.wait(execution, "success", "error", "crashed")
        stage.verdict.check("the workflow succeeds", holds=status == "success", seen=status)
        ran = set(stage.n8n.node_outputs(execution))
        took = branch in ran and other not in ran
        stage.verdict.check(f"it goes on to {branch!r}", holds=took, seen=ran)
        _mails(stage, domain=domain, expected=1)


def verified_callback(stage: Stage) -> None:
    """The Code node lets the genuine callback through and stops at a forged one."""
    for forged in (False, True):
        print(f"verified-callback: {'forged' if forged else 'genuine'}")
        domain = f"n8n-{secrets.token_hex(4)}.example.org"
        stage.pause("critical", paused=True)
        try:
            execution = stage.trigger(
                "relais-verified-callback", trace_id=secrets.token_hex(16), domain=domain
            )
            stage.wait(execution, "waiting")
            if forged:
                stage.forge(execution, {"type": "job.succeeded", "data": {"state": "succeeded"}})
                stage.wait(execution, "error", "success")
        finally:
            stage.pause("critical", paused=False)
        status = stage.wait(execution, "error", "success")
        ran = set(stage.n8n.node_outputs(execution))
        if forged:
            stopped = status == "error" and "Done" not in ran
            stage.verdict.check("the workflow stops there", holds=stopped, seen=(status, ran))
        else:
            done = status == "success" and "Done" in ran
            stage.verdict.check("the workflow goes on to its end", holds=done, seen=(status, ran))
        _mails(stage, domain=domain, expected=1)


def _mails(stage: Stage, *, domain: str, expected: int) -> None:
    def arrived() -> dict[str, int] | None:
        counts = observer.inbox_counts(stage.target, domain=domain)
        return counts if counts["messages"] >= expected else None

    counts = wait_for(f"{expected} mails to {domain}", arrived)
    once = counts["messages"] == expected and counts["duplicates"] == 0
    stage.verdict.check(f"{expected} in the inbox, once each", holds=once, seen=counts)


def _callback(stage: Stage, execution: int, *, trace_id: str) -> None:
    passed = stage.callbacks(execution)
    taken = [one for one in passed if one.status < HTTPStatus.BAD_REQUEST]
    verdict = stage.verdict
    verdict.check(
        "one callback resumed it", holds=len(taken) == 1, seen=[one.status for one in passed]
    )
    secret = stage.target.callback_secret(stage.recorder.url)
    signed = bool(passed) and all(observer.is_signed(one, secret=secret) for one in passed)
    verdict.check(
        "it is signed after Standard Webhooks", holds=signed, seen=[one.headers for one in passed]
    )
    traced = bool(passed) and all(trace_id in one.headers.get("traceparent", "") for one in passed)
    verdict.check(
        "it carries the caller's trace", holds=traced, seen=[one.headers for one in passed]
    )
