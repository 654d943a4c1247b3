"""`./relais` itself: a shell script that must work before anything is installed.

The checkout is a small one: empty locks and a command line that prints its
arguments, so that nothing is fetched from anywhere.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.stack.cluster import CHECKOUT

COMMAND_LINE = 'import sys\nprint("got", sys.argv[1:], sys.prefix)\n'


@pytest.fixture
def checkout() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="relais boot ")) / "the checkout"
    (folder / "ops" / "cli").mkdir(parents=True)
    folder.parent.chmod(0o755)
    shutil.copy(CHECKOUT / "relais", folder / "relais")
    for name in ("requirements.lock", "requirements-dev.lock", "requirements-uv.lock"):
        (folder / name).write_text("# nothing\n")
    (folder / "ops" / "__init__.py").touch()
    (folder / "ops" / "cli" / "__init__.py").touch()
    (folder / "ops" / "cli" / "__main__.py").write_text(COMMAND_LINE)
    yield folder
    shutil.rmtree(folder.parent, ignore_errors=True)


def environment(**changes: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RELAIS_")}
    return {**kept, "RELAIS_PYTHON": sys.executable, **changes}


def run(path: Path, *words: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["sh", str(path), *words],
        cwd="/",
        env=environment(**env),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )


def test_first_run_sets_up_the_second_hands_over_at_once(checkout: Path) -> None:
    link = checkout.parent / "a link"
    link.symlink_to("the checkout/relais")
    first = run(link, "status", "a b")
    assert first.returncode == 0, first.stderr
    assert first.stdout == f"got ['status', 'a b'] {checkout.resolve()}/.venv\n"
    assert len([line for line in first.stderr.splitlines() if not line.startswith(" ")]) <= 2
    second = run(checkout / "relais", "down")
    assert second.stderr == ""
    assert second.stdout.startswith("got ['down']")
    # A new lock is installed by itself.
    (checkout / "requirements.lock").write_text("# changed\n")
    assert "Installing requirements.lock" in run(checkout / "relais").stderr
    assert run(checkout / "relais").stderr == ""
    # Tests want more than the rest does; the rest is content with more.
    assert "Installing requirements-dev.lock" in run(checkout / "relais", "test").stderr
    assert run(checkout / "relais", "test", "-k", "x").stdout.startswith("got ['test', '-k', 'x']")


@pytest.mark.parametrize("exit_code", [0, 1])
def test_uv_installs_what_the_lock_pins_pip_stands_in_and_it_is_never_silent(
    checkout: Path, exit_code: int
) -> None:
    venv = checkout / ".venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(venv)], check=True)
    (venv / "bin" / "uv").write_text(
        f'#!/bin/sh\nprintf "%s\\n" "$@" >"{checkout}/asked"\nsleep 3\nexit {exit_code}\n'
    )
    (venv / "bin" / "uv").chmod(0o755)
    done = run(checkout / "relais", "x", PIP_INDEX_URL="http://127.0.0.1:9/simple")
    assert done.stdout.startswith("got ['x']"), done.stderr
    assert "\n  ... " in done.stderr
    asked = (checkout / "asked").read_text().splitlines()
    assert asked[asked.index("--default-index") + 1] == "http://127.0.0.1:9/simple"
    assert asked[-3:] == [
        "--require-hashes",
        "--requirement",
        f"{checkout.resolve()}/requirements.lock",
    ]
    # Nothing goes on talking after the end.
    assert done.stderr.endswith("installed\n")


def test_half_made_environments_are_made_again(checkout: Path) -> None:
    (checkout / ".venv" / "bin").mkdir(parents=True)
    (checkout / ".venv" / "bin" / "python").write_text("#!/bin/sh\nexit 1\n")
    (checkout / ".venv" / "bin" / "python").chmod(0o755)
    abandoned = checkout / ".venv.lock"
    abandoned.mkdir()
    (abandoned / "pid").write_text("999999999\n")
    done = run(checkout / "relais", "x")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("got ['x']")
    assert not abandoned.exists()


def test_two_first_runs_at_once_make_one_environment(checkout: Path) -> None:
    words = ["sh", str(checkout / "relais"), "x"]
    both = [
        subprocess.Popen(
            words, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        for _ in range(2)
    ]
    answers = [process.communicate(timeout=90) for process in both]
    assert [process.returncode for process in both] == [0, 0], answers
    assert all(out.startswith("got ['x']") for out, _ in answers)
    assert sum("Making a Python environment" in err for _, err in answers) == 1


def test_no_python_is_one_sentence(checkout: Path, tmp_path: Path) -> None:
    for name in (
        "dirname",
        "readlink",
        "cksum",
        "tr",
        "cat",
        "basename",
        "mkdir",
        "rm",
        "id",
        "find",
    ):
        (tmp_path / name).symlink_to(shutil.which(name) or name)
    old = tmp_path / "python3"
    old.write_text("#!/bin/sh\nexit 1\n")
    old.chmod(0o755)
    done = subprocess.run(
        ["/bin/sh", str(checkout / "relais"), "status"],
        env={"PATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 1
    assert "Relais needs Python 3.11 or newer" in done.stderr
    assert "python3-venv" in done.stderr


def test_a_missing_venv_module_is_one_sentence(checkout: Path, tmp_path: Path) -> None:
    bare = tmp_path / "bare-python"
    bare.write_text(
        "#!/bin/sh\n"
        'case "$*" in *"-m venv"*) echo "The virtual environment was not created because ensurepip'
        ' is not available."; exit 1;; esac\n'
        f'exec {sys.executable} "$@"\n'
    )
    bare.chmod(0o755)
    done = run(checkout / "relais", RELAIS_PYTHON=str(bare))
    assert done.returncode == 1
    assert "apt install python3-venv" in done.stderr
    assert not (checkout / ".venv").exists()
    assert not (checkout / ".venv.lock").exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root becomes somebody else")
def test_a_checkout_of_somebody_else_is_one_sentence(checkout: Path) -> None:
    done = subprocess.run(
        [
            "setpriv",
            "--reuid=1000",
            "--regid=1000",
            "--clear-groups",
            "sh",
            str(checkout / "relais"),
        ],
        env={"PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 1
    assert "is not writable for" in done.stderr
    assert len(done.stderr.splitlines()) == 1
