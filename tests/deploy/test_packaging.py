"""What the README, the Makefile and pyproject.toml promise each other."""

from __future__ import annotations

import re
import tomllib
from itertools import chain
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from service.policies.anytime import CONFIDENT
from service.schemas import Options

ROOT = Path(__file__).parents[2]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PROJECT = PYPROJECT["project"]
TARGETS = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))


@pytest.mark.parametrize(
    ("platform", "machine", "runtime"),
    [
        ("linux", "x86_64", "onnxruntime-gpu"),
        ("linux", "aarch64", "onnxruntime"),
        ("darwin", "arm64", "onnxruntime"),
        ("win32", "AMD64", "onnxruntime-gpu"),
        ("win32", "ARM64", "onnxruntime"),
    ],
)
def test_every_platform_gets_exactly_one_onnx_runtime(platform: str, machine: str, runtime: str) -> None:
    environment = {"sys_platform": platform, "platform_machine": machine}
    everything = [*PROJECT["dependencies"], *chain.from_iterable(PROJECT["optional-dependencies"].values())]
    asked_for = {
        requirement.name
        for requirement in map(Requirement, everything)
        if requirement.marker is None or requirement.marker.evaluate(environment)
    }
    assert {name for name in asked_for if name.startswith("onnxruntime")} == {runtime}


def test_serving_is_installed_without_a_training_library() -> None:
    names = {Requirement(text).name for text in PROJECT["dependencies"]}
    assert not names & {"torch", "torchvision", "onnxscript", "matplotlib", "safetensors"}


@pytest.mark.parametrize("package", ["model_core", "service", "training"])
def test_files_that_are_no_code_are_installed_too(package: str) -> None:
    files = {path for path in (ROOT / package).rglob("*") if path.is_file() and path.suffix not in {".py", ".pyc"}}
    patterns = PYPROJECT["tool"]["setuptools"]["package-data"].get(package, [])
    assert files <= {path for pattern in patterns for path in (ROOT / package).glob(pattern)}


@pytest.mark.parametrize("page", ["README.md", "ARCHITECTURE.md", ".ci/run"])
def test_commands_that_a_page_names_exist(page: str) -> None:
    code = "\n".join(re.findall(r"```.*?```|`[^`\n]+`|^exec .*$", (ROOT / page).read_text(), re.DOTALL | re.MULTILINE))
    named = set(re.findall(r"\bmake (?:--\S+ )*([a-z]+)\b", code))
    assert named <= TARGETS
    assert set(re.findall(r"\bhne-(?:serve|train)\b", code)) <= set(PROJECT["scripts"])


def test_the_confidence_that_is_enough_unasked_is_the_one_that_the_pages_name() -> None:
    promise = f"{CONFIDENT} is enough while others wait"
    assert promise in str(Options.model_fields["min_confidence"].description)
    assert promise in (ROOT / "README.md").read_text()


def test_make_help_lists_every_target_that_has_a_description() -> None:
    makefile = (ROOT / "Makefile").read_text()
    phony = re.search(r"^\.PHONY: (.*)$", makefile, re.MULTILINE)
    assert phony is not None
    assert set(phony[1].split()) == TARGETS == set(re.findall(r"^([a-z]+):.*## ", makefile, re.MULTILINE))
