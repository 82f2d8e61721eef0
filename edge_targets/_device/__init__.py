"""What a device runs: this folder is copied into every package as `device`, so a package answers and measures itself.

    python model/run.py --prompt "What is gravity?"
    python model/bench.py --out bench.json

Nothing here imports anything else of ours. A package holds the runner it needs and none of the others; besides that
runtime it takes numpy, tokenizers and jinja2.
"""
