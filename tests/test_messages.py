"""Conversational rows give the very rows of the plain shapes, or are counted, or refused by file and line."""
import json

import pytest
from transformers import AutoTokenizer

from data.jsonl import read_jsonl
from support import UserError
from export.config_json import config_json
from tiny import words

U, A = "\n\nHuman: ", "\n\nAssistant:"


def dialogue(*contents, first="user"):
    """Messages of user and assistant in turn."""
    roles = ("user", "assistant") if first == "user" else ("assistant", "user")
    return [{"role": roles[i % 2], "content": content} for i, content in enumerate(contents)]


@pytest.fixture
def read(tmp_path):
    """The rows of a file with these."""
    def read(*rows):
        path = tmp_path / "rows.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return read_jsonl(path)
    return read


TWO = U + "Is owl a bird?" + A + " Yes.\n\nIt flies." + U + "And a hen?" + A         # a prompt of two turns
TURNS = ("Is owl a bird?", "Yes.\n\nIt flies.", "And a hen?")

CASES = [
    (dict(messages=dialogue("Is owl a bird?", "Yes.")), dict(prompt=U + "Is owl a bird?" + A, completion=" Yes.")),
    (dict(messages=dialogue(*TURNS, "Yes, too.")), dict(prompt=TWO, completion=" Yes, too.")),
    (dict(prompt=dialogue(*TURNS), completion=dialogue("Yes, too.", first="assistant")),
     dict(prompt=TWO, completion=" Yes, too.")),
    (dict(prompt=dialogue(*TURNS)), dict(prompt=TWO)),
    (dict(prompt=dialogue(*TURNS), chosen=dialogue("Yes.", first="assistant"), rejected=dialogue("No.", first="assistant")),
     dict(prompt=TWO, chosen=" Yes.", rejected=" No.")),
    (dict(chosen=dialogue(*TURNS, "Yes."), rejected=dialogue(*TURNS, "No.")), dict(prompt=TWO, chosen=" Yes.", rejected=" No.")),
    # as UltraFeedback has it: the question once more as a string, the better dialogue once more as messages
    (dict(prompt="Is owl a bird?", chosen=dialogue("Is owl a bird?", "Yes."), rejected=dialogue("Is owl a bird?", "No."),
          messages=dialogue("Is owl a bird?", "Yes."), score_chosen=8.5), dict(prompt=U + "Is owl a bird?" + A, chosen=" Yes.", rejected=" No.")),
    # a string that is a whole prompt already
    (dict(prompt=TWO, completions=dialogue("Yes, too.", first="assistant") + dialogue("No.", first="assistant")),
     dict(prompt=TWO, completions=[" Yes, too.", " No."])),
    (dict(messages=[{"role": "user", "content": " Is owl a bird?\n", "tool_calls": None}, {"role": "assistant", "content": " Yes."}]),
     dict(prompt=U + "Is owl a bird?" + A, completion=" Yes."))]


@pytest.mark.parametrize("conversation, row", CASES)
def test_a_conversation_is_the_row_of_the_plain_shape(read, conversation, row):
    assert read(conversation) == read(row)


def test_a_dialogue_in_both_forms_is_the_prompt_of_the_chat_template(read, tmp_path):
    tokenizer = words()
    config = config_json(dict(block_size=64, eos_token_id=tokenizer.eos, vocab_size=tokenizer.vocab_size), tokenizer)
    tokenizer.save(tmp_path, config)
    (tmp_path / "config.json").write_text(json.dumps(config))
    template = AutoTokenizer.from_pretrained(tmp_path)
    for turns in (TURNS[:1], TURNS):
        assert read(dict(prompt=dialogue(*turns)))[0]["prompt"] == template.apply_chat_template(
            dialogue(*turns), add_generation_prompt=True, tokenize=False)


FINE = dict(prompt=dialogue("Is hen a pet?"), completion=dialogue("No.", first="assistant"))


@pytest.mark.parametrize("row, why", [
    (dict(messages=[{"role": "system", "content": "Be kind."}, *dialogue("Hello?", "Hi.")]), "a system message"),
    (dict(messages=[*dialogue("Hello?"), {"role": "assistant", "content": None, "tool_calls": [{"name": "f"}]}]), "a tool call"),
    (dict(messages=[*dialogue("Hello?", "Hi."), {"role": "tool", "content": "3"}]), "a tool call"),
    (dict(messages=dialogue("Hello?", "Hi."), tools=[{"name": "f"}]), "tools"),
    (dict(messages=dialogue("Hello?") + dialogue("Anybody?", "Hi.")), "roles that do not alternate"),
    (dict(messages=dialogue("Hi.", "Hello?", "Hi.", first="assistant")), "roles that do not alternate"),
    (dict(prompt=dialogue("Hello?", "Hi.")), "no question at the end of the prompt"),
    (dict(prompt=[]), "no question at the end of the prompt"), (dict(messages=[]), "no answer at the end"),
    (dict(messages=dialogue("Hello?")), "no answer at the end"),
    (dict(prompt=dialogue("Hello?"), chosen=dialogue("Hi.", first="assistant"), rejected=[]), "no answer at the end"),
    (dict(messages=dialogue("Hello?", " ")), "an empty message"), (dict(messages=dialogue("", "Hi.")), "an empty message"),
    (dict(messages=[*dialogue("Hello?"), {"role": "assistant"}]), "an empty message"),
    (dict(chosen=dialogue("Hello?", "Hi."), rejected=dialogue("Hello!", "Oh.")), "the dialogues differ before the last turn"),
    (dict(chosen=dialogue("Hello?", "Hi."), rejected=dialogue("Hello?", "Hi.")), "identical replies"),
    (dict(chosen=dialogue("Hello?", "Hi."), rejected=dialogue("Hello?", "Hi.", "What?", "Oh.")), "the dialogues differ")])
def test_what_has_no_place_in_a_dialogue_here_is_counted_by_kind(read, capsys, row, why):
    assert read(row, FINE, row) == read(FINE)
    said = capsys.readouterr().out.splitlines()[0]
    assert f"rows.jsonl: 3 rows read, 1 used; 2 dropped: {why}" in said


@pytest.mark.parametrize("row, message", [
    (dict(messages=[{"speaker": "human", "value": "Hello?"}]), 'each message of "messages" must be an object with "role" and "content"'),
    (dict(messages=["Hello?"]), 'each message of "messages" must be an object'),
    (dict(chosen=dialogue("a", "b")), '"chosen" and "rejected" go together, and one'),
    (dict(messages=[{"role": "user", "content": [{"type": "image"}]}]), 'the content of a message of "messages" must be a string'),
    (dict(messages="Hello?"), 'the key "text" is missing')])
def test_a_malformed_conversation_is_refused_by_file_and_line(read, row, message):
    with pytest.raises(UserError, match=f"rows.jsonl, line 2: {message}"):
        read(FINE, row)
