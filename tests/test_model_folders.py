"""A loaded model is the whole model: weights, template, tokenizer and processor that do not fit are refused."""

import json
import re
import shutil

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from interp.model.input_check import check_inputs, image_token_count
from interp.model.load import load_vlm
from interp.model.pixels import pixels_of
from interp.model.prompts import DEFAULT_STYLE, prompt_tokens
from interp.paths import WORLD
from interp.runtime.errors import InputError

QUESTION = "Is there a nodule?"


@pytest.fixture
def folder(tiny_model, tmp_path):
    return shutil.copytree(tiny_model, tmp_path / "model")


def new_name(key):
    """The name that transformers 5 gives to a weight; the file has that of transformers 4."""
    if key.startswith("language_model.model."):
        return key.replace("language_model.model.", "model.language_model.")
    return key if key.startswith("lm_head") else f"model.{key}"


def reweigh(folder, change=new_name, more=None):
    """Write the weights again, each under the name that `change` gives to it; None leaves it out."""
    path = folder / "model.safetensors"
    tensors = {change(key): tensor for key, tensor in load_file(path).items() if change(key)}
    save_file(tensors | (more or {}), path, metadata={"format": "pt"})


def reconfigure(folder, name="config.json", **fields):
    """Write a JSON file again; a field `a__b` is field b of part a, and None removes it."""
    document = json.loads((folder / name).read_text())
    for field, value in fields.items():
        *parts, last = field.split("__")
        place = document
        for part in parts:
            place = place[part]
        place[last] = value
        if value is None:
            del place[last]
    (folder / name).write_text(json.dumps(document))


def refused(folder, message, **options):
    with pytest.raises(InputError, match=message) as raised:
        load_vlm(folder, "cpu", "float32", **options)
    assert str(raised.value).startswith(str(folder))


def logits(folder):
    """The logits after a question about an image, by transformers alone."""
    from transformers import AutoModelForImageTextToText, AutoProcessor

    processor = AutoProcessor.from_pretrained(folder)
    model = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32).eval()
    content = [{"type": "image", "image": Image.new("RGB", (70, 50), "grey")}, {"type": "text", "text": QUESTION}]
    options = {"tokenize": True, "return_dict": True, "return_tensors": "pt", "add_generation_prompt": True}
    template = processor.chat_template or processor.tokenizer.chat_template
    inputs = processor.apply_chat_template([{"role": "user", "content": content}], template, **options)
    with torch.no_grad():
        return model(**inputs).logits[0, -1], inputs["input_ids"][0].tolist()


def loads(folder):
    """Load a folder that is complete, and check it against transformers alone."""
    vlm = load_vlm(folder, "cpu", "float32")
    expected, ids = logits(folder)
    assert prompt_tokens(vlm.processor, [QUESTION]) == [ids]
    pixels = vlm.processor.image_processor([Image.new("RGB", (70, 50), "grey")], return_tensors="pt")["pixel_values"]
    tokens = torch.tensor([ids])
    with torch.no_grad():
        image = (tokens == vlm.model.config.image_token_id).long()
        found = vlm.model(input_ids=tokens, pixel_values=pixels, token_type_ids=image).logits[0, -1]
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    return vlm


@pytest.mark.parametrize("names", ["transformers 4", "transformers 5"])
def test_whole_models_of_both_generations_load(folder, names):
    reweigh(folder, new_name if names == "transformers 5" else lambda key: key)
    loads(folder)


def test_heads_tied_and_untied_load(folder, tmp_path):
    embeddings = next(t for key, t in load_file(folder / "model.safetensors").items() if "embed_tokens" in key)
    tied = shutil.copytree(folder, tmp_path / "tied")
    reweigh(tied, more={"lm_head.weight": embeddings.clone()})
    loads(tied)
    own = shutil.copytree(folder, tmp_path / "own")
    reweigh(own, more={"lm_head.weight": embeddings + 1})
    reconfigure(own, tie_word_embeddings=False)
    assert torch.equal(loads(own).model.lm_head.weight, embeddings + 1)
    reweigh(own, lambda key: None if key.startswith("lm_head") else key)
    refused(own, r"1 weights of the model are not in the files, among them lm_head\.weight.*tie_word_embeddings")


