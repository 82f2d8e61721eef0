"""What a device runs: this folder is copied into every package as `device`, so a package answers and measures itself.

    python -m device run --prompt "What is gravity?"
    python -m device bench --out bench.json

Nothing here imports anything else of ours. A package holds the runner it needs and none of the others; besides that
runtime it takes numpy, tokenizers and jinja2.
"""
