"""axolotl pull"""

import subprocess
from pathlib import Path

import click

from axolotl_core.cli.project import DVC, open_project, params_options
from axolotl_core.cli.remote import damaged, lacking, objects_of, open_remote, outs_of, unreachable
from axolotl_core.errors import ArtifactError, foreign
from axolotl_core.params.params import Params
from axolotl_core.stages.build import keep
from axolotl_core.stages.graph import ARTIFACTS, Step, chosen, makers, steps
from axolotl_core.stages.job import Project
from axolotl_core.stages.survey import damage, made_by
from axolotl_core.terminal import say


@click.command("pull")
@params_options
@click.argument("name", required=False)
@click.option("--remote", "-r", metavar="REMOTE", help="Which remote; unset: the default one.")
def command(params: Path, overrides: tuple[str, ...], name: str | None, remote: str | None) -> None:
    """Bring results of the team here, and check that they are complete.

    With the NAME of a stage: what that stage reads, and nothing else. What is damaged is thrown away and brought once more. The
    status is 0 when all of it is here and complete.

    \b
    axolotl pull              all that dvc.lock names
    axolotl pull train        tokens, packed rows, tokenizer: for a GPU box that needs no raw data
    """
    project, config = open_project(params, overrides)
    outs = outs_of(project.root)
    every = steps(config.datasets)
    wanted = _read_by(config, name) if name else every
    paths = sorted(path for step in wanted for path in _files(step) if path in outs)
    if not paths:
        raise ArtifactError(f"dvc.lock names nothing that {name or 'a stage'} reads; `git pull` brings the lock of who made it")
    _pull(project.root, paths, remote)
    if bad := _wrong(project, wanted, outs):
        there, cache = open_remote(project.root, remote)
        oids = objects_of({path: outs[path] for path in bad if path in outs}, cache).paths
        with foreign(unreachable):
            rotten = damaged(cache, oids)
            gone = lacking(there, cache, rotten)
        if gone:
            path, message = next(iter(bad.items()))
            raise ArtifactError(f"{path}: {message}; and the remote has not got it complete either, `axolotl push` where it was made")
        for oid in rotten:  # what is whole stays
            Path(cache.oid_to_path(oid)).unlink()
        _pull(project.root, [path for path in sorted(bad) if path in outs], remote)
        if bad := _wrong(project, wanted, outs):
            path, message = next(iter(bad.items()))
            raise ArtifactError(f"{path}: the remote's copy is damaged too ({message}); `axolotl push` where it was made")
    for step in wanted:
        if (made := made_by(project, step)) and f"{ARTIFACTS}/{step.output}" in outs:
            keep(project, step, made.record)
    say(f"{len(paths):,} outs are here and complete")


def _read_by(params: Params, name: str) -> list[Step]:
    return list(dict.fromkeys(maker for step in chosen(name, params.datasets) for maker in makers(step, params.datasets)))


def _files(step: Step) -> list[str]:
    return [f"{ARTIFACTS}/{path}" for path in (step.output, step.key_file, *step.also)]


def _pull(root: Path, paths: list[str], remote: str | None) -> None:
    named = ["--remote", remote] if remote else []
    done = subprocess.run([*DVC, "pull", "--force", *named, *paths], cwd=root, check=False)
    if done.returncode:
        raise ArtifactError("dvc pull did not bring all of it, as said above; `axolotl push` where it was made sends what is missing")


def _wrong(project: Project, wanted: list[Step], outs: dict[str, str]) -> dict[str, str]:
    """Out → what is wrong with it."""
    found = {}
    for step in wanted:
        if f"{ARTIFACTS}/{step.output}" not in outs:
            continue
        made = made_by(project, step)
        wrong = damage(project, step, made) if made else {step.key_file: "is missing or damaged"}
        found |= {f"{ARTIFACTS}/{path}": reason for path, reason in wrong.items()}
    return found
