"""The one exception for mistakes that a user can mend."""

from phoenix_utils import secrecy

# The end of a sentence about work that was cut off.
RESUMES = "what was finished is kept, and the same command resumes"


class PhoenixError(Exception):
    """What was given, what is wrong with it, what to do: one clear sentence or two.

    The command line prints the message without a traceback and exits with code 2; the runner shows it beside
    the cell that raised it. Anything that is our own defect stays an ordinary exception with its traceback. Secrets
    in what was given are hidden.
    """

    def __init__(self, message: str):
        super().__init__(secrecy.hide(message))
