from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import thesis_results
import thesis_tables
from click.testing import CliRunner, Result
from thesis_msrc21 import MSRC21
from thesis_plan import Comparison, Plan, Variant, between, figures, merged
from thesis_runs import Runs
from thesis_voc import DOWNLOADS
from thesis_voc import thesis_plan as voc_plan

from szn_runtime.errors import InputError, TrainingError, UsageError
from szn_train.config import TrainConfig
from szn_train.evaluate import Evaluation
from szn_train.progress import Progress
from tests.train import catalogue, trees

QUIET = Progress(quiet=True)


def one_line(result: Result) -> str:
    lines = result.stderr.strip().splitlines()
    assert len(lines) == 1, result.output
    return lines[0]


# plans ----------------------------------------------------------------------------------------


def test_tables_are_merged_and_values_replaced() -> None:
    values = {"dim": 20, "embedding_step": {"epochs": 6, "batch_size": 8}}
    result = merged(values, {"dim": 5, "embedding_step": {"epochs": 1}, "loss": "mse"})
    assert result == {"dim": 5, "embedding_step": {"epochs": 1, "batch_size": 8}, "loss": "mse"}
    assert values["embedding_step"] == {"epochs": 6, "batch_size": 8}


def test_every_variant_of_msrc21_differs_from_the_recipe_by_its_split_and_changes() -> None:
    recipe = dict(MSRC21.recipe)
    for name, variant in MSRC21.variants.items():
        values = MSRC21.values(name, sizes={})
        expected = merged(merged(recipe, MSRC21.splits[variant.split]), variant.changes)
        assert values == expected
        if name.startswith("full-"):
            continue
        of_step = values["embedding_step"]
        told = variant.changes.get("embedding_step", {})
        assert {k: v for k, v in of_step.items() if k not in told} == {
            k: v for k, v in recipe["embedding_step"].items() if k not in told
        }


def test_every_variant_of_msrc21_is_a_configuration() -> None:
    for name in MSRC21.variants:
        config = TrainConfig.from_dict({**MSRC21.values(name, sizes={}), "data": "d"})
        assert config.weights == "imagenet"
        assert not {"horse", "mountain"} - set(config.void)


def test_comparisons_name_variants_that_there_are() -> None:
    used = set()
    for comparison in MSRC21.comparisons:
        used |= set(comparison.variants.values())
        for claim in comparison.claims:
            for side in (claim.above, claim.below):
                assert set(side.variants) <= set(comparison.variants.values())
    assert used == set(MSRC21.variants)
    assert {figure.variant for figure in MSRC21.figures.values()} <= used
    assert sorted(MSRC21.figures) == list(range(8, 19))
    assert {c.table for c in MSRC21.comparisons} >= set(range(1, 7))


def test_published_keys_of_msrc21_exist() -> None:
    published = thesis_results.published_numbers()
    sides = [
        side
        for comparison in MSRC21.comparisons
        for claim in comparison.claims
        for side in (claim.above, claim.below)
        if side.published
    ]
    assert len(sides) > 20
    for side in sides:
        assert 0 <= thesis_results.published_number(published, side.published) <= 100


def test_unseen_sets_of_msrc21_are_nested() -> None:
    reduced, middle, standard = (
        set(MSRC21.splits[name]["unseen"]) for name in ("reduced", "middle", "standard")
    )
    assert standard < middle < reduced
    assert [len(each) for each in (reduced, middle, standard)] == [10, 6, 2]


def test_words_replace_those_of_the_recipe_but_not_the_control() -> None:
    sizes = {"embedding_step": {"epochs": 1}}
    assert MSRC21.values("mse", words="w.bin", sizes=sizes)["embeddings"] == "w.bin"
    assert MSRC21.values("one-hot", words="w.bin", sizes=sizes)["embeddings"] == "one-hot"
    assert MSRC21.values("full-fcn-je", sizes=sizes)["embedding_step"]["epochs"] == 1


def test_a_comparison_that_is_not_there() -> None:
    with pytest.raises(UsageError, match="no comparison 'loses': expected variance, baselines"):
        MSRC21.comparison("loses")


