"""``shoal dev``: each save is a deployment; a mistake leaves the last good revision."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from click.testing import CliRunner

from helpers_cli import Shell
from helpers_fake_platform import spec_failure
from shoal.cli.root import root


def dev(shell: Shell, *saves: Callable[[], None]) -> tuple[str, str, int]:
    def watch(_folder: object) -> Iterator[object]:
        for number, save in enumerate(saves):
            save()
            yield set()  # nothing new on disk: no deployment
            (shell.folder / "hello" / "handler.py").write_text("#" * number)
            yield {"changes"}
        raise KeyboardInterrupt

    session = shell.session()
    session.watch = watch
    result = CliRunner().invoke(root, ["dev", shell.function_folder("hello")], obj=session)
    return result.stdout, result.stderr, result.exit_code


def test_starts_deploys_and_follows_saves(shell: Shell) -> None:
    shell.platform.is_up = False
    out, err, code = dev(shell, lambda: None)
    assert code == 0
    assert out.splitlines() == [f"hello-0000{number}  http://hello.localhost:8080" for number in (1, 2)]
    assert "watching hello" in err
    assert err.endswith("stopped watching\n")


def test_a_mistake_is_shown_and_the_next_save_goes_on(shell: Shell) -> None:
    def fail() -> None:
        shell.platform.failure = spec_failure()

    def mend() -> None:
        shell.platform.failure = None

    out, err, code = dev(shell, fail, mend)
    assert code == 0
    assert [line.split()[0] for line in out.splitlines()] == ["hello-00001", "hello-00002"]
    assert "error: f/function.yaml:1:1: unknown key 'nam'" in err
    assert "hello-00001 goes on serving at http://hello.localhost:8080" in err


def test_a_first_mistake_is_no_end(shell: Shell) -> None:
    shell.platform.failure = spec_failure()
    out, err, code = dev(shell, lambda: setattr(shell.platform, "failure", None))
    assert (code, out) == (0, "hello-00001  http://hello.localhost:8080\n")
    assert "goes on serving" not in err


def test_an_unchanged_folder_keeps_the_split(shell: Shell) -> None:
    for _ in range(2):
        shell.deploy("hello")
    shell.run("traffic", "hello", "1=90", "2=10")
    split = shell.platform.known["hello"].traffic
    shell.platform.unchanged = True
    out, err, _ = dev(shell)
    assert shell.platform.known["hello"].traffic == split
    assert out == "hello-00002  http://hello.localhost:8080\n"
    assert "hello-00002 exists already; the split stays: 90 % hello-00001, 10 % hello-00002" in err


def test_a_folder_that_is_not_there_starts_nothing(shell: Shell) -> None:
    shell.platform.is_up = False
    result = CliRunner().invoke(root, ["dev", "nowhere"], obj=shell.session())
    assert (result.exit_code, shell.platform.is_up) == (2, False)
    assert "nowhere is not a folder" in result.stderr
