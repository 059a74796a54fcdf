"""Writes the dashboards as files that Grafana imports: `python -m dashboards.render` (`make dashboards`)."""

import json
from pathlib import Path

from grafana_foundation_sdk.cog.encoder import JSONEncoder

from dashboards import fleet, gateway, model, operator, usage
from dashboards.panels import Board, build

FOLDER = Path(__file__).parents[1] / "charts" / "ai-model-server" / "files" / "dashboards"
BOARDS: tuple[Board, ...] = (fleet.BOARD, model.BOARD, gateway.BOARD, operator.BOARD, usage.BOARD)


def rendered(board: Board) -> str:
    return json.dumps(build(board), cls=JSONEncoder, indent=1, sort_keys=True, ensure_ascii=False) + "\n"


def file_name(board: Board) -> str:
    return f"{board.uid}.json"


def main() -> None:
    FOLDER.mkdir(parents=True, exist_ok=True)
    for board in BOARDS:
        (FOLDER / file_name(board)).write_text(rendered(board))


if __name__ == "__main__":
    main()
