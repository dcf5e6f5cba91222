"""Published data sets turned into questions of our format, a file a data set."""
