"""Regression tests of faults that fuzzing found."""

import json
import struct
import zlib
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from conftest import read_rows, write_rows
from dicoms import write_dicom
from fuzzing import bounded_memory, check
from layers_files import layers_document
from PIL import Image
from pydicom import dcmread
from safetensors.torch import save_file

from finetune.cli.ablate import parse_seeds
from finetune.evaluation.arms import Arm, seed_pools
from finetune.lora.adapter_folder import base_of, read_record
from interp.images.decode import decode
from interp.images.grey import UnreadableImageError
from interp.images.paths import climbs_out, names_in
from interp.importing.importer import import_questions
from interp.measurement.clamp_spec import parse_clamps
from interp.questions.files import load_questions, write_questions
from interp.questions.polarity import operators_of
from interp.runtime.errors import InputError
from interp.saes.locate import locate_saes
from interp.saes.sae import Sae, load_sae, save_sae
from interp.schemas.layer_list import listed_layers
from interp.schemas.layers import read_layers
from interp.storage.hub import locate

DEEP, LONG = "[" * 20000, "9" * 5000


@pytest.mark.parametrize("line", [DEEP, f'{{"id": {LONG}}}', '{"id": "\\ud800"}'])
def test_an_error_in_unreadable_json_names_the_row(tmp_path, line):
    (tmp_path / "q.jsonl").write_text(line)
    with pytest.raises(InputError, match="row 1"):
        load_questions(tmp_path / "q.jsonl")


def test_boxes_must_be_finite_numbers(own_data):
    rows = read_rows(own_data / "questions.jsonl")
    rows[1]["boxes"] = [[0, 0, float("nan"), 5]]
    write_rows(own_data / "questions.jsonl", rows)
    with pytest.raises(InputError, match="row 2: field boxes"):
        load_questions(own_data / "questions.jsonl")


@pytest.mark.parametrize("image", ["a" * 300, "a/" * 3000 + "b.png", "x\0.png"])
def test_impossible_file_names_count_as_absent_files(own_data, image):
    rows = read_rows(own_data / "questions.jsonl")
    rows[1]["image"] = image
    write_rows(own_data / "questions.jsonl", rows)
    with pytest.raises(InputError, match="row 2"):
        load_questions(own_data / "questions.jsonl")
    report = import_questions(own_data / "questions.jsonl", "jsonl", own_data, own_data / "out.jsonl")
    assert (report.questions, sum(report.dropped.values())) == (11, 1)


def test_unicode_line_separators_do_not_split_a_text(own_data):
    rows = read_rows(own_data / "questions.jsonl")[:1]
    rows[0]["question"] = "Is it\u2028here,\x85or\x0bthere?"
    write_rows(own_data / "questions.jsonl", rows)
    # pydantic writes them unescaped.
    write_questions(load_questions(own_data / "questions.jsonl"), own_data / "raw.jsonl", own_data)
    assert "\u2028" in (own_data / "raw.jsonl").read_text(encoding="utf-8")
    import_questions(own_data / "raw.jsonl", "jsonl", own_data, own_data / "out.jsonl")
    assert load_questions(own_data / "out.jsonl", own_data)[0].question == rows[0]["question"]
    table = "question,answer,image_path\nIs it\u2028here?,yes,images/0.png\n"
    (own_data / "t.csv").write_text(table, encoding="utf-8")
    import_questions(own_data / "t.csv", "medical-cxr-vqa", own_data, own_data / "csv.jsonl")
    assert load_questions(own_data / "csv.jsonl", own_data)[0].question == "Is it\u2028here?"


