"""What the commands of ``medseg`` do, a few lines each around public functions.

Each function is one command: keyword arguments are its options (described in
``medseg COMMAND --help``), and it prints its result and returns the exit status. Bad
input is a ``ValueError`` or an ``OSError``, which ``medseg.cli`` turns into one line.
One file holds one command: ``medseg.commands.train`` is in ``_train.py``.
"""

from medseg.commands._datasets import datasets
from medseg.commands._demo import demo
from medseg.commands._describe import describe
from medseg.commands._doctor import doctor
from medseg.commands._evaluate import evaluate
from medseg.commands._export import export
from medseg.commands._predict import predict
from medseg.commands._train import train

__all__ = [
    "datasets",
    "demo",
    "describe",
    "doctor",
    "evaluate",
    "export",
    "predict",
    "train",
]
