"""The command line: train, evaluate, predict, demo, ablate, data.

Its flags are those of a run (data, preset, weights, out, steps, ...), never a model's: a variant of a model is
made in Python with `dataclasses.replace`.  Whatever is wrong with the arguments or the files they name ends in
one line on standard error and exit code 2.
"""

import argparse
import io
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from minimaskrcnn import commands, demo
from minimaskrcnn.data import commands as data_commands
from minimaskrcnn.data.coco_archives import OFFICIAL, SPLITS
from minimaskrcnn.engine.ablations import TABLES


class Parser(argparse.ArgumentParser):
    """argparse, with errors of one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message} (see {self.prog} --help)\n")


def positive_int(text: str) -> int:
    value = int(text)
    if value < 1:
        raise ValueError
    return value


def count(text: str) -> int:
    value = int(text)
    if value < 0:
        raise ValueError
    return value


def positive_float(text: str) -> float:
    value = float(text)
    if not 0 < value < float("inf"):
        raise ValueError
    return value


def fraction(text: str) -> float:
    value = float(text)
    if not 0 <= value <= 1:
        raise ValueError
    return value


def seed(text: str) -> int:
    value = count(text)
    if value >= 2**32:
        raise ValueError
    return value


seed.__name__ = "whole number under 2**32"
positive_int.__name__, count.__name__ = "positive whole number", "whole number"
positive_float.__name__, fraction.__name__ = "positive number", "number from 0 to 1"


def build_parser() -> Parser:
    parser = Parser(prog="minimaskrcnn", description=__doc__.splitlines()[0])
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="COMMAND", parser_class=Parser)
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


def _add_data(parser: Parser, toybox: bool) -> None:
    layout = "folder in COCO's layout" + (", or 'toybox' for generated scenes" if toybox else "")
    parser.add_argument("--data", metavar="DIR", help=layout)
    parser.add_argument("--images", type=Path, help="or: any folder of pictures ...")
    parser.add_argument("--annotations", type=Path, help="... and a JSON file in COCO's format")
    parser.add_argument("--workers", type=count, default=0, help="processes that read pictures (default 0)")


def _add_demo(parser: Parser) -> None:
    parser.description = (
        "Train on generated scenes from scratch, evaluate, draw. Interrupted and started again it goes on where it "
        "was; finished and started again it evaluates and draws again. To train anew, delete OUT/last.safetensors."
    )
    parser.add_argument(
        "--out", type=Path, help="folder of the results (default: runs/demo, or runs/demo-quick)"
    )
    parser.add_argument(
        "--quick", action="store_true", help="a quarter of the work, for a coarser model of its own"
    )
    parser.add_argument("--steps", type=positive_int, help="of training (default: the recipe's)")
    parser.add_argument("--seed", type=seed, default=0)
    parser.set_defaults(run=_run_demo)


def _run_demo(options: argparse.Namespace) -> None:
    out = options.out or Path("runs/demo-quick" if options.quick else "runs/demo")
    demo.run(out, quick=options.quick, steps=options.steps, seed=options.seed)


def _add_train(parser: Parser) -> None:
    _add_data(parser, toybox=True)
    _add_run(parser, "folder of the run: checkpoints, metrics.jsonl, metrics.json, curve.png")
    parser.add_argument("--split", help="training split of --data (default train2017 or train)")
    parser.add_argument("--val-split", help="evaluated split of --data (default val2017 or val)")
    parser.add_argument("--val-images", type=Path, help="evaluate on this folder ...")
    parser.add_argument("--val-annotations", type=Path, help="... and JSON (default with --images: the same)")
    parser.add_argument("--preset", default="maskrcnn_resnet50_fpn", help="the network and its recipe")
    parser.add_argument(
        "--weights",
        type=Path,
        help="start from .safetensors of ours, .pth of torchvision's, .pkl of detectron2's",
    )
    parser.add_argument("--resume", action="store_true", help="go on from OUT/last.safetensors")
    parser.add_argument("--steps", type=positive_int)
    parser.add_argument(
        "--batch-size", type=positive_int, help="rescales learning rate and steps unless given"
    )
    parser.add_argument(
        "--accumulate", type=positive_int, default=1, help="parts of each process's share of a batch"
    )
    parser.add_argument("--lr", type=positive_float)
    parser.add_argument("--optimizer", choices=["sgd", "adamw", "muon"])
    parser.add_argument("--schedule", choices=["step", "cosine"])
    parser.add_argument("--precision", choices=["float32", "bfloat16"])
    parser.add_argument(
        "--deterministic", action="store_true", help="the same bits each time on a GPU too (slower there)"
    )
    parser.add_argument("--seed", type=seed, default=0)
    parser.add_argument("--eval-every", type=count, help="steps; 0 evaluates only at the end")
    parser.add_argument("--strict", action="store_true", help="stop where objects would be skipped")
    parser.add_argument("--limit", type=positive_int, help="train on the first so many pictures only")
    parser.set_defaults(run=commands.train)


def _add_evaluate(parser: Parser) -> None:
    _add_data(parser, toybox=False)
    _add_run(parser, "folder for metrics.json and results.json")
    parser.add_argument("--split", help="split of --data (default val2017 or val)")
    parser.add_argument(
        "--weights",
        type=Path,
        help=".safetensors of ours, .pth of torchvision's, .pkl of detectron2's",
    )
    parser.add_argument("--results", type=Path, help="or: detections as COCO results, without a model")
    parser.add_argument("--batch-size", type=positive_int, default=4)
    parser.add_argument("--limit", type=positive_int, help="the first so many pictures only")
    parser.add_argument(
        "--views", action="store_true", help="test-time augmentation: nine sizes, each mirrored too"
    )
    parser.set_defaults(run=commands.evaluate)


def _add_predict(parser: Parser) -> None:
    parser.add_argument("pictures", type=Path, nargs="+", metavar="IMAGE")
    parser.add_argument(
        "--weights",
        type=Path,
        required=True,
        help=".safetensors of ours, .pth of torchvision's, .pkl of detectron2's",
    )
    _add_run(parser, "folder for the drawn pictures and results.json")
    parser.add_argument(
        "--threshold", type=fraction, default=0.5, help="lowest score that is drawn (default 0.5)"
    )
    parser.add_argument(
        "--views", action="store_true", help="test-time augmentation: nine sizes, each mirrored too"
    )
    parser.set_defaults(run=commands.predict)


def _add_ablate(parser: Parser) -> None:
    parser.add_argument("table", choices=list(TABLES), help="of the paper; 'agnostic' is in section 4.2")
    parser.add_argument("--steps", type=positive_int, help="of each run (default: the table's)")
    parser.add_argument("--seeds", type=positive_int, default=2, help="runs of each row (default 2)")
    parser.add_argument("--jobs", type=positive_int, default=1, help="processes at a time (default 1)")
    parser.add_argument(
        "--out", type=Path, default=Path("runs/ablate"), help="unfinished runs in it go on where they stopped"
    )
    parser.set_defaults(run=commands.ablate)


def _add_toybox(parser: Parser) -> None:
    parser.add_argument("--out", type=Path, required=True, help="folder, in COCO's layout")
    parser.add_argument("--train", type=positive_int, default=1200, help="scenes in split 'train'")
    parser.add_argument("--val", type=positive_int, default=100, help="scenes in split 'val'")
    parser.add_argument("--seed", type=seed, default=0)
    parser.set_defaults(run=data_commands.make_toybox)


def _add_coco(parser: Parser) -> None:
    parser.add_argument("--root", type=Path, required=True, help="folder, for --data of train and evaluate")
    parser.add_argument("--split", choices=SPLITS, nargs="+", required=True, help="one or both")
    parser.add_argument(
        "--archives", type=Path, metavar="DIR", help="unpack the zip files in DIR; no network"
    )
    parser.add_argument(
        "--base-url",
        default=os.environ.get("MINIMASKRCNN_COCO_URL", OFFICIAL),
        metavar="URL",
        help="a mirror (default: $MINIMASKRCNN_COCO_URL, else COCO's own server)",
    )
    parser.set_defaults(run=data_commands.get_coco)


def _add_check(parser: Parser) -> None:
    parser.add_argument("directory", type=Path, nargs="?", metavar="DIR", help="folder in COCO's layout")
    parser.add_argument("--split", help="one split of DIR (default: every one that has an annotation file)")
    parser.add_argument("--images", type=Path, help="or: any folder of pictures ...")
    parser.add_argument("--annotations", type=Path, help="... and a JSON file in COCO's format")
    parser.add_argument(
        "--no-pictures",
        dest="pictures",
        action="store_false",
        help="the annotations only: seconds, not minutes",
    )
    parser.set_defaults(run=data_commands.check)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    options = build_parser().parse_args(arguments)
    if isinstance(sys.stdout, io.TextIOWrapper):  # file names may hold what a terminal's encoding lacks
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        code = options.run(options)
        sys.stdout.flush()
    except BrokenPipeError:  # nobody reads on, as with `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python's last flush complains
        return 1
    except (ValueError, OSError, ModuleNotFoundError) as error:
        print(f"minimaskrcnn {options.verb}: {data_commands.one_line(str(error))}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"minimaskrcnn {options.verb}: interrupted", file=sys.stderr)
        return 130
    return code or 0
