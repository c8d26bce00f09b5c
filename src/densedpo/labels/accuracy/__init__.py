"""How right judges are, and what their confidence is worth."""
