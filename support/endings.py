"""However a program ends, it says why in one sentence, and its exit code tells."""
import os
import re
import signal
import sys
from contextlib import contextmanager
from pathlib import Path

from support import Stopped, UserError, printable, reason

OUT_OF_MEMORY = "out of memory|not enough memory|can't allocate memory|ALLOC_FAILED"


@contextmanager
def plain_endings(goes_on=""):
    """Exit code 1 after a mistake of the user or a failure of the machine, 130 after Ctrl-C, 143
    after SIGTERM. `goes_on` says how to continue then. An error of this code has a traceback."""
    def stop_at_once(number, frame):
        raise Stopped(number, f"stopped at once{goes_on}")

    handler = signal.signal(signal.SIGTERM, stop_at_once)
    for name in ("stdin", "stdout", "stderr"):      # None if whoever started the program closed it
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "r" if name == "stdin" else "w"))
    out, write = sys.stdout, sys.stdout.write
    out.reconfigure(errors="backslashreplace")      # what a terminal can't show ends no run
    # No text of data or models moves the cursor: for all that is printed, here and in tqdm.
    out.write = lambda text: write(printable(text, kept="\n\t"))
    try:
        yield
        out.flush()
    except UserError as error:
        give_up(error)
    except BrokenPipeError:                 # whoever read the output has left, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except OSError as error:                # a full disk, a folder that must not be written
        file = error.filename or "standard output or a file"
        give_up(f"{file}: {reason(error)}; whatever was saved before is whole")
    except (MemoryError, RuntimeError) as error:
        if not (isinstance(error, MemoryError) or re.search(OUT_OF_MEMORY, str(error))):
            raise
        give_up(f"out of memory ({reason(error)}): lower --micro_batch_size, which changes no "
                "gradient, or --batch_size")
    except KeyboardInterrupt as stop:       # Ctrl-C, or Stopped
        number, said = stop.args or (signal.SIGINT, f"stopped at once{goes_on}")
        print(f"\n{Path(sys.argv[0]).name}: {said}", file=sys.stderr)
        sys.exit(128 + number)
    finally:
        del out.write
        signal.signal(signal.SIGTERM, handler)


def give_up(sentence):
    """Exit with code 1 and one sentence on its own line."""
    if "tqdm" in sys.modules:
        for bar in list(getattr(sys.modules["tqdm"].tqdm, "_instances", [])):
            bar.close()
    sys.exit(printable(f"{Path(sys.argv[0]).name}: {sentence}"))
