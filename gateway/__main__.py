"""`python -m gateway`: one process, or a parent with RELAIS_GATEWAY_PROCESSES of them.

One process is one event loop; SIGTERM finishes what runs.
"""

from __future__ import annotations

import sys

from gateway import listening
from runtime import logs
from runtime import settings as runtime_settings
from runtime.errors import RelaisError, SettingsError
from tasks.errors import KindError


def main(arguments: list[str]) -> int:
    """Serve until told to stop; 2 for wrong settings, 1 where it cannot start.

    `arguments` are what the parent of several gives each of them: see `processes`.
    """
    try:
        settings = runtime_settings.load()
        settings.require_database_url()
        logs.configure(service="gateway", colour=settings.colour, level=settings.log_level)
        if settings.gateway_processes > 1 and not arguments:
            from gateway import processes  # noqa: PLC0415 - the parent does without all of HTTP

            return processes.run(settings, listening.bind(settings))
        from gateway import server  # noqa: PLC0415 - "
        from tasks import preflight  # noqa: PLC0415 - "

        preflight.require(settings, preflight.DATABASE, preflight.DIRECT, preflight.REDIS)
        return server.run(settings, arguments)
    except (SettingsError, KindError) as error:
        print(error, file=sys.stderr)  # noqa: T201 - the message for whoever started it
        return 2
    except RelaisError as error:
        print(error, file=sys.stderr)  # noqa: T201 - "
        return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
