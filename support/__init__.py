"""What every stage needs and none is about, one subject a file."""


class UserError(Exception):
    """A mistake that the user can mend. The command line shows its one sentence, no traceback."""


def printable(text):
    """The text with what no terminal should get, an escape or half an emoji, spelled out."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def reason(error):
    """The first line of what an error says, without the file: the sentence around it names that."""
    return getattr(error, "strerror", None) or str(error).partition("\n")[0] or type(error).__name__
