"""Adapters that others made: each gives the margins of plain peft and leaves the base as it was, bit for bit."""

import json
import shutil
import warnings

import pytest
import torch
from finetune_world import make_world, plain_logits, plain_margin
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForImageTextToText

from finetune.evaluation.arms import Arm, adapter_arm, base_arm
from finetune.evaluation.evaluate import evaluate
from finetune.grounding.all_images import _as_arm
from finetune.lora.adapter_folder import load_adapter
from interp.measurement.clamp_spec import Clamp
from interp.measurement.clamps import clamped
from interp.measurement.margins import measure
from interp.model.load import load_vlm
from interp.questions.files import load_questions
from interp.questions.tables import prompt_table
from interp.runtime.errors import InputError
from interp.storage.checksums import weights_fingerprint

TEXT = r".*language_model.*\.(q_proj|v_proj)"
KINDS = {
    "plain": {},
    "all-linear": {"target_modules": "all-linear"},
    "notebook of MedGemma": {
        "target_modules": "all-linear",
        "task_type": "CAUSAL_LM",
        "modules_to_save": ["lm_head", "embed_tokens"],
    },
    "DoRA": {"use_dora": True},
    "all-linear with DoRA": {"target_modules": "all-linear", "use_dora": True},
    "rsLoRA": {"use_rslora": True},
    "rank and alpha patterns": {
        "r": 64,
        "rank_pattern": {"q_proj": 2, r"layers\.1\.self_attn\.v_proj": 8, "v_proj": 3},
        "alpha_pattern": {"v_proj": 3},
    },
    "patterns from the start of the path": {
        "rank_pattern": {r"^model\.language_model\.layers\.1\.self_attn\.q_proj": 2},
        "alpha_pattern": {r"^model\.language_model\.layers\.1\.self_attn\.q_proj": 3},
    },
    "biases of all": {"target_modules": "all-linear", "bias": "all"},
    "biases of adapted modules": {"target_modules": "all-linear", "bias": "lora_only"},
    "bias of the update": {"lora_bias": True},
    "update of embeddings": {"target_modules": ["q_proj", "embed_tokens"]},
    "update of embeddings, tied": {"target_modules": ["q_proj", "embed_tokens"], "ensure_weight_tying": True},
    "update of the head": {"target_modules": ["q_proj", "lm_head"]},
    "update of a parameter": {"target_modules": [], "target_parameters": ["q_proj.weight"], "lora_dropout": 0.0},
    "own embeddings": {"modules_to_save": ["embed_tokens"]},
    "own embeddings, tied": {"modules_to_save": ["embed_tokens", "lm_head"], "ensure_weight_tying": True},
    "own head": {"modules_to_save": ["lm_head"]},
    "own norms": {"modules_to_save": ["norm", "input_layernorm"]},
    "own projector": {"modules_to_save": ["multi_modal_projector"]},
    "own tokens": {"trainable_token_indices": [5, 6, 7, 20, 21]},
    "some layers": {"target_modules": ["q_proj"], "layers_to_transform": [1, 2]},
    "gaussian": {"init_lora_weights": "gaussian"},
    "orthogonal": {"init_lora_weights": "orthogonal"},
    "EVA": {"init_lora_weights": "eva"},
    "saved embeddings": {"saved_embeddings": True},
}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    torch.set_num_threads(1)
    return make_world(tmp_path_factory.mktemp("foreign") / "world", patients=4)


@pytest.fixture(scope="module")
def questions(world):
    return [question for question in load_questions(world.questions) if question.closed][:4]


@pytest.fixture(scope="module")
def vlm(world):
    return load_vlm(world.model, "cpu", "float32")


@pytest.fixture(scope="module")
def base(vlm, questions):
    return margins(vlm, questions)


def margins(vlm, questions):
    return measure(vlm, prompt_table(questions)).margin


def plain(world):
    return AutoModelForImageTextToText.from_pretrained(world.model, dtype=torch.float32)


