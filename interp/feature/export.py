"""Activations of features as other tools read them: sae-dashboard's JSON, and delphi's cache of latents."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import get_args

from interp.feature.delphi_cache import write_delphi
from interp.feature.readers import Reader
from interp.feature.sae_dashboard import write_sae_dashboard
from interp.feature.token_activations import token_activations
from interp.model.vlm import Vlm
from interp.questions.files import given_questions
from interp.questions.schema import Question
from interp.questions.tables import prompt_table
from interp.runtime.arguments import expect
from interp.runtime.errors import InputError
from interp.saes.feature_id import parse_feature
from interp.saes.locate import given_saes, sae_of_layer
from interp.saes.sae import load_sae
from interp.storage.atomic import atomic_folder, refuse_used


def check_reader(reader: str, include_text: bool) -> None:
    """Raise InputError for an unknown reader, and for one that cannot do without text that is not to be written."""
    if reader not in get_args(Reader):
        raise InputError(f"reader is {reader!r}, expected one of {', '.join(get_args(Reader))}.")
    if reader == "delphi" and not include_text:
        raise InputError(
            "delphi reads the tokens of every wording, so its files hold the text of your questions. If that is "
            "intended, add --include-text (include_text=True); sae-dashboard's form can be written without text."
        )


def export_activations(
    vlm: Vlm,
    saes: Mapping[int, Path] | str | Path,
    questions: Sequence[Question] | str | Path,
    features: Sequence[str],
    out: str | Path,
    reader: Reader = "sae-dashboard",
    include_text: bool = False,
) -> list[Path]:
    """Write the activations of `features`, as LAYER:FEATURE, at the text tokens of all wordings to a new folder.

        >>> interp.export_activations(vlm, interp.WORLD / "saes", questions[:5], ["6:156"], "dashboard")
        [PosixPath('dashboard/layer_6.json')]

    Image tokens are left out, and so are the tokens with which all prompts begin: the template's, and first words that
    all wordings share.

    `saes` is a source of SAEs as for `find_features`. Both forms hold the wordings as token ids, which are the text of
    your questions: sae-dashboard's is written without them unless `include_text` says otherwise, and delphi's is
    nothing without them. Returns the files. Raises InputError for features that an SAE does not have, for delphi
    without `include_text`, and if `out` is not empty.
    """
    out = Path(out)
    expect("vlm", vlm, Vlm)
    check_reader(reader, include_text)
    refuse_used(out)
    prompts = prompt_table(given_questions(questions))
    chosen: dict[int, list[int]] = {}
    for text in features:
        layer, feature = parse_feature(text)
        chosen.setdefault(layer, []).append(feature)
    if not chosen:
        raise InputError("features is empty. Name some as LAYER:FEATURE, as 17:3818.")
    located = given_saes(saes, chosen)
    with atomic_folder(out) as folder:
        for layer, wanted in sorted(chosen.items()):
            sae = load_sae(sae_of_layer(located, layer, "saes"), layer, vlm.d_model, vlm.device)
            beyond = [feature for feature in wanted if feature >= sae.d_sae]
            if beyond:
                raise InputError(f"{layer}:{beyond[0]}: the SAE {sae.id} has the features 0 to {sae.d_sae - 1}.")
            found = token_activations(vlm, sae, sorted(set(wanted)), prompts)
            if reader == "delphi":
                write_delphi(folder, vlm, sae, found)
            else:
                write_sae_dashboard(folder, vlm, sae, found, prompts, include_text)
    return sorted(path for path in out.rglob("*") if path.is_file())