@pytest.mark.parametrize("text", ["   ", "\ud800"])
@pytest.mark.parametrize("format", ["psf-med", "vqa-rad", "medical-cxr-vqa"])
def test_a_paraphrase_without_text_is_dropped_and_counted(own_data, format, text):
    row = {"question": "Is it?", "answer": "yes", "image": "images/0.png", "paraphrases": ["Is it there?", text]}
    row |= {"question_rephrase": text, "baseline_question": "Is it?", "question_variant": text}
    (own_data / "s.json").write_text(json.dumps([row, row | {"question": "Is it so?"}]))
    report = import_questions(own_data / "s.json", format, own_data, own_data / "out.jsonl")
    assert report.questions >= 1
    if format == "psf-med" or text.strip():
        assert report.dropped_paraphrases["paraphrase without text"] >= 1


CARDS = [
    "- a",
    "configs: [1, {config_name: mimic, data_files: [{split: test}]}]",
    "\x00",
    "configs: [{config_name: mimic, data_files: ['../secret/*.csv']}]",
    "configs: [{config_name: mimic, data_files: ['/etc/*']}]",
    "a: [",
    f"configs: [{{config_name: mimic, data_files: [{'a' * 300}]}}]",
    "configs: [{config_name: mimic, data_files: ['a**']}]",
]


@pytest.mark.parametrize("card", CARDS)
def test_a_card_cannot_crash_an_import_or_lead_out_of_its_folder(own_data, card):
    (own_data / "psf").mkdir()
    (own_data / "secret").mkdir()
    (own_data / "secret" / "mimic.csv").write_text("question,paraphrase,image,answer\nA?,B?,images/0.png,yes\n")
    (own_data / "psf" / "README.md").write_text(f"---\n{card}\n---\n")
    with pytest.raises(InputError):
        import_questions(own_data / "psf", "psf-med", own_data, own_data / "out.jsonl", "mimic")


def test_a_table_that_a_card_names_twice_is_read_once(own_data):
    (own_data / "psf").mkdir()
    (own_data / "psf" / "t.csv").write_text("question,paraphrase,image,answer\nA?,B?,images/0.png,yes\n")
    (own_data / "psf" / "README.md").write_text(
        "---\nconfigs: [{config_name: mimic, data_files: ['*.csv', 't.csv']}]\n---\n"
    )
    report = import_questions(own_data / "psf", "psf-med", own_data, own_data / "out.jsonl", "mimic")
    assert report.questions == 1


def test_a_small_parquet_file_with_very_many_rows_is_refused(tmp_path):
    pq.write_table(pa.table({"question": pa.nulls(5_000_000, pa.string())}), tmp_path / "bomb.parquet")
    assert (tmp_path / "bomb.parquet").stat().st_size < 10_000
    with pytest.raises(InputError, match="claims 5000000 rows"):
        import_questions(tmp_path / "bomb.parquet", "psf-med", tmp_path, tmp_path / "out.jsonl")


def test_circular_links_are_followed_once(tmp_path):
    (tmp_path / "root" / "a").mkdir(parents=True)
    (tmp_path / "root" / "a" / "x.png").touch()
    for i in range(6):
        (tmp_path / "root" / f"loop{i}").symlink_to(tmp_path / "root")
        (tmp_path / "root" / "a" / f"loop{i}").symlink_to(tmp_path / "root")
    assert check("links", lambda: names_in(tmp_path / "root"))["x.png"] == ["a/x.png"]


def test_parent_folders_after_a_link_climb_out():
    assert climbs_out("link/../passwd")
    assert climbs_out("a\\..\\..\\b")
    assert climbs_out("\\\\server\\share\\a.png")
    assert not climbs_out("a/b..png")


def png_of(width: int, height: int, depth: int = 8) -> bytes:
    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, depth, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b"")


@pytest.mark.parametrize("size", [(2**31 - 1, 2**31 - 1), (13000, 13000), (6000, 6000)])
def test_an_image_of_a_billion_pixels_is_not_decoded(tmp_path, size):
    (tmp_path / "a.png").write_bytes(png_of(*size, depth=16))
    with bounded_memory(2**28), pytest.raises(UnreadableImageError, match="more than 34 million pixels"):
        decode(tmp_path / "a.png")


