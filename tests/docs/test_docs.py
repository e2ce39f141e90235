"""The documentation says what the program does: blocks load, generated pages are current, links lead somewhere."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from pointsman.app.picker import check_config
from pointsman.cli.docs import configuration_page, plugins_page
from pointsman.datalayer.discovery import parse_endpoints_file
from pointsman.framework.loader import preset_names

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]
WRITTEN = [page for page in PAGES if page.name not in {"configuration.md", "plugins.md"}]


def _blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize(("name", "page"), [("plugins.md", plugins_page), ("configuration.md", configuration_page)])
def test_generated_pages_are_current(name: str, page: object) -> None:
    assert callable(page)
    assert (ROOT / "docs" / name).read_text() == page(), "run `make docs`"


@pytest.mark.parametrize("page", WRITTEN, ids=lambda page: page.name)
def test_yaml_blocks_load(page: Path, tmp_path: Path) -> None:
    (tmp_path / "tier.py").write_text((ROOT / "examples/scorers/tier.py").read_text())
    for block in _blocks(page, "yaml"):
        if block.lstrip().startswith("#") and "endpoints:" in block:
            assert parse_endpoints_file(block, page.name)
            continue
        file = tmp_path / "policy.yaml"
        file.write_text(block)
        assert check_config(str(file)).scheduler.profiles


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
        if not target.startswith("http"):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_the_ten_line_scorer_of_the_docs_is_the_example() -> None:
    (block,) = _blocks(ROOT / "docs/add-a-scorer.md", "python")
    assert block == (ROOT / "examples/scorers/tier.py").read_text()
    assert check_config(str(ROOT / "examples/policy.yaml")).plugins["tier-scorer"].type == "tier-scorer"


def test_presets_load_by_name() -> None:
    assert preset_names() == ["brief", "default", "least-request", "llm-d", "precise", "random", "round-robin"]
    for name in preset_names():
        assert not check_config(name).notes
