"""`amoeba keys` and `amoeba verify` as a user runs them."""

from __future__ import annotations

import json
import stat
from pathlib import Path
from typing import Any

import pytest
from fixtures.artifacts import FILES, write_artifact
from fixtures.workspace import amoeba

from registry.keys import KeyFile
from registry.manifest import MANIFEST_FILE, Manifest
from registry.paths import SIGNATURE_FILE
from registry.signing import sign


@pytest.fixture
def key(tmp_path: Path) -> dict[str, Any]:
    """A pair of keys that the command made."""
    done = amoeba(tmp_path, "keys", "new", "lab", "--out", "made", "--json")
    assert done.returncode == 0, done.stderr
    made: dict[str, Any] = json.loads(done.stdout)
    return made


def artifact(folder: Path, key_file: KeyFile | None = None) -> Path:
    folder.mkdir()
    (folder / "model").write_text("weights")
    made = Manifest.of(folder, kind="package", model="tiny", target="x86", facts={}, lineage={})
    (folder / MANIFEST_FILE).write_bytes(made.canonical())
    if key_file:
        (folder / SIGNATURE_FILE).write_bytes(sign(made, key_file))
    return folder


def test_a_key_is_made_trusted_listed_and_revoked(tmp_path: Path, key: dict[str, Any]) -> None:
    assert stat.S_IMODE((tmp_path / key["private"]).stat().st_mode) == 0o600
    assert json.loads(amoeba(tmp_path, "keys", "list", "--json").stdout) == []
    trusted = json.loads(amoeba(tmp_path, "keys", "trust", key["public"], "--name", "supplier", "--json").stdout)
    assert trusted == {"name": "supplier", "fingerprint": key["fingerprint"], "revoked": False}
    revoked = amoeba(tmp_path, "keys", "revoke", key["fingerprint"][:12], "--reason", "lost")
    assert "supplier" in revoked.stdout
    (listed,) = json.loads(amoeba(tmp_path, "keys", "list", "--json").stdout)
    assert listed["revoked"]["reason"] == "lost"
    again = amoeba(tmp_path, "keys", "trust", key["public"], "--name", "supplier")
    assert "stays revoked" in again.stdout


def test_a_key_that_nobody_knows_cannot_be_revoked_by_its_name(tmp_path: Path, key: dict[str, Any]) -> None:
    done = amoeba(tmp_path, "keys", "revoke", "nobody", "--reason", "x")
    assert (done.returncode, done.stderr.count("error: ")) == (2, 1)
    assert "no key is called 'nobody'; known here: none" in done.stderr


def test_verify_says_who_signed_or_that_nobody_can_tell(tmp_path: Path, key: dict[str, Any]) -> None:
    signed = artifact(tmp_path / "signed", KeyFile(tmp_path / key["private"]))
    assert "unverified: no trusted key" in amoeba(tmp_path, "verify", str(signed)).stdout
    amoeba(tmp_path, "keys", "trust", key["public"])
    assert f"signed by lab ({key['fingerprint'][:12]})" in amoeba(tmp_path, "verify", str(signed)).stdout
    told = json.loads(amoeba(tmp_path, "verify", str(signed), "--json").stdout)
    assert told["signer"] == {"name": "lab", "fingerprint": key["fingerprint"]}


def test_what_nobody_signed_is_taken_only_where_no_key_is_known_or_that_is_asked_for(
    tmp_path: Path, key: dict[str, Any]
) -> None:
    unsigned = str(artifact(tmp_path / "unsigned"))
    assert amoeba(tmp_path, "verify", unsigned).returncode == 0
    required = amoeba(tmp_path, "verify", unsigned, "--require-signature")
    assert (required.returncode, "amoeba keys trust NAME.pem" in required.stderr) == (2, True)
    amoeba(tmp_path, "keys", "trust", key["public"])
    refused = amoeba(tmp_path, "verify", unsigned)
    assert (refused.returncode, "is not signed" in refused.stderr) == (2, True)
    allowed = amoeba(tmp_path, "verify", unsigned, "--allow-unsigned")
    assert (allowed.returncode, "warning: what nobody signed is taken" in allowed.stderr) == (0, True)
    both = amoeba(tmp_path, "verify", unsigned, "--allow-unsigned", "--require-signature")
    assert (both.returncode, "opposite things" in both.stderr) == (2, True)


def test_a_rollback_asks_who_signed_before_it_replaces_anything(tmp_path: Path, key: dict[str, Any]) -> None:
    for folder, more in (("device", b"new"), (".device.previous", b"old")):
        made = write_artifact(tmp_path / folder, "tiny", files={**FILES, "more": more})
        (tmp_path / folder / MANIFEST_FILE).write_bytes(made.canonical())
    asked = ("pull", "tiny", "x86", "--to", "device", "--rollback")
    amoeba(tmp_path, "keys", "trust", key["public"])
    refused = amoeba(tmp_path, *asked)
    assert (refused.returncode, "is not signed" in refused.stderr) == (2, True), refused.stderr
    assert (tmp_path / "device" / "more").read_bytes() == b"new"
    assert amoeba(tmp_path, *asked, "--allow-unsigned").returncode == 0
    assert (tmp_path / "device" / "more").read_bytes() == b"old"


def test_a_chosen_folder_of_keys_that_is_not_there_believes_nobody_instead_of_everybody(tmp_path: Path) -> None:
    unsigned = str(artifact(tmp_path / "unsigned"))
    done = amoeba(tmp_path, "verify", unsigned, AMOEBA_TRUST=str(tmp_path / "nowhere"))
    assert (done.returncode, "which is no folder" in done.stderr) == (2, True)


def test_the_doctor_names_the_keys_and_what_is_wrong_with_them(tmp_path: Path, key: dict[str, Any]) -> None:
    def told(**environment: str) -> dict[str, Any]:
        done = amoeba(tmp_path, "doctor", "--json", **environment)
        return {one["what"]: one for one in json.loads(done.stdout)}

    found = told(AMOEBA_SIGNING_KEY=key["private"])
    assert found["signing key"]["found"] == f"lab ({key['fingerprint'][:12]})"
    assert found["trusted keys"]["found"].startswith("none: ")
    amoeba(tmp_path, "keys", "trust", key["public"])
    amoeba(tmp_path, "keys", "revoke", "lab", "--reason", "lost")
    found = told(AMOEBA_SIGNING_KEY=key["private"])
    assert "was revoked: lost, so nobody here would believe" in found["signing key"]["remedy"]
    (tmp_path / key["private"]).chmod(0o644)
    found = told(AMOEBA_SIGNING_KEY=key["private"], AMOEBA_TRUST="nowhere")
    assert "chmod 600" in found["signing key"]["remedy"]
    assert "no folder" in found["trusted keys"]["remedy"]


def test_a_password_closes_a_new_key_and_is_never_shown(tmp_path: Path) -> None:
    done = amoeba(tmp_path, "keys", "new", "closed", "--out", ".", AMOEBA_SIGNING_KEY_PASSWORD="a long password")
    assert b"ENCRYPTED" in (tmp_path / "closed.key").read_bytes()
    assert "a long password" not in done.stdout + done.stderr
    wrong = amoeba(tmp_path, "doctor", AMOEBA_SIGNING_KEY="closed.key", AMOEBA_SIGNING_KEY_PASSWORD="another password")
    assert "another password" not in wrong.stdout + wrong.stderr
