"""The frame of a dialogue: every data set, the chat and what we export write turns like this."""
HUMAN = "\n\nHuman:"
ASSISTANT = "\n\nAssistant:"


def dialogue(question):
    """The prompt of one question: what the assistant sees before it answers."""
    return f"{HUMAN} {question}{ASSISTANT}"


def is_blank(prompt):
    """Whether there is nothing in a prompt, within the frame or without it."""
    return not prompt.replace(HUMAN, "").replace(ASSISTANT, "").strip()
