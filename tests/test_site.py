"""The documentation's site: what is generated is complete, and no page needs a network."""

import html
import re
from dataclasses import fields
from html.parser import HTMLParser

import click
import pytest
from mkdocs.commands.build import build
from mkdocs.config import load_config

from selftrans.cli.table import COMMANDS, selftrans
from selftrans.config.alignment import METHODS
from selftrans.config.schema import dataset_schema, experiment_schema
from selftrans.evaluation.comparison import PairedDifference
from selftrans.evaluation.probes import COLUMNS
from selftrans.evaluation.significance_table import COLUMNS as SIGNIFICANCE_COLUMNS
from selftrans.evaluation.tables import METRIC_NAMES, metrics_table
from selftrans.training.progress import HISTORY_COLUMNS
from sitebuild import commands, formulas, keys, messages, repository
from tests.support import REPOSITORY
from tests.support.documents import DOCUMENTS
from tests.support.results import result
from workflow.lib import paths
from workflow.lib.settings import WorkflowConfig

KEY_PAGES = (keys.EXPERIMENT, keys.DATA, "configuration/workflow.md", "methods/sit.md",
             *(f"methods/{method}.md" for method in METHODS))  # fmt: skip
RESULTS = (REPOSITORY / "docs/results.md").read_text(encoding="utf-8")
FOREIGN = ("Installing", "Snakemake")
"""Sections of the page of troubles whose messages are not ours."""


def squeezed(text):
    return re.sub(r"\s+", " ", text)


# -- what is generated


def properties():
    """Every key of every file, by JSON schema: name, schema."""
    for schema in (experiment_schema(), dataset_schema(), WorkflowConfig.model_json_schema()):
        for part in (schema, *schema["$defs"].values()):
            if not part.get("title", "").startswith("Own"):
                yield from part.get("properties", {}).items()


def test_every_key_has_its_meaning_and_default_on_a_page():
    """Another path from the models: their JSON schema."""
    entries = squeezed("\n".join(map(keys.reference, KEY_PAGES))).split("#### ")
    found = list(properties())
    assert len(found) > 120
    for name, schema in found:
        meaning = squeezed(schema.get("description", ""))
        matching = [one for one in entries if one.startswith(f"`{name}` ") and meaning in one]
        assert matching, name
        default = schema.get("default")
        if default and type(default) in (str, int, float):
            shown = default if isinstance(default, str) else f"{default:g}"
            said = {f"default: `{shown}`", f"default: `{default}`"}
            assert any(one in entry for one in said for entry in matching), name


@pytest.mark.parametrize(
    ("page", "text"),
    [
        (keys.EXPERIMENT, "`learning_rate` { #training.learning_rate } number (above 0)"),
        (keys.EXPERIMENT, "`label_dropout` { #training.label_dropout } number (0 to 1)"),
        (keys.EXPERIMENT, "{ #runs.NAME.label } text (at most 100 characters) or `null`"),
        (keys.EXPERIMENT, "`seeds` { #seeds } list of whole numbers (0 or more), at least one"),
        (keys.EXPERIMENT, "#evaluation.samplers.NAME.guidance.scale } number or list of numbers"),
        (keys.DATA, "`image_size` { #image_size } whole number (1 or more) · **required**"),
        ("methods/layersync.md", "#alignment.layersync.weight } number (above 0) · default: `0.2`"),
    ],
)
def test_types_and_bounds_are_in_words(page, text):
    assert text in squeezed(keys.reference(page))


def test_every_command_and_option_is_described():
    text = html.unescape(commands.reference())
    context = click.Context(selftrans)
    found = [
        leaf
        for name in COMMANDS
        for leaf in commands.leaves((name,), selftrans.get_command(context, name))
    ]
    assert len(found) > len(COMMANDS)
    for words, command in found:
        section = text.split(f"### selftrans {' '.join(words)} {{")[1].split("\n### ")[0]
        for parameter in command.params:
            if parameter.param_type_name == "option" and not parameter.hidden:
                assert parameter.opts[0] in section, (words, parameter.opts)


def test_formulas_are_mathml():
    page = (
        r'<p>With <span class="arithmatex">\(a &lt; b \sim U\)</span>:</p>'
        r'<div class="arithmatex">\[\frac{1}{2} \mathbb{1} \, \mathrm{d}x\]</div>'
    )
    text = formulas.typeset(page)
    assert text.count("<math") == 2
    for part in ("<mo>&#x0003C;</mo>", "<mo>&#x223C;</mo>", "<mfrac>", "<mi>&#x1D7D9;</mi>"):
        assert part in text
    assert "<mtext>d</mtext><mi>x</mi>" in text
    assert "arithmatex" not in text


@pytest.mark.parametrize(
    ("page", "link", "expected"),
    [
        ("methods/sra.md", "[a](../results.md#figures)", "[a](../results.md#figures)"),
        ("methods/sra.md", "[a](../../README.md)", "[a](../index.md)"),
        ("methods/sra.md", "[a](../../CONTRIBUTING.md#x)", "[a](../contributing.md#x)"),
        ("contributing.md", "[a](docs/methods/sra.md)", "[a](methods/sra.md)"),
        ("benchmarks.md", "[a](../docs/fidelity.md)", "[a](fidelity.md)"),
        ("index.md", "[`a`](../selftrans/models/sit.py)", "`a`"),
        ("index.md", "[a](https://example.org/x)", "[a](https://example.org/x)"),
        ("index.md", "```\n[a](../x)\n```", "```\n[a](../x)\n```"),
    ],
)
def test_links_lead_to_pages_or_to_the_repository(page, link, expected):
    assert repository.with_links(link, page, REPOSITORY, None) == expected


