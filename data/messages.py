"""Rows as other programs write them, made into the plain shapes of jsonl.py.

Under other names: {"question", "response"}, {"instruction", "input", "output"}, and so on: NAMES.
As conversations, lists of messages {"role", "content"}:

    {"messages": […]}                                  the last answer is the completion
    {"prompt": […], "completion": […]}                 the same in two parts
    {"prompt": […], "chosen": […], "rejected": […]}    without "prompt": two whole dialogues
    {"prompt": […]}

A prompt may be a string where answers are messages, and the other way round. A dialogue here has
turns of user and assistant, in turn; other rows teach what these models have no words for, and are
dropped.
"""
import re

from support import UserError
from text.dialogue import ASSISTANT, HUMAN

SPEAKERS = {"user": HUMAN, "assistant": ASSISTANT}
ROLES = {"human": "user", "gpt": "assistant"}           # ShareGPT's names
ANSWERS = ("completion", "completions", "chosen", "rejected")
KNOWN = ("text", "prompt", "messages", *ANSWERS)
# What other programs call these.
NAMES = {"question": "prompt", "query": "prompt", "instruction": "prompt",
         "response": "completion", "answer": "completion", "output": "completion",
         "preferred": "chosen", "preferred_output": "chosen", "chosen_response": "chosen",
         "dispreferred": "rejected", "non_preferred_output": "rejected",
         "rejected_response": "rejected", "conversations": "messages",
         "conversation": "messages"}
# What a prompt depends on and no shape has a place for.
CONTEXT = ("system", "history", "context", "tools")
LOOKS_LIKE_AN_ANSWER = re.compile(
    "answer|response|repl(y|ies)|output|completion|cho(ice|sen)|reject|prefer|better|worse|winner|"
    "loser|summary|solution|continuation|^(text|target|win|lose|pos|neg)$", re.IGNORECASE)
MESSAGES = re.compile(r'\s*[{\[].*"role":.*"content":', re.DOTALL)
LABELS = ("label", "labels", "kto_tag", "desirable", "is_desirable", "score", "scores", "rating",
          "ratings", "reward", "rewards", "ranks", "preference", "is_good", "is_chosen", "is_safe",
          "is_correct", "correct", "accepted", "thumbs_up", "quality", "feedback", "vote")
BAD = {"false", "0", "bad", "undesirable", "rejected", "negative", "dislike", "no", "thumbs_down",
       "wrong", "incorrect", "unsafe"}


class Dropped(Exception):
    """Why a row cannot be used."""


def plain(row, where):
    """The row in a plain shape. Raises Dropped if it has no place here, UserError if a message is
    malformed."""
    row = named({key: value for key, value in row.items() if value is not None})
    check_meaning(row)
    messages = row.get("messages")
    if not isinstance(messages, list) and not any(is_said(row.get(key)) for key in KNOWN):
        return row
    if ("chosen" in row) != ("rejected" in row):
        raise UserError(f'{where}: "chosen" and "rejected" go together, and one of them is missing')
    if "chosen" in row:
        prompt, chosen = answer_to(row, "chosen", where)
        other, rejected = answer_to(row, "rejected", where)
        if prompt != other:
            raise Dropped("the dialogues differ before the last turn")
        return {"prompt": prompt, "chosen": chosen, "rejected": rejected}
    if "completions" in row:
        return {"prompt": prompt_of(row, where), "completions": [
            [answer_to({**row, "completions": one}, "completions", where)[1] for one in place]
            if isinstance(place, list) and not is_said(place)
            else answer_to({**row, "completions": place}, "completions", where)[1]
            for place in row["completions"]]}
    if "completion" in row:
        prompt, completion = answer_to(row, "completion", where)
        return {"prompt": prompt, "completion": completion}
    if isinstance(messages, list):
        prompt, completion = answered(turns(messages, "messages", where))
        if 0 in (messages[-1].get("weight"), messages[-1].get("train")):    # or False
            raise Dropped("its last message is not to be learned")
        return {"prompt": prompt, "completion": completion}
    return {"prompt": prompt_of(row, where)}


def named(row):
    """The row under our names. A key is renamed if that takes no other key's place."""
    row = dict(row)
    for key in [key for key in row if key in NAMES]:
        name = NAMES[key]
        if name not in row:
            row[name] = row.pop(key)
        elif name in ANSWERS and row[name] != row[key]:
            raise Dropped(f'"{key}" is a second {name}')
    given = row.pop("input", None)
    if isinstance(given, dict):
        row.setdefault("prompt", given.get("messages", given))
    elif isinstance(given, str) and "prompt" not in row:
        row["prompt"] = given
    elif isinstance(given, str) and isinstance(row["prompt"], str) and given.strip():
        if ASSISTANT in row["prompt"]:
            raise Dropped('its "input" has no place behind the frame of a dialogue')
        row["prompt"] += "\n\n" + given
    if "rejected" in row and "chosen" not in row and "completion" in row:
        row["chosen"] = row.pop("completion")
    messages = row.get("messages")
    if (isinstance(messages, list) and messages and "prompt" not in row
            and any(key in row for key in ANSWERS)):
        if "rejected" in row and "chosen" not in row:   # the dialogue ends with the better one
            *messages, row["chosen"] = messages
        row["prompt"] = messages
    return row


