"""axolotl push"""

import subprocess
from pathlib import Path

import click

from axolotl_core.cli.project import DVC
from axolotl_core.cli.remote import lacking, names_of, objects_of, open_remote, outs_of, send, unreachable
from axolotl_core.errors import ArtifactError, foreign
from axolotl_core.terminal import say, warn


@click.command("push")
@click.option("--remote", "-r", metavar="NAME", help="Which remote; unset: the default one.")
def command(remote: str | None) -> None:
    """Send results to the team's remote, and see that they are there.

    `dvc push --run-cache`, and then each object that dvc.lock names is asked for; what is not there is sent once more. The
    status is 0 when the remote holds all of them.

    \b
    axolotl push
    """
    root = Path.cwd()
    outs = outs_of(root)
    there, cache = open_remote(root, remote)
    named = ["--remote", remote] if remote else []
    pushed = subprocess.run([*DVC, "push", "--run-cache", *named], cwd=root, check=False).returncode
    if pushed:
        warn("dvc push did not end well; what the remote lacks is looked at now")
    objects = objects_of(outs, cache)
    with foreign(unreachable):
        lacks = lacking(there, cache, objects.paths)
        if lacks:
            say(f"{len(lacks):,} of {len(objects.paths):,} objects were not there all the same and are sent again")
            send(there, cache, lacks)
            lacks = lacking(there, cache, lacks)
    if lacks:
        here = [oid for oid in lacks if Path(cache.oid_to_path(oid)).is_file()]
        why = "could not be sent" if here else "are not on this machine either; push them where they were made"
        raise ArtifactError(f"the remote lacks {len(lacks):,} of {len(objects.paths):,} objects, which {why}: {names_of(lacks, objects)}")
    if objects.unknown:
        paths = ", ".join(sorted(objects.unknown.values())[:3])
        warn(f"of {len(objects.unknown):,} folders only the list could be looked at, not their files, for they are not here: {paths}")
    say(f"the remote holds all {len(objects.paths):,} objects that dvc.lock names")
