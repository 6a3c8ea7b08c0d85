"""Questions about the engine, each with a command that answers it; and the command line."""
