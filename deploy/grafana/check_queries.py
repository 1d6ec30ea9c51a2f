"""Run every query of the dashboard on a Prometheus and show what each panel would draw.

    python deploy/grafana/check_queries.py --prometheus http://127.0.0.1:9090

Needs nothing but Python. Exits with 1 if a query fails or finds no number, so send some traffic first. One that
compares finds nothing where nothing is to be drawn.
"""

from __future__ import annotations

import argparse
import json
import math
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple
from urllib.error import HTTPError
from urllib.parse import urlencode
from urllib.request import urlopen

DASHBOARD = Path(__file__).parent / "dashboards" / "hne.json"
COMPARISON = re.compile(r" [<>]=? ")


class Query(NamedTuple):
    """One PromQL expression, as the dashboard holds it, and the panel that draws it."""

    panel: str
    expression: str


def queries(dashboard: Path = DASHBOARD) -> Iterator[Query]:
    """Every query of the dashboard, in the order of its panels."""
    for panel in json.loads(dashboard.read_text())["panels"]:
        for target in panel["targets"]:
            yield Query(panel["title"], target["expr"])


def numbers(prometheus: str, expression: str) -> list[float]:
    """The present value of every series that the expression finds, but those that are no number (0/0).

    Raises:
        ValueError: Prometheus refuses the expression; says why.
        OSError: Prometheus cannot be reached.
    """
    try:
        with urlopen(f"{prometheus}/api/v1/query?{urlencode({'query': expression})}", timeout=10) as answer:
            series = json.load(answer)["data"]["result"]
    except HTTPError as error:
        raise ValueError(json.load(error)["error"]) from error
    return [value for one in series if not math.isnan(value := float(one["value"][1]))]


def main() -> int:
    parser = argparse.ArgumentParser(description="Run every query of the dashboard on a Prometheus.")
    parser.add_argument("--prometheus", default="http://127.0.0.1:9090", metavar="URL")
    parser.add_argument("--interval", default="1m", help="for $__rate_interval (default: %(default)s)")
    arguments = parser.parse_args()
    empty = 0
    for query in queries():
        found = numbers(arguments.prometheus, query.expression.replace("$__rate_interval", arguments.interval))
        fine = bool(found) or COMPARISON.search(query.expression) is not None
        empty += not fine
        values = ", ".join(f"{value:.4g}" for value in found[:8]) + (", ..." if len(found) > 8 else "")
        print(f"{'ok' if fine else 'EMPTY':6}{query.panel}: {values or 'nothing'}\n      {query.expression}")
    print(f"{empty} of the queries found nothing" if empty else "every query found data")
    return 1 if empty else 0


if __name__ == "__main__":
    sys.exit(main())