def check_meaning(row):
    """Raises Dropped for messages in a string, a completion that a label calls bad, a ranking that
    numbers may order otherwise, and a prompt whose answer stands under a name that nobody knows."""
    for key in KNOWN:
        if isinstance(row.get(key), str) and MESSAGES.match(row[key]):
            raise Dropped(f'"{key}" is messages in a string of JSON')
    for key in CONTEXT:
        if row.get(key):
            raise Dropped("tools" if key == "tools" else f'its "{key}" has no place here')
    single = "rejected" not in row and ("completion" in row or "messages" in row)
    for key, value in row.items():
        if single and key.lower() in LABELS and is_bad(value):
            raise Dropped(f'its "{key}" says that the completion is bad')
        if "completions" in row and isinstance(value, list) and value and all(
                isinstance(one, (int, float)) for one in value):
            raise Dropped(f'its "{key}" may give the completions another order')
    if ("prompt" in row or "text" not in row) and not any(
            key in row for key in ("messages", *ANSWERS)):
        for key in row:
            if key not in LABELS and LOOKS_LIKE_AN_ANSWER.search(key):
                raise Dropped(f'"{key}" may be an answer, but the known names are '
                              + ", ".join([*KNOWN, *NAMES]))


def is_bad(label):
    """Whether a label, or the only one in a list, calls a completion bad."""
    said = str(label).strip("[]'\" ").lower().removesuffix(".0")
    return said in BAD or bool(re.fullmatch(r"-[0-9.e+-]*[1-9][0-9.e+-]*", said))


def is_said(value):
    """Whether a value is a message or a list of messages."""
    return isinstance(value, dict) or isinstance(value, list) and all(
        isinstance(one, dict) for one in value)


def strip(text):
    """A completion that is a string as one that is a message."""
    return f" {text.strip()}" if isinstance(text, str) else text


def prompt_of(row, where):
    """The prompt of a row in which something is a conversation."""
    prompt = row.get("prompt", [])
    if isinstance(prompt, str):
        return prompt if ASSISTANT in prompt else asked([("user", prompt.strip())])
    return asked(turns(prompt, "prompt", where))


def answer_to(row, key, where):
    """(prompt, completion) of the answer under a key, which may be a whole dialogue."""
    prompt, answer = row.get("prompt", []), row[key]
    if not isinstance(answer, (dict, list)):
        return prompt_of(row, where), strip(answer)
    said = turns(answer, key, where)
    if isinstance(prompt, str) and said and said[0][0] == "user":
        return answered(said)           # the string says the dialogue's question once more
    if not isinstance(prompt, str):
        before = turns(prompt, "prompt", where)
        repeated = before and said[:len(before)] == before      # some say the prompt once more
        return answered(said if repeated else before + said)
    before, completion = answered([("user", prompt.strip())] + said)
    return (prompt if ASSISTANT in prompt else before), completion


def turns(messages, key, where):
    """(role, content) of each message. Raises UserError if one is malformed, Dropped if it has no
    place here."""
    read = []
    for message in [messages] if isinstance(messages, dict) else messages:
        if isinstance(message, dict) and {"from", "value"} <= message.keys():
            message = {"role": message["from"], "content": message["value"]}
        if not isinstance(message, dict) or not isinstance(message.get("role"), str):
            raise UserError(f'{where}: each message of "{key}" must be an object with "role" and '
                            '"content"')
        role, content = message["role"], message.get("content")
        role = ROLES.get(role, role)
        if message.get("tool_calls") or role in ("tool", "function"):
            raise Dropped("a tool call")
        if role not in SPEAKERS:
            raise Dropped(f"a {role} message")
        if content is not None and not isinstance(content, str):
            raise UserError(f'{where}: the content of a message of "{key}" must be a string')
        if not (content or "").strip():
            raise Dropped("an empty message")
        read.append((role, content.strip()))
    return read


def asked(dialogue):
    """The prompt of a dialogue, (role, content) pairs that end with a question."""
    roles = [role for role, _ in dialogue]
    if roles != ["user" if i % 2 == 0 else "assistant" for i in range(len(dialogue))]:
        raise Dropped("roles that do not alternate, beginning with the user's")
    if len(dialogue) % 2 == 0:
        raise Dropped("no question at the end of the prompt")
    return "".join(f"{SPEAKERS[role]} {content}" for role, content in dialogue) + ASSISTANT


def answered(dialogue):
    """(prompt, completion) of a dialogue, (role, content) pairs that end with an answer."""
    if not dialogue or dialogue[-1][0] != "assistant":
        raise Dropped("no answer at the end")
    return asked(dialogue[:-1]), " " + dialogue[-1][1]