def save(world, folder, saved_embeddings=False, **settings):
    """Save an adapter with random weights, made by plain peft, and return peft's model."""
    torch.manual_seed(0)
    given = {"r": 4, "lora_alpha": 8, "lora_dropout": 0.05, "target_modules": TEXT} | settings
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        adapted = get_peft_model(plain(world), LoraConfig(**given))
        for name, parameter in adapted.named_parameters():
            if parameter.requires_grad:
                noise = torch.rand(parameter.shape) if "magnitude" in name else torch.randn(parameter.shape)
                parameter.data += 0.1 * noise
        if saved_embeddings:
            adapted.get_input_embeddings().weight.data += 0.05
        adapted.save_pretrained(folder, save_embedding_layers=saved_embeddings or "auto")
    return adapted.eval()


@torch.no_grad()
def margins_of(model, vlm, questions):
    """The margins of every wording by plain transformers, in the order of `prompt_table`."""
    table = prompt_table(questions)
    return torch.tensor(
        [
            plain_margin(plain_logits(model, vlm.processor, image, text), vlm.processor.tokenizer)
            for image, text in zip(table["image"], table["text"], strict=True)
        ]
    )


def loaded_by_peft(world, folder):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return PeftModel.from_pretrained(plain(world), folder).eval()


def renamed(folder, rename):
    weights = load_file(folder / "adapter_model.safetensors")
    new = {rename(name): tensor.contiguous() for name, tensor in weights.items()}
    assert set(new) != set(weights)
    save_file(new, folder / "adapter_model.safetensors", metadata={"format": "pt"})


def edit(folder, **changes):
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize("kind", KINDS)
def test_an_adapter_is_that_of_plain_peft_and_leaves_no_trace(world, vlm, questions, base, tmp_path, kind):
    save(world, tmp_path / "a", **KINDS[kind])
    digest, state = weights_fingerprint(vlm.model), dict(vars(vlm.model))
    modules, tensors = list(vlm.model.named_modules()), list(vlm.model.named_parameters(remove_duplicate=False))
    with adapter_arm(vlm, tmp_path / "a", "a", None).enter():
        found = margins(vlm, questions)
    expected = margins_of(loaded_by_peft(world, tmp_path / "a"), vlm, questions)
    assert torch.allclose(found.double(), expected.double(), atol=2e-3)
    assert (expected - base).abs().max() > 0.01, "the adapter does something"
    assert torch.equal(margins(vlm, questions), base)
    assert weights_fingerprint(vlm.model) == digest
    assert [(name, id(m)) for name, m in vlm.model.named_modules()] == [(name, id(m)) for name, m in modules]
    now = list(vlm.model.named_parameters(remove_duplicate=False))
    assert [(name, id(p)) for name, p in now] == [(name, id(p)) for name, p in tensors]
    assert dict(vars(vlm.model)) == state


@pytest.mark.parametrize("kind", ["notebook of MedGemma", "biases of all", "saved embeddings", "own projector"])
def test_arms_in_any_order_give_the_same_numbers(world, vlm, questions, base, tmp_path, kind):
    save(world, tmp_path / "a", **KINDS[kind])
    save(world, tmp_path / "b")
    direction = torch.randn(vlm.d_model, generator=torch.Generator().manual_seed(0))
    clamp = Clamp(1, 0, direction, torch.tensor(0.0), torch.tensor(0.0), direction, 2.0, "final", "made up")
    arms = {name: adapter_arm(vlm, tmp_path / name, name, None) for name in "ab"}
    arms |= {"base": Arm("base again"), "clamp": Arm("clamp", clamps=[clamp])}
    seen = []
    for order in (["a", "b", "clamp", "base"], ["clamp", "b", "a", "base"], ["base", "a", "clamp", "b"]):
        found = {}
        for name in order:
            with arms[name].enter(), clamped(vlm, arms[name].clamps):
                found[name] = margins(vlm, questions)
        seen.append(found)
    for name in arms:
        assert all(torch.equal(found[name], seen[0][name]) for found in seen), name
    assert torch.equal(seen[0]["base"], base)
    assert not torch.equal(seen[0]["clamp"], base)


def test_an_evaluation_is_the_same_alone_and_after_an_adapter_with_embeddings(world, vlm, tmp_path):
    asked = load_questions(world.questions, split="test")
    save(world, tmp_path / "a", **KINDS["notebook of MedGemma"])
    save(world, tmp_path / "b")
    a, b = (adapter_arm(vlm, tmp_path / name, name, None) for name in "ab")
    tables = [evaluate(vlm, [base_arm(), *arms], asked, new_tokens=0).against_base() for arms in ([b], [a, b], [b, a])]
    alone = {key: comparison for key, comparison in tables[0].items() if key[0] == "b"}
    assert alone
    for table in tables[1:]:
        assert {key: table[key] for key in alone} == alone