def test_a_tiff_without_dimensions_is_damaged(tmp_path):
    Image.new("L", (9, 9)).save(tmp_path / "a.tif")
    content = (tmp_path / "a.tif").read_bytes()
    for kind in (b"\x03\x00", b"\x04\x00"):
        # Turn ImageWidth, tag 256, into another tag.
        content = content.replace(b"\x00\x01" + kind, b"\x00\x02" + kind, 1)
    (tmp_path / "a.tif").write_bytes(content)
    with pytest.raises(UnreadableImageError, match="damaged"):
        decode(tmp_path / "a.tif")


def test_a_dicom_file_that_inflates_to_a_gigabyte_is_refused(tmp_path):
    path = write_dicom(tmp_path / "a.dcm", np.zeros((20, 20)))
    data = dcmread(path)
    data.add_new(0x00091010, "UN", b"\0" * 2**28)
    data.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.1.99"
    data.save_as(path)
    assert path.stat().st_size < 2**20
    with bounded_memory(2**27), pytest.raises(UnreadableImageError, match="deflated"):
        decode(path)


@pytest.mark.parametrize(("tag", "value"), [("Rows", 65535), ("NumberOfFrames", "x")])
def test_a_false_dicom_header_is_refused_before_its_pixels_are_read(tmp_path, tag, value):
    path = write_dicom(tmp_path / "a.dcm", np.zeros((20, 20)))
    data = dcmread(path)
    if tag == "Rows":
        data.Rows = data.Columns = value
        data.save_as(path)
    else:
        data.NumberOfFrames = "1"
        data.save_as(path)
        path.write_bytes(path.read_bytes().replace(b"\x28\x00\x08\x00IS\x02\x001 ", b"\x28\x00\x08\x00IS\x02\x00x "))
    with bounded_memory(2**28), pytest.raises(UnreadableImageError):
        decode(path)


@pytest.mark.parametrize("text", ["0-1000000000", LONG, "1-" + LONG])
def test_very_long_numbers_in_options_are_refused(text):
    with pytest.raises(InputError):
        listed_layers(text)
    with pytest.raises(InputError):
        parse_clamps(f"{LONG}:{text}")
    with pytest.raises(InputError):
        parse_seeds(LONG)


def test_a_wording_of_punctuation_alone_is_parsed_in_time():
    check("operators", lambda: operators_of("[" * 4000 + "x"))
    check("operators", lambda: operators_of(" " * 4000 + "x"))


@pytest.fixture
def sae_folder(tmp_path):
    parts = [torch.ones(shape) for shape in ((4, 6), (6,), (6, 4), (4,), (6,))]
    save_sae(Sae(1, "", *parts), tmp_path / "layer_1_width_16k_l0_small", "m", torch.float32)
    return tmp_path / "layer_1_width_16k_l0_small"


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"W_enc": torch.zeros(0, 0)}, "under both of its names"),
        ({"w_enc": torch.ones(4, 6, dtype=torch.int64)}, "holds I64"),
        ({"b_enc": torch.full((6,), 1e300, dtype=torch.float64)}, "b_enc holds NaN or infinite"),
        (
            {
                "w_enc": torch.zeros(4, 0),
                "w_dec": torch.zeros(0, 4),
                "b_enc": torch.zeros(0),
                "threshold": torch.zeros(0),
            },
            "no features",
        ),
    ],
)
def test_sae_weights_that_do_not_fit_are_refused(sae_folder, changes, expected):
    shapes = {"w_enc": (4, 6), "b_enc": (6,), "w_dec": (6, 4), "b_dec": (4,), "threshold": (6,)}
    save_file({name: torch.ones(shape) for name, shape in shapes.items()} | changes, sae_folder / "params.safetensors")
    with pytest.raises(InputError, match=expected):
        load_sae(sae_folder, 1, 4)


