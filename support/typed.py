"""What a person types into a terminal."""
import os
import select
import sys

from support import UserError, printable

LONGEST = 4095      # bytes of a line that a terminal takes without readline; the rest is lost


def typed(prompt):
    """What was typed, or pasted with all its lines, without control characters. Raises EOFError,
    and UserError if the terminal has cut it off."""
    terminal = sys.stdin.isatty() and os.name == "posix"
    lines = [input(prompt)]
    while terminal and select.select([sys.stdin], [], [], 0.05)[0]:     # more is there at once
        lines.append(input())
    if terminal and any(len(line.encode()) == LONGEST for line in lines):
        raise UserError(f"a line of {LONGEST} bytes or more: the terminal has cut it off")
    return printable("\n".join(lines).expandtabs(), kept="\n")


def edit_lines():
    """Let the terminal hand over lines of any length, and a pasted text as one."""
    sys.stdin.reconfigure(errors="replace")         # what is typed need not be UTF-8
    if sys.stdin.isatty() and os.name == "posix":
        import readline                             # `input` uses it from here on
        readline.parse_and_bind("set enable-bracketed-paste on")


def forget_typed():
    """What was typed ahead is not for the shell, which would run it."""
    if sys.stdin.isatty() and os.name == "posix":
        import termios
        termios.tcflush(sys.stdin, termios.TCIFLUSH)
