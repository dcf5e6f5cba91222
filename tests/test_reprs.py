"""Objects that a user meets print as one readable line, not as tensors and modules."""

import interp
from interp.measurement.clamp_spec import load_clamps, parse_clamps
from interp.measurement.margins import pack_prompts
from interp.measurement.residual_store import empty_residuals
from interp.model.packing import collate
from interp.saes.sparse_codes import encode_sparse


def test_objects_print_as_one_line():
    vlm = interp.load_vlm(device="cpu")
    questions = interp.load_questions(split="test")
    prompts = interp.prompt_table([questions[0], questions[-1]])
    measured = interp.measure(vlm, prompts, [4, 5])
    sae_of = interp.locate_saes(interp.WORLD / "saes")
    sae = interp.load_sae(sae_of[4], 4, vlm.d_model)
    (clamp,) = load_clamps(parse_clamps("4:110=2.5"), sae_of, vlm.d_model, "cpu", "final")
    batch = collate(pack_prompts(vlm, prompts), 0)
    codes = encode_sparse(sae, measured.residuals[:, 0]).by_feature
    residuals = empty_residuals([4, 5], len(prompts), vlm.d_model, measured.residuals.dtype, 2**20)
    n = len(prompts)
    assert repr(vlm) == "Vlm(planted, 10 layers, d_model 128, float32 on cpu, 2 images encoded)"
    assert repr(measured) == f"Measurement({n} prompts, residuals of 2 layers)"
    assert repr(sae) == "Sae(layer_4_width_512_l0_small, layer 4, 512 features, d_model 128, float32 on cpu)"
    assert repr(clamp) == "Clamp(4:110=2.5 at final tokens, layer_4_width_512_l0_small)"
    assert repr(batch) == f"Batch(2 rows of {batch.input_ids.shape[1]} tokens, {n} prompts)"
    assert repr(codes) == f"Codes({n} rows, 512 features, {len(codes.value)} nonzero)"
    assert repr(residuals) == f"Residuals({n} prompts, 2 layers, d_model 128, float32)"
