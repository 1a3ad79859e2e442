"""What `train`, `evaluate` and `predict` do, in terms of the package's parts.

Every function prints a few lines for a person, and writes its files into the folder `out`.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from minimaskrcnn.data.coco import CocoDataset, read_image
from minimaskrcnn.data.commands import DataChoice, describe_skipped, ready_to_train, unmasked_line
from minimaskrcnn.data.toybox import ToyboxConfig, ensure_toybox
from minimaskrcnn.devices import describe_device
from minimaskrcnn.distributed import need_shared, rank, world_size
from minimaskrcnn.draw import draw_detections, plot_history
from minimaskrcnn.engine.evaluate import Metrics, evaluate_dataset, format_metrics, to_results
from minimaskrcnn.engine.progress import say
from minimaskrcnn.engine.recipes import Preset, from_scratch
from minimaskrcnn.engine.train import TrainConfig, train_model
from minimaskrcnn.files import write_json
from minimaskrcnn.fine_tune import load_matching, starting_config
from minimaskrcnn.mask_rcnn import MaskRCNN
from minimaskrcnn.postprocess import Detection
from minimaskrcnn.presets import PRESETS
from minimaskrcnn.views import ViewsConfig, detect_in_views
from minimaskrcnn.weights import CategoryName, load_any, read_any

DEMO_TRAIN = 3000
QUICK_TRAIN = 1000
"""The first of `DEMO_TRAIN`."""
DEMO_VAL = 100


@dataclass(frozen=True, kw_only=True)
class Run:
    """One training: of which preset, from which weights, in which folder and on which device."""

    preset: str
    weights: Path | None
    out: Path
    resume: bool
    device: torch.device
    workers: int
    """Processes that read pictures."""
    strict: bool
    """ValueError where objects would be skipped."""


@dataclass(frozen=True, kw_only=True)
class Detector:
    """Trained weights at work: on which device, seen how, and where what they find is written."""

    weights: Path
    out: Path
    device: torch.device
    views: ViewsConfig | None


def train(run: Run, data: DataChoice, held_out: DataChoice | None, config: TrainConfig) -> None:
    """Train a preset and evaluate it on `held_out` (None: on `data`); alone or as one of torchrun's processes."""
    if run.weights and not run.resume and run.weights.resolve().parent == run.out.resolve():
        raise ValueError(f"{run.weights}: a new run in {run.out} would replace it; name another --out")
    dataset, evaluated = _training_data(run, data, held_out)
    unmasked = unmasked_line(evaluated.annotation_file, evaluated.unmasked())
    for line in filter(None, (describe_skipped(dataset, run.strict), unmasked)):
        say(line)
    torch.manual_seed(config.seed)
    model = _starting_model(run, dataset.num_classes).to(run.device)
    say(
        f"Training {run.preset} on {len(dataset)} pictures of {len(dataset.categories)} categories for "
        f"{config.steps} steps of {config.batch_size}, {config.optimizer}, learning rate {config.lr:g}, "
        f"on {describe_device(run.device)}" + (f", {world_size()} processes." if world_size() > 1 else ".")
    )
    metrics = train_model(
        model,
        dataset,
        run.out,
        config,
        preset=run.preset,
        workers=run.workers,
        resume=run.resume,
        evaluation=lambda trained: evaluate_dataset(trained, evaluated, workers=run.workers)[0],
    )
    if rank() == 0:
        finish_training(run.out, metrics)


def _starting_model(run: Run, num_classes: int) -> MaskRCNN:
    """The preset's network with random weights, or with what fits of the given ones."""
    config = recipe_of(run.preset).config(num_classes)
    if run.weights is None:
        return MaskRCNN(from_scratch(config))
    given = read_any(run.weights)
    model = MaskRCNN(starting_config(config, run.preset, given))
    fresh = load_matching(model, given.state_dict)
    heads = sorted({".".join(name.split(".")[:2]) for name in fresh})
    # A run that goes on takes its weights from its checkpoint.
    if not (run.resume and (run.out / "last.safetensors").exists()):
        say(f"Started from {run.weights}; start afresh: {', '.join(heads) or 'nothing'}.")
    return model


def evaluate(detector: Detector, data: DataChoice, batch_size: int, workers: int) -> None:
    """COCO's numbers on a data set, and the detections as COCO results; alone or as one of torchrun's processes."""
    model, categories = load_any(detector.weights)
    model.to(detector.device)
    dataset = _with_scenes(data, detector.out).open("val", model.keypoint_head is not None)
    category_of = {c.label: c.category_id for c in categories if c.category_id in dataset.label_of}
    if not category_of:
        raise ValueError(f"{detector.weights} and {dataset.annotation_file} have no category id in common")
    metrics, found = evaluate_dataset(
        model, dataset, category_of=category_of, batch_size=batch_size, workers=workers, views=detector.views
    )
    if rank():
        return
    if "segm" in metrics and dataset.unmasked():
        print(unmasked_line(dataset.annotation_file, dataset.unmasked()))
    write_json(detector.out / "metrics.json", metrics)
    write_json(detector.out / "results.json", found, indent=None)
    print(format_metrics(metrics))
    print(f"Written: {detector.out / 'metrics.json'}, {detector.out / 'results.json'}")


