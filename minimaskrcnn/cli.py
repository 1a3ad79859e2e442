"""The command line: train, evaluate, predict, demo, ablate, data.

Its flags are those of a run (data, preset, weights, out, steps, ...), never a model's: a variant of a model is
made in Python with `dataclasses.replace`.  Whatever is wrong with the arguments or the files they name ends in
one line on standard error and exit code 2.  The parsed options end here: `run_command` and what it calls
make values of a command's own types of them.
"""

import argparse
import io
import math
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import torch

from minimaskrcnn import commands, demo
from minimaskrcnn.commands import Detector, Run
from minimaskrcnn.data import commands as data_commands
from minimaskrcnn.data.coco_archives import OFFICIAL, SPLITS
from minimaskrcnn.data.commands import DataChoice
from minimaskrcnn.devices import choose_device
from minimaskrcnn.distributed import processes, world_size
from minimaskrcnn.engine import ablation_run
from minimaskrcnn.engine.ablations import TABLES
from minimaskrcnn.engine.recipes import Preset, for_processes, with_batch_size
from minimaskrcnn.engine.results import evaluate_file
from minimaskrcnn.engine.settings import TrainConfig
from minimaskrcnn.views import ViewsConfig


class Parser(argparse.ArgumentParser):
    """argparse, with errors of one line."""

    def error(self, message: str) -> NoReturn:
        """Exit with code 2."""
        self.exit(2, f"{self.prog}: {message} (see {self.prog} --help)\n")


def _number(kind: type, words: str, least: float, most: float) -> Callable[[str], Any]:
    """What argparse takes for the type of numbers from `least` to `most`; `words` say so in an error."""

    def parse(text: str) -> Any:
        value = kind(text)
        if not least <= value <= most:
            raise ValueError
        return value

    parse.__name__ = words
    return parse


positive_int = _number(int, "positive whole number", 1, math.inf)
count = _number(int, "whole number", 0, math.inf)
seed = _number(int, "whole number under 2**32", 0, 2**32 - 1)
positive_float = _number(float, "positive number", math.ulp(0), sys.float_info.max)
fraction = _number(float, "number from 0 to 1", 0, 1)


def build_parser() -> Parser:
    """All commands with their flags."""
    parser = Parser(prog="minimaskrcnn", description=__doc__.splitlines()[0])
    verbs = parser.add_subparsers(dest="command", required=True, metavar="COMMAND", parser_class=Parser)
    _add_demo(verbs.add_parser("demo", help="train on generated scenes from scratch, evaluate, draw"))
    _add_train(verbs.add_parser("train", help="train on data in COCO's format"))
    _add_evaluate(verbs.add_parser("evaluate", help="COCO's 12 numbers for a weights file"))
    _add_predict(verbs.add_parser("predict", help="find objects in pictures"))
    _add_ablate(verbs.add_parser("ablate", help="a table of the paper in miniature, on generated scenes"))
    data = verbs.add_parser("data", help="make, fetch or check data")
    kinds = data.add_subparsers(dest="kind", required=True, metavar="KIND", parser_class=Parser)
    _add_toybox(kinds.add_parser("toybox", help="generated scenes, written in COCO's format"))
    _add_coco(kinds.add_parser("coco", help="COCO 2017: fetch its archives, check and unpack them"))
    _add_check(kinds.add_parser("check", help="everything that is wrong with data in COCO's format"))
    return parser


def _add_run(parser: Parser, out: str) -> None:
    parser.add_argument("--out", type=Path, required=True, help=out)
    parser.add_argument("--device", help="cpu, cuda, cuda:1, ... (default: cuda where there is one)")


def _add_data(parser: Parser, layout: str, split: str) -> None:
    parser.add_argument("--data", metavar="DIR", help=layout)
    _add_files(parser, split)
    parser.add_argument("--limit", type=positive_int, help="the first so many pictures only")
    parser.add_argument("--workers", type=count, default=0, help="processes that read pictures (default 0)")


def _add_files(parser: Parser, split: str) -> None:
    parser.add_argument("--split", help=split)
    parser.add_argument("--images", type=Path, help="or: any folder of pictures ...")
    parser.add_argument("--annotations", type=Path, help="... and a JSON file in COCO's format")


def _add_weights(parser: Parser, what: str, required: bool = False) -> None:
    theirs = ".safetensors of ours, .pth of torchvision's, .pkl of detectron2's"
    parser.add_argument("--weights", type=Path, required=required, help=what + theirs)


