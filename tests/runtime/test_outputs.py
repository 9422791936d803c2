from __future__ import annotations

from pathlib import Path

import pytest

from szn_runtime.errors import SinkError, UsageError
from szn_runtime.outputs import Outputs, open_lanes
from tests.runtime.stages import Stub


def test_outputs_of_several_sources_are_kept_apart(tmp_path: Path) -> None:
    outputs = Outputs(
        overlay=tmp_path / "{name}.mp4",
        masks=tmp_path / "masks",
        confidence=tmp_path / "sure-{name}",
        records=tmp_path / "all.jsonl",
        report=tmp_path / "r.json",
    )
    sources = [Stub(name="a"), Stub(name="b"), Stub(name="a")]
    lanes = open_lanes(outputs, sources, on_quit=lambda: None)
    assert [source.name for source in sources] == ["a", "b", "a-2"]
    paths = [[str(sink.path.relative_to(tmp_path)) for sink in lane.sinks] for lane in lanes]  # type: ignore[union-attr]
    assert paths == [
        [f"{name}.mp4", f"masks/{name}", f"sure-{name}", "all.jsonl"] for name in ("a", "b", "a-2")
    ]
    assert lanes[0].sinks[-1] is lanes[1].sinks[-1]  # one file for the JSON lines of all


def test_json_lines_may_be_kept_apart(tmp_path: Path) -> None:
    outputs = Outputs(records=tmp_path / "{name}.jsonl", top_k=3)
    lanes = open_lanes(outputs, [Stub(name="a"), Stub(name="b")], on_quit=lambda: None)
    assert [lane.sinks[0].path for lane in lanes] == [tmp_path / "a.jsonl", tmp_path / "b.jsonl"]


def test_one_source_has_the_paths_as_they_are(tmp_path: Path) -> None:
    outputs = Outputs(overlay=tmp_path / "o.mp4", records=tmp_path / "o.jsonl")
    (lane,) = open_lanes(outputs, [Stub()], on_quit=lambda: None)
    assert [sink.path for sink in lane.sinks] == [tmp_path / "o.mp4", tmp_path / "o.jsonl"]


def test_one_file_cannot_hold_several_videos(tmp_path: Path) -> None:
    outputs = Outputs(overlay=tmp_path / "o.mp4")
    with pytest.raises(UsageError, match=r"one file for several sources; put \{name\} into it.*o-"):
        open_lanes(outputs, [Stub(name="a"), Stub(name="b")], on_quit=lambda: None)


def test_words_without_json_lines() -> None:
    with pytest.raises(UsageError, match="--top-k is for the JSON lines; add --json FILE"):
        Outputs(top_k=3)


def test_no_source_is_written_over(tmp_path: Path) -> None:
    first, second = Stub(name="a"), Stub(name="b")
    second.paths = (tmp_path / "a.mp4",)
    with pytest.raises(SinkError, match=r"a\.mp4 is the input"):
        open_lanes(Outputs(overlay=tmp_path / "{name}.mp4"), [first, second], on_quit=lambda: None)
