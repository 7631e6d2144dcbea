"""What every stage needs, one subject per file."""
from unicodedata import category


class UserError(Exception):
    """A mistake that the user can mend. The command line shows its sentence and no traceback."""


class Stopped(KeyboardInterrupt):
    """A signal has ended the program: (its number, what to say)."""


def printable(text, kept=""):
    """The text with what no terminal should get, an escape or half an emoji, spelled out. Blanks of
    all widths, the joiners of Persian and emoji, and what is `kept` stay."""
    return "".join(c if c.isprintable() or category(c) == "Zs" or c in "\u200c\u200d" + kept else
                   c.encode("unicode_escape").decode() for c in text)


def reason(error):
    """The first line of what an error says, without the file: the sentence around it names that."""
    return getattr(error, "strerror", None) or str(error).partition("\n")[0] or type(error).__name__
