import gzip
import hashlib
import json
import zipfile
from pathlib import Path
from typing import Any

import pytest
import yaml

from components.tasks import BUILT_IN, Item, Task, find

KEYS: dict[str, Any] = {
    "about": "Made for a test.",
    "file": "items.jsonl",
    "licence": "CC0-1.0",
    "citation": "nobody",
    "context": "Question: {doc.question}\nAnswer:",
    "choices": "doc.choices",
    "gold": "doc.gold",
}


def record(question: str, choices: list[str], gold: Any = 0) -> dict[str, Any]:
    return {"doc": {"question": question, "choices": choices, "gold": gold}}


RECORDS = [record(f"what is {number}?", ["a", f"b{number}", "c"], number % 3) for number in range(6)]


def write(folder: Path, records: Any = RECORDS, name: str = "made", **changes: Any) -> Task:
    (folder / "items.jsonl").write_text("".join(json.dumps(one) + "\n" for one in records))
    given = {key: value for key, value in {**KEYS, **changes}.items() if value is not None}
    (folder / f"{name}.yaml").write_text(yaml.safe_dump(given))
    return Task.read(folder / f"{name}.yaml")


def test_a_file_of_a_few_lines_is_a_task(tmp_path: Path) -> None:
    write(tmp_path)
    items = find(["made"], tmp_path)["made"].items(tmp_path, 2)
    assert items == [
        Item("made", "Question: what is 0?\nAnswer:", ("a", "b0", "c"), 0),
        Item("made", "Question: what is 1?\nAnswer:", ("a", "b1", "c"), 1),
    ]


def test_choices_may_be_written_one_by_one(tmp_path: Path) -> None:
    records = [{"goal": "sit", "one": "a chair", "two": "a knife", "label": 0}]
    task = write(tmp_path, records, context="{goal}:", choices=["{one}", "on {two}"], gold="label")
    assert task.items(tmp_path, 9) == [Item("made", "sit:", ("a chair", "on a knife"), 0)]


@pytest.mark.parametrize("gold", [1, "1", "mat", "B"])
def test_the_right_choice_is_given_by_place_text_or_letter(gold: Any, tmp_path: Path) -> None:
    (item,) = write(tmp_path, [record("where?", ["hat", "mat"], gold)]).items(tmp_path, 1)
    assert item.choices[item.gold] == "mat"


def test_an_item_that_occurs_again_is_asked_once_and_the_same_question_with_other_choices_again(tmp_path: Path) -> None:
    records = [record("q", ["a", "b"]), record("q", ["a", "b"]), record("q", ["c", "d"])]
    assert [item.choices for item in write(tmp_path, records).items(tmp_path, 9)] == [("a", "b"), ("c", "d")]


def test_examples_come_answered_before_every_question_and_are_not_asked(tmp_path: Path) -> None:
    items = write(tmp_path, context="{doc.question}", examples=2).items(tmp_path, 3)
    assert [item.context.rsplit("\n\n", 1)[1] for item in items] == ["what is 2?", "what is 3?", "what is 4?"]
    assert {item.context.rsplit("\n\n", 1)[0] for item in items} == {"what is 0? a\n\nwhat is 1? b1"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"licens": "MIT"}, "has a key 'licens'; did you mean 'licence'"),
        ({"licence": None}, "has no licence"),
        ({"file": None}, "has no package"),
        ({"file": "../../etc/passwd"}, "wanted the name of one beside it"),
        ({"examples": -1}, "puts 0 or more examples before a question, got -1"),
    ],
)
def test_a_task_file_that_is_wrong_is_refused_by_its_key(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        write(tmp_path, **changes)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"doc": {"query": "q"}}, "line 2 .*no 'choices' among query"),
        (record("q", ["a"]), "line 2 .*at least 2 choices"),
        (record("q", ["a", "b"], 2), "line 2 .*2 choices, its gold is one of them, got 2"),
        (record("q", ["a", "b"], "neither"), "line 2 .*neither"),
        ([], "line 2 .*no fields"),
    ],
)
def test_an_item_that_is_wrong_is_refused_by_its_line(wrong: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        write(tmp_path, [RECORDS[0], wrong]).items(tmp_path, 9)


def test_a_text_is_filled_in_and_never_run(tmp_path: Path) -> None:
    given = record("{__import__('os')}", ["a", "b"])
    (item,) = write(tmp_path, [given], context="{doc.question} {doc!r}").items(tmp_path, 1)
    assert item.context == "{__import__('os')} {doc!r}"


def test_an_unknown_task_is_refused_with_the_nearest_and_the_file_that_would_be_one(tmp_path: Path) -> None:
    write(tmp_path)
    with pytest.raises(ValueError, match="'maid'; did you mean 'made'") as refused:
        find(["maid"], tmp_path)
    assert f"maid.yaml in {tmp_path}" in str(refused.value)


def test_a_task_of_one_s_own_goes_before_the_one_that_comes_with_the_program(tmp_path: Path) -> None:
    write(tmp_path, name="arc_easy")
    assert find(["arc_easy"], tmp_path)["arc_easy"].citation == "nobody"
    assert find(["arc_easy"])["arc_easy"].citation.startswith("Clark")


def test_every_task_that_comes_with_the_program_says_where_it_is_from_and_under_which_licence() -> None:
    names = [path.stem for path in BUILT_IN.glob("*.yaml")]
    assert {"common_knowledge", "arc_easy", "piqa"} <= set(names)
    for task in find(names).values():
        assert {"package", "sha256", "member", "licence", "citation"} <= task.facts.keys()


def made_package(cache: Path, content: bytes) -> dict[str, str]:
    """Keys of a task that reads a package which is in the cache already."""
    made = cache / "made.whl"
    with zipfile.ZipFile(made, "w") as archive:
        archive.writestr("items.jsonl.gz", content)
    digest = hashlib.sha256(made.read_bytes()).hexdigest()
    (cache / "packages").mkdir()
    made.rename(cache / "packages" / f"{digest}.whl")
    return {"package": "made==1.0", "sha256": digest, "member": "items.jsonl.gz"}


def test_items_are_read_from_a_pinned_package(tmp_path: Path) -> None:
    content = "".join(json.dumps(one) + "\n" for one in RECORDS).encode()
    task = write(tmp_path, file=None, **made_package(tmp_path, gzip.compress(content)))
    assert len(task.items(tmp_path, 9)) == len(RECORDS)
    assert task.facts["package"] == "made==1.0"


def test_no_more_is_decompressed_than_a_task_may_have(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("components.tasks._MOST_BYTES", 1000)
    task = write(tmp_path, file=None, **made_package(tmp_path, gzip.compress(b" " * 100_000)))
    with pytest.raises(ValueError, match="more than 1000 bytes"):
        task.items(tmp_path, 9)
