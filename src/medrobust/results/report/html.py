"""report.html: one page that needs nothing but itself, not even a script."""

from collections.abc import Iterable, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from medrobust.files import replace_text
from medrobust.results.findings import joint
from medrobust.results.report.attacked import Notes, attack_headline, attack_section, attacked_markdown
from medrobust.results.report.audited import Audit, all_findings, audit_markdown, checks, sentence_of, verdict
from medrobust.results.report.curve import attack_curve_svg, curve_svg
from medrobust.results.report.figure import GRID, INK, PAPER
from medrobust.results.report.findings import finding_lines, headings
from medrobust.results.report.markdown import markdown_table, radius_text, span
from medrobust.results.report.sentences import abstentions, constant_answers, headline, one_class
from medrobust.results.report.together import together, together_markdown
from medrobust.results.rows.certified import CertifiedRow
from medrobust.results.tables import Summary, certified, grouped, middle_radius, number_key, share


def write_report(
    run_folder: Path,
    *,
    summary: Summary,
    rows: Sequence[CertifiedRow],
    experiment: Mapping[str, Any],
    environment: Mapping[str, Any],
    task: Mapping[str, Any],
    model: Mapping[str, Any],
    examples: Sequence[Mapping[str, Any]] | None = None,
    audit: Audit | None = None,
    notes: Notes | None = None,
) -> Path:
    """Write report.html, results.md, and the curves as SVG into a run folder; the page's path comes back.

    `task` has title, classes (in label order), source, licence; `model` name, licence, sha256, source. An example has
    png_base64, label (class number or text), answers: {defence: {"answer": class number, text or None where it
    abstains, "radius": l2}} and, if it likes, their sigma; `audit` is what audit.json holds, `notes` what
    attacked.json holds. Of images with findings the curves and sentences are of all answers of an image together. The
    same arguments give the same bytes. Raises RunError where the folder cannot be written.
    """
    page, rows = run_folder / "report.html", joint(rows)
    if summary["sigmas"]:
        replace_text(run_folder / "certified_accuracy.svg", curve_svg(summary, rows))
    under_attack = attack_curve_svg(summary)
    if under_attack:
        replace_text(run_folder / "robust_accuracy.svg", under_attack)
    replace_text(run_folder / "results.md", _markdown(summary, audit))
    groups = grouped(rows)
    classes = [str(name) for name in task["classes"]]
    parts = [
        _part(
            index,
            summary["by_sigma"][number_key(sigma)],
            groups.get(sigma, {}),
            classes,
            curve_svg(summary, rows, sigma),
        )
        for index, sigma in enumerate(summary["sigmas"])
    ]
    text = template("report.html.j2").render(
        task=task,
        model=model,
        headline=headline(summary, rows) if parts else attack_headline(summary),
        parts=parts,
        together=together(summary),
        tuned=any(scope != "model" for part in parts for scope in part["scopes"]),
        alphas=sorted({row.alpha for row in rows}),
        expected=summary.get("expected_false_certificates"),
        images=summary["images"],
        attacked=_attacked(summary),
        attack=attack_section(summary, notes or {}, classes) if "attack" in summary else None,
        attack_curve=inline(under_attack, "robust-") if under_attack else None,
        audit=_audited(audit) if audit else None,
        gallery=[_example(example, classes, summary["scope"]) for example in examples or ()],
        settings=[("Experiment", list(_flat(experiment))), ("Environment", list(_flat(environment)))],
    )
    replace_text(page, text)
    return page


def _markdown(summary: Summary, audit: Audit | None) -> str:
    both = together(summary)
    tables = [
        together_markdown(both) if both else "",
        markdown_table(summary) if summary["sigmas"] else "",
        attacked_markdown(summary) if "attack" in summary else "",
        audit_markdown(audit) if audit else "",
    ]
    return "\n".join(table for table in tables if table)


