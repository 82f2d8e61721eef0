"""Keys, whom they are shown to, and whom a device believes."""

from __future__ import annotations

import datetime
import os
import stat
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from registry.errors import RefusedError, SignatureError
from registry.keys import KeyFile, PublicKey, make_key
from registry.trust import REVOKED_FOLDER, Trust, add_key, revoke

DAY = datetime.date(2026, 11, 21)


def pem(key: ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey) -> bytes:
    return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def test_a_new_pair_opens_and_its_halves_belong_together(tmp_path: Path) -> None:
    private, public = make_key("lab", tmp_path / "made")
    assert KeyFile(private).read().public == PublicKey.read(public)
    assert PublicKey.read(public).name == "lab"


def test_a_private_key_is_its_owners_alone(tmp_path: Path) -> None:
    private, public = make_key("lab", tmp_path / "made")
    assert stat.S_IMODE(private.stat().st_mode) == 0o600
    assert stat.S_IMODE(private.parent.stat().st_mode) == 0o700
    assert b"PRIVATE" not in public.read_bytes()


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o620])
def test_a_private_key_that_others_may_reach_is_refused(mode: int, tmp_path: Path) -> None:
    private, _ = make_key("lab", tmp_path)
    private.chmod(mode)
    with pytest.raises(RefusedError, match=rf"mode {mode:04o}.*chmod 600"):
        KeyFile(private).read()


