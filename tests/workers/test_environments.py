"""Environments for real: packages installed by pip into environments that are made once, and what goes wrong with that."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import sys
import time
import zipfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from trunkline.environments import environment_key, interpreter_of, without_credentials
from trunkline.errors import InvalidInputError
from trunkline.sdk import Client
from trunkline.sdk.work import FINAL
from trunkline.testing.server import ServerHarness, running_server
from trunkline.workers.environments.process import remove_unused

pytestmark = pytest.mark.slow

WAIT_SECONDS = 90.0


def make_wheel(folder: Path, name: str, version: str, code: str) -> None:
    """A wheel of one module, without any build tool."""
    folder.mkdir(exist_ok=True)
    info = f"{name}-{version}.dist-info"
    with zipfile.ZipFile(folder / f"{name}-{version}-py3-none-any.whl", "w") as archive:
        archive.writestr(f"{name}.py", code)
        archive.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        archive.writestr(
            f"{info}/WHEEL",
            "Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        )
        archive.writestr(f"{info}/entry_points.txt", f"[console_scripts]\n{name}-tool = {name}:main\n")
        archive.writestr(f"{info}/RECORD", "")


@pytest.fixture
def wheels(tmp_path: Path) -> Path:
    folder = tmp_path / "wheels"
    make_wheel(
        folder,
        "shout",
        "1.0",
        "def up(text):\n    return text.upper() + '!'\ndef main():\n    print('tool 1.0')\n",
    )
    make_wheel(
        folder,
        "shout",
        "2.0",
        "def up(text):\n    return text.upper() + '!!'\ndef main():\n    print('tool 2.0')\n",
    )
    return folder


def lines_for(wheels: Path, *wanted: str) -> str:
    return "\n".join(["--no-index", f"--find-links {wheels}", *wanted]) + "\n"


@pytest.fixture
def server(tmp_path: Path, wheels: Path) -> Iterator[ServerHarness]:
    (tmp_path / "home").mkdir(mode=0o700)
    (tmp_path / "shout.txt").write_text(lines_for(wheels, "shout==1.0"))
    (tmp_path / "home" / "trunkline.toml").write_text(
        f'[environments."own/shout:1"]\nrequirements = "{tmp_path / "shout.txt"}"\n'
    )
    with running_server(tmp_path / "home", settings={"TRUNKLINE_WORKER_IDLE_SECONDS": "1"}) as harness:
        harness.client().create_repo("texts")
        yield harness


SHOUT = """
import os, pathlib, subprocess, sys
import shout, trunkline
source = pathlib.Path(os.environ["texts"])
tool = subprocess.run(["shout-tool"], capture_output=True, text=True, check=True).stdout
pathlib.Path("/pfs/out", source.name).write_text(shout.up(source.read_text()) + " " + tool.strip() + " " + sys.prefix)
"""


def create(client: Client, folder: Path, code: dict[str, str], **transform: Any) -> None:
    (folder / "src").mkdir(parents=True, exist_ok=True)
    for name, text in code.items():
        (folder / "src" / name).write_text(text)
    spec = {
        "pipeline": {"name": "shouts"}, "input": {"pfs": {"repo": "texts", "glob": "/*"}}, "datum_tries": 2,
        "transform": {"cmd": ["python", "shouting.py"], "code": "src", **transform}, "parallelism_spec": {"constant": 2},
    }  # fmt: skip
    client.create_pipeline(spec, folder=folder, update=True)


def put(client: Client, **files: str) -> str:
    return client.put_files("texts@master", [(name, text.encode()) for name, text in files.items()]).id


def job_of(client: Client, commit: str) -> Any:
    deadline = time.monotonic() + WAIT_SECONDS
    while True:
        if client.list_jobs("shouts") and (job := client.inspect_job(f"shouts@{commit}")).status in FINAL:
            return job
        assert time.monotonic() < deadline, log_of(client, commit)
        time.sleep(0.1)


def output(client: Client, commit: str, name: str) -> str:
    with client.get_file(f"shouts@{commit}:/{name}") as stream:
        return stream.read().decode()


def log_of(client: Client, commit: str) -> list[str]:
    return [line["text"] for line in client.pipeline_logs("shouts", job=commit)]


def test_a_file_in_the_code_folder_is_installed_once_and_seen_below_other_packages(
    server: ServerHarness, tmp_path: Path, wheels: Path
) -> None:
    client = server.client()
    code = {"shouting.py": SHOUT, "requirements.txt": lines_for(wheels, "shout==1.0")}
    create(client, tmp_path, code, requirements="requirements.txt")
    first = put(client, a="ah", b="be", c="see", d="dee")
    job = job_of(client, first)
    assert job.status == "succeeded", (job.reason, log_of(client, first))
    text, _, prefix = output(client, first, "a").rpartition(" ")
    assert text == "AH! tool 1.0"
    environments = sorted((server.home / "environments").iterdir())
    assert [one.name for one in environments if one.is_dir()] == [Path(prefix).name]
    log = log_of(client, first)
    assert sum(line.startswith("making the Python environment") for line in log) == 1  # by two workers

    second = put(client, e="eh")  # nothing is made again, nothing is done again
    assert job_of(client, second).status == "succeeded"
    assert output(client, second, "e").startswith("EH! tool 1.0 ")
    assert not any("making" in line for line in log_of(client, second))

    create(
        client,
        tmp_path,
        {"requirements.txt": lines_for(wheels, "shout==2.0")},
        requirements="requirements.txt",
    )
    third = client.inspect_branch("shouts@master").head
    assert third is not None
    assert job_of(client, third).status == "succeeded"
    assert {output(client, third, name)[:5] for name in "abcde"} == {
        "AH!! ",
        "BE!! ",
        "SEE!!",
        "DEE!!",
        "EH!! ",
    }
    ready = json.loads(
        (next(one for one in (server.home / "environments").glob("*/trunkline.json"))).read_text()
    )
    assert ready["python"] == interpreter_of(None).name


def test_an_image_that_the_settings_map_to_requirements(server: ServerHarness, tmp_path: Path) -> None:
    client = server.client()
    create(client, tmp_path, {"shouting.py": SHOUT}, image="own/shout:1")
    commit = put(client, a="ah")
    assert job_of(client, commit).status == "succeeded", log_of(client, commit)
    assert output(client, commit, "a").startswith("AH! tool 1.0 ")


def test_what_cannot_be_installed_is_said_in_one_line_and_tried_once(
    server: ServerHarness, tmp_path: Path, wheels: Path
) -> None:
    client = server.client()
    secret = "--extra-index-url http://user:hunter2@127.0.0.1:9/simple\n"
    code = {"shouting.py": SHOUT, "requirements.txt": secret + lines_for(wheels, "shout==9.9")}
    create(client, tmp_path, code, requirements="requirements.txt")
    commit = put(client, a="ah", b="be", c="see")
    job = job_of(client, commit)
    assert job.status == "failed"
    reasons = {datum.reason for datum in client.list_datums(f"shouts@{commit}")}
    assert len(reasons) == 1
    (reason,) = reasons
    assert (
        reason is not None
        and "No matching distribution found for shout==9.9" in reason
        and "\n" not in reason
    )
    log = log_of(client, commit)
    assert sum(line.startswith("making the Python environment") for line in log) == 1
    assert "hunter2" not in "\n".join(log) + reason
    files = [one for one in (server.home / "environments").rglob("*") if one.is_file()]
    assert not any("hunter2" in one.read_text() for one in files)
    assert not any(one.is_dir() for one in (server.home / "environments").iterdir())


def test_a_package_that_looks_around_while_it_is_built_sees_nothing(
    server: ServerHarness, tmp_path: Path
) -> None:
    client = server.client()
    nosy = tmp_path / "src" / "nosy"
    nosy.mkdir(parents=True)
    (nosy / "setup.py").write_text(
        "import os, pathlib, setuptools\n"
        f"home = pathlib.Path({str(server.home)!r})\n"
        "assert not (home / 'token').exists() and not (home / 'trunkline.db').exists(), 'it sees the data directory'\n"
        "assert not [name for name in os.environ if 'TOKEN' in name], 'it has a token'\n"
        "setuptools.setup(name='nosy', version='1', py_modules=['nosy'])\n"
    )
    (nosy / "nosy.py").write_text("SEEN = 'nothing'\n")
    main = "import nosy, pathlib\npathlib.Path('/pfs/out/seen').write_text(nosy.SEEN)\n"
    create(
        client,
        tmp_path,
        {"shouting.py": main, "requirements.txt": "./nosy\n"},
        requirements="requirements.txt",
    )
    commit = put(client, a="ah")
    job = job_of(client, commit)
    if job.status == "failed" and "setuptools" in str(job.reason) + "".join(log_of(client, commit)):
        pytest.skip("setuptools, with which pip builds, cannot be downloaded here")
    assert job.status == "succeeded", log_of(client, commit)
    assert output(client, commit, "seen") == "nothing"


def test_an_experiment_gets_the_packages_of_its_image(server: ServerHarness, tmp_path: Path) -> None:
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "train.py").write_text("import shout; print(shout.up('packages are here'))")
    config = {
        "name": "shouts", "entrypoint": "python train.py", "environment": {"image": "own/shout:1"}, "max_restarts": 0,
        "searcher": {"name": "single", "metric": "loss", "max_length": {"batches": 1}},
    }  # fmt: skip
    client = server.client()
    made = client.create_experiment(config, tmp_path / "code")
    client.wait_experiment(made.id)
    (trial,) = client.list_trials(made.id)
    lines = [line["text"] for line in client.trial_logs(trial.id)]
    assert "PACKAGES ARE HERE!" in lines, lines


@pytest.mark.parametrize(
    ("transform", "code", "message"),
    [
        ({"requirements": "r.txt"}, {"r.txt": "-e .\n"}, "it has an editable install"),
        (
            {"requirements": "r.txt"},
            {"r.txt": "-r other.txt\n"},
            "requirements other.txt: there is no such file",
        ),
    ],
)
def test_bad_requirements_are_named(
    server: ServerHarness, tmp_path: Path, transform: dict[str, str], code: dict[str, str], message: str
) -> None:
    client = server.client()
    create(client, tmp_path, {"shouting.py": SHOUT, **code}, **transform)
    commit = put(client, a="ah")
    assert job_of(client, commit).status == "failed"
    assert message in str(client.list_datums(f"shouts@{commit}")[0].reason)


def test_requirements_that_are_not_there_are_refused(server: ServerHarness, tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match=r"there is no file 'no.txt' in the folder of transform.code"):
        create(server.client(), tmp_path, {"shouting.py": SHOUT}, requirements="no.txt")


def test_a_worker_killed_while_it_makes_one_leaves_nothing_half_made(
    server: ServerHarness, tmp_path: Path
) -> None:
    client = server.client()
    slow = tmp_path / "src" / "slow"
    slow.mkdir(parents=True)
    started = tmp_path / "started"
    (slow / "setup.py").write_text(
        f"import os, pathlib, time\nmarker = pathlib.Path({str(started)!r})\n"
        "if not marker.exists():\n    marker.write_text('x'); time.sleep(600)\n"
        "import setuptools; setuptools.setup(name='slow', version='1', py_modules=['slow'])\n"
    )
    (slow / "slow.py").write_text("")
    main = "import slow, pathlib\npathlib.Path('/pfs/out/seen').write_text('yes')\n"
    create(
        client,
        tmp_path,
        {"shouting.py": main, "requirements.txt": "./slow\n"},
        requirements="requirements.txt",
    )
    commit = put(client, a="ah")
    deadline = time.monotonic() + 60
    while not started.exists():
        if client.inspect_job(f"shouts@{commit}").status == "failed":
            pytest.skip("setuptools, with which pip builds, cannot be downloaded here")
        assert time.monotonic() < deadline, log_of(client, commit)
        time.sleep(0.05)
    assert kill_workers(server) >= 1
    assert job_of(client, commit).status == "succeeded", log_of(client, commit)
    assert output(client, commit, "seen") == "yes"


def kill_workers(server: ServerHarness) -> int:
    """Kill the workers of a server; returns how many there were."""
    killed = 0
    for folder in Path("/proc").iterdir():
        with suppress(OSError):
            is_ours = folder.name.isdigit() and str(server.home) in (folder / "environ").read_text(
                errors="replace"
            )
            if is_ours and b"trunkline.workers.main" in (folder / "cmdline").read_bytes():
                os.kill(int(folder.name), signal.SIGKILL)
                killed += 1
    return killed


# --- without a server ---


def test_the_key_names_what_decides_and_nothing_secret() -> None:
    base = "numpy==1\n# why\n\n"
    assert environment_key("cpython-3.11", base) == environment_key("cpython-3.11", "numpy==1")
    assert environment_key("cpython-3.11", base) != environment_key("cpython-3.12", base)
    assert environment_key("cpython-3.11", base) != environment_key("cpython-3.11", "numpy==2")
    secret = "--index-url https://me:{}@host/simple\nnumpy==1"
    assert environment_key("p", secret.format("one")) == environment_key("p", secret.format("two"))
    assert without_credentials(secret.format("one")) == "--index-url https://host/simple\nnumpy==1"


def test_another_python_tells_of_itself() -> None:
    asked, own = interpreter_of(sys.executable), interpreter_of(None)
    assert (asked.name, asked.prefix) == (own.name, own.prefix)
    assert {one for one in own.paths if one.endswith("site-packages")} <= set(asked.paths)


def test_only_what_is_unused_for_long_is_removed(tmp_path: Path) -> None:
    folder = tmp_path / "environments"
    for name, days in (("old", 40), ("used", 40), ("new", 1)):
        (folder / name).mkdir(parents=True)
        (folder / name / "trunkline.json").write_text("{}")
        (folder / f"{name}.lock").write_text("")
        os.utime(folder / name / "trunkline.json", (time.time() - days * 86400,) * 2)
    with (folder / "used.lock").open() as held:
        fcntl.flock(held, fcntl.LOCK_SH)
        assert remove_unused(tmp_path, 30 * 86400) == ["old"]
    assert sorted(one.name for one in folder.iterdir() if one.is_dir()) == ["new", "used"]
