"""Make the buckets that are named, where they are not there yet: `python buckets.py artifacts dvc`."""

from __future__ import annotations

import sys

import stores


def main() -> None:
    client = stores.own()
    there = {bucket["Name"] for bucket in client.list_buckets()["Buckets"]}
    for name in sys.argv[1:]:
        if name not in there:
            client.create_bucket(Bucket=name)


if __name__ == "__main__":
    main()
