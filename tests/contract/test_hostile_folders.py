"""Folders that are no plain function: each is refused with one reason, and what is deployed is what was checked."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from helpers_functions import Make, deploy
from shoal.core.errors import DeployError, SpecError, UsageError
from shoal.platform.port import Platform

HELLO = """
from shoal import http

@http
def hello():
    return "hello"
"""


def test_a_folder_that_changes_all_the_time_is_refused_or_deployed_never_broken(
    platform: Platform, make: Make
) -> None:
    folder, done = make(HELLO), threading.Event()

    def write() -> None:
        number = 0
        while not done.is_set():
            number += 1
            (folder / f"part{number % 50}.txt").write_text("x" * (number % 1000))
            (folder / f"part{(number + 25) % 50}.txt").unlink(missing_ok=True)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        deploy(platform, folder)
    except UsageError as error:
        assert "keeps changing" in error.message  # noqa: PT017 - either outcome is right, this is how the second one reads
    finally:
        done.set()
        writer.join()
    assert platform.invoke(deploy(platform, folder).function).body == b"hello"


def test_what_a_handler_does_to_its_source_while_checked_is_not_deployed(platform: Platform, make: Make) -> None:
    folder = make(HELLO)
    (folder / "handler.py").write_text(
        f"from pathlib import Path\nPath({str(folder)!r}, 'handler.py').write_text('broken(')\n{HELLO}"
    )
    assert platform.invoke(deploy(platform, folder).function).body == b"hello"


def test_mistakes_name_the_folder_and_not_its_copy(platform: Platform, make: Make) -> None:
    folder = make("import nothing_like_this")
    with pytest.raises(DeployError, match=f"{folder}/handler.py:1"):
        deploy(platform, folder)
    folder = make("x = 1")
    with pytest.raises(SpecError, match=f"{folder}/handler.py: no handler"):
        deploy(platform, folder)


def test_a_name_that_is_no_text_is_refused(platform: Platform, make: Make) -> None:
    folder = make(HELLO)
    (folder / os.fsdecode(b"a\nb\xff")).touch()
    with pytest.raises(SpecError, match="not UTF-8"):
        deploy(platform, folder)


def test_a_link_out_is_refused(platform: Platform, make: Make, tmp_path: Path) -> None:
    folder = make(HELLO)
    (tmp_path / "secret").write_text("s")
    (folder / "notes").symlink_to("../secret")
    with pytest.raises(SpecError, match="leads out of the folder"):
        deploy(platform, folder)


@pytest.mark.parametrize("said", ['{"handlers": 5}', '{"handlers": [], "models": 1}', "nothing"])
def test_a_handler_that_ends_the_check_is_told_so(platform: Platform, make: Make, said: str) -> None:
    folder = make(f"import os\nprint({said!r}, flush=True)\nos._exit(0)")
    with pytest.raises(DeployError, match="ended the check"):
        deploy(platform, folder)


def test_a_long_reason_is_cut(platform: Platform, make: Make) -> None:
    for code in ("raise BaseException('x' * 100000)", "from shoal import Model\nModel('m' * 5000)"):
        with pytest.raises((DeployError, UsageError)) as raised:
            deploy(platform, make(code))
        assert len(raised.value.message) < 2_000
        assert "handler.py:" in raised.value.message
