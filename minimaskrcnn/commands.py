"""What each command of the command line does, in terms of the package's parts.

Every function takes the parsed options of its command (`cli.py`), prints a few lines for a person, and writes its
files under `--out`.
"""

import argparse
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from minimaskrcnn.data.coco import CocoDataset, open_coco, read_image
from minimaskrcnn.data.commands import describe_skipped, describe_unmasked, ready_to_train
from minimaskrcnn.data.toybox import ToyboxConfig, ensure_toybox
from minimaskrcnn.devices import choose_device, describe_device
from minimaskrcnn.distributed import need_shared, processes, rank, world_size
from minimaskrcnn.draw import draw_detections, plot_history
from minimaskrcnn.engine import ablation_run, results
from minimaskrcnn.engine.evaluate import Metrics, evaluate_dataset, format_metrics, to_results, write_json
from minimaskrcnn.engine.recipes import Preset, for_processes, from_scratch, with_batch_size
from minimaskrcnn.engine.train import TrainConfig, train_model
from minimaskrcnn.fine_tune import load_matching, starting_config
from minimaskrcnn.mask_rcnn import MaskRCNN
from minimaskrcnn.presets import PRESETS
from minimaskrcnn.views import ViewsConfig, detect_in_views
from minimaskrcnn.weights import CategoryName, load_any, read_any

DEMO_TRAIN = 3000
QUICK_TRAIN = 1000
"""The first of `DEMO_TRAIN`."""
DEMO_VAL = 100


def train(options: argparse.Namespace) -> None:
    """Train a preset on data in COCO's format and evaluate it; alone or as one of torchrun's processes."""
    if options.deterministic:
        # cuBLAS reads it when it is first used.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True)
    with processes(options.device) as options.device:
        _train(options)


def _train(options: argparse.Namespace) -> None:
    recipe = recipe_of(options.preset)
    if options.weights and not options.resume and options.weights.resolve().parent == options.out.resolve():
        raise ValueError(f"{options.weights}: a new run in {options.out} would replace it; name another --out")
    config = _training_config(recipe, options)
    device = choose_device(options.device)
    network = recipe.config(2)
    people, masks = network.keypoint_head is not None, network.mask_head is not None
    dataset, held_out = (ready_to_train(data, masks) for data in _training_data(options, people))
    for line in filter(None, (describe_skipped(dataset, options.strict), describe_unmasked(held_out))):
        _say(line)
    categories = categories_of(dataset)
    torch.manual_seed(config.seed)
    model_config = recipe.config(dataset.num_classes)
    given = None if options.weights is None else read_any(options.weights)
    if given is None:
        model_config = from_scratch(model_config)
    else:
        model_config = starting_config(model_config, options.preset, given)
    model = MaskRCNN(model_config)
    if given is not None:
        fresh = load_matching(model, given.state_dict)
        heads = sorted({".".join(name.split(".")[:2]) for name in fresh})
        # A run that goes on takes its weights from its checkpoint.
        if not (options.resume and (options.out / "last.safetensors").exists()):
            _say(f"Started from {options.weights}; start afresh: {', '.join(heads) or 'nothing'}.")
    model.to(device)
    _say(
        f"Training {options.preset} on {len(dataset)} pictures of {len(categories)} categories for {config.steps} "
        f"steps of {config.batch_size}, {config.optimizer}, learning rate {config.lr:g}, on {describe_device(device)}"
        + (f", {world_size()} processes." if world_size() > 1 else ".")
    )
    metrics = train_model(
        model,
        dataset,
        options.out,
        config,
        preset=options.preset,
        categories=categories,
        workers=options.workers,
        resume=options.resume,
        evaluation=lambda trained: evaluate_dataset(trained, held_out, workers=options.workers)[0],
    )
    if rank() == 0:
        finish_training(options.out, metrics)


def evaluate(options: argparse.Namespace) -> None:
    """COCO's numbers of a weights file on a data set, and its detections as COCO results; or of such results."""
    if (options.weights is None) == (options.results is None):
        raise ValueError("give --weights FILE, or --results FILE of detections made before")
    if options.results is not None:
        results.evaluate_file(options.results, options.out, options.annotations, options.data, options.split)
        return
    with processes(options.device) as options.device:
        _evaluate(options)


