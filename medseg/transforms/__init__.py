"""Augmentation and normalisation, for images and for volumes.

    train_transform            resize, turn, mirror, normalise, to tensor
    val_transform              resize, normalise, to tensor
    make_strong_transform      for small data sets: bent, lit otherwise, noisy
    make_ct_train_transform    slices in HU, through a window that changes
    make_volume_transform      volumes, turned and bent in mm
    ElasticGrid                the elastic deformation of the U-Net's paper
    BiasField, Ghosting, Gamma, RicianNoise, WindowJitter     what scanners do

Pipelines are albumentations ``Compose`` objects, and steps fit into your own. Called
with ``image=`` and ``mask=`` (and ``weights=`` or others, with
``additional_targets``), they move all together; masks are never interpolated. Chance: a
``Compose`` draws from a generator of its own, which ``torch.manual_seed`` does not
reach and which every worker of a ``DataLoader`` gets a copy of. The data sets of
``medseg.datasets`` mend this.
"""

import os

# Without it the import asks the package index for a newer version.
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")

from medseg.transforms._elastic import ElasticGrid, elastic_field, warp
from medseg.transforms._intensity import (
    BiasField,
    Gamma,
    Ghosting,
    RicianNoise,
    WindowJitter,
)
from medseg.transforms._pipelines import (
    make_ct_train_transform,
    make_ct_val_transform,
    make_strong_transform,
    make_train_transform,
    make_val_transform,
)
from medseg.transforms._volumes import (
    VolumeTransform,
    make_volume_transform,
    rotation_matrix,
    warp_volume,
)

__all__ = [
    "BiasField",
    "ElasticGrid",
    "Gamma",
    "Ghosting",
    "RicianNoise",
    "VolumeTransform",
    "WindowJitter",
    "elastic_field",
    "make_ct_train_transform",
    "make_ct_val_transform",
    "make_strong_transform",
    "make_train_transform",
    "make_val_transform",
    "make_volume_transform",
    "rotation_matrix",
    "train_transform",
    "val_transform",
    "warp",
    "warp_volume",
]

train_transform = make_train_transform()
val_transform = make_val_transform()
