"""Settings: each wrong value is blamed on where it came from, and each setting says what it is."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from densedpo.config import Settings, load_settings, parse_settings
from densedpo.errors import ConfigError


def leaves(model: type[BaseModel] = Settings, prefix: str = "") -> dict[str, FieldInfo]:
    found: dict[str, FieldInfo] = {}
    for name, field in model.model_fields.items():
        inner = field.annotation
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            found |= leaves(inner, f"{prefix}{name}.")
        else:
            found[f"{prefix}{name}"] = field
    return found


@pytest.mark.parametrize(("name", "field"), leaves().items())
def test_every_setting_says_what_it_is(name: str, field: FieldInfo) -> None:
    assert field.description, name
    assert ("by default" in field.description) == (field.default is None)


@pytest.mark.parametrize("text", ["train:\n", "train: 3\n", "train: [a]\n", "train: text\n"])
def test_a_section_that_is_no_mapping(tmp_path: Path, text: str) -> None:
    file = tmp_path / "densedpo.yaml"
    file.write_text(text)
    for overrides, preset in (({"train.beta": "3"}, "default"), ({}, "paper"), ({}, "default")):
        with pytest.raises(ConfigError, match=r"densedpo\.yaml: train:"):
            load_settings(file, overrides, preset)


def test_a_folder_for_a_file(tmp_path: Path) -> None:
    (tmp_path / "densedpo.yaml").mkdir()
    with pytest.raises(ConfigError, match=r"densedpo\.yaml: cannot be read"):
        load_settings(tmp_path / "densedpo.yaml", {})


def test_a_flag_is_not_blamed_on_the_file(tmp_path: Path) -> None:
    file = tmp_path / "densedpo.yaml"
    file.write_text("pairs: {eta_low: 0.5}\n")
    with pytest.raises(ConfigError, match=r"pairs\.eta_high") as wrong:
        load_settings(file, {"pairs.eta_high": "7"})
    assert "yaml" not in str(wrong.value)
    file.write_text("pairs: {eta_low: 5}\n")
    with pytest.raises(ConfigError, match=r"densedpo\.yaml: pairs\.eta_low"):
        load_settings(file, {"pairs.eta_high": "0.7"})


@pytest.mark.parametrize("value", [float("inf"), float("nan"), "inf", "nan", "-inf"])
def test_numbers_are_finite(value: object) -> None:
    for name, field in leaves().items():
        if "float" in str(field.annotation):
            section, key = name.split(".")
            with pytest.raises(ConfigError, match=name):
                parse_settings({section: {key: value}})


@pytest.mark.parametrize("seed", [-1, 2**63, 2**70])
def test_seeds_have_63_bits(seed: int) -> None:
    with pytest.raises(ConfigError, match="seed"):
        parse_settings({"seed": seed})
    assert parse_settings({"seed": 2**63 - 1}).seed == 2**63 - 1


@pytest.mark.parametrize(
    "address", ["http://", "http://[::1/v1", "http://host:99999/v1", "http://host:x", "http://a b/v1", "http://h\n"]
)
def test_what_is_no_address_is_said_before_anything_is_asked(address: str) -> None:
    with pytest.raises(ConfigError, match="base_url must be an address"):
        parse_settings({"judge": {"base_url": address}})
    with pytest.raises(ConfigError, match="caption_endpoint must be an address"):
        parse_settings({"filter": {"caption_endpoint": address, "caption_model": "m"}})


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"parallel": 0}, "settings: judge.parallel: must be greater than or equal to 1, got 0"),
        ({"layout": "x"}, "settings: judge.layout: must be 'separate', 'side_by_side' or 'grid', got 'x'"),
        ({"base_url": "ftp://x"}, "settings: judge: base_url must be an address beginning with http:// or https://"),
    ],
)
def test_what_is_wrong_is_said_without_the_checkers_marks(values: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigError, match=f"^{re.escape(said)}"):
        parse_settings({"judge": values})


@pytest.mark.parametrize("address", ["http://127.0.0.1:8000/v1", "https://api.example.org/v1", "http://[::1]:9/v1"])
def test_addresses_are_taken(address: str) -> None:
    assert parse_settings({"judge": {"base_url": address}}).judge.base_url == address
