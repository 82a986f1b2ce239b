"""Schedules: values worked by hand, and a scheduler that torch can save."""

import pytest
import torch
from torch import nn

from medseg.schedules import cosine, polynomial


def rates(make, steps, lr=0.1, **options):
    """Learning rates that the steps use."""
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=lr)
    scheduler = make(optimizer, **options)
    found = []
    for _ in range(steps):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return found


def test_polynomial_by_hand():
    # 0.1 * (1 - i / 4) ** 2
    assert rates(polynomial, 6, total=4, power=2) == pytest.approx(
        [0.1, 0.1 * 9 / 16, 0.1 / 4, 0.1 / 16, 0, 0]
    )
    # nnU-Net's: 1 % of the way before the end, 0.01 ** 0.9 of the rate is left
    assert rates(polynomial, 100, total=100)[-1] == pytest.approx(0.1 * 0.01**0.9)


def test_cosine_by_hand():
    # cos 0, pi / 3, pi / 2, 2 pi / 3, pi
    expected = [1, 0.75, 0.5, 0.25, 0]
    found = rates(cosine, 7, lr=1, total=6)
    assert [found[i] for i in (0, 2, 3, 4, 6)] == pytest.approx(expected)
    found = rates(cosine, 8, lr=1, total=6, floor=0.2)
    assert [found[i] for i in (0, 3, 6, 7)] == pytest.approx([1, 0.6, 0.2, 0.2])


@pytest.mark.parametrize("make", [polynomial, cosine])
def test_warm_up_rises_in_a_line_and_joins_the_fall(make):
    found = rates(make, 8, lr=1, total=7, warm_up=3)
    assert found[:4] == pytest.approx([0.25, 0.5, 0.75, 1])
    assert found[3:] == pytest.approx(rates(make, 5, lr=1, total=4))


def test_groups_keep_their_own_rates():
    slow, fast = ({"params": [nn.Parameter(torch.zeros(1))], "lr": r} for r in (1, 10))
    optimizer = torch.optim.SGD([slow, fast])
    scheduler = polynomial(optimizer, 2, power=1)
    optimizer.step()
    scheduler.step()
    assert [group["lr"] for group in optimizer.param_groups] == [0.5, 5]


def test_state_survives_a_file_without_code(tmp_path):
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1)
    scheduler = cosine(optimizer, 4)
    optimizer.step()
    scheduler.step()
    torch.save(scheduler.state_dict(), tmp_path / "s.pth")
    other = cosine(torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1), 4)
    other.load_state_dict(torch.load(tmp_path / "s.pth", weights_only=True))
    assert other.last_epoch == 1
    assert other.get_last_lr() == scheduler.get_last_lr()


@pytest.mark.parametrize(
    ("make", "options", "message"),
    [
        (polynomial, {"total": 0}, "total must be at least 1 .* got total=0"),
        (cosine, {"total": 5, "warm_up": 5}, "more than warm_up, .* warm_up=5"),
        (polynomial, {"total": 5, "power": 0}, "power must be above 0, got 0"),
        (cosine, {"total": 5, "floor": 2}, "floor must lie between 0 and 1, got 2"),
    ],
)
def test_settings_out_of_range(make, options, message):
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1)
    with pytest.raises(ValueError, match=message):
        make(optimizer, **options)