@pytest.mark.parametrize("config", ["null", "[]", DEEP, '{"architecture": "jump_relu", "hf_hook_point_in": []}'])
def test_an_sae_configuration_must_be_an_object(sae_folder, config):
    (sae_folder / "config.json").write_text(config)
    with pytest.raises(InputError, match=r"config\.json"):
        load_sae(sae_folder, 1, 4)


@pytest.mark.parametrize("config", ["null", '{"metadata": "x"}', f'{{"hook_name": "blocks.{LONG}.hook_resid_post"}}'])
def test_an_sae_lens_configuration_must_name_a_layer(tmp_path, config):
    (tmp_path / "cfg.json").write_text(config)
    with pytest.raises(InputError, match=r"cfg\.json"):
        locate_saes(tmp_path)


def test_sae_biases_may_have_another_dtype_than_the_matrices(tmp_path):
    folder = tmp_path / "mine"
    folder.mkdir()
    parts = {"W_enc": torch.ones(4, 6).bfloat16(), "W_dec": torch.ones(6, 4).bfloat16(), "b_enc": torch.ones(6)}
    save_file(parts | {"b_dec": torch.ones(4), "threshold": torch.ones(6)}, folder / "sae_weights.safetensors")
    config = {"architecture": "jumprelu", "apply_b_dec_to_input": True, "hook_name": "blocks.1.hook_resid_post"}
    config |= {"d_in": 4, "d_sae": 6}
    (folder / "cfg.json").write_text(json.dumps(config))
    assert load_sae(folder, 1, 4).b_enc.tolist() == [-3.0] * 6


@pytest.mark.parametrize(
    "change",
    [{"layers": [10**9]}, {"layers": [1, 1]}, {"layers": [-1]}, {"layers": []}, {"model": {"n_layers": 10**12}}],
)
def test_layers_of_a_layers_json_must_exist_in_its_model(tmp_path, change):
    document = layers_document("m", 2, 32)
    model = document["model"] | change.pop("model", {})
    (tmp_path / "layers.json").write_text(json.dumps(document | change | {"model": model}))
    found = check("layers.json", lambda: read_layers(tmp_path / "layers.json"))
    assert isinstance(found, InputError) == bool(change)


def test_an_interval_of_nan_or_infinity_is_null(tmp_path):
    document = layers_document("m", 2, 32)
    document["profile"][0]["write"] = {"value": float("nan"), "low": float("inf"), "high": 1}
    (tmp_path / "layers.json").write_text(json.dumps(document))
    found = read_layers(tmp_path / "layers.json").profile[0].write
    assert (found.value, found.low, found.high) == (None, None, 1)


@pytest.mark.parametrize(
    "index",
    [
        "[]",
        "{}",
        '{"weight_map": {"a": {}}}',
        '{"weight_map": {"a": "../b.safetensors"}}',
        f'{{"weight_map": {{"a": "{LONG}"}}}}',
    ],
)
def test_weights_of_a_model_must_lie_in_its_folder(tmp_path, index):
    (tmp_path / "config.json").write_text('{"model_type": "gemma3"}')
    (tmp_path / "model.safetensors.index.json").write_text(index)
    with pytest.raises(InputError, match=r"index\.json"):
        locate(tmp_path)


def test_an_undecodable_record_and_an_invalid_configuration_are_refused(tmp_path):
    (tmp_path / "gatescope.json").write_bytes(b'{"schema_version": "\xff"}')
    with pytest.raises(InputError, match="not UTF-8"):
        read_record(tmp_path)
    (tmp_path / "adapter_model.safetensors").touch()
    for config in ("", "[]", "{}", DEEP):
        (tmp_path / "adapter_config.json").write_text(config)
        with pytest.raises(InputError, match=r"adapter_config\.json"):
            base_of(tmp_path)


def test_seeds_of_records_may_have_any_type():
    about = dict.fromkeys(("model", "prompt", "layers", "data", "steps", "trainable_parameters"))
    record = SimpleNamespace(settings={"seed": [1]}, **about)
    assert seed_pools([Arm("a", record=record), Arm("b", record=record)]) == {}
