"""``lepton deploy``, and what verbs of a deployment engine share."""

from __future__ import annotations

import contextlib
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lepton_core.cli._command import command, option
from lepton_core.cli._types import DURATION, SIZE, TargetType, pairs
from lepton_core.cli.store_commands import store_option

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from lepton_core.cli._app import App
    from lepton_core.context import Context
    from lepton_core.types import Model

EMBEDDED = "embedded"


def engine_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add what the commands of deployment engines share."""
    for add in (
        option("--mem-limit", group="Limits", type=SIZE, help="Memory for each worker."),
        option("--time-limit", group="Limits", type=DURATION, help="Time for each worker's job."),
        store_option,
        option(
            "--option",
            "options",
            multiple=True,
            metavar="KEY=VALUE",
            help="Setting of the engine; may be repeated.",
        ),
        option("--engine", default="embedded", help="Engine that does it."),
    ):
        function = add(function)
    return function


class EngineWork:
    """One run of a verb.

    Args:
        app: Output.
        verb: The verb; its engine is looked for before anything else is done.
        given: Options that the commands share; they are taken out.
    """

    def __init__(self, app: App, verb: str, given: dict[str, Any]) -> None:
        from lepton_core.types import Limits

        self.app = app
        self.hooks = app.hooks()
        self.place: Path | None = given.pop("place")
        self.limits = Limits(given.pop("time_limit"), given.pop("mem_limit"))
        self.options = pairs(given.pop("options"), "--option")
        self.engine: str = given.pop("engine")
        self.hooks.engine_owner(verb, self.engine)
        if self.engine == EMBEDDED and self.place is not None:
            self.options["store"] = str(self.place)

    @contextlib.contextmanager
    def context(self) -> Iterator[Context]:
        """Yield a context; another engine than ours finds its state in its workdir."""
        from lepton_core.context import Context
        from lepton_core.files import disk_errors
        from lepton_core.store import default_path

        with self.app.reporter() as reporter, contextlib.ExitStack() as cleanup:
            if self.engine == EMBEDDED:
                scratch = tempfile.TemporaryDirectory(prefix="lepton-")
                home = Path(cleanup.enter_context(scratch))
            else:
                home = self.place or default_path() / "engines" / self.engine
                with disk_errors(str(home)):
                    home.mkdir(parents=True, exist_ok=True)
            yield Context(home.absolute(), reporter=reporter, limits=self.limits)

    def set_deploy_options(self, settings: dict[str, Any], given: dict[str, Any]) -> None:
        """Pass on to the engine what was given, under the engine's own names."""
        if self.engine == EMBEDDED and given["kind"] == "bundle" and settings["out"] is None:
            settings["out"] = given["name"]
        names = {"data": "samples"}
        for key, value in settings.items():
            if value:
                path = str(Path(value).absolute()) if key == "out" else value
                self.options[names.get(key, key)] = path

    def target(self, text: str) -> str:
        """Return the id of a target that can be used."""
        from lepton_core.types import Target

        target = Target.parse(text)
        self.hooks.registry.target(target.id)
        return target.id

    def load(self, text: str | None, name: str) -> Model:
        """Return the named model, or a handle on the deployment's own."""
        from lepton_core import api
        from lepton_core.built import find_built
        from lepton_core.context import Context
        from lepton_core.types import Model

        if text is None:
            return Model("deployment", name)
        built = find_built(text)
        if built is not None:
            return built.model
        with tempfile.TemporaryDirectory(prefix="lepton-") as scratch:
            return api.load(text, context=Context(Path(scratch), limits=self.limits))

    def show(self, result: Any, text: str) -> None:  # noqa: ANN401 - the verb's result
        """Print the result."""
        from lepton_core.codec import to_data

        if self.app.json:
            self.app.emit({"ok": True, **to_data(result)})
        else:
            self.app.line(text)


@command(
    "deploy",
    examples="""
    lepton deploy lepton-out/onnxruntime/fp16 --name digits --to onnxruntime
    lepton deploy lepton-out/onnxruntime/fp16 --name digits --to onnxruntime --alias production
    # a directory to ship, with golden pairs and a loading snippet
    lepton deploy lepton-out/onnxruntime/fp16 --name digits --to onnxruntime --kind bundle
    # what production runs, lowered by the same recipe for another target
    lepton deploy digits@production --name digits-ov --to openvino
    """,
)
@click.argument("model")
@option("--name", required=True, help="Name of the deployment.")
@option("--to", "target", required=True, metavar="TARGET", type=TargetType(), help="Target.")
@option("--alias", help="Alias to point at the new version, such as production.")
@option(
    "--kind",
    type=click.Choice(["embedded", "bundle"]),
    default="embedded",
    help="Run in this program's process, or write a bundle to ship.",
)
@option("--out", metavar="DIR", help="Directory of the bundle; NAME by default.")
@option("--force", is_flag=True, show_default=False, help="Replace what is at --out.")
@option("--data", metavar="SAMPLES", help="Samples whose first rows become golden inputs.")
@option("--why", help="Reason, for the ledger.")
@engine_options
def deploy_command(app: App, model: str, *, target: str, **given: Any) -> int:  # noqa: ANN401
    """Put MODEL under a name, as a new version.

    The artifact is tried here first. `lepton store` shows versions, moves aliases, and goes back.

    MODEL may be a version of the store, NAME@ALIAS or NAME@VERSION: it goes on with its passport,
    recipe and golden pairs, or is lowered for another target by the recipe that it was made by.
    """
    from lepton_core.built import find_stored
    from lepton_core.types import DeployRequest

    settings = {key: given.pop(key) for key in ("out", "force", "data", "why")}
    work = EngineWork(app, "deploy", given)
    work.set_deploy_options(settings, given)
    name: str = given.pop("name")
    known = work.target(target)
    request = DeployRequest(
        name,
        # The store keeps the device with the version; other engines know targets alone.
        target if work.engine == EMBEDDED else known,
        engine=work.engine,
        options=work.options,
        **given,
    )
    with work.context() as context:
        result = work.hooks.deploy(find_stored(model) or work.load(model, name), request, context)
    work.show(result, f"{result.name} version {result.version}: {result.location}")
    return 0


__all__ = ["EMBEDDED", "EngineWork", "deploy_command", "engine_options"]
