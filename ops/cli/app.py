"""The commands under one name; invalid input gets one sentence and exit code 2."""

from __future__ import annotations

import sys
from importlib import import_module, util
from typing import Annotated

import typer

# Typer vendors click and gives these two no public name.
from typer._click.exceptions import ClickException, UsageError

from ops import errors
from ops.cli import callback_secret, demo, doctor, down, jobs, key, logs, screen, status, test, up
from runtime.errors import RelaisError
from runtime.version import VERSION

app = typer.Typer(
    name="relais",
    help="Relais: a durable job engine for people who automate with n8n.",
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
app.command("up")(up.up)
app.command("down")(down.down)
app.command("status")(status.status)
app.command("logs")(logs.logs)
app.command("doctor")(doctor.doctor)
app.command("callback-secret")(callback_secret.callback_secret)
app.command("demo")(demo.demo)
app.command("test", context_settings={"allow_extra_args": True, "ignore_unknown_options": True})(
    test.test
)
if util.find_spec("lab"):  # not part of the image
    import_module("lab.commands").add_to(app)
app.add_typer(key.app, name="key")
app.add_typer(jobs.app, name="jobs")

_INTERRUPTED = 130


@app.callback(invoke_without_command=True)
def _help(
    context: typer.Context,
    *,
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
) -> None:
    if version:
        typer.echo(f"relais {VERSION}")
        raise typer.Exit
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


def main(arguments: list[str]) -> int:
    """Run one command; 0 done, 1 failed, 2 invalid input, 130 interrupted."""
    try:
        _refuse_unreadable(arguments)
        result = app(arguments, prog_name="./relais", standalone_mode=False)
    except UsageError as error:
        where = error.ctx.command_path if error.ctx else "./relais"
        message = error.format_message().rstrip(".?")
        end = "?" if "Did you mean" in message else "."
        print(screen.visible(f"{message}{end} See {where} --help."), file=sys.stderr)
        return 2
    except ClickException as error:
        print(screen.visible(error.format_message()), file=sys.stderr)
        return 1
    except RelaisError as error:
        print(screen.visible(str(error)), file=sys.stderr)
        return 2 if isinstance(error, errors.UsageError) else 1
    except (typer.Abort, KeyboardInterrupt):
        return _INTERRUPTED
    return result if isinstance(result, int) else 0


def _refuse_unreadable(arguments: list[str]) -> None:
    """Bytes that are not UTF-8 arrive as surrogates, which neither Postgres nor a file can hold."""
    for word in arguments:
        try:
            word.encode()
        except UnicodeEncodeError as error:
            sentence = f"The argument {word!r} is not UTF-8 text."
            raise errors.UsageError(sentence, remedy="Write it in UTF-8.") from error
