"""Training: the loop, its scores, its files, and what it says to bad input."""

import errno
import math
import os
import random
import shutil
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn, optim
from torch.optim.lr_scheduler import CosineAnnealingLR, ReduceLROnPlateau
from torch.optim.swa_utils import AveragedModel
from torch.utils.data import DataLoader, Dataset, TensorDataset

from medseg import checkpoints, training
from medseg.losses import cross_entropy, deep_supervision_loss, dice_loss
from medseg.metrics import iou_score
from medseg.models.nnunet import PlainConvUNet
from medseg.training import EpochRecord, _loop, evaluate, train, train_one_epoch
from medseg.training._precision import pick_dtype

QUIET = {"progress": False, "log": None}


def network(num_classes=1):
    torch.manual_seed(1)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Dropout(0.2),
        nn.Conv2d(4, num_classes, 1),
    )


def bright_squares(count=6, num_classes=1):
    """Images whose bright half is the foreground."""
    generator = torch.Generator().manual_seed(2)
    images = torch.randn(count, 1, 8, 8, generator=generator)
    labels = (images[:, 0] > 0).long()
    return images, labels[:, None].float() if num_classes == 1 else labels


def loaders(data=None):
    data = data or TensorDataset(*bright_squares())
    shuffled = DataLoader(
        data, batch_size=4, shuffle=True, generator=torch.Generator().manual_seed(3)
    )
    return shuffled, DataLoader(data, batch_size=4)


def run(folder, *, num_epochs=4, resume=False, data=None, **options):
    """Train with all that has a state: momentum, schedule, average, dropout."""
    model = network()
    optimizer = optim.Adam(model.parameters(), lr=0.05)
    scheduler = CosineAnnealingLR(optimizer, 4)
    options = QUIET | {"ema_decay": 0.5, "clip_norm": 1.0} | options
    records = train(
        model,
        *loaders(data),
        nn.BCEWithLogitsLoss(),
        optimizer,
        num_epochs,
        "cpu",
        checkpoint=folder / "best_model.pth",
        resume=resume,
        scheduler=scheduler,
        **options,
    )
    return model, records


def simple_run(folder, model=None, **options):
    model = model or network()
    settings = QUIET | {"num_epochs": 2, "device": "cpu"} | options
    optimizer = optim.SGD(model.parameters(), lr=0.1)
    return train(
        model,
        *loaders(),
        nn.BCEWithLogitsLoss(),
        optimizer,
        checkpoint=folder / "best_model.pth",
        **settings,
    )


def equal_weights(first, second):
    assert first.keys() == second.keys()
    return all(torch.equal(first[name], second[name]) for name in first)


