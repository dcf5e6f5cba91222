"""Compare one process with several, each on its own GPU: speed of search and training, and equality of the results.

    python tests/benchmarks/scaling.py --processes 1,2
    python tests/benchmarks/scaling.py --shape medgemma-4b --processes 2,1,2 --mimic
    python tests/benchmarks/scaling.py --shape gemma-27b --processes 1 --split --parts screening

The parts are screening, which measures margins and residuals of all prompts and then the activations of every SAE;
whole, all of find-features with SAEs read from files; and training, the published recipe at the same global batch with
dropout 0. Every number of processes is launched as a user would launch it and prints its numbers at once; if one is
launched again, its last launch counts. On a virtual host the first use of main memory may be slow and delay the first
launch; give --touch nearly all of it. Without GPUs all processes share the cores.
"""

import argparse
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from ready import ready
from safetensors.torch import load_file, save_file
from shape import (
    MIMIC,
    PIXELS,
    SHAPES,
    build,
    counts_of,
    machine,
    matmul_rate,
    operations,
    questions,
    report,
    synchronize,
)
from stopwatch import Stopwatch, forget_peak, resident

from finetune.lora.modules import add_lora
from finetune.lora.settings import TrainSettings
from finetune.training.batches import training_steps
from finetune.training.loop import accelerator_for, train
from interp.causal.mediation import falls_by_layer
from interp.measurement.sharded import measure_together
from interp.model.image_token_file import encode_into_file
from interp.model.vlm import Vlm
from interp.paths import WORLD
from interp.questions.files import load_questions, write_questions
from interp.questions.schema import Question
from interp.questions.tables import prompt_table
from interp.runtime.distributed import Team, is_main, team_on
from interp.saes.locate import locate_saes
from interp.saes.sae import Sae, save_sae
from interp.search.family_stage import patch_families
from interp.search.find import find_features
from interp.search.settings import FindSettings

TRAINED = {"tiny": range(4, 6), "medgemma-4b": range(15, 20), "gemma-27b": range(28, 37)}
"""Shape -> the layers that are trained."""
WARMING = 24
"""Number of questions of a small search that comes before the timed one."""


def say(line: str) -> None:
    if is_main():
        print(line, file=sys.stderr, flush=True)


def clock(team: Team) -> float:
    """The time at which all processes have finished all earlier work [s]."""
    synchronize()
    team.barrier()
    return time.perf_counter()


def peaks(team: Team) -> list[float]:
    """Peak of allocated memory of each GPU [GiB]; the peaks are reset."""
    if not torch.cuda.is_available():
        return []
    own = [torch.cuda.current_device()] if team.size > 1 else range(torch.cuda.device_count())
    found = team.gather_values([torch.cuda.max_memory_allocated(gpu) / 2**30 for gpu in own])
    for gpu in own:
        torch.cuda.reset_peak_memory_stats(gpu)
    return [gib for process in found for gib in process]


