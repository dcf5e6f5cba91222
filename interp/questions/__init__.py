"""Questions, paraphrases and answers: the file format, and rules that parse and reword English about radiographs."""
