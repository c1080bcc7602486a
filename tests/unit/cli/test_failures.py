"""Nothing but ``error:``, ``hint:`` and a code ever comes out of a failure."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from helpers_cli import Shell
from shoal.cli import exits, failures
from shoal.cli.root import VERBS, root
from shoal.cli.session import Session
from shoal.core import errors

WAIT_SECONDS = 60


def every_error(kind: type[errors.ShoalError] = errors.ShoalError) -> list[type[errors.ShoalError]]:
    return [kind, *(found for child in kind.__subclasses__() for found in every_error(child))]


def python(code: str, **options: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=WAIT_SECONDS, check=False, **options
    )  # type: ignore[call-overload, no-any-return]


@pytest.mark.parametrize("kind", every_error(), ids=lambda kind: kind.__name__)
def test_each_error_of_the_tree_has_a_code_and_no_traceback(shell: Shell, kind: type[errors.ShoalError]) -> None:
    shell.platform.failure = kind("it broke", hint="mend it")
    shell.platform.is_up = False
    result = shell.run("up")
    assert result.exit_code == exits.code_of(kind("")) in exits.MEANINGS
    assert result.stderr.endswith("error: it broke\nhint: mend it\n")
    assert result.stdout == ""


@pytest.mark.parametrize("kind", every_error(), ids=lambda kind: kind.__name__)
def test_each_error_can_come_out_of_another_process(kind: type[errors.ShoalError]) -> None:
    made = kind("it broke", hint="mend it", retry_after_s=1.0)
    assert (made.message, made.hint, made.retry_after_s) == ("it broke", "mend it", 1.0)


def test_an_unexpected_exception_names_its_log(shell: Shell) -> None:
    shell.platform.failure = ZeroDivisionError("by\nzero")
    shell.function_folder("f")
    result = shell.run("deploy", "f")
    log = shell.folder / "home" / "logs" / "cli.log"
    assert result.exit_code == 1
    assert result.stderr.endswith(f"error: internal: ZeroDivisionError: by zero\nhint: the traceback is in {log}\n")
    assert "Traceback" in log.read_text()
    assert stat.S_IMODE(log.stat().st_mode) == 0o600


def test_an_unexpected_exception_without_a_home(shell: Shell) -> None:
    shell.platform.failure = ZeroDivisionError("by zero")
    (shell.folder / "home").write_text("a file where the folder should be")
    shell.function_folder("f")
    result = shell.run("deploy", "f", "--home", str(shell.folder / "home" / "x"))
    assert result.stderr.endswith("error: internal: ZeroDivisionError: by zero\n")
    assert result.exit_code == 1


@pytest.mark.parametrize("error", [KeyboardInterrupt(), click.Abort(), EOFError()], ids=repr)
def test_an_interruption_says_so(shell: Shell, error: BaseException, capsys: pytest.CaptureFixture[str]) -> None:
    assert failures.handle(error, shell.session()) == exits.INTERRUPTED
    assert capsys.readouterr().err == "\ninterrupted\n"


def test_exiting_is_no_error_of_ours(shell: Shell) -> None:
    with pytest.raises(SystemExit):
        failures.handle(SystemExit(3), shell.session())


def test_all_errors_are_told_in_json_too(shell: Shell) -> None:
    shell.platform.is_up = False
    result = shell.run("status", "--json")
    assert '"code": "not-running"' in result.stdout
    assert result.exit_code == exits.NOT_RUNNING


@pytest.mark.parametrize("verb", VERBS)
def test_each_verb_takes_json_and_home(verb: str) -> None:
    command = root.get_command(click.Context(root), verb)
    assert command is not None
    flags = {flag for parameter in command.params for flag in parameter.opts}
    assert {"--json", "--home"} <= flags


SLOW = """
import sys, time
from pathlib import Path
from shoal.cli.root import root
from shoal.cli.session import Session

class Platform:
    def functions(self): return []
    def status(self):
        print("asked", file=sys.stderr, flush=True)
        time.sleep(600)

root.main(["status"], obj=Session(open=lambda **_: Platform()))
"""


def test_ctrl_c_ends_a_real_process_cleanly() -> None:
    with subprocess.Popen([sys.executable, "-c", SLOW], stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr is not None
            assert process.stderr.readline() == "asked\n"
            process.send_signal(signal.SIGINT)
            assert process.stderr.read() == "\ninterrupted\n"
            assert process.wait(WAIT_SECONDS) == exits.INTERRUPTED
        finally:
            process.kill()


ENDLESS = """
from shoal.cli.root import root
from shoal.cli.session import Session

