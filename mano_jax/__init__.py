"""mano_jax."""