@pytest.mark.parametrize(("mode", "user", "taken"), [(0o440, 1000, True), (0o444, 1000, False), (0o440, 0, False)])
def test_a_key_of_root_s_that_a_group_reads_is_taken_by_an_ordinary_user_alone(
    mode: int, user: int, taken: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As Kubernetes mounts a secret."""
    private, _ = make_key("lab", tmp_path)
    private.chmod(mode)
    facts = list(private.stat())
    facts[stat.ST_UID] = 0
    monkeypatch.setattr(os, "fstat", lambda _: os.stat_result(facts))
    monkeypatch.setattr(os, "geteuid", lambda: user)
    if taken:
        assert KeyFile(private).read().name == "lab"
    else:
        with pytest.raises(RefusedError, match=f"mode {mode:04o}"):
            KeyFile(private).read()


@pytest.mark.parametrize("suffix", [".key", ".pem"])
def test_a_key_is_never_overwritten_and_no_half_pair_is_left(suffix: str, tmp_path: Path) -> None:
    taken = tmp_path / f"lab{suffix}"
    taken.write_text("mine")
    with pytest.raises(RefusedError, match="exists and is never overwritten"):
        make_key("lab", tmp_path)
    assert taken.read_text() == "mine"
    assert os.listdir(tmp_path) == [taken.name]


def test_a_key_that_was_killed_while_it_was_written_is_not_there(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        pass

    def killed(_: int) -> None:
        raise Killed

    _, public = make_key("lab", tmp_path)
    for linked in (os.link, _no_links):
        monkeypatch.setattr(os, "link", linked)
        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", killed)
            patch.setattr(Path, "unlink", lambda *_, **__: None)
            with pytest.raises(Killed):
                add_key(folder, public)
        assert Trust.read(folder).keys == ()
    add_key(folder, public)
    assert [key.name for key in Trust.read(folder).keys] == ["lab"]
    with pytest.raises(RefusedError, match="never overwritten"):
        make_key("lab", tmp_path)


def _no_links(*_: object) -> None:
    raise PermissionError("Operation not permitted")


def test_a_link_at_a_keys_place_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "lab.key").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(RefusedError, match="never overwritten"):
        make_key("lab", tmp_path)
    assert not (tmp_path / "elsewhere").exists()


def test_a_password_closes_the_private_key_and_is_not_shown(tmp_path: Path) -> None:
    private, public = make_key("lab", tmp_path, "a long password")
    assert b"ENCRYPTED" in private.read_bytes()
    right = KeyFile(private, "a long password")
    assert right.read().public == PublicKey.read(public)
    assert "a long password" not in repr(right)
    with pytest.raises(RefusedError, match="AMOEBA_SIGNING_KEY_PASSWORD is not its password"):
        KeyFile(private, "another").read()
    with pytest.raises(RefusedError, match="set AMOEBA_SIGNING_KEY_PASSWORD"):
        KeyFile(private).read()


def test_a_password_for_a_key_without_one_says_so(tmp_path: Path) -> None:
    private, _ = make_key("lab", tmp_path)
    with pytest.raises(RefusedError, match="unset AMOEBA_SIGNING_KEY_PASSWORD"):
        KeyFile(private, "more than is needed").read()


def test_a_key_that_is_not_there_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(RefusedError, match=r"cannot be read.*amoeba keys new NAME"):
        KeyFile(tmp_path / "none.key").read()


@pytest.mark.parametrize("name", ["", "a/b", "../a", ".a", "-a", "a b", "é", "a\n", "a" * 101])
def test_a_name_that_could_be_more_than_a_file_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(RefusedError, match="is no key's name"):
        make_key(name, tmp_path)


def test_keys_of_another_kind_are_refused(tmp_path: Path) -> None:
    for key, message in (
        (ec.generate_private_key(ec.SECP384R1()), "curve secp384r1"),
        (ed25519.Ed25519PrivateKey.generate(), "no ECDSA key"),
    ):
        with pytest.raises(RefusedError, match=message):
            PublicKey.parse("lab", pem(key))
        path = tmp_path / "lab.key"
        path.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        path.chmod(0o600)
        with pytest.raises(RefusedError, match=message):
            KeyFile(path).read()


def test_a_file_that_is_not_one_public_key_is_refused(tmp_path: Path) -> None:
    private, public = make_key("lab", tmp_path)
    _, other = make_key("other", tmp_path)
    for content, message in (
        (private.read_bytes(), "holds a private key"),
        (b"", "no public key in PEM"),
        (b"\0" * 10_000, "no public key in PEM"),
        (public.read_bytes()[:-40], "no public key in PEM"),
        (public.read_bytes() + other.read_bytes(), "more than a public key"),
        (b"Trust me.\n" + public.read_bytes(), "more than a public key"),
    ):
        with pytest.raises(RefusedError, match=message):
            PublicKey.parse("lab", content)


@pytest.fixture
def key(tmp_path: Path) -> PublicKey:
    return PublicKey.read(make_key("lab", tmp_path / "made")[1])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "trusted"


def test_a_public_key_that_is_not_there_says_whom_to_ask(tmp_path: Path, folder: Path) -> None:
    with pytest.raises(RefusedError, match=r"nope\.pem cannot be read \(No such file or directory\); its owner has it"):
        add_key(folder, tmp_path / "nope.pem")


def test_where_no_key_is_known_no_signature_is_required(folder: Path) -> None:
    assert not Trust.read(folder).required
    assert Trust.read(folder, wanted="always").required


def test_a_known_key_makes_signatures_required_unless_that_is_waived(tmp_path: Path, folder: Path) -> None:
    key = add_key(folder, make_key("lab", tmp_path)[1])
    assert Trust.read(folder).key(key.fingerprint) == key
    assert Trust.read(folder).required
    assert not Trust.read(folder, wanted="never").required


def test_several_keys_are_trusted_at_once_from_several_folders(tmp_path: Path, folder: Path) -> None:
    made = [add_key(folder / name, make_key(name, tmp_path)[1]) for name in ("old", "new")]
    trust = Trust.read(folder / "old", folder / "new", folder / "none")
    assert [trust.key(key.fingerprint) for key in made] == made


def test_a_key_is_trusted_under_a_name_of_ones_own_and_once(tmp_path: Path, folder: Path) -> None:
    public = make_key("lab", tmp_path)[1]
    assert add_key(folder, public, "suppliers").name == "suppliers"
    assert add_key(folder, public, "suppliers") == add_key(folder, public, "suppliers")
    assert [key.name for key in Trust.read(folder).keys] == ["suppliers"]


def test_another_key_of_a_known_name_does_not_take_its_place(tmp_path: Path, folder: Path) -> None:
    first = add_key(folder, make_key("lab", tmp_path / "a")[1])
    with pytest.raises(RefusedError, match="never overwritten"):
        add_key(folder, make_key("lab", tmp_path / "b")[1])
    assert Trust.read(folder).keys == (first,)


def test_a_private_key_is_not_trusted_by_mistake(tmp_path: Path, folder: Path) -> None:
    private, _ = make_key("lab", tmp_path)
    with pytest.raises(RefusedError, match="holds a private key"):
        add_key(folder, private)
    assert not folder.exists()


def test_an_unknown_key_is_named_with_those_that_are_known(tmp_path: Path, folder: Path, key: PublicKey) -> None:
    add_key(folder, make_key("other", tmp_path)[1])
    with pytest.raises(SignatureError, match=rf"unknown key \({key.fingerprint[:12]}\); trusted here: other"):
        Trust.read(folder).key(key.fingerprint)


def test_a_revoked_key_is_refused_with_its_reason_and_date(tmp_path: Path, folder: Path, key: PublicKey) -> None:
    add_key(folder, tmp_path / "made" / "lab.pem")
    revoke(folder, key, "the laptop was lost", DAY)
    with pytest.raises(SignatureError, match=r"key lab .* revoked on 2026-11-21: the laptop was lost"):
        Trust.read(folder).key(key.fingerprint)


def test_revoking_the_last_key_does_not_bring_unsigned_artifacts_back(folder: Path, key: PublicKey) -> None:
    revoke(folder, key, "lost", DAY)
    assert Trust.read(folder).required


def test_a_key_revoked_in_one_folder_is_trusted_in_none(tmp_path: Path, folder: Path, key: PublicKey) -> None:
    add_key(folder / "mine", tmp_path / "made" / "lab.pem")
    revoke(folder / "all", key, "lost", DAY)
    with pytest.raises(SignatureError, match="revoked"):
        Trust.read(folder / "mine", folder / "all").key(key.fingerprint)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff", b'{"reason": ', b"[" * 5000])
def test_a_revocation_cut_short_still_revokes(content: bytes, tmp_path: Path, folder: Path, key: PublicKey) -> None:
    add_key(folder, tmp_path / "made" / "lab.pem")
    (folder / REVOKED_FOLDER).mkdir()
    (folder / REVOKED_FOLDER / f"{key.fingerprint}.json").write_bytes(content)
    with pytest.raises(SignatureError, match=r"key lab .* an unknown date: no reason noted"):
        Trust.read(folder).key(key.fingerprint)


def test_a_revocation_stays_as_it_was_first_noted(folder: Path, key: PublicKey) -> None:
    first = revoke(folder, key, "lost", DAY)
    assert revoke(folder, key, "found", DAY + datetime.timedelta(1)) == first


@pytest.mark.parametrize("reason", ["", "two\nlines", "x" * 501])
def test_a_reason_is_one_short_line(reason: str, folder: Path, key: PublicKey) -> None:
    with pytest.raises(RefusedError, match="a reason is one line"):
        revoke(folder, key, reason, DAY)


def test_what_a_file_manager_leaves_among_the_keys_is_passed_over(folder: Path, key: PublicKey) -> None:
    revoke(folder, key, "stolen", datetime.date(2026, 7, 30))
    for place in (folder, folder / REVOKED_FOLDER):
        (place / ".DS_Store").write_bytes(b"Bud1")
        (place / "._lab.pem").write_bytes(b"more")
    assert [one.reason for one in Trust.read(folder).revoked] == ["stolen"]


def test_a_revocation_that_names_no_key_is_refused_and_not_overlooked(folder: Path) -> None:
    (folder / REVOKED_FOLDER).mkdir(parents=True)
    (folder / REVOKED_FOLDER / "lab.json").write_text("{}")
    with pytest.raises(RefusedError, match="revokes no key"):
        Trust.read(folder)


@pytest.mark.parametrize("place", [".", "lab.pem", REVOKED_FOLDER])
def test_keys_that_anybody_may_write_are_not_believed(place: str, tmp_path: Path, folder: Path, key: PublicKey) -> None:
    add_key(folder, tmp_path / "made" / "lab.pem")
    revoke(folder, key, "lost", DAY)
    (folder / place).chmod((folder / place).stat().st_mode | 0o002)
    with pytest.raises(RefusedError, match=r"anybody may write .*chmod o-w"):
        Trust.read(folder)


def test_a_read_only_mount_is_believed_whatever_its_folders_mode_and_its_files_are_not(
    tmp_path: Path, folder: Path, key: PublicKey, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As Kubernetes mounts a secret: anybody might write the folder, and its files are links to one beside them."""
    add_key(folder / "..data", tmp_path / "made" / "lab.pem")
    (folder / "lab.pem").symlink_to("..data/lab.pem")
    folder.chmod(0o1777)
    with pytest.raises(RefusedError, match=f"anybody may write {folder},"):
        Trust.read(folder)
    read_only = [*os.statvfs(folder)]
    read_only[8] |= os.ST_RDONLY
    monkeypatch.setattr(os, "statvfs", lambda _: os.statvfs_result(read_only))
    assert Trust.read(folder).keys == (key,)
    (folder / "lab.pem").chmod(0o666)
    with pytest.raises(RefusedError, match=f"anybody may write {folder}/lab.pem"):
        Trust.read(folder)


def test_a_damaged_trusted_key_is_told_and_not_passed_over(tmp_path: Path, folder: Path, key: PublicKey) -> None:
    add_key(folder, tmp_path / "made" / "lab.pem")
    os.truncate(folder / "lab.pem", 60)
    with pytest.raises(RefusedError, match="no public key in PEM"):
        Trust.read(folder)


def test_a_file_where_the_folder_of_keys_should_be_is_told(folder: Path) -> None:
    folder.write_text("x")
    with pytest.raises(RefusedError, match=r"is no folder.*AMOEBA_TRUST"):
        Trust.read(folder)
