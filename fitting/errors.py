"""Errors that are the user's to mend: the command line prints them as one sentence."""

from mano_jax.errors import UserError


class InputError(UserError):
    """Bad input. The message says what was expected, what was found, where, and what to do."""