def _evaluate(options: argparse.Namespace) -> None:
    model, categories = load_any(options.weights)
    model.to(choose_device(options.device))
    dataset = _limited(_open(options, "val", model.keypoint_head is not None), options.limit)
    category_of = {c.label: c.category_id for c in categories if c.category_id in dataset.label_of}
    if not category_of:
        raise ValueError(f"{options.weights} and {dataset.annotation_file} have no category id in common")
    metrics, detections = evaluate_dataset(
        model,
        dataset,
        category_of=category_of,
        batch_size=options.batch_size,
        workers=options.workers,
        views=ViewsConfig() if options.views else None,
    )
    if rank():
        return
    if "segm" in metrics and dataset.unmasked():
        print(describe_unmasked(dataset))
    options.out.mkdir(parents=True, exist_ok=True)
    write_json(options.out / "metrics.json", metrics)
    write_json(options.out / "results.json", detections)
    print(format_metrics(metrics))
    print(f"Written: {options.out / 'metrics.json'}, {options.out / 'results.json'}")


def predict(options: argparse.Namespace) -> None:
    """Draw what a weights file finds in pictures, and write it as COCO results."""
    model, categories = load_any(options.weights)
    device = choose_device(options.device)
    model.to(device)
    category_of = {category.label: category.category_id for category in categories}
    targets = _drawing_paths(options.pictures, options.out)
    options.out.mkdir(parents=True, exist_ok=True)
    found: list[dict[str, Any]] = []
    for path, image_id, target in zip(options.pictures, _image_ids(options.pictures), targets):
        image = read_image(path)
        detection = detect(model, image, ViewsConfig() if options.views else None)
        size = (image.shape[-2], image.shape[-1])
        exact = model.mask_head is not None and model.mask_head.config.exact_paste
        rows = to_results(detection, image_id, size, category_of, exact_paste=exact)
        found += [{**row, "file_name": path.name} for row in rows]
        drawn = draw_detections(image, detection, names_of(categories), options.threshold)
        drawn.save(target)
        shown = int((detection["scores"] >= options.threshold).sum())
        print(f"{path}: {shown} objects from score {options.threshold:g} on, drawn in {target}")
    write_json(options.out / "results.json", found)
    print(f"All {len(found)} detections as COCO results: {options.out / 'results.json'}")


def ablate(options: argparse.Namespace) -> None:
    """One of the paper's tables in miniature: every row and seed, or what is left of them."""
    ablation_run.run(options.table, options.out, steps=options.steps, seeds=options.seeds, jobs=options.jobs)


def demo_scenes(root: Path, train_scenes: ToyboxConfig | None = None, *, quick: bool = False) -> Path:
    """The demo's scenes, the same for every seed of the training; `train_scenes` are another recipe's own."""
    return ensure_toybox(
        root, train_images=QUICK_TRAIN if quick else DEMO_TRAIN, val_images=DEMO_VAL, seed=0, config=ToyboxConfig(),
        train_config=train_scenes, workers=2,
    )  # fmt: skip


def recipe_of(name: str) -> Preset:
    if name not in PRESETS:
        raise ValueError(f"no preset {name!r}; there are {', '.join(PRESETS)}")
    return PRESETS[name]


