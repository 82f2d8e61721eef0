"""Put a backup back: its databases in place of today's, and every object that the buckets lack.

    python restore.py --list
    python restore.py 20261122T021700Z
    python restore.py latest

MLflow, Prefect and the workers must be stopped; PostgreSQL and the store run, with the roles that a first start makes. Each dump
is checked and read into a new database, since what was added to an old one since would stand in its way or stay; once all are
whole they take the places of the old ones, in one transaction.
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
    record = backup.record_of(target, bucket, stamp)
    for database in stores.DATABASES:
        with tempfile.TemporaryDirectory() as folder:  # one at a time, as they were made: the disk need not hold all
            file = Path(folder) / f"{database}.dump"
            target.download_file(bucket, f"dumps/{stamp}/{file.name}", str(file))
            with file.open("rb") as dump:
                found = hashlib.file_digest(dump, "sha256").hexdigest()
            if found != record["dumps"][database]["sha256"]:
                sys.exit(
                    f"{file.name} of {stamp} is damaged: its SHA-256 is another than was written down; take an older one"
                )
            _make_empty(database)
            command = ["pg_restore", "--single-transaction", f"--dbname={database}_restored", str(file)]
            subprocess.run(command, check=True)
    own = stores.own()
    # A copy is newer than its original, which stays.
    copied = {}
    for name in stores.BUCKETS:
        copied[name], failed = stores.synchronise(target, (bucket, f"objects/{name}/"), own, (name, ""), changed=False)
        if failed:
            sys.exit(f"{len(failed)} objects did not come back, and no database was touched; the first is {failed[0]}")
    _replace_all()
    return copied


def _make_empty(database: str) -> None:
    """As deploy/postgres/databases.sh makes it, beside the one that is there."""
    made = f"{database}_restored"
    _psql(
        f"DROP DATABASE IF EXISTS {made}",
        f"CREATE DATABASE {made} OWNER {stores.DATABASES[database]}",
        f"REVOKE CONNECT ON DATABASE {made} FROM PUBLIC",
    )


def _replace_all() -> None:
    """PostgreSQL refuses where somebody still uses one of them, and then all stay as they are."""
    _psql(*(f"DROP DATABASE IF EXISTS {database}_replaced" for database in stores.DATABASES))
    renamed = []
    for database in stores.DATABASES:
        renamed += [
            f"ALTER DATABASE {database} RENAME TO {database}_replaced",
            f"ALTER DATABASE {database}_restored RENAME TO {database}",
        ]
    _psql("BEGIN", *renamed, "COMMIT")
    _psql(*(f"DROP DATABASE {database}_replaced" for database in stores.DATABASES))


def _psql(*statements: str) -> None:
    """One after another, until one fails."""
    command = ["psql", "--no-psqlrc", "--quiet", "--set=ON_ERROR_STOP=1", "--dbname=postgres"]
    subprocess.run([*command, *(f"--command={statement}" for statement in statements)], check=True)


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
