"""What is made again when our own code changes, and what is not."""

from __future__ import annotations

import ast
import shutil
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import yaml
from fixtures.workspace import PROJECT

import edge_targets
from flows import code


def test_a_package_is_made_again_when_its_exporter_s_requirements_change_and_not_for_another_target(
    tmp_path: Path,
) -> None:
    def digest() -> str:
        return code.digest(tmp_path, code.shared(tmp_path, ["lamp"]))

    (tmp_path / "requirements").mkdir()
    for name in ("_shared.py", "lamp.py", "other.py", "requirements/exporter.txt"):
        (tmp_path / name).write_text("one\n")
    first = digest()
    (tmp_path / "other.py").write_text("two\n")
    assert digest() == first
    for name in ("_shared.py", "lamp.py", "requirements/exporter.txt"):
        before = digest()
        (tmp_path / name).write_text("two\n")
        assert digest() != before, name


def test_members_of_a_family_share_a_package_and_so_each_other_s_files(monkeypatch: pytest.MonkeyPatch) -> None:
    read: dict[str, set[str]] = {}
    monkeypatch.setattr(code, "digest", lambda root, files: read.setdefault(asked, {path.name for path in files}))
    for asked in ("jetson_orin_nano", "jetson_orin_nx", "android_vulkan"):
        code.packaging(asked)
    family = {name for name in edge_targets.names() if edge_targets.load(name).family == "jetson_orin"}
    assert read["jetson_orin_nano"] == read["jetson_orin_nx"]
    assert {f"{name}.py" for name in family} <= read["jetson_orin_nano"]
    assert {f"{name}.py" for name in edge_targets.names()} & read["android_vulkan"] == {"android_vulkan.py"}


def test_what_a_module_imports_is_found_wherever_it_imports_it_and_however_far(tmp_path: Path) -> None:
    package = tmp_path / "parts"
    package.mkdir()
    for name, text in {
        "door": "from parts import hinge\n",
        "hinge": "def turn():\n    from parts.screw import thread\n",
        "screw": "import os\nfrom parts import hinge\n",
        "window": "",
    }.items():
        (package / f"{name}.py").write_text(text)
    found = code.imported(package, (package / "door.py",))
    assert [path.stem for path in found] == ["door", "hinge", "screw"]


def test_one_thread_parses_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package, parsing, met = tmp_path / "parts", threading.Lock(), list[str]()
    package.mkdir()
    parse = ast.parse

    def parsed_slowly(*given: Any, **named: Any) -> Any:
        if not parsing.acquire(blocking=False):
            met.append("another thread")
            return parse(*given, **named)
        try:
            time.sleep(0.01)
            return parse(*given, **named)
        finally:
            parsing.release()

    monkeypatch.setattr(ast, "parse", parsed_slowly)
    for number in range(8):
        (package / f"part{number}.py").write_text("")
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda path: code.imported(package, (path,)), sorted(package.iterdir())))
    assert met == []


def test_a_package_is_made_again_when_a_workspace_s_own_components_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = Path(shutil.copytree(code._COMPONENTS, tmp_path / "components"))
    monkeypatch.setattr(code, "_COMPONENTS", own)
    first = code.packaging("x86_avx2")
    (own / "packed.py").write_text((own / "packed.py").read_text() + "# newer\n")
    assert code.packaging("x86_avx2") != first


def test_subnets_are_cut_again_when_what_merges_adapters_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    monkeypatch.setattr(code, "digest", lambda root, files: str(read.extend(path.stem for path in files)))
    code.extracting()
    assert {"subnet", "lora", "smol", "mixed", "supernet", "family"} <= set(read)
    assert "finetune" not in read


DECIDES_NOTHING = {
    "files",
    "kept",
    "lifeline",
    "messages",
    "pinned",
    "progress",
    "quiet",
    "strict",
    "waiting",
}
"""How work is checked, fetched by its digest, kept, waited for, told and ended: not what it comes to."""
IN_WHAT_IS_READ = {
    "data": set(),
    "selection": {"contamination", "tasks"},
    "supernet": {"blocks", "contamination", "depth", "knapsack", "prefix", "readout", "tasks"},
}
"""What decided an earlier stage's outcome, which the stage names."""
CHECKS = "from components.profile import check_profile"
"""Which reads what every stage takes, and changes none of it."""


@pytest.mark.parametrize("stage", IN_WHAT_IS_READ)
def test_a_stage_names_all_the_code_that_decides_its_outcome(stage: str, tmp_path: Path) -> None:
    (tmp_path / "stage.py").write_text(source_of(stage))
    imported = {path.stem for path in code.imported(code._COMPONENTS, (tmp_path / "stage.py",))}
    named = yaml.safe_load((PROJECT / "dvc.yaml").read_text())["stages"][stage]["do"]["deps"]
    files = {Path(dependency).stem for dependency in named if dependency.endswith(".py")}
    assert files == {"stages", *imported} - DECIDES_NOTHING - IN_WHAT_IS_READ[stage]


def source_of(stage: str) -> str:
    """`components/stages.py` without what other stages alone use."""
    parts = ast.parse((code._COMPONENTS / "stages.py").read_text()).body
    own = {part.name: part for part in parts if isinstance(part, ast.FunctionDef | ast.ClassDef)}
    used, waiting = set(), {stage}
    while waiting:
        used |= waiting
        names = (node for name in waiting for node in ast.walk(own[name]) if isinstance(node, ast.Name))
        waiting = {node.id for node in names if isinstance(node.ctx, ast.Load) and node.id in own} - used
    imports = [part for part in parts if isinstance(part, ast.ImportFrom)]
    text = "\n".join(map(ast.unparse, [*imports, *(own[name] for name in sorted(used))]))
    return text.replace(CHECKS, "pass")