def test_weights_that_older_versions_saved_are_ignored(folder):
    more = {"model.language_model.rotary_emb.inv_freq": torch.ones(3)}
    more["model.language_model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(3)
    more["model.vision_tower.vision_model.embeddings.position_ids"] = torch.ones(1, 4)
    more["model.vision_tower.vision_model.head.probe"] = torch.ones(1, 1, 4)
    reweigh(folder, more=more)
    loads(folder)


NAMES = {
    "peft": (lambda key: f"base_model.model.{new_name(key)}", r"contain 'base_model\.model\.', which peft adds"),
    "peft, old names": (lambda key: f"base_model.model.{key}", r"contain 'base_model\.model\.', which peft adds"),
    "compiled": (lambda key: f"_orig_mod.{new_name(key)}", r"contain '_orig_mod\.', which torch\.compile adds"),
    "compiled inside": (lambda key: new_name(key).replace("model.", "model._orig_mod.", 1), "torch.compile adds"),
    "parallel": (lambda key: f"module.{new_name(key)}", r"contain 'module\.', which DataParallel adds"),
    "both": (lambda key: f"module._orig_mod.{new_name(key)}", "Remove it from the names"),
    "unknown prefix": (lambda key: f"student.{new_name(key)}", r"have the prefix 'student\.'"),
    "peft inside": (
        lambda key: new_name(key).replace("q_proj.", "q_proj.base_layer."),
        r"q_proj\.base_layer\.weight\..*merge_and_unload",
    ),
    "text alone": (
        lambda key: new_name(key) if key.startswith("language_model") else None,
        "vision tower or the projector is missing",
    ),
    "text alone, its own names": (
        lambda key: key.replace("language_model.", "", 1) if key.startswith("language_model") else None,
        "vision tower or the projector is missing",
    ),
    "no projector": (
        lambda key: None if "projector" in key else new_name(key),
        r"2 weights of the model are not in the files, among them model\.multi_modal_projector\.",
    ),
    "no tower": (lambda key: None if "vision_tower" in key else new_name(key), "vision tower or the projector"),
    "a layer": (
        lambda key: None if key.startswith("language_model.model.layers.2.") else new_name(key),
        "layers 2 of the language model are incomplete",
    ),
    "a layer of the tower": (
        lambda key: None if "encoder.layers.1." in key else new_name(key),
        "layers 1 of the vision tower are incomplete",
    ),
    "one weight": (
        lambda key: None if key.endswith("layers.3.mlp.up_proj.weight") else new_name(key),
        r"1 weights of the model are not in the files, among them model\.language_model\.layers\.3\.mlp\.up_proj",
    ),
    "one misspelt": (
        lambda key: new_name(key).replace("layers.3.mlp.up_proj", "layers.3.mlp.up"),
        r"1 weights in the files are not the model's, among them model\.language_model\.layers\.3\.mlp\.up\.weight",
    ),
}


@pytest.mark.parametrize("case", NAMES)
def test_missing_and_misnamed_weights_are_named(folder, case):
    change, message = NAMES[case]
    reweigh(folder, change)
    refused(folder, message)


SURPLUS = {
    "lora": ("layers.0.self_attn.q_proj.lora_A.default.weight", "merge_and_unload"),
    "quantized": ("layers.0.self_attn.q_proj.weight.absmax", "quantized"),
    "other": ("layers.0.self_attn.extra.weight", "not of the same model|does not have"),
}


@pytest.mark.parametrize("case", SURPLUS)
def test_weights_that_the_model_would_ignore_are_refused(folder, case):
    name, message = SURPLUS[case]
    reweigh(folder, more={f"model.language_model.{name}": torch.ones(2, 2)})
    refused(folder, rf"1 weights in the files are not the model's, among them .*{re.escape(name)}.*({message})")


CONFIGS = {
    "fewer layers": (
        {"text_config__num_hidden_layers": 3, "text_config__layer_types": None},
        "layers 3 of the language",
    ),
    "more layers": (
        {"text_config__num_hidden_layers": 5, "text_config__layer_types": None},
        "layers 4 of the language",
    ),
    "a tower of another depth": ({"vision_config__num_hidden_layers": 2}, "layers 2, 3 of the vision tower, which"),
    "another width": (
        {"text_config__intermediate_size": 16},
        r"another shape .* found \[32, 64\], expected \[32, 16\]",
    ),
    "another image size": ({"vision_config__image_size": 32}, r"another shape .*position_embedding"),
    "a window of one token": (
        {"text_config__sliding_window": 1},
        "sliding_window 1, expected at least 2",
    ),
    "more embeddings": ({"text_config__vocab_size": 2000}, r"another shape .*embed_tokens"),
}


@pytest.mark.parametrize("case", CONFIGS)
def test_a_config_of_another_model_is_refused(folder, case):
    fields, message = CONFIGS[case]
    reconfigure(folder, **fields)
    refused(folder, message)


def test_an_adapter_beside_the_weights_is_refused(folder):
    (folder / "adapter_config.json").write_text("{}")
    refused(folder, r"adapter_config\.json: an adapter beside.*If the adapter is merged.*If it is not")


@pytest.mark.parametrize("damage", ["pointer", "cut off"])
def test_a_file_that_is_not_whole_is_named(folder, damage):
    path = folder / "model.safetensors"
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 132\n"
    path.write_bytes(pointer if damage == "pointer" else path.read_bytes()[:-8])
    refused(folder, r"model\.safetensors: not a complete safetensors file .*Download it again")


def test_two_sets_of_weights_are_refused(folder):
    shutil.copy(folder / "model.safetensors", folder / "model-00001-of-00001.safetensors")
    weight_map = dict.fromkeys(load_file(folder / "model.safetensors"), "model-00001-of-00001.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    refused(folder, r"both model\.safetensors and the parts")
    (folder / "model.safetensors").unlink()
    loads(folder)


def template_of(folder):
    return (folder / "chat_template.jinja").read_text()


def retemplate(folder, *changes):
    template = template_of(folder)
    for old, new in changes:
        assert old in template
        template = template.replace(old, new)
    (folder / "chat_template.jinja").write_text(template)


def test_a_template_in_the_tokenizer_configuration_is_used(folder):
    template = template_of(folder)
    (folder / "chat_template.jinja").unlink()
    reconfigure(folder, "tokenizer_config.json", chat_template=template)
    loads(folder)
    reconfigure(folder, "tokenizer_config.json", chat_template=None)
    refused(folder, r"No chat template: expected chat_template\.jinja")


def test_a_template_that_leaves_the_first_token_to_the_tokenizer(folder):
    from transformers import AutoTokenizer

    retemplate(folder, ("{{ bos_token }}", ""))
    vlm = loads(folder)
    ids = prompt_tokens(vlm.processor, [QUESTION])[0]
    plain = AutoTokenizer.from_pretrained(folder)("a")["input_ids"]
    assert (ids[0] == vlm.processor.tokenizer.bos_token_id) == (plain[0] == vlm.processor.tokenizer.bos_token_id)


IMAGE = "{{ '<start_of_image>' }}"
TEMPLATES = {
    "text alone": ((IMAGE, ""), "give 0 image tokens in a prompt with 1 images, expected 16"),
    "half of the tokens": ((IMAGE, "{{ '<image_soft_token>' * 8 }}"), "give 8 image tokens .* expected 16"),
    "twice": ((IMAGE, "{{ '<start_of_image><start_of_image>' }}"), "give 32 image tokens .* expected 16"),
    "always an image": (("{{ bos_token }}", "{{ bos_token }}{{ '<start_of_image>' }}"), "give 32 image tokens"),
    "no question": (("{{ item['text'] | trim }}", ""), "leaves out the question"),
    "another question": (("{{ item['text'] | trim }}", "{{ item['text'] | upper }}"), "leaves out the question"),
    "two first tokens": (("{{ bos_token }}", "{{ bos_token }}{{ bos_token }}"), "2 tokens '<bos>', expected one"),
    "damaged": (("{%- endif -%}", ""), "could not be loaded"),
}


@pytest.mark.parametrize("case", TEMPLATES)
def test_templates_that_do_not_hold_what_was_asked_are_refused(folder, case):
    change, message = TEMPLATES[case]
    retemplate(folder, change)
    refused(folder, message)


def test_a_template_that_drops_the_system_instruction_is_refused_if_one_is_given(folder):
    retemplate(folder, ('(first_user_prefix if loop.first else "")', "''"))
    load_vlm(folder, "cpu", "float32")
    refused(folder, "leaves out the system instruction 'Be brief.'", style=DEFAULT_STYLE._replace(system="Be brief."))


def test_a_template_that_fixes_the_order_is_refused_for_the_other(folder):
    block = template_of(folder)
    start, end = block.index("{%- for item in"), block.index('{%- else -%}\n        {{ raise_exception("Invalid')
    fixed = (
        "{%- for item in message['content'] if item['type'] == 'image' -%}{{ '<start_of_image>' }}{%- endfor -%}"
        "{%- for item in message['content'] if item['type'] == 'text' -%}{{ item['text'] | trim }}{%- endfor -%}\n    "
    )
    (folder / "chat_template.jinja").write_text(block[:start] + fixed + block[end:])
    load_vlm(folder, "cpu", "float32")
    refused(folder, "does not put the image after", style=DEFAULT_STYLE._replace(image_first=False))


PROCESSORS = {
    "length missing": (
        {"image_seq_length": None},
        r"found image_seq_length 256, .*mm_tokens_per_image 16; expected 16",
    ),
    "half the length": ({"image_seq_length": 8}, "found image_seq_length 8"),
    "another size": ({"image_processor__size": {"height": 32, "width": 32}}, r"\[1, 3, 32, 32\].* \[1, 3, 64, 64\]"),
    "never scaled": ({"image_processor__do_rescale": False}, "pixels from -1 to 509|pixels from .* expected about -1"),
    "blank": ({"image_processor__rescale_factor": 0.0}, "The processor makes pixels from"),
}


@pytest.mark.parametrize("case", PROCESSORS)
def test_processors_that_do_not_fit_are_refused(folder, case):
    fields, message = PROCESSORS[case]
    reconfigure(folder, "processor_config.json", **fields)
    refused(folder, message)


@pytest.mark.parametrize("bounds", [{}, {"min_crop_size": 16, "max_num_crops": 4, "min_ratio_to_activate": 1.2}])
def test_crops_of_the_configuration_are_ignored_as_by_the_whole_processor(folder, bounds):
    crops = {f"image_processor__pan_and_scan_{name}": value for name, value in bounds.items()}
    reconfigure(folder, "processor_config.json", image_processor__do_pan_and_scan=True, **crops)
    vlm, wide = load_vlm(folder, "cpu", "float32"), Image.linear_gradient("L").resize((200, 80)).convert("RGB")
    text = vlm.processor.boi_token
    expected = vlm.processor(text=[text, text], images=[[wide], [wide]], return_tensors="pt")["pixel_values"]
    assert torch.equal(pixels_of(vlm, [wide, wide]), expected)


def test_tokens_without_embeddings_are_refused(folder):
    from transformers import AutoProcessor

    processor = AutoProcessor.from_pretrained(folder)
    processor.tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>"]})
    processor.save_pretrained(folder)
    refused(folder, r"1 tokens have none, among them '<\|im_start\|>'\. Call resize_token_embeddings")
    from transformers import AutoModelForImageTextToText

    model = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32)
    model.resize_token_embeddings(len(processor.tokenizer))
    model.save_pretrained(folder)
    loads(folder)


def test_another_image_token_is_refused(folder):
    reconfigure(folder, image_token_id=12) if "image_token_id" in (folder / "config.json").read_text() else (
        reconfigure(folder, image_token_index=12)
    )
    refused(folder, r"config\.json: found image_token_id 12, which is .*the tokenizer's image token")


def test_a_tokenizer_that_lost_its_merges_is_refused(folder):
    reconfigure(folder, "tokenizer.json", model__merges=[])
    refused(folder, r"tokenizer\.json: cuts '.*' into \d+ tokens .*Its merges were lost")


def test_the_worlds_own_models_pass_and_the_projector_gives_their_tokens():
    for name in ("base", "planted"):
        vlm = load_vlm(WORLD / name, "cpu", "float32")
        check_inputs(vlm.model, vlm.processor, vlm.answers)
        assert image_token_count(vlm.model) == vlm.processor.image_seq_length
