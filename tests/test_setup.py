"""scripts/setup.sh as train.sh and test.sh use it, on a copy of the scripts with stand-ins for Python and pip."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# All that the scripts and the stand-ins may call; what is optional may be absent.
TOOLS = [
    "awk",
    "bash",
    "cat",
    "cp",
    "cut",
    "df",
    "dirname",
    "env",
    "find",
    "grep",
    "ln",
    "ls",
    "mkdir",
    "mv",
    "ps",
    "readlink",
    "rm",
    "sleep",
    "tail",
    "touch",
    "tr",
]
OPTIONAL_TOOLS = ["nproc", "getconf", "uname"]

# Stands for python3 on PATH and, copied there, for .venv/bin/python with its pip.
PYTHON = r"""#!/bin/sh
[ -f "$0.version" ] && version=$(cat "$0.version") || version='@VERSION@'
echo "$*" >>"$STUB_CALLS"
case "$*" in
  *"import ensurepip"*) echo "$version" ;;
  "-m venv "*)
    for venv; do :; done
    mkdir -p "$venv/bin" "$venv/lib/python${version% *}/site-packages"
    cp "$0" "$venv/bin/python"
    echo "$version" >"$venv/bin/python.version"
    ;;
  "-m ensurepip"*) : ;;
  "-m pip --version") echo "pip 1" ;;
  *"import csv"*) exec "$STUB_REAL_PYTHON" "$@" ;;
  "-m pip install"*)
    env >"$STUB_CALLS.environment"
    . "$STUB_PIP"
    { echo '#!/bin/sh'; echo 'pwd'; echo 'printf "<%s>\n" "$@"'; } >"${0%/*}/gan-lab"
    chmod +x "${0%/*}/gan-lab"
    echo "Successfully installed gan_lab"
    ;;
  "-m pytest"*) echo "OMP_NUM_THREADS=$OMP_NUM_THREADS"; printf '<%s>\n' "$@" ;;
  *) echo "unexpected: $*" >&2; exit 99 ;;
