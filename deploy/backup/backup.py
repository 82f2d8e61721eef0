"""Copy the databases and the buckets to another S3-compatible store, once or every so many hours.

    python backup.py --keep 14
    python backup.py --every-hours 24 --keep 14
    python backup.py --is-newer-than-hours 30      # exit 1 when there is no such backup

The databases are dumped first and the objects copied after them: the registry writes an artifact's files before the version
that names them, so every file that a dump knows is there to be copied. A dump counts once its backup.json, written last and
with the digest of each dump, is there; what an earlier one left without it, failed or killed, the next one removes first.
Objects are kept once, whatever the number of dumps.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import stores

_HALF = "amoeba-dump-"
STAMP = "%Y%m%dT%H%M%SZ"


def back_up(keep: int) -> dict[str, Any]:
    """One backup; returns its record. Raises what pg_dump and the stores raise, and then there is no new backup.

    A few objects that the store no longer gives are named in the record, and cost neither the others nor the databases.
    """
    target, bucket = stores.elsewhere()
    for left, files in _begun(target, bucket).items():
        if "backup.json" not in files:
            _remove(target, bucket, left)
    stamp = datetime.now(UTC).strftime(STAMP)
    dumps = {}
    for database in stores.DATABASES:
        with tempfile.TemporaryDirectory(prefix=_HALF) as folder:
            file = Path(folder) / f"{database}.dump"
            subprocess.run(["pg_dump", "--format=custom", f"--file={file}", database], check=True)
            with file.open("rb") as dump:
                digest = hashlib.file_digest(dump, "sha256").hexdigest()
            target.upload_file(str(file), bucket, f"dumps/{stamp}/{file.name}")
            dumps[database] = {"bytes": file.stat().st_size, "sha256": digest}
    source, copied, failed = stores.own(), {}, []
    for name in stores.BUCKETS:
        copied[name], lost = stores.synchronise(source, (name, ""), target, (bucket, f"objects/{name}/"), changed=True)
        failed += lost
    if len(_begun(target, bucket).get(stamp, ())) < len(dumps):
        raise RuntimeError(f"the dumps of {stamp} are gone: another backup began meanwhile, and removed them")
    record = {"stamp": stamp, "dumps": dumps, "objects_copied": copied, "objects_failed": failed}
    target.put_object(Bucket=bucket, Key=f"dumps/{stamp}/backup.json", Body=json.dumps(record).encode())
    for old in whole(target, bucket)[:-keep]:
        _remove(target, bucket, old)
    return record


def whole(target: Any, bucket: str) -> list[str]:
    """Stamps of the backups that ended, oldest first."""
    return sorted(stamp for stamp, files in _begun(target, bucket).items() if "backup.json" in files)


def record_of(target: Any, bucket: str, stamp: str) -> dict[str, Any]:
    """What a backup that ended holds, as `back_up` returned it."""
    body = target.get_object(Bucket=bucket, Key=f"dumps/{stamp}/backup.json")["Body"]
    record: dict[str, Any] = json.loads(body.read(1_000_000))
    return record


def _begun(target: Any, bucket: str) -> dict[str, list[str]]:
    """The files of every backup that there is something of, by its stamp."""
    found: dict[str, list[str]] = {}
    for entry in stores.listed(target, bucket, "dumps/"):
        stamp, _, file = entry.key.partition("/")
        found.setdefault(stamp, []).append(file)
    return found


def _remove(target: Any, bucket: str, stamp: str) -> None:
    """Its backup.json, the first by name, goes before its dumps."""
    for entry in list(stores.listed(target, bucket, f"dumps/{stamp}/")):
        target.delete_object(Bucket=bucket, Key=f"dumps/{stamp}/{entry.key}")


def is_newer_than(hours: float) -> bool:
    """Whether the newest backup that ended began less than so many hours ago and lacks no object."""
    target, bucket = stores.elsewhere()
    found = whole(target, bucket)
    if not found or record_of(target, bucket, found[-1]).get("objects_failed"):
        return False
    began = datetime.strptime(found[-1], STAMP).replace(tzinfo=UTC)
    return (datetime.now(UTC) - began).total_seconds() < hours * 3600


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--keep", type=int, default=14, help="dumps to keep, at least 1")
    parser.add_argument("--every-hours", type=float, help="go on until stopped")
    parser.add_argument("--is-newer-than-hours", type=float, help="only say by the exit whether there is such a backup")
    given = parser.parse_args()
    if given.keep < 1:
        parser.error(f"--keep is {given.keep}; at least 1 backup is kept")
    if given.is_newer_than_hours is not None:
        sys.exit(0 if is_newer_than(given.is_newer_than_hours) else 1)
    if given.every_hours is not None:  # a service, which is alone in its container: what a killed one left
        for half in Path(tempfile.gettempdir()).glob(f"{_HALF}*"):
            shutil.rmtree(half, ignore_errors=True)
    while True:
        try:
            record = back_up(given.keep)
            print(json.dumps(record), flush=True)  # noqa: T201
        except Exception as error:
            if given.every_hours is None:
                raise
            print(f"no backup was made, trying again: {error}", file=sys.stderr, flush=True)  # noqa: T201
            time.sleep(600)
            continue
        if given.every_hours is None:
            sys.exit(1 if record["objects_failed"] else 0)
        time.sleep(given.every_hours * 3600)


if __name__ == "__main__":
    main()
