"""``pointsman config check`` and ``pointsman config show``."""

from __future__ import annotations

import sys
from typing import Annotated

import yaml
from cyclopts import App, Parameter
from rich.console import Console
from rich.markup import escape

from pointsman.app.picker import check_config
from pointsman.cli.common import EXIT_BAD_INPUT, print_json, show_error
from pointsman.errors import ConfigError, ConfigErrors
from pointsman.framework.loader import preset_names

config_app = App(name="config", help="Check configurations and show what they mean.")

Source = Annotated[str, Parameter(help="Configuration file, or the name of a preset.")]
AsJson = Annotated[bool, Parameter(name="--json", help="Print JSON.", negative=())]


@config_app.command
def check(source: Source, *, as_json: AsJson = False) -> int:
    """Check a configuration completely, without running it. Exit code 2 when it cannot be used.

    ```console
    pointsman config check my-policy.yaml
    ```
    """
    try:
        plan = check_config(source)
    except ConfigError as error:
        if not as_json:
            show_error(error)
            return EXIT_BAD_INPUT
        errors = error.errors if isinstance(error, ConfigErrors) else (error,)
        fields = ("source", "line", "field", "message", "hint")
        print_json({"ok": False, "errors": [{name: getattr(one, name) for name in fields} for one in errors]})
        return EXIT_BAD_INPUT
    if as_json:
        print_json({"ok": True, "notes": list(plan.notes)})
        return 0
    console = Console(highlight=False, soft_wrap=True)
    for note in plan.notes:
        console.print(f"[yellow]note:[/] {escape(note)}")
    profiles = plan.scheduler.profiles.values()
    summary = ", ".join(
        f"{len(p.filters)} filters → {len(p.scorers)} {'costs' if p.unit == 'ms' else 'scorers'} → {p.picker.name}"
        for p in profiles
    )
    console.print(f"[green]ok:[/] {escape(f'{plan.source}: {summary}')}")
    return 0


@config_app.command
def show(source: Source = "default", *, as_json: AsJson = False) -> int:
    """Print the effective configuration: the long form with every default filled in. It loads again as it is.

    ```console
    pointsman config show brief > my-policy.yaml
    ```
    """
    data = check_config(source).effective()
    if as_json:
        print_json(data)
    else:
        sys.stdout.write(yaml.safe_dump(data, sort_keys=False, allow_unicode=True))
    return 0


@config_app.command
def presets() -> int:
    """List the built-in presets."""
    sys.stdout.write("\n".join(preset_names()) + "\n")
    return 0
