"""Put a backup back: its databases in place of today's, and every object that the buckets lack.

    python restore.py --list
    python restore.py 20261122T021700Z
    python restore.py latest

MLflow, Prefect and the workers must be stopped; PostgreSQL and the store run, with the roles that a first start makes. All
dumps are fetched and checked before any database is touched, and each is replaced in one transaction.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import backup
import stores


def restore(stamp: str) -> dict[str, int]:
    """Returns how many objects came back to each bucket. Raises SystemExit for an unknown backup or a damaged dump."""
    target, bucket = stores.elsewhere()
    there = backup.whole(target, bucket)
    if stamp == "latest" and there:
        stamp = there[-1]
    if stamp not in there:
        sys.exit(f"there is no whole backup {stamp}; there are {', '.join(there) or 'none'}")
    record = json.loads(target.get_object(Bucket=bucket, Key=f"dumps/{stamp}/backup.json")["Body"].read(1_000_000))
    with tempfile.TemporaryDirectory() as folder:
        files = {database: Path(folder) / f"{database}.dump" for database in stores.DATABASES}
        for database, file in files.items():
            target.download_file(bucket, f"dumps/{stamp}/{file.name}", str(file))
            with file.open("rb") as dump:
                found = hashlib.file_digest(dump, "sha256").hexdigest()
            if found != record["dumps"][database]["sha256"]:
                sys.exit(
                    f"{file.name} of {stamp} is damaged: its SHA-256 is another than was written down; take an older one"
                )
        own = stores.own()
        # A copy is newer than its original, which stays.
        copied = {
            name: stores.synchronise(target, (bucket, f"objects/{name}/"), own, (name, ""), changed=False)
            for name in stores.BUCKETS
        }
        for database, file in files.items():
            command = [
                "pg_restore",
                "--clean",
                "--if-exists",
                "--single-transaction",
                f"--dbname={database}",
                str(file),
            ]
            subprocess.run(command, check=True)
    return copied


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stamp", nargs="?", help="as --list prints it, or latest")
    parser.add_argument("--list", action="store_true", help="the backups that there are")
    given = parser.parse_args()
    if given.list:
        print("\n".join(backup.whole(*stores.elsewhere())))  # noqa: T201
    elif given.stamp is None:
        parser.error("which backup? --list names them")
    else:
        print(json.dumps({"stamp": given.stamp, "objects_copied": restore(given.stamp)}))  # noqa: T201


if __name__ == "__main__":
    main()
