"""A platform whose files are damaged says so at once, and starts again once they are out of the way."""

from __future__ import annotations

from pathlib import Path

import pytest

from shoal.core.errors import PlatformError
from shoal.platform.local.client import LocalPlatform


@pytest.mark.parametrize("file", ["platform.db", "broker.db"])
def test_a_broken_database_ends_the_start_with_its_reason(tmp_path: Path, file: str) -> None:
    platform = LocalPlatform(
        tmp_path / "home", gateway_port=0, broker_port=0, fake_pool=True, dies_with_caller=True
    )
    (tmp_path / "home").mkdir()
    path = tmp_path / "home" / file
    path.write_text("words, and more than a header's worth of them " * 100)
    with pytest.raises(PlatformError, match=f"^{path} is not a usable database: file is not a database$") as raised:
        platform.up()
    assert f"mv {path} {path}.broken" in raised.value.hint
    assert not platform.running()
    log = (tmp_path / "home" / "logs" / "broker.log").read_text() if file == "broker.db" else ""
    assert log.count("not a usable database") <= 2  # one line, which names it twice: no second start
    path.rename(f"{path}.broken")
    try:
        assert platform.up().components
    finally:
        platform.down()
