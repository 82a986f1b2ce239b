"""The public data sets: where they come from, and on what terms.

Sizes are rough where no exact one is known. No checksum is invented: without one, that
of the first download is recorded and later ones are held against it.
"""

from medseg.datasets._facts import DatasetInfo, Download

GB = 1_000_000_000
MB = 1_000_000

MICROSCOPY = (
    DatasetInfo(
        name="dsb2018",
        title="Data Science Bowl 2018 nuclei (BBBC038v1), stage 1 training images",
        task="instance and binary segmentation of cell nuclei, 2D",
        modality="light microscopy, mostly fluorescence, some stained tissue",
        classes=("background", "nucleus"),
        spatial_dims=2,
        licence="CC0-1.0",
        citation="Caicedo et al. Nucleus segmentation across imaging experiments: the "
        "2018 Data Science Bowl. Nature Methods 16:1247-1253 (2019). "
        "doi:10.1038/s41592-019-0612-7",
        page="https://bbbc.broadinstitute.org/BBBC038",
        downloads=(
            Download(
                "https://data.broadinstitute.org/bbbc/BBBC038/stage1_train.zip",
                83 * MB,
                "*/images/*.png",
            ),
        ),
        size_bytes=83 * MB,
        disk_bytes=400 * MB,
        folder="dsb2018_nuclei",
        layout="stage1_train/<ImageId>/{images,masks}/*.png, or images/<ImageId>.png "
        "with masks/<ImageId>.png of nucleus numbers",
        notes="523 of the 670 images are used: 328 to train, 84 to validate, 111 to "
        "test. The others are withheld for a hidden test. Crops of one mosaic are one "
        "group, found from continuing image borders. The archive lacks the community's "
        "later corrections of masks.",
    ),
    DatasetInfo(
        name="isbi2012",
        title="ISBI 2012 challenge: neuronal structures in electron microscopy",
        task="binary segmentation of cell interior and membrane, slices of a stack",
        modality="serial section transmission electron microscopy, 4 x 4 x 50 nm",
        classes=("membrane", "cell interior"),
        spatial_dims=2,
        licence="free for non-commercial segmentation software, with citation",
        citation="Cardona et al. An integrated micro- and macroarchitectural analysis "
        "of the Drosophila brain. PLoS Biology 8(10):e1000502 (2010); "
        "Arganda-Carreras et al. Crowdsourcing the creation of image segmentation "
        "algorithms for connectomics. Frontiers in Neuroanatomy 9:142 (2015). "
        "doi:10.3389/fnana.2015.00142",
        page="https://imagej.net/events/isbi-2012-segmentation-challenge",
        downloads=(),
        size_bytes=16 * MB,
        disk_bytes=16 * MB,
        folder="isbi2012_em_membrane",
        layout="train-volume.tif with train-labels.tif, or images/<00..29>.png with "
        "masks/<00..29>.png",
        notes="24 of the 30 labelled slices are used, in blocks along the stack: 0-15 "
        "to train, 16-19 to validate, 20-23 to test; 24-29 are withheld for a hidden "
        "test. Label 1 is cell interior, 0 membrane. One animal, one stack.",
    ),
    DatasetInfo(
        name="vnc",
        title="Segmented anisotropic ssTEM data set of neural tissue, stack 1",
        task="segmentation into nine classes, slices of a stack",
        modality="serial section transmission electron microscopy, 4.6 x 4.6 x 45-50 "
        "nm",
        classes=(
            "membrane, 0 degrees",
            "membrane, 45 degrees",
            "membrane, 90 degrees",
            "membrane, 135 degrees",
            "membrane junction",
            "glia and extracellular space",
            "mitochondrion",
            "synapse",
            "cell interior",
        ),
        spatial_dims=2,
        licence="CC-BY-NC-SA-3.0 in the authors' repository (CC-BY-4.0 at figshare)",
        citation="Gerhard et al. Segmented anisotropic ssTEM dataset of neural tissue. "
        "figshare (2013). doi:10.6084/m9.figshare.856713",
        page="https://github.com/unidesigner/groundtruth-drosophila-vnc",
        downloads=(),
        size_bytes=25 * MB,
        disk_bytes=25 * MB,
        folder="vnc_sstem_multiclass",
        layout="stack1/raw/<00..19>.tif with stack1/labels/labels000000<00..19>.png, "
        "or images/<00..19>.tif with masks/<00..19>.png",
        notes="16 of the 20 slices are used, in blocks along the stack: 0-9 to train, "
        "10-12 to validate, 13-15 to test; 16-19 are withheld for a hidden test. The "
        "nine grey values of the label files, 0, 32, ... 255, become 0..8 in their "
        "order. Synapses are well under 1 % of the pixels.",
    ),
)

