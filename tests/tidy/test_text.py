"""What the repository says, beside its code."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
MADE_BY_CHORES = {"build", "dist", "out", "__pycache__"}
FRAGMENT = re.compile(r"(\d+|\+[a-z0-9-]+)\.(added|changed|fixed|removed)\.md")

# Where packages come from is the user's own setting; a host named here would overrule it or go stale.
# The names are split so that this file does not hold what it looks for.
REGISTRY_HOSTS = [
    "py" + "pi.org",
    "python" + "hosted.org",
    "deb" + ".debian.org",
    "npm" + "js.org",
    "npm" + "js.com",
    "crates" + ".io",
    "anaconda" + ".org",
]


def is_made(parts: tuple[str, ...]) -> bool:
    """Whether a path lies in a folder that chores make: a build, a cache, an environment."""
    return any(p in MADE_BY_CHORES or (p.startswith(".") and p != ".ci") for p in parts[:-1])


def text_files() -> list[Path]:
    """Every file that git tracks or would; in a copy without git, every file outside the folders that chores make."""
    if shutil.which("git") and (REPOSITORY / ".git").exists():
        command = ["git", "-C", str(REPOSITORY), "ls-files", "-co", "--exclude-standard", "-z"]
        listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split("\0")
        found = [REPOSITORY / name for name in listed if name]
    else:
        found = [p for p in REPOSITORY.rglob("*") if not is_made(p.relative_to(REPOSITORY).parts)]
    return sorted(p for p in found if p.is_file() and b"\0" not in p.read_bytes()[:4096])


def hosts_in(text: str) -> list[str]:
    """Return the registry hosts that a text names."""
    return [host for host in REGISTRY_HOSTS if host in text.lower()]


def test_no_registry_host_is_named() -> None:
    files = text_files()
    assert Path(__file__) in files
    named = {str(p.relative_to(REPOSITORY)): hosts_in(p.read_text(encoding="utf-8")) for p in files}
    assert {path: hosts for path, hosts in named.items() if hosts} == {}


@pytest.mark.parametrize("host", REGISTRY_HOSTS)
def test_a_registry_host_would_be_seen(host: str) -> None:
    assert hosts_in(f"index-url = https://files.{host.upper()}/simple") == [host]


def test_every_changelog_fragment_has_a_known_name_and_says_something() -> None:
    fragments = [p for p in (REPOSITORY / "changelog.d").iterdir() if p.name not in ("README.md", ".gitignore")]
    for path in fragments:
        assert FRAGMENT.fullmatch(path.name), f"{path.name}: expected <issue>.<type>.md or +<words>.<type>.md"
        assert path.read_text(encoding="utf-8").strip(), f"{path.name} is empty"
