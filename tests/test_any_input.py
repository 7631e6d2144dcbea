"""Whatever a file, a text, a flag or a config.json holds: one sentence or a result, and what is valid survives."""
import dataclasses
import json
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings, strategies as st

import evaluate
import ppo
import reward
import sft
import tiny
from data.jsonl import read_jsonl
from gpt import GPT
from support import UserError, printable
from support.checkpoint import read_shape
from support.preflight import check_numbers
from support.resume import read_checkpoint

pytestmark = pytest.mark.slow
settings.register_profile("here", deadline=None, suppress_health_check=list(HealthCheck), max_examples=150)
settings.load_profile("here")
FOLDER = Path(tempfile.mkdtemp())
JSON = st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(), lambda inner: st.lists(inner) |
                    st.dictionaries(st.sampled_from(["prompt", "completion", "completions", "chosen", "rejected", "text", "x"]), inner))
TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1).filter(str.strip)
WORDS = tiny.words()


def rows_or_sentence(content):
    file = FOLDER / "rows.jsonl"
    file.write_bytes(content)
    try:
        return read_jsonl(file)
    except UserError as error:
        assert str(file) in str(error) and "\n" not in printable(str(error)) and len(str(error)) < 600


@given(st.binary())
def test_any_bytes_are_rows_or_one_sentence(content):
    rows_or_sentence(content)


@given(st.lists(JSON))
def test_any_json_is_rows_or_one_sentence(values):
    rows_or_sentence("\n".join(map(json.dumps, values)).encode())


@given(st.lists(st.one_of(
    st.fixed_dictionaries({"text": TEXT}), st.fixed_dictionaries({"prompt": TEXT}),
    st.fixed_dictionaries({"prompt": st.text(st.characters(exclude_categories=["Cs"])), "completion": TEXT})), min_size=1))
def test_valid_rows_survive_a_round_trip(rows):
    for ascii_only in (True, False):
        text = "\n".join(json.dumps(row, ensure_ascii=ascii_only) for row in rows)
        assert rows_or_sentence(text.encode()) == rows


@given(TEXT, TEXT)
@example("<|endoftext|>", "\n\nHuman: <|endoftext|>")
def test_any_text_survives_the_tokenizer_and_makes_no_end(prompt, completion):
    ids, answer = WORDS.encode(prompt, completion)
    assert WORDS.decode(ids) == prompt and WORDS.decode(answer) == completion
    assert WORDS.eos not in ids and answer.index(WORDS.eos) == len(answer) - 1


@pytest.mark.parametrize("script", [sft, reward, ppo, evaluate])
@given(st.data())
def test_any_number_is_taken_or_refused_in_one_sentence(script, data):
    cfg = script.Config()
    for name, value in vars(cfg).items():
        if type(value) in (int, float):
            setattr(cfg, name, data.draw(st.integers() if type(value) is int else st.floats()))
    try:
        check_numbers(cfg)
    except UserError as error:
        assert str(error).startswith("--") and "\n" not in str(error)
        return
    assert all(value == value and abs(value) <= 2 ** 63 for value in vars(cfg).values() if type(value) in (int, float))


@given(st.dictionaries(st.sampled_from(["model_type", "vocab_size", "n_positions", "n_layer", "n_head", "n_embd", "eos_token_id",
                                        "reward_mean", "reward_std", "architectures", "pad_token_id", "activation_function"]),
                       st.sampled_from(["gpt2", "gelu_new", 1, 2, 0, -1, 2.5, 10 ** 30, None, True, "x", [1], {}, float("nan")]) | JSON))
def test_any_config_is_a_shape_or_one_sentence(config):
    (FOLDER / "config.json").write_text(json.dumps({"model_type": "gpt2", **config}))
    try:
        shape = read_shape(FOLDER, dataclasses.fields(GPT.Config))
    except UserError as error:
        assert "config.json" in str(error) and "\n" not in str(error)
        return
    assert all(type(value) is int for value in shape.values())


@given(st.integers(0, 10 ** 9), st.binary(min_size=1, max_size=8))
def test_a_damaged_weights_file_is_a_model_or_one_sentence(place, bytes_there):
    folder = FOLDER / "model"
    if not folder.exists():
        tiny.model().save_pretrained(folder)
        (FOLDER / "whole").write_bytes((folder / "model.safetensors").read_bytes())
    content = bytearray((FOLDER / "whole").read_bytes())
    place %= len(content)
    content[place:place + len(bytes_there)] = bytes_there
    (folder / "model.safetensors").write_bytes(content)
    try:
        GPT.from_pretrained(folder)
    except UserError as error:
        assert str(folder) in str(error) and "\n" not in printable(str(error))


@given(st.binary())
def test_any_checkpoint_is_refused_in_one_sentence(content):
    (FOLDER / "resume.pt").write_bytes(content)
    with pytest.raises(UserError, match="is damaged or from another version .*start without --resume"):
        read_checkpoint(FOLDER / "resume.pt")