def _training_config(recipe: Preset, options: argparse.Namespace) -> TrainConfig:
    config = for_processes(recipe, world_size())
    if options.optimizer and options.optimizer != config.optimizer and options.lr is None:
        raise ValueError(
            f"--optimizer {options.optimizer} needs --lr: this recipe's rate is for {config.optimizer}"
        )
    if options.batch_size:
        config = with_batch_size(config, options.batch_size)
    if config.batch_size % (world_size() * options.accumulate):
        raise ValueError(
            f"--batch-size {config.batch_size} cannot be shared by {world_size()} processes in {options.accumulate} "
            "parts each"
        )
    config = replace(config, accumulate=options.accumulate)
    names = ("steps", "lr", "optimizer", "schedule", "precision", "seed", "eval_every")
    given = {name: getattr(options, name) for name in names if getattr(options, name) is not None}
    config = replace(config, **given)
    # A short run warms up over a tenth of its steps at most.
    return replace(config, warmup_steps=min(config.warmup_steps, config.steps // 10))


def _training_data(options: argparse.Namespace, people: bool) -> tuple[CocoDataset, CocoDataset]:
    dataset = _limited(_open(options, "train", people), options.limit)
    if people:
        # A picture without joints teaches keypoints nothing; both reference systems leave it out.
        dataset = dataset.subset(dataset.with_keypoints())
        if not len(dataset):
            raise ValueError(f"{dataset.annotation_file}: no picture with a labelled keypoint")
    if options.data is None:
        if (options.val_images is None) != (options.val_annotations is None):
            raise ValueError("--val-images and --val-annotations go together")
        if options.val_images is None:
            return dataset, dataset
        return dataset, _open_files(options.val_images, options.val_annotations, people)
    held_out = _open_split(_root(options), options.val_split, "val", people)
    same = held_out.annotation_file == dataset.annotation_file
    return dataset, _limited(held_out, options.limit) if same else held_out


def _open(options: argparse.Namespace, kind: str, people: bool) -> CocoDataset:
    """The data that the options name; of `people` with keypoints for a model that has these."""
    if options.data is not None and (options.images is not None or options.annotations is not None):
        raise ValueError("give --data, or --images with --annotations, not both")
    if options.data is not None:
        return _open_split(_root(options), options.split, kind, people)
    if options.images is None or options.annotations is None:
        raise ValueError("give --data DIR, or --images DIR with --annotations FILE")
    return _open_files(options.images, options.annotations, people)


def _open_files(images: Path, annotations: Path, people: bool) -> CocoDataset:
    return CocoDataset(images, annotations, annotations if people else None)


def _root(options: argparse.Namespace) -> Path:
    if options.data != "toybox":
        return Path(options.data)
    preset = getattr(options, "preset", None)
    scenes = recipe_of(preset).toybox if preset else ToyboxConfig()
    usual = scenes == ToyboxConfig()
    root = options.out / ("toybox" if usual else f"toybox_{preset}")
    if rank() == 0:
        demo_scenes(root, None if usual else scenes)
    need_shared(root / "toybox.json")
    return root


def _open_split(root: Path, split: str | None, kind: str, people: bool) -> CocoDataset:
    """The split that was asked for, else COCO's own name for `kind`, else `kind` itself."""
    names = [split] if split else [f"{kind}2017", kind]
    existing = [name for name in names if (root / "annotations" / f"instances_{name}.json").is_file()]
    return open_coco(root, (existing or names)[0], people=people, keypoints=people)


def _limited(dataset: CocoDataset, limit: int | None) -> CocoDataset:
    return dataset if limit is None else dataset.first(limit)


def categories_of(dataset: CocoDataset) -> list[CategoryName]:
    return [CategoryName(dataset.label_of[c.id], c.id, c.name) for c in dataset.categories]


def names_of(categories: list[CategoryName]) -> dict[int, str]:
    return {category.label: category.name for category in categories}


@torch.no_grad()
def detect(model: MaskRCNN, image: torch.Tensor, views: ViewsConfig | None = None) -> Any:
    model.eval()
    image = image.to(next(model.parameters()).device)
    if views is not None:
        detection = detect_in_views(model, image, views, paste=False)
    else:
        (detection,) = model([image], paste=False)
    return {name: value.cpu() for name, value in detection.items()}


def _drawing_paths(pictures: list[Path], out: Path) -> list[Path]:
    """Where each picture's drawing goes; ValueError where it would replace another one or a given picture."""
    targets = [out / f"{path.stem}.png" for path in pictures]
    given = {path.resolve() for path in pictures}
    for path, target in zip(pictures, targets):
        if targets.count(target) > 1 or target.resolve() in given:
            raise ValueError(f"the drawing of {path} would replace another file: {target}")
    return targets


def _image_ids(paths: list[Path]) -> list[int]:
    """COCO's ids where every name is a number of its own, as COCO's are; else 1, 2, ..."""
    stems = [path.stem for path in paths]
    if all(stem.isdigit() for stem in stems) and len({int(stem) for stem in stems}) == len(stems):
        return [int(stem) for stem in stems]
    return list(range(1, len(paths) + 1))


def _say(text: str) -> None:
    """Print it, once."""
    if rank() == 0:
        print(text, flush=True)


def finish_training(out: Path, metrics: Metrics) -> None:
    write_json(out / "metrics.json", metrics)
    print(format_metrics(metrics))
    print(f"Weights: {out / 'last.safetensors'}   metrics: {out / 'metrics.json'}")
    try:
        plot_history(out / "metrics.jsonl", out / "curve.png")
    except ModuleNotFoundError as error:
        print(f"No curve: {error}")
    else:
        print(f"Curve: {out / 'curve.png'}")
