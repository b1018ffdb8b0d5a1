"""What a killed process, another version or a hand may have left is read without an error."""

import math
from pathlib import Path

import pytest

from gan_lab.tolerant import finite, is_number, mapping, read_mapping


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b'{"status": "run', "a.json is damaged: Unterminated string"),
        (b"\xff\xff", "a.json is damaged: "),
        (b"", "a.json is damaged: "),
        (b"[1]", "a.json is damaged: it holds no keys"),
    ],
)
def test_a_damaged_file_is_empty_and_said_to_be_so(content: bytes, problem: str, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_bytes(content)
    found, told = read_mapping(tmp_path / "a.json")
    assert found == {}
    assert told is not None
    assert told.startswith(problem)


def test_files_that_are_whole_missing_or_none(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"a": [1]}')
    assert read_mapping(tmp_path / "a.json") == ({"a": [1]}, None)
    assert read_mapping(tmp_path / "b.json") == ({}, None)
    assert read_mapping(tmp_path) == ({}, f"{tmp_path.name} cannot be read: Is a directory")


def test_values_of_any_kind() -> None:
    assert [is_number(value) for value in (1, 0.5, True, math.nan, -math.inf, "1", None)] == [True, True, *[False] * 5]
    assert finite(None, math.nan, True, "2", 3, 4) == 3.0
    assert finite() is None
    assert (mapping({"a": 1}), mapping([1]), mapping(None)) == ({"a": 1}, {}, {})
