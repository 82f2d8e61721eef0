import json
from pathlib import Path

import pytest
from fixtures.tiny import VOCABULARY
from transformers import GenerationConfig, PreTrainedModel

from components import selfchat
from components.selfchat import answers

PROMPTS = [[2 + (index * 7 + place) % (VOCABULARY - 2) for place in range(1 + index % 4)] for index in range(12)]


def test_answers_of_a_killed_run_go_on_to_those_of_one_never_killed(
    tiny: PreTrainedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(selfchat, "_PROMPTS_AT_ONCE", 4)
    monkeypatch.setattr(selfchat, "_KEEP_EVERY_S", 0)
    wanted = answers(tiny, PROMPTS, 6, [1], seed=3)

    def kill(done: int, total: int) -> None:
        if done == 8:
            raise KeyboardInterrupt

    memory = tmp_path / "chat.json"
    with pytest.raises(KeyboardInterrupt):
        answers(tiny, PROMPTS, 6, [1], seed=3, progress=kill, memory=memory)
    done: list[int] = []
    assert answers(tiny, PROMPTS, 6, [1], 3, lambda one, total: done.append(one), memory) == wanted
    assert done == [12]
    assert wanted != answers(tiny, PROMPTS, 6, [1], seed=4)


@pytest.mark.parametrize("own", [{"top_k": 1}, {"repetition_penalty": 1.3}, {"num_beams": 2}, {"min_p": 0.5}], ids=str)
def test_what_the_base_would_be_sampled_with_changes_no_answer(tiny: PreTrainedModel, own: dict[str, float]) -> None:
    wanted = answers(tiny, PROMPTS, 6, [1], seed=3)
    settings = tiny.generation_config = GenerationConfig(eos_token_id=1, **own)
    assert answers(tiny, PROMPTS, 6, [1], seed=3) == wanted
    assert tiny.generation_config is settings


def test_a_memory_that_was_damaged_is_not_believed(
    tiny: PreTrainedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(selfchat, "_KEEP_EVERY_S", 0)
    memory = tmp_path / "chat.json"
    wanted = answers(tiny, PROMPTS, 6, [1], seed=3, memory=memory)
    found = json.loads(memory.read_text())
    found["value"]["texts"][0][-1] += 1
    memory.write_text(json.dumps(found))
    assert answers(tiny, PROMPTS, 6, [1], seed=3, memory=memory) == wanted
