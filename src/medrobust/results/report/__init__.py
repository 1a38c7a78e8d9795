"""A run told to people: one self-contained HTML page, its curve as SVG, its tables as Markdown."""

from medrobust.results.report.curve import curve_svg as curve_svg
from medrobust.results.report.html import write_report as write_report
from medrobust.results.report.markdown import markdown_table as markdown_table
