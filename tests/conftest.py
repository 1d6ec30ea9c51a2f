"""Fixtures shared by all tests: a tiny real model, its package, and real images where they are at hand."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

if TYPE_CHECKING:
    from model_core.grouped import HierarchicalEnsemble

settings.register_profile("untimed", deadline=None)  # a slow machine is no failure
settings.load_profile("untimed")


@pytest.fixture(scope="session", autouse=True)
def served_on_the_cpu() -> Iterator[None]:
    """Services run on the CPU, theirs in other processes too, unless a test names a runner: with a GPU at hand `auto`
    would take it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HNE_RUNNER", "cpu")
        yield


@pytest.fixture(scope="session")
def tiny_model() -> HierarchicalEnsemble:
    """`hne_tiny` with seeded weights and batch norm statistics of its own data, in evaluation mode."""
    from tests.models import calibrated_model

    return calibrated_model("hne_tiny")


@pytest.fixture(scope="session")
def tiny_package(tmp_path_factory: pytest.TempPathFactory, tiny_model: HierarchicalEnsemble) -> Path:
    """An exported package of `tiny_model`; its accuracy table is made up, its costs are not."""
    from tests.models import exported

    return exported(tiny_model, tmp_path_factory.mktemp("package") / "tiny")


@pytest.fixture(scope="session")
def cifar_folder() -> Path:
    """The real CIFAR-10 (JPEG) image folder named by HNE_CIFAR10_DIR, with train/ and test/."""
    folder = os.environ.get("HNE_CIFAR10_DIR")
    if not folder or not (Path(folder) / "test").is_dir():
        pytest.skip("real images are not here: set HNE_CIFAR10_DIR to a CIFAR-10 image folder with train/ and test/")
    return Path(folder)
