"""From hidden states and output heads to a loss with its gradient (spec section 4)."""
