"""The one exception of this project."""


class UserError(Exception):
    """A mistake that the user can mend. The command line shows its one sentence and no traceback."""
