"""What every run needs of the machine: processes, memory, the terminal, logging and errors."""
