"""The examples of the book's page on data sets run as they are printed."""

import re
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from layouts import (
    PARTS_2018,
    chaos_ct,
    chaos_mr,
    decathlon_tree,
    isbi_stacks,
    isic_tree,
    kaggle_tree,
    montgomery_tree,
    vnc_tree,
    write,
    write_slice,
)
from pydicom.uid import generate_uid

from medseg import datasets, dicom

PAGE = Path(__file__).parents[1] / "book" / "data.md"


def cards_of(text):
    """The Python blocks of each part that begins with a label, with their first lines.

    A label is such as ``(data-msd)=``. What lies before the first is of the card "".
    """
    cards, card, block, fence = {"": []}, "", None, ""
    for number, line in enumerate(text.splitlines(), start=1):
        if block is not None:
            if line.strip() == fence:
                cards[card].append(block)
                block = None
            else:
                block[1].append(line)
        elif found := re.fullmatch(r"(`{3,})\s*(?:python|\{code-block\} python)", line):
            fence, block = found[1], (number + 1, [])
        elif found := re.fullmatch(r"\((data-[\w-]+)\)=", line):
            card = found[1]
            assert card not in cards, f"two cards are called {card}"
            cards[card] = []
    assert block is None, f"the block from line {block[0]} on has no end"
    return cards


CARDS = cards_of(PAGE.read_text(encoding="utf-8"))


def run(blocks):
    """Run the blocks in one namespace; errors name the page and its line."""
    space = {"__name__": "__main__"}
    for first, lines in blocks:
        code = "\n" * (first - 1) + "\n".join(lines)
        exec(compile(code, str(PAGE), "exec"), space)


# What each card finds on the disk: the first argument is MEDSEG_DATA, the second the
# folder in which a reader would work.


def listed(name):
    return [row.id for row in datasets._splits.stored_split(name)]


def nuclei(root, _):
    ids = [name + "0" * 52 for name in listed("dsb2018")]
    kaggle_tree(root / "dsb2018_nuclei" / "stage1_train", ids)


def films(root, _):
    folder = root / "montgomery_cxr_lungs" / "NLM-MontgomeryCXRSet" / "MontgomerySet"
    montgomery_tree(folder, listed("montgomery"))


def abdomens(root, _):
    for patient in range(1, 5):
        chaos_ct(root / "chaos", str(patient))
        chaos_mr(root / "chaos", str(patient))


def hippocampi(root, _):
    folder = root / "msd_task04_hippocampus" / "Task04_Hippocampus"
    decathlon_tree(folder, listed("msd_task04"), mm=(1, 1, 1))


def photos(_, work):
    for patient in range(8):
        for number in range(2):
            name = f"P{patient:02d}_{number}.png"
            write(work / "photos" / "images" / name, np.full((7, 9), 99, np.uint8))
            mask = np.full((7, 9), 255 * number, np.uint8)
            write(work / "photos" / "masks" / name, mask)


def scans(_, work):
    """Axial CTs, and masks with the axes of RAS, as other programs save them."""
    for patient in ("p1", "p2", "p3"):
        folder, series = work / "scans" / patient, generate_uid()
        for k in range(4):
            pixels = np.full((6, 8), 1000 + k)
            path = folder / "ct" / f"{k}.dcm"
            write_slice(path, pixels, 5 * k, series, modality="CT", instance=k + 1)
        affine = dicom.read_series(folder / "ct").affine[:, [2, 1, 0, 3]]
        mask = np.zeros((8, 6, 4), np.float32)  # columns, rows, slices
        mask[2:5, 1:3, 1:3] = 1
        drawn = nib.as_closest_canonical(nib.Nifti1Image(mask, affine))
        nib.save(drawn, folder / "liver.nii.gz")


TREES = {
    "data-dsb2018": nuclei,
    "data-isbi2012": lambda root, _: isbi_stacks(root / "isbi2012_em_membrane"),
    "data-vnc": lambda root, _: vnc_tree(root / "vnc_sstem_multiclass", (260, 270)),
    "data-montgomery": films,
    "data-isic": lambda root, _: isic_tree(
        root / "isic2018_lesion", PARTS_2018, "_segmentation", count=5
    ),
    "data-chaos": abdomens,
    "data-msd": hippocampi,
    "data-png": photos,
    "data-dicom": scans,
}
NOT_CARDS = {"", "data-leaks"}


@pytest.mark.parametrize("card", sorted(CARDS.keys() - NOT_CARDS))
def test_examples_of_the_card_run(card, tmp_path, monkeypatch):
    assert CARDS[card], f"{card} has no example"
    assert card in TREES, f"{card} needs a tree in the layout of its publisher"
    work = tmp_path / "work"
    work.mkdir()
    TREES[card](tmp_path / "data", work)
    monkeypatch.chdir(work)
    monkeypatch.setenv("MEDSEG_DATA", str(tmp_path / "data"))
    run(CARDS[card])


def test_every_tree_belongs_to_a_card_and_every_block_to_a_tree():
    assert CARDS.keys() == TREES.keys() | NOT_CARDS
    assert not any(CARDS[card] for card in NOT_CARDS)


def test_every_public_data_set_is_in_the_table_with_a_card_that_has_an_example():
    page = PAGE.read_text(encoding="utf-8")
    links = dict(re.findall(r"\[`(\w+)`\]\(#(data-\w+)\)", page))
    for name in datasets.names():
        card = "data-msd" if name.startswith("msd_task") else links[name]
        assert CARDS[card]


@pytest.mark.parametrize("card", sorted(TREES))
def test_examples_are_short_and_state_the_shapes_of_a_batch(card):
    for _, lines in CARDS[card]:
        assert len([line for line in lines if line]) <= 15
        assert max(map(len, lines)) <= 88
    text = "\n".join(line for _, lines in CARDS[card] for line in lines)
    assert text.count(".shape == (") >= 2


@pytest.mark.parametrize("card", ["data-dsb2018", "data-msd"])
def test_one_example_of_images_and_one_of_volumes_go_the_whole_way(card):
    text = "\n".join(line for _, lines in CARDS[card] for line in lines)
    for step in ("training.train(", "inference.predict", "report.report("):
        assert step in text


def test_blocks_are_found_with_their_lines():
    text = "```python\nx\n```\n(data-a)=\n## A\n```console\n$ y\n```\n"
    text += "````python\n1\n\n2\n````\n(data-b)=\n"
    assert cards_of(text) == {
        "": [(2, ["x"])],
        "data-a": [(10, ["1", "", "2"])],
        "data-b": [],
    }
    with pytest.raises(AssertionError, match="from line 2 on has no end"):
        cards_of("```python\nx\n")


def test_a_block_that_fails_is_named_by_its_line_on_the_page():
    with pytest.raises(ZeroDivisionError) as caught:
        run([(3, ["x = 0"]), (40, ["", "1 / x"])])
    last = caught.traceback[-1]
    assert (Path(last.path), last.lineno + 1) == (PAGE, 41)
