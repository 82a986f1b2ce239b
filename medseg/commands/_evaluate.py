"""``medseg evaluate``: masks against a reference."""

from pathlib import Path

import numpy as np

from medseg.commands._reports import files_of, number, summary, to_json
from medseg.imagefiles import pair_files, read_mask
from medseg.metrics import dice_score, iou_score
from medseg.statistics import bootstrap_interval


def evaluate(*, pred: Path, truth: Path, classes: int, json: bool) -> int:
    """Score masks against a reference, image by image."""
    if pred.is_dir() != truth.is_dir():
        raise ValueError(f"give two folders or two files, got {pred} and {truth}.")
    if pred.is_dir():
        preds, truths = pair_files(pred, truth)
    else:
        preds, truths = files_of(pred), files_of(truth)
    table, missed = [], 0  # (images, foreground classes, 2)
    for pred_path, truth_path in zip(preds, truths, strict=True):
        ours, theirs = read_mask(pred_path, classes), read_mask(truth_path, classes)
        if ours.shape != theirs.shape:
            raise ValueError(
                f"{pred_path} has {ours.shape} pixels, but its reference {truth_path} "
                f"has {theirs.shape}. Resize the prediction to the reference."
            )
        row = []
        for label in range(1, max(classes, 2)):
            pair = ours == label, theirs == label
            row.append((dice_score(*pair), iou_score(*pair)))
            missed += bool(pair[1].any() and not pair[0].any())
        table.append(row)
    scores = np.array(table)
    undefined = int(np.isnan(scores[..., 0]).sum())
    defined = ~np.isnan(scores)
    sums = np.where(defined, scores, 0).sum(axis=1)  # (images, 2)
    counts = defined.sum(axis=1)
    means = np.where(counts, sums / np.maximum(counts, 1), np.nan)
    intervals = [bootstrap_interval(column) for column in means.T]
    if json:
        report = {
            "dice": summary(intervals[0]),
            "iou": summary(intervals[1]),
            "missed": missed,
            "undefined": undefined,
            "images": [
                {"name": path.name, "dice": number(dice), "iou": number(iou)}
                for path, (dice, iou) in zip(preds, means, strict=True)
            ],
        }
        print(to_json(report))
        return 0
    wide = max(len(path.name) for path in preds)
    print(f"{'image':{wide}}    Dice     IoU")
    for path, (dice, iou) in zip(preds, means, strict=True):
        print(f"{path.name:{wide}}  {dice:6.4f}  {iou:6.4f}")
    print(
        f"\nDice  {intervals[0]}\nIoU   {intervals[1]}\n"
        "mean over images, with its 95 % bootstrap interval\n"
        f"missed: {missed} (in the reference, and not found; scored 0)\n"
        f"undefined: {undefined} (empty in both; left out)"
    )
    return 0
