"""What every error that is the user's to mend has in common."""


class UserError(ValueError):
    """Something the user gave cannot be used; the message says what, where, and what to do."""
