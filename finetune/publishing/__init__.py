"""Publishing an adapter: its model card, and sending it to the hub."""