def _add_demo(parser: Parser) -> None:
    parser.description = (
        "Train on generated scenes from scratch, evaluate, draw. Interrupted and started again it goes on where it "
        "was; finished and started again it evaluates and draws again. To train anew, delete OUT/last.safetensors."
    )
    parser.add_argument("--out", type=Path, help="folder of the results (default: runs/demo, or runs/demo-quick)")
    parser.add_argument("--quick", action="store_true", help="a quarter of the work, for a coarser model of its own")
    parser.add_argument("--steps", type=positive_int, help="of training (default: the recipe's)")
    parser.add_argument("--seed", type=seed, default=0)


def _add_train(parser: Parser) -> None:
    layout = "folder in COCO's layout, or 'toybox' for generated scenes"
    _add_data(parser, layout, "training split of --data (default train2017 or train)")
    _add_run(parser, "folder of the run: checkpoints, metrics.jsonl, metrics.json, curve.png")
    _add_weights(parser, "start from ")
    parser.add_argument("--val-split", help="evaluated split of --data (default val2017 or val)")
    parser.add_argument("--val-images", type=Path, help="evaluate on this folder ...")
    parser.add_argument("--val-annotations", type=Path, help="... and JSON (default with --images: the same)")
    parser.add_argument("--preset", default="maskrcnn_resnet50_fpn", help="the network and its recipe")
    parser.add_argument("--resume", action="store_true", help="go on from OUT/last.safetensors")
    parser.add_argument("--steps", type=positive_int)
    parser.add_argument("--batch-size", type=positive_int, help="rescales learning rate and steps unless given")
    parser.add_argument("--accumulate", type=positive_int, default=1, help="parts of each process's share of a batch")
    parser.add_argument("--lr", type=positive_float)
    parser.add_argument("--optimizer", choices=["sgd", "adamw", "muon"])
    parser.add_argument("--schedule", choices=["step", "cosine"])
    parser.add_argument("--precision", choices=["float32", "bfloat16"])
    same_bits = "the same bits each time on a GPU too (slower there)"
    parser.add_argument("--deterministic", action="store_true", help=same_bits)
    parser.add_argument("--seed", type=seed, default=0)
    parser.add_argument("--eval-every", type=count, help="steps; 0 evaluates only at the end")
    parser.add_argument("--strict", action="store_true", help="stop where objects would be skipped")


def _add_evaluate(parser: Parser) -> None:
    _add_data(parser, "folder in COCO's layout", "split of --data (default val2017 or val)")
    _add_run(parser, "folder for metrics.json and results.json")
    _add_weights(parser, "")
    parser.add_argument("--views", action="store_true", help="test-time augmentation: nine sizes, each mirrored too")
    parser.add_argument("--results", type=Path, help="or: detections as COCO results, without a model")
    parser.add_argument("--batch-size", type=positive_int, default=4)


def _add_predict(parser: Parser) -> None:
    parser.add_argument("pictures", type=Path, nargs="+", metavar="IMAGE")
    _add_run(parser, "folder for the drawn pictures and results.json")
    _add_weights(parser, "", required=True)
    parser.add_argument("--views", action="store_true", help="test-time augmentation: nine sizes, each mirrored too")
    parser.add_argument("--threshold", type=fraction, default=0.5, help="lowest score that is drawn (default 0.5)")


def _add_ablate(parser: Parser) -> None:
    parser.add_argument("table", choices=list(TABLES), help="of the paper; 'agnostic' is in section 4.2")
    parser.add_argument("--steps", type=positive_int, help="of each run (default: the table's)")
    parser.add_argument("--seeds", type=positive_int, default=2, help="runs of each row (default 2)")
    parser.add_argument("--jobs", type=positive_int, default=1, help="processes at a time (default 1)")
    unfinished = "unfinished runs in it go on where they stopped"
    parser.add_argument("--out", type=Path, default=Path("runs/ablate"), help=unfinished)


def _add_toybox(parser: Parser) -> None:
    parser.add_argument("--out", type=Path, required=True, help="folder, in COCO's layout")
    parser.add_argument("--train", type=positive_int, default=1200, help="scenes in split 'train'")
    parser.add_argument("--val", type=positive_int, default=100, help="scenes in split 'val'")
    parser.add_argument("--seed", type=seed, default=0)


def _add_coco(parser: Parser) -> None:
    parser.add_argument("--root", type=Path, required=True, help="folder, for --data of train and evaluate")
    parser.add_argument("--split", choices=SPLITS, nargs="+", required=True, help="one or both")
    parser.add_argument("--archives", type=Path, metavar="DIR", help="unpack the zip files in DIR; no network")
    mirror = os.environ.get("MINIMASKRCNN_COCO_URL", OFFICIAL)
    help_on_mirror = "a mirror (default: $MINIMASKRCNN_COCO_URL, else COCO's own server)"
    parser.add_argument("--base-url", default=mirror, metavar="URL", help=help_on_mirror)


