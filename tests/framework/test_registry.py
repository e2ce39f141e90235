from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from tests.builders import make_endpoints, make_handle, make_request, make_state
from tests.framework.stubs import StubFilter, StubScorer

from pointsman.errors import ConfigError
from pointsman.framework import registry as registry_module
from pointsman.framework.plugin import Filter, Params, Plugin, Scorer, register
from pointsman.framework.registry import Registry, installed_plugins

MINE = """\
from pointsman.framework.plugin import Params, Scorer, register

class MineParams(Params, frozen=True):
    bonus: float = 0.25

@register("mine")
class Mine(Scorer[MineParams]):
    def score(self, request, endpoints, state):
        return [self.params.bonus for _ in endpoints]
"""


@pytest.fixture
def plugin_file(tmp_path: Path) -> Path:
    path = tmp_path / "mine.py"
    path.write_text(MINE)
    return path


def refusal(registry: Registry, path: Path) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        registry.add_file(path)
    return caught.value


class TestAdd:
    def test_added_and_found(self) -> None:
        registry = Registry()
        registry.add(StubScorer, "here")
        assert "stub-scorer" in registry
        assert list(registry) == ["stub-scorer"]
        assert registry.get("stub-scorer") is StubScorer
        assert registry.origin("stub-scorer") == "here"

    def test_a_taken_type_names_both(self) -> None:
        registry = Registry()
        registry.add(StubScorer, "here")
        with pytest.raises(ConfigError, match=r"'stub-scorer' of there is already taken by here"):
            registry.add(StubScorer, "there")

    def test_abstract_names_what_is_missing(self) -> None:
        @register("half")
        class Half(Filter[Params]):
            pass

        with pytest.raises(ConfigError, match=r"plugin 'half' in here does not implement filter"):
            Registry().add(Half, "here")

    @pytest.mark.parametrize("cls", [int, Plugin, Scorer])
    def test_no_plugin(self, cls: Any) -> None:
        with pytest.raises(ConfigError, match=r"here is no plugin \(decorate the class"):
            Registry().add(cls, "here")

    def test_a_copy_is_independent(self) -> None:
        registry = Registry()
        copy = registry.copy()
        copy.add(StubScorer, "here")
        assert "stub-scorer" not in registry


class TestModule:
    def test_marked_classes_of_this_module_only(self) -> None:
        module = ModuleType("a_module")
        own = register("own")(type("Own", (StubScorer,), {"__module__": "a_module"}))
        unmarked = type("Unmarked", (StubScorer,), {"__module__": "a_module"})
        vars(module).update({"Own": own, "Alias": own, "Unmarked": unmarked, "Imported": StubFilter, "number": 1})
        registry = Registry()
        assert registry.add_module(module) == 1
        assert list(registry) == ["own"]
        assert registry.origin("own") == "a_module"


class TestUnknownType:
    @pytest.mark.parametrize(
        ("name", "hint"),
        [
            ("queue-scorrer", "did you mean 'queue-scorer'?"),
            ("max-score-piker", "did you mean 'max-score-picker'?"),
            ("zzz", "`pointsman plugins` lists the known types"),
            ("", "`pointsman plugins` lists the known types"),
        ],
    )
    def test_did_you_mean(self, name: str, hint: str) -> None:
        with pytest.raises(ConfigError) as caught:
            installed_plugins().get(name)
        assert caught.value.message == f"unknown plugin type {name!r}"
        assert (caught.value.hint or "").startswith(hint.removesuffix("?"))