def predict(detector: Detector, pictures: list[Path], threshold: float) -> None:
    """Draw what is found in pictures from score `threshold` on, and write all that is found as COCO results."""
    model, categories = load_any(detector.weights)
    model.to(detector.device)
    category_of = {category.label: category.category_id for category in categories}
    exact = model.mask_head is not None and model.mask_head.config.exact_paste
    targets = _drawing_paths(pictures, detector.out)
    detector.out.mkdir(parents=True, exist_ok=True)
    found: list[dict[str, Any]] = []
    for path, image_id, target in zip(pictures, _image_ids(pictures), targets):
        image = read_image(path)
        detection = detect_in_picture(model, image, detector.views)
        size = (image.shape[-2], image.shape[-1])
        rows = to_results(detection, image_id, size, category_of, exact_paste=exact)
        found += [{**row, "file_name": path.name} for row in rows]
        draw_detections(image, detection, names_of(categories), threshold).save(target)
        shown = int((detection["scores"] >= threshold).sum())
        print(f"{path}: {shown} objects from score {threshold:g} on, drawn in {target}")
    write_json(detector.out / "results.json", found, indent=None)
    print(f"All {len(found)} detections as COCO results: {detector.out / 'results.json'}")


def demo_scenes(root: Path, train_scenes: ToyboxConfig | None = None, *, quick: bool = False) -> Path:
    """The demo's scenes, the same for every seed of the training; `train_scenes` are another recipe's own."""
    return ensure_toybox(
        root, train_images=QUICK_TRAIN if quick else DEMO_TRAIN, val_images=DEMO_VAL, seed=0, config=ToyboxConfig(),
        train_config=train_scenes, workers=2,
    )  # fmt: skip


def recipe_of(name: str) -> Preset:
    """The preset of this name; ValueError, which lists them, where there is none."""
    if name not in PRESETS:
        raise ValueError(f"no preset {name!r}; there are {', '.join(PRESETS)}")
    return PRESETS[name]


def _training_data(
    run: Run, data: DataChoice, held_out: DataChoice | None
) -> tuple[CocoDataset, CocoDataset]:
    """What to train and what to evaluate on, ready for the preset's network."""
    network = recipe_of(run.preset).config(2)
    people = network.keypoint_head is not None
    masks = network.mask_head is not None
    dataset = _with_scenes(data, run.out, run.preset).open("train", people)
    if people:
        # A picture without joints teaches keypoints nothing; both reference systems leave it out.
        dataset = dataset.subset(dataset.with_keypoints())
        if not len(dataset):
            raise ValueError(f"{dataset.annotation_file}: no picture with a labelled keypoint")
    if held_out is None:
        evaluated = dataset
    else:
        evaluated = _with_scenes(held_out, run.out, run.preset).open("val", people)
        same = held_out.folder is not None and evaluated.annotation_file == dataset.annotation_file
        if same and data.limit is not None:
            evaluated = evaluated.first(data.limit)
    return ready_to_train(dataset, masks), ready_to_train(evaluated, masks)


def _with_scenes(data: DataChoice, out: Path, preset: str | None = None) -> DataChoice:
    """The choice itself; where it is 'toybox', a folder below `out` with the preset's scenes, which are written."""
    if data.folder != "toybox":
        return data
    scenes = recipe_of(preset).toybox if preset else ToyboxConfig()
    usual = scenes == ToyboxConfig()
    root = out / ("toybox" if usual else f"toybox_{preset}")
    if rank() == 0:
        demo_scenes(root, None if usual else scenes)
    need_shared(root / "toybox.json")
    return replace(data, folder=str(root))


def names_of(categories: list[CategoryName]) -> dict[int, str]:
    """The name of each label."""
    return {category.label: category.name for category in categories}


@torch.no_grad()
def detect_in_picture(model: MaskRCNN, image: torch.Tensor, views: ViewsConfig | None = None) -> Detection:
    """What a model finds in one picture `[3, h, w]`, in one view or several, on the CPU; masks are not pasted."""
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


def finish_training(out: Path, metrics: Metrics) -> None:
    """Write `metrics.json` and, with matplotlib, `curve.png`; print the metrics and where everything is."""
    write_json(out / "metrics.json", metrics)
    print(format_metrics(metrics))
    print(f"Weights: {out / 'last.safetensors'}   metrics: {out / 'metrics.json'}")
    try:
        plot_history(out / "metrics.jsonl", out / "curve.png")
    except ImportError as error:  # also of a matplotlib that is there and broken: the training must not end so
        print(f"No curve: {error}")
    else:
        print(f"Curve: {out / 'curve.png'}")
