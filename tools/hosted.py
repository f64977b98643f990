"""Install the course beside what Colab or Kaggle bring; the notebooks' setup cell runs this in their kernel.

Nothing that the kernel has loaded is replaced, for it would then be half old and half new, and torch stays as it is: it
fits the GPU there. Running it again finishes what an interrupted run has left undone.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
STAY = ("torch", "torchvision", "torchaudio")  # built for each other, whether they are loaded yet or not
IN_THE_WAY = ("torchao",)  # we do not use it, and peft raises an ImportError where it finds an old one, as on Colab


def version(name: str) -> str | None:
    """The version of an installed distribution, None where it is not installed."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def to_keep() -> list[str]:
    """Pins, name==version, of the distributions that this process has loaded something of, and of torch."""
    owners = importlib.metadata.packages_distributions()
    loaded = {name for module in list(sys.modules) for name in owners.get(module, ())}
    return [f"{name}=={version(name)}" for name in sorted(loaded.union(STAY)) if version(name)]


def pip(*arguments: object) -> None:
    """Run pip; RuntimeError with its last words unless all went well."""
    command = [sys.executable, "-m", "pip", *map(str, arguments), "-q", "--disable-pip-version-check"]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    if done.returncode:
        print(done.stdout[-3000:])
        raise RuntimeError(
            "pip could not install what the course needs; its last words are above. Run this cell again when there is "
            "a network. If packages do not go together, take a fresh machine (Colab: Runtime, Disconnect and delete)."
        )


def main() -> None:
    """Remove what is in the way, install what is missing."""
    remove = [name for name in IN_THE_WAY if version(name)]
    if remove:
        pip("uninstall", "-y", *remove)
    with tempfile.TemporaryDirectory() as folder:
        pins = Path(folder) / "keep.txt"
        pins.write_text("\n".join(to_keep()), encoding="utf-8")
        pip("install", "-c", pins, "-e", ROOT)
    importlib.invalidate_caches()  # or the kernel does not see what has come


if __name__ == "__main__":
    main()