def _add_check(parser: Parser) -> None:
    parser.add_argument("data", nargs="?", metavar="DIR", help="folder in COCO's layout")
    _add_files(parser, "one split of DIR (default: every one that has an annotation file)")
    parser.set_defaults(limit=None)
    parser.add_argument("--no-pictures", action="store_true", help="the annotations only: seconds, not minutes")


def run_command(options: argparse.Namespace) -> int | None:
    """Run the command that was parsed, with values of its own types; returns the exit code, None for 0."""
    match options.command, getattr(options, "kind", None):
        case "demo", _:
            out = options.out or Path("runs/demo-quick" if options.quick else "runs/demo")
            demo.run_demo(out, quick=options.quick, steps=options.steps, seed=options.seed)
        case "train", _:
            _train(options)
        case "evaluate", _:
            _evaluate(options)
        case "predict", _:
            commands.predict(_detector(options, options.device), options.pictures, options.threshold)
        case "ablate", _:
            ablation_run.run(options.table, options.out, steps=options.steps, seeds=options.seeds, jobs=options.jobs)
        case "data", "toybox":
            data_commands.make_toybox(options.out, train=options.train, val=options.val, seed=options.seed)
        case "data", "coco":
            data_commands.get_coco(options.root, options.split, base_url=options.base_url, archives=options.archives)
        case "data", "check":
            return data_commands.check(_data(options), pictures=not options.no_pictures)
    return None


def _train(options: argparse.Namespace) -> None:
    if options.deterministic:
        # cuBLAS reads it when it is first used.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True)
    with processes(options.device) as device:
        config = _training_config(options, commands.recipe_of(options.preset))
        run = Run(
            preset=options.preset, weights=options.weights, out=options.out, resume=options.resume,
            device=choose_device(device), workers=options.workers, strict=options.strict,
        )  # fmt: skip
        commands.train(run, _data(options), _held_out(options), config)


def _training_config(options: argparse.Namespace, recipe: Preset) -> TrainConfig:
    """The recipe's settings with those that were given, for as many processes as there are."""
    config = for_processes(recipe, world_size())
    if options.optimizer not in (None, config.optimizer) and options.lr is None:
        raise ValueError(f"--optimizer {options.optimizer} needs --lr: this recipe's rate is for {config.optimizer}")
    if options.batch_size:
        config = with_batch_size(config, options.batch_size)
    if config.batch_size % (world_size() * options.accumulate):
        raise ValueError(
            f"--batch-size {config.batch_size} cannot be shared by {world_size()} processes in {options.accumulate} "
            "parts each"
        )
    names = ("steps", "accumulate", "lr", "optimizer", "schedule", "precision", "seed", "eval_every")
    given = {name: getattr(options, name) for name in names if getattr(options, name) is not None}
    config = replace(config, **given)
    # A short run warms up over a tenth of its steps at most.
    return replace(config, warmup_steps=min(config.warmup_steps, config.steps // 10))


def _evaluate(options: argparse.Namespace) -> None:
    if (options.weights is None) == (options.results is None):
        raise ValueError("give --weights FILE, or --results FILE of detections made before")
    if options.results is not None:
        evaluate_file(options.results, options.out, options.annotations, options.data, options.split)
        return
    with processes(options.device) as device:
        commands.evaluate(_detector(options, device), _data(options), options.batch_size, options.workers)


def _detector(options: argparse.Namespace, device: str | None) -> Detector:
    views = ViewsConfig() if options.views else None
    return Detector(weights=options.weights, out=options.out, device=choose_device(device), views=views)


def _data(options: argparse.Namespace) -> DataChoice:
    return DataChoice(
        folder=options.data, split=options.split, images=options.images, annotations=options.annotations,
        limit=options.limit,
    )  # fmt: skip


def _held_out(options: argparse.Namespace) -> DataChoice | None:
    """What to evaluate on; None for the data that are trained on."""
    if options.data is not None:
        return DataChoice(folder=options.data, split=options.val_split)
    if (options.val_images is None) != (options.val_annotations is None):
        raise ValueError("--val-images and --val-annotations go together")
    if options.val_images is None:
        return None
    return DataChoice(images=options.val_images, annotations=options.val_annotations)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    options = build_parser().parse_args(arguments)
    if isinstance(sys.stdout, io.TextIOWrapper):  # file names may hold what a terminal's encoding lacks
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        code = run_command(options)
        sys.stdout.flush()
    except BrokenPipeError:  # nobody reads on, as with `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python's last flush complains
        return 1
    except (ValueError, OSError, ModuleNotFoundError) as error:
        print(f"minimaskrcnn {options.command}: {data_commands.one_line(str(error))}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"minimaskrcnn {options.command}: interrupted", file=sys.stderr)
        return 130
    return code or 0
