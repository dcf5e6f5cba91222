"""Questions, their paraphrases and answers: the file format, and reading and rewording English about radiographs."""
