"""Log files: bounded, readable from the end, followed over cuts."""

from __future__ import annotations

from pathlib import Path

from shoal.platform.local import logfiles


def append(path: Path, text: str) -> None:
    with path.open("a") as file:
        file.write(text)


def test_a_large_file_is_set_aside_and_emptied_under_its_writer(tmp_path: Path) -> None:
    path = tmp_path / "a.log"
    with path.open("ab", buffering=0) as writer:
        writer.write(b"x" * 100 + b"\n")
        assert not logfiles.rotate(path, 200)
        assert logfiles.rotate(path, 50)
        writer.write(b"new\n")
    assert path.read_text() == "new\n"
    assert logfiles.previous(path).read_text() == "x" * 100 + "\n"
    assert not logfiles.rotate(tmp_path / "none.log", 1)


def test_the_tail_joins_files_and_what_was_set_aside(tmp_path: Path) -> None:
    first, second = tmp_path / "f-00001.log", tmp_path / "f-00002.log"
    logfiles.previous(first).write_text("1\n2\n")
    first.write_text("3\n\n4\n")
    second.write_text("5\n6")
    assert logfiles.tail([first, second], 100) == ["1", "2", "3", "4", "5", "6"]
    assert logfiles.tail([first, second], 3) == ["4", "5", "6"]


def test_lines_since_an_offset(tmp_path: Path) -> None:
    path = tmp_path / "a.log"
    path.write_text("old\n")
    offset = logfiles.size(path)
    with path.open("a") as file:
        file.write("new\n")
    assert logfiles.lines_since(path, offset, 10) == ["new"]
    assert logfiles.lines_since(path, 10_000, 10) == ["old", "new"]
    assert logfiles.lines_since(tmp_path / "none", 0, 10) == []


def test_follow_gives_complete_lines_new_files_and_survives_a_cut(tmp_path: Path) -> None:
    path, late = tmp_path / "a.log", tmp_path / "b.log"
    path.write_text("before\n")
    steps = iter(
        [
            lambda: append(path, "one\nhal"),
            lambda: append(path, "f\n"),
            lambda: (path.write_text(""), late.write_text("other file\n")),
            lambda: append(path, "after the cut\n"),
        ]
    )
    over = False

    def ended() -> bool:
        nonlocal over
        action = next(steps, None)
        if action is None:
            over = True
        else:
            action()
        return over

    found = list(logfiles.follow(lambda: sorted(tmp_path.glob("*.log")), ended))
    assert found == ["one", "half", "other file", "after the cut"]
