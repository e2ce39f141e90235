"""``pointsman calibrate``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import msgspec
import yaml
from cyclopts import Parameter
from rich.console import Console

from pointsman.cli.common import print_json, run_async
from pointsman.errors import ConfigError
from pointsman.lab.calibrate import Calibration, by_pages, by_probe, by_watching
from pointsman.lab.calibrate_probe import ProbeOptions
from pointsman.sim.profiles import DEFAULT_PROFILE, EngineProfile, find_profile


def calibrate(
    *,
    url: str = "",
    model: str = "",
    metrics: Annotated[tuple[Path, ...], Parameter(negative=())] = (),
    watch: float = 0.0,
    base: str = DEFAULT_PROFILE,
    lengths: Annotated[tuple[int, ...], Parameter(negative=())] = ProbeOptions().lengths,
    concurrency: Annotated[tuple[int, ...], Parameter(negative=())] = ProbeOptions().concurrencies,
    repeats: int = ProbeOptions().repeats,
    seed: int = 0,
    output: Path | None = None,
    json: Annotated[bool, Parameter(negative=())] = False,
) -> int:
    """Measure your engine and print its profile, for `--profile FILE` of simulate, compare and sim.

    A probe run (--url alone) needs an engine without other traffic and takes a minute or two: prompts of several
    lengths, cold and warm, then answers at several concurrencies. With --watch, or with --metrics twice (two pages
    saved some time apart), nothing is sent: the terms of the --base profile are scaled to what live traffic shows.

    For example:

    ```console
    pointsman calibrate --url http://10.0.0.1:8000 --output mine.yaml
    pointsman calibrate --url http://10.0.0.1:8000 --model llama --lengths 256 --lengths 1024 --lengths 3000
    pointsman calibrate --url http://10.0.0.1:8000 --watch 60 --base llama-3.1-70b-4xh100
    pointsman calibrate --metrics before.txt --metrics after.txt --json
    pointsman sim --profile mine.yaml
    ```

    Parameters
    ----------
    url
        The engine, such as http://10.0.0.1:8000: one model server, not a proxy in front of several.
    model
        Served name; by default the first the engine names.
    metrics
        A saved metrics page. Give two, the older first.
    watch
        Read the engine's metrics page twice, so many seconds apart, instead of sending a load.
    base
        Profile (name or file) whose terms are scaled, and whose limits stand where the engine tells none.
    lengths
        Prompt lengths of the probe run, tokens. Repeat for each; at least three.
    concurrency
        Answers at once in the probe run. Repeat for each; at least two.
    repeats
        Prompts of each length.
    seed
        Of the prompts; change it to probe an engine again whose cache still holds them.
    output
        Also write the profile to this file.
    json
        Print the profile, the quality of the fit and the coefficients for the picker as JSON.
    """
    if (watch or not metrics) and not url:
        raise ConfigError("nothing to calibrate", hint="give --url, or --metrics twice")
    if metrics and (url or len(metrics) != 2):
        raise ConfigError("--metrics is given twice, the older page first, and without --url")
    if min(*lengths, *concurrency, repeats) < 1 or watch < 0:
        raise ConfigError("lengths, concurrencies and repeats must be above 0, and --watch not below")
    known = find_profile(base)
    shown = Console(stderr=True, highlight=False)
    options = ProbeOptions(lengths=lengths, concurrencies=concurrency, repeats=repeats)
    found: list[Calibration] = []

    async def main() -> int:
        if metrics:
            found.append(by_pages(_text(metrics[0]), _text(metrics[1]), known))
        elif watch:
            found.append(await by_watching(url, known, watch, model=model))
        else:
            found.append(await by_probe(url, known, model=model, options=options, seed=seed, progress=shown.print))
        return 0

    code = run_async(main)
    text = profile_text(found[0].profile)
    if output is not None:
        _write(output, text)
    if json:
        print_json({**msgspec.to_builtins(found[0]), "latency_model": msgspec.to_builtins(found[0].latency_model())})
    else:
        sys.stdout.write(text)
        _say(shown, found[0])
    return code


def profile_text(profile: EngineProfile) -> str:
    """The profile as YAML; coefficients to six figures."""
    values = {
        name: float(f"{value:.6g}") if isinstance(value, float) else value
        for name, value in msgspec.to_builtins(profile).items()
    }
    text: str = yaml.safe_dump(values, sort_keys=False)
    return text


def _say(shown: Console, found: Calibration) -> None:
    if found.fit is not None:
        shown.print(
            f"median error: prefill {found.fit.prefill_error:.1%}, decode {found.fit.decode_error:.1%} "
            f"({', '.join(f'{count} {kind}' for kind, count in found.fit.samples.items())} samples)"
        )
        for note in found.fit.notes:
            shown.print(f"note: {note}")
    if found.scales is not None:
        prefill = "not seen" if found.scales.prefill is None else f"x {found.scales.prefill:.2f}"
        shown.print(f"against the base profile: decode x {found.scales.decode:.2f}, prefill {prefill}")


def _text(path: Path) -> str:
    try:
        return path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read the metrics page: {error}", source=str(path)) from error


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text, "utf-8")
    except OSError as error:
        raise ConfigError(f"cannot write the profile: {error}", source=str(path)) from error