def template(name: str) -> Any:
    """A page's template, which may build on the others here; it knows the style and how to write shares and radii."""
    from jinja2 import Environment, FunctionLoader, StrictUndefined
    from markupsafe import Markup

    here = resources.files("medrobust.results.report")
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True,
        loader=FunctionLoader(lambda file: (here / file).read_text(encoding="utf-8")),
    )  # fmt: skip
    environment.filters |= {"radius": radius_text, "span": lambda part: span(part).replace("-", "–")}
    environment.globals["style"] = Markup((here / "report.css").read_text(encoding="utf-8"))
    return environment.get_template(name)


def _part(
    index: int, block: Summary, rows: dict[str, list[CertifiedRow]], classes: Sequence[str], svg: str
) -> dict[str, Any]:
    middle, findings = middle_radius(block), finding_lines(block)
    return {
        "block": block,
        "scopes": list(block["scope"].values()),
        "radii": [number_key(radius) for radius in block["radii"]],
        "best": _best(block),
        "curve": inline(svg, f"curve{index}-"),
        "middle": middle,
        "classes": [] if findings else _by_class(rows, classes, middle),
        "findings": findings,
        "finding_heads": headings(findings),
        "abstentions": abstentions(block, rows),
        "constant": [*constant_answers(block, rows), *one_class(rows)],
    }


def _best(block: Summary) -> dict[str, float]:
    """The highest certified accuracy at each radius among the defences of scope `model`: the page sets it in bold."""
    sound = [name for name in block["defences"] if block["scope"][name] == "model"]
    return {
        radius: max((block["certified_accuracy"][name][radius]["value"] for name in sound), default=0.0) or 2.0
        for radius in map(number_key, block["radii"])
    }


def _by_class(rows: dict[str, list[CertifiedRow]], classes: Sequence[str], radius: float) -> list[dict[str, Any]]:
    labels = sorted({row.label for members in rows.values() for row in members})
    return [
        {
            "name": _class_name(label, classes),
            "shares": {
                defence: share(
                    sum(certified(row, radius) for row in members if row.label == label),
                    sum(row.label == label for row in members),
                )
                for defence, members in rows.items()
            },
        }
        for label in labels
    ]


def _class_name(label: int | str, classes: Sequence[str]) -> str:
    if isinstance(label, str):
        return label
    return classes[label] if 0 <= label < len(classes) else f"class {label}"


def inline(svg: str, prefix: str) -> Any:
    """An SVG for the middle of a page: no prolog, ids of its own, the page's colours (dark ones too)."""
    from markupsafe import Markup

    body = svg[svg.index("<svg") :]
    for found, put in (
        (' id="', f' id="{prefix}'),
        ('href="#', f'href="#{prefix}'),
        ("url(#", f"url(#{prefix}"),
        (INK, "currentColor"),
        (f"fill: {PAPER}", "fill: none"),
        (GRID, "var(--line)"),
    ):
        body = body.replace(found, put)
    return Markup(body)


def _attacked(summary: Summary) -> list[dict[str, Any]]:
    scopes = {**summary["scope"], **summary.get("attack", {}).get("scope", {})}
    return [
        {"defence": name, "attack": attack, "share": part, "scope": scopes.get(name, "model")}
        for name, attacks in summary["robust_accuracy"].items()
        for attack, part in attacks.items()
    ]


def _audited(audit: Audit) -> dict[str, Any]:
    return {
        "rows": audit["rows"],
        "settings": audit["settings"],
        "verdict": verdict(audit),
        "checks": checks(audit),
        "findings": [(sentence_of(one), one.get("pictures", {})) for one in all_findings(audit)],
    }


def _example(example: Mapping[str, Any], classes: Sequence[str], scopes: Mapping[str, str]) -> dict[str, Any]:
    label = _class_name(example["label"], classes)
    answers = []
    for defence, given in example["answers"].items():
        answer = None if given["answer"] is None else _class_name(given["answer"], classes)
        tuned = scopes.get(defence, "model") != "model"
        answers.append({"defence": defence, "tuned": tuned, "answer": answer, "radius": given["radius"]})
    return {"image": example["png_base64"], "label": label, "sigma": example.get("sigma"), "answers": answers}


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, str]]:
    """Nested settings as dotted names and texts, in their order."""
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        elif isinstance(value, list | tuple):
            yield f"{prefix}{name}", ", ".join(map(str, value))
        else:
            yield f"{prefix}{name}", str(value)
