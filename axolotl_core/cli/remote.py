"""The objects that dvc.lock names, and which of them a DVC remote really holds.

DVC remembers what a remote holds: where it once saw a folder's list there, it takes the folder's files for granted. A push that
was killed can leave the list without the files, and the next one ends with status 0. So here the remote itself is asked, object
by object.
"""

import hashlib
import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from axolotl_core.errors import ArtifactError, MachineError, ParamsError, foreign
from axolotl_core.stages.graph import Step, makers
from axolotl_core.stages.plan import Planned

LOCK = "dvc.lock"
OID = re.compile(r"[0-9a-f]{32}(\.dir)?")
AT_ONCE = 16
"""Questions to a remote at once."""


@dataclass(frozen=True)
class Objects:
    """Objects by their md5, each with the out that it belongs to. unknown: folders whose list is not on this machine."""

    paths: Mapping[str, str]
    unknown: Mapping[str, str]


def outs_of(root: Path) -> dict[str, str]:
    """Out → md5 (with `.dir` for a folder), as dvc.lock has them. Raises ParamsError where there is no lock, or a damaged one."""
    return {path: oid for outs in outs_by_stage(root).values() for path, oid in outs.items()}


def outs_by_stage(root: Path) -> dict[str, dict[str, str]]:
    """Name of a step → its outs as above."""
    try:
        stages = YAML(typ="safe", pure=True).load((root / LOCK).read_text(encoding="utf-8"))["stages"]
        return {str(name): {str(out["path"]): _checked(out["md5"]) for out in stage.get("outs", ())} for name, stage in stages.items()}
    except FileNotFoundError:
        raise ParamsError(f"{LOCK}: no such file; `dvc repro` writes it, and git carries it") from None
    except (YAMLError, ValueError, KeyError, TypeError, AttributeError, OSError) as error:
        raise ParamsError(f"{LOCK}: is damaged ({type(error).__name__}); `git checkout {LOCK}` brings it back") from None


def _checked(oid: Any) -> str:
    """The name of an object, which is part of a path. Raises ValueError for another text: it could lead anywhere."""
    if OID.fullmatch(str(oid)) is None:
        raise ValueError(f"got the object '{oid}', wanted an md5")
    return str(oid)


def objects_of(outs: Mapping[str, str], cache: Any) -> Objects:
    """cache: DVC's object database on this machine, which has the lists of folders."""
    paths, unknown = {}, {}
    for path, oid in outs.items():
        paths[oid] = path
        if oid.endswith(".dir"):
            try:
                entries = json.loads(Path(cache.oid_to_path(oid)).read_text(encoding="utf-8"))
                paths |= {_checked(entry["md5"]): f"{path}/{entry['relpath']}" for entry in entries}
            except (OSError, ValueError, KeyError, TypeError):
                unknown[oid] = path
    return Objects(paths, unknown)


def lacking(remote: Any, cache: Any, oids: Iterable[str]) -> list[str]:
    """Which objects a remote has not, or not as long as they are here."""

    def is_there(oid: str) -> bool:
        here = Path(cache.oid_to_path(oid))
        try:
            size = remote.fs.info(remote.oid_to_path(oid))["size"]
        except FileNotFoundError:
            return False
        return not here.is_file() or size == here.stat().st_size

    ordered = list(oids)
    with ThreadPoolExecutor(AT_ONCE) as pool:
        there = list(pool.map(is_there, ordered))
    return [oid for oid, found in zip(ordered, there, strict=True) if not found]


def damaged(cache: Any, oids: Iterable[str]) -> list[str]:
    """Which objects of the cache are not what their names say."""
    found = []
    for oid in oids:
        file = Path(cache.oid_to_path(oid))
        if file.is_file():
            with file.open("rb") as opened:
                found += [oid] if hashlib.file_digest(opened, "md5").hexdigest() != oid.removesuffix(".dir") else []
    return found


def send(remote: Any, cache: Any, oids: Iterable[str]) -> None:
    """Upload objects of the cache, whatever DVC remembers of the remote."""
    for oid in oids:
        if os.path.isfile(path := cache.oid_to_path(oid)):
            if remote.fs.exists(target := remote.oid_to_path(oid)):
                remote.fs.remove(target)  # it is shorter than it should be
            remote.add(path, cache.fs, oid, check_exists=False)


