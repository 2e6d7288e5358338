"""The errors of the project's border: bad input and, as a special case, a bad file."""


class InputError(ValueError):
    """Input that cannot be used; the message is one line: what is wrong, where, and what to do."""


class FormatError(InputError):
    """A file that is damaged, of another kind or version, or at odds with its schema."""


def one_line(error: BaseException) -> str:
    """The text of an error on a single line of at most 300 characters."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 300 else text[:297] + "..."