MONTGOMERY = DatasetInfo(
    name="montgomery",
    title="Montgomery County chest X-rays with lung masks",
    task="binary segmentation of the lung fields, 2D",
    modality="chest radiograph, postero-anterior",
    classes=("background", "lung"),
    spatial_dims=2,
    licence="terms of the NLM: attribute the source and cite (no standard licence)",
    citation="Jaeger et al. Automatic tuberculosis screening using chest radiographs. "
    "IEEE Transactions on Medical Imaging 33(2):233-245 (2014); Candemir et al. Lung "
    "segmentation in chest radiographs using anatomical atlases with nonrigid "
    "registration. IEEE Transactions on Medical Imaging 33(2):577-590 (2014)",
    page="https://lhncbc.nlm.nih.gov/LHC-downloads/downloads.html",
    downloads=(
        Download(
            "https://openi.nlm.nih.gov/imgs/collections/NLM-MontgomeryCXRSet.zip",
            617 * MB,
            "MontgomerySet/CXR_png/*.png",
            checksum="sha256:54601e952315d8f67383e9202a6e1459"
            "97ade429f54f7e0af44b4e158714f424",
            trusted=False,
        ),
    ),
    size_bytes=617 * MB,
    disk_bytes=1300 * MB,
    folder="montgomery_cxr_lungs",
    layout="MontgomerySet/CXR_png/<name>.png with MontgomerySet/ManualMask/{leftMask,"
    "rightMask}/<name>.png, or images/<name>.png with masks/<name>.png",
    notes="110 of the 138 films are used: 71 to train, 17 to validate, 22 to test; the "
    "others are withheld for a hidden test. The masks of the two lungs are merged, and "
    "what exceeds 127 is lung. The last digit of a name: 0 normal, 1 tuberculosis. No "
    "patient numbers are published; two films that look like one patient are a group.",
)


def _isic(
    year: str,
    licence: str,
    citation: str,
    sizes: tuple[int, int],
    notes: str,
    downloads: tuple[tuple[str, int | None, str], ...],
) -> DatasetInfo:
    base = f"https://isic-challenge-data.s3.amazonaws.com/{year}/"
    return DatasetInfo(
        name=f"isic{year}",
        title=f"ISIC {year} challenge, lesion segmentation",
        task="binary segmentation of skin lesions, 2D",
        modality="dermoscopy, colour",
        classes=("background", "lesion"),
        spatial_dims=2,
        licence=licence,
        citation=citation,
        page="https://challenge.isic-archive.com/data/",
        downloads=tuple(
            Download(
                f"{base}{name}.zip",
                size,
                "*.png" if "GroundTruth" in name else "ISIC_???????.jpg",
                checksum,
            )
            for name, size, checksum in downloads
        ),
        size_bytes=sizes[0],
        disk_bytes=sizes[1],
        folder="isic2017_lesion" if year == "2017" else f"isic{year}_lesion",
        layout="the unpacked folders of the challenge, "
        f"{downloads[0][0]}/ISIC_???????.jpg with {downloads[1][0]}/"
        f"ISIC_???????_{'S' if year == '2016' else 's'}egmentation.png, and so on",
        notes=notes,
    )


