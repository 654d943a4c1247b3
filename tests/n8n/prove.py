"""`python -m tests.n8n.prove`: a real n8n with plain HTTP Request nodes drives Relais.

Installs n8n once (tests/n8n/install.py), starts it on the stack's Postgres, imports the
workflows of n8n/examples/ as they are, runs each of them, and checks what came of it:

- bulk-with-wait: a critical mail, a templated one and 500 bulk mails; the signed callback
  resumes the Wait node, after n8n was stopped and started again meanwhile
- send-one-mail: one mail
- on-failure: the refused mail takes the other branch
- verified-callback: a genuine callback passes its Code node, a forged one does not

Needs Node.js 20.19 or later with npm, and port 5678: the local stack lets callbacks go there.
"""

from __future__ import annotations

import argparse
import sys
import time
from contextlib import ExitStack
from pathlib import Path

import httpx

from ops import stack
from ops.demo import target as targets
from ops.stack import ports
from runtime.errors import RelaisError
from tests.n8n import examples, install, observer
from tests.n8n.recorder import Recorder
from tests.n8n.scenarios import (
    bulk_with_wait,
    on_failure,
    send_one_mail,
    verified_callback,
)
from tests.n8n.server import N8n
from tests.n8n.stage import Stage, Verdict

PORT = 5678
RECIPIENTS = 500


def prove(given: argparse.Namespace) -> list[str]:
    """Run everything; the claims that did not hold."""
    program = install.ensure(install.cache_dir())
    place = stack.find(given.data_dir, given.colour, given.port_base)
    target = targets.bring_up(place)
    n8n_port = ports.free()
    with ExitStack() as running:
        recorder = Recorder(given.port, target=f"http://127.0.0.1:{n8n_port}")
        running.callback(recorder.stop)
        n8n = N8n(
            program,
            folder=place.data_dir / "n8n",
            database_url=target.database_url,
            port=n8n_port,
            public_url=recorder.url,
            callback_secret=target.callback_secret(recorder.url),
        )
        print("n8n: importing the examples and starting ...", flush=True)
        n8n.create_database()
        n8n.fill(
            credentials=[examples.credential(observer.producer_key(target))],
            workflows=examples.load(relais_url=target.gateway_url),
        )
        running.callback(n8n.stop)
        n8n.start()
        stage = Stage(target, n8n, recorder, Verdict())
        send_one_mail(stage)
        on_failure(stage)
        verified_callback(stage)
        bulk_with_wait(stage, recipients=given.recipients)
    return stage.verdict.failed


def main() -> int:
    """0: every claim held; 1: one did not, or the proof could not be run."""
    summary, _, _ = (__doc__ or "").partition("\n")
    parser = argparse.ArgumentParser(prog="python -m tests.n8n.prove", description=summary)
    parser.add_argument("--data-dir", type=Path, help="the stack's data folder")
    parser.add_argument("--colour", choices=("blue", "green"))
    parser.add_argument("--port-base", type=int, help="the stack's first port")
    parser.add_argument("--port", type=int, default=PORT, help="where n8n is reached")
    parser.add_argument("--recipients", type=int, default=RECIPIENTS, help="bulk mails")
    started = time.monotonic()
    try:
        failed = prove(parser.parse_args())
    except (RelaisError, httpx.HTTPError) as error:
        print(error, file=sys.stderr)
        return 1
    print(f"{'FAILED' if failed else 'Proven'} in {time.monotonic() - started:.0f} s.")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
