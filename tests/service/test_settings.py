"""Settings: one definition for flags, environment and documentation."""

from __future__ import annotations

from pathlib import Path

import pytest

from service.errors import SettingsError
from service.settings import Settings, load_settings, shipped_model


def test_a_flag_goes_before_the_environment_before_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HNE_PORT", "9000")
    monkeypatch.setenv("HNE_MAX_BATCH", "7")
    settings = load_settings(["--port", "9001"])
    assert (settings.port, settings.max_batch, settings.host) == (9001, 7, "127.0.0.1")


def test_help_shows_flag_environment_default_and_unit(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        load_settings(["--help"])
    assert stop.value.code == 0
    text = " ".join(capsys.readouterr().out.split())
    for name, field in Settings.model_fields.items():
        assert f"--{name.replace('_', '-')}" in text
        assert f"[env: HNE_{name.upper()}]" in text
        assert field.description
    assert "longest deadline a request can have, milliseconds (default: 30000" in text


@pytest.mark.parametrize(
    ("arguments", "fault"),
    [
        (["--port", "http"], "--port or HNE_PORT"),
        (["--port", "70000"], "less than or equal to 65535"),
        (["--max-batch", "0"], "--max-batch or HNE_MAX_BATCH"),
        (["--max-deadline-ms", "inf"], "finite"),
        (["--default-deadline-ms", "60000"], "longer than max_deadline_ms"),
        (["--drain-seconds", "inf"], "--drain-seconds or HNE_DRAIN_SECONDS: .*less than or equal to 86400"),
        (["--profile-seconds", "inf"], "--profile-seconds or HNE_PROFILE_SECONDS"),
        (["--reply-ms", "inf"], "--reply-ms or HNE_REPLY_MS: .*finite"),
        (["--max-upload-bytes", "9"], r"max_body_bytes \(10485760\) is more than max_upload_bytes \(9\)"),
        (["--max-waiting", "4"], r"max_images \(32\) is more than max_waiting \(4\)"),
        (["--log-level", "loud"], "'debug', 'info', 'warning' or 'error'"),
    ],
)
def test_a_bad_value_is_an_error_that_names_it(arguments: list[str], fault: str) -> None:
    with pytest.raises(SettingsError, match=fault):
        load_settings(arguments)


def test_an_unknown_flag_ends_with_usage(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        load_settings(["--max-bach", "3"])
    assert stop.value.code == 2
    assert "unrecognized arguments: --max-bach" in capsys.readouterr().err


def test_a_mistyped_environment_name_is_told_the_right_one() -> None:
    with pytest.raises(SettingsError, match="HNE_MAX_BACH is no setting; did you mean HNE_MAX_BATCH"):
        load_settings([], {"HNE_MAX_BACH": "3"})
    assert load_settings([], {"HNE_CIFAR10_DIR": "elsewhere"}).port == 8000


def test_keys_are_separated_by_commas_and_never_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HNE_API_KEYS", "alpha, beta,")
    settings = load_settings([])
    assert [key.get_secret_value() for key in settings.api_keys] == ["alpha", "beta"]
    assert "alpha" not in repr(settings)


@pytest.mark.parametrize("given", ["", ",", " "], ids=["empty", "comma", "blank"])
def test_keys_that_are_none_do_not_open_the_service(given: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HNE_API_KEYS", given)
    with pytest.raises(SettingsError, match=r"HNE_API_KEYS.*holds no key"):
        load_settings([])


def test_the_shipped_model_is_the_one_package_there_is(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"--model FOLDER or HNE_MODEL.*holds none"):
        shipped_model(tmp_path)
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
    (tmp_path / "first" / "manifest.json").touch()
    assert shipped_model(tmp_path) == tmp_path / "first"
    (tmp_path / "second" / "manifest.json").touch()
    with pytest.raises(SettingsError, match=r"holds 2 \(first, second\)"):
        shipped_model(tmp_path)
