"""Clamps inside adapters and whole models, and which adapters count as seeds of one recipe."""

import json
import shutil
from dataclasses import replace

import pytest
import torch
from finetune_world import make_world, plain_logits, plain_margin
from peft import LoraConfig, PeftModel, get_peft_model
from test_foreign_adapters import plain
from transformers import AutoModelForImageTextToText

from finetune.evaluation.arms import adapter_arm, clamp_arms, clamped_arms, seed_pools
from finetune.evaluation.run import evaluate_saved
from finetune.evaluation.settings import EvaluationSettings
from finetune.lora.adapter_folder import read_record
from finetune.lora.settings import TrainSettings
from finetune.training.run import train_and_evaluate
from interp.measurement.clamp_spec import Clamp, ClampSpec
from interp.model.load import load_vlm
from interp.model.spec import ModelSpec
from interp.questions.files import load_questions
from interp.questions.spec import DataSpec
from interp.runtime.errors import InputError
from interp.saes.sae import Sae, save_sae

SETTINGS = EvaluationSettings(new_tokens=0)
TRAINING = TrainSettings(rank=2, alpha=4, epochs=2, lr=1e-2, batch_size=4)
LAYER, FEATURE, VALUE = 1, 3, 4.0


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    torch.set_num_threads(1)
    return make_world(tmp_path_factory.mktemp("arms") / "world", patients=6)


@pytest.fixture(scope="module")
def adapters(world, tmp_path_factory):
    """Adapters of two seeds, and the first of them merged into its base."""
    folder = tmp_path_factory.mktemp("adapters")
    for seed in (0, 1):
        settings, out = replace(TRAINING, seed=seed, validate=3 * seed), folder / f"seed-{seed}"
        train_and_evaluate(ModelSpec(world.model, device="cpu"), DataSpec(world.questions), out, settings, layers="1-2")
    PeftModel.from_pretrained(plain(world), folder / "seed-0").merge_and_unload().save_pretrained(folder / "merged")
    for path in world.model.iterdir():
        if not (folder / "merged" / path.name).exists():
            shutil.copy(path, folder / "merged" / path.name)
    return folder


@pytest.fixture(scope="module")
def sae():
    generator = torch.Generator().manual_seed(0)
    w_enc, w_dec = (torch.randn(shape, generator=generator) for shape in ((32, 8), (8, 32)))
    return Sae(LAYER, "", w_enc / 8, torch.full((8,), 3.0), w_dec, torch.zeros(32), torch.full((8,), 0.5))


@pytest.fixture(scope="module")
def sae_of(sae, tmp_path_factory):
    folder = tmp_path_factory.mktemp("saes") / f"layer_{LAYER}_width_16k_l0_small"
    save_sae(sae, folder, "tiny", torch.float32)
    return {LAYER: folder}


def evaluated(world, adapters, sae_of, clamp_in, where="final"):
    clamps = [[ClampSpec(LAYER, FEATURE, VALUE)]]
    spec, data = ModelSpec(world.model, device="cpu"), DataSpec(world.questions)
    return evaluate_saved(
        adapters, data, spec, SETTINGS, clamps=clamps, sae_of=sae_of, clamp_at=where, clamp_in=clamp_in
    )


def overall(found, arm):
    return {c.measure: c.after.value for c in found.comparisons if (c.kind, c.reference, c.arm) == ("all", "base", arm)}


def plain_measures(model, world, sae):
    """Accuracy and margin difference of a plain model whose layer is clamped at the last position, by a plain hook."""

    def clamp(module, inputs, output):
        hidden = output if isinstance(output, torch.Tensor) else output[0]
        x = hidden[:, -1]
        z = x @ sae.w_enc[:, FEATURE] + sae.b_enc[FEATURE]
        f = torch.where(z > sae.threshold[FEATURE], z, 0.0)
        hidden[:, -1] = x - (f - VALUE)[:, None] * sae.w_dec[FEATURE]

    base = model.get_base_model() if isinstance(model, PeftModel) else model
    processor = load_vlm(world.model, "cpu", "float32").processor
    handle = base.model.language_model.layers[LAYER].register_forward_hook(clamp)
    right, apart = [], []
    with torch.no_grad():
        for q in load_questions(world.questions, split="test"):
            texts = [q.question, *(p.text for p in q.paraphrases)]
            margins = [plain_margin(plain_logits(base, processor, q.image, t), processor.tokenizer) for t in texts]
            if q.closed:
                right += [("yes" if m > 0 else "no") == q.true_answer for m in margins]
                apart += [abs(m - margins[0]) for m in margins[1:]]
    handle.remove()
    return sum(right) / len(right), sum(apart) / len(apart)


