"""Write Grafana's dashboards: `python -m docker.grafana.make`; with --check, only compare."""

import argparse
import sys

from docker.grafana.boards.shelf import FOLDER, files


def main() -> None:
    """Write the files, or say which of them differ from what would be written."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing, fail on a difference")
    only_compare = parser.parse_args().check
    wanted = files()
    found = {path.name: path.read_text(encoding="utf-8") for path in FOLDER.glob("*.json")}
    stale = sorted(set(found) - set(wanted))
    changed = sorted(name for name, text in wanted.items() if found.get(name) != text)
    if not only_compare:
        FOLDER.mkdir(parents=True, exist_ok=True)
        for name in stale:
            (FOLDER / name).unlink()
        for name in changed:
            (FOLDER / name).write_text(wanted[name], encoding="utf-8")
    said = ", ".join(changed + stale) or "nothing"
    verb = "differ" if only_compare else "written"
    sys.stdout.write(f"{len(wanted)} dashboards; {verb}: {said}\n")
    sys.exit(1 if only_compare and (changed or stale) else 0)


if __name__ == "__main__":
    main()
