"""What every run needs from the machine: processes, memory, terminal output, logging and errors."""
