"""axolotl push and pull: the remote ends whole whatever was killed, and what comes from it is whole or named.

The real dvc, a folder, and a real S3 server.
"""

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from axolotl_core.cli.remote import objects_of, outs_of
from tests.conftest import ALPACA, PARAMS, TALKS, write_jsonl

SERVER = """
import logging
logging.disable(logging.CRITICAL)
from moto.server import ThreadedMotoServer
server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
server.start()
print(server.get_host_and_port()[1], flush=True)
import time
time.sleep(1000)
"""


def dvc(folder: Path, *arguments: str) -> str:
    done = subprocess.run([sys.executable, "-m", "dvc", *arguments], cwd=folder, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, f"{arguments}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="session")
def prepared(tmp_path_factory: pytest.TempPathFactory, model_folder: Path) -> Path:
    """A project under git and dvc whose pack has run."""
    folder = tmp_path_factory.mktemp("prepared") / "project"
    (folder / "data").mkdir(parents=True)
    shutil.copytree(model_folder, folder / "model")
    (folder / "params.yaml").write_text(PARAMS)
    (folder / "data" / "talks.json").write_text(json.dumps(TALKS))
    write_jsonl(folder / "data" / "sums.jsonl", ALPACA)
    subprocess.run(["git", "init", "--quiet"], cwd=folder, check=True)
    dvc(folder, "init", "--quiet")
    (folder / ".dvcignore").write_text(".axolotl/\n")
    subprocess.run(["axolotl", "upgrade"], cwd=folder, check=True, capture_output=True)
    dvc(folder, "repro", "pack")
    return folder


@pytest.fixture
def team(prepared: Path, tmp_path: Path) -> Path:
    return shutil.copytree(prepared, tmp_path / "team")


Listing = Callable[[], set[str]]


@pytest.fixture
def folder_remote(team: Path, tmp_path_factory) -> Listing:
    bucket = tmp_path_factory.mktemp("bucket")
    dvc(team, "remote", "add", "--default", "store", str(bucket))
    return lambda: {"".join(path.parts[-2:]) for path in bucket.glob("files/md5/*/*") if len("".join(path.parts[-2:])) >= 32}


@pytest.fixture
def s3_remote(team: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Listing]:
    for name, value in {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b", "AWS_DEFAULT_REGION": "us-east-1"}.items():
        monkeypatch.setenv(name, value)
    with subprocess.Popen([sys.executable, "-c", SERVER], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as server:
        assert server.stdout is not None
        url = f"http://127.0.0.1:{server.stdout.readline().strip()}"
        import boto3

        client = boto3.client("s3", endpoint_url=url)
        client.create_bucket(Bucket="bucket")
        dvc(team, "remote", "add", "--default", "store", "s3://bucket/axolotl")
        dvc(team, "remote", "modify", "store", "endpointurl", url)

        def listed() -> set[str]:
            found = client.list_objects_v2(Bucket="bucket", Prefix="axolotl/files/md5/").get("Contents", [])
            return {"".join(entry["Key"].split("/")[-2:]) for entry in found}

        yield listed
        client.close()
        server.kill()


def wanted(team: Path) -> set[str]:
    """What the lock names, from the lists in the local cache."""

    class Cache:
        def oid_to_path(self, oid: str) -> str:
            return str(team / ".dvc" / "cache" / "files" / "md5" / oid[:2] / oid[2:])

    return set(objects_of(outs_of(team), Cache()).paths)


def killed_pushes(team: Path, listed: Listing, kills: int) -> None:
    draw = random.Random(5)
    for k in range(kills):
        push = subprocess.Popen(["axolotl", "push"], cwd=team, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
        before, deadline = len(listed()), time.monotonic() + draw.uniform(1.0, 4.0)
        while push.poll() is None and time.monotonic() < deadline and len(listed()) <= before + k % 3:
            time.sleep(0.01)
        os.killpg(push.pid, signal.SIGKILL) if push.poll() is None else None
        push.wait()


@pytest.mark.parametrize("kind", ["folder_remote", "s3_remote"])
def test_after_ten_kills_the_remote_ends_whole(team: Path, kind: str, request: pytest.FixtureRequest, axolotl):
    listed = request.getfixturevalue(kind)
    killed_pushes(team, listed, 10)
    told = axolotl("push", cwd=team).stdout
    assert f"the remote holds all {len(wanted(team))} objects that dvc.lock names" in told
    assert listed() >= wanted(team)


def test_what_dvc_takes_for_granted_is_sent_all_the_same(team: Path, folder_remote: Listing, axolotl):
    """DVC has seen the lists of all folders in the remote; their files go missing, and one is cut short."""
    axolotl("push", cwd=team)
    bucket = Path(next(line for line in dvc(team, "remote", "list").splitlines()).split()[1])
    files = sorted(path for path in bucket.glob("files/md5/*/*") if path.suffix != ".dir")
    for path in files[1:]:
        path.unlink()
    files[0].chmod(0o644)
    files[0].write_bytes(files[0].read_bytes()[:-1])
    dvc(team, "push")
    assert not listed_whole(team, folder_remote, bucket), "DVC says that all is well"
    told = axolotl("push", cwd=team).stdout
    assert re.search(rf"\d+ of {len(wanted(team))} objects were not there all the same and are sent again", told)
    assert listed_whole(team, folder_remote, bucket)


def listed_whole(team: Path, listed: Listing, bucket: Path) -> bool:
    cache = team / ".dvc" / "cache" / "files" / "md5"
    sizes = [(bucket / "files" / "md5" / oid[:2] / oid[2:]).stat().st_size for oid in wanted(team) & listed()]
    return listed() >= wanted(team) and sizes == [(cache / oid[:2] / oid[2:]).stat().st_size for oid in wanted(team) & listed()]


def clone(team: Path, to: Path) -> Path:
    """What a team-mate has: the repository, and none of the results."""
    shutil.copytree(team, to, ignore=shutil.ignore_patterns("artifacts", ".axolotl", "cache", "tmp"))
    return to


def test_pull_brings_what_a_stage_reads_and_mends_what_is_damaged(team: Path, folder_remote: Listing, tmp_path_factory, axolotl):
    axolotl("push", cwd=team)
    mate = clone(team, tmp_path_factory.mktemp("mate") / "project")
    told = axolotl("pull", "train", cwd=mate).stdout
    assert "outs are here and complete" in told
    have = {path.name for path in (mate / "artifacts").iterdir()}
    assert {"packed", "tokens", "tokenizer", "keys"} <= have
    assert "raw" not in have
    part = mate / "artifacts" / "tokens" / "sums" / "part-00000.arrow"
    (oid,) = (path for path in (mate / ".dvc" / "cache").rglob("*") if path.is_file() and path.read_bytes() == part.read_bytes())
    for damaged in (oid, part):
        damaged.chmod(0o644)
        damaged.write_bytes(damaged.read_bytes()[:-1] + b"x")
    axolotl("pull", "train", cwd=mate)
    assert part.read_bytes() == (team / "artifacts" / "tokens" / "sums" / "part-00000.arrow").read_bytes()
    axolotl("pull", cwd=mate)
    assert (mate / "artifacts" / "raw" / "sums" / "manifest.json").is_file()
    assert "Running" not in dvc(mate, "repro", "pack")


def test_what_the_remote_cannot_give_is_named(team: Path, folder_remote: Listing, tmp_path_factory, axolotl):
    axolotl("push", cwd=team)
    bucket = Path(dvc(team, "remote", "list").split()[1])
    part = (team / "artifacts" / "tokens" / "sums" / "part-00000.arrow").read_bytes()
    (theirs,) = (path for path in bucket.rglob("*") if path.is_file() and path.read_bytes() == part)
    theirs.chmod(0o644)
    theirs.write_bytes(part[:-1] + b"x")
    mate = clone(team, tmp_path_factory.mktemp("mate") / "project")
    assert "artifacts/tokens/sums: the remote's copy is damaged too" in axolotl("pull", "train", cwd=mate, status=1).stderr
    theirs.unlink()
    mate = clone(team, tmp_path_factory.mktemp("mate") / "project")
    assert "dvc pull did not bring all of it" in axolotl("pull", "train", cwd=mate, status=1).stderr


def test_a_project_without_a_lock_or_a_remote_is_told(team: Path, axolotl):
    assert "axolotl: no such remote" in axolotl("push", cwd=team, status=2).stderr
    (team / "dvc.lock").write_text("stages: [")
    assert axolotl("push", cwd=team, status=2).stderr.startswith("axolotl: dvc.lock: is damaged")
    (team / "dvc.lock").unlink()
    assert axolotl("push", cwd=team, status=2).stderr == "axolotl: dvc.lock: no such file; `dvc repro` writes it, and git carries it\n"