ISIC = (
    _isic(
        "2016",
        "CC0-1.0",
        "Gutman et al. Skin lesion analysis toward melanoma detection: a challenge at "
        "the International Symposium on Biomedical Imaging (ISBI) 2016. "
        "arXiv:1605.01397 (2016)",
        (850 * MB, 2 * GB),
        "900 images to train and 379 to test, as in the challenge; 15 % of the first, "
        "by hash of their names, are for validation. Neither patients nor lesions are "
        "named. The years of the challenge share images: never test on one after "
        "training on another.",
        (
            (
                "ISBI2016_ISIC_Part1_Training_Data",
                None,
                "md5:2029f387e62dcc062b1370b1efc1f7fb",
            ),
            (
                "ISBI2016_ISIC_Part1_Training_GroundTruth",
                None,
                "md5:fbd77134298f3511479a37bac93109c7",
            ),
            (
                "ISBI2016_ISIC_Part1_Test_Data",
                None,
                "md5:efebcaeaae751007401a40a60d391f93",
            ),
            (
                "ISBI2016_ISIC_Part1_Test_GroundTruth",
                None,
                "md5:492a7711a2e19b96114cab6c96bd1ad5",
            ),
        ),
    ),
    _isic(
        "2017",
        "CC0-1.0",
        "Codella et al. Skin lesion analysis toward melanoma detection: a challenge at "
        "the 2017 International Symposium on Biomedical Imaging (ISBI), hosted by the "
        "International Skin Imaging Collaboration (ISIC). arXiv:1710.05006 (2017)",
        (13 * GB, 27 * GB),
        "2000 images to train, 150 to validate, 600 to test, as in the challenge. A "
        "packed copy with images/ and masks/ has 160 of the training images, split "
        "104, 24, 32 by the list of this package. Neither patients nor lesions are "
        "named. The years of the challenge share images: never test on one after "
        "training on another.",
        (
            (
                "ISIC-2017_Training_Data",
                6_200 * MB,
                "md5:a14a7e622c67a358797ae59abb8a0b0c",
            ),
            (
                "ISIC-2017_Training_Part1_GroundTruth",
                None,
                "md5:77fdbeb6fbec4139937224416b250f4c",
            ),
            (
                "ISIC-2017_Validation_Data",
                900 * MB,
                "md5:8d6419d942112f709894c0d82f6c9038",
            ),
            (
                "ISIC-2017_Validation_Part1_GroundTruth",
                None,
                "md5:64d3e68fa2deeb8a5e89aa8dec2efd44",
            ),
            (
                "ISIC-2017_Test_v2_Data",
                5_800 * MB,
                "md5:5f6a0b5e1f2972bd1f5ea02680489f09",
            ),
            (
                "ISIC-2017_Test_v2_Part1_GroundTruth",
                None,
                "md5:b1742de6bd257faca3b2b21a4aa3b781",
            ),
        ),
    ),
    _isic(
        "2018",
        "CC-BY-NC-4.0",
        "Codella et al. Skin lesion analysis toward melanoma detection 2018: a "
        "challenge hosted by the International Skin Imaging Collaboration (ISIC). "
        "arXiv:1902.03368 (2019)",
        (14 * GB, 29 * GB),
        "Task 1: 2594 images to train, 100 to validate, 1000 to test, as in the "
        "challenge. Neither patients nor lesions are named. The years of the challenge "
        "share images: never test on one after training on another.",
        (
            (
                "ISIC2018_Task1-2_Training_Input",
                11_200 * MB,
                "md5:8b5be801f37b58ccf533df2928a5906b",
            ),
            (
                "ISIC2018_Task1_Training_GroundTruth",
                27_402_895,
                "md5:ee5e5db7771d48fa2613abc7cb5c24e2",
            ),
            (
                "ISIC2018_Task1-2_Validation_Input",
                239_231_159,
                "md5:d8f15a08981c8d6c0646b5e3228ef20d",
            ),
            (
                "ISIC2018_Task1_Validation_GroundTruth",
                759_706,
                "md5:2323d7ed9350de0a463d529ef45a62f4",
            ),
            (
                "ISIC2018_Task1-2_Test_Input",
                2_400 * MB,
                "md5:0a9ba80e1aee58716fbfcdde7131c45a",
            ),
            (
                "ISIC2018_Task1_Test_GroundTruth",
                None,
                "sha256:2e8f6edce454a5bdee52485e39f92bd6eddf357e81f39018d05512175238ef82",
            ),
        ),
    ),
)


def _chaos(modality: str, classes: tuple[str, ...], notes: str) -> DatasetInfo:
    return DatasetInfo(
        name=f"chaos_{modality.lower()}",
        title=f"CHAOS challenge, {modality} training scans of the abdomen",
        task=f"segmentation of {' and '.join(classes[1:])}, 3D",
        modality={"CT": "CT, portal venous phase", "MR": "MR, T1-DUAL and T2-SPIR"}[
            modality
        ],
        classes=classes,
        spatial_dims=3,
        licence="CC-BY-NC-SA-4.0",
        citation="Kavur et al. CHAOS challenge: combined (CT-MR) healthy abdominal "
        "organ segmentation. Medical Image Analysis 69:101950 (2021). "
        "doi:10.1016/j.media.2020.101950",
        page="https://doi.org/10.5281/zenodo.3362844",
        downloads=(
            Download(
                "https://zenodo.org/records/3431873/files/CHAOS_Train_Sets.zip",
                890_771_694,
                f"**/{modality}/*/**/Ground/*.png",
                checksum="md5:df21053002a1cc86df918a87da3b2c19",
            ),
        ),
        size_bytes=890_771_694,
        disk_bytes=2 * GB,
        folder="chaos",
        layout="Train_Sets/{CT,MR}/<patient>/..., as unpacked",
        notes=notes + " CT and MR are of different people. Only the training scans "
        "have a public reference. Split by patient, by hash of the patient's number: "
        "20 % to test, 15 % to validate.",
    )