esac
"""


class Checkout:
    """A copy of the scripts, with a PATH that has nothing but the tools they may use and the stand-ins."""

    def __init__(self, folder):
        self.folder = folder
        self.root = folder / "a checkout"
        self.tools = folder / "tools"
        self.calls_file = folder / "calls"
        self.pip = folder / "pip.sh"
        for name in ("home", "temporary", "tools", "elsewhere"):
            (folder / name).mkdir()
        (self.root / "scripts").mkdir(parents=True)
        for name in ("setup.sh", "train.sh", "test.sh"):
            shutil.copy(ROOT / "scripts" / name, self.root / "scripts" / name)
        shutil.copy(ROOT / "pyproject.toml", self.root)
        for tool in TOOLS + OPTIONAL_TOOLS:
            path = shutil.which(tool)
            assert path or tool in OPTIONAL_TOOLS, tool
            if path:
                (self.tools / tool).symlink_to(path)
        self.tool("df", 'echo Filesystem; echo "disk 1 1 50000000 1% /"')
        self.tool("chmod", f'exec {shutil.which("chmod")} "$@"')
        self.python("python3", "3.11 ok")
        self.pip.write_text("")
        self.environment = {
            "PATH": str(self.tools),
            "HOME": str(folder / "home"),
            "TMPDIR": str(folder / "temporary"),
            "STUB_CALLS": str(self.calls_file),
            "STUB_PIP": str(self.pip),
            "STUB_REAL_PYTHON": sys.executable,
        }

    def tool(self, name, script):
        path = self.tools / name
        path.unlink(missing_ok=True)
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)

    def python(self, name, version):
        path = self.tools / name
        path.write_text(PYTHON.replace("@VERSION@", version))
        path.chmod(0o755)

    def start(self, *command, **environment):
        script = command[0] if isinstance(command[0], Path) else self.root / "scripts" / command[0]
        return subprocess.Popen(
            # A test run in the background ignores Ctrl-C, and its children with it; a user's shell does not.
            [sys.executable, "-c", RESET_INTERRUPT, str(script), *command[1:]],
            cwd=self.folder / "elsewhere",
            env=self.environment | environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *command, **environment):
        """The exit status, and the lines of stdout and stderr."""
        process = self.start(*command, **environment)
        out, err = process.communicate(timeout=60)
        return process.returncode, out.splitlines(), err.splitlines()

    def calls(self):
        """What was called of Python since the last look."""
        calls = self.calls_file.read_text() if self.calls_file.exists() else ""
        self.calls_file.unlink(missing_ok=True)
        return calls

    def set_up(self, script="train.sh"):
        status, _, err = self.run(script)
        assert status == 0, err
        assert "-m pip install" in self.calls()

    def edit(self, old, new):
        path = self.root / "pyproject.toml"
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new))


RESET_INTERRUPT = """
import os, signal, sys
signal.signal(signal.SIGINT, signal.SIG_DFL)
os.execv(sys.argv[1], sys.argv[1:])
"""


@pytest.fixture
def checkout(tmp_path):
    return Checkout(tmp_path)


def wait_for(condition):
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end, "waited 30 s in vain"
        time.sleep(0.02)


# ---------------------------------------------------------------- what is run in the end


def test_train_without_arguments_runs_the_quickstart_in_the_checkout(checkout):
    assert checkout.run("train.sh")[:2] == (0, [str(checkout.root), "<train>", "<experiment=quickstart>"])


def test_arguments_pass_unchanged_through_a_symbolic_link(checkout):
    link = checkout.folder / "elsewhere" / "link to train"
    link.symlink_to(os.path.relpath(checkout.root / "scripts" / "train.sh", link.parent))
    arguments = ["a=b c", 'x={y: "z"}', "", "*", "-m"]
    expected = [str(checkout.root), "<train>", *(f"<{argument}>" for argument in arguments)]
    assert checkout.run(link, *arguments)[:2] == (0, expected)


@pytest.mark.parametrize(
    ("cores", "arguments", "processes"),
    [
        (4, [], "4"),
        (64, [], "8"),
        (1, [], "0"),
        (4, ["tests/test_a.py::test_b"], "0"),
        (4, ["--pdb"], "0"),
        (4, ["-k", "a b"], "4"),
    ],
)
def test_test_runs_pytest_with_one_process_a_core(checkout, cores, arguments, processes):
    checkout.tool("nproc", f"echo {cores}")
    expected = ["OMP_NUM_THREADS=1", "<-m>", "<pytest>", "<-n>", f"<{processes}>", *(f"<{a}>" for a in arguments)]
    assert checkout.run("test.sh", *arguments)[:2] == (0, expected)


# ---------------------------------------------------------------- when it sets up


def test_says_one_line_before_and_one_after(checkout):
    status, _, err = checkout.run("train.sh")
    assert status == 0
    assert len(err) == 2
    assert err[0].startswith("Setting up .venv with Python 3.11 (once")
    assert err[1].startswith(".venv is ready (Python 3.11, ")
    calls = checkout.calls()
    assert calls.count("-m pip install") == 1
    assert calls.endswith(" -e .\n")


def test_second_call_starts_neither_pip_nor_python_and_says_nothing(checkout):
    checkout.set_up()
    status, _, err = checkout.run("train.sh")
    assert (status, err, checkout.calls()) == (0, [], "")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"torch>=2.6"', '"torch>=2.7"'),
        ("dependencies = [", 'dependencies = [\n  "another",'),
        ('"hatchling>=1.26"]\nbuild', '"hatchling>=1.27"]\nbuild'),
        ('"pytest>=8.0"', '"pytest>=8.1"'),
        ('"gan_lab.cli:main"', '"gan_lab.cli:other"'),
    ],
)
def test_changed_dependencies_are_installed(checkout, old, new):
    checkout.set_up()
    checkout.edit(old, new)
    status, _, err = checkout.run("train.sh")
    calls = checkout.calls()
    assert status == 0
    assert err[0].startswith("Updating .venv: the dependencies in pyproject.toml changed")
    assert "-m pip install" in calls
    assert "-m venv" not in calls
    assert checkout.run("train.sh")[2] == []


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("description = ", "description = 'other' # "),
        ("line-length = 120", "line-length = 100"),
        ('  "torch>=2.6",', '  # a comment\n\n  "torch>=2.6", # another'),
        ("\n", "\r\n"),
    ],
)
def test_other_changes_of_pyproject_install_nothing(checkout, old, new):
    checkout.set_up()
    checkout.edit(old, new)
    assert (checkout.run("train.sh")[0], checkout.calls()) == (0, "")


def test_test_adds_its_packages_and_train_needs_none_of_them_again(checkout):
    checkout.set_up("train.sh")
    status, _, err = checkout.run("test.sh")
    assert status == 0
    assert err[0].startswith("Updating .venv: adding the packages for tests")
    assert " -e .[test]\n" in checkout.calls()
    assert (checkout.run("train.sh")[0], checkout.calls()) == (0, "")
    assert checkout.run("test.sh")[2] == []


def test_moved_checkout_is_set_up_anew(checkout):
    checkout.set_up()
    checkout.root = checkout.root.rename(checkout.folder / "moved")
    status, out, err = checkout.run("train.sh")
    assert (status, out[0]) == (0, str(checkout.root))
    assert "anew, as the checkout moved" in err[0]
    assert "-m venv" in checkout.calls()


def test_upgraded_interpreter_of_the_same_version_needs_no_pip(checkout):
    checkout.set_up()
    python = checkout.root / ".venv/bin/python"
    shutil.copy(python, python.with_name("new"))  # another file, so another inode
    python.with_name("new").replace(python)
    assert checkout.run("train.sh")[::2] == (0, [])
    assert "-m" not in checkout.calls()
    assert (checkout.run("train.sh")[0], checkout.calls()) == (0, "")


@pytest.mark.parametrize("change", ["other version", "gone"])
def test_changed_interpreter_is_set_up_anew(checkout, change):
    checkout.set_up()
    python = checkout.root / ".venv/bin/python"
    if change == "gone":
        python.unlink()
        python.symlink_to(checkout.folder / "nowhere")
    else:
        python.with_name("python.version").write_text("3.12 ok")
        shutil.copy(python, python.with_name("new"))
        python.with_name("new").replace(python)
    status, _, err = checkout.run("train.sh")
    assert status == 0
    assert "anew, as its Python changed" in err[0]
    assert "-m venv" in checkout.calls()


def test_environment_made_by_hand_is_kept(checkout):
    environment = checkout.environment | {"STUB_CALLS": "/dev/null"}
    subprocess.run([checkout.tools / "python3", "-m", "venv", checkout.root / ".venv"], check=True, env=environment)
    status, _, err = checkout.run("train.sh")
    assert status == 0
    assert err[0].startswith("Updating .venv: installing the project and what it lacks")
    assert "-m venv" not in checkout.calls()


# ---------------------------------------------------------------- which Python


def test_first_fitting_python_is_taken(checkout):
    checkout.python("python3", "3.14 ok")
    checkout.python("python3.12", "3.12 no-venv")
    checkout.python("python3.13", "3.13 ok")
    status, _, err = checkout.run("train.sh")
    assert status == 0
    assert err[0].startswith("Setting up .venv with Python 3.13 ")


def test_environment_variable_chooses_python_and_a_change_of_it_makes_venv_anew(checkout):
    checkout.python("python3.12", "3.12 ok")
    assert checkout.run("train.sh", PYTHON="python3.12")[2][0].startswith("Setting up .venv with Python 3.12 ")
    assert checkout.run("train.sh", PYTHON="python3.12")[2] == []
    assert checkout.run("train.sh")[2] == []
    assert "Python 3.11 anew, as its Python changed" in checkout.run("train.sh", PYTHON="python3")[2][0]


def test_activated_environment_is_not_made_from_itself(checkout):
    checkout.set_up()
    venv = checkout.root / ".venv"
    (venv / "bin/python").rename(venv / "bin/python3")  # runs still, but .venv is broken
    status, _, err = checkout.run("train.sh", PATH=f"{venv}/bin:{checkout.tools}", PYTHON=f"{venv}/bin/python3")
    assert status == 0
    assert err[0].startswith("Setting up .venv with Python 3.11")
    assert (venv / "bin/python").exists()


@pytest.mark.parametrize(
    ("pythons", "environment", "said"),
    [
        ({}, {}, "no python3 on PATH"),
        ({"python3": "3.9 ok", "python3.12": "3.14 ok"}, {}, "python3 is 3.9, python3.12 is 3.14"),
        ({"python3": "2.7 no-venv"}, {}, "python3 is 2.7"),
        ({"python3": "3.11 no-venv"}, {}, "python3.11-venv"),
        ({"python3": "3.11 ok", "python3.9": "3.9 ok"}, {"PYTHON": "python3.9"}, "PYTHON=python3.9 is no Python"),
        ({"python3": "3.11 ok"}, {"PYTHON": "/nowhere"}, "PYTHON=/nowhere is no Python"),
    ],
    ids=["none", "old and new", "two", "no venv", "variable", "variable to nowhere"],
)
def test_wrong_python_is_one_sentence_and_exit_2(checkout, pythons, environment, said):
    (checkout.tools / "python3").unlink()
    for name, version in pythons.items():
        checkout.python(name, version)
    status, out, err = checkout.run("train.sh", "a=1", **environment)
    assert (status, out, len(err)) == (2, [], 1)
    assert said in err[0]
    assert "3.1" in err[0]


# ---------------------------------------------------------------- failures

BUILD_FAILED = """
  error: subprocess-exited-with-error
  x pip subprocess to install build dependencies did not run successfully.
      {}
      ERROR: Could not find a version that satisfies the requirement hatchling>=1.26 (from versions: none)
      ERROR: No matching distribution found for hatchling>=1.26
