"""One feature studied closely: what it follows, what it responds to, and what undoing it does."""
