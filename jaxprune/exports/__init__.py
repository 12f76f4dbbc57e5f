"""Out of JAX: one file a format."""
