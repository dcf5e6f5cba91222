"""NAME.jsonl.report.json, which `interp import-questions` writes beside the questions."""

from pydantic import Field

from interp.schemas.record import Record

ROWS_NAMED = 20
"""Rows that a report names per reason."""


class ImportReport(Record):
    """What an import kept, set apart and left out, as counts and row numbers without text, path or patient."""

    format: str = Field(description="format of the data set, a key of interp.importing.formats.FORMATS")
    questions: int = Field(default=0, description="questions written")
    closed: int = Field(default=0, description="yes/no questions among them")
    closed_answers: dict[str, int] = Field(
        default_factory=dict, description="true answer, yes or no -> yes/no questions that have it"
    )
    other_answers: dict[str, int] = Field(
        default_factory=dict,
        description="answer -> questions that ask for yes or no, but have it instead; they are kept as open questions "
        'or left out. Only common answers are named, the rest is "another answer"',
    )
    unanswered: int = Field(default=0, description="questions among them without a true answer")
    without_paraphrases: int = Field(
        default=0, description="questions among them without another wording of the same meaning"
    )
    paraphrases: int = Field(default=0, description="paraphrases of the same meaning")
    images: int = Field(default=0, description="distinct images")
    patients: int = Field(default=0, description="distinct patients; images count where the source names no patient")
    patients_known: bool = Field(default=True, description="whether every question has a patient")
    types: dict[str, int] = Field(default_factory=dict, description="question type -> questions")
    splits: dict[str, int] = Field(
        default_factory=dict, description='split -> questions; "..., by patient" where a hash of the patient decides'
    )
    inverted: dict[str, int] = Field(
        default_factory=dict, description="operator -> wordings that it inverts; they are kept but never measured"
    )
    dropped_paraphrases: dict[str, int] = Field(
        default_factory=dict, description="reason -> paraphrases left out for it"
    )
    dropped: dict[str, int] = Field(default_factory=dict, description="reason -> questions left out for it")
    dropped_rows: dict[str, list[str]] = Field(
        default_factory=dict, description="reason -> the first rows left out for it, as file and row number"
    )
    notes: list[str] = Field(default_factory=list, description="remarks for the user, a sentence each")

    def drop(self, where: str, reason: str) -> None:
        """Count a question that is left out for a reason; `where` names its file and row."""
        self.dropped[reason] = self.dropped.get(reason, 0) + 1
        rows = self.dropped_rows.setdefault(reason, [])
        if len(rows) < ROWS_NAMED:
            rows.append(where)

    def drop_paraphrases(self, reason: str, count: int = 1) -> None:
        """Count paraphrases that are left out for a reason."""
        self.dropped_paraphrases[reason] = self.dropped_paraphrases.get(reason, 0) + count
