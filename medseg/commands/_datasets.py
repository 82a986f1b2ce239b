"""``medseg datasets``: the public data sets."""

from dataclasses import asdict
from pathlib import Path

from medseg import datasets as registry


def datasets(*, action: str, name: str | None, dir: Path | None) -> int:
    """List the public data sets, print what is known of one, or download it."""
    if action == "list":
        for known in registry.names():
            about = registry.info(known)
            here = "here" if registry.is_available(known, dir) else "not here"
            print(
                f"{known:10} {here:9} {about.size_bytes / 1e6:5.0f} MB  {about.title}"
            )
        return 0
    if name is None:
        raise ValueError(
            f"`medseg datasets {action}` needs a name: {', '.join(registry.names())}."
        )
    if action == "info":
        for field, value in asdict(registry.info(name)).items():
            print(f"{field:11} {'not known' if value is None else value}")
        available = registry.is_available(name, dir)
        print(f"{'here':11} {registry.find(name, dir) if available else 'no'}")
        return 0
    print(registry.download(name, dir))
    return 0
