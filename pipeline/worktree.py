"""Sets up DVC in a working tree: the main tree's cache and the remote in the home of state (run by make)."""

from configparser import ConfigParser
from pathlib import Path

from pipeline.atomic_write import atomic_write
from pipeline.errors import run_stage
from pipeline.home import DVC_REMOTE, find_home, main_worktree


def set_up_dvc() -> bool:
    """Write the settings of this working tree; return True when others were there."""
    remote = find_home() / DVC_REMOTE
    remote.mkdir(exist_ok=True)
    path = Path(".dvc/config.local")
    config = ConfigParser(interpolation=None)
    config.read(path, encoding="utf-8")  # existing settings stay, such as credentials of other remotes
    ours = {"cache": {"dir": str(main_worktree() / ".dvc" / "cache")}, "'remote \"home\"'": {"url": str(remote)}}
    wanted = [(section, key, value) for section, values in ours.items() for key, value in values.items()]
    had_others = any(config.get(section, key, fallback=value) != value for section, key, value in wanted)
    config.read_dict(ours)
    with atomic_write(path) as part, part.open("w", encoding="utf-8") as file:
        config.write(file)
    return had_others


def main() -> None:
    set_up_dvc()


if __name__ == "__main__":
    run_stage(main)
