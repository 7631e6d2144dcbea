"""Conversational rows, as chat models have them, made into the plain shapes.

    {"messages": […]}                                  the last answer is the completion
    {"prompt": […], "completion": […]}                 the same in two parts
    {"prompt": […], "chosen": […], "rejected": […]}    without "prompt": two whole dialogues
    {"prompt": […]}

Each list holds messages {"role", "content"}. A dialogue here has turns of user and assistant, in
turn; other rows teach what these models have no words for, and are dropped.
"""
from support import UserError
from text.dialogue import ASSISTANT, HUMAN

SPEAKERS = {"user": HUMAN, "assistant": ASSISTANT}
CONVERSATIONAL = ("prompt", "messages", "completion", "chosen", "rejected")


class Dropped(Exception):
    """Why a row cannot be used."""


def plain(row, where):
    """The row in a plain shape, or as it is without a conversation. Raises Dropped if it has no
    place here, UserError if a message is malformed."""
    said = {key: turns(row[key], key, where)
            for key in CONVERSATIONAL if isinstance(row.get(key), list)}
    if not said:
        return row
    if ("chosen" in row) != ("rejected" in row):
        raise UserError(f'{where}: "chosen" and "rejected" go together, and one of them is missing')
    if row.get("tools"):
        raise Dropped("tools")
    before = said.get("prompt", [])
    if "chosen" in row:
        prompt, chosen = answered(before + said.get("chosen", []))
        other, rejected = answered(before + said.get("rejected", []))
        if prompt != other:
            raise Dropped("the dialogues differ before the last turn")
        return {"prompt": prompt, "chosen": chosen, "rejected": rejected}
    if "completion" in said or "messages" in said:
        whole = before + said["completion"] if "completion" in said else said["messages"]
        prompt, completion = answered(whole)
        return {"prompt": prompt, "completion": completion}
    return {"prompt": asked(before)}


def turns(messages, key, where):
    """(role, content) of each message. Raises UserError if one is malformed, Dropped if it has no
    place here."""
    read = []
    for message in messages:
        if not isinstance(message, dict) or not isinstance(message.get("role"), str):
            raise UserError(f'{where}: each message of "{key}" must be an object with "role" and '
                            '"content"')
        role, content = message["role"], message.get("content")
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
