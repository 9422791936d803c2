from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from szn_runtime.errors import InputError
from szn_train.label_words import is_label_words, pairs_of, read_label_words, words_of
from szn_train.progress import Progress


def test_a_table_comes_to_pairs() -> None:
    pairs = pairs_of({"chair": ["armchair", "stool"], "cow": []})
    assert pairs == (("chair", ("armchair", "stool")), ("cow", ()))
    assert is_label_words(pairs)
    assert is_label_words(())


@pytest.mark.parametrize(
    "value",
    [
        *(["chair"], {"chair": "stool"}, {"chair": [1]}, {"chair": {"a": "b"}}, {3: ["stool"]}),
        *("chair", None, (("chair",),), (("cow", ("bull",)), ("cow", ("calf",)))),
    ],
)
def test_what_is_no_table_of_lists_of_words(value: Any) -> None:
    assert not is_label_words(pairs_of(value))


def test_a_file_is_read(tmp_path: Path) -> None:
    table = {"chair": ["armchair", "stool"]}
    path = tmp_path / "words.json"
    path.write_text(json.dumps(table), encoding="utf-8")
    assert read_label_words(path) == table


@pytest.mark.parametrize("table", [["a"], {"a": "b"}, {"a": [1]}, 3])
def test_a_file_of_something_else(table: Any, tmp_path: Path) -> None:
    path = tmp_path / "words.json"
    path.write_text(json.dumps(table), encoding="utf-8")
    with pytest.raises(InputError, match=r'holds no words of labels: expected \{"chair"'):
        read_label_words(path)


def test_a_file_that_is_not_there_or_no_json(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is no JSON file"):
        read_label_words(tmp_path / "none.json")
    (tmp_path / "words.json").write_bytes(b"\xff{")
    with pytest.raises(InputError, match="is no JSON file"):
        read_label_words(tmp_path / "words.json")


def test_words_of_what_is_no_label_are_left_out_with_a_line() -> None:
    told: list[str] = []

    class Told(Progress):
        def line(self, text: str) -> None:
            told.append(text)

    words = (("rock", ("mountain",)), ("cow", ("bull", "calf")), ("mast", ()))
    kept = words_of(("cow", "sheep"), words, progress=Told(quiet=True))
    assert kept == {"cow": ("bull", "calf")}
    assert told == ["no labels here, so that their words are left out: rock, mast"]
    assert words_of(("cow",), words[1:2], progress=Told(quiet=True)) == kept
    assert len(told) == 1