class Platform:
    def logs(self, name, **_):
        while True:
            yield "x" * 1000

root.main(["logs", "f"], obj=Session(open=lambda **_: Platform()))
"""


def test_a_reader_that_goes_away_is_no_error() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", ENDLESS], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stderr is not None
            assert process.stdout.read(10) == b"x" * 10
            process.stdout.close()
            assert process.stderr.read() == b""
            assert process.wait(WAIT_SECONDS) == exits.BROKEN_PIPE
        finally:
            process.kill()


def test_output_that_nobody_reads_from_the_start_is_no_error() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    code = "import sys; sys.argv = ['shoal', 'version']; from shoal.cli.main import run; run()"
    with os.fdopen(writer, "wb") as stdout:
        ended = subprocess.run(
            [sys.executable, "-c", code], stdout=stdout, stderr=subprocess.PIPE, timeout=WAIT_SECONDS, check=False
        )
    assert (ended.returncode, ended.stderr) == (exits.BROKEN_PIPE, b"")


@pytest.mark.parametrize("args", [("status", "\udcff\udcfe"), ("status", "\udcff", "--json"), ("\udcff",)])
def test_a_name_that_is_no_text_is_an_error_like_any_other(shell: Shell, args: tuple[str, ...]) -> None:
    result = shell.run(*args)
    assert result.exit_code in (exits.USAGE, exits.NOT_FOUND)
    assert "error: " in result.stderr
    if "--json" in args:
        assert json.loads(result.stdout)["error"]["code"] == "not-found"


def test_stderr_that_nobody_reads_is_no_error() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    code = "import sys; sys.argv = ['shoal', 'nonsense']; from shoal.cli.main import run; run()"
    with os.fdopen(writer, "wb") as stderr:
        ended = subprocess.run([sys.executable, "-c", code], stderr=stderr, timeout=WAIT_SECONDS, check=False)
    assert ended.returncode == exits.BROKEN_PIPE


WORDS = st.sampled_from([
    *VERBS, "f", "g", "@latest", "1=90", "2=10", "100", "--json", "--tag", "--yes", "-n", "-f", "-H", "--path",
    "--home", "-", "@x", "{}", "", "a=b", "--", "--help", "-X", "\udcff", "é", "=", "../..", "x" * 300,
    "x" * 300 + "/f", "h/f", "--ext", "loop",
])  # fmt: skip


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(st.lists(WORDS, max_size=6))
def test_any_words_give_a_known_code_and_no_traceback(shell: Shell, words: list[str]) -> None:
    if "f" not in shell.platform.known:
        shell.deploy("f")
        (shell.folder / "loop").symlink_to("loop")
    session = shell.session()
    session.watch = lambda _: ()
    result = CliRunner(env={"SHOAL_HOME": str(shell.folder / "home")}).invoke(root, words, obj=session)
    assert isinstance(result.exception, SystemExit | None)
    assert result.exit_code in exits.MEANINGS
    assert "Traceback" not in result.output
    assert "internal:" not in result.output


def test_without_the_extra_it_says_how_to_get_it() -> None:
    ended = python("import sys; sys.modules['click'] = None; from shoal.cli.main import run; run()")
    assert ended.returncode == 1
    assert ended.stderr == (
        "error: the package 'click' is not installed, which the command line needs\n"
        "hint: pip install 'shoal[platform]'\n"
    )


def test_a_verb_whose_package_is_missing_says_how_to_get_it(tmp_path: Path) -> None:
    (tmp_path / "handler.py").write_text("")
    code = (
        f"import sys; sys.modules['pydantic'] = None; sys.argv = ['shoal', 'check', {str(tmp_path)!r}]\n"
        "from shoal.cli.main import run; run()"
    )
    ended = python(code)
    assert "hint: pip install 'shoal[platform]'" in ended.stderr
    assert ended.returncode == 1


def test_a_missing_module_of_our_own_is_not_blamed_on_the_extra(shell: Shell) -> None:
    shell.platform.failure = ModuleNotFoundError("No module named 'shoal.x'", name="shoal.x")
    shell.function_folder("f")
    assert "internal: ModuleNotFoundError" in shell.run("deploy", "f").stderr


def test_advice_never_fails(capsys: pytest.CaptureFixture[str]) -> None:
    def broken(**_: object) -> object:
        raise ZeroDivisionError

    session = Session(function="f", open=broken)  # type: ignore[arg-type]
    assert failures.handle(errors.NotFoundError("nothing"), session) == exits.NOT_FOUND
    assert capsys.readouterr().err == "error: nothing\nhint: shoal status\n"