def open_remote(root: Path, name: str | None) -> tuple[Any, Any]:
    """DVC's remote and cache of a project. Raises ParamsError where it has none, MachineError where DVC cannot open it."""
    from dvc.exceptions import DvcException
    from dvc.repo import Repo

    try:
        repo = Repo(str(root))
        return repo.cloud.get_remote_odb(name), repo.cache.local
    except DvcException as error:
        message = " ".join(str(error).split())
        if "no remote" in message or "not found" in message or "doesn't exist" in message:
            raise ParamsError(f"no such remote: {message}; `dvc remote add --default store s3://…` makes one") from None
        raise MachineError(f"DVC cannot open the remote: {message}") from None


def names_of(oids: Iterable[str], objects: Objects) -> str:
    """`artifacts/raw/faq, artifacts/base and 3 more`."""
    paths = sorted({objects.paths[oid] for oid in oids})
    more = f" and {len(paths) - 3:,} more" if len(paths) > 3 else ""
    return ", ".join(paths[:3]) + more


def unreachable(message: str) -> ArtifactError:
    return ArtifactError(f"the remote cannot be asked ({message}); nothing is known of what it holds, try again")


def obtainable(root: Path, plan: Sequence[Planned], remote: str | None = None) -> dict[str, str]:
    """Step → where DVC has its result as params.yaml and the data ask for it, `dvc-cache` or `remote`; others are left out.

    plan: of all steps. The remote is asked once for each object that is not here, and is never listed; one that cannot be asked holds
    nothing.
    """
    if not (root / ".dvc").is_dir() or not (root / LOCK).is_file():
        return {}
    from dvc.exceptions import DvcException
    from dvc.repo import Repo

    try:
        repo = Repo(str(root))
        fresh = _fresh(repo.status(), plan)
    except DvcException:
        return {}
    outs, cache = outs_by_stage(root), repo.cache.local
    names = [planned.step.name for planned in plan if planned.state != "up-to-date" and not planned.kept and planned.step in fresh]
    objects = {name: objects_of(outs[name], cache) for name in names if name in outs}
    absent = {name: [oid for oid in of.paths if not Path(cache.oid_to_path(oid)).is_file()] for name, of in objects.items()}
    found = {name: "dvc-cache" for name, oids in absent.items() if not oids and not objects[name].unknown}
    if len(found) < len(objects):
        try:
            there, _ = open_remote(root, remote)
            with foreign(unreachable):
                for name, of in objects.items():
                    absent[name] += [oid for folder in of.unknown for oid in _listed(there, folder)]
                lacks = set(lacking(there, cache, dict.fromkeys(oid for oids in absent.values() for oid in oids)))
        except (ParamsError, MachineError, ArtifactError):
            return found
        found |= {name: "remote" for name, oids in absent.items() if name not in found and not lacks.intersection(oids)}
    return found


def _listed(remote: Any, folder: str) -> list[str]:
    """The objects of a folder by the list that the remote holds; the folder itself where it holds none."""
    try:
        with remote.fs.open(remote.oid_to_path(folder)) as file:
            return [_checked(entry["md5"]) for entry in json.load(file)]
    except FileNotFoundError:
        return [folder]


def _fresh(status: Mapping[str, list[Any]], plan: Sequence[Planned]) -> set[Step]:
    """Steps that dvc.lock is right about, in all that can be told: what is only not here has not changed.

    DVC does not watch the folder of a base model, so what the plan knows of files, options and revisions counts too.
    """
    fresh: set[Step] = set()
    datasets = {planned.step.dataset for planned in plan if planned.step.dataset}
    for planned in plan:
        changes = status.get(planned.step.name, [])
        deps = [state for change in changes if isinstance(change, dict) for state in change.get("changed deps", {}).values()]
        as_locked = all(isinstance(change, dict) for change in changes) and set(map(str, deps)) <= {"deleted"}
        changed = any(cause.kind in ("option", "file", "revision") for cause in planned.because)
        if as_locked and not changed and fresh.issuperset(makers(planned.step, datasets)):
            fresh.add(planned.step)
    return fresh
