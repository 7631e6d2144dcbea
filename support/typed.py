"""What a person types into a terminal."""
import os
import sys

from support import printable


def edit_lines():
    """Let the terminal hand over lines of any length, and a pasted text as one."""
    sys.stdin.reconfigure(errors="replace")         # what is typed need not be UTF-8
    if sys.stdin.isatty() and os.name == "posix":
        import readline                             # `input` uses it from here on
        readline.parse_and_bind("set enable-bracketed-paste on")


def typed(prompt):
    """What was typed, or pasted with all its lines, without control characters. Raises EOFError."""
    return printable(input(prompt).expandtabs(), kept="\n")


def forget_typed():
    """Drop what was typed ahead, since the shell would run it."""
    if sys.stdin.isatty() and os.name == "posix":
        import termios
        termios.tcflush(sys.stdin, termios.TCIFLUSH)
