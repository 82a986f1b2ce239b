"""The script that the book is built around runs as it is printed."""

import numpy as np
import pytest
import torch
from skimage.io import imsave
from torch import nn, optim
from torch.utils.data import DataLoader

from medseg import datasets, phantoms
from medseg.datasets import MedicalImageDataset
from medseg.models.unet import UNet
from medseg.training import train
from medseg.transforms import train_transform, val_transform

LISTING = """
train_dataset = MedicalImageDataset(train_images_dir, train_masks_dir, train_transform)
val_dataset = MedicalImageDataset(val_images_dir, val_masks_dir, val_transform)
train_loader = DataLoader(train_dataset, batch_size=4, shuffle=True)
val_loader = DataLoader(val_dataset, batch_size=4)
device = torch.device('cuda' if torch.cuda.is_available() else 'cpu')
model = UNet(in_channels=3, out_channels=1).to(device)
criterion = nn.BCEWithLogitsLoss()
optimizer = optim.Adam(model.parameters(), lr=1e-4)
train(model, train_loader, val_loader, criterion, optimizer, num_epochs=50, device=device)
"""  # noqa: E501


def real_nuclei(folder, split, count):
    """Write a few cases of DSB 2018 as images and 8-bit masks of 0 and 255."""
    images, masks = folder / "images", folder / "masks"
    for case in datasets.load("dsb2018", split, limit=count):
        images.mkdir(parents=True, exist_ok=True)
        masks.mkdir(exist_ok=True)
        imsave(images / f"{case.name}.png", case.image, check_contrast=False)
        mask = np.uint8(255) * (case.labels > 0)
        imsave(masks / f"{case.name}.png", mask, check_contrast=False)
    return images, masks


@pytest.mark.slow
def test_the_listing_trains_and_leaves_its_weights(tmp_path, monkeypatch):
    if datasets.is_available("dsb2018"):  # under MEDSEG_DATA
        train_dirs = real_nuclei(tmp_path / "train", "train", 3)
        val_dirs = real_nuclei(tmp_path / "val", "val", 1)
    else:
        train_dirs = phantoms.write_cells(tmp_path / "train", 3, seed=0)
        val_dirs = phantoms.write_cells(tmp_path / "val", 1, seed=1)

    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    initial = UNet(in_channels=3, out_channels=1).state_dict()
    torch.manual_seed(0)
    names = {
        "train_images_dir": train_dirs[0],
        "train_masks_dir": train_dirs[1],
        "val_images_dir": val_dirs[0],
        "val_masks_dir": val_dirs[1],
        "MedicalImageDataset": MedicalImageDataset,
        "train_transform": train_transform,
        "val_transform": val_transform,
        "DataLoader": DataLoader,
        "UNet": UNet,
        "train": train,
        "torch": torch,
        "nn": nn,
        "optim": optim,
    }
    exec(LISTING.replace("num_epochs=50", "num_epochs=1"), names)

    weights = torch.load(tmp_path / "best_model.pth", weights_only=True)
    assert weights.keys() == initial.keys()
    # The first step of Adam moves a weight by the learning rate at most.
    name = "head.weight"
    step = (weights[name].cpu() - initial[name]).abs().max().item()
    assert step == pytest.approx(1e-4, rel=0.01)