def test_sizes_of_the_options() -> None:
    found = thesis_tables.sizes(MSRC21, quick=False, epochs=2, seenmask_epochs=None, long_side=320)
    assert found == {
        "long_side": 320, "resize": True, "crop_hw": [224, 320], "embedding_step": {"epochs": 2},
    }  # fmt: skip
    quick = thesis_tables.sizes(MSRC21, quick=True, epochs=None, seenmask_epochs=5, long_side=None)
    assert quick["seenmask_step"] == {"epochs": 5}
    assert quick["embedding_step"] == {"epochs": 1}


# runs -----------------------------------------------------------------------------------------


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    """Two variants of the catalogue's scenes that train in seconds."""
    config = catalogue.tiny_config(
        catalogue.write_dataset(tmp_path / "data"), catalogue.write_words(tmp_path / "words.txt")
    )
    recipe = config.to_dict()
    for key in ("data", "void", "train_unseen", "unseen"):
        recipe.pop(key)
    split = {
        "void": list(catalogue.VOID),
        "train_unseen": list(catalogue.TRAIN_UNSEEN),
        "unseen": list(catalogue.UNSEEN),
    }
    return Plan(
        recipe=recipe,
        same_images=True,
        splits={"standard": split},
        variants={
            "ce": Variant(split="standard"),
            "cosine": Variant(split="standard", changes={"loss": "cosine"}),
        },
        comparisons=(
            Comparison(
                name="losses",
                title="Losses",
                variants={"cosine": "cosine", "cross-entropy": "ce"},
                claims=between(
                    ("cross-entropy", ("ce",)),
                    ("cosine", ("cosine",)),
                    ("baseline", "overall", "miou"),
                ),
            ),
        ),
        figures=figures(("ce", "cosine", "ce"), ("ce", "cosine")),
    )


def runs_of(plan: Plan, folder: Path, **sizes: Any) -> Runs:
    return Runs(plan, folder / "data", folder / "runs", sizes=sizes, progress=QUIET)


def confusions(evaluation: Evaluation) -> object:
    return evaluation.to_dict()["confusions"]


def test_epochs_are_scaled_to_the_same_number_of_images(plan: Plan, tmp_path: Path) -> None:
    step = {"epochs": 6}
    config = runs_of(plan, tmp_path, embedding_step=step, seenmask_step=step).config("ce")
    # of ten images six are of train_seen and eight without sheep
    assert config.embedding_step.epochs == round(6 * 10 / 6)
    assert config.seenmask_step.epochs == round(6 * 10 / 8)
    fixed = runs_of(replace(plan, same_images=False), tmp_path, embedding_step=step)
    assert fixed.config("ce").embedding_step.epochs == 6


def test_folders_tell_configurations_apart(plan: Plan, tmp_path: Path) -> None:
    runs = runs_of(plan, tmp_path)
    assert runs.folder("ce") == runs_of(plan, tmp_path).folder("ce")
    assert runs.folder("ce").name.startswith("ce-")
    assert runs_of(plan, tmp_path, dim=3).folder("ce") != runs.folder("ce")
    (tmp_path / "data").rename(tmp_path / "moved")
    moved = Runs(plan, tmp_path / "moved", tmp_path / "runs", sizes={}, progress=QUIET)
    assert moved.folder("ce") == runs.folder("ce")  # the same data elsewhere is the same run
    worded = runs_of(plan, tmp_path, label_words={"sheep": ["goat"]})
    assert worded.folder("ce") != runs_of(plan, tmp_path).folder("ce")
    wordless = runs_of(plan, tmp_path, label_words={"sheep": []})
    assert wordless.folder("ce") != worded.folder("ce")
    refit = runs_of(plan, tmp_path, refit_embedding=True)
    assert refit.folder("ce") != runs_of(plan, tmp_path).folder("ce")
    plain = runs_of(plan, tmp_path, refit_embedding=False)
    assert plain.folder("ce") == runs_of(plan, tmp_path).folder("ce")


