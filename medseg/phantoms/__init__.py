"""Synthetic images with exact labels, drawn by seeded NumPy code.

    cells, phase_contrast    under a light microscope            instance numbers
    em_membranes             tissue, electron microscope         1 cell, 0 membrane
    abdomen_ct               CT slice or volume, in HU           organs, tumours
    lung_nodules             CT volume or slice, in HU           lung, nodules, a list
    brain_mr                 MR: T1, T1c, T2, FLAIR              tissues, BraTS's tumour
    cardiac_cine             MR of a beating heart, (T, D, H, W) volumes, EF
    chest_xray, mammogram    projections                         lungs, heart; lesions
    ultrasound               with speckle and shadows            a lesion, a fetal head
    skin_lesion              in colour, with hairs               the lesion
    write_cells              a folder of cells as PNG files      what `medseg demo` uses

Each image is drawn as what is there, in exact shapes; the labels are read off at
this point. Only then come the scanner's physics and noise. So the labels are exact
where an annotator could only guess, and the same seed gives the same picture.

The dials of difficulty have the same names everywhere, where the modality has them:

    noise          0 for none; in HU (``noise_hu``) for CT
    contrast       of what is to be found; 1, or the default, is usual, less is harder
    bias_field     1 - darkest / brightest: coil (MR), beam (X-ray), depth (ultrasound)
    illumination   the same of a lamp: microscope, dermatoscope
    artefacts      0 for none, 1 for many: streaks, ghosts, shadows, halos, hairs ...
    touching       how many objects touch each other

No dial changes the labels.
"""

from medseg.phantoms._abdomen import ABDOMEN_HU, abdomen_ct
from medseg.phantoms._brain import (
    BRAIN_TISSUES,
    MR_SEQUENCES,
    Echo,
    Tissue,
    brain_mr,
    mr_signal,
)
from medseg.phantoms._cells import cells, phase_contrast, write_cells
from medseg.phantoms._heart import CARDIAC_SIGNAL, cardiac_cine
from medseg.phantoms._lungs import CHEST_HU, lung_nodules
from medseg.phantoms._membranes import em_membranes
from medseg.phantoms._phantom import Phantom
from medseg.phantoms._skin import skin_lesion
from medseg.phantoms._ultrasound import ultrasound
from medseg.phantoms._xray import (
    BREAST_ATTENUATION,
    CHEST_ATTENUATION,
    chest_xray,
    mammogram,
)

__all__ = [
    "ABDOMEN_HU",
    "BRAIN_TISSUES",
    "BREAST_ATTENUATION",
    "CARDIAC_SIGNAL",
    "CHEST_ATTENUATION",
    "CHEST_HU",
    "MR_SEQUENCES",
    "Echo",
    "Phantom",
    "Tissue",
    "abdomen_ct",
    "brain_mr",
    "cardiac_cine",
    "cells",
    "chest_xray",
    "em_membranes",
    "lung_nodules",
    "mammogram",
    "mr_signal",
    "phase_contrast",
    "skin_lesion",
    "ultrasound",
    "write_cells",
]
