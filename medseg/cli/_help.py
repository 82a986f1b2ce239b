"""What ``--help`` says: what a command is for, and examples."""

DESCRIPTION = """\
Segment medical images with a U-Net, from the command line.

  medseg demo        see it work: draws images, trains, writes a picture and a report
  medseg doctor      check the installation

Every command has its own --help, with examples. Results go to stdout, progress and
errors to stderr. Exit status: 0 if all went well, 1 if a check failed, 2 for bad input,
130 after Ctrl-C."""

TRAIN_HELP = """\
Train a U-Net on a folder of images and a folder of masks; on a folder of scans
(.nii.gz, .nii, .nrrd, .mha), a 3D U-Net on patches of them.

The mask of x.png is x.png, x_mask.png or x_segmentation.png; that of x.nii.gz is
x.nii.gz, or x_mask, x_seg, x_label. A mask is 0 and 255 (or 0 and 1); with --classes K
it holds class numbers from 0. The weights of the epoch with the highest validation Dice
are kept, beside a small file with the network's settings that `medseg predict` reads.

Ctrl-C keeps what is done: --resume goes on with the next step. Under torchrun each of
several GPUs takes its part of every batch."""

TRAIN_EXAMPLES = """\
examples:
  medseg train images masks
      a fifth of the images, chosen by a hash of their names, is used to validate
  medseg train images masks --patients 'case_([0-9]+)'
      the honest way if one patient has several images: no patient in both
  medseg train images masks --val-images val/images --val-masks val/masks
      validate on a folder of your own
  medseg train images masks --epochs 100 --resume
      go on after an interruption, or for more epochs
  medseg train images masks --widths 64 128 256 512 1024 --batch-size 4
      the network of the paper, for a GPU
  medseg train images masks --batch-size 2 --accumulate 4
      steps of 8 images in the memory of 2
  medseg train imagesTr labelsTr --classes 3 --patch 32 48 32
      a task of the Medical Segmentation Decathlon, in 3D
  torchrun --nproc-per-node 4 -m medseg train images masks
      on four GPUs"""

PREDICT_HELP = """\
Write a mask for each image: a PNG of the image's own size, 0 and 255, or class numbers
if the network has several classes. A network for scans writes a .nii.gz in the scan's
own grid, window by window."""

PREDICT_EXAMPLES = """\
examples:
  medseg predict best_model.pth new/images --out new/masks
  medseg predict best_model.pth scan.png --out . --force
  medseg predict best_model.pth imagesTs --out labelsTs --json > masks.json"""

EVALUATE_HELP = """\
Compare predicted masks with the reference: the mean of each score, its bootstrap
interval over patients, what was missed and what was invented.

A structure that is missed or invented has the worst score and stays in the mean. Where
both masks are empty, a score is undefined: it is counted, and left out. Scans bring
their spacing, and are scored by distances, too; for images give --spacing."""

EVALUATE_EXAMPLES = """\
examples:
  medseg evaluate new/masks reference/masks
  medseg evaluate prediction.png reference.png --spacing 0.5 0.5
  medseg evaluate new/masks reference/masks --patients patients.csv --csv scores.csv
  medseg evaluate labelsTs reference --classes 3 --names background left right
  medseg evaluate new/masks reference/masks --json > scores.json"""

DEMO_EXAMPLES = """\
examples:
  medseg demo
  medseg predict medseg_demo/best_model.pth medseg_demo/test/images --out predicted
  medseg evaluate predicted medseg_demo/test/masks"""

EXPORT_HELP = """\
Write a network as ONNX or as a program of torch.export, with what must be known to use
it: names of channels and classes, size and intensities of the images.

Exit status 1 if the file and the network disagree by more than 1e-4."""

EXPORT_EXAMPLES = """\
examples:
  medseg export best_model.pth --format onnx --out cells.onnx --check
  medseg export best_model.pth --format program --class-names cell
  medseg export --verify cells.onnx"""

DESCRIBE_EXAMPLES = """\
examples:
  medseg describe
  medseg describe unet --widths 16 32 64 128 256 --size 128
  medseg describe unet2015 --channels 1 --classes 2 --size 572"""

DATASETS_EXAMPLES = """\
examples:
  medseg datasets list
  medseg datasets info dsb2018
  medseg datasets get dsb2018 --dir ~/data
  medseg datasets check-split train test --group '(P[0-9]+)_'
  medseg datasets check-split images --split split.csv"""

DOCTOR_EXAMPLES = """\
examples:
  medseg doctor
  medseg doctor --json > doctor.json      to send with a question"""

TEXTS = {  # summary, description, examples
    "demo": (
        "draw images, train on them, show the result: a minute, no data needed",
        "Draw images of cells, train a small U-Net on them, and test it on others. It "
        "takes about\na minute on two cores, and leaves a picture, a report, and the "
        "images and the network to\ntry the other commands on.",
        DEMO_EXAMPLES,
    ),
    "train": (
        "train on your own images or scans",
        TRAIN_HELP,
        TRAIN_EXAMPLES,
    ),
    "predict": (
        "write masks for your images",
        PREDICT_HELP,
        PREDICT_EXAMPLES,
    ),
    "evaluate": (
        "compare masks with a reference",
        EVALUATE_HELP,
        EVALUATE_EXAMPLES,
    ),
    "export": (
        "write a network for other programs: ONNX, torch.export",
        EXPORT_HELP,
        EXPORT_EXAMPLES,
    ),
    "describe": (
        "show a network: shapes, parameters, receptive field",
        "Print each layer's output shape, parameters, multiply-adds and receptive "
        "field.",
        DESCRIBE_EXAMPLES,
    ),
    "datasets": (
        "public data sets: list, facts, download; check a split for leaks",
        "List the public data sets, show source, licence and size of one, or download "
        "it (a\ndownload that broke off goes on where it stopped).\n\n"
        "check-split looks for patients and for nearly equal images that are on two "
        "sides of a\nsplit. Exit status 1 if there are any.",
        DATASETS_EXAMPLES,
    ),
    "doctor": (
        "check the installation",
        "Check versions, device, optional packages, data and free disk. Exit status 1 "
        "if something\nis wrong; what is optional may be missing.",
        DOCTOR_EXAMPLES,
    ),
}