CHAOS = (
    _chaos("CT", ("background", "liver"), "20 patients."),
    _chaos(
        "MR",
        ("background", "liver", "right kidney", "left kidney", "spleen"),
        "20 patients with three images each, T1 in phase, T1 out of phase and T2: 60 "
        "cases in 20 groups. The two phases of T1 share one reference.",
    ),
)


# number, name, modality, classes, training scans, bytes, MD5 of the .tar
_DECATHLON: tuple[tuple[str, str, tuple[str, ...], int, int, str], ...] = (
    (
        "BrainTumour",
        "MR: FLAIR, T1w, T1gd, T2w",
        ("edema", "non-enhancing tumour", "enhancing tumour"),
        484,
        7_090 * MB,
        "240a19d752f0d9e9101544901065d872",
    ),
    (
        "Heart",
        "MR",
        ("left atrium",),
        20,
        430 * MB,
        "06ee59366e1e5124267b774dbd654057",
    ),
    (
        "Liver",
        "CT, portal venous phase",
        ("liver", "cancer"),
        131,
        28_700 * MB,
        "a90ec6c4aa7f6a3d087205e23d4e6397",
    ),
    (
        "Hippocampus",
        "MR",
        ("anterior", "posterior"),
        260,
        27 * MB,
        "9d24dba78a72977dbd1d2e110310f31b",
    ),
    (
        "Prostate",
        "MR: T2, ADC",
        ("peripheral zone", "transition zone"),
        32,
        230 * MB,
        "35138f08b1efaef89d7424d2bcc928db",
    ),
    ("Lung", "CT", ("cancer",), 63, 8_500 * MB, "8afd997733c7fc0432f71255ba4e52dc"),
    (
        "Pancreas",
        "CT, portal venous phase",
        ("pancreas", "cancer"),
        281,
        12_200 * MB,
        "4f7080cfca169fa8066d17ce6eb061e4",
    ),
    (
        "HepaticVessel",
        "CT",
        ("vessel", "tumour"),
        303,
        8_700 * MB,
        "641d79e80ec66453921d997fbf12a29c",
    ),
    ("Spleen", "CT", ("spleen",), 41, 1_500 * MB, "410d4a301da4e5b2f6f86ec3ddba524e"),
    (
        "Colon",
        "CT",
        ("colon cancer primaries",),
        126,
        5_800 * MB,
        "bad7a188931dc2f6acf72b08eb6202d0",
    ),
)


def _decathlon(
    number: int,
    organ: str,
    modality: str,
    classes: tuple[str, ...],
    count: int,
    size: int,
    md5: str,
) -> DatasetInfo:
    task = f"Task{number:02d}_{organ}"
    notes = (
        f"{count} scans with a reference. Split by scan, by hash of its name: 20 % to "
        "test, 15 % to validate. Patients are not named. The challenge's own test "
        "scans have no public reference."
    )
    if number == 4:
        notes = (
            "208 of the 260 scans with a reference are used: 134 to train, 32 to "
            "validate, 42 to test; the others are withheld for a hidden test. Patients "
            "are not named: the two hippocampi of one may be in different splits. 55 "
            "images are stored as 8-bit integers, the others as floating point, with "
            "very different ranges."
        )
    return DatasetInfo(
        name=f"msd_task{number:02d}",
        title=f"Medical Segmentation Decathlon, {task}",
        task=f"segmentation of {', '.join(classes)}, 3D",
        modality=modality,
        classes=("background", *classes),
        spatial_dims=3,
        licence="CC-BY-SA-4.0",
        citation="Antonelli et al. The Medical Segmentation Decathlon. Nature "
        "Communications 13:4128 (2022). doi:10.1038/s41467-022-30695-9",
        page="http://medicaldecathlon.com",
        downloads=(
            Download(
                f"https://msd-for-monai.s3-us-west-2.amazonaws.com/{task}.tar",
                size,
                "dataset.json",
                checksum=f"md5:{md5}",
            ),
        ),
        size_bytes=size,
        disk_bytes=2 * size + 100 * MB,
        folder=f"msd_task{number:02d}_{organ.lower()}",
        layout=f"{task}/dataset.json with imagesTr/*.nii.gz and labelsTr/*.nii.gz",
        notes=notes,
    )


def entries() -> tuple[DatasetInfo, ...]:
    """All public data sets, in the order in which they are listed."""
    decathlon = (_decathlon(i, *facts) for i, facts in enumerate(_DECATHLON, start=1))
    return (*MICROSCOPY, MONTGOMERY, *ISIC, *CHAOS, *decathlon)
