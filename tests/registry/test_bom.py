"""The bill of materials: valid by the official schema, the same for the same ingredients, and complete."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from registry.bom import Ingredients, bill_of_materials, subnet_of
from registry.errors import RefusedError
from registry.manifest import FileEntry

MADE_OF = Ingredients(
    model="tiny",
    target="x86",
    shape="d4w75",
    quantization="int8",
    architecture="LlamaForCausalLM",
    licence="apache-2.0",
    base_fingerprint="1a" * 32,
    data_revision="2b" * 16 + ".dir",
    selection_revision="3c" * 16 + ".dir",
    supernet_revision="4d" * 16 + ".dir",
    subnet_sha256="5e" * 32,
    runtime=("onnxruntime", "1.31.1"),
    builders={"torch": "2.13.0+cpu", "onnx": "1.23.2"},
)
FILES = (FileEntry("config.json", 2, "6f" * 32), FileEntry("texts/é b.json", 3, "70" * 32))


def document(made_of: Ingredients = MADE_OF) -> dict[str, Any]:
    value: dict[str, Any] = json.loads(bill_of_materials(made_of, FILES))
    return value


@pytest.mark.parametrize("licence", ["apache-2.0", "llama3.2", "see LICENSE"])
def test_it_is_valid_by_the_official_schema_and_an_altered_one_is_not(licence: str) -> None:
    validator = JsonStrictValidator(SchemaVersion.V1_6)
    made = document(replace(MADE_OF, licence=licence))
    assert validator.validate_str(json.dumps(made)) is None
    made["metadata"]["component"]["modelCard"]["invented"] = 1
    assert validator.validate_str(json.dumps(made)) is not None


def test_the_same_ingredients_give_the_same_bytes_whatever_order_they_came_in() -> None:
    turned = replace(MADE_OF, builders=dict(reversed(MADE_OF.builders.items())))
    assert bill_of_materials(MADE_OF, FILES) == bill_of_materials(turned, FILES[::-1])
    assert "timestamp" not in document()["metadata"]


@pytest.mark.parametrize("name", [name for name in vars(MADE_OF) if name not in ("builders", "runtime")])
def test_another_ingredient_gives_another_serial_number_and_none_is_refused(name: str) -> None:
    other = replace(MADE_OF, **{name: "ab" * 32})
    assert document(other)["serialNumber"] != document()["serialNumber"]
    with pytest.raises(RefusedError, match=f"{name} is empty"):
        replace(MADE_OF, **{name: ""})


def test_every_file_is_listed_with_its_digest() -> None:
    listed = {one["name"]: one["hashes"] for one in document()["components"] if one["type"] == "file"}
    assert listed == {entry.path: [{"alg": "SHA-256", "content": entry.sha256}] for entry in FILES}


def test_the_ancestors_lead_from_the_package_over_subnet_and_supernet_to_the_base() -> None:
    step, line = document()["metadata"]["component"], []
    while step:
        line.append((step["bom-ref"], step.get("hashes", [{}])[0].get("content")))
        step = step.get("pedigree", {}).get("ancestors", [None])[0]
    assert line == [("package", None), ("subnet", "5e" * 32), ("supernet", None), ("base", "1a" * 32)]
    assert subnet_of(bill_of_materials(MADE_OF, FILES)) == MADE_OF.subnet_sha256


def test_every_reference_leads_to_a_component_and_none_is_given_twice() -> None:
    made = document()
    given: list[str] = []

    def collect(value: Any) -> None:
        if isinstance(value, dict):
            given.extend([value["bom-ref"]] if "bom-ref" in value else [])
            value = list(value.values())
        for inner in value if isinstance(value, list) else ():
            collect(inner)

    collect(made)
    used = {ref for one in made["dependencies"] for ref in (one["ref"], *one["dependsOn"])}
    assert len(given) == len(set(given))
    assert used <= set(given)
    assert made["metadata"]["component"]["modelCard"]["modelParameters"]["datasets"] == [{"ref": "data"}]


def test_known_licences_get_their_identifier_and_versions_a_package_address() -> None:
    assert document()["metadata"]["component"]["licenses"] == [{"license": {"id": "Apache-2.0"}}]
    addresses = [one["purl"] for one in document()["metadata"]["tools"]["components"]]
    assert addresses == ["pkg:pypi/onnx@1.23.2", "pkg:pypi/torch@2.13.0%2Bcpu"]
