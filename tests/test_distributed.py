"""Two processes take the steps of one: on this machine, through gloo."""

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).parent))

import distributed_run

from medseg import distributed
from medseg.checkpoints import load_checkpoint


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where both processes have written."""
    return tmp_path_factory.mktemp("processes")


@pytest.fixture(scope="module")
def found(folder, tmp_path_factory):
    """What each of two processes found."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2"}
    logs = [tmp_path_factory.mktemp("logs") / str(rank) for rank in range(2)]
    processes = []
    for rank, log in enumerate(logs):
        place = {"RANK": str(rank), "LOCAL_RANK": str(rank), "OMP_NUM_THREADS": "1"}
        with log.open("w") as file:
            command = [sys.executable, distributed_run.__file__, str(folder)]
            env = os.environ | address | place
            processes.append(
                subprocess.Popen(command, env=env, stdout=file, stderr=file)
            )
    try:
        deadline = time.monotonic() + 240
        while time.monotonic() < deadline:
            statuses = [process.poll() for process in processes]
            if None not in statuses or any(statuses):
                break
            time.sleep(0.1)
    finally:
        for process in processes:  # if one fails, the other waits for it
            process.kill()
            process.wait()
    texts = [log.read_text() for log in logs]
    assert statuses == [0, 0], texts
    assert texts == ["", ""]
    return [json.loads((folder / f"found_{rank}.json").read_text()) for rank in (0, 1)]


def close(weights, model):
    values = [np.array(value) for value in weights]
    for value, expected in zip(values, model.state_dict().values(), strict=True):
        np.testing.assert_allclose(value, expected.numpy(), rtol=1e-4, atol=1e-6)


pytestmark = pytest.mark.slow


def test_two_processes_end_in_the_weights_of_one(found, tmp_path):
    model, records = distributed_run.run(tmp_path)
    start = distributed_run.network()
    assert not torch.allclose(start[0].weight, model[0][0].weight, atol=0.01)
    close(found[0]["plain"]["weights"], model)
    # Loss and scores are those of all images, in both processes.
    for one in found:
        for theirs, ours in zip(one["plain"]["records"], records, strict=True):
            assert theirs[:4] == pytest.approx(ours[:4], rel=1e-4)
            assert theirs[7] == pytest.approx(ours[7])


def test_accumulated_and_clipped_gradients_are_those_of_the_joint_batch(
    found, tmp_path
):
    model, _ = distributed_run.run(tmp_path, accumulate=2, clip_norm=0.5)
    close(found[0]["joined"], model)


def test_both_processes_hold_the_same_weights(found):
    for name in ("joined", "resumed"):
        assert found[0][name] == found[1][name]


def test_the_first_process_alone_writes_and_logs(found, folder):
    assert [one["plain"]["lines"] for one in found] == [2, 0]
    files = {path.name for path in (folder / "plain").iterdir()}
    assert files == {"best.pth", "best.last.pth"}


def test_train_joins_the_processes_and_they_stay_together(found):
    assert found[0]["group"]  # and the runs that followed went on in it


def test_processes_draw_numbers_of_their_own(found):
    assert found[0]["random"] != found[1]["random"]
    torch.manual_seed(0)
    assert found[0]["random"] == pytest.approx(torch.rand(1).item())


def test_a_broken_run_of_two_processes_goes_on_bit_for_bit(found, folder):
    assert found[0]["crash"] == "a crash"
    one, other = (
        load_checkpoint(folder / name / "best.last.pth")
        for name in ("straight", "broken")
    )
    assert len(one["processes"]) == 2
    for name, value in one["model"].items():
        assert torch.equal(value, other["model"][name])
    for ours, theirs in zip(one["processes"], other["processes"], strict=True):
        assert torch.equal(ours["random"]["torch"], theirs["random"]["torch"])


def test_one_process_goes_on_where_two_were(found, folder, tmp_path):
    for path in (folder / "straight").iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    options = {"dropout": 0.3, "checkpoint_every": 1}
    _, records = distributed_run.run(tmp_path, resume=True, **options)
    assert len(records) == 2


def test_a_distributed_sampler_is_taken_as_it_is(found):
    assert found[0]["sampler"] == found[1]["sampler"]
    assert found[0]["sampler"][1][1] < found[0]["sampler"][0][1]  # it learns


def test_each_process_takes_its_part(found):
    assert [one["parts"] for one in found] == [[2], [1]]
    assert [one["whole"] for one in found] == [1, 0]
    # One image for two processes: both take it.
    assert found[0]["filled"] == found[1]["filled"]
    assert len(found[0]["filled"]) == 3


def test_loaders_that_cannot_be_shared_are_named(found):
    assert "must be DataLoaders with a batch_size" in found[0]["list"]
    assert "got list" in found[0]["list"]


# Alone


def test_alone_nothing_is_changed(tmp_path):
    loader = [distributed_run.data(2)[:]]
    model = distributed_run.network()
    device = distributed.join_group("cpu")
    assert device == torch.device("cpu")
    assert distributed.world_size() == 1
    assert distributed.share_batches(loader) is loader
    assert distributed.wrap(model, device) is model
    assert distributed.gather(3) == [3]
    assert distributed.joint_count(3, model, device) == 3
    state = torch.get_rng_state()
    distributed.seed_apart()
    assert torch.equal(state, torch.get_rng_state())


def test_batch_norm_over_processes_needs_gpus():
    model = nn.BatchNorm2d(1)
    with pytest.raises(ValueError, match="sync_batch_norm=True needs GPUs"):
        distributed.wrap(model, torch.device("cpu"), sync_batch_norm=True)
