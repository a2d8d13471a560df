"""Set-up of one working tree: its DVC uses the main tree's cache and the remote in the home of state (run by make)."""

from pathlib import Path

from pipeline.errors import run_stage
from pipeline.home import find_home, main_worktree
from pipeline.records import written_whole


def main() -> None:
    cache, remote = main_worktree() / ".dvc" / "cache", find_home() / "dvc-remote"
    remote.mkdir(exist_ok=True)
    with written_whole(Path(".dvc/config.local")) as part:
        part.write_text(f"[cache]\n    dir = {cache}\n['remote \"home\"']\n    url = {remote}\n", encoding="utf-8")


if __name__ == "__main__":
    run_stage(main)
