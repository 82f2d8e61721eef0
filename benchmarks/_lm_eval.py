"""lm-evaluation-harness on a local task, in an environment of its own; nothing of ours is imported here.

Its own tokenization, batching and metrics; what is timed is `loglikelihood`, from texts to numbers.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch
from lm_eval import simple_evaluate
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("model", "items", "out"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--batch", type=int, required=True)
    parser.add_argument("--threads", type=int, required=True)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    model = HFLM(pretrained=str(given.model), dtype="float32", device="cpu", batch_size=given.batch)
    taken: dict[str, float] = {}
    plain = model.loglikelihood

    def timed(*arguments: Any, **options: Any) -> Any:
        wall, processor = time.perf_counter(), time.process_time()
        answers = plain(*arguments, **options)
        taken.update(seconds=time.perf_counter() - wall, cpu_seconds=time.process_time() - processor)
        return answers

    model.loglikelihood = timed
    task = {
        "task": "items",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"validation": str(given.items)}},
        "validation_split": "validation",
        "output_type": "multiple_choice",
        "doc_to_text": "context",
        "doc_to_choice": "choices",
        "doc_to_target": "gold",
        "metric_list": [{"metric": "acc_norm", "aggregation": "mean", "higher_is_better": True}],
    }
    found = simple_evaluate(
        model=model, tasks=[task], task_manager=TaskManager(include_defaults=False), bootstrap_iters=0
    )
    samples = sorted(found["samples"]["items"], key=lambda sample: sample["doc_id"])
    answers = [
        {"correct": bool(sample["acc_norm"]), "log_likelihoods": [answer[0] for answer in sample["filtered_resps"]]}
        for sample in samples
    ]
    given.out.write_text(json.dumps({**taken, "answers": answers}))


if __name__ == "__main__":
    main()