def test_links_to_the_repository_need_its_address_and_a_file(caplog):
    link, url = "[`a`](../selftrans/models/sit.py#L1)", "https://example.org/us/it"
    found = repository.with_links(link, "index.md", REPOSITORY, f"{url}/")
    assert found == f"[`a`]({url}/blob/main/selftrans/models/sit.py#L1)"
    assert not caplog.text
    repository.with_links("[a](../selftrans/nowhere.py)", "index.md", REPOSITORY, url)
    assert "index.md: links to selftrans/nowhere.py, which is not there" in caplog.text


# -- what is written by hand


def table_rows(text, heading):
    """The first cells of the tables in a section, and their code."""
    section = re.split(rf"^## {re.escape(heading)}$", text, flags=re.MULTILINE)[1]
    rows = re.findall(r"^\| (.*?) \|", section.split("\n## ")[0], re.MULTILINE)
    return [code for row in rows for code in re.findall(r"`([^`]+)`", row)]


@pytest.mark.parametrize(
    ("heading", "columns"),
    [
        ("metrics.csv", {*metrics_table([("ode", result())]).columns, *METRIC_NAMES}),
        ("history.csv", set(HISTORY_COLUMNS)),
        ("paired.csv", {field.name for field in fields(PairedDifference)}),
        ("significance.csv", set(SIGNIFICANCE_COLUMNS)),
        ("probes.csv", set(COLUMNS)),
    ],
)
def test_every_column_of_a_table_is_explained(heading, columns):
    assert columns <= set(table_rows(RESULTS, heading))


def test_every_result_is_explained():
    templates = [path for path in vars(paths).values() if isinstance(path, str) and "{" in path]
    names = {re.sub(r"\{\w+\}", "", path.rpartition("/")[2]).lstrip("-") for path in templates}
    named = {name for name in names if name.endswith((".csv", ".json", ".npz", ".html", ".yaml"))}
    assert len(named) > 10
    for name in named:
        assert name in RESULTS, name
    figures = re.findall(r'\{FIGURES\}/([\w-]+)', "\n".join(
        path.read_text() for path in (REPOSITORY / "workflow/rules").glob("*.smk")))  # fmt: skip
    assert len(figures) > 10
    for name in figures:
        assert f"`{name.rstrip('-')}" in RESULTS, name


def test_every_message_that_is_explained_can_occur():
    page = (REPOSITORY / "docs/troubleshooting.md").read_text(encoding="utf-8")
    known = messages.messages(*(path for topic in messages.TOPICS.values() for path in topic))
    sections = re.findall(r"^## (.*)$", page, re.MULTILINE)
    explained = [code for one in sections if one not in FOREIGN for code in table_rows(page, one)]
    assert len(explained) > 50
    for message in explained:
        parts = (re.escape(part.strip(" …:")) for part in message.split("…"))
        pattern = re.compile(".*".join(parts))
        assert any(map(pattern.search, known)), message


def test_cells_and_lines_are_short():
    for path in DOCUMENTS:
        if path.parent == REPOSITORY:
            continue
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            where = f"{path.name}:{number}"
            if line.startswith("|"):
                cells = re.sub(r"\]\([^)]*\)", "]", line).split("|")
                assert max(map(len, cells)) <= 125, where
            elif not line.lstrip().startswith("!["):
                assert len(line) <= 100, where


# -- the site


class Resources(HTMLParser):
    """What a page loads by itself, and the ids and formulas that it has."""

    def __init__(self):
        super().__init__()
        self.loaded, self.tags = [], []

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        self.tags.append(tag)
        if tag in ("script", "img", "iframe", "source", "video", "audio", "object", "embed"):
            self.loaded += [given[key] for key in ("src", "data") if given.get(key)]
        if tag == "link" and given.get("rel") not in ("canonical", "next", "prev"):
            self.loaded.append(given["href"])


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """Built in this process, with strict links."""
    directory = tmp_path_factory.mktemp("site")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(REPOSITORY)
        build(load_config(str(REPOSITORY / "mkdocs.yml"), strict=True, site_dir=str(directory)))
    return directory


@pytest.mark.slow
def test_no_page_fetches_anything_from_elsewhere(site):
    pages = list(site.rglob("*.html"))
    assert len(pages) > 30
    formulas_shown = 0
    for page in pages:
        parser = Resources()
        text = page.read_text(encoding="utf-8")
        parser.feed(text)
        assert parser.loaded
        for target in parser.loaded:
            assert not re.match(r"[a-z]+:|//", target), (page, target)
            file = (page.parent / target.split("?")[0].split("#")[0]).resolve()
            assert page.name == "404.html" or file.is_file(), (page, target)
        formulas_shown += parser.tags.count("math")
        assert "arithmatex" not in text
    assert formulas_shown > 40
    for style in site.rglob("*.css"):
        assert not re.search(r"url\(['\"]?(https?:)?//", style.read_text(encoding="utf-8")), style
