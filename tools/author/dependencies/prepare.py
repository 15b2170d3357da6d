"""Prepare a folder for its deploy: check it, build what it depends on, and pack it."""

import asyncio
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from libs.docker_runner.settings import IMAGES
from tools.author.checks import check_code
from tools.author.dependencies.environment import build_environment
from tools.author.dependencies.plan import (
    MODULES,
    VENDOR,
    compile_step,
    compiled_name,
    esbuild_step,
    packages_step,
    typescript,
)
from tools.author.findings import refuse
from tools.bots.errors import BotFolderInvalid
from tools.bots.folder import BotFolder
from tools.bots.package import Package, pack
from tools.debian.packages import Report
from tools.engine.ensure import ensure_engine
from tools.engine.errors import EngineMissingError
from tools.toolchains.packages import cache_folder


async def prepared(
    folder: BotFolder, images: Mapping[str, str], report: Report, *, build: bool = True
) -> tuple[BotFolder, Package]:
    """Return *folder* as it is deployed, and its package.

    Args:
        images: by runtime; in which the bot runs, and its dependencies are built.
        build: False to use the `vendor` or `node_modules` that is there.

    Raises:
        BotFolderInvalid: the folder is refused, or its dependencies cannot be built; with the remedy.
        EngineMissingError, ImageFailedError, BuildUnavailable: something is to be built, and there is no engine.
    """
    if not build and (scripts := typescript(folder)):
        raise BotFolderInvalid(
            f"{folder.path}: --no-build does not compile {scripts[0]}; name the JavaScript file in `entrypoints`"
        )
    packages = packages_step(folder) if build else None
    built = {VENDOR, MODULES} if packages is not None else set()
    refuse(await asyncio.to_thread(check_code, folder, built))
    compiling = compile_step(folder) if build else None
    if packages is None and compiling is None:
        return folder, await asyncio.to_thread(pack, folder.path)
    # Imported when they are needed: the SDK of the engine is slow to import.
    from tools.author.dependencies.build import Builder
    from tools.images.ensure import ensure_images

    try:
        engine = await ensure_engine(report)
    except EngineMissingError as error:
        what = packages.what if packages is not None else "JavaScript from TypeScript"
        raise EngineMissingError(f"{error}. It is needed to build {what}; --no-build builds nothing") from error
    image = images[str(folder.description["runtime"])]
    if image in IMAGES.values():
        await ensure_images(engine, report)
    builder = Builder(engine.url, image, cache_folder(os.environ) / "bots", build_environment(), report)
    overlays: dict[str, Path] = {}
    if packages is not None:
        output = await builder.output(packages)
        overlays |= {name: output / name for name in (VENDOR, MODULES) if (output / name).is_dir()}
    compiler = esbuild_step(folder)
    if compiling is not None and compiler is not None:
        output = await builder.output(compiling, await builder.output(compiler))
        overlays |= {path.relative_to(output).as_posix(): path for path in output.rglob("*") if path.is_file()}
        entrypoints = {name: compiled_name(script) for name, script in folder.description["entrypoints"].items()}
        folder = replace(folder, description={**folder.description, "entrypoints": entrypoints})
    return folder, await asyncio.to_thread(pack, folder.path, overlays)
