"""A run that is killed goes on as if nothing had been: the same weights, to the bit."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.utils.data import ConcatDataset, Subset, TensorDataset

sys.path.insert(0, str(Path(__file__).parent))

import training_run
from training_run import run

from medseg import checkpoints
from medseg.training import _loop


def killed(folder, **options):
    """Run in another process, which must die by SIGKILL."""
    result = subprocess.run(
        [sys.executable, training_run.__file__, str(folder), json.dumps(options)],
        timeout=120,
        capture_output=True,
        text=True,
    )
    assert result.returncode == -signal.SIGKILL, result.stderr


def same(first, second):
    """Whether two nested states hold the same numbers, bit for bit."""
    if isinstance(first, torch.Tensor):
        return torch.equal(first, second)
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(
            same(first[key], second[key]) for key in first if key != "seconds"
        )
    if isinstance(first, list | tuple):
        return len(first) == len(second) and all(map(same, first, second))
    return first == second or first is second or (first != first and second != second)


def assert_same_end(straight, broken):
    """Both files are equal: weights, averages, moments, rates, random numbers."""
    for name in ("best.pth", "best.last.pth"):
        one, other = (checkpoints.load_checkpoint(f / name) for f in (straight, broken))
        assert same(one, other), name


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    """Runs without a break, by their options: trained once."""
    done = {}

    def get(**options):
        key = json.dumps(options)
        if key not in done:
            done[key] = tmp_path_factory.mktemp("straight")
            run(done[key], **options)
        return done[key]

    return get


# Six batches, two a step, and three of validation make an epoch: 9 losses.


@pytest.mark.parametrize(
    ("options", "stop_at", "steps"),
    [
        ({}, 9 + 4, None),  # in the second epoch: it is trained anew
        ({"checkpoint_every": 1}, 9 + 4, 1),  # one step of it is kept
        ({"checkpoint_every": 2, "workers": 2}, 9 + 6, 2),
        ({"checkpoint_every": 1, "own_generator": False}, 9 + 8, 3),  # in validation
        ({"checkpoint_every": 1, "own_generator": False, "workers": 2}, 9 + 6, 2),
        ({"checkpoint_every": 1, "ema_decay": None, "accumulate": 4}, 9 + 5, 1),
    ],
)
def test_after_a_crash_the_run_ends_in_the_same_weights(
    straight, tmp_path, options, stop_at, steps
):
    with pytest.raises(RuntimeError, match="a crash"):
        run(tmp_path, crash_at=stop_at, **options)
    left = checkpoints.load_checkpoint(tmp_path / "best.last.pth")
    assert len(left["records"]) == 1
    tally = left["processes"][0]["tally"]
    assert (tally and tally["steps"]) == steps
    _, records = run(tmp_path, resume=True, seed=99, **options)
    assert [record.epoch for record in records] == [1, 2, 3]
    assert_same_end(straight(**options), tmp_path)
    assert list(tmp_path.glob("*.tmp")) == []


@pytest.mark.slow
@pytest.mark.parametrize("options", [{}, {"checkpoint_every": 1, "workers": 2}])
def test_after_sigkill_a_new_process_ends_in_the_same_weights(
    straight, tmp_path, options
):
    killed(tmp_path, kill_at=9 + 4, **options)
    again = {"resume": True, "seed": 7, **options}
    words = [sys.executable, training_run.__file__, str(tmp_path), json.dumps(again)]
    subprocess.run(words, check=True, timeout=120)
    assert_same_end(straight(**options), tmp_path)


@pytest.mark.parametrize(("sent", "error"), [
    (signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, SystemExit),
])  # fmt: skip
def test_a_signal_lets_the_step_end_and_keeps_it(
    straight, tmp_path, monkeypatch, sent, error
):
    steps = 0

    def counted(*args, **kwargs):
        nonlocal steps
        steps += 1
        if steps == 2 * 6 + 3:  # in the first half of a step
            os.kill(os.getpid(), sent)
        return bce(*args, **kwargs)

    bce = torch.nn.functional.binary_cross_entropy_with_logits
    handlers = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    functional = torch.nn.functional
    monkeypatch.setattr(functional, "binary_cross_entropy_with_logits", counted)
    with pytest.raises(error):
        run(tmp_path)
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == (
        handlers
    )
    left = checkpoints.load_checkpoint(tmp_path / "best.last.pth")
    assert len(left["records"]) == 1
    assert left["processes"][0]["tally"]["steps"] == 3
    run(tmp_path, resume=True, seed=99)
    assert_same_end(straight(), tmp_path)


def test_a_second_ctrl_c_stops_at_once():
    with _loop.deferred_interrupts() as seen:
        os.kill(os.getpid(), signal.SIGINT)
        assert seen == [signal.SIGINT]
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


# What a resumed run must share


@pytest.mark.parametrize(
    ("change", "difference"),
    [
        ({"clip_norm": 2.0}, r"clip_norm was 1\.0, is 2\.0\."),
        ({"accumulate": 1}, "accumulate was 2, is 1"),
        ({"config": {"size": 64}}, "size was not set, is 64"),
        ({"scheduler_interval": "epoch"}, "scheduler_interval was step, is epoch"),
        ({"scheduler": None}, "scheduler was LambdaLR, is None"),
    ],
)
def test_other_settings_are_refused_and_named(straight, change, difference):
    folder = straight()
    before = (folder / "best.last.pth").read_bytes()
    with pytest.raises(ValueError, match=rf"another run.*What differs: {difference}"):
        run(folder, resume=True, **change)
    assert (folder / "best.last.pth").read_bytes() == before


def test_other_data_are_refused(straight, monkeypatch):
    class Other(training_run.Noisy):
        def __len__(self):
            return 10

    monkeypatch.setattr(training_run, "Noisy", Other)
    match = r"training data\.images was 11, is 10; .*hash was \w{12}, is \w{12}"
    with pytest.raises(ValueError, match=match):
        run(straight(), resume=True)


def test_another_random_generator_is_refused(straight):
    with pytest.raises(ValueError, match=r"holds 1 random generators, .* have 0"):
        run(straight(), resume=True, own_generator=False)


def test_more_epochs_are_no_other_run(straight, tmp_path):
    for path in straight().iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    _, records = run(tmp_path, resume=True, patience=1, metrics={}, checkpoint_every=2)
    assert len(records) == 3


def test_files_are_known_by_name_and_size(tmp_path):
    class Files:
        def __init__(self, *names):
            self.image_paths = [tmp_path / name for name in names]

    for name in ("a", "b", "c"):
        (tmp_path / name).write_bytes(b"12")
    first = checkpoints.data_hash(Files("a", "b"))
    assert checkpoints.data_hash(Files("a", "b")) == first
    assert checkpoints.data_hash(Files("a", "c")) != first
    (tmp_path / "b").write_bytes(b"123")
    assert checkpoints.data_hash(Files("a", "b")) != first


def test_tensors_and_parts_are_known_by_what_they_hold():
    data = TensorDataset(torch.arange(6.0), torch.ones(6, dtype=torch.bool))
    names = [
        checkpoints.data_hash(dataset)
        for dataset in (
            data,
            TensorDataset(torch.arange(6.0) + 1, torch.ones(6, dtype=torch.bool)),
            Subset(data, [0, 1]),
            Subset(data, [0, 2]),
            ConcatDataset([data, data]),
        )
    ]
    assert len(set(names)) == 5
    assert checkpoints.data_hash(Subset(data, torch.tensor([0, 1]))) == names[2]