def screening(
    vlm: Vlm, saes: list[Sae], asked: list[Question], team: Team, repeats: int
) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """Prompts/s from image files to activations, the margins, and the largest activation of each layer."""
    prompts, layers = prompt_table(asked), [sae.layer for sae in saes]
    own, best = team.block(saes), float("inf")
    for repeat in range(repeats + 1):
        # The first run warms up on a part of the prompts.
        part = prompts if repeat else prompts.iloc[: max(64, len(prompts) // 16)]
        vlm.image_tokens.clear()
        started = clock(team)
        margin, residuals = measure_together(vlm, part, layers, 16384, None, team)
        measured = clock(team)
        strongest = torch.tensor([float(sae.encode(residuals.after(sae.layer).to(vlm.device)).max()) for sae in own])
        done = clock(team)
        say(f"  screening {len(part)} prompts: {measured - started:.2f} + {done - measured:.2f} s")
        if repeat and done - started < best:
            best, took = done - started, {"measure_s": measured - started, "sae_s": done - measured}
    told = {"prompts": len(prompts), "screening_s": best, "prompts_per_s": len(prompts) / best} | took
    return told, {
        "margin": margin,
        "strongest": torch.cat([part["s"] for part in team.gather_tensors({"s": strongest})]),
    }


def whole(vlm: Vlm, folders: dict[int, Path], asked: list[Question], team: Team, into: Path) -> dict[str, Any]:
    """Durations of find-features and of its stages [s]; the main process writes the results to `into`.

    A model of random weights may have no gate and no layers that write the answer, so what naming a gate at layer 0
    takes is timed after it, and what patching the families of all layers takes.
    """
    settings = FindSettings(bank_margin=0.0) if vlm.name == "random" else FindSettings()
    rates = [matmul_rate(vlm.device, dtype) for dtype in (vlm.model.dtype, torch.float32)]
    watch = Stopwatch(operations(vlm), vlm.n_layers)
    started = clock(team)
    find_features(vlm, folders, asked[:WARMING], settings=settings)
    say(f"  a first search of {WARMING} questions: {clock(team) - started:.2f} s")
    vlm.image_tokens.clear()
    forget_peak()
    peaks(team)
    started = clock(team)
    with watch.running():
        found = find_features(vlm, folders, asked, settings=settings)
    seconds = clock(team) - started
    table = watch.table(*rates)
    say(f"  find-features: {seconds:.2f} s, {found.verdict}\n{table.to_string(float_format='{:.3f}'.format)}")
    told = {"flip_bank": found.artifact.data.flip_bank, "families": len(found.artifact.families or [])}
    told |= {"whole_s": seconds, "whole_peak_gib": team.gather_values(float(table["gpu_peak_gib"].max()))}
    told |= {"resident_peak_gib": resident("VmHWM")}
    patched, screened = watch.results["patch_whole_layers"], watch.results["screen"]
    started = clock(team)
    falls_by_layer(patched.target, 0, patched.residual[:, 0], settings.seed)
    told["naming_a_gate_s"] = clock(team) - started
    started = clock(team)
    patch_families(screened, patched.target, [vlm.n_layers - 1], settings.seed)
    told["all_families_s"] = clock(team) - started
    if is_main():
        (into.with_suffix(".artifact.json")).write_text(found.artifact.model_dump_json())
        found.features.to_parquet(into.with_suffix(".parquet"))
        table.to_csv(into.with_suffix(".stages.csv"))
    return told | {f"whole.{name}_s": took for name, took in table["seconds"].items()}


def training(
    vlm: Vlm, asked: list[Question], layers: range, batch: int, team: Team, accelerator: Any
) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """Pairs/s of whole runs and of the epochs after the first, and the adapter."""
    from torch.optim.optimizer import register_optimizer_step_post_hook

    settings = TrainSettings(batch_size=batch, dropout=0.0)
    for part, epochs in ((asked[: 2 * batch], 1), (asked, settings.epochs)):
        adapted = add_lora(vlm, list(layers), settings.rank, settings.alpha, settings.dropout)
        steps = training_steps(part, epochs, batch, settings.seed)
        in_epoch = sum(step.epoch == 0 for step in steps)
        vlm.image_tokens.clear()
        stamps = [clock(team)]
        hook = register_optimizer_step_post_hook(lambda *_, into=stamps: into.append(time.perf_counter()))
        encode_into_file(vlm, [question.image for question in part], team, Path.cwd())
        train(vlm, adapted, steps, settings, accelerator)
        hook.remove()
        stamps[-1] = clock(team)
        named = {n: p.detach().float().cpu().clone() for n, p in adapted.named_parameters() if p.requires_grad}
        adapted.unload()
        accelerator.free_memory()
    took = [later - before for before, later in pairwise(stamps[::in_epoch])]
    pairs = len(asked)
    told = {
        "questions": pairs,
        "training_s": stamps[-1] - stamps[0],
        "later_epoch_s": sum(took[1:]) / len(took[1:]),
        "pairs_per_s": epochs * pairs / (stamps[-1] - stamps[0]),
    }
    say(f"  training at batch {batch}: " + ", ".join(f"{name} {value:.4g}" for name, value in told.items()))
    return told, {f"{batch}.{name}": value for name, value in named.items()}


def worker(options: argparse.Namespace) -> None:
    """Run one of the processes of a launch."""
    into = Path(options.folder) / f"of-{options.worker}"
    started = time.perf_counter()
    accelerator = accelerator_for("auto")
    team = team_on(accelerator.device)
    vlm, saes = build(options.shape, options.split)
    say(f"{options.worker} processes: built in {time.perf_counter() - started:.1f} s on {machine(vlm)['device']}")
    peaks(team)
    told: dict[str, Any] = {"processes": team.size} | machine(vlm)
    tensors: dict[str, torch.Tensor] = {}

    def note(more: dict[str, Any], found: dict[str, torch.Tensor], name: str) -> None:
        told.update(more)
        told.setdefault(f"{name}_peak_gib", peaks(team))
        tensors.update(found)
        if is_main():
            save_file({n: t.contiguous() for n, t in tensors.items()}, into.with_suffix(".safetensors"))
            into.with_suffix(".json").write_text(json.dumps(told))

    with ready(vlm):
        asked = load_questions(Path(options.folder) / "questions.jsonl")
        if "screening" in options.parts:
            note(*screening(vlm, saes, asked, team, options.repeats), "screening")
        if "whole" in options.parts:
            folders = sae_folders(saes, options, team)
            saes.clear()
            note(whole(vlm, folders, asked, team, into), {}, "whole")
        saes.clear()
        if "training" in options.parts:
            for batch in options.batches:
                more, found = training(vlm, asked[: options.pairs], TRAINED[options.shape], batch, team, accelerator)
                note({f"{name}_at_{batch}": value for name, value in more.items()}, found, f"training_at_{batch}")
        clock(team)


def sae_folders(saes: list[Sae], options: argparse.Namespace, team: Team) -> dict[int, Path]:
    """The SAE files, written by the first process that needs them."""
    if options.shape == "tiny":
        return locate_saes(WORLD / "saes")
    folder = Path(options.folder) / "saes" / "resid_post_all"
    missing = [sae for sae in team.share(saes) if not (folder / sae.id).is_dir()]
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda sae: save_sae(sae, folder / sae.id, "random"), missing))
    team.barrier()
    return {sae.layer: folder / sae.id for sae in saes}