error: subprocess-exited-with-error
note: This error originates from a subprocess, and is likely not a problem with pip."""
RETRY = "WARNING: Retrying (Retry(total={}, connect=None)) after connection broken by '{}': /hatchling/"
NO_NAME = "NewConnectionError: Failed to establish a new connection: [Errno -3] Temporary failure in name resolution"
FULL = "ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device"
TRACEBACK = "Traceback (most recent call last):\n  File x\n"


@pytest.mark.parametrize(
    ("output", "said"),
    [
        (BUILD_FAILED.format(RETRY.format(0, NO_NAME)), "No network: "),
        (RETRY.format(0, "ConnectTimeoutError('timed out')") + "\nERROR: No matching distribution", "No network: "),
        (TRACEBACK + "ERROR: HTTPSConnectionPool(host='h'): Read timed out.", "No network: "),
        ("ERROR: Could not install: SSLError(CERTIFICATE_VERIFY_FAILED)", "certificate"),
        (FULL, "is full or nearly full (47.7 GB free; set-up needs about 9 GB)"),
        (TRACEBACK + "OSError: [Errno 28] No space left on device", "is full or nearly full"),
        # A retry that worked is not what went wrong.
        (RETRY.format(4, NO_NAME) + "\nERROR: No matching distribution found for torch>=99", "torch>=99 (the full log"),
        (TRACEBACK + "ValueError: odd", "pip failed: ValueError: odd (the full log is"),
    ],
    ids=["name", "time-out", "read", "certificate", "disk", "disk in a traceback", "retried", "other"],
)
def test_failure_of_pip_is_one_sentence_and_exit_1(checkout, output, said):
    checkout.folder.joinpath("output").write_text(output)
    checkout.pip.write_text(f"cat '{checkout.folder}/output'; exit 1")
    status, out, err = checkout.run("train.sh")
    assert (status, out, len(err)) == (1, [], 2)
    assert err[0].startswith("Setting up")
    assert said in err[1]
    assert "Traceback" not in err[1]
    assert output.splitlines()[-1] in (checkout.root / ".venv/setup.log").read_text()
    checkout.pip.write_text("")
    assert checkout.run("train.sh")[0] == 0


def test_too_little_space_is_said_before_anything_is_made(checkout):
    checkout.tool("df", 'echo Filesystem; echo "disk 1 1 1000000 1% /"')
    status, _, err = checkout.run("train.sh")
    assert (status, len(err)) == (1, 1)
    assert "(976 MB free; set-up needs about 9 GB)" in err[0]
    assert "-m venv" not in checkout.calls()


def test_little_space_is_a_warning(checkout):
    checkout.tool("df", 'echo Filesystem; echo "disk 1 1 5000000 1% /"')
    status, _, err = checkout.run("train.sh")
    assert status == 0
    assert err[0].startswith("Warning: 4.8 GB free")


def test_checkout_that_cannot_be_written_is_one_sentence(checkout):
    checkout.tool("mkdir", "echo 'mkdir: Read-only file system' >&2; exit 1")
    status, _, err = checkout.run("train.sh")
    assert (status, len(err)) == (1, 1)
    assert err[0].startswith(f"Cannot write to {checkout.root}: ")


def test_failed_update_without_network_leaves_the_old_state_usable(checkout):
    checkout.set_up()
    checkout.pip.write_text("echo 'ERROR: Connection refused'; exit 1")
    assert checkout.run("test.sh")[0] == 1
    checkout.calls()
    assert (checkout.run("train.sh")[0], checkout.calls()) == (0, "")


# ---------------------------------------------------------------- interruptions and several at once


def slow_pip(checkout):
    checkout.pip.write_text("echo 'Installing collected packages: a'; touch \"$STUB_PIP.started\"; sleep 60")
    return checkout.folder / "pip.sh.started"


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_interrupted_set_up_is_repaired_by_the_next_call(checkout, number, status):
    started = slow_pip(checkout)
    process = checkout.start("train.sh")
    wait_for(started.exists)
    pip = int((checkout.root / ".venv/setup.pid").read_text())
    process.send_signal(number)
    _, err = process.communicate(timeout=30)
    assert process.returncode == status
    assert err.splitlines()[1:] == ["Set-up interrupted: the next call repairs it."]
    with pytest.raises(ProcessLookupError):
        os.kill(pip, 0)
    assert not list((checkout.root / ".venv").glob("setup.[lpt]*k"))

    site = checkout.root / ".venv/lib/python3.11/site-packages"
    for name, written in (("whole", "1234"), ("cut", "12"), ("unrecorded", "1234")):
        (site / f"{name}-1.dist-info").mkdir()
        (site / f"{name}.py").write_text(written)
        if name != "unrecorded":
            record = f"{name}.py,sha256=x,4\n{name}-1.dist-info/RECORD,,\n__pycache__/{name}.pyc,,\n"
            (site / f"{name}-1.dist-info/RECORD").write_text(record)
    (site / "~ut").mkdir()
    checkout.pip.write_text("")
    status, _, err = checkout.run("train.sh")
    assert status == 0
    assert err[0].startswith("Updating .venv: repairing an interrupted set-up")
    assert "-m pip install" in checkout.calls()
    assert sorted(path.name for path in site.glob("*-info")) == ["whole-1.dist-info"]
    assert not (site / "~ut").exists()
    assert checkout.run("train.sh")[2] == []


def test_interrupted_update_is_repaired_even_where_what_was_there_would_do(checkout):
    checkout.set_up("train.sh")
    started = slow_pip(checkout)
    process = checkout.start("test.sh")
    wait_for(started.exists)
    process.terminate()
    process.communicate(timeout=30)
    checkout.pip.write_text("")
    assert checkout.run("train.sh")[2][0].startswith("Updating .venv: repairing an interrupted set-up")


def test_interrupted_making_of_the_environment_is_done_anew(checkout):
    (checkout.root / ".venv/bin").mkdir(parents=True)
    (checkout.root / ".venv/bin/left").touch()
    (checkout.root / ".venv/setup.creating").touch()
    status, _, err = checkout.run("train.sh")
    assert status == 0
    assert "anew, as an earlier set-up was cut short" in err[0]
    assert not (checkout.root / ".venv/bin/left").exists()


def test_pip_of_a_killed_script_is_waited_for(checkout):
    started = slow_pip(checkout)
    first = checkout.start("train.sh")
    wait_for(started.exists)
    first.kill()
    first.communicate(timeout=30)
    pip = int((checkout.root / ".venv/setup.pid").read_text())
    checkout.pip.write_text("")
    second = checkout.start("train.sh")
    assert second.stderr.readline().startswith("Waiting for another set-up")
    os.killpg(pip, signal.SIGKILL)
    _, err = second.communicate(timeout=30)
    assert (second.returncode, err.splitlines()[0][:13]) == (0, "Updating .ven")


def test_two_calls_at_once_install_once(checkout):
    checkout.pip.write_text("sleep 1")
    processes = [checkout.start("train.sh", str(number)) for number in range(3)]
    outputs = [process.communicate(timeout=60) for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0], outputs
    assert [out.splitlines()[-1] for out, _ in outputs] == ["<0>", "<1>", "<2>"]
    assert checkout.calls().count("-m pip install") == 1


def test_lock_of_a_dead_process_is_taken_over(checkout):
    dead = subprocess.Popen(["true"])
    dead.wait()
    name = subprocess.run(["bash", "-c", 'printf %s "$HOSTNAME"'], capture_output=True, text=True, check=True).stdout
    (checkout.root / ".venv").mkdir()
    (checkout.root / ".venv/setup.lock").symlink_to(f"{dead.pid}@{name}")
    status, _, err = checkout.run("train.sh")
    assert status == 0
    assert err[0].startswith("Setting up")


# ---------------------------------------------------------------- nothing outside the checkout


def test_nothing_is_written_outside_and_the_settings_of_pip_are_kept(checkout):
    settings = {"PIP_INDEX_URL": "file:///index", "PIP_USER": "1", "PIP_TARGET": "/nowhere", "PYTHONPATH": "/nowhere"}
    checkout.pip.write_text('touch "$TMPDIR/left"')
    before = sorted(checkout.folder.iterdir())
    assert checkout.run("train.sh", **settings)[0] == 0
    assert "--no-cache-dir" in checkout.calls()
    lines = (checkout.folder / "calls.environment").read_text().splitlines()
    seen = dict(line.split("=", 1) for line in lines if "=" in line)
    (checkout.folder / "calls.environment").unlink()
    assert sorted(checkout.folder.iterdir()) == before
    assert [list((checkout.folder / name).iterdir()) for name in ("home", "temporary", "elsewhere")] == [[], [], []]
    assert sorted(path.name for path in checkout.root.iterdir()) == [".venv", "pyproject.toml", "scripts"]
    assert not (checkout.root / ".venv/setup.tmp").exists()
    assert seen["TMPDIR"] == f"{checkout.root}/.venv/setup.tmp"
    assert seen["PIP_INDEX_URL"] == "file:///index"
    assert seen["PIP_USER"] == "0"
    assert seen["PYTHONNOUSERSITE"] == "1"
    assert not {"PIP_TARGET", "PYTHONPATH"} & set(seen)
