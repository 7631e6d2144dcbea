"""What every stage needs and none is about, one subject a file. Nothing here imports a script or `data`."""


class UserError(Exception):
    """A mistake that the user can mend. The command line shows its one sentence and no traceback."""
