"""Shows a diagnosis as one HTML file: mistakes, the lines to change, the table, and pictures."""

from svd_engine.conformance.diagnose import Diagnosis
from svd_engine.conformance.findings import Verdict
from svd_engine.conformance.page import TEMPLATES
from svd_engine.conformance.port_lines import lines_of
from svd_engine.conformance.report import not_judged, relation_of, right_line, verdict_of
from svd_engine.conformance.sketches import Sketches
from svd_engine.deviation_catalogue import CATALOGUE
from svd_engine.templates import templates_in


def diagnosis_page(diagnosis: Diagnosis, sketches: Sketches, name: str) -> str:
    """The page as HTML. name: the trace's."""
    findings = diagnosis.findings
    return (
        templates_in(TEMPLATES)
        .get_template("diagnosis.html")
        .render(
            name=name,
            verdict=verdict_of(diagnosis),
            mistakes=[CATALOGUE[mistake] for mistake in diagnosis.deviations],
            lines_of=lines_of,
            right_line=right_line,
            findings=findings,
            unexplained=[f for f in findings if f.verdict is Verdict.UNEXPLAINED],
            relation_of=relation_of,
            sketches=list(sketches.drawn(finding.key for finding in findings)),
            record_next=diagnosis.record_next,
            not_judged=list(not_judged(diagnosis)),
        )
    )
