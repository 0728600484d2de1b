"""`axolotl` without the six seconds in which a cold start imports torch and transformers: forked from a process that has imported them.

    tests, dvc   →   bin/axolotl (the client below)      →   the server of this session   →   a fork, in which `main` runs
    torchrun     →   ranks/python (the same for a rank)  →

It is the same command with the same arguments, folder, environment, streams and exit status; a signal to the client goes on to it, and it
is killed where the client is. With another environment than that of the server, which libraries read as they are imported, and where
there is no server, the client is the command that a user has.
"""

import atexit
import contextlib
import gc
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import threading
import types
from pathlib import Path
from tempfile import gettempdir

FOLDER = Path(gettempdir()) / f"axolotl-warm-{os.getpid()}"
COLD = Path(sysconfig.get_path("scripts")) / "axolotl"
PRELOADED = ("axolotl_core.stages.train", "axolotl_core.stages.evaluate", "axolotl_core.stages.merge", "axolotl_core.cli.stage_")
OF_OTHERS = ("PYTEST_", "TORCHINDUCTOR_", "PYTORCH_", "DVC_", "PWD", "OLDPWD", "SHLVL", "LINES=", "COLUMNS=", "PS1=", "_=")
"""Variables that pytest, torch, dvc and shells set for themselves, which no library reads as it is imported."""
OF_TORCHRUN = ("RANK=", "WORLD_SIZE=", "LOCAL_", "GROUP_", "ROLE_", "MASTER_", "TORCHELASTIC_", "TORCH_NCCL_")
"""Those by which torchrun tells a process which one it is."""
RANK = ["-P", "-m", "axolotl_core.stages.train"]
"""Arguments of Python for a rank, before its own."""
CLIENT = f"""#!{sys.executable} -IS
import json, os, signal, socket, sys

def ours(variables):
    return {{name: value for name, value in variables.items() if not f"{{name}}=".startswith(OF_OTHERS)}}

def cold():
    os.execv(COLD, [COLD, *sys.argv[1:]])

arguments = sys.argv[1:]
if RANK:
    if arguments[: len(RANK)] != RANK:
        cold()
    arguments = ["stage", "train", "--only", *arguments[len(RANK) :]]
try:
    with open({str(FOLDER / "environment")!r}) as file:
        if json.load(file) != ours(os.environ):
            cold()
    server = socket.socket(socket.AF_UNIX)
    server.connect({str(FOLDER / "socket")!r})
except OSError:
    cold()
job = json.dumps([arguments, os.getcwd(), dict(os.environ)]).encode()
socket.send_fds(server, [len(job).to_bytes(4, "big")], [0, 1, 2])
server.sendall(job)
told = server.makefile()
pid = told.readline() or cold()

def send(number, _):
    try:
        os.kill(int(pid), number)
    except ProcessLookupError:
        pass

for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
    signal.signal(number, send)
status = told.readline()
if not status:
    os.kill(os.getpid(), signal.SIGKILL)
os._exit(int(status))
"""


def install() -> None:
    """Put the client before the command on the PATH."""
    shutil.rmtree(FOLDER, ignore_errors=True)  # of a process of this number that was killed
    atexit.register(shutil.rmtree, FOLDER, ignore_errors=True)
    head, rest = CLIENT.split("\n", 1)
    for name, cold, others, rank in (
        ("bin/axolotl", str(COLD), OF_OTHERS, []),
        ("ranks/python", sys.executable, (*OF_OTHERS, *OF_TORCHRUN), RANK),
    ):
        client = FOLDER / name
        client.parent.mkdir(parents=True)
        client.write_text(f"{head}\nCOLD, OF_OTHERS, RANK = {cold!r}, {others!r}, {rank!r}\n{rest}", encoding="utf-8")
        client.chmod(0o755)
    os.environ["PATH"] = f"{FOLDER / 'bin'}{os.pathsep}{os.environ['PATH']}"


def start() -> None:
    """Start the server, once; it ends with this process."""
    if (FOLDER / "socket").exists():
        return
    variables = {name: value for name, value in os.environ.items() if not f"{name}=".startswith(OF_OTHERS)}
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(FOLDER / "socket"))
    listener.listen(64)  # a client waits while torch is imported
    (FOLDER / "environment").write_text(json.dumps(variables), encoding="utf-8")
    number, root = listener.fileno(), Path(__file__).parent.parent
    command = [sys.executable, "-c", f"from tests.warm import serve; serve({number}, {str(FOLDER)!r})"]
    server = subprocess.Popen(command, cwd=root, stdin=subprocess.PIPE, pass_fds=[number])
    listener.close()
    atexit.register(server.kill)


def serve(number: int, folder: str) -> None:
    """A fork for each client. number: of the socket; folder: with the clients."""
    for name in PRELOADED:
        __import__(name)
    gc.freeze()
    threading.Thread(target=_end_with_parent, daemon=True).start()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    listener = socket.socket(fileno=number)
    while True:
        client, _ = listener.accept()
        if not os.fork():
            listener.close()
            _run(client, folder)
        client.close()


def _end_with_parent() -> None:
    os.read(0, 1)
    os._exit(0)


def _run(client: socket.socket, folder: str) -> None:
    """In the fork."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    size, streams, _, _ = socket.recv_fds(client, 4, 3)
    told = client.makefile("r")
    arguments, current, variables = json.loads(told.read(int.from_bytes(size, "big")))
    os.chdir(current)
    os.environ.clear()
    os.environ.update(variables)
    for own, given in enumerate(streams):
        os.dup2(given, own)
        os.close(given)
    sys.stdin, sys.stdout, sys.stderr = (os.fdopen(own, mode, closefd=False) for own, mode in enumerate("rww"))
    sys.argv = [str(COLD), *arguments]
    sys.executable = f"{folder}/ranks/python"  # which torchrun starts
    sys.modules["__main__"] = types.ModuleType("__main__")  # not that of the server, which workers of this process would import
    client.sendall(f"{os.getpid()}\n".encode())
    threading.Thread(target=_end_with_client, args=(client,), daemon=True).start()
    from axolotl_core.cli.main import main

    status = 1
    try:
        main()
    except SystemExit as error:
        status = error.code if isinstance(error.code, int) else int(error.code is not None)
    except BaseException:
        sys.excepthook(*sys.exc_info())
    threading._shutdown()
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError):
            stream.flush()
    client.sendall(f"{status}\n".encode())
    os._exit(status)


def _end_with_client(client: socket.socket) -> None:
    client.recv(1)
    os.kill(os.getpid(), signal.SIGKILL)