def test_a_clamp_in_an_adapter_is_a_hook_on_the_plain_peft_model(world, adapters, sae, sae_of):
    found = evaluated(world, [adapters / "seed-0", adapters / "merged"], sae_of, "both")
    clamp = f"clamp {LAYER}:{FEATURE}"
    names = ["base", "seed-0", "merged", clamp, f"seed-0 + {clamp}", f"merged + {clamp}"]
    assert list(found.arms) == names
    models = {
        clamp: plain(world),
        f"seed-0 + {clamp}": PeftModel.from_pretrained(plain(world), adapters / "seed-0").eval(),
        f"merged + {clamp}": AutoModelForImageTextToText.from_pretrained(adapters / "merged", dtype=torch.float32),
    }
    for arm, model in models.items():
        accuracy, difference = plain_measures(model, world, sae)
        assert overall(found, arm)["accuracy"] == pytest.approx(accuracy, abs=1e-6), arm
        assert overall(found, arm)["margin_difference"] == pytest.approx(difference, rel=1e-3), arm
        assert [(c["layer"], c["feature"], c["value"]) for c in found.arms[arm]] == [(LAYER, FEATURE, VALUE)]
        assert found.controls[arm], "other features of the same activity, in the same model"
    shifts = {name: round(overall(found, name)["margin_difference"], 5) for name in names[1:]}
    assert shifts["seed-0"] == pytest.approx(shifts["merged"], abs=1e-4)
    assert len({shifts[name] for name in ("seed-0", clamp, f"seed-0 + {clamp}")}) == 3
    couples = {(c.reference, c.arm) for c in found.comparisons}
    assert ("seed-0", f"seed-0 + {clamp}") in couples, "what the clamp does in the adapter"


def test_where_clamps_go_is_chosen(world, adapters, sae_of):
    clamp, given = f"clamp {LAYER}:{FEATURE}", [adapters / "seed-0", adapters / "seed-1"]
    found = evaluated(world, given, sae_of, "adapters")
    inside = [f"seed-{seed} + {clamp}" for seed in (0, 1)]
    assert list(found.arms) == ["base", "seed-0", "seed-1", *inside]
    assert found.pools == {"seed (2 seeds)": ["seed-0", "seed-1"], f"seed + {clamp} (2 seeds)": inside}
    assert list(evaluated(world, given, sae_of, "base").arms) == ["base", "seed-0", "seed-1", clamp]
    with pytest.raises(InputError, match="--clamp-in adapters: there is no adapter"):
        evaluated(world, [], sae_of, "adapters")


def test_an_sae_of_another_width_is_refused(world, sae, tmp_path):
    other = replace_width(sae)
    folder = tmp_path / f"layer_{LAYER}_width_16k_l0_small"
    save_sae(other, folder, "tiny", torch.float32)
    with pytest.raises(InputError, match="16"):
        evaluated(world, [], {LAYER: folder}, "base")
    direction = torch.ones(16)
    narrow = Clamp(LAYER, 0, direction, torch.tensor(0.0), torch.tensor(0.0), direction, 0.0, "final", "made up")
    from interp.measurement.clamps import fill_mean_values

    vlm = load_vlm(world.model, "cpu", "float32")
    with pytest.raises(InputError, match="made up is of width 16, but a model here has width 32"):
        fill_mean_values(vlm, None, [narrow])


def replace_width(sae):
    return Sae(LAYER, "", sae.w_enc[:16], sae.b_enc, sae.w_dec[:, :16], torch.zeros(16), sae.threshold)


# Seeds.


def arm_of(folder):
    return adapter_arm(None, folder, folder.name, read_record(folder))


