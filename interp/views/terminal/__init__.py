"""Results on the terminal. `show` prints tables and results; the other files hold what only one command prints."""
