"""`study_feature`: one feature in detail, what it follows, what it responds to and what undoing its change does."""
