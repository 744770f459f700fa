"""``bcpg-cluster view``: the run page, served on this machine or written as one file."""

from __future__ import annotations

import asyncio
import re
import webbrowser
from functools import cache, partial
from pathlib import Path

from rich.console import Console

from bcpg_cluster.config.run import Config
from bcpg_cluster.errors import ConfigError
from bcpg_cluster.exchange.after_training import TrainedWeights
from bcpg_cluster.run.directory import load_run_config
from bcpg_cluster.store.path import RunPath
from bcpg_cluster.store.whole_files import make_parents, write_whole
from bcpg_cluster.watch.view.bundle import bundle
from bcpg_cluster.watch.view.labels import LabelFile
from bcpg_cluster.watch.view.render import page_parts, server_page
from bcpg_cluster.watch.view.server import Doorkeeper, is_loopback, listen, serve_until_signal, view_app
from bcpg_cluster.watch.view.source import RunSource, Score
from bcpg_cluster_cli.session import find_run, say
from bcpg_cluster_cli.terminal import Terminal


def run_view(
    run_dir: str | RunPath | None,
    *,
    host: str = "127.0.0.1",
    port: int = 0,
    bundle_to: Path | None = None,
    rounds: str | None = None,
    labels: Path | None = None,
    has_browser: bool = False,
) -> None:
    """Serve the page until Ctrl-C, or write it.

    Args:
        run_dir: the newest run by default.
        host, port: where it listens; port 0 takes a free one.
        bundle_to: a file, or a directory that gets an ``index.html``; nothing is served then.
        rounds: numbers with commas: whose samples are in the bundle; all by default.
        labels: where hand labels go; ``labels-<name of the run directory>.jsonl`` here by default.
        has_browser: open the page in this machine's browser.

    Raises:
        UserError: no such run, nothing sampled yet, or a place that cannot be written to.
    """
    directory, console = find_run(run_dir), Terminal()
    load_config = partial(load_run_config, directory)
    if bundle_to is not None:
        source = RunSource(directory, load_config, is_alone=True)
        source.check()
        _write(console, source, _outside(bundle_to, directory), _numbers(rounds))
        return
    if rounds is not None:
        raise ConfigError(
            f"--rounds {rounds} without --bundle",
            rule="--rounds says whose samples a bundle holds; a served page has all rounds",
            remedy="add --bundle FILE.html, or leave --rounds out",
        )
    file = _outside(labels or Path(f"labels-{directory.absolute().name}.jsonl"), directory)
    score = _scorer(directory, load_config())
    source = RunSource(directory, load_config, LabelFile(file, directory.absolute().name), score=score)
    source.check()
    parts, door = page_parts(), Doorkeeper(host)
    page = server_page(parts, f"{source.seen().config.name}: bcpg-cluster")
    with listen(host, port) as listener:
        link = door.link(listener.getsockname()[1])
        say(console, f"the run page of {directory}: {link}")
        say(console, f"labels you give go to {file}; Ctrl-C ends the page")
        if not is_loopback(host):
            say(
                console,
                "other machines reach it too, unencrypted: whoever has the link sees the run and can add labels",
            )
        if has_browser:
            webbrowser.open(link)
        asyncio.run(serve_until_signal(view_app(source, page, parts.policy(may_connect=True), door), listener))
        console.print("ended")


def _scorer(directory: RunPath, config: Config) -> Score | None:
    """Scores a response with a version's weights; they are loaded when somebody asks. ``None`` for a policy without weights."""
    if config.policy.kind != "vllm":
        return None

    @cache
    def weights() -> TrainedWeights:
        return TrainedWeights(directory, config)

    return lambda state, version, prompt, response: weights().logprobs(state, version, prompt, response)


def _write(console: Console, source: RunSource, target: Path, rounds: list[int]) -> None:
    file = target if target.suffix.lower() in (".html", ".htm") else target / "index.html"
    made = bundle(source, page_parts(), rounds)
    make_parents(file)
    content = made.page.encode()
    write_whole(file, content)
    kept = made.num_samples - made.num_left_out
    say(console, f"written: {file} ({len(content) / 1e6:.1f} MB, {kept} of {made.num_samples} samples)")
    for words in made.left_out:
        say(console, words)


def _outside(path: Path, directory: RunPath) -> Path:
    """A place that this command may write to: never the run's own."""
    if isinstance(directory, Path) and path.absolute().resolve().is_relative_to(directory.absolute().resolve()):
        raise ConfigError(
            f"{path} lies in the run directory",
            rule="`view` writes nothing into a run",
            remedy="name a place outside of it",
        )
    return path


def _numbers(rounds: str | None) -> list[int]:
    if rounds is not None and not re.fullmatch(r"\d+(,\d+)*", rounds):
        raise ConfigError(
            f"--rounds {rounds}", rule="rounds are numbers with commas between them", remedy="e.g. --rounds 1,3"
        )
    return [] if rounds is None else sorted({int(number) for number in rounds.split(",")})