@pytest.mark.parametrize("kind", ["notebook of MedGemma", "biases of all", "saved embeddings"])
def test_the_base_is_measured_exactly_while_an_adapter_is_loaded(world, questions, base, tmp_path, kind):
    """As the study of grounding does, which changes arms at every image."""
    save(world, tmp_path / "a", **KINDS[kind])
    vlm = load_vlm(world.model, "cpu", "float32")
    adapted = load_adapter(vlm, tmp_path / "a")
    vlm.image_tokens = {}
    first = margins(vlm, questions)
    with _as_arm(adapted, "base"):
        vlm.image_tokens = {}
        assert torch.equal(margins(vlm, questions), base)
    vlm.image_tokens = {}
    assert torch.equal(margins(vlm, questions), first)
    assert not torch.equal(first, base)


@pytest.mark.parametrize(
    ("kind", "version"),
    [
        *((kind, "4.50") for kind in ("plain", "own tokens", "update of embeddings")),
        *((kind, v) for kind in ("all-linear", "notebook of MedGemma", "biases of all") for v in ("4.50", "4.52")),
    ],
)
def test_names_of_earlier_versions_of_transformers(world, vlm, questions, tmp_path, kind, version):
    """plain peft 0.21 renames updates alone, so the expected margins are those before saving."""

    def rename(name):
        name = name.replace(".vision_tower.", ".vision_tower.vision_model.")
        if version == "4.50":
            name = name.replace(".model.model.language_model.", ".model.language_model.model.")
            name = name.replace(".model.model.vision_tower.", ".model.vision_tower.")
            name = name.replace(".model.lm_head.", ".model.language_model.lm_head.")
        return name

    expected = margins_of(save(world, tmp_path / "a", **KINDS[kind]), vlm, questions)
    renamed(tmp_path / "a", rename)
    with adapter_arm(vlm, tmp_path / "a", "a", None).enter():
        found = margins(vlm, questions)
    assert torch.allclose(found.double(), expected.double(), atol=2e-3)


@pytest.mark.parametrize(
    ("rename", "message"),
    [
        (lambda name: name.replace("base_model.model.", "base_model.model.module."), "without a place.*module"),
        (lambda name: name.replace(".layers.", "._orig_mod.layers."), "without a place.*_orig_mod"),
        (lambda name: name.replace(".layers.1.", ".layers.9."), "without a place.*layers.9"),
    ],
)
def test_names_that_the_model_lacks_are_refused(world, vlm, base, questions, tmp_path, rename, message):
    save(world, tmp_path / "a")
    renamed(tmp_path / "a", rename)
    with pytest.raises(InputError, match=message):
        load_adapter(vlm, tmp_path / "a")
    assert torch.equal(margins(vlm, questions), base)


def test_a_pointer_in_place_of_the_weights_is_named(world, vlm, tmp_path):
    save(world, tmp_path / "a")
    (tmp_path / "a" / "adapter_model.safetensors").write_text(
        "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 132\n"
    )
    with pytest.raises(InputError, match=r"adapter_model\.safetensors: not a complete safetensors file"):
        load_adapter(vlm, tmp_path / "a")


def test_a_module_whose_weights_are_missing_is_named(world, vlm, tmp_path):
    save(world, tmp_path / "a")
    path = tmp_path / "a" / "adapter_model.safetensors"
    weights = {name: tensor for name, tensor in load_file(path).items() if "layers.2.self_attn.v_proj" not in name}
    save_file(weights, path, metadata={"format": "pt"})
    with pytest.raises(InputError, match=r"missing from the file.*layers\.2\.self_attn\.v_proj"):
        load_adapter(vlm, tmp_path / "a")


