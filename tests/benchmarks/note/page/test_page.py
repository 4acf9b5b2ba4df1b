import re
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner

from faithfulness_plugin.benchmarks.note.page.page import SECTIONS, write_page
from faithfulness_plugin.benchmarks.note.scan.presets import names
from faithfulness_plugin.benchmarks.readme import TOY
from faithfulness_plugin.cli.app import app
from faithfulness_plugin.results.html_page import self_contained
from faithfulness_plugin.results.schema import ResultError, fingerprint, read_result


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> Path:
    """What `faithfulness report` writes of the committed results."""
    out = tmp_path_factory.mktemp("page")
    done = CliRunner().invoke(app, ["report", "--results", str(TOY), "--out", str(out)])
    assert done.exit_code == 0, done.output
    return out


def test_every_preset_has_a_section_and_a_committed_result():
    assert set(SECTIONS) == {*names(), "audit"}
    for name, schema in SECTIONS.items():
        assert read_result(TOY / name / "result.json", schema).complete


def test_the_committed_page_is_what_the_committed_results_say(written):
    assert (written / "report.md").read_text() == (TOY / "report.md").read_text()
    assert {p.name for p in written.glob("*.png")} == {p.name for p in TOY.glob("*.png")}


def test_the_committed_figures_are_of_the_committed_results():
    prints = {fingerprint(read_result(TOY / name / "result.json", schema)) for name, schema in SECTIONS.items()}
    for path in TOY.glob("*.png"):
        with Image.open(path) as image:
            assert image.info["Source"] in prints


def test_every_experiment_has_all_of_its_parts(written):
    text = (written / "report.md").read_text()
    parts = text.split("\n## ")[1:]
    assert len(parts) == len(SECTIONS)
    for name, part in zip(SECTIONS, parts, strict=True):
        for mark in ("**Claim.**", "**What would refute it.**", "**Verdict.**", "*Read with care.*", "| --- |"):
            assert mark in part
        assert f"`faithfulness scan --preset {name} --out benchmarks/results/toy/{name}`" in part
        for figure in re.findall(r"\]\((\S+\.png)\)", part):
            assert (written / figure).exists()
    assert "nan" not in text
    assert "None" not in text


def test_the_html_needs_no_other_file_and_no_network(written):
    page = (written / "report.html").read_text()
    assert len(page) > 100_000
    assert page.count("data:image/png;base64,") == len(list(written.glob("*.png")))
    assert not re.findall(r'(?:src|href)="(?!data:|#)', page)
    assert "<script" not in page
    for anchor in re.findall(r'href="#([^"]+)"', page):
        assert f'id="{anchor}"' in page
    assert "<td>|x|" in self_contained("", "| a |\n| --- |\n| \\|x\\| |\n", {})


def test_a_part_of_the_results_gives_a_part_of_the_page(tmp_path):
    results = tmp_path / "results"
    (results / "shuffled_layer").mkdir(parents=True)
    (results / "shuffled_layer" / "result.json").write_text((TOY / "shuffled_layer" / "result.json").read_text())
    write_page(results, tmp_path / "page")
    text = (tmp_path / "page" / "report.md").read_text()
    assert text.count("\n## ") == 1
    assert "Not run yet: emergence, circuits" in text


def test_no_result_a_partial_one_and_a_folder_that_cannot_be_written_are_named(tmp_path):
    with pytest.raises(ResultError, match="holds no result of a preset"):
        write_page(tmp_path, tmp_path)
    (tmp_path / "shuffled_layer").mkdir()
    path = tmp_path / "shuffled_layer" / "result.json"
    path.write_text((TOY / "shuffled_layer" / "result.json").read_text().replace('"complete":true', '"complete":false'))
    with pytest.raises(ResultError, match="is partial"):
        write_page(tmp_path, tmp_path / "page")
    path.write_text((TOY / "shuffled_layer" / "result.json").read_text().replace('"layer":"shuffled"', '"layer":"abs"'))
    with pytest.raises(ResultError, match=r"is of a preset that was changed \(base"):
        write_page(tmp_path, tmp_path / "page")
    (tmp_path / "file").write_text("")
    path.write_text((TOY / "shuffled_layer" / "result.json").read_text())
    with pytest.raises(ResultError, match="cannot be written"):
        write_page(tmp_path, tmp_path / "file")
