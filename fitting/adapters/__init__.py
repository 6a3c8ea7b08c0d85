"""fitting/adapters."""