def launched(count: int, options: argparse.Namespace, given: list[str]) -> bool:
    """Start `count` processes on the same files and wait; returns whether they succeeded in time."""
    script = [str(Path(__file__)), "--worker", str(count), "--folder", options.folder, *given]
    command = [sys.executable, *script]
    if count > 1:
        with socket.socket() as free:
            free.bind(("", 0))
            port = str(free.getsockname()[1])
        launch = ["--multi_gpu", "--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no"]
        # With the default of one thread each, copies in main memory take as long as the GPUs.
        threads = max(1, len(os.sched_getaffinity(0)) // count)
        launch += ["--num_cpu_threads_per_process", str(threads)]
        launch += ["--num_processes", str(count), "--main_process_port", port]
        command = [sys.executable, "-m", "accelerate.commands.launch", *launch, *script]
    running = subprocess.Popen(command, start_new_session=True)
    try:
        return running.wait(options.timeout) == 0
    except subprocess.TimeoutExpired:
        say(f"{count} processes: stopped after {options.timeout} s")
        return False
    finally:
        if running.poll() is None:
            os.killpg(running.pid, signal.SIGKILL)
            running.wait()


def speedups(one: dict[str, Any], other: dict[str, Any]) -> dict[str, float]:
    """The speed-up of another launch in everything that was timed."""
    timed = [name for name in one if name in other and name.split("_at_")[0].endswith("_s") and "per_s" not in name]
    return {name.replace("_s", "", 1): one[name] / other[name] for name in timed if isinstance(one[name], float)}


def differences(folder: Path, one: int, other: int) -> dict[str, float | bool]:
    """The largest differences between the results of two launches."""
    paths = [folder / f"of-{count}" for count in (one, other)]
    found: dict[str, float | bool] = {}
    a, b = (load_file(path.with_suffix(".safetensors")) for path in paths)
    for name in sorted(set(a) & set(b)):
        kind = name if name in ("margin", "strongest") else f"adapter_at_{name.split('.')[0]}"
        found[kind] = max(float(found.get(kind, 0.0)), float((a[name] - b[name]).abs().max()))
    if all(path.with_suffix(".parquet").exists() for path in paths):
        artifacts = [json.loads(path.with_suffix(".artifact.json").read_text()) for path in paths]
        for artifact in artifacts:
            # The time of the run and the number of GPUs.
            del artifact["provenance"]
        found["same_layers_json"] = artifacts[0] == artifacts[1]
        found["same_layers"] = artifacts[0]["layers"] == artifacts[1]["layers"]
        tables = [pd.read_parquet(path.with_suffix(".parquet")) for path in paths]
        both = tables[0].merge(tables[1], on=["layer", "feature"], suffixes=("_a", "_b"))
        found["same_features"] = len(both) == len(tables[0]) == len(tables[1])
        for name in ("flip_auc", "attribution", "held_out_auc", "net"):
            found[name] = float((both[f"{name}_a"] - both[f"{name}_b"]).abs().max())
    return found


def main() -> None:
    """Launch every number of processes, and print the numbers of each, then ratios and differences."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=SHAPES, default="tiny")
    parser.add_argument(
        "--processes",
        default="1,2",
        help="numbers of processes in the order of their launches; the fewest are what others are compared with",
    )
    parser.add_argument("--parts", nargs="+", default=["screening", "whole", "training"])
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--prompts-an-image", type=int, default=12)
    parser.add_argument("--mimic", action="store_true", help="as many images and questions as PSF-Med's MIMIC part")
    parser.add_argument("--split", action="store_true", help="one process has one model over all GPUs")
    parser.add_argument("--repeats", type=int, default=1, help="timed screenings, of which the fastest counts")
    parser.add_argument("--pairs", type=int, default=512, help="questions trained on, 3 epochs")
    parser.add_argument("--batches", type=int, nargs="+", default=[8, 64], help="questions of an optimizer step")
    parser.add_argument("--timeout", type=float, default=280, help="seconds for one launch")
    parser.add_argument("--touch", type=float, default=0, help="GiB of main memory to write first; see above")
    parser.add_argument("--folder", help="where files lie between launches, by default temporary")
    parser.add_argument("--worker", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker is not None:
        return worker(options)
    given, numbers = sys.argv[1:], [int(count) for count in options.processes.split(",")]
    if options.touch:
        started = time.perf_counter()
        torch.ones(int(options.touch * 2**28))
        say(f"{options.touch:g} GiB written in {time.perf_counter() - started:.1f} s")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(options.folder or temporary)
        options.folder = str(folder)
        counts = MIMIC if options.mimic else counts_of(options.images, options.prompts_an_image)
        made = questions(counts, folder / "images", PIXELS[options.shape])
        write_questions(made, folder / "questions.jsonl", folder)
        say(f"{counts.images} images written")
        rows = {}
        for count in numbers:
            ended = launched(count, options, given)
            path = folder / f"of-{count}.json"
            rows[count] = json.loads(path.read_text()) if path.exists() else {}
            rows[count] |= {"ended_well": ended}
            print(json.dumps(rows[count]), flush=True)
        one, *others = sorted(set(numbers))
        facts: dict[str, Any] = {"shape": options.shape, **counts._asdict()}
        facts |= {name: rows[one].get(name) for name in ("device", "dtype")}
        for count in others:
            facts |= {f"{name}_speedup_{count}": ratio for name, ratio in speedups(rows[one], rows[count]).items()}
            if all((folder / f"of-{n}.safetensors").exists() for n in (one, count)):
                told = differences(folder, one, count)
                facts |= {f"difference_{count}_{name}": value for name, value in told.items()}
        shown = pd.DataFrame([{k: v for k, v in row.items() if not isinstance(v, dict)} for row in rows.values()])
        report(facts, shown.set_index(pd.Index(rows, name="launch")).T)
    if not all(row["ended_well"] for row in rows.values()):
        sys.exit(1)


if __name__ == "__main__":
    main()