@pytest.mark.parametrize("field", ["rank_pattern", "alpha_pattern"])
def test_a_key_of_a_pattern_that_matches_nothing_is_named(world, vlm, base, questions, tmp_path, field):
    save(world, tmp_path / "a")
    edit(tmp_path / "a", **{field: {"layers.7.self_attn.q_proj": 4}})
    with pytest.raises(InputError, match=rf"{field} 'layers\.7\.self_attn\.q_proj' matches none of the 6 adapted"):
        load_adapter(vlm, tmp_path / "a")
    assert torch.equal(margins(vlm, questions), base)


@pytest.mark.parametrize(
    "changes",
    [
        {"a_new_field": None, "another": False, "more": {}, "group_size": 16},
        {"eva_config": {"rho": 2.0}, "loftq_config": {"loftq_bits": 4}, "megatron_core": "megatron.core"},
        {"task_type": "SEQ_CLS", "qalora_group_size": 16, "lora_dropout": 0.5, "inference_mode": False},
        {"init_lora_weights": "mica"},
    ],
)
def test_fields_without_an_effect_are_accepted(world, vlm, questions, tmp_path, changes):
    expected = margins_of(save(world, tmp_path / "a"), vlm, questions)
    edit(tmp_path / "a", **changes)
    with adapter_arm(vlm, tmp_path / "a", "a", None).enter():
        assert torch.allclose(margins(vlm, questions).double(), expected.double(), atol=2e-3)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"init_lora_weights": "pissa"}, "path_initial_model_for_weight_conversion"),
        ({"init_lora_weights": "pissa_niter_4"}, "path_initial_model_for_weight_conversion"),
        ({"init_lora_weights": "olora"}, "path_initial_model_for_weight_conversion"),
        ({"init_lora_weights": "corda"}, "path_initial_model_for_weight_conversion"),
        ({"init_lora_weights": "loftq"}, "merge_and_unload"),
        ({"init_lora_weights": "newest"}, "merge_and_unload"),
        ({"layer_replication": [[0, 2], [1, 3]]}, "'layer_replication' repeats layers.*merge_and_unload"),
        ({"alora_invocation_tokens": [5]}, "only after certain tokens.*merge_and_unload"),
        ({"use_newest": True}, "'use_newest' is not known to the installed version of peft"),
        ({"peft_type": "IA3"}, "not a LoRA: found peft_type 'IA3'"),
    ],
)
def test_fields_whose_effect_is_not_supported_are_refused_with_a_way_out(world, vlm, tmp_path, changes, expected):
    save(world, tmp_path / "a")
    edit(tmp_path / "a", **changes)
    with pytest.raises(InputError, match=expected) as raised:
        load_adapter(vlm, tmp_path / "a")
    assert str(tmp_path / "a" / "adapter_config.json") in str(raised.value)


def test_a_converted_pissa_adapter_is_accepted(world, vlm, questions, tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        config = LoraConfig(r=4, lora_alpha=8, target_modules=TEXT, init_lora_weights="pissa")
        adapted = get_peft_model(plain(world), config)
        adapted.save_pretrained(tmp_path / "initial")
        edit(tmp_path / "initial", init_lora_weights=True)
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name:
                parameter.data += 0.1 * torch.randn(parameter.shape)
        adapted.peft_config["default"].init_lora_weights = "pissa"
        adapted.save_pretrained(tmp_path / "a", path_initial_model_for_weight_conversion=str(tmp_path / "initial"))
    expected = margins_of(adapted.eval(), vlm, questions)
    with adapter_arm(vlm, tmp_path / "a", "a", None).enter():
        assert torch.allclose(margins(vlm, questions).double(), expected.double(), atol=2e-3)


def test_image_tokens_are_not_shared_with_an_adapter_of_the_tower(world, vlm, questions, tmp_path):
    cached = load_vlm(world.model, "cpu", "float32", image_cache=tmp_path / "cache")
    own = margins(cached, questions)
    for kind in ("all-linear", "own projector", "biases of all"):
        save(world, tmp_path / kind, **KINDS[kind])
        with adapter_arm(vlm, tmp_path / kind, "a", None).enter():
            expected = margins(vlm, questions)
        with adapter_arm(cached, tmp_path / kind, "a", None).enter():
            assert torch.equal(margins(cached, questions), expected), kind
        cached.image_tokens = {}
        assert torch.equal(margins(cached, questions), own), kind
        shutil.rmtree(tmp_path / kind)
