"""A study's figures as Markdown, for people, and as JSON, for programs; both name the records they come from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from training.studies.plan import PlannedRun
from training.studies.published import CURVES, SIZES, TABLE_1, PublishedCurve
from training.studies.record import Line, Spread
from training.studies.study import Protocol, Study

__all__ = ["as_json", "as_markdown"]


def as_markdown(study: Study, lines: Sequence[Line], protocol: Protocol, *, caption: str) -> str:
    """Accuracy as in Table 1, then what the paper does not show, then the runs."""
    sizes = sorted({size for line in lines for size in line.sizes})
    head = " | ".join(f"N = {size}" for size in sizes)
    parts = [
        f"# {study.title}: {study.about}",
        caption,
        "Accuracy in percent; over several seeds mean ± standard deviation of one seed.",
        _table(f"network | training | seeds | {head}", 3, _accuracy_rows(lines, sizes, protocol)),
        "At the full ensemble; NLL and ECE with the temperature. Flips are changes of class per image over all sizes, "
        "falls are sizes at which accuracy is below that of the size before.",
        _table(
            "network | training | MFLOPs | std of logits | NLL | ECE | flips | falls | deepest", 2, _more_rows(lines)
        ),
        _published(_curves(study, protocol)),
        "The runs, by the first digits of the digest of their settings:",
        _table("network | training | seed | run", 4, _run_rows(lines)),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def as_json(study: Study, lines: Sequence[Line], protocol: Protocol, *, caption: str) -> dict[str, Any]:
    """Everything that the tables and figures show."""
    return {
        "study": study.name,
        "title": study.title,
        "caption": caption,
        "lines": [_line(line) for line in lines],
        "published": [asdict(curve) for curve in _curves(study, protocol)],
    }


def _line(line: Line) -> dict[str, Any]:
    return {
        "architecture": line.architecture,
        "training": line.label,
        "planned_seeds": [run.config.seed for run in line.planned],
        "sizes": [
            {
                "ensemble_size": size,
                "flops": line.records[0].evaluation.sizes[size - 1].flops,
                "accuracy_percent": line.accuracy(size)._asdict(),
                "logit_std": line.at(size, lambda row: row.logit_std)._asdict(),
                "calibrated_nll": line.at(size, lambda row: row.calibrated_nll)._asdict(),
                "calibrated_ece": line.at(size, lambda row: row.calibrated_ece)._asdict(),
            }
            for size in range(1, len(line.records[0].evaluation.sizes) + 1)
        ],
        "leaf_accuracies_percent": line.leaf_accuracies,
        "budgeted": [{"mflops": mflops, "accuracy_percent": accuracy} for mflops, accuracy in line.budgeted],
        "records": [
            {
                "run": record.run.name,
                "config_digest": record.run.digest,
                "seed": record.run.config.seed,
                "run_sha256": record.evaluation.run_sha256,
                "evaluated_on": record.evaluation.evaluated_on,
                "epochs": record.evaluation.epochs,
                "versions": record.evaluation.versions,
                "settings": record.evaluation.settings,
            }
            for record in line.records
        ],
    }


def _accuracy_rows(lines: Sequence[Line], sizes: Sequence[int], protocol: Protocol) -> list[list[str]]:
    rows = []
    for line in lines:
        cells = [_percent(line.accuracy(size)) if size in line.sizes else "" for size in sizes]
        rows.append([line.network, line.label, _seeds(line), *cells])
        config = line.planned[0].config
        weighed = config.alpha == 0.5 and config.weight_decay == protocol.base.weight_decay
        as_in_table_1 = not line.planned[0].others and config.branching is None and weighed
        if protocol.benchmark is not None and as_in_table_1 and _is_papers(line):
            published = TABLE_1.get((protocol.benchmark, line.architecture, config.loss))
            if published is not None:
                known = dict(zip(SIZES, published, strict=True))
                rows.append(
                    ["", "*in the paper*", "", *(f"*{known[size]}*" if size in known else "" for size in sizes)]
                )
    return rows


def _is_papers(line: Line) -> bool:
    """Whether the line is trained with the paper's recipe, whatever its length."""
    config = line.planned[0].config
    averaged, mixed = config.ema or config.swa, config.mix != "off"
    return not (averaged or mixed or config.label_smoothing) and config.prefixes == "powers"


def _more_rows(lines: Sequence[Line]) -> list[list[str]]:
    rows = []
    for line in lines:
        full = len(line.records[0].evaluation.sizes)
        cells = [
            f"{line.mflops(full):.1f}",
            _number(line.at(full, lambda row: row.logit_std)),
            _number(line.at(full, lambda row: row.calibrated_nll)),
            _number(line.at(full, lambda row: row.calibrated_ece)),
        ]
        streams = [record.evaluation.stream for record in line.records]
        if all(streams):
            known = [stream for stream in streams if stream is not None]
            cells += [
                f"{Spread.of([stream.flips for stream in known]).mean:.2f}",
                f"{Spread.of([stream.falls for stream in known]).mean:.1f}",
                f"{100 * max(stream.largest_fall for stream in known):.2f} points",
            ]
        else:
            cells += ["", "", ""]
        rows.append([line.network, line.label, *cells])
    return rows


def _curves(study: Study, protocol: Protocol) -> list[PublishedCurve]:
    return [curve for curve in CURVES if study.published and curve.benchmark == protocol.benchmark]


def _published(curves: Sequence[PublishedCurve]) -> str:
    if not curves:
        return ""
    rows = [
        [
            curve.system,
            ", ".join(f"{accuracy} at {_range(low, high)}" for low, high, accuracy in curve.points),
            curve.source,
        ]
        for curve in curves
    ]
    return "Published by others, nothing between the points:\n\n" + _table("system | % at MFLOPs | source", 3, rows)


def _range(low: float, high: float) -> str:
    return f"{low}" if low == high else f"{low} to {high}"


def _run_rows(lines: Sequence[Line]) -> list[list[str]]:
    return [
        [line.network, line.label, str(record.run.config.seed), _names(record.run)]
        for line in lines
        for record in line.records
    ]


def _names(run: PlannedRun) -> str:
    """A run, and those it needed."""
    words = {"initial": "from", "teacher": "taught by"}
    return ", ".join([f"`{run.name}`", *(f"{words[role]} `{other.name}`" for role, other in run.others.items())])


def _table(head: str, left: int, rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table whose first `left` columns are words."""
    columns = head.split(" | ")
    rule = ["---" if index < left else "---:" for index in range(len(columns))]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (columns, rule, *rows))


def _seeds(line: Line) -> str:
    done, planned = len(line.records), len(line.planned)
    return str(done) if done == planned else f"{done} of {planned}"


def _percent(value: Spread) -> str:
    return f"{value.mean:.2f}" if value.deviation is None else f"{value.mean:.2f} ± {value.deviation:.2f}"


def _number(value: Spread) -> str:
    return f"{value.mean:.3f}" if value.deviation is None else f"{value.mean:.3f} ± {value.deviation:.3f}"
