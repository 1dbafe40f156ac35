"""A wrong configuration is an error that names the file, the key and the fix."""

from __future__ import annotations

import pytest
from pydantic import BaseModel, ConfigDict, PositiveInt

from shared.config import find_config, load_config, packaged_configs
from shared.errors import InputError


class Settings(BaseModel):
    model_config = ConfigDict(extra="forbid")
    coils: PositiveInt = 8


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("coil: 4", "coil: 4.*Known keys: coils"),
        ("coils: -1", "coils: -1.*greater than 0"),
        ("- 1", "found a list"),
        ("coils: [", "no YAML"),
    ],
)
def test_a_wrong_file_is_named_with_key_and_value(tmp_path, text, message):
    path = tmp_path / "settings.yaml"
    path.write_text(text)
    with pytest.raises(InputError, match=message) as caught:
        load_config(path, Settings)
    assert str(path) in str(caught.value)


def test_values_are_read_and_an_empty_file_gives_the_defaults(tmp_path):
    path = tmp_path / "settings.yaml"
    path.write_text("coils: 4")
    assert load_config(path, Settings).coils == 4
    path.write_text("")
    assert load_config(path, Settings).coils == 8


def test_an_unknown_name_lists_the_packaged_ones():
    with pytest.raises(InputError, match="medical/demo"):
        find_config("medical/nothing")
    assert find_config("medical/demo").is_relative_to(packaged_configs())
