"""Training an adapter: batches, forward pass, loss and loop."""