def copy_of(adapters, folder, **changes):
    """A copy of the second seed with another seed in its record, and with changes to the file that has the field."""
    shutil.copytree(adapters / "seed-1", folder)
    record = json.loads((folder / "gatescope.json").read_text())
    config = json.loads((folder / "adapter_config.json").read_text())
    manifest = json.loads((folder / "manifest.json").read_text())
    record["settings"]["seed"] = 2
    for name, value in changes.items():
        if name in TrainSettings.__dataclass_fields__ or name == "modules":
            record["settings"][name] = value
        elif name in config:
            config[name] = value
        elif name in record["model"]:
            record["model"][name] = value
        elif name in record:
            record[name] = value
        else:
            manifest["inputs"][name] = value
    for name, content in (("gatescope", record), ("adapter_config", config), ("manifest", manifest)):
        (folder / f"{name}.json").write_text(json.dumps(content))
    return arm_of(folder)


def pooled(adapters, third):
    arms = [arm_of(adapters / "seed-0"), arm_of(adapters / "seed-1"), third]
    return [len(members) for members in seed_pools(arms).values()]


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"validate": 50, "micro_batch_size": 2},
        {"peft_version": "0.1", "revision": "main", "base_model_name_or_path": "elsewhere"},
        {"seconds": 1.0, "first_loss": 2.0},
    ],
)
def test_runs_that_differ_in_nothing_but_the_seed_are_pooled(adapters, tmp_path, changes):
    assert pooled(adapters, copy_of(adapters, tmp_path / "seed-2", **changes)) == [3]


@pytest.mark.parametrize(
    "changes",
    [
        {"lr": 0.5},
        {"schedule": "linear"},
        {"spelling": "any"},
        {"divergence": "sum"},
        {"answer_wordings": "original"},
        {"max_grad_norm": 0.3},
        {"modules": "mlp"},
        {"rank_pattern": {"layers.1": 3}},
        {"target_modules": ["q_proj", "k_proj"]},
        {"use_rslora": True},
        {"base_weights": "00ff"},
        {"dtype": "bfloat16"},
        {"data": "other questions"},
        {"trainable_parameters": 17},
        {"layers": [2]},
    ],
)
def test_runs_that_differ_otherwise_are_not(adapters, tmp_path, changes):
    """Attention, MLP and weighted arms of earlier versions have the settings of uniform ones in their records."""
    assert pooled(adapters, copy_of(adapters, tmp_path / "seed-2", **changes)) == [2]


def test_an_attention_arm_under_the_settings_of_a_uniform_one_is_not_pooled(world, adapters, tmp_path):
    """As `finetune ablate --keep-adapters` of earlier versions wrote them."""
    shutil.copytree(adapters / "seed-1", tmp_path / "seed-2")
    config = LoraConfig(r=2, lora_alpha=4, target_modules=r"model\.language_model\.layers\.(1|2)\.self_attn\..*_proj")
    get_peft_model(plain(world), config).save_pretrained(tmp_path / "seed-2")
    record = json.loads((tmp_path / "seed-2/gatescope.json").read_text())
    record["settings"]["seed"] = 2
    (tmp_path / "seed-2/gatescope.json").write_text(json.dumps(record))
    assert pooled(adapters, arm_of(tmp_path / "seed-2")) == [2]


def test_other_clamps_in_seeds_are_not_pooled(adapters):
    direction = torch.ones(32)
    made = [torch.tensor(0.0), torch.tensor(0.0), direction]
    held = [Clamp(LAYER, 0, direction, *made, value, "final", "made up") for value in (0.0, 1.0)]
    arms = [arm_of(adapters / f"seed-{seed}") for seed in (0, 1)]
    inside = clamped_arms(arms, clamp_arms([[clamp] for clamp in held]), "adapters")
    assert sorted(seed_pools([*arms, *inside]).values()) == [
        ["seed-0", "seed-1"],
        ["seed-0 + clamp 1:0=0", "seed-1 + clamp 1:0=0"],
        ["seed-0 + clamp 1:0=1", "seed-1 + clamp 1:0=1"],
    ]


def test_clamps_inside_adapters_need_clamps():
    with pytest.raises(InputError, match="--clamp-in both: no clamp is given"):
        clamped_arms([], [], "both")
