"""What a person looks at: tables and figures of the artifacts, on the terminal, in notebooks and as an HTML report."""