def test_a_run_is_trained_once(plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = runs_of(plan, tmp_path)
    assert runs.finished("ce") is None
    first = runs.evaluation("ce")
    assert {"eval-val.json", "eval-val.errors.csv", "variant.json"} <= {
        path.name for path in runs.folder("ce").iterdir()
    }

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("trained or evaluated again")

    monkeypatch.setattr("thesis_runs.train", refuse)
    monkeypatch.setattr("thesis_runs.evaluate", refuse)
    again = runs_of(plan, tmp_path).evaluation("ce")
    assert confusions(again) == confusions(first)
    monkeypatch.undo()
    (runs.folder("ce") / "eval-val.json").write_text("{")  # as a crash of the disk leaves it
    monkeypatch.setattr("thesis_runs.train", refuse)
    assert confusions(runs_of(plan, tmp_path).evaluation("ce")) == confusions(first)


def test_a_run_that_was_stopped_goes_on(
    plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = runs_of(plan, tmp_path).evaluation("ce")
    other = Runs(plan, tmp_path / "data", tmp_path / "other", sizes={}, progress=QUIET)

    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("szn_train.trainer.save_weights", stop)  # all epochs are done, no more
    with pytest.raises(KeyboardInterrupt):
        other.evaluation("ce")
    monkeypatch.undo()
    assert confusions(other.evaluation("ce")) == confusions(whole)
    facts = json.loads((other.folder("ce") / "variant.json").read_text())
    assert facts == {"variant": "ce", "minutes": None, "resumed": True}
    checkpoint = other.folder("ce") / "checkpoint.pt"
    checkpoint.write_bytes(checkpoint.read_bytes()[:1000])
    (other.folder("ce") / "model.safetensors").unlink()
    (other.folder("ce") / "eval-val.json").unlink()
    assert confusions(other.evaluation("ce")) == confusions(whole)  # damaged: it starts anew


def test_one_process_at_a_time(plan: Plan, tmp_path: Path) -> None:
    with runs_of(plan, tmp_path).locked():
        message = r"another process trains in .*runs; wait, or give another --runs"
        with pytest.raises(InputError, match=message), runs_of(plan, tmp_path).locked():
            pass
    with runs_of(plan, tmp_path).locked():  # free again
        pass


# the command ----------------------------------------------------------------------------------


@pytest.fixture
def call(plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    monkeypatch.setattr(thesis_tables, "MSRC21", plan)

    def invoke(*arguments: object) -> Result:
        return CliRunner().invoke(
            thesis_tables.main,
            ["--dataset", "msrc21", "--data-root", str(tmp_path / "data"), "--quiet",
             "--runs", str(tmp_path / "runs"), *map(str, arguments)],
        )  # fmt: skip

    return invoke


def test_everything_is_trained_printed_written_and_drawn(
    call: Callable[..., Result], tmp_path: Path
) -> None:
    arguments = ["--json", tmp_path / "r.json", "--markdown", tmp_path / "r.md"]
    result = call(*arguments, "--figures", tmp_path / "f", "--only", "losses", "--figure", "13")
    assert result.exit_code == 0, result.output
    report = json.loads((tmp_path / "r.json").read_text())
    [comparison] = report["rows"]
    assert [(row["text"], row["model"]) for row in comparison["rows"]] == [
        (text, model)
        for text in ("cosine", "cross-entropy")
        for model in ("FCN-JE", "FCN-JE (all labels)", "SZN", "SZN-PS")
    ]
    [claim] = comparison["claims"]
    better = {row["text"]: row["overall"]["miou"] for row in comparison["rows"][::4]}
    assert claim["holds"] == (better["cross-entropy"] > better["cosine"])
    assert claim["text"] in result.output
    text = (tmp_path / "r.md").read_text()
    assert text.startswith(
        "`python benchmarks/thesis_tables.py --dataset msrc21 --figure 13 --only losses "
        "--data-root DATA`, standard metrics, percent:\n\n### Losses\n"
    )
    assert str(tmp_path) not in text
    assert f"- {claim['text']}" in text
    drawn = {path.name for path in (tmp_path / "f").iterdir()}
    assert drawn == {
        f"{name}.{kind}" for name in ("losses", "figure-13") for kind in ("png", "pdf", "csv")
    }


def test_what_fails_is_told_and_the_others_go_on(
    call: Callable[..., Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = Runs.evaluation

    def evaluation(runs: Runs, variant: str) -> Any:
        if variant == "cosine":
            raise TrainingError("the loss is not finite", fix="lower the learning rate")
        return original(runs, variant)

    monkeypatch.setattr(Runs, "evaluation", evaluation)
    result = call("--json", tmp_path / "r.json", "--markdown", tmp_path / "r.md")
    assert result.exit_code == 1
    assert "1 of the variants could not be trained: got cosine; see above" in one_line(result)
    assert "cosine: not run: the loss is not finite; lower" in result.stdout
    report = json.loads((tmp_path / "r.json").read_text())
    assert report["not_run"] == {"cosine": "the loss is not finite; lower the learning rate"}
    assert len(report["rows"][0]["rows"]) == 4  # of the variant that could be trained
    assert report["rows"][0]["claims"] == []
    assert "Not run: cosine: the loss is not finite" in (tmp_path / "r.md").read_text()


def test_results_are_written_after_every_run(
    call: Callable[..., Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original, seen = Runs.evaluation, []

    def evaluation(runs: Runs, variant: str) -> Any:
        path = tmp_path / "r.json"
        seen.append(len(json.loads(path.read_text())["rows"][0]["rows"]) if path.exists() else None)
        return original(runs, variant)

    monkeypatch.setattr(Runs, "evaluation", evaluation)
    assert call("--json", tmp_path / "r.json").exit_code == 0
    assert seen == [None, 4]


def test_the_variance_of_the_words_needs_no_run(
    call: Callable[..., Result], plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    variance = Comparison(name="variance", title="Variance", table=1)
    monkeypatch.setattr(thesis_tables, "MSRC21", replace(plan, comparisons=(variance,)))
    result = call("--table", 1, "--markdown", tmp_path / "r.md", "--figures", tmp_path / "f")
    assert result.exit_code == 0, result.output
    lines = (tmp_path / "r.md").read_text().splitlines()
    assert "| 8 | 100.0 % |  |" in lines  # all dimensions of the words
    assert "| 100 |  | 62.0 % |" in lines  # only the thesis has so many
    assert (tmp_path / "f" / "variance.csv").is_file()
    assert not [path for path in (tmp_path / "runs").iterdir() if path.name != ".lock"]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--only", "loses"], 2, "no comparison 'loses': expected losses"),
        (["--full"], 2, "no comparison 'full': expected losses"),
        (["--table", "3"], 1, "no comparison asks what table 3 does"),
        (["--data-root", "nowhere"], 1, "no MSRC-21 in nowhere: expected msrc21/ with images"),
    ],
)
def test_bad_options_are_one_line(
    call: Callable[..., Result], arguments: list[str], code: int, message: str
) -> None:
    result = call(*arguments)
    assert result.exit_code == code
    assert message in one_line(result)


def test_the_list_needs_no_data() -> None:
    result = CliRunner().invoke(thesis_tables.main, ["--dataset", "msrc21", "--list"])
    assert result.exit_code == 0, result.output
    lines = [" ".join(line.split()) for line in result.output.splitlines()]
    assert "losses: Loss of the embedding, (17, 2, 2)" in lines
    assert "MSE: mse, split standard, changes {'loss': 'mse'}" in lines
    assert "figure 13: confusion of SZN, reduced" in lines


# the thesis' own data ---------------------------------------------------------------------------


def test_without_voc_and_context_one_line_says_what_to_download(tmp_path: Path) -> None:
    result = CliRunner().invoke(thesis_tables.main, ["--data-root", str(tmp_path), "--table", "4"])
    assert result.exit_code == 1
    line = one_line(result)
    assert all(url in line for url in DOWNLOADS)
    assert len(DOWNLOADS) == 5
    assert f"unpack all of them in {tmp_path}, or give --dataset msrc21" in line


def test_no_data_at_all_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SZN_DATA", raising=False)
    result = CliRunner().invoke(thesis_tables.main, [])
    assert (result.exit_code, one_line(result)) == (
        1, "Error: no data is named; give --data-root DIR",
    )  # fmt: skip


def test_the_plan_of_the_thesis_is_its_tables() -> None:
    plan = voc_plan()
    published = thesis_results.published_numbers()
    assert [comparison.table for comparison in plan.comparisons] == [1, 2, 3, 4, 5, 6]
    assert sorted(plan.figures) == list(range(8, 19))
    sizes = {"voc-reduced": (2, 10), "voc-standard": (2, 2), "context-standard": (2, 2)}
    for name in plan.variants:
        config = TrainConfig.from_dict({**plan.values(name, sizes={}), "data": "d"})
        assert (config.protocol, config.backbone, config.resize) == ("thesis", "vgg16", False)
        assert (config.loss == "cross_entropy") == name.endswith("fcn-s")
        found = (len(config.train_unseen), len(config.unseen))
        assert found == sizes.get(name, (0, 0))
        assert config.dataset == name.partition("-")[0]
        assert config.drop_void == (config.dataset == "context")
    for comparison in plan.comparisons:
        assert set(comparison.variants.values()) <= set(plan.variants)
        for keys in comparison.published.values():
            value = published
            for key in keys:
                value = value[key]
        for claim in comparison.claims:
            for side in (claim.above, claim.below):
                assert thesis_results.published_number(published, side.published) >= 0


def test_fcn_s_of_the_thesis_learns_with_its_sgd() -> None:
    values = voc_plan().values("voc-fcn-s", words="word2vec.bin", sizes={})
    step = TrainConfig.from_dict({**values, "data": "d"}).embedding_step
    assert (step.optimizer, step.learning_rate, step.momentum) == ("sgd", 1e-10, 0.99)
    assert voc_plan().values("voc-fcn-je", words="w.bin", sizes={})["embeddings"] == "w.bin"


def test_a_table_of_the_thesis_from_its_own_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trees.write_voc_sbd(tmp_path / "data")
    trees.write_context(tmp_path / "data")
    recipe = {
        "backbone": "efficientnet_lite0", "weights": "none", "embeddings": "one-hot",
        "seenmask": "linear", "long_side": 64, "embedding_step": {"epochs": 1, "batch_size": 4},
        "seenmask_step": {"epochs": 1, "batch_size": 4},
    }  # fmt: skip
    # as it is, but small, without weights that would be downloaded, and with images that have void
    plan = voc_plan()
    splits = {name: {**split, "drop_void": False} for name, split in plan.splits.items()}
    small = replace(plan, recipe=recipe, splits=splits)
    monkeypatch.setattr(thesis_tables, "thesis_plan", lambda: small)
    result = CliRunner().invoke(
        thesis_tables.main,
        ["--data-root", str(tmp_path / "data"), "--table", "4", "--table", "5", "--quiet",
         "--runs", str(tmp_path / "runs"), "--json", str(tmp_path / "r.json"),
         "--markdown", str(tmp_path / "r.md")],
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    report = json.loads((tmp_path / "r.json").read_text())
    assert report["mode"] == "thesis"
    standard, context = report["rows"]
    rows = {row["model"]: row for row in standard["rows"]}
    assert rows["SZN-PS"]["published"]["unseen"] == [57.0, 52.9, 26.4, 56.9]
    assert rows["FCN-JE (all labels)"]["published"]["overall"] == [87.5, 58.6, 43.8, 78.8]
    assert rows["FCN-JE"]["published"] == {}  # the thesis has no numbers of the text's version
    assert rows["SZN-PS"]["sizes"] == [17, 2, 2]
    assert {row["model"]: row["sizes"] for row in context["rows"]}["SZN"] == [29, 2, 2]
    assert len(standard["claims"]) == 4
    assert standard["claims"][2]["published"] == [57.0, 18.6]
    assert f"{rows['SZN']['unseen']['pa']:.1f} / 18.6" in (tmp_path / "r.md").read_text()


def test_full_runs_and_nothing_else_at_the_preset_size() -> None:
    chosen = thesis_tables.chosen_comparisons(MSRC21, (), (), full=True, otherwise_all=True)
    assert [comparison.name for comparison in chosen] == ["full"]
    values = MSRC21.values("full-fcn-je", sizes={})
    assert (values["long_side"], values["loss"], values["void"]) == (
        320, "cosine_ce", ["horse", "mountain"],
    )  # fmt: skip
    assert "unseen" not in values
    everything = thesis_tables.chosen_comparisons(MSRC21, (), (), full=False, otherwise_all=True)
    assert "full" not in {comparison.name for comparison in everything}
    assert len(everything) == len(MSRC21.comparisons) - 1