class Logits(nn.Module):
    """Returns the images as logits: what is predicted is written in the test."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, images):
        return images * self.scale


# One epoch


def test_an_epoch_is_the_bare_loop_and_its_loss_the_mean_over_images():
    images, masks = bright_squares(5)
    batches = [(images[:4], masks[:4]), (images[4:], masks[4:])]  # 4 images, then 1
    model, bare = network(), network()
    criterion = nn.BCEWithLogitsLoss()
    torch.manual_seed(0)
    mean = train_one_epoch(
        model, batches, criterion, optim.SGD(model.parameters(), lr=0.1), "cpu"
    )
    torch.manual_seed(0)
    optimizer = optim.SGD(bare.parameters(), lr=0.1)
    losses = []
    for x, y in batches:
        optimizer.zero_grad()
        loss = criterion(bare(x), y)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert equal_weights(model.state_dict(), bare.state_dict())
    assert mean == pytest.approx((4 * losses[0] + losses[1]) / 5)


def test_an_epoch_runs_in_training_mode():
    model = network().eval()
    optimizer = optim.SGD(model.parameters(), lr=0.1)
    train_one_epoch(model, loaders()[0], nn.BCEWithLogitsLoss(), optimizer, "cpu")
    assert model.training
    assert model[1].num_batches_tracked == 2


def test_clipping_bounds_a_step():
    model = network()
    before = nn.utils.parameters_to_vector(model.parameters()).clone()
    batches = [bright_squares(4)]
    optimizer = optim.SGD(model.parameters(), lr=1.0)
    criterion = nn.BCEWithLogitsLoss()
    train_one_epoch(model, batches, criterion, optimizer, "cpu", clip_norm=0.01)
    after = nn.utils.parameters_to_vector(model.parameters())
    assert (after - before).norm().item() == pytest.approx(0.01, rel=1e-2)


def test_the_average_follows_the_weights():
    model = network()
    average = AveragedModel(model, avg_fn=lambda mean, new, _: (mean + new) / 2)
    batches = [bright_squares(4)]
    optimizer = optim.SGD(model.parameters(), lr=1.0)
    for _ in range(2):  # the first update copies, the second averages
        first = model[4].bias.detach().clone()
        train_one_epoch(model, batches, dice_loss, optimizer, "cpu", average=average)
    assert average.module[4].bias.item() == pytest.approx(
        (first + model[4].bias).item() / 2
    )


@pytest.mark.parametrize(
    ("criterion", "num_classes", "mask_classes"),
    [
        (nn.BCEWithLogitsLoss(), 1, 1),
        (nn.CrossEntropyLoss(), 2, 2),
        (dice_loss, 1, 1),
        (dice_loss, 1, 2),  # integer labels and one logit
        (dice_loss, 2, 2),
        (partial(cross_entropy, ignore_index=255), 2, 2),
    ],
)
def test_criteria_of_torch_and_of_this_package_train(
    criterion, num_classes, mask_classes
):
    batches = [bright_squares(4, mask_classes)]
    model = network(num_classes)
    optimizer = optim.Adam(model.parameters(), lr=0.1)
    losses = [
        train_one_epoch(model, batches, criterion, optimizer, "cpu") for _ in range(20)
    ]
    assert losses[-1] < 0.7 * losses[0]
    assert evaluate(model, batches, criterion, "cpu").dice > 0.8


# Evaluation


def binary(rows):
    """Logits (B, 1, 1, W) that predict the pixels marked 1."""
    return 10 * (2 * torch.tensor(rows).float()[:, None, None] - 1)


def test_dice_of_one_class_by_hand():
    logits = binary([[1, 1, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0], [0, 0, 1, 0]])
    masks = torch.tensor([[0, 1, 1, 1], [1, 0, 0, 0], [0] * 4, [0] * 4])
    result = evaluate(
        Logits(),
        [(logits[:3], masks[:3, None, None].float()), (logits[3:], masks[3:, None])],
        dice_loss,
        "cpu",
    )
    # 2 * 1 / (2 + 3); missed; neither mask holds it; only the prediction holds it
    np.testing.assert_allclose(result.dice_per_image, [0.4, 0, np.nan, 0])
    assert result.dice == pytest.approx(0.4 / 3)
    assert result.undefined == 1
    assert result.dice_per_class.tolist() == [result.dice]


def test_dice_of_several_classes_by_hand():
    pred = torch.tensor([[[0, 1, 1, 2]], [[0, 1, 1, 1]]])
    truth = torch.tensor([[[0, 1, 2, 2]], [[1, 1, 1, 0]]])
    logits = nn.functional.one_hot(pred, 3).movedim(-1, 1).float()
    result = evaluate(Logits(), [(logits, truth)], nn.CrossEntropyLoss(), "cpu")
    # class 1: 2/3 and 2/3; class 2: 2/3 and undefined; the background never counts
    np.testing.assert_allclose(result.dice_per_image, [2 / 3, 2 / 3])
    np.testing.assert_allclose(result.dice_per_class, [2 / 3, 2 / 3])
    assert result.undefined == 1


@pytest.mark.parametrize(
    "criterion",
    [
        nn.CrossEntropyLoss(ignore_index=255),
        partial(cross_entropy, ignore_index=255),
    ],
)
def test_pixels_of_the_ignored_label_count_in_no_score(criterion):
    logits = nn.functional.one_hot(torch.tensor([[[0, 1, 1, 1]]]), 2)
    truth = torch.tensor([[[0, 1, 255, 255]]])
    batches = [(logits.movedim(-1, 1).float(), truth)]
    assert evaluate(Logits(), batches, criterion, "cpu").dice == 1


def test_without_foreground_anywhere_dice_is_undefined():
    batches = [(binary([[0, 0]]), torch.zeros(1, 1, 1, 2))]
    result = evaluate(Logits(), batches, nn.BCEWithLogitsLoss(), "cpu")
    assert math.isnan(result.dice)
    assert result.undefined == 1


def test_evaluation_loss_is_the_mean_over_images_and_nothing_moves():
    images, masks = bright_squares(5)
    model = network()
    model[1].eval()  # frozen: must stay so
    before = {name: value.clone() for name, value in model.state_dict().items()}
    batches = [(images[:4], masks[:4]), (images[4:], masks[4:])]
    criterion = nn.BCEWithLogitsLoss()
    split = evaluate(model, batches, criterion, "cpu")
    whole = evaluate(model, [(images, masks)], criterion, "cpu")
    assert split.loss == pytest.approx(whole.loss, rel=1e-5)
    assert equal_weights(before, model.state_dict())
    assert model.training
    assert not model[1].training


# The loop and its files


def test_training_learns_and_its_best_weights_load_into_a_new_network(tmp_path):
    records = simple_run(tmp_path, num_epochs=5)
    assert [record.epoch for record in records] == [1, 2, 3, 4, 5]
    assert records[-1].train_loss < records[0].train_loss
    assert all(record.seconds > 0 for record in records)
    model = network()
    state = torch.load(tmp_path / "best_model.pth", weights_only=True)
    model.load_state_dict(state)
    result = evaluate(model, loaders()[1], nn.BCEWithLogitsLoss(), "cpu")
    best = max(records, key=lambda record: record.val_dice)
    assert result.dice == pytest.approx(best.val_dice, abs=0.02)
    files = {path.name for path in tmp_path.iterdir()}
    assert files == {"best_model.pth", "best_model.last.pth"}


@pytest.mark.parametrize(
    ("scores", "best"),
    [
        ([(0.5, 0.2), (0.7, 0.3), (0.6, 0.1)], 2),  # highest Dice
        ([(0.5, 0.3), (0.5, 0.2), (0.5, 0.2)], 2),  # equal: lowest loss, then first
        ([(math.nan, 0.1), (0.0, 0.3), (math.nan, 0.05)], 2),  # undefined is last
    ],
)
def test_best_is_the_highest_dice_then_the_lowest_loss(
    tmp_path, monkeypatch, scores, best
):
    states, given = [], iter(scores)

    def scripted(model, *args, **kwargs):
        states.append({k: v.clone() for k, v in model.state_dict().items()})
        dice, loss = next(given)
        return training.Evaluation(loss, dice, np.array([]), np.array([]), 0)

    monkeypatch.setattr(_loop, "evaluate", scripted)
    simple_run(tmp_path, num_epochs=3)
    saved = checkpoints.load_checkpoint(tmp_path / "best_model.pth")
    assert [equal_weights(saved, state) for state in states].index(True) + 1 == best


def test_two_runs_with_one_seed_end_in_the_same_weights(tmp_path):
    first, _ = run(tmp_path / "a")
    second, _ = run(tmp_path / "b")
    assert equal_weights(first.state_dict(), second.state_dict())


class Noisy(Dataset):
    """Draws from every global generator, as augmentation does."""

    def __init__(self):
        self.images, self.masks = bright_squares()

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        noise = torch.rand(()) + np.random.rand() + random.random()  # noqa: NPY002
        return self.images[index] + noise, self.masks[index]


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_resumed_run_ends_in_the_same_weights_bit_for_bit(tmp_path, precision):
    def seeded_run(seed, folder, **options):
        np.random.seed(seed)  # noqa: NPY002
        random.seed(seed)
        return run(tmp_path / folder, data=Noisy(), precision=precision, **options)

    straight, all_records = seeded_run(0, "straight")
    seeded_run(0, "broken", num_epochs=2)
    resumed, records = seeded_run(99, "broken", resume=True)  # as in a new process
    assert equal_weights(straight.state_dict(), resumed.state_dict())
    assert [r._replace(seconds=0) for r in records] == [
        r._replace(seconds=0) for r in all_records
    ]
    for name in ("best_model.pth", "best_model.last.pth"):
        one, other = (
            torch.load(tmp_path / folder / name, weights_only=True)
            for folder in ("straight", "broken")
        )
        if "last" in name:
            one, other = one["average"], other["average"]
        assert equal_weights(one, other)


def test_resume_starts_from_the_beginning_where_there_is_nothing(tmp_path):
    assert len(simple_run(tmp_path, resume=True)) == 2


def test_resume_of_a_finished_run_trains_no_more(tmp_path):
    records = simple_run(tmp_path)
    model = network()
    assert simple_run(tmp_path, model, resume=True) == records
    last = checkpoints.load_checkpoint(tmp_path / "best_model.last.pth")
    assert equal_weights(last["model"], model.state_dict())


def test_the_average_is_what_is_validated_and_saved(tmp_path):
    model, records = run(tmp_path, num_epochs=1)
    saved = checkpoints.load_checkpoint(tmp_path / "best_model.pth")
    assert saved.keys() == model.state_dict().keys()
    for name in ("4.weight", "1.running_mean"):  # statistics of batch norm as well
        assert not torch.equal(saved[name], model.state_dict()[name])
    average = network()
    average.load_state_dict(saved)
    result = evaluate(average, loaders()[1], nn.BCEWithLogitsLoss(), "cpu")
    assert result.loss == pytest.approx(records[0].val_loss, rel=0.02)


def test_training_clips_as_an_epoch_does(tmp_path):
    model = network()
    before = nn.utils.parameters_to_vector(model.parameters()).clone()
    simple_run(tmp_path, model, clip_norm=1e-3)  # 2 epochs of 2 steps, rate 0.1
    after = nn.utils.parameters_to_vector(model.parameters())
    assert (after - before).norm().item() <= 4.01 * 0.1 * 1e-3


def test_the_schedule_steps_once_an_epoch(tmp_path):
    _, records = run(tmp_path)
    half = 0.05 * (1 + math.sqrt(0.5)) / 2
    rates = [record.learning_rate for record in records]
    assert rates == pytest.approx([0.05, half, 0.025, 0.05 - half])


def test_a_plateau_schedule_watches_the_validation_loss(tmp_path):
    model = network()
    optimizer = optim.SGD(model.parameters(), lr=0.01)
    scheduler = ReduceLROnPlateau(optimizer, factor=0.1, patience=0, threshold=0.9)
    checkpoint = tmp_path / "best.pth"
    criterion = nn.BCEWithLogitsLoss()
    options = QUIET | {"scheduler": scheduler, "checkpoint": checkpoint}
    records = train(model, *loaders(), criterion, optimizer, 2, "cpu", **options)
    assert scheduler.best == records[0].val_loss
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.001)


def test_each_epoch_prints_one_line_and_bars_go_to_stderr(tmp_path, capsys):
    simple_run(tmp_path, log=print, progress=True)
    out, err = capsys.readouterr()
    lines = out.splitlines()
    assert len(lines) == 2
    assert "epoch   2" in lines[1]
    assert "val Dice 0." in lines[1]
    assert "epoch 2:" in err
    simple_run(tmp_path)
    assert capsys.readouterr() == ("", "")


def test_a_record_reads_well():
    record = EpochRecord(3, 0.25, 0.5, 0.875, 12.345, 1e-4)
    assert str(record) == (
        "epoch   3   train loss 0.2500   val loss 0.5000   val Dice 0.8750   12.3 s"
    )


# Interruptions


def broken_save(state, file):
    file.write(b"PK half of a checkp")
    raise OSError(28, "No space left on device")


def test_an_interrupted_save_keeps_the_last_good_file(tmp_path, monkeypatch):
    simple_run(tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    monkeypatch.setattr(torch, "save", broken_save)
    with pytest.raises(OSError, match="No space left"):
        simple_run(tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_an_interrupted_first_save_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(torch, "save", broken_save)
    with pytest.raises(OSError, match="No space left"):
        simple_run(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_ctrl_c_is_raised_and_the_run_can_go_on(tmp_path):
    def press_ctrl_c(record):
        if record.epoch == 2:
            raise KeyboardInterrupt

    straight, _ = run(tmp_path / "straight")
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "broken", log=press_ctrl_c)
    resumed, records = run(tmp_path / "broken", resume=True)
    assert len(records) == 4
    assert equal_weights(straight.state_dict(), resumed.state_dict())


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 cut short", b"\x80\x02 what?"])
def test_a_damaged_checkpoint_says_what_to_do(tmp_path, content):
    simple_run(tmp_path)
    (tmp_path / "best_model.last.pth").write_bytes(content)
    with pytest.raises(ValueError, match=r"last\.pth cannot be read .* Delete it and"):
        simple_run(tmp_path, resume=True)


def test_a_checkpoint_cut_in_half_says_what_to_do(tmp_path):
    simple_run(tmp_path)
    path = tmp_path / "best_model.last.pth"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(ValueError, match="damaged, cut short"):
        checkpoints.load_checkpoint(path)


def test_a_missing_checkpoint_says_what_to_do(tmp_path):
    with pytest.raises(FileNotFoundError, match="Train first"):
        checkpoints.load_checkpoint(tmp_path / "none.pth")


def test_a_tensor_is_no_checkpoint(tmp_path):
    torch.save(torch.zeros(1), tmp_path / "tensor.pth")
    with pytest.raises(ValueError, match=r"holds a Tensor.*model\.state_dict\(\)"):
        checkpoints.load_checkpoint(tmp_path / "tensor.pth")


def test_the_checkpoint_of_another_run_is_refused(tmp_path):
    simple_run(tmp_path)
    with pytest.raises(ValueError, match=r"(?s)another run.*size mismatch"):
        simple_run(tmp_path, network(num_classes=3), resume=True)
    with pytest.raises(ValueError, match=r"another run.*ema_decay was None, is 0\.9"):
        simple_run(tmp_path, resume=True, ema_decay=0.9)
    (tmp_path / "best_model.last.pth").write_bytes(
        (tmp_path / "best_model.pth").read_bytes()
    )
    with pytest.raises(ValueError, match="another run"):
        simple_run(tmp_path, resume=True)


# Precision


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_half_precision_computes_in_it_and_learns(tmp_path, precision):
    seen = []

    def criterion(logits, targets):
        assert logits.dtype == torch.float32  # the loss never is in half precision
        return nn.functional.binary_cross_entropy_with_logits(logits, targets)

    model = network()
    model[4].register_forward_hook(lambda *hook: seen.append(hook[-1].dtype))
    optimizer = optim.Adam(model.parameters(), lr=0.05)
    options = QUIET | {"precision": precision, "clip_norm": 1.0}
    options["checkpoint"] = tmp_path / "best.pth"
    records = train(model, *loaders(), criterion, optimizer, 8, "cpu", **options)
    assert set(seen) == {getattr(torch, precision)}
    assert records[-1].train_loss < 0.8 * records[0].train_loss
    assert {value.dtype for value in model.parameters()} == {torch.float32}


@pytest.mark.parametrize(
    ("units", "expected"),
    [
        ({"avx512_bf16": True}, torch.bfloat16),
        ({"amx_bf16": True}, torch.bfloat16),
        ({"avx2": True}, torch.float32),
    ],
)
def test_auto_looks_for_units_of_the_cpu(monkeypatch, units, expected):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: units, raising=False)
    context = training.autocast_for("cpu", "auto")
    with context:
        product = torch.ones(1, 1) @ torch.ones(1, 1)
    assert product.dtype == expected


def test_auto_is_float32_where_torch_cannot_tell(monkeypatch):
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    with training.autocast_for(torch.device("cpu"), "auto"):
        assert (torch.ones(1, 1) @ torch.ones(1, 1)).dtype == torch.float32


@pytest.mark.parametrize(
    ("native", "expected"), [(True, torch.bfloat16), (False, torch.float16)]
)
def test_auto_takes_float16_on_a_gpu_without_bfloat16(monkeypatch, native, expected):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: native)
    assert pick_dtype("cuda", "auto") == expected


# Bad input


def one_epoch(model, batches, criterion, device):
    optimizer = optim.SGD(model.parameters(), lr=0.1)
    return train_one_epoch(model, batches, criterion, optimizer, device)


@pytest.mark.parametrize(
    ("num_classes", "masks", "criterion"),
    [
        (1, torch.zeros(2, 8, 8).long(), nn.BCEWithLogitsLoss()),
        (3, torch.zeros(2, 1, 8, 8), nn.CrossEntropyLoss()),
        (1, torch.zeros(2, 1, 8, 8), nn.CrossEntropyLoss()),
        (1, torch.zeros(2, 1, 8, 9), nn.BCEWithLogitsLoss()),
        (3, torch.zeros(2, 4, 8), nn.CrossEntropyLoss()),
    ],
)
@pytest.mark.parametrize("function", [evaluate, one_epoch])
def test_logits_and_masks_that_do_not_suit_each_other(
    num_classes, masks, criterion, function
):
    model = network(num_classes)
    batches = [(torch.zeros(2, 1, 8, 8), masks)]
    shapes = rf"logits \(2, {num_classes}, 8, 8\) with masks \(2, .*"
    with pytest.raises(ValueError, match=f"{shapes}num_classes=K, out_channels=K"):
        function(model, batches, criterion, "cpu")


@pytest.mark.parametrize(("label", "advice"), [(2, "out_channels=3"), (255, "> 127")])
def test_labels_without_a_class(label, advice):
    batches = [(torch.zeros(1, 1, 8, 8), torch.full((1, 8, 8), label))]
    with pytest.raises(ValueError, match=rf"from {label} to {label}.*{advice}"):
        evaluate(network(2), batches, nn.CrossEntropyLoss(), "cpu")


def test_a_network_that_returns_a_dict():
    class Wrapped(nn.Module):
        def forward(self, images):
            return {"out": images}

    with pytest.raises(TypeError, match=r"returned a dict.*output\['out'\]"):
        evaluate(Wrapped(), [bright_squares()], nn.BCEWithLogitsLoss(), "cpu")


def test_networks_with_several_outputs_train_with_deep_supervision(tmp_path):
    images, labels = bright_squares(4, num_classes=2)
    data = TensorDataset(images, labels)
    torch.manual_seed(0)
    model = PlainConvUNet(1, 2, widths=(4, 6, 8), spatial_dims=2, deep_supervision=True)
    optimizer = optim.SGD(model.parameters(), lr=0.1)
    logits = model.train()(images)
    assert len(logits) > 1
    expected = deep_supervision_loss(logits, labels).item()
    options = QUIET | {"checkpoint": tmp_path / "model.pth", "precision": "float32"}
    (record,) = train(
        model,
        DataLoader(data, batch_size=4),
        DataLoader(data, batch_size=4),
        deep_supervision_loss,
        optimizer,
        1,
        "cpu",
        **options,
    )
    assert record.train_loss == pytest.approx(expected, rel=1e-5)
    assert 0 < record.val_loss != pytest.approx(expected)  # one output, another loss


def test_a_loss_that_explodes_names_epoch_and_step_and_the_cure(tmp_path):
    images, masks = bright_squares(4)
    batches = [(images, masks), (images * 1e38, masks)]
    model = nn.Conv2d(1, 1, 1)
    nn.init.constant_(model.weight, 1e6)
    optimizer = optim.SGD(model.parameters(), lr=0.0)
    with pytest.raises(ValueError, match=r"epoch 7, step 2: .*lower the learning rate"):
        train_one_epoch(
            model, batches, nn.BCEWithLogitsLoss(), optimizer, "cpu", epoch=7
        )


def test_images_with_nan_are_named_as_the_cause():
    images, masks = bright_squares(4)
    images[0, 0, 0, 0] = math.nan
    with pytest.raises(ValueError, match=r"validation, step 1: .* images hold NaN"):
        evaluate(network(), [(images, masks)], nn.BCEWithLogitsLoss(), "cpu")


def test_a_loss_that_is_no_scalar():
    criterion = nn.BCEWithLogitsLoss(reduction="none")
    with pytest.raises(ValueError, match="reduction='mean'"):
        evaluate(network(), [bright_squares()], criterion, "cpu")


@pytest.mark.parametrize("empty", ["training", "validation"])
def test_an_empty_loader_is_refused_before_training(tmp_path, empty):
    full = loaders()[0]
    pair = ([], full) if empty == "training" else (full, [])
    model = network()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    optimizer = optim.SGD(model.parameters(), lr=0.1)
    checkpoint = tmp_path / "best.pth"
    with pytest.raises(ValueError, match=f"the {empty} loader yields no batch"):
        train(
            model, *pair, nn.BCEWithLogitsLoss(), optimizer, 1, "cpu",
            checkpoint=checkpoint,
        )  # fmt: skip
    assert equal_weights(before, model.state_dict())


def test_a_generator_that_is_used_up_is_refused():
    with pytest.raises(ValueError, match="used up only once"):
        evaluate(network(), iter([]), nn.BCEWithLogitsLoss(), "cpu")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_epochs": 0}, "num_epochs must be at least 1"),
        ({"ema_decay": 1.0}, "ema_decay must lie between 0 and 1"),
        ({"precision": "half"}, "precision must be one of 'auto', 'float32'"),
        ({"accumulate": 0}, "accumulate must be at least 1"),
        ({"patience": 0}, "patience must be at least 1"),
        ({"checkpoint_every": 0}, "checkpoint_every must be at least 1"),
        ({"scheduler_interval": "batch"}, "scheduler_interval must be one of"),
    ],
)
def test_settings_out_of_range(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        simple_run(tmp_path, **options)


# Accumulation, schedules in steps, early stopping, further metrics


@pytest.mark.parametrize("clip_norm", [None, 0.05])
def test_accumulated_gradients_are_those_of_the_joint_batch(clip_norm):
    images, masks = bright_squares(8)  # a batch is shorter, then a group is
    parts = [(images[a:b], masks[a:b]) for a, b in ((0, 3), (3, 6), (6, 7), (7, 8))]
    joint = [(images[:7], masks[:7]), (images[7:], masks[7:])]
    ends = []
    for batches, accumulate in ((parts, 3), (joint, 1)):
        model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 1, 3, 1, 2))
        torch.manual_seed(5)
        for weight in model.parameters():
            nn.init.normal_(weight, std=0.2)
        optimizer = optim.SGD(model.parameters(), lr=1.0, momentum=0.9)
        loss = train_one_epoch(
            model, batches, nn.BCEWithLogitsLoss(), optimizer, "cpu",
            accumulate=accumulate, clip_norm=clip_norm,
        )  # fmt: skip
        ends.append((loss, nn.utils.parameters_to_vector(model.parameters())))
    (loss, weights), (joint_loss, joint_weights) = ends
    assert loss == pytest.approx(joint_loss, rel=1e-5)
    torch.testing.assert_close(weights, joint_weights, rtol=1e-5, atol=1e-6)


def test_a_schedule_in_steps_and_calls_after_each_step():
    model = network()
    optimizer = optim.SGD(model.parameters(), lr=1.0)
    scheduler = optim.lr_scheduler.LambdaLR(optimizer, lambda i: 1 / (1 + i))
    seen = []
    train_one_epoch(
        model, [bright_squares(2)] * 5, nn.BCEWithLogitsLoss(), optimizer, "cpu",
        accumulate=2, scheduler=scheduler,
        after_step=lambda t: seen.append((t.steps, t.batches, t.images)),
    )  # fmt: skip
    assert seen == [(1, 2, 4), (2, 4, 8), (3, 5, 10)]  # the last step has one batch
    assert optimizer.param_groups[0]["lr"] == pytest.approx(1 / 4)


def test_training_steps_the_schedule_as_it_is_told(tmp_path):
    model = network()
    optimizer = optim.SGD(model.parameters(), lr=1.0)
    scheduler = optim.lr_scheduler.LambdaLR(optimizer, lambda i: 0.5**i)
    records = train(
        model, *loaders(), nn.BCEWithLogitsLoss(), optimizer, 2, "cpu",
        checkpoint=tmp_path / "b.pth", scheduler=scheduler, scheduler_interval="step",
        **QUIET,
    )  # fmt: skip
    assert [record.learning_rate for record in records] == [1.0, 0.25]  # 2 steps each


def scripted_dice(monkeypatch, dices):
    given = iter(dices)

    def scripted(*args, **kwargs):
        empty = np.array([])
        return training.Evaluation(1.0, next(given), empty, empty, 0)

    monkeypatch.setattr(_loop, "evaluate", scripted)


def test_early_stopping_waits_as_long_as_it_is_told(tmp_path, monkeypatch):
    scripted_dice(monkeypatch, [0.1, 0.3, 0.2, 0.3, 0.9])
    # Epoch 4 equals epoch 2 and is no better one: two epochs without, and it ends.
    records = simple_run(tmp_path, num_epochs=5, patience=2)
    assert [record.val_dice for record in records] == [0.1, 0.3, 0.2, 0.3]
    again = simple_run(tmp_path, num_epochs=9, patience=2, resume=True)
    assert len(again) == 4  # a run that has stopped stays stopped


def test_further_metrics_are_in_every_record(tmp_path):
    records = simple_run(tmp_path, metrics={"iou": iou_score})
    for record in records:
        # Of one class: IoU of each image is Dice / (2 - Dice); the mean lies near.
        assert 0 < record.scores["iou"] < record.val_dice
        assert record.dice_per_class == (record.val_dice,)
    assert "iou 0." in str(records[0])
    assert simple_run(tmp_path, metrics={"iou": iou_score}, resume=True) == records


def test_a_metric_by_hand_and_its_undefined_values():
    logits = binary([[1, 1, 0, 0], [0, 0, 0, 0]])
    masks = torch.tensor([[0, 1, 1, 1], [0] * 4])[:, None, None].float()
    criterion = nn.BCEWithLogitsLoss()
    metrics = {"iou": iou_score, "size": lambda pred, truth: float(pred.sum())}
    result = evaluate(Logits(), [(logits, masks)], criterion, "cpu", metrics=metrics)
    assert result.scores == {"iou": 0.25, "size": 1.0}


def test_several_logs_and_silence(tmp_path):
    one, other = [], []
    records = simple_run(tmp_path, log=[one.append, other.append])
    assert one == other == records


def test_channels_last_is_for_convolutions_of_2d(tmp_path):
    model = network()
    simple_run(tmp_path, model, channels_last=True, precision="float32")
    assert model[0].weight.is_contiguous(memory_format=torch.channels_last)
    model = nn.Sequential(nn.Conv3d(1, 1, 3, padding=1))
    batches = [(torch.zeros(1, 1, 4, 4, 4), torch.zeros(1, 1, 4, 4, 4))]
    train(
        model, batches, batches, nn.BCEWithLogitsLoss(),
        optim.SGD(model.parameters(), lr=0.1), 1, "cpu",
        checkpoint=tmp_path / "b.pth", precision="bfloat16", **QUIET,
    )  # fmt: skip


# Memory and disk


class Hungry(nn.Module):
    def __init__(self, error):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))
        self.error = error

    def forward(self, images):
        raise self.error


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried 9 bytes"),
        MemoryError(),
    ],
)
@pytest.mark.parametrize("function", [evaluate, one_epoch])
def test_out_of_memory_says_what_to_change(error, function):
    with pytest.raises(MemoryError) as caught:
        function(Hungry(error), [bright_squares(4)], nn.BCEWithLogitsLoss(), "cpu")
    text = str(caught.value)
    assert "step 1: out of memory with images (4, 1, 8, 8)" in text
    assert "halve the batch size to 2 and pass accumulate=2" in text
    assert "precision='auto'" in text


def test_out_of_memory_with_one_image_asks_for_smaller_crops():
    with pytest.raises(MemoryError, match="train on smaller crops"):
        one_epoch(Hungry(MemoryError()), [bright_squares(1)], nn.BCELoss(), "cpu")


def test_another_error_of_the_network_stays_what_it_is():
    with pytest.raises(RuntimeError, match=r"^shape$"):
        one_epoch(
            Hungry(RuntimeError("shape")), [bright_squares(1)], nn.BCELoss(), "cpu"
        )


def test_a_loss_that_is_nan_leaves_the_weights_of_the_step_before():
    model = nn.Conv2d(1, 1, 1)
    nn.init.constant_(model.weight, 1e30)
    before = model.weight.item()
    images, masks = bright_squares(2)
    batches = [(images * 1e30, masks)]
    with pytest.raises(ValueError, match=r"lower the learning rate \(it is 0\.1\)"):
        one_epoch(model, batches, nn.BCEWithLogitsLoss(), "cpu")
    assert model.weight.item() == before


def test_a_full_disk_is_seen_before_training(tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)._replace(free=100)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(OSError, match="has 0 MB left, but checkpoints") as caught:
        simple_run(tmp_path)
    assert caught.value.errno == errno.ENOSPC
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_fills_up_keeps_what_was_there(tmp_path):
    """The kernel itself stops the write, at a limit for the size of files."""
    resource = pytest.importorskip("resource")  # not on Windows
    state = {"weights": torch.zeros(1000)}
    checkpoints.save_checkpoint(state, tmp_path / "a.pth")
    before = (tmp_path / "a.pth").read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, hard))
    try:
        with pytest.raises(OSError, match=r"a\.pth cannot be written .*is\s+kept"):
            checkpoints.save_checkpoint(state, tmp_path / "a.pth")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert (tmp_path / "a.pth").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["a.pth"]


def test_a_folder_without_permission_is_seen_before_training(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # root may all
    with pytest.raises(PermissionError, match="may not be written to"):
        simple_run(tmp_path)