class TestFile:
    def test_loads_and_scores(self, plugin_file: Path) -> None:
        registry = installed_plugins()
        registry.add_file(plugin_file)
        cls: Any = registry.get("mine")
        plugin = cls(cls.Params(bonus=0.5), make_handle())
        assert plugin.score(make_request(), make_endpoints(2), make_state()) == [0.5, 0.5]
        assert registry.origin("mine") == str(plugin_file)
        assert "mine" not in installed_plugins(), "a file belongs to one configuration"

    def test_unchanged_is_the_same_class_and_changed_is_a_new_one(self, plugin_file: Path) -> None:
        def load() -> Any:
            registry = Registry()
            registry.add_file(plugin_file)
            return registry.get("mine")

        first, again = load(), load()
        plugin_file.write_text(MINE.replace("0.25", "0.75"))
        changed = load()
        assert first is again
        assert changed is not first
        assert (first.Params().bonus, changed.Params().bonus) == (0.25, 0.75)

    def test_two_files_of_one_name_are_two_modules(self, plugin_file: Path) -> None:
        other = plugin_file.parent / "sub" / plugin_file.name
        other.parent.mkdir()
        other.write_text(MINE.replace('"mine"', '"other"'))
        registry = Registry()
        registry.add_file(plugin_file)
        registry.add_file(other)
        assert list(registry) == ["mine", "other"]

    def test_one_class_under_two_names_counts_once(self, plugin_file: Path) -> None:
        plugin_file.write_text(MINE + "\nAlias = Mine\n")
        registry = Registry()
        registry.add_file(plugin_file)
        assert list(registry) == ["mine"]

    def test_annotations_are_the_files_own(self, plugin_file: Path) -> None:
        plugin_file.write_text(MINE + "\nseen = MineParams.__annotations__\n")
        Registry().add_file(plugin_file)
        (module,) = [module for module in sys.modules.values() if getattr(module, "__file__", "") == str(plugin_file)]
        assert module.seen == {"bonus": float}, "not a string, as under this module's own __future__ import"

    def test_a_type_of_the_house_is_taken(self, plugin_file: Path) -> None:
        plugin_file.write_text(MINE.replace('"mine"', '"queue-scorer"'))
        error = refusal(installed_plugins(), plugin_file)
        assert "plugin type 'queue-scorer'" in error.message
        assert error.message.endswith("is already taken by pointsman.plugins.scorers.queue")

    @pytest.mark.parametrize(
        ("text", "message", "line"),
        [
            ("x = 1\ndef broken(:\n", "SyntaxError: invalid syntax", 2),
            ("x = 1\n\n1 / 0\n", "ZeroDivisionError: division by zero", 3),
            ("def f():\n    raise RuntimeError('deep')\nf()\n", "RuntimeError: deep", 2),
            ("import nothing_of_that_name\n", "ModuleNotFoundError: No module named", 1),
            ("import sys\nsys.exit(3)\n", "SystemExit: 3", 2),
            ("x = '\0'\n", ": source code ", None),
        ],
    )
    def test_a_broken_file_names_file_and_line(
        self, plugin_file: Path, text: str, message: str, line: int | None
    ) -> None:
        plugin_file.write_text(text)
        before = set(sys.modules)
        error = refusal(Registry(), plugin_file)
        assert (error.source, error.line if line else None) == (str(plugin_file), line)
        assert message in error.message
        assert set(sys.modules) == before, "nothing half-made stays behind"

    @pytest.mark.parametrize(
        "text",
        ["", "x = 1\n", "from pointsman.plugins.scorers.queue import Queue\n", MINE.replace('@register("mine")', "")],
        ids=["empty", "no-class", "imported-class", "unmarked"],
    )
    def test_no_plugin_in_it(self, plugin_file: Path, text: str) -> None:
        plugin_file.write_text(text)
        error = refusal(Registry(), plugin_file)
        assert error.message == f"{plugin_file} defines no plugin"
        assert error.hint == "decorate the class with @register('my-scorer')"

    @pytest.mark.parametrize("name", ["absent.py", ".", "nul\0.py", "x" * 5000])
    def test_unreadable(self, tmp_path: Path, name: str) -> None:
        assert "cannot be read: " in refusal(Registry(), tmp_path / name).message


class TestEntryPoints:
    @pytest.fixture
    def installed(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
        """Pretend that a package with these entry points is installed."""
        monkeypatch.syspath_prepend(tmp_path)
        (tmp_path / "pretend_plugins.py").write_text(MINE + "\ndef function(): pass\n")
        info = tmp_path / "pretend-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: pretend\nVersion: 1.0\n")

        def install(value: str) -> Registry:
            (info / "entry_points.txt").write_text(f"[pointsman.plugins]\npretend = {value}\n")
            registry_module._installed.cache_clear()
            return installed_plugins()

        yield install
        registry_module._installed.cache_clear()
        sys.modules.pop("pretend_plugins", None)

    @pytest.mark.parametrize("value", ["pretend_plugins", "pretend_plugins:Mine"])
    def test_module_or_class(self, installed: Any, value: str) -> None:
        registry = installed(value)
        assert registry.origin("mine") == f"entry point 'pretend' ({value})"
        assert "queue-scorer" in registry

    @pytest.mark.parametrize(
        ("value", "message"),
        [
            ("absent_module", r"entry point 'pretend' \(absent_module\) cannot be imported: No module named"),
            ("pretend_plugins:nothing", "cannot be imported: .* has no attribute 'nothing'"),
            ("pretend_plugins:MineParams", r"entry point 'pretend' \(pretend_plugins:MineParams\) is no plugin"),
            ("pretend_plugins:function", "is neither a module nor a class"),
        ],
    )
    def test_broken(self, installed: Any, value: str, message: str) -> None:
        with pytest.raises(ConfigError, match=message):
            installed(value)
