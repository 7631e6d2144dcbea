"""Single key presses of a terminal, as Linux and macOS have it."""
import os
import re
import sys
from contextlib import suppress

from support import UserError

ESCAPES = re.compile(r"\x1b(?:[\[O][0-9;]*.?|.)?")      # what arrows and function keys send


class Keys:
    """with Keys() as keys: keys.press() waits for a key and does not show it. The terminal is as before when the block
    is left, whatever ends it but a kill -9."""

    def __enter__(self):
        """Raises UserError if nobody sits there to press a key."""
        try:
            import termios
            import tty
        except ImportError as error:
            raise UserError("single key presses need a terminal of Linux or macOS: on Windows start this in WSL"
                            ) from error
        if not sys.stdin.isatty():
            raise UserError("single key presses need a terminal, and the standard input is none: start this in a "
                            "terminal, and redirect nothing into it")
        self.termios, self.file, self.waiting = termios, sys.stdin.fileno(), ""
        self.before = termios.tcgetattr(self.file)
        tty.setcbreak(self.file)                        # no echo, no waiting for Enter; Ctrl-C is still Ctrl-C
        return self

    def __exit__(self, *error):
        with suppress(self.termios.error):              # a window that was closed
            self.termios.tcsetattr(self.file, self.termios.TCSAFLUSH, self.before)

    def press(self):
        """The next key, a character; "" after Ctrl-D, and when the terminal is gone."""
        while not self.waiting:
            read = os.read(self.file, 1024)
            if read in (b"", b"\x04"):
                return ""
            self.waiting = ESCAPES.sub("", read.decode(errors="ignore"))
        key, self.waiting = self.waiting[0], self.waiting[1:]
        return key

    def forget(self):
        """Forget what was pressed before now: it was meant for what stood on the screen then."""
        self.waiting = ""
        self.termios.tcflush(self.file, self.termios.TCIFLUSH)
