"""Every command that the pages tell is one that its program takes: no flag has been renamed since."""

from __future__ import annotations

import argparse
import importlib
import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

import pytest

from service.settings import load_settings
from training import cli

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "benchmarks" / "results").glob("*.md"))]


def commands() -> Iterator[tuple[str, ...]]:
    """Those of ours in the pages' blocks of shell code."""
    for page in PAGES:
        for block in re.findall(r"^ *```sh\n(.*?)^ *```", page.read_text(), re.DOTALL | re.MULTILINE):
            for line in block.splitlines():
                words = tuple(word for word in shlex.split(line, comments=True) if word != "&")
                if words and (words[0].startswith("hne-") or words[:2] == ("python", "-m")):
                    yield words


COMMANDS = sorted(set(commands()))


class Parsed(BaseException):
    """The program has taken its arguments."""


def test_the_pages_tell_commands_of_every_program() -> None:
    assert {words[0] for words in COMMANDS} == {"python", "hne-serve", "hne-train"}
    assert len(COMMANDS) > 50


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_a_command_that_a_page_tells_is_taken(words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    program, *arguments = words if words[0] != "python" else words[2:]
    if program == "hne-serve":
        load_settings(arguments, {})
        return
    parse = argparse.ArgumentParser.parse_args

    def parsed(*arguments: Any, **named: Any) -> NoReturn:
        parse(*arguments, **named)
        raise Parsed

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parsed)
    if program == "hne-train":
        with pytest.raises(Parsed):
            cli.main(arguments)
    elif program.startswith("benchmarks."):
        monkeypatch.setattr(sys, "argv", [program, *arguments])
        name = program if (ROOT / f"{program.replace('.', '/')}.py").exists() else f"{program}.__main__"
        with pytest.raises(Parsed):
            importlib.import_module(name).main()
    else:
        assert program == "pytest"
