"""What every test starts from."""

import os

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
os.environ.setdefault("MPLBACKEND", "Agg")

import pytest
import torch


@pytest.fixture(autouse=True)
def seeded():
    """The same random numbers whichever tests ran before."""
    torch.manual_seed(0)


def pytest_collectstart():
    """Networks in parameter lists, which are built on import, repeat too."""
    torch.manual_seed(0)
