"""`bench/model.py`: the stages are the model's own, their times add up, and torchvision's model stands beside."""

import model as bench
import pytest
import torch
from models import random_image, random_target, tiny_c4, tiny_config, with_keypoints
from parity import torchvision

from minimaskrcnn import commands
from minimaskrcnn.mask_rcnn import MaskRCNN
from minimaskrcnn.presets import PRESETS

CPU = torch.device("cpu")
CONFIGS = {
    "masks": tiny_config(),
    "both": with_keypoints(tiny_config()),
    "c4": tiny_c4(tiny_config()),
}


@pytest.fixture(params=CONFIGS)
def model(request) -> MaskRCNN:
    torch.manual_seed(0)
    return MaskRCNN(CONFIGS[request.param])


def test_the_stages_together_are_the_models_inference(model):
    images, watch = [random_image(40, 60), random_image(64, 50, 1)], bench.Watch(CPU)
    with torch.no_grad():
        expected = model.eval()(images)
    for found, one in zip(bench.inference(model, images, watch), expected):
        assert found.keys() == one.keys() and all(torch.equal(found[key], one[key]) for key in one)
    stages = [name for name, _ in watch.rows]
    assert len(set(stages)) == len(stages) and all(value >= 0 for _, value in watch.rows)
    assert ("keypoint head" in stages) == (model.keypoint_head is not None)


def test_the_stages_together_are_the_models_training_step(model):
    images, watch = [random_image(40, 60), random_image(64, 50, 1)], bench.Watch(CPU)
    targets = [random_target(40, 60, 3), random_target(64, 50, 2, 1)]
    torch.manual_seed(1)
    losses = model.train()(images, targets)
    sum(losses.values()).backward()
    expected = {name: p.grad.clone() for name, p in model.named_parameters()}
    torch.manual_seed(1)
    total = bench.training_step(model, images, targets, watch)
    assert total.item() == pytest.approx(sum(losses.values()).item())
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, expected[name])
    assert watch.rows[-1][0] == "backward"


@pytest.mark.parametrize("name", bench.PEERS)
def test_the_peers_have_our_layers(name):
    torchvision()
    config = PRESETS[name].config(5)
    with torch.device("meta"):
        peer, ours = bench.make_peer(name, config, (64, 64)), MaskRCNN(config)
    for trained in (False, True):
        counts = [
            sum(p.numel() for p in model.parameters() if p.requires_grad or not trained)
            for model in (peer, ours)
        ]
        assert counts[0] == counts[1]


def test_the_command_prints_both_tables(monkeypatch, capsys):
    monkeypatch.setitem(commands.PRESETS, "tiny", PRESETS["maskrcnn_toy"]._replace(config=tiny_config))
    arguments = ["--preset", "tiny", "--height", "48", "--width", "64", "--repeats", "1", "--device", "cpu"]
    bench.main(arguments)
    out = capsys.readouterr().out
    assert "tiny, 1 picture of 48 × 64, cpu" in out and out.count("no model of these layers") == 2
    tables = [block for block in out.split("\n\n") if block.startswith("|")]
    assert [table.split("|")[1].strip() for table in tables] == ["inference", "training step"]
    for table in tables:
        rows = [
            [cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines()[2:] if "|" in line
        ]
        times = {name: float(value) for name, value, _ in rows}
        assert times["all"] == pytest.approx(sum(times.values()) - times["all"], abs=0.1 * len(rows))


def test_an_unknown_preset_is_named(capsys):
    with pytest.raises(SystemExit) as exit_:
        bench.main(["--preset", "resnet"])
    assert exit_.value.code == 2
    assert "no preset 'resnet'" in capsys.readouterr().err
