"""What survives an interruption."""

from pathlib import Path

import pytest

from benchmarks.load.journal import Journal


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "new" / "run.jsonl"
    journal = Journal(path, {"seconds": 4, "rhos": (1.0, 2.0)})
    journal.begin({"capacity": 270.0})
    journal.add("one", {"goodput": 0.5})
    journal.add("two", {"goodput": 0.25})
    return path


def test_finished_cells_and_facts_are_found_again(path: Path) -> None:
    journal = Journal(path, {"seconds": 4, "rhos": [1.0, 2.0]})
    assert journal.facts == {"capacity": 270.0}
    assert journal.cells == {"one": {"goodput": 0.5}, "two": {"goodput": 0.25}}


def test_a_line_that_was_cut_off_is_measured_again(path: Path) -> None:
    path.write_text(path.read_text()[:-5])
    journal = Journal(path, {"seconds": 4, "rhos": [1.0, 2.0]})
    assert list(journal.cells) == ["one"]
    journal.add("two", {"goodput": 0.75})
    assert Journal(path, {"seconds": 4, "rhos": [1.0, 2.0]}).cells["two"] == {"goodput": 0.75}


def test_nothing_is_lost_if_the_disk_is_full_when_it_is_read(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path.write_text(before := path.read_text()[:-5])

    def full(*_: object, **__: object) -> int:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(Path, "write_text", full)
        with pytest.raises(OSError, match="No space"):
            Journal(path, {"seconds": 4, "rhos": [1.0, 2.0]})
    assert path.read_text() == before
    assert list(Journal(path, {"seconds": 4, "rhos": [1.0, 2.0]}).cells) == ["one"]


def test_a_complete_journal_is_only_read(path: Path) -> None:
    written = path.stat().st_mtime_ns
    Journal(path, {"seconds": 4, "rhos": [1.0, 2.0]})
    assert path.stat().st_mtime_ns == written
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_cells_of_other_settings_are_not_mixed_in(path: Path) -> None:
    with pytest.raises(SystemExit, match="begun with another seconds"):
        Journal(path, {"seconds": 2, "rhos": [1.0, 2.0]})


@pytest.mark.parametrize(
    "text",
    ["{}\n", "\n\n", '{"settings": {\n', "[]\n", '{"settings": {"seconds": 4, "rhos": [1.0, 2.0]}, "facts": {}}\n[]\n'],
)
def test_a_damaged_journal_is_named_and_kept(path: Path, text: str) -> None:
    path.write_text(text)
    with pytest.raises(SystemExit, match=r"run\.jsonl is damaged or of another version; move it away"):
        Journal(path, {"seconds": 4, "rhos": [1.0, 2.0]})
    assert path.read_text() == text
