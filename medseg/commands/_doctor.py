"""``medseg doctor``: versions, device, data and disk."""

import importlib.metadata
import platform
import re
import shutil
import sys

import torch

import medseg
from medseg import datasets as registry
from medseg.commands._networks import pick_device
from medseg.commands._reports import to_json
from medseg.models.unet import UNet

OPTIONAL = ("dicom", "export", "itk", "logs", "tables")  # extras for users


def doctor(*, json: bool) -> int:
    """Check versions, device, data and disk; 1 if something is wrong."""
    checks = [("python", sys.version_info >= (3, 11), platform.python_version())]
    for line in importlib.metadata.requires("medseg") or []:
        if "extra ==" not in line:
            checks.append(_check_version(line))
        elif extra := _extra_of(line):
            checks.append(_check_optional(line, extra))
    checks.append(("medseg", True, medseg.__version__))
    where = pick_device("auto")
    about = torch.cuda.get_device_name() if where.type == "cuda" else platform.machine()
    checks.append(("device", True, f"{where}, {about}"))
    checks.append(("threads", True, str(torch.get_num_threads())))
    try:
        model = UNet(1, 1, widths=(4, 8)).to(where)
        model(torch.zeros(2, 1, 16, 16, device=where)).sum().backward()
        checks.append(("training", True, f"a step works on {where}"))
    except RuntimeError as error:
        checks.append(("training", False, f"a step fails on {where}: {error}"))
    root = registry.data_root()
    for known in registry.names():
        here = registry.is_available(known)
        text = str(registry.find(known)) if here else f"not in {root} (optional)"
        checks.append((f"data {known}", True, text))
    disk = next(
        folder for folder in (root, *root.absolute().parents) if folder.is_dir()
    )
    free = shutil.disk_usage(disk).free / 1e9
    checks.append(("free disk", free >= 1, f"{free:.1f} GB at {disk} (1 GB needed)"))
    fine = all(good for _, good, _ in checks)
    if json:
        listed = [{"name": n, "ok": good, "found": text} for n, good, text in checks]
        print(to_json({"ok": fine, "checks": listed}))
    else:
        for title, good, text in checks:
            print(f"{'ok ' if good else 'BAD'}  {title:16} {text}")
        print("all is well" if fine else "something is wrong: see the lines with BAD")
    return 0 if fine else 1


def _extra_of(requirement: str) -> str:
    """The extra that brings an optional package; "" for those of developers alone."""
    match = re.search(r"extra == ['\"](\w+)['\"]", requirement)
    return match[1] if match and match[1] in OPTIONAL else ""


def _check_optional(requirement: str, extra: str) -> tuple[str, bool, str]:
    """A package that may be missing, but not be too old."""
    name, good, found = _check_version(requirement)
    if found.startswith("not installed"):
        found = f"not installed (optional); pip install 'medseg[{extra}]'"
        return f"{name} ({extra})", True, found
    return f"{name} ({extra})", good, found


def _check_version(requirement: str) -> tuple[str, bool, str]:
    """Compare a requirement such as ``numpy>=2`` with what is installed."""
    name, _, least = requirement.split(";")[0].strip().partition(">=")
    try:
        found = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return name, False, f"not installed; pip install '{requirement}'"
    numbers = [
        [int(n) for n in re.findall(r"\d+", text.split("+")[0])[:3]]
        for text in (found, least)
    ]
    good = numbers[0] >= numbers[1]
    return name, good, found if good else f"{found}; {requirement} is needed"
