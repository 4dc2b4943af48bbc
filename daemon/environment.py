"""What ran: a digest of our own source, and of the interpreter and libraries around it.

Owns: the two digests that stand in manifests, measurements and audit entries. Refuses to know what they are used for,
and to import a heavy library to ask for its version. Called by `daemon.registry`'s callers, `daemon.evaluation`,
`daemon.audit.log`.
"""

import hashlib
import platform
import sys
from functools import lru_cache
from importlib import metadata
from pathlib import Path

from daemon.codec import canonical

PACKAGES = ("daemon", "feedback", "policies")
LIBRARIES = (
    "torch",
    "transformers",
    "peft",
    "trl",
    "accelerate",
    "safetensors",
    "tokenizers",
    "bitsandbytes",
    "numpy",
    "scipy",
    "pandas",
    "evidently",
    "sqlalchemy",
    "pydantic",
    "kafka-python",
    "lm-eval",
)


@lru_cache(maxsize=1)
def code_digest() -> str:
    """SHA-256 (hex) over the path and content of every Python file of our packages, read once a process."""
    top = Path(__file__).resolve().parent.parent
    return hash_sources(top)


def hash_sources(top: Path) -> str:
    """SHA-256 (hex) of the canonical JSON {path below `top`: SHA-256 of the file} over our packages' Python files."""
    files = sorted(path for package in PACKAGES for path in (top / package).rglob("*.py"))
    names = {path.relative_to(top).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
    return hashlib.sha256(canonical(names)).hexdigest()


@lru_cache(maxsize=8)
def describe(device: str = "cpu") -> dict[str, str]:
    """Python, platform, device and the version of each library that shapes a number ("" where it isn't installed)."""
    return {
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "device": _device(device),
        **{name: _version(name) for name in LIBRARIES},
    }


@lru_cache(maxsize=8)
def digest(device: str = "cpu") -> str:
    """SHA-256 (hex) of the canonical JSON of `describe`: two measurements with the same one are comparable."""
    return hashlib.sha256(canonical(describe(device))).hexdigest()


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return ""


def _device(device: str) -> str:
    # Only a process that already runs torch on a GPU asks it for the card's name: the daemon itself never loads torch.
    torch = sys.modules.get("torch")
    if device.startswith("cuda") and torch is not None and torch.cuda.is_available():
        return f"{device}: {torch.cuda.get_device_name(device)}"
    return device
